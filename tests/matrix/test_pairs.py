"""Every pair of layouts that may be linked, both directions at once, in the same two real registries."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from mappings.pairs import pair
from tests import stock
from tests.matrix.conftest import NewPlace
from tests.matrix.joining import amiss, bridge, read_all, right, settled
from tests.matrix.places import Place, Reader, reading
from tests.stock import Native

PAIRS = [
    each
    for each in combinations_with_replacement((*stock.LAYOUTS, "file"), 2)
    if any(pair(*way).verdict != "refused" for way in (each, each[::-1]))
]
ONE, OTHER, BOTH = "org.example.Orders", "org.example.Users", "org.example.Stock"


def native(side: int, number: int, turn: str = "1") -> Native:
    """Two sides share neither an id nor an address."""
    network = ("192.0.2", "198.51.100")[side]
    return Native(f"{'ab'[side]}{number}", f"{network}.{number}", 9000 + number, {"turn": turn, "zone": "z"}, "v2", 2)


@pytest.mark.parametrize(("one", "other"), PAIRS)
async def test_two_registries_joined_both_ways_show_each_others_natives_and_echo_nothing(
    place: NewPlace, folder: Path, one: str, other: str
) -> None:
    places = [place(one), place(other)]
    for side, services in enumerate(((ONE, BOTH), (OTHER, BOTH))):
        for service in services:
            for number in (1, 2, 3):
                await places[side].put(service, native(side, number + 10 * (service == BOTH)))
    names = dict(zip(("left", "right"), places, strict=True))
    links = [
        (source, target)
        for source, target in (("left", "right"), ("right", "left"))
        if pair(names[source].layout, names[target].layout).verdict != "refused"
    ]
    async with AsyncExitStack() as open, bridge(folder, names, links) as engine:
        readers = dict(zip(names, [await open.enter_async_context(reading(each)) for each in places], strict=True))

        async def look() -> list[str]:
            return [fault for way in links for fault in await on_the_way(names, readers, *way)]

        await right(look)
        # Changes, a newcomer and a removal on either side, at once.
        for side, service in enumerate((ONE, OTHER)):
            await places[side].put(service, native(side, 1, turn="2"))
            await places[side].put(BOTH, native(side, 14))
            await places[side].remove(BOTH, native(side, 12).id)
        await right(look)
        before = await settled([engine], places)
        assert await look() == []
        assert [await each.untouched() for each in places] == [True, True]
        assert before == [await each.position() for each in places]


async def on_the_way(names: dict[str, Place], readers: dict[str, Reader], source: str, target: str) -> list[str]:
    """What is amiss with the copies of one link."""
    faults = []
    for service in (ONE, OTHER, BOTH):
        here, there = await read_all([readers[source], readers[target]], service)
        faults += amiss(names[source].layout, here, names[target].layout, there, readers[source].identity)
    return faults
