"""What links that observe would do is told once for each change, and sums up to the figures of a guard."""

from __future__ import annotations

from bridge.adapter import Change
from bridge.destination.trial import Trial, Tried
from bridge.link import Link, Policy, Services
from bridge.model import Instance, Mark, ServiceName
from bridge.plan.values import Plan
from bridge.report.trial import days, figures
from bridge.state.record import Record

PAY = ServiceName.parse("pay-api")


def link(policy: Policy) -> Link:
    return Link(name="a-to-b", from_=("a",), to="b", policy=policy, services=Services(include=("*",)))


def instance(key: str, address: str) -> Instance:
    return Instance(id=key, address=address)


def plan(**addresses: str) -> Plan:
    mark = Mark(owner="b1", link="a-to-b", path=("a",), scope="", service=PAY, instance="i")
    upserts = [Change(PAY, key, None, instance(key, address), mark) for key, address in addresses.items()]
    return Plan(PAY, upserts, [], {}, {}, "", 0)


def told(found: list[Tried]) -> list[tuple[str, str, tuple[int, int]]]:
    return [(one.kind, one.change.id, one.serving) for one in found]


def test_each_change_is_told_once_and_what_was_there_at_the_start_is_not() -> None:
    trial, links = Trial(), {"a-to-b": link(Policy.OBSERVE)}
    assert trial.step(plan(i1="192.0.2.1"), links, {}) == []
    trial.begun = True
    assert trial.step(plan(i1="192.0.2.1"), links, {}) == []
    assert told(trial.step(plan(i1="192.0.2.1", i2="192.0.2.2"), links, {})) == [("add", "i2", (1, 2))]
    assert told(trial.step(plan(i1="192.0.2.9", i2="192.0.2.2"), links, {})) == [("update", "i1", (2, 2))]
    assert told(trial.step(plan(i1="192.0.2.9"), links, {})) == [("remove", "i2", (2, 1))]
    assert trial.step(plan(i1="192.0.2.9"), links, {}) == []
    assert told(trial.step(plan(), links, {})) == [("remove", "i1", (1, 0))]
    assert trial.sizes() == 0


def test_what_a_native_has_written_meanwhile_would_not_have_been_removed() -> None:
    trial, links = Trial(), {"a-to-b": link(Policy.OBSERVE)}
    trial.begun = True
    trial.step(plan(i1="192.0.2.1"), links, {})
    assert trial.step(plan(), links, {"i1": instance("i1", "192.0.2.1")}) == []


def test_a_link_that_writes_is_not_tried() -> None:
    trial = Trial()
    trial.begun = True
    assert trial.step(plan(i1="192.0.2.1"), {"a-to-b": link(Policy.SYNC)}, {}) == []


def record(at: float, kind: str, before: int, after: int, service: str = "pay-api") -> Record:
    scope = ("a", "")
    return Record(
        at=at, seq=1, kind=kind, link="a-to-b", service=service, scope=scope, serving=(before, after), would=True
    )


def test_the_figures_of_a_guard_come_from_the_largest_losses_in_a_window() -> None:
    records = [
        *(record(float(at), "remove", 10 - at, 9 - at) for at in range(4)),  # four of ten within four seconds
        record(100.0, "add", 6, 7),
        *(record(5000.0 + at, "remove", 7 - at, 6 - at) for at in range(2)),
    ]
    (row,) = figures(records, {"a-to-b": 60.0})
    assert row == {
        "link": "a-to-b",
        "source_count": 4,
        "hard_count": 4,
        "service_share": 0.4,
        "last_instance": "hold",
    }
    (row,) = figures([*records, record(9000.0, "remove", 1, 0, "x")], {"a-to-b": 60.0})
    assert (row["service_share"], row["last_instance"]) == (1.0, "pass")
    assert sum(row["remove"] for row in days(records)) == 6


def test_a_replacement_in_the_window_is_no_loss() -> None:
    records = [record(1.0, "remove", 2, 1), record(2.0, "add", 1, 2), record(3.0, "remove", 2, 1)]
    assert figures(records, {"a-to-b": 60.0})[0]["source_count"] == 1
