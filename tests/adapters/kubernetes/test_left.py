"""What its own slices have just left is taken up again by a Service with pods only later: a table of moments."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from adapters.kubernetes.left import WAIT, Left
from adapters.kubernetes.place import Place
from bridge.adapter import Change, Entry
from bridge.errors import Rejected
from bridge.model import Health, Instance
from mappings.kubernetes import Entry as Shown
from mappings.kubernetes.objects import Endpoint, Meta, Service, ServiceSpec, Slice
from tests.kit.builders import PAY, instance, mark

POD = instance("pod-1")


def place(*pods: Instance, selector: bool = True) -> Place:
    meta = Meta("pay-1", "shop")
    service = Service(meta, ServiceSpec(selector={"app": "pay"} if selector else None))
    shown = {one.id: Shown(one.id, one, slice="pay-1") for one in pods}
    return Place(PAY, "shop", "pay", service, {"pay-1": Slice(meta, endpoints=(Endpoint(),))}, shown)


def create(one: Instance) -> Change:
    return Change(PAY, one.id, None, one, mark(one.id))


@pytest.mark.parametrize(
    ("looks", "at", "waits"),
    [
        ([(0.0, place(POD)), (10.0, place())], 10.0, WAIT),
        ([(0.0, place(POD)), (10.0, place())], 10.0 + WAIT / 2, WAIT / 2),
        ([(0.0, place(POD)), (10.0, place())], 10.0 + WAIT, None),
        ([(0.0, place(POD)), (10.0, place()), (20.0, place())], 20.0, WAIT - 10.0),
        ([(0.0, place(POD)), (10.0, place()), (20.0, place(POD)), (30.0, place())], 30.0, WAIT),
        ([(0.0, place(POD))], 10.0, None),
        ([(0.0, place()), (10.0, place())], 10.0, None),
        ([(0.0, place(instance("pod-1", port=9090))), (10.0, place())], 10.0, None),
        ([(0.0, place(POD, selector=False)), (10.0, place(selector=False))], 10.0, None),
        ([(0.0, place(POD)), (10.0, place(selector=False))], 10.0, None),
    ],
)
def test_an_address_that_left_waits_for_five_minutes(
    looks: list[tuple[float, Place]], at: float, waits: float | None
) -> None:
    clock = [0.0]
    left = Left(lambda: clock[0])
    for clock[0], found in looks:
        left.look(found)
    clock[0] = at
    outcomes = left.too_early(looks[-1][1], [create(instance("self", POD.address)), create(instance("i2"))])
    assert [(one.change.id, getattr(one.error, "again", None)) for one in outcomes] == (
        [("self", waits)] if waits else []
    )


@pytest.mark.parametrize("while_down", [False, True], ids=["before it ended", "while none ran"])
async def test_what_left_before_a_restart_or_during_one_waits_as_long(tmp_path: Path, while_down: bool) -> None:
    clock = [1000.0]
    path = tmp_path / "kept.json"
    before = Left(lambda: clock[0], path)
    before.look(place(POD))
    if not while_down:
        clock[0] = 1010.0
        before.look(place())
    await before.close()
    clock[0] = 1100.0
    after = Left(lambda: clock[0], path)
    after.look(place())
    (outcome,) = after.too_early(place(), [create(instance("self", POD.address))])
    assert isinstance(outcome.error, Rejected)
    assert outcome.error.again == (WAIT if while_down else WAIT - 90.0)
    path.write_text("not json")
    assert not Left(lambda: clock[0], path).too_early(place(), [create(instance("self", POD.address))])


def test_a_clock_that_was_set_back_keeps_nothing_waiting_for_ever() -> None:
    clock = [10_000.0]
    left = Left(lambda: clock[0])
    left.look(place(POD))
    left.look(place())
    clock[0] = 0.0
    left.look(place())
    assert not left.too_early(place(), [create(instance("self", POD.address))])


def test_what_gets_no_traffic_or_stands_already_does_not_wait() -> None:
    left = Left(lambda: 0.0)
    left.look(place(POD))
    left.look(place())
    ill = replace(POD, id="self", health=Health.UNHEALTHY)
    well = replace(ill, health=Health.HEALTHY)
    changes = [create(ill), Change(PAY, "self", Entry(ill, mark("self")), well, mark("self"))]
    assert left.too_early(place(), changes) == []
