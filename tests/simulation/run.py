"""Plays one history: sets up, lets it happen, heals everything, waits for agreement and then for silence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple
from unittest import mock

from bridge.config import kinds
from bridge.engine.echoes import EVERY as ECHO_LOOK
from bridge.plan.echo import LASTS
from bridge.plan.values import Kind
from tests.simulation import history, spells
from tests.simulation.loop import Loop, Stuck
from tests.simulation.migrating import meter
from tests.simulation.process import Process
from tests.simulation.world import World

CALM_BOUND = 30.0  # seconds to agree where nothing went wrong: holds need a second opinion
BOUND = 150.0  # seconds to agree after all faults: retries of what was denied, relists that wait their turn, holds
SETTLES = 20.0  # seconds in which watches that were cut or denied come back
QUIET = 45.0  # seconds without a write, a relist among them


class Report(NamedTuple):
    """How a history went. `agreed` in virtual seconds after everything was healed."""

    broken: list[str]
    story: list[str]
    agreed: float
    writes: int
    holds: int


Scenario = Callable[[World], Coroutine[Any, Any, None]]


class Alarm(logging.Handler):
    """A bug that the core logs is a broken promise."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """An error was logged."""
        self._world.oracle.breaks("bug", logging.Formatter().format(record))


def play(seed: int, scenario: Scenario | None = None) -> Report:
    """One history: that of the seed, or the scenario with the seed's chances."""
    loop = Loop()
    world = World(loop, seed)
    try:
        with _listening(world), _in_virtual_time(world):
            agreed = loop.run_until_complete(_live(world, scenario))
    except Stuck as stuck:
        world.oracle.breaks("I6", str(stuck))
        agreed = -1.0
    finally:
        with contextlib.suppress(Exception):
            loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    holds = sum(len(process.record.holds) for process in world.processes)
    return Report(world.oracle.broken, world.story, agreed, world.oracle.writes, holds)


@contextlib.contextmanager
def _in_virtual_time(world: World) -> Iterator[None]:
    """Clocks are the world's, and so is what answers the gates of migrations."""
    with (
        mock.patch.object(time, "time", new=world.wall),
        mock.patch.object(time, "monotonic", new=world.loop.time),
        mock.patch.object(kinds, "meter", new=meter),
    ):
        yield


@contextlib.contextmanager
def _listening(world: World) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("isthmus", "asyncio")]
    alarm = Alarm(world)
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(alarm)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(alarm)
            logger.setLevel(level)
            logger.propagate = propagate


async def _live(world: World, scenario: Scenario | None) -> float:
    if scenario is None:
        history.begin(world)
        happening = history.unfold(world)
    else:
        happening = scenario(world)
    ticking = world.serve(_seconds(world))
    agreed = -1.0
    try:
        await happening
        if not world.oracle.broken:
            agreed = await _agree(world)
        if not world.oracle.broken:
            await _rest(world)
    except Exception:
        logging.getLogger("isthmus").exception("the history ends")
    finally:
        ticking.cancel()
        await world.over()
        for process in world.alive():
            await process.end()
        await asyncio.wait([process.task for process in world.processes])
        await world.end()
    return agreed


async def _seconds(world: World) -> None:
    while True:
        await asyncio.sleep(1.0)
        world.oracle.second()


async def _agree(world: World) -> float:
    """Heals everything, and waits until every target is what it should be; returns how long that took."""
    await healed(world)
    began = world.loop.time()
    bound = BOUND if world.faulty else CALM_BOUND
    patience = bound
    while world.loop.time() - began < patience and not world.oracle.broken:
        await asyncio.sleep(1.0)
        decide(world)
        if _echoes(world):
            patience = bound + LASTS + ECHO_LOOK
        if not _unrest(world) and not world.oracle.differences():
            return world.loop.time() - began
    if world.oracle.broken:
        return -1.0
    for text in world.oracle.differences() + _unrest(world):
        world.oracle.breaks("I5", f"not in {patience:g} s: {text}")
    return -1.0


async def healed(world: World) -> None:
    """Everything works again, and every bridge has a process."""
    world.note("all faults end")
    await world.over()
    for server in world.servers.values():
        spells.relieve(world, server)
        if world.faulty:
            server.cut()
    for link in list(world.frozen):
        history.thaw(world, link)
    for process in world.alive():
        process.resume()
    for owner in world.links:
        if not any(process.owner == owner for process in world.alive()):
            Process(world, owner)


def _echoes(world: World) -> bool:
    """Whether anything waits because it may be a copy that another tool made of ours: a native that moved, here."""
    return any(
        reason.kind is Kind.ECHO
        for process in world.alive()
        for one in process.reconcilers.values()
        for reason in one.destination.parked.values()
    )


def _unrest(world: World) -> list[str]:
    """Why not everything is at rest; a standby aside, which reads everything anew before it writes."""
    found = world.said.ending()
    for owner in world.links:
        processes = [process for process in world.alive() if process.owner == owner]
        for to in {link.to: None for link in world.links[owner]}:
            active = [one for p in processes if (one := p.reconcilers[to]).role in ("writer", "observing")]
            if not active:
                found.append(f"{owner} to {to}: {[p.reconcilers[to].role for p in processes]}")
            for one in active:
                if one.destination.holds.count():
                    found.append(f"{owner} to {to} holds {one.destination.holds.show(0.0)}")
                elif not one.idle:
                    found.append(f"{owner} to {to} is not idle: {one.backlog.sizes()} reason={one.reason!r}")
    return found


def decide(world: World) -> None:
    """An operator approves every set that the truth agrees with, and lets all writes go on."""
    world.said.tidy()
    for process in world.alive():
        if process.disk.kept.in_force():
            process.thaw()
        for reconciler, hold in process.holds():
            target = world.servers[reconciler.name, world.scopes(reconciler.name)[0]]
            if all(world.oracle.agrees(process, target, item) for item in hold.items):
                process.approve(reconciler, hold)


async def _rest(world: World) -> None:
    """Nothing is written any more, though everything is listed and read once more (I8)."""
    await asyncio.sleep(SETTLES)
    writes, asks = world.oracle.writes, world.oracle.asks
    await asyncio.sleep(QUIET / 2)
    for server in world.servers.values():
        server.cut()
    for process in world.alive():
        for reconciler in process.reconcilers.values():
            reconciler.poke()
    await asyncio.sleep(QUIET / 2)
    if (world.oracle.writes, world.oracle.asks) != (writes, asks):
        asked = f"{world.oracle.writes - writes} writes, {world.oracle.asks - asks} asked for at rest"
        world.oracle.breaks("I8", asked)
    for text in world.oracle.differences():
        world.oracle.breaks("I2", f"after agreement: {text}")
    world.oracle.resting()
