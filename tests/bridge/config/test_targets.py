"""What a link asks of its target that the target cannot do is a fault of the file, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import load as config
from bridge.errors import ConfigError

FILE = """\
bridge: {{id: b, state: ./state}}
registries:
  inventory: {{kind: file, path: ./inventory}}
  core: {{kind: etcd, endpoints: ["http://127.0.0.1:1"], layout: kratos}}
  dubbo: {{kind: zookeeper, hosts: ["127.0.0.1:1"], layout: dubbo2}}
  consul: {{kind: consul, address: "http://127.0.0.1:1", datacenters: [dc1]}}
  prod: {{kind: kubernetes, kubeconfig: ./kubeconfig}}
links:
  - {{name: one, policy: sync, services: {{include: ["*"]}}, {link}}}
"""


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        *(
            (
                f"from: core, to: {to}, lifetime: leased, ttl: 2h",
                f"isthmus.yaml:9: links[0].lifetime: {to} has no leases",
            )
            for to in ("inventory", "consul", "prod")
        ),
        ("from: inventory, to: core, unhealthy: mark", "isthmus.yaml:9: links[0].unhealthy: core has no health"),
        ("from: core, to: dubbo", "isthmus.yaml:9: links[0].to: core cannot be written to dubbo"),
    ],
)
def test_a_target_is_asked_only_for_what_it_can_do(tmp_path: Path, link: str, fault: str) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(FILE.format(link=link))
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert [text for text in raised.value.faults if fault in text]


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("from: [core, core/one], to: inventory", "core is all of its scopes, one among them; name one"),
        ("from: [core/one, core/one], to: inventory", "names a registry twice"),
        ("from: core/, to: inventory", "'core/' names no scope"),
        ("from: gone/one, to: inventory", "'gone' is no registry of this file"),
        ("from: core/one, to: core", "'core' is linked to itself"),
    ],
)
def test_an_item_of_from_is_a_registry_or_a_scope_of_one(tmp_path: Path, link: str, fault: str) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(FILE.format(link=link))
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert [text for text in raised.value.faults if fault in text]


def test_scopes_of_one_registry_may_be_items_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(FILE.replace("name: one, ", "").format(link="from: [core/two, core/one], to: inventory"))
    (only,) = config.load(path).links
    assert only.from_ == ("core/two", "core/one")
    assert only.name == "core-two-core-one-to-inventory"


BESIDE = """\
bridge: {{id: b, state: ./state}}
registries:
  one: {one}
  other: {other}
links:
  - {{name: link, from: one, to: other, policy: sync, services: {{include: ["*"]}}}}
"""
TWO_OF_A_KIND = [
    ("kind: consul, datacenters: [dc1]", 'address: "http://127.0.0.1:1"', 'address: "http://127.0.0.1:2"'),
    ("kind: eureka", 'urls: ["http://127.0.0.1:1/eureka"]', 'urls: ["http://127.0.0.1:2/eureka"]'),
    ("kind: kubernetes, kubeconfig: k", "context: one", "context: other"),
    ("kind: file", "path: one", "path: other"),
    ("kind: memory", "", ""),
]
ETCD, ZOOKEEPER = 'kind: etcd, endpoints: ["http://127.0.0.1:1"]', 'kind: zookeeper, hosts: ["127.0.0.1:1"]'


@pytest.mark.parametrize(
    ("one", "other", "fault"),
    [
        (f"{ETCD}, layout: go-zero", f"{ETCD}, layout: grpc", "go-zero dials whatever is below a service's key"),
        (f"{ETCD}, layout: go-zero, prefix: a/", f"{ETCD}, layout: grpc", "go-zero dials whatever is below"),
        (f"{ETCD}, layout: go-zero, prefix: a/", f"{ETCD}, layout: grpc, prefix: b/", ""),
        (f"{ETCD}, layout: go-zero", 'kind: etcd, endpoints: ["http://127.0.0.1:2"], layout: grpc', ""),
        (f"{ETCD}, layout: grpc, prefix: a/", f"{ETCD}, layout: grpc, prefix: b/", ""),
        (f"{ZOOKEEPER}, layout: curator", f"{ZOOKEEPER}, layout: spring", "fails the lookup of the whole service"),
        (f"{ZOOKEEPER}, layout: curator, root: /a", f"{ZOOKEEPER}, layout: spring", ""),
        *[(f"{block}, {one}", f"{block}, {other}", "") for block, one, other in TWO_OF_A_KIND],
    ],
)
def test_layouts_that_break_each_other_are_not_linked_in_one_place(
    tmp_path: Path, one: str, other: str, fault: str
) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(BESIDE.format(one="{" + one + "}", other="{" + other + "}"))
    if not fault:
        config.load(path)
        return
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    (text,) = raised.value.faults
    assert fault in text and "one cannot be written to other" in text
