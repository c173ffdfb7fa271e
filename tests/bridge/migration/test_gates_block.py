"""The block `gates`: what it may say, and every fault with its key and remedy."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.config.document import Document
from bridge.migration.gates import Gates, Prometheus

BLOCK = """\
parity: warn
hold_for: 10m
approve: [first, last]
prometheus:
  url: https://127.0.0.1:9090
  username: isthmus
  password_file: secrets/prometheus
  tls: {ca: ca.pem}
  scrape: 15s
  sides: {from: vm, to: k8s}
  requests: 'sum(increase(reqs{service="{{service}}", side="{{side}}"}[{{window}}]))'
  queries:
    - {name: errors, query: 'errors{side="{{ side }}"}', fail_above: 0.01, worse_by: 0.5, min_samples: 100}
    - {name: orders, query: 'sum(rate(orders[{{window}}]))', fail_below: 1, failures: 1}
"""


def read(text: str) -> tuple[Gates | None, list[str]]:
    document = Document("f", text)
    gates = document.build(Gates, document.data, ())
    return gates, [fault.partition(" ")[2] for fault in document.faults]


def test_a_whole_block_is_read_as_it_says() -> None:
    gates, faults = read(BLOCK)
    assert faults == []
    assert gates is not None and gates.prometheus is not None
    assert (gates.parity, gates.hold_for, gates.approve) == ("warn", 600.0, ("first", "last"))
    assert (gates.prometheus.sides.from_, gates.prometheus.sides.to, gates.prometheus.scrape) == ("vm", "k8s", 15.0)
    errors, orders = gates.queries
    assert (errors.fail_above, errors.worse_by, errors.min_samples, errors.interval, errors.failures) == (
        0.01, 0.5, 100, 30.0, 3,
    )  # fmt: skip
    assert errors.by_side and not orders.by_side
    assert msgspec.json.decode(msgspec.json.encode(gates), type=Gates) == gates


def test_without_a_block_a_person_approves_the_first_and_the_last_step() -> None:
    assert Gates().approve == ("first", "last")
    assert Gates().parity == "block" and Gates().queries == ()


def test_paths_are_made_absolute_by_who_knows_the_folder() -> None:
    gates, _ = read(BLOCK)
    assert gates is not None and gates.prometheus is not None
    placed = gates.prometheus.placed(lambda path: f"/etc/{path}")
    assert placed.tls is not None and placed.tls.ca == "/etc/ca.pem" and placed.tls.cert is None
    assert (placed.password_file, placed.token_file) == ("/etc/secrets/prometheus", None)


def prometheus(**other: Any) -> str:
    block: dict[str, Any] = {"url": "http://127.0.0.1:9090", "sides": {"from": "vm", "to": "k8s"}, **other}
    return msgspec.json.encode({"prometheus": block}).decode()


SIDE = 'errors{side="{{side}}"}'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (prometheus(queries=[{"name": "a", "query": SIDE}]), "prometheus.queries[0]: has no limit: "),
        (prometheus(queries=[{"name": "a", "query": "errors", "worse_by": 0.5}]), "queries[0].worse_by: compares both"),
        (prometheus(queries=[{"name": "a", "query": SIDE, "fail_below": 1, "worse_by": 1}]), "lower is worse"),
        (prometheus(queries=[{"name": "a", "query": "{{sides}}", "fail_above": 1}]), "{{sides}} is unknown; known: "),
        (prometheus(queries=[{"name": "a", "query": SIDE, "fail_above": 1, "min_samples": 9}]), "min_samples: counts"),
        (prometheus(queries=[{"name": "a", "query": SIDE, "fail_above": 1}] * 2), "queries[1].name: a is there twice"),
        (prometheus(queries=[{"name": "a", "query": SIDE, "fail_above": 1, "failures": 0}]), "failures: should be"),
        (prometheus(requests="sum(reqs)"), "prometheus.requests: counts the requests of each side"),
        (prometheus(sides={"from": "vm", "to": "vm"}), "prometheus.sides: both sides have the same text"),
        (prometheus(username="me"), "prometheus.username: username and password_file go together"),
        (prometheus(username="me", password_file="p", token_file="t"), "prometheus.token_file: give token_file or"),
        (prometheus(tls={"cert": "c"}), "prometheus.tls: cert and key go together"),
        ("{hold_for: soon}", "hold_for: 'soon' is no duration"),
        ("{approve: [second]}", "approve[0]: 'second' is unknown; should be one of first, last"),
        ("{parity: maybe}", "parity: 'maybe' is unknown; should be one of block, warn"),
    ],
)  # fmt: skip
def test_each_fault_of_the_block_is_said_with_its_key(text: str, fault: str) -> None:
    _, faults = read(text)
    assert len(faults) == 1 and fault in faults[0], faults


def test_what_is_faulty_within_is_never_read_from_a_state_either() -> None:
    with pytest.raises(Exception, match="no limit"):
        msgspec.json.decode(prometheus(queries=[{"name": "a", "query": SIDE}]), type=dict[str, Prometheus])
