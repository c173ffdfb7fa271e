"""Rings of three registries: what is registered in one is in each of the others once, and nothing comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bridge.model import Service
from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.matrix.conftest import Stores
from tests.matrix.joining import bridge, copies, idle, natives, read_all, right, settled, takes
from tests.matrix.places import Place, Reader, reading

RINGS = [
    ("kratos", "curator", "go-micro"),
    ("grpc", "spring", "go-zero"),  # an id that is made of its value
    ("kitex", "file", "curator"),  # an id that is the address
    ("file", "dubbo2", "kratos"),  # one that takes Dubbo's alone: what comes from kratos stops before it
    ("consul", "kubernetes", "eureka"),  # no ledger beside the records: the mark is in each
    ("consul", "go-micro", "eureka"),  # one with the lock of another's store
    ("curator", "eureka", "kubernetes"),
]
SERVICE = "orders"
BRIDGES = ("b1", "b2", "b3")
RING = ((0, 1), (1, 2), (2, 0))
ALL = {"include": ["*"]}


def native(where: int, number: int) -> Native:
    """The natives of three registries, which share neither an id nor an address."""
    return Native(f"{'abc'[where]}{number}", f"192.0.2.{10 * where + number}", 9000 + number, {"from": "abc"[where]})


@pytest.mark.parametrize("mesh", [False, True], ids=["ring", "mesh"])
@pytest.mark.parametrize("separate", [False, True], ids=["one bridge", "three bridges"])
@pytest.mark.parametrize("layouts", RINGS, ids="-".join)
async def test_in_a_ring_an_instance_is_everywhere_once_with_its_native_origin(
    stores: Stores, folder: Path, layouts: tuple[str, str, str], separate: bool, mesh: bool
) -> None:
    """`mesh`: each link has one that leads back, so that everything has two ways to go."""
    places = await filled(stores, layouts)
    ways = list(RING)
    if mesh:
        ways += [(target, source) for source, target in ways]
    ways = [way for way in ways if takes(layouts[way[0]], layouts[way[1]])]
    async with AsyncExitStack() as open:
        readers = [await open.enter_async_context(reading(each)) for each in places]
        engines = []
        for owner, some in shared(ways, separate).items():
            # Three operators have three names for the same registry.
            names = {f"{owner}-{index}": places[index] for index in {index for way in some for index in way}}
            links = [(f"{owner}-{source}", f"{owner}-{target}") for source, target in some]
            engines.append(await open.enter_async_context(bridge(folder, names, links, id=owner)))

        async def look() -> list[str]:
            return wrong(readers, await read_all(readers, SERVICE), ways, layouts)

        await right(look)
        await change(places)
        await right(look)
        before = await settled(lambda: idle(engines), places)
        assert await look() == []
        assert [await each.untouched() for each in places] == [True] * 3
        assert before == [await each.position() for each in places]


async def test_a_ring_of_three_daemons_sends_nothing_back_and_a_kill_writes_nothing(
    stores: Stores, folder: Path
) -> None:
    """Three bridges of three operators, each a process that knows two of the registries, and no other bridge."""
    layouts = ("consul", "kubernetes", "eureka")
    places = await filled(stores, layouts)
    async with AsyncExitStack() as open:
        readers = [await open.enter_async_context(reading(each)) for each in places]
        daemons = []
        for source, target in RING:
            owner = BRIDGES[target]
            registries = {f"{owner}-{index}": places[index].block for index in (source, target)}
            link = {"from": f"{owner}-{source}", "to": f"{owner}-{target}", "policy": "sync", "services": ALL}
            seat = next(name for name, block in registries.items() if block["kind"] != "eureka")
            daemons.append(Bridge(folder, registries, [link], name=owner, id=owner, seat=seat))
        await asyncio.gather(*(open.enter_async_context(each) for each in daemons))

        async def look() -> list[str]:
            return wrong(readers, await read_all(readers, SERVICE), list(RING), layouts)

        async def rest() -> bool:
            return all(await asyncio.gather(*(each.rests() for each in daemons)))

        await right(look)
        await change(places)
        await right(look)
        before = await settled(rest, places)
        for each in daemons:
            await each.kill()
            await each.start()
        assert await settled(rest, places) == before
        assert await look() == []
        assert [await each.untouched() for each in places] == [True] * 3


async def filled(stores: Stores, layouts: tuple[str, ...]) -> list[Place]:
    """A registry of each layout, with three natives."""
    places = [await stores.place(layout) for layout in layouts]
    for where, each in enumerate(places):
        for number in (1, 2, 3):
            await each.put(SERVICE, native(where, number))
    return places


async def change(places: list[Place]) -> None:
    """In each of them one native comes and another one goes."""
    for where, each in enumerate(places):
        await each.put(SERVICE, native(where, 4))
        await each.remove(SERVICE, native(where, 2).id)


def shared(ways: list[tuple[int, int]], separate: bool) -> Mapping[str, list[tuple[int, int]]]:
    """Which bridge has which links: one all of them, or each the links into one registry."""
    owned: dict[str, list[tuple[int, int]]] = {}
    for way in ways:
        owned.setdefault(BRIDGES[way[1]] if separate else BRIDGES[0], []).append(way)
    return owned


def wrong(
    readers: list[Reader], seen: list[Service], ways: list[tuple[int, int]], layouts: tuple[str, ...]
) -> list[str]:
    """What is not as it must be: at each registry its own natives, and of each other registry's all, once."""
    faults = []
    expected = [{(one.address, one.ports[0].number) for one in natives(service).values()} for service in seen]
    for target, service in enumerate(seen):
        for origin, reader in enumerate(readers):
            found = [one for some in copies(service, reader.identity).values() for one in some]
            sockets = [(one.address, one.ports[0].number) for one in found]
            wanted = expected[origin] if origin in reach(target, ways, layouts) else set()
            if sorted(sockets) != sorted(wanted):
                faults.append(f"at {target} of {origin}: {sorted(sockets)}, not {sorted(wanted)}")
        for id, mark in service.marks.items():
            steps = [next((n for n, each in enumerate(readers) if each.identity == step), None) for step in mark.path]
            if None in steps or target in steps or len(set(steps)) != len(steps):
                faults.append(f"at {target}: {id} came by {steps}")
            elif any(way not in ways for way in zip(steps, [*steps[1:], target], strict=True)):
                faults.append(f"at {target}: no links lead along {steps}")
            elif mark.owner not in BRIDGES:
                faults.append(f"at {target}: {id} is {mark.owner}'s")
    return faults


def reach(target: int, ways: list[tuple[int, int]], layouts: tuple[str, ...]) -> set[int]:
    """The registries whose natives get there: Dubbo takes none that did not begin as a Dubbo provider."""
    found: set[int] = set()
    new = {target}
    while new:
        new = {source for source, there in ways if there in new} - found - {target}
        found |= new
    return {one for one in found if layouts[target] != "dubbo2" or layouts[one] in ("file", "dubbo2")}
