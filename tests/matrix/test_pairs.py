"""Every layout of the five registries and every other one, as the table of docs/layouts.md says, in one daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import StartConsul, StartEureka, StartKubernetes
from tests.kit import stock
from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.kit.waiting import until
from tests.matrix.conftest import Stores
from tests.matrix.joining import CAN_DRAIN, amiss, read_all, right, settled, takes
from tests.matrix.places import Place, Reader, reading

LAYOUTS = (*stock.LAYOUTS, "consul", "eureka", "kubernetes", "file")
SIDES = ("left", "right")
AT_ONCE = 16  # natives that register at the same time


class Pair(NamedTuple):
    """Two layouts, one on each side, with services that no other pair has.

    Of three services one has natives on the left, one on the right, and one on both sides.
    """

    number: int
    layouts: tuple[str, str]

    @property
    def shared(self) -> str:
        return self._named("stock")

    @property
    def services(self) -> tuple[str, str, str]:
        return self.own(0), self.own(1), self.shared

    @property
    def ways(self) -> list[tuple[int, int]]:
        """From which side to which the table has a link."""
        return [way for way in ((0, 1), (1, 0)) if takes(self.layouts[way[0]], self.layouts[way[1]])]

    def own(self, side: int) -> str:
        return self._named(("orders", "users")[side])

    def place(self, side: int) -> str:
        """The registry's name in the file."""
        return f"{SIDES[side]}-{self.layouts[side]}"

    def links(self) -> Iterable[dict[str, Any]]:
        for source, target in self.ways:
            ends = {"from": self.place(source), "to": self.place(target)}
            yield {**ends, "policy": "sync", "services": {"include": [self._named("*")]}}

    def native(self, side: int, number: int, turn: str = "1", *, draining: bool = False) -> Native:
        """No two have an address and a port in common: a changed one has another port."""
        address = f"{('192.0.2', '198.51.100')[side]}.{number}"
        port = 10_000 + 100 * self.number + 50 * (turn != "1") + number
        return Native(f"{'ab'[side]}{number}", address, port, {"turn": turn, "zone": "z"}, "v2", 2, draining)

    def _named(self, stem: str) -> str:
        return f"{stem}-{self.layouts[0]}-{self.layouts[1]}"


PAIRS = [
    pair for pair in (Pair(*one) for one in enumerate(combinations_with_replacement(LAYOUTS, 2))) if pair.ways
]  # fmt: skip


async def register(place: Place, pair: Pair, side: int) -> None:
    for service, first in ((pair.own(side), 1), (pair.shared, 11)):
        for number in range(first, first + 3):
            await place.put(service, pair.native(side, number))


async def change(place: Place, pair: Pair, side: int) -> None:
    """One changes, and one comes."""
    await place.put(pair.own(side), pair.native(side, 1, turn="2"))
    await place.put(pair.shared, pair.native(side, 14))


async def drain(place: Place, pair: Pair, side: int) -> None:
    if place.layout in CAN_DRAIN:
        await place.put(pair.shared, pair.native(side, 12, draining=True))


async def remove(place: Place, pair: Pair, side: int) -> None:
    await place.remove(pair.shared, pair.native(side, 12).id)


@pytest.mark.timeout(900)
async def test_every_layout_exchanges_natives_with_every_other_as_the_table_says(
    stores: Stores,
    consul_server: StartConsul,
    eureka_server: StartEureka,
    kubernetes_server: StartKubernetes,
    folder: Path,
) -> None:
    """All pairs side by side, each both ways at once."""
    # What is one registry as a whole has another one on the right, to be joined with.
    consul, eureka, kubernetes = await asyncio.gather(
        consul_server(datacenter="dc2"), eureka_server(name="eureka2"), kubernetes_server(name="kubernetes2")
    )
    sides = stores, stores._replace(consul=consul, eureka=eureka, kubernetes=kubernetes)
    places = {
        f"{side}-{layout}": await some.place(layout)
        for side, some in zip(SIDES, sides, strict=True)
        for layout in LAYOUTS
    }
    registries = {name: place.block for name, place in places.items()}
    links = [link for pair in PAIRS for link in pair.links()]
    async with AsyncExitStack() as open:
        readers = {name: await open.enter_async_context(reading(place)) for name, place in places.items()}
        await at_both_sides(register, places)
        daemon = await open.enter_async_context(Bridge(folder, registries, links, seat="left-grpc"))
        await all_right(readers)
        for stage in (change, drain, remove):
            await at_both_sides(stage, places)
            await all_right(readers)
        await until(daemon.rests, "nothing is left to do")
        before = await settled(daemon.rests, [*places.values()])
        await all_right(readers)
        untouched = {name: await place.untouched() for name, place in places.items()}
        assert [name for name, is_so in untouched.items() if not is_so] == []
        assert before == [await place.position() for place in places.values()]


async def at_both_sides(stage: Callable[[Place, Pair, int], Awaitable[None]], places: dict[str, Place]) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(pair: Pair, side: int) -> None:
        async with room:
            await stage(places[pair.place(side)], pair, side)

    async with asyncio.TaskGroup() as group:
        for pair in PAIRS:
            for side in (0, 1):
                group.create_task(one(pair, side))


async def all_right(readers: dict[str, Reader]) -> None:
    """Waits until each pair is right; it is looked at again and again alone as long as it is not."""
    remaining = [*PAIRS]

    async def look() -> list[str]:
        faults = {pair: await wrong(pair, readers) for pair in remaining}
        remaining[:] = [pair for pair, found in faults.items() if found]
        return [fault for found in faults.values() for fault in found]

    await right(look, every=0.5)


async def wrong(pair: Pair, readers: dict[str, Reader]) -> list[str]:
    """What is amiss with the copies of a pair."""
    ends = [readers[pair.place(side)] for side in (0, 1)]
    seen = {service: await read_all(ends, service) for service in pair.services}
    return [
        f"{pair.place(source)} to {pair.place(target)}: {fault}"
        for source, target in pair.ways
        for both in seen.values()
        for fault in amiss(
            pair.layouts[source], both[source], pair.layouts[target], both[target], ends[source].identity
        )
    ]
