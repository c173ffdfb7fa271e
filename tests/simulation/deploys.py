"""False holds: what the guard keeps back in days without a fault, when services are rolled over, scaled, restarted."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from bridge.link import Guard
from bridge.model import ServiceName
from tests.simulation.history import link, roll
from tests.simulation.process import Process
from tests.simulation.run import play
from tests.simulation.world import Server, World

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24)  # instances of a service


async def _fleet(world: World) -> Server:
    source = world.server("a")
    world.server("b")
    world.links["x"] = [link("b", "a", guard=Guard())]
    for number, size in enumerate(world.rng.sample(SIZES, 6)):
        for _ in range(size):
            world.start(source, ServiceName(f"s{number}"))
    Process(world, "x")
    await asyncio.sleep(5.0)
    return source


async def rolling(world: World) -> None:
    """Service after service is replaced, one instance or a quarter at a time: never is anything held.

    New instances come first, or the old ones go first where others are left; or both in one moment.
    """
    source = await _fleet(world)
    for _ in range(4):
        service = world.rng.choice(list(source.rightful))
        old = list(source.rightful[service])
        lot = world.rng.choice((1, max(1, len(old) // 4)))
        surge = len(old) < 4 or world.rng.random() < 0.5
        await roll(world, source, service, old, lot, surge=surge, pause=world.rng.choice((0.0, 0.2, 5.0)))
        await asyncio.sleep(world.rng.random() * 10.0)
    await asyncio.sleep(40.0)
    for one in (one for process in world.processes for one in process.record.holds):
        world.oracle.breaks("false hold", f"{'/'.join(one.item)}: {one.verdict.rule}")


async def scaling(world: World) -> None:
    """Services shrink by up to a half, and grow again."""
    source = await _fleet(world)
    for _ in range(8):
        service = world.rng.choice(list(source.rightful))
        instances = list(source.rightful[service])
        for id in instances[: int(len(instances) * world.rng.random() / 2)]:
            world.stop(source, service, id)
        await asyncio.sleep(world.rng.random() * 120.0)
        for _ in range(world.rng.randint(0, 3)):
            world.start(source, service)
    await asyncio.sleep(60.0)


async def restarting(world: World) -> None:
    """Instances go and come back under their ids a little later."""
    source = await _fleet(world)
    for _ in range(20):
        service, id = world.rng.choice(world.natives(source))
        before = source.rightful[service][id]
        world.stop(source, service, id)
        await asyncio.sleep(world.rng.random() * 10.0)
        world.put(source, service, before)
        await asyncio.sleep(world.rng.random() * 20.0)
    await asyncio.sleep(60.0)


async def retiring(world: World) -> None:
    """Whole services go, which the guard means to hold until a second opinion."""
    source = await _fleet(world)
    for service in list(source.rightful)[:3]:
        for id in list(source.rightful[service]):
            world.stop(source, service, id)
        await asyncio.sleep(120.0)


DAYS = {one.__name__: one for one in (rolling, scaling, restarting, retiring)}


class Count(NamedTuple):
    """What a kind of day did: removals made, and how many of them had been held although they were right."""

    removed: int
    held: int
    broken: list[str]


def count(day: str, seeds: range) -> Count:
    """Plays days of one kind."""
    removed, held, broken = 0, 0, list[str]()
    for seed in seeds:
        report = play(seed, DAYS[day])
        removed += sum(" removes " in line for line in report.story)
        held += sum(line.endswith(": released") for line in report.story)
        broken += [f"--scenario {day} --seed {seed}: {text}" for text in report.broken]
    return Count(removed, held, broken)
