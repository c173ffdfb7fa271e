"""What stands for one service: how often a slice is read while a write of it is prepared, by count."""

from __future__ import annotations

import cProfile
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from adapters.kubernetes.bodies import slice_body
from adapters.kubernetes.packing import Slice as Pack
from adapters.kubernetes.place import Place, decide, intact, packed, version
from bridge.adapter import Change
from bridge.adapter import Entry as Before
from bridge.model import Instance, Mark, Port, ServiceName
from mappings import kubernetes as layout
from mappings.common.slice_entry import Written
from mappings.kubernetes.objects import Endpoint, Service, Slice
from mappings.kubernetes.objects import Meta as About

PAY = ServiceName("pay")
BRIDGE = "b1"
MANY = 100


def written(number: int) -> Written:
    instance = Instance(f"i{number}", f"192.0.2.{number}", (Port(9000, "grpc", "grpc"),), metadata={"team": "pay"})
    return Written(instance, Mark(BRIDGE, "link", ("origin",), "", PAY, instance.id))


def standing(count: int) -> Slice:
    """A slice as the server has it."""
    entries = {each.id: each for each in (packed(written(number), None) for number in range(count))}
    pack = Pack("pay-1", entries["i0"].key, entries)
    return msgspec.json.decode(slice_body(PAY, "default", "pay", BRIDGE, "w 1", pack, None), type=Slice)


def place_of(slice: Slice) -> Place:
    shown = {entry.id: entry for entry in layout.entries(slice)}
    return Place(PAY, "default", "pay", Service(About("pay", "default")), {slice.metadata.name: slice}, shown)


def counted(work: Callable[[], object]) -> Counter[str]:
    """How often each function is called."""
    profile = cProfile.Profile()
    profile.runcall(work)
    return Counter({one.code.co_name: one.callcount for one in profile.getstats() if not isinstance(one.code, str)})


def test_a_slice_is_decoded_once_for_each_write() -> None:
    place, one = place_of(standing(MANY)), written(7)
    before = Before(one.instance, one.mark, version(one.instance, one.mark))
    change = Change(PAY, "i7", before, replace(one.instance, version="v2"), one.mark)

    def prepared() -> None:
        assert decide(place, [change], BRIDGE).put.keys() == {"i7"}
        (pack,) = place.packs(place.of(BRIDGE))
        assert len(pack.entries) == MANY
        assert place.strays("pay-1") == 0

    assert counted(prepared)["written_in"] == 1
    assert counted(prepared)["written_in"] == 0
    place.slices["pay-1"] = standing(MANY)  # as the server answered, or as the watch told
    assert counted(prepared)["written_in"] == 1
    place.forget()
    assert counted(prepared)["written_in"] == 1


def test_what_is_intact_costs_no_more_than_the_endpoints_there_are() -> None:
    few, many = standing(10), standing(MANY)
    costs = [counted(partial(intact, found)).total() for found in (few, many)]
    assert costs[1] < 11 * costs[0]


def test_what_somebody_edited_is_not_intact() -> None:
    found = standing(3)
    assert found.endpoints is not None
    edited = replace(found, endpoints=(Endpoint(("192.0.2.99",)), *found.endpoints[1:]))
    place = place_of(edited)
    assert place.strays("pay-1") == 1
    assert intact(edited).keys() == {"i1", "i2"}
