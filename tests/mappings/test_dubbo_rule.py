"""Rules of Dubbo that several tools write: ours is merged in and taken out, and the others' part stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Rejected
from mappings.dubbo_rule import Service, merged, out_by

PAY = Service("com.acme.Pay", "1.0.0", "g1")
ADMIN = b"""# what dubbo-admin wrote
configVersion: v2.7
scope: service
key: g1/com.acme.Pay:1.0.0
enabled: true
configs:
- addresses: [0.0.0.0]
  side: provider
  parameters: {timeout: 1000, release: 1.10, mask: 0600, on: yes}
"""


def consumer(content: bytes | None, address: str, weight: int = 100) -> int:
    """The weight that a consumer has for a provider: as ConfigParser and AbstractConfigurator of Dubbo apply a rule."""
    rule: dict[str, Any] = yaml.safe_load(content or b"") or {}
    for item in (rule.get("configs") or []) if rule.get("enabled", True) else []:
        providers = item.get("providerAddresses") or [address]
        if item.get("side") == "consumer" and address in providers and "weight" in item["parameters"]:
            weight = int(item["parameters"]["weight"])
    return weight


def test_a_rule_of_its_own_says_what_consumers_read() -> None:
    assert PAY.node == "com.acme.Pay:1.0.0:g1.configurators"
    assert Service("com.acme.Pay").node == "com.acme.Pay::.configurators"
    made = merged(None, PAY, "b1", ["192.0.2.1:20880"])
    assert yaml.safe_load(made or b"") == {
        "configVersion": "v2.7",
        "scope": "service",
        "key": "g1/com.acme.Pay:1.0.0",
        "enabled": True,
        "configs": [
            {
                "side": "consumer",
                "addresses": ["0.0.0.0"],
                "providerAddresses": ["192.0.2.1:20880"],
                "parameters": {"weight": "0", "isthmus": "b1"},
            }
        ],
    }
    assert Service.of(PAY.node) == PAY


def test_what_others_wrote_keeps_every_value_as_it_is_spelled() -> None:
    made = merged(ADMIN, PAY, "b1", ["192.0.2.1:20880"])
    assert made is not None
    assert b"release: 1.10" in made and b"mask: 0600" in made and b"on: yes" in made
    assert (consumer(made, "192.0.2.1:20880"), consumer(made, "192.0.2.2:20880")) == (0, 100)


def test_another_bridge_has_its_own_item() -> None:
    first = merged(ADMIN, PAY, "b1", ["192.0.2.1:20880"])
    both = merged(first, PAY, "b2", ["192.0.2.2:20880"])
    assert out_by(both, "b1") == ["192.0.2.1:20880"] and out_by(both, "b2") == ["192.0.2.2:20880"]
    assert merged(both, PAY, "b2", []) == first


def test_ours_comes_after_a_weight_that_another_tool_says() -> None:
    theirs = merged(None, PAY, "x", ["192.0.2.1:20880"])
    assert theirs is not None
    heavy = theirs.replace(b'weight: "0"', b"weight: 300").replace(b"isthmus", b"tool")
    assert consumer(merged(heavy, PAY, "b1", ["192.0.2.1:20880"]), "192.0.2.1:20880") == 0


REFUSED = {
    "broken YAML": b"configs: [",
    "no mapping": b"- a",
    "switched off": ADMIN.replace(b"enabled: true", b"enabled: false"),
    "a list that is none": b"configs: {a: 1}",
    "an application's": ADMIN.replace(b"scope: service", b"scope: application"),
    "no key": ADMIN.replace(b"key: g1/com.acme.Pay:1.0.0\n", b""),
    "another key": ADMIN.replace(b"key: g1/com.acme.Pay:1.0.0", b"key: com.acme.Pay:1.0.0:g1"),
    "an item without parameters": ADMIN + b"- {side: provider, addresses: [0.0.0.0]}\n",
    "an item with none": ADMIN + b"- {side: provider, parameters: {}}\n",
    "an item with half a parameter": ADMIN + b"- {side: provider, parameters: {timeout: }}\n",
    "no UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_rule_that_ours_would_not_count_in_is_never_written_over(why: str) -> None:
    with pytest.raises(Rejected):
        merged(REFUSED[why], PAY, "b1", ["192.0.2.1:20880"])


@pytest.mark.parametrize("line", [b"enabled: true", b"key: g1/com.acme.Pay:1.0.0"])
def test_ours_counts_no_more_once_somebody_has_the_rule_ignored(line: bytes) -> None:
    made = merged(ADMIN, PAY, "b1", ["192.0.2.1:20880"]) or b""
    off = made.replace(line, line.replace(b"true", b"false").replace(b"key", b"was"))
    with pytest.raises(Rejected):
        merged(off, PAY, "b1", ["192.0.2.1:20880"])
    assert out_by(merged(off, PAY, "b1", []), "b1") == []


def test_a_service_whose_rule_nobody_has_seen_is_refused() -> None:
    for service in (Service("a", group="g/h"), Service("a", "1:2"), Service("a", group="*")):
        with pytest.raises(Rejected):
            _ = service.node


ADDRESSES = st.lists(st.integers(1, 250).map(lambda n: f"192.0.2.{n}:20880"), unique=True, max_size=5)
TEXTS = st.sampled_from(["1.10", "0600", "yes", "~", "a: b", "é", "2001-01-01", "#x", "0x1F", "1_000"])
ITEMS = st.lists(st.dictionaries(st.sampled_from(["weight", "timeout", "tag"]), TEXTS, min_size=1), max_size=4)


@settings(max_examples=40)
@given(ITEMS, ADDRESSES, ADDRESSES)
def test_whatever_we_said_between_nothing_of_it_is_left(
    items: list[dict[str, str]], first: list[str], then: list[str]
) -> None:
    configs = [{"side": "provider", "parameters": item} for item in items]
    content = yaml.safe_dump({"enabled": True, "key": PAY.key, "configs": configs}, sort_keys=False).encode()
    made = merged(content, PAY, "b1", first)
    assert out_by(made, "b1") == sorted(first)
    made = merged(made, PAY, "b1", then)
    assert out_by(made, "b1") == sorted(then)
    assert merged(made, PAY, "b1", then) == made  # asserting what is so already changes nothing
    left = merged(made, PAY, "b1", [])
    assert (yaml.compose(left or b"", Loader=yaml.SafeLoader) is None) == (left is None)
    if items:
        assert yaml.safe_load(left or b"") == yaml.safe_load(content)
