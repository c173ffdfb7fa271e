"""Each row of parity: what consumers would notice is named, with its severity and its instances."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.migration.parity import CHECKS, Move, Report, Row, Severity, blocks, missing_names, parity, summary
from bridge.model import Health, Instance, Locality, Port

NOW = 1_800_000_000.0
WEB = Port(8080, "web", "http")
VM = Instance("vm", "192.0.2.1", (WEB,), Health.HEALTHY)
POD = Instance("pod", "198.51.100.1", (WEB,), Health.HEALTHY)
OTHER = Instance("pod2", "198.51.100.2", (WEB,), Health.HEALTHY)
SEEN = Report(link="l", from_="host-a", at=NOW - 60, answered=("198.51.100.1:8080", "198.51.100.2:8080"))


def changed(instance: Instance, **fields: Any) -> Instance:
    return msgspec.structs.replace(instance, **fields)


def rows(vm: Instance = VM, pod: Instance = POD, layout: str = "consul", **more: Any) -> list[Row]:
    """Of one VM and one pod, which differ in what is given alone."""
    move = Move("legacy", layout, {"vm": vm}, {"pod": pod}, NOW, reports=(SEEN,))
    return parity(move._replace(**more))


def test_equal_sides_differ_in_nothing() -> None:
    assert rows(shares=(0.5, 1.0)) == []
    assert summary([]) == "no difference is known"


def carrying(metadata: dict[str, str], base: Instance = POD) -> Instance:
    return changed(base, metadata=metadata)


def ported(*ports: Port, base: Instance = POD) -> Instance:
    return changed(base, ports=ports)


GRPC = Port(9090, "grpc", "grpc")
AGO = str(int((NOW - 60) * 1000))
AHEAD = str(int((NOW + 60) * 1000))
TWO_PORTS = ported(WEB, GRPC, base=VM)


DIFFERENCES = [
    ("ports", "block", "no port like grpc", TWO_PORTS, POD, "consul"),
    ("ports", "block", "speaks http at `from` and grpc at `to`", VM, ported(Port(8080, "web", "grpc")), "consul"),
    ("ports", "block", "port web of `to` is 9090, which is grpc at", TWO_PORTS,
     ported(Port(9090, "web", "http"), Port(8080, "grpc", "grpc")), "consul"),
    ("ports", "block", "no port like 8080", ported(Port(8080), base=VM), ported(WEB, GRPC), "consul"),
    ("port numbers", "warn", "8080 at every `from`, and 80 at `to`", VM, ported(Port(80, "web", "http")), "consul"),
    ("port numbers", "block", "80 at `to`", VM, ported(Port(80, "web", "http")), "dubbo3"),
    ("tls", "block", "plain text at `from`, TLS at `to`", VM, ported(Port(8080, "web", "http", tls=True)), "consul"),
    ("tls", "block", "PERMISSIVE", VM, carrying({"security.istio.io/tlsMode": "istio"}), "kubernetes"),
    ("routers", "warn", "env is prod at `from` and none at `to`", carrying({"env": "prod"}, VM), POD, "consul"),
    ("routers", "block", "version is 1.0 at `from` and 1.1", changed(VM, version="1.0"), changed(POD, version="1.1"),
     "dubbo2"),
    ("routers", "block", "dubbo.tag is none at `from` and gray", VM, carrying({"dubbo.tag": "gray"}), "dubbo2"),
    ("routers", "block", "zone is a at `from`", changed(VM, locality=Locality(zone="a")), POD, "eureka"),
    ("calls", "block", "methods lack pay, refund", carrying({"methods": "ask,pay,refund"}, VM),
     carrying({"methods": "ask,more"}), "dubbo2"),
    ("calls", "block", "serialization is hessian2 at", carrying({"serialization": "hessian2"}, VM),
     carrying({"serialization": "fastjson2"}), "dubbo2"),
    ("calls", "block", "consumers know none of its interfaces", carrying({"dubbo.metadata.revision": "a"}, VM), POD,
     "dubbo3"),
    ("weights", "block", "about 100 at `to` and 1 at `from`", VM, changed(POD, weight=100.0), "consul"),
    ("warm-up", "block", "warms up for 540 s more", VM, carrying({"timestamp": AGO}), "dubbo2"),
    ("warm-up", "block", "warms up for 40 s more", VM, carrying({"timestamp": AGO, "warmup": "100000"}), "dubbo2"),
    ("clock", "warn", "started in the future", VM, carrying({"timestamp": AHEAD}), "dubbo2"),
    ("registered twice", "block", "have it register at one of them", VM, changed(POD, address="192.0.2.1"), "consul"),
    ("capacity", "block", "no instance of `to` serves", VM, changed(POD, health=Health.DRAINING), "consul"),
    ("reachable", "block", "loopback", VM, changed(POD, address="127.0.0.1"), "consul"),
    ("reachable", "block", "inside its cluster", VM, changed(POD, address="pay.shop.svc.cluster.local"), "consul"),
    ("reachable", "warn", "nobody has shown", VM, changed(POD, address="198.51.100.9"), "consul"),
    ("paths", "warn", "management.port is 9000 at `from`", carrying({"management.port": "9000"}, VM), POD, "eureka"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "severity", "said", "vm", "pod", "layout"), DIFFERENCES)
def test_each_difference_is_a_row(
    what: str, severity: str, said: str, vm: Instance, pod: Instance, layout: str
) -> None:
    found = [row for row in rows(vm, pod, layout) if row.what == what]
    assert {row.severity for row in found} == {severity}, found
    assert any(said in row.text for row in found)
    assert set(found[0].subjects) <= {"vm", "pod"}


@pytest.mark.parametrize(
    ("vm", "pod", "layout"),
    [
        (ported(Port(8080), base=VM), ported(Port(8080, "web", "http")), "consul"),
        (VM, ported(WEB, GRPC), "consul"),
        (VM, carrying({"timestamp": AGO, "warmup": "0"}), "dubbo2"),
        (VM, carrying({"timestamp": str(int((NOW - 900) * 1000))}), "dubbo2"),
        (VM, carrying({"env": "prod"}), "consul"),
        (VM, changed(POD, weight=9.0), "consul"),
        (carrying({"methods": "ask"}, VM), carrying({"methods": "ask,more"}), "dubbo2"),
    ],
)
def test_what_no_consumer_would_notice_is_no_row(vm: Instance, pod: Instance, layout: str) -> None:
    assert rows(vm, pod, layout) == []


def test_a_key_that_divides_the_old_side_is_in_use() -> None:
    """A consumer that asks for the lane blue would see no pod at any weight."""
    move = Move(
        "legacy", "consul",
        {"a": carrying({"lane": "blue"}, VM), "b": carrying({"lane": "red"}, changed(VM, address="192.0.2.2"))},
        {"pod": carrying({"lane": "red"}), "other": carrying({"lane": "red"}, OTHER)}, NOW, reports=(SEEN,),
    )  # fmt: skip
    (row,) = parity(move)
    assert (row.what, row.severity, row.subjects) == ("routers", Severity.BLOCK, ("other", "pod"))
    assert row.text.startswith("lane is blue, red at `from` and red at `to`")


def test_a_pod_that_a_link_mirrors_and_that_registers_itself_names_the_link() -> None:
    found = rows(VM, POD, carried={"pod": "k8s-to-legacy"}, from_={"vm": VM, "own": POD})
    (row,) = [row for row in found if row.what == "registered twice"]
    assert row.subjects == ("own", "pod") and "narrow the link k8s-to-legacy" in row.text
    both = [row for row in rows(from_={"vm": VM, "pod": POD}) if "both sides hold it" in row.text]
    assert [row.severity for row in both] == [Severity.BLOCK]


def test_what_a_link_carries_has_no_warm_up() -> None:
    pod = carrying({"timestamp": AGO})
    assert rows(VM, pod, "dubbo2", carried={"pod": "link"}) == []


@pytest.mark.parametrize(
    ("old", "new", "shares", "found"),
    [
        (200, 2, (0.01, 0.05), [("warn", "at 0.05 one of 2 at `to` bears 5.0 times")]),
        (200, 2, (0.05,), [("block", "at 0.05 one of 2 at `to` bears 5.0 times")]),
        (200, 1, (0.01,), []),
        (200, 1, (0.02,), [("block", "bears 4.0 times what one of 200")]),
        (2, 1, (0.01, 0.5, 1.0), []),
        (4, 2, (0.5, 1.0), []),
        (5, 2, (0.5, 1.0), [("warn", "at 1 one of 2")]),
    ],
)
def test_no_pod_is_given_more_than_twice_the_load_of_a_machine(
    old: int, new: int, shares: tuple[float, ...], found: list[tuple[str, str]]
) -> None:
    vms = {f"vm{n}": changed(VM, address=f"192.0.2.{n}") for n in range(old)}
    pods = {f"pod{n}": changed(POD, address=f"198.51.100.{n}") for n in range(new)}
    report = changed_report(answered=tuple(f"{one.address}:8080" for one in pods.values()))
    there = parity(Move("legacy", "consul", vms, pods, NOW, shares, reports=(report,)))
    assert [row.severity for row in there] == [severity for severity, _ in found]
    assert all(said in row.text for row, (_, said) in zip(there, found, strict=True))


def changed_report(**fields: Any) -> Report:
    return msgspec.structs.replace(SEEN, **fields)


def test_only_reports_of_the_last_day_say_what_consumers_reach() -> None:
    lost = changed_report(answered=(), unreached=({"address": "198.51.100.1", "port": 8080, "reason": "no route"},))
    (row,) = rows(reports=(lost,))
    assert (row.severity, row.text, row.subjects) == ("block", "could not be reached from host-a", ("pod",))
    old = msgspec.structs.replace(lost, at=NOW - 86_401)
    (row,) = rows(reports=(old,))
    assert row.severity is Severity.WARN and "within a day" in row.text
    text = b'{"link":"l","from":"h","at":1800000000.0,"tried":1,"answered":["198.51.100.1:8080"],"unreached":[]}'
    assert rows(reports=(msgspec.json.decode(text, type=Report),)) == []


def test_a_side_that_is_empty_blocks() -> None:
    (row,) = rows(to={})
    assert (row.what, row.severity) == ("names", Severity.BLOCK) and "`to` has no instance" in row.text
    assert rows(from_={})[0].text.startswith("`from` has no instance")


def test_names_that_only_the_old_side_has_block() -> None:
    (row,) = missing_names({"org.a.Pay", "org.a.Ask"}, {"org.a.Ask", "org.a.New"})
    assert (row.severity, row.subjects) == (Severity.BLOCK, ("org.a.Pay",))
    assert missing_names({"a"}, {"a", "b"}) == []


def test_many_instances_with_one_difference_are_one_row_and_blocks_come_first() -> None:
    pods = {
        "b": changed(POD, weight=100.0, metadata={"secure": "true"}),
        "a": changed(OTHER, weight=100.0, metadata={"secure": "true"}),
    }
    found = rows(to=pods)
    assert [(row.what, row.severity) for row in found] == [("weights", "block"), ("paths", "warn")]
    assert found[1].subjects == ("a", "b")
    assert blocks(found) == (found[0],)
    assert summary(found) == "1 block, 1 warn"


def test_every_check_has_a_difference_that_these_tests_show() -> None:
    assert {what for what, *_ in DIFFERENCES} == set(CHECKS)
