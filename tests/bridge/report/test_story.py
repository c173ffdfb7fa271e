"""What became of an instance by a moment is one story: file, writer, source, hold, approval and what was done."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.model import Instance, Mark, ServiceName
from bridge.report.happenings import event_of, record_of
from bridge.report.story import Line, story
from bridge.state.record import Record

HERE = "vm-1:/var/lib/isthmus"
ONE = Instance("i1", "192.0.2.1")
MARK = Mark("b1", "core-to-k8s", ("etcd:1", "kubernetes:2"), "west", ServiceName("pay"), "i1")
PLACE = {"link": "core-to-k8s", "destination": "k8s", "service": "shop:pay-vm", "instance": "pay-i1"}
COPY: dict[str, Any] = {**PLACE, "mark": MARK}
SAID: dict[str, Any] = {"kind": "observed", "registry": "core", "service": "pay"}
HELD = "last_instance: nothing would serve"
LINES = (
    Record(at=1.0, seq=1, kind="start", file="aaaaaaaaaaaa", version="0.1.0"),
    Record(at=2.0, seq=2, kind="writer", destination="k8s", reason="destination=k8s after=vm-2:/var/lib/isthmus"),
    Record(at=3.0, seq=3, instance="i1", after=ONE, revision=7, **SAID),
    Record(at=3.1, seq=4, kind="add", after=ONE, revision=7, serving=(0, 1), **COPY),
    Record(at=4.0, seq=5, kind="config", file="bbbbbbbbbbbb", version="0.1.0"),
    Record(
        at=5.0,
        seq=6,
        kind="observed",
        registry="core",
        service="pay",
        instance="i1",
        before=ONE,
        revision=9,
        cause="event",
    ),
    Record(at=5.1, seq=7, instance="i2", after=ONE, revision=10, **SAID),
    Record(at=5.2, seq=8, kind="hold", reason=HELD, cause="event", **COPY),
    Record(at=6.0, seq=9, kind="approve", hold="4f2a90c1d3e7", by="user=ann", reason="4f2a90c1d3e7: CHG-1"),
    Record(at=6.1, seq=10, kind="approve", hold="000000000000", by="user=bob", reason="000000000000: another"),
    Record(at=6.2, seq=11, kind="release", reason="released", cause="event", **COPY),
    Record(
        at=6.3,
        seq=12,
        kind="remove",
        cause="event",
        before=ONE,
        revision=9,
        serving=(1, 0),
        rule=f"{HELD}; 0 of 1 of its service",
        freed="approval",
        hold="4f2a90c1d3e7",
        **COPY,
    ),
    Record(at=9.0, seq=13, kind="config", file="cccccccccccc", version="0.1.0"),
    Record(at=9.1, seq=14, kind="add", after=ONE, **COPY),
)


def told(at: float, subject: str = "pay/i1") -> list[tuple[str, str, str]]:
    rows = story([Line(one, HERE) for one in LINES], subject, at)
    return [(row["step"], row["what"], row["why"]) for row in rows]


def test_a_removal_says_what_was_said_held_approved_and_done() -> None:
    assert told(8.0) == [
        ("file", "bbbbbbbbbbbb, isthmus 0.1.0", ""),
        ("writer", HERE, "destination=k8s after=vm-2:/var/lib/isthmus"),
        ("source", "core: pay/i1 gone at revision 9", "event"),
        ("hold", "shop:pay-vm/pay-i1", f"event {HELD}"),
        ("approved", "4f2a90c1d3e7", "user=ann: 4f2a90c1d3e7: CHG-1"),
        ("release", "shop:pay-vm/pay-i1", "event released"),
        (
            "remove",
            "from etcd:1 at revision 9 1 -> 0 serving",
            f"event; an operator approved the set 4f2a90c1d3e7; {HELD}; 0 of 1 of its service",
        ),
    ]
    assert told(8.0, "shop:pay-vm/pay-i1") == told(8.0)


def test_what_is_held_at_that_moment_is_said_beside_what_stands() -> None:
    assert [step for step, _, _ in told(5.5)] == ["file", "writer", "source", "add", "source", "hold"]
    assert told(5.5)[0][1] == "bbbbbbbbbbbb, isthmus 0.1.0"


@pytest.mark.parametrize(("at", "steps"), [(0.5, []), (3.05, ["source"]), (3.5, ["file", "writer", "source", "add"])])
def test_before_it_was_written_only_its_source_tells(at: float, steps: list[str]) -> None:
    assert [step for step, _, _ in told(at)] == steps


def test_the_log_of_a_stream_tells_the_same_story() -> None:
    shipped = [Line(*record_of(event_of(one, HERE))) for one in LINES]
    assert [line.record for line in shipped] == [*LINES]
    assert story(shipped, "pay/i1", 8.0) == story([Line(one, HERE) for one in LINES], "pay/i1", 8.0)


def test_a_line_with_every_field_comes_back_from_the_stream_as_it_was() -> None:
    whole = msgspec.structs.replace(LINES[-3], change=0, scope=("etcd:1", "west"), changed=("address",), would=True)
    assert record_of(event_of(whole, HERE)) == (whole, HERE)
