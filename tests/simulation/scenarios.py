"""Histories written by hand, one for each promise that chance finds too seldom."""

from __future__ import annotations

import asyncio

from bridge.errors import Expired
from bridge.link import Services, Unhealthy
from bridge.model import Health, ServiceName
from tests.simulation.faults import Weather
from tests.simulation.history import link
from tests.simulation.process import Process
from tests.simulation.run import Scenario
from tests.simulation.world import Server, World

S0 = ServiceName("s0")
SETTLED = 6.0  # seconds in which everything is copied
HELD = 15.0  # seconds in which a hold that only the operator frees must not end


async def _joined(world: World, services: int, instances: int, **fields: object) -> tuple[Server, Server]:
    world.links["x"] = [link("b", "a", **fields)]
    source, target = world.server("a"), world.server("b", health="unhealthy" in fields)
    world.fill(source, services, instances)
    Process(world, "x")
    await asyncio.sleep(SETTLED)
    return source, target


async def _reloaded(world: World, **fields: object) -> None:
    world.note(f"the file changes: {fields}")
    world.links["x"] = [link("b", "a", **fields)]
    for process in world.alive():
        await process.reload()
    await asyncio.sleep(HELD)


def _count(target: Server) -> int:
    return sum(len(service.instances) for service in target.contents().values())


def _stands(world: World, target: Server, entries: int, promise: str) -> None:
    """Nothing went that should have waited for the operator, or that is alive."""
    if _count(target) < entries:
        world.oracle.breaks(promise, f"{_count(target)} of {entries} entries are left at {target!r}")


async def narrowed(world: World) -> None:
    """A changed file takes services away, and is taken back before anybody approves."""
    _, target = await _joined(world, 5, 3)
    await _reloaded(world, services=Services(include=("s0",)))
    _stands(world, target, 15, "config")
    await _reloaded(world)


async def renamed(world: World) -> None:
    """A link disappears from the file: what it wrote is nobody's, until the link is there again."""
    _, target = await _joined(world, 4, 3)
    await _reloaded(world, name="another", services=Services(include=("s0",)))
    _stands(world, target, 12, "orphans")
    await _reloaded(world)


async def spoiled(world: World) -> None:
    """Records turn into nonsense for a while, seen by the watch and by a new listing."""
    source, target = await _joined(world, 3, 4)
    before = {(name, id): one for name, found in source.rightful.items() for id, one in found.items()}
    for name, id in list(before)[::3]:
        source.spoil(name, id)
    await asyncio.sleep(SETTLED)
    source.cut(Expired("compacted"))
    await asyncio.sleep(HELD)
    _stands(world, target, 12, "unreadable")
    for (name, _), one in before.items():
        world.put(source, name, one)


async def dwindling(world: World) -> None:
    """A watch tells of one deletion after the other that never happened: each is small, and together they are not."""
    source, target = await _joined(world, 6, 10)
    hidden: set[str] = set()
    world.oracle.lies(source)
    source.weather = Weather(hidden=lambda name, id: name == S0 and id in hidden)
    for id in list(source.rightful[S0])[:8]:
        world.oracle.excuse(source, [S0])
        hidden.add(id)
        source.announce([S0])
        await asyncio.sleep(2.5)
    _stands(world, target, 55, "window")
    source.weather = Weather()
    source.cut()


async def ill(world: World) -> None:
    """One after the other falls ill, and the last of a service stays all the same."""
    source, _ = await _joined(world, 3, 2, unhealthy=Unhealthy.WITHDRAW)
    for id in list(source.rightful[S0]):
        world.alter(source, S0, id, health=Health.UNHEALTHY)
        await asyncio.sleep(SETTLED)
    await asyncio.sleep(HELD)


SCENARIOS: dict[str, Scenario] = {
    "narrowed": narrowed,
    "renamed": renamed,
    "spoiled": spoiled,
    "dwindling": dwindling,
    "ill": ill,
}
