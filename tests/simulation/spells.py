"""Spells of bad weather: each begins, lasts a while, and ends with everything as it should be."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from adapters.memory.server import LENT
from bridge.errors import Conflict, Denied, Expired, Rejected, Unavailable
from bridge.model import ServiceName
from tests.simulation.faults import Weather
from tests.simulation.invariants import name_at
from tests.simulation.world import LATENCY, Server, World

Spell = Callable[[World, Server, float], Awaitable[None]]


def seconds(world: World, longest: float) -> float:
    """A while, often short."""
    return float(longest * world.rng.random() ** 2)


async def silence(world: World, server: Server, lasts: float) -> None:
    """Nobody answers."""
    server.silence()
    await asyncio.sleep(lasts)


async def errors(world: World, server: Server, lasts: float) -> None:
    """Nothing but errors."""
    server.fail_with(world.rng.choice((Unavailable("503"), Unavailable("429", 2.0), Denied("403"), Expired("410"))))
    await asyncio.sleep(lasts)


async def flapping(world: World, server: Server, lasts: float) -> None:
    """Watches are cut again and again."""
    for _ in range(5):
        server.cut(world.rng.choice((Expired("compacted"), Unavailable("reset"))))
        await asyncio.sleep(lasts / 5)


async def gross_lie(world: World, server: Server, lasts: float) -> None:
    """All services, or all but one, are left out of what watches say; fresh reads may say so too.

    A listing of nothing at all is never believed; where one service is left, the guard's limits count.
    """
    world.oracle.lies(server)
    names = list(server.contents())
    spared = set(names[:1]) if len(names) > 3 and world.rng.random() < 0.5 else set()
    if spared:
        world.oracle.excuse(server, names)
    reads_too = world.rng.random() < 0.3
    server.weather = Weather(hidden=lambda name, _: name not in spared, excused=bool(spared), reads_too=reads_too)
    await _lie(world, server, min(lasts, 2.5) if server.weather.reads_too else lasts)


async def small_lie(world: World, server: Server, lasts: float) -> None:
    """Some instances are left out; the guard may let a few of them go."""
    share, salt = world.rng.random(), world.rng.random()
    world.oracle.excuse(server, list(server.rightful))

    def hidden(name: ServiceName, id: str) -> bool:
        return zlib.crc32(f"{salt}{name}{id}".encode()) % 100 < 100 * share

    server.weather = Weather(hidden=hidden, excused=True)
    await _lie(world, server, lasts)
    world.oracle.excuse(server, list(server.rightful))


async def _lie(world: World, server: Server, lasts: float) -> None:
    names = list(server.contents())
    if world.rng.random() < 0.5:
        server.cut()  # the lie is a listing
    else:
        world.oracle.excuse(server, names)  # the lie is a row of events: the first of them may be believed
        server.weather.excused = True
        server.announce(names)
    await asyncio.sleep(lasts)
    server.weather = Weather()
    if world.rng.random() < 0.5:
        server.cut()
    else:
        names = list(server.contents())  # those that came meanwhile were left out as well
        world.oracle.excuse(server, names)  # it is taken back piece by piece: what is left of it grows small
        server.announce(names)


async def garbled(world: World, server: Server, lasts: float) -> None:
    """Words of the watch come late or twice."""
    server.weather = Weather(late=world.rng.random() * 0.5, repeated=world.rng.random() * 0.5)
    await asyncio.sleep(lasts)
    server.weather = Weather()
    server.cut()


async def lossy(world: World, server: Server, lasts: float) -> None:
    """Words of the watch get lost."""
    server.weather = Weather(lost=world.rng.random() * 0.5)
    await asyncio.sleep(lasts)
    server.weather = Weather()
    server.cut()


async def unreadable(world: World, server: Server, lasts: float) -> None:
    """Some records cannot be read for a while."""
    some = [(name, id) for name, one in server.contents().items() for id in one.instances]
    server.weather = Weather(unreadable=frozenset(world.rng.sample(some, len(some) // 2)))
    await _lie(world, server, lasts)


async def restored(world: World, server: Server, lasts: float) -> None:
    """The store goes back to a backup, and the natives notice after a while."""
    saved = server.save()
    await asyncio.sleep(lasts)
    world.oracle.pardon(server)
    server.restore(saved, world.rng.choice((None, f"life {world.number()}")))
    world.oracle.pardon(server)
    await asyncio.sleep(lasts)
    server.mend()


async def blank(world: World, server: Server, lasts: float) -> None:
    """Polls say of some services that nothing is left."""
    names = server.names()
    server.blank.update(world.rng.sample(names, (len(names) + 1) // 2))
    server.announce(names)
    await asyncio.sleep(lasts)
    server.blank.clear()


async def ended(world: World, server: Server, lasts: float) -> None:
    """Watches end without an error, now and then, as a server ends them that has been asked for long."""
    for _ in range(3):
        server.weather = Weather(ends=True)
        await asyncio.sleep(lasts / 3)
        server.weather = Weather()


async def stale(world: World, server: Server, lasts: float) -> None:
    """Who begins to watch is answered from a cache that is behind: what it lists is as it was a while ago."""
    saved = server.save()
    await asyncio.sleep(lasts / 2)
    old = Server(world, server.registry, server.identity, server.scope, health=server.health)
    old.restore(saved, server.incarnation)
    world.behind[server.registry, server.scope] = old
    server.cut()
    await asyncio.sleep(lasts / 2)


async def emptied(world: World, server: Server, lasts: float) -> None:
    """The store comes back with nothing in it."""
    world.oracle.pardon(server)
    server.empty(world.rng.choice((None, f"life {world.number()}")))
    await asyncio.sleep(lasts)
    server.mend()


async def restarted(world: World, server: Server, lasts: float) -> None:
    """The store comes back with nothing in it, and its natives register again, one after the other."""
    world.oracle.pardon(server)
    server.empty(f"life {world.number()}")
    natives = world.natives(server)
    world.rng.shuffle(natives)
    for name, id in natives:
        await asyncio.sleep(lasts / len(natives))
        server.back(name, id)
    await asyncio.sleep(lasts)
    server.mend()


async def swapped(world: World, server: Server, lasts: float) -> None:
    """Another cluster answers to that name; it has services of the same names."""
    other = Server(world, server.registry, f"mem:other{world.number()}", server.scope, health=server.health)
    world.others.append(other)
    world.fill(other, 3, 2)
    world.behind[server.registry, server.scope] = other
    server.cut()
    await asyncio.sleep(lasts)


async def lost_answers(world: World, server: Server, lasts: float) -> None:
    """Writes are made, and their answers get lost."""
    server.lost_answers = world.rng.randint(1, 20)
    await asyncio.sleep(lasts)


async def slow(world: World, server: Server, lasts: float) -> None:
    """Every request takes long."""
    server.latency = 2.0
    await asyncio.sleep(lasts)
    server.latency = LATENCY


async def refused(world: World, server: Server, lasts: float) -> None:
    """Writes of one service fail."""
    if names := list(server.contents()):
        name = world.rng.choice(names)
        error = world.rng.choice((Unavailable("503"), Conflict("lost"), Rejected("too large"), Denied("403")))
        server.refused = {name: error}
        await asyncio.sleep(lasts)


async def deaf(world: World, server: Server, lasts: float) -> None:
    """The watches of one process are dead without a word."""
    if processes := world.alive():
        world.rng.choice(processes).deaf[server] = world.loop.time()
        await asyncio.sleep(lasts)


async def parted(world: World, server: Server, lasts: float) -> None:
    """One process cannot reach what it writes to, though others can; its lock becomes another's."""
    if processes := [one for one in world.alive() if server.registry in one.reconcilers]:
        world.rng.choice(processes).cut(server)
        await asyncio.sleep(lasts)


async def superseded(world: World, server: Server, lasts: float) -> None:
    """Whoever has the lock loses it."""
    for owner in world.links:
        server.take_lock(owner)
        if world.lender is not None:
            world.lender.take_lock(f"{owner}{LENT}{server.registry}")


SPELLS: tuple[Spell, ...] = (
    silence,
    errors,
    flapping,
    gross_lie,
    small_lie,
    garbled,
    lossy,
    unreadable,
    restored,
    blank,
    ended,
    emptied,
    restarted,
    swapped,
    lost_answers,
    slow,
    refused,
    deaf,
    parted,
    superseded,
)


async def cast(world: World) -> None:
    """One spell over one registry that has none yet."""
    server = world.rng.choice(list(world.servers.values()))
    if server not in world.under_spell:
        await under(world, server, world.rng.choice(SPELLS), seconds(world, 20.0))


async def under(world: World, server: Server, spell: Spell, lasts: float) -> None:
    """A registry under one spell for so many seconds."""
    world.under_spell.add(server)
    world.note(f"SPELL {spell.__name__} over {server!r} for {lasts:.1f} s")
    world.said.may_leave()
    try:
        await spell(world, server, lasts)
    finally:
        relieve(world, server)
        world.said.may_leave()
        world.note(f"SPELL {spell.__name__} over {server!r} ends")


def relieve(world: World, server: Server) -> None:
    """Whatever was wrong with a registry is over, and what was parked is tried again."""
    rejected = {name for name, error in server.refused.items() if isinstance(error, Rejected)}
    server.latency = LATENCY
    for process in world.processes:
        process.cut_off.discard(server)
    if (other := world.behind[server.registry, server.scope]) is not server:
        world.behind[server.registry, server.scope] = server
        other.fail_with(Unavailable("this address answers no more"))
    server.heal()
    lied = server.weather != Weather()
    if server.another_life:
        server.mend()
    if lied:
        server.weather = Weather()
        server.cut()
    world.under_spell.discard(server)
    for other in world.servers.values():
        for name, id in world.natives(other):
            names = {name_at(link, other.registry, name) for _, link in world.links_to(server)}
            if not rejected.isdisjoint(names):
                world.alter(other, name, id)
