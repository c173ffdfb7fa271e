"""Histories of a group: a registry is published, and three members share the writing of where the picture is copied to.

What may never happen: a shard is written by another than the holder of its lock; something alive is removed, or
anything by who should not write its shard; the guard's limits are passed by all members together; and a shard stays
unwritten while nothing is wrong with who holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from adapters import kafka
from adapters.memory import server
from adapters.memory.lots import Lots, MemoryLife
from adapters.memory.server import Fence, Store
from bridge.adapter import Change
from bridge.destination.apply import Batch
from bridge.destination.group import PROBE, UNREACHED, Group, Shard
from bridge.destination.reserves import Reserves
from bridge.errors import Unavailable
from bridge.group.sharding import Sharding
from bridge.model import ServiceName
from bridge.shards import Member
from mappings import kafka as mapping
from tests.kit.mutants import Mutant
from tests.simulation import streams
from tests.simulation.broker import Broker
from tests.simulation.history import link
from tests.simulation.loop import PROCESS, Loop
from tests.simulation.streams import OPEN, SERVICES, Host

SHARDS = 6
MEMBERS = 3
OWNER, GROUP = "y", "crew"
SESSION = 6.0  # seconds without a heartbeat after which the group goes on without a member
BEAT = 1.0  # seconds between two of them
LOST = 1.5  # seconds in which a removal that was sent as it might be has arrived
UNWRITTEN = 8.0  # seconds that a shard may be unwritten while its holder is well: a lock ends and is taken in that time
LIMIT = 4
FREE = replace(OPEN, service_share=0.0)
STRICT = replace(FREE, source_count=LIMIT, source_share=0.0, confirm_event=60.0)

Scenario = Callable[["World"], Coroutine[Any, Any, None]]


class Coordinator:
    """The group: who is a member, what each has, and what each is to have. A shard moves once its owner has let go."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._beats: dict[Membership, float] = {}
        self._owned: dict[int, Membership] = {}
        self._meant: dict[int, Membership] = {}

    def beat(self, member: Membership) -> frozenset[int]:
        """A heartbeat, and what the member has from now on."""
        is_new = member not in self._beats
        self._beats[member] = self._world.loop.time()
        if is_new:
            self._deal()
        let_go = {shard for shard, one in self._owned.items() if one is member and self._meant[shard] is not member}
        self._owned = {shard: one for shard, one in self._owned.items() if shard not in let_go}
        self._owned |= {shard: one for shard, one in self._meant.items() if one is member and shard not in self._owned}
        return frozenset(shard for shard, one in self._owned.items() if one is member)

    def leave(self, member: Membership) -> None:
        """It is no member any more."""
        if self._beats.pop(member, None) is not None:
            self._owned = {shard: one for shard, one in self._owned.items() if one is not member}
            self._deal()

    async def run(self) -> None:
        """Goes on without who is silent; while the broker is down nobody is."""
        while True:
            await asyncio.sleep(BEAT / 2)
            now = self._world.loop.time()
            if not self._world.broker.is_up:
                self._beats = dict.fromkeys(self._beats, now)
            for member in [one for one, at in self._beats.items() if now - at > SESSION]:
                self.leave(member)

    def members(self) -> list[Membership]:
        """Those that there are."""
        return [*self._beats]

    def _deal(self) -> None:
        """As even as it can be, with as few moves as can be."""
        members = [*self._beats]
        meant = {shard: one for shard, one in self._meant.items() if one in self._beats}
        most = -(-SHARDS // len(members)) if members else 0
        for member in members:
            for shard in [shard for shard, one in meant.items() if one is member][most:]:
                del meant[shard]
        for shard in sorted({*range(SHARDS)} - meant.keys()) if members else ():
            meant[shard] = min(members, key=lambda one: sum(each is one for each in meant.values()))
        for poor in members:
            have = [shard for shard, one in meant.items() if one is poor]
            if len(have) < SHARDS // len(members):
                rich = max(members, key=lambda one: sum(each is one for each in meant.values()))
                meant[next(shard for shard, one in meant.items() if one is rich)] = poor
        self._meant = meant


class Membership:
    """See `bridge.shards.Membership`. `lost`: by shard, since when it is not to be written here."""

    def __init__(self, world: World, who: str) -> None:
        self.should: frozenset[int] = frozenset()
        self.away = False
        self.fault = ""
        self.lost: dict[int, float] = {}
        self._world = world
        self._who = who
        self._host = PROCESS.get()
        self._heard = world.loop.time()
        self._given: dict[int, int] = {}
        self._news = asyncio.Event()
        world.memberships[self._host] = self

    def assignment(self, shard: int) -> int:
        """How often it was given."""
        return self._given.get(shard, 0)

    async def changed(self) -> None:
        """The next change."""
        await self._news.wait()

    async def run(self) -> None:
        """A member."""
        try:
            while True:
                if self._world.broker.answers(self._host):
                    self._heard = self._world.loop.time()
                    self._learn(self._world.coordinator.beat(self), away=False)
                elif self._world.loop.time() - self._heard >= SESSION:
                    self._learn(frozenset(), away=True)
                await asyncio.sleep(BEAT)
        finally:
            self._learn(frozenset(), away=True)
            self._world.coordinator.leave(self)

    async def members(self) -> Sequence[Member]:
        """All."""
        found = self._world.coordinator.members()
        return [Member(who=f"{self._who}/{number}", shards=tuple(one.should)) for number, one in enumerate(found)]

    def removes(self, shard: int) -> bool:
        """Whether it was to write a shard as far as it knew, up to a moment ago."""
        return shard in self.should or self._world.loop.time() - self.lost.get(shard, float("-inf")) < LOST

    def _learn(self, should: frozenset[int], *, away: bool) -> None:
        for shard in self.should - should:
            self.lost[shard] = self._world.loop.time()
        for shard in should - self.should:
            self._given[shard] = self._given.get(shard, 0) + 1
        if (should, away) != (self.should, self.away):
            self.should, self.away = should, away
            news, self._news = self._news, asyncio.Event()
            news.set()


class Cluster(Broker):
    """A broker that some processes cannot reach.

    `deaf`: their heartbeats arrive, and nothing that they are to read; `unheard`: the other way round.
    """

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.cut: set[object] = set()
        self.deaf: set[object] = set()
        self.unheard: set[object] = set()

    @property
    def is_up(self) -> bool:
        """Whether it runs."""
        return self._up.is_set()

    def answers(self, host: object) -> bool:
        """Whether the group hears a process."""
        return self.is_up and host not in self.cut | self.unheard

    async def reached(self, late: float = 0.0) -> None:
        """A request travels, and waits while nobody answers."""
        await super().reached(late)
        while PROCESS.get() in self.cut | self.deaf:
            await asyncio.sleep(0.5)


class Lives(Lots):
    """The locks of shards, and whose each life is."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: dict[str, object] = {}

    def born(self) -> MemoryLife:
        life = super().born()
        self.hosts[life.id] = PROCESS.get()
        return life


class Judged(Store):
    """The destination, of which each write is judged as it is made."""

    def __init__(self, world: World) -> None:
        super().__init__("mem:c")
        self.lots: Lives = Lives()
        self.late = 0.0  # seconds that a request is on its way at most
        self.storeless: set[object] = set()  # processes that do not reach it
        self._world = world

    async def reached(self) -> None:
        """A request travels."""
        await super().reached()
        if PROCESS.get() in self.storeless:
            raise Unavailable("this process does not reach the mirror")
        if self.late:
            await asyncio.sleep(self._world.rng.random() * self.late)

    def commit(self, bridge: str, tenure: Fence | None, change: Change) -> int | None:
        """One transaction."""
        stood = change.id in self.instances(change.service)
        revision = super().commit(bridge, tenure, change)
        if not change.forget:
            self._world.written(change, is_removal=change.after is None and stood)
        return revision


class World(streams.World):
    """A registry, the stream of it, and a mirror that several members write."""

    broker: Cluster

    def __init__(self, loop: Loop, seed: int) -> None:
        super().__init__(loop, seed, SHARDS)
        committed = self.broker.committed
        self.broker = Cluster(loop, self.rng, SHARDS)
        self.broker.committed = committed
        self.mirror = self.stores["c"] = Judged(self)
        self.coordinator = Coordinator(self)
        self.memberships: dict[object, Membership] = {}
        self.members: list[Host] = []
        self.links = ONWARD
        self.removals: list[float] = []  # when
        self.last: dict[int, float] = {}  # when each shard was written last
        self.mirror.divide(OWNER, SHARDS)

    def make(self, name: str, kind: str, options: Any, state: Path | None) -> Any:
        """The registry as one process reaches it; the stream with the group of this world."""
        made = super().make(name, kind, options, state)
        if isinstance(made, kafka.Kafka):
            made.membership = lambda group, who: Membership(self, who)  # type: ignore[method-assign, assignment, return-value]
        return made

    def join(self) -> Host:
        """One more member."""
        host = Host(self, OWNER, self.links, group=GROUP)
        self.hosts.append(host)
        self.members.append(host)
        return host

    def kill(self, host: Host) -> None:
        """SIGKILL."""
        super().kill(host)
        if host in self.members:
            self.members.remove(host)

    def supersede(self, host: Host) -> None:
        """Its locks end, those of shards as well."""
        super().supersede(host)
        for life in [life for life, of in self.mirror.lots.hosts.items() if of is host]:
            self.mirror.lots.end(life)

    def shard_of(self, service: ServiceName) -> int:
        """The shard of a service."""
        return mapping.partition_of(service, SHARDS)

    def holder(self, shard: int) -> object:
        """The process that has the lock of a shard; None: nobody has it."""
        lots = self.mirror.lots
        return lots.hosts.get(lots.picture(OWNER).lot(shard).life)

    def written(self, change: Change, *, is_removal: bool) -> None:
        """Somebody has just written there."""
        shard, host, now = self.shard_of(change.service), PROCESS.get(), self.loop.time()
        self.last[shard] = now
        what = f"{now:.3f} {change.service}/{change.id} of shard {shard}"
        if self.holder(shard) is not host:
            self.broken.append(f"{what} was written by who has not its lock")
        if is_removal:
            self.removals.append(now)
            member = self.memberships.get(host)
            if member is not None and not member.removes(shard):
                self.broken.append(f"{what} was removed by who is not to write it")

    def _held(self, name: str) -> dict[streams.Place, str]:
        store = self.stores[name]
        return {(service, id): one.version for service in store.names() for id, one in store.instances(service).items()}

    async def shared(self, members: int = MEMBERS) -> None:
        """Returns when so many processes have the locks of all shards."""
        until = self.loop.time() + streams.BOUND
        while len({self.holder(shard) for shard in range(SHARDS)} - {None}) != members or None in map(
            self.holder, range(SHARDS)
        ):
            if self.loop.time() > until:
                self.broken.append(f"{self.loop.time():.3f} {members} members do not share the shards")
                return
            await asyncio.sleep(0.5)

    async def serve(self, seconds: float, bound: float = UNWRITTEN) -> None:
        """Every shard changes all the time, and is written all the time."""
        ends = self.loop.time() + seconds
        self.last = dict.fromkeys(range(SHARDS), self.loop.time())
        while self.loop.time() < ends and not self.broken:
            for service in SERVED:
                self.put(service, "i0")
            await asyncio.sleep(1.0)
            for shard, at in self.last.items():
                if self.loop.time() - at > bound:
                    self.broken.append(f"{self.loop.time():.3f} shard {shard} has not been written since {at:.3f}")


NAMES = tuple(ServiceName(f"s{number}") for number in range(200))
SERVED = tuple(next(one for one in NAMES if mapping.partition_of(one, SHARDS) == shard) for shard in range(SHARDS))
TO_STREAM = (link("stream", "a", guard=FREE),)
ONWARD = (link("c", "stream/a", guard=FREE),)
WARY = (link("c", "stream/a", guard=STRICT),)


async def begun(world: World, members: int = MEMBERS) -> None:
    """One publishes, so many members copy onward, and all is copied."""
    world.loop.spawn(None, world.coordinator.run())
    for service in dict.fromkeys((*SERVICES, *SERVED)):
        for number in range(4):
            world.put(service, f"i{number}")
    world.start("x", TO_STREAM)
    for _ in range(members):
        world.join()
    await world.agreed()
    await world.shared(members)


async def any_member(world: World) -> None:
    """Natives change; members join, leave, die, freeze and are cut off, and the broker is down for a while."""
    await begun(world)
    for _ in range(streams.STEPS):
        await asyncio.sleep(world.rng.random() * 3.0)
        dice, member = world.rng.random(), world.rng.choice(world.members)
        seconds = world.rng.random() * 20.0
        if dice < 0.7:
            world.change()
        elif dice < 0.76:
            world.kill(member)
            world.join()
        elif dice < 0.84:
            world.loop.spawn(None, frozen(world, member, seconds))
        elif dice < 0.92:
            world.broker.cut.add(member)
            world.loop.call_later(seconds, world.broker.cut.discard, member)
        else:
            world.broker.down()
            world.loop.call_later(seconds, world.broker.back)
    world.broker.back()
    await asyncio.sleep(25.0)
    await world.shared()
    await world.serve(20.0)


async def frozen(world: World, member: Host, seconds: float) -> None:
    """It is stopped, and its locks end if it is stopped for long enough."""
    world.loop.stop_process(member)
    await asyncio.sleep(min(seconds, 4.0))
    if seconds > 4.0 and member in world.members:
        world.supersede(member)
        await asyncio.sleep(seconds - 4.0)
    if member in world.members:  # who is killed meanwhile does not wake
        world.loop.continue_process(member)


async def joined_by_the_deaf(world: World) -> None:
    """A member joins that hears nothing of the stream for long: who has the shards goes on with them."""
    await begun(world, MEMBERS - 1)
    joined = world.join()
    world.broker.deaf.add(joined)
    await world.serve(30.0)
    world.broker.deaf.discard(joined)
    await world.shared()
    await world.serve(10.0)


async def cared_for(world: World) -> None:
    """Nobody hears of the group, and something goes: it stays where it is until somebody is to write its shard."""
    await begun(world)
    for turn in range(6):
        world.broker.unheard.update(world.members)
        await asyncio.sleep(SESSION + 2 * BEAT)
        world.stop(SERVED[turn], "i1")
        await asyncio.sleep(SESSION)
        world.broker.unheard.clear()
        await world.agreed()


async def stopped_in_mid_write(world: World) -> None:
    """A member is stopped while what it sent is on its way, and wakes when another one has its shards."""
    await begun(world)
    world.mirror.late = 0.5
    for _ in range(6):
        await asyncio.sleep(3.0)
        member = world.rng.choice(world.members)
        for service in SERVED:
            world.put(service, "i0")
        await asyncio.sleep(world.rng.random() * 0.5)
        world.loop.stop_process(member)
        await asyncio.sleep(4.0)
        world.supersede(member)
        await asyncio.sleep(SESSION)
        world.loop.continue_process(member)
    world.mirror.late = 0.0


async def without_the_store(world: World) -> None:
    """One member alone does not reach the destination: others write its shards, and it is back when it does."""
    await begun(world)
    member = world.rng.choice(world.members)
    world.mirror.storeless.add(member)
    await asyncio.sleep(10.0)
    world.supersede(member)  # its lease ends
    await asyncio.sleep(UNREACHED + 2 * PROBE)
    await world.shared(MEMBERS - 1)
    await world.serve(10.0)
    world.mirror.storeless.discard(member)
    await asyncio.sleep(2 * PROBE)
    await world.shared()
    await world.serve(10.0)


async def lost_at_once(world: World) -> None:
    """In every shard something goes at the same moment: together it is more than may go."""
    world.links = WARY
    await begun(world)
    await asyncio.sleep(60.0)  # the first copies are no gains any more
    before = len(world.removals)
    for service in SERVED:
        world.stop(service, "i1")
    await asyncio.sleep(STRICT.confirm_event / 2)  # before a second opinion lets them go
    if (gone := len(world.removals) - before) > LIMIT:
        world.broken.append(f"{world.loop.time():.3f} {gone} were removed at once, and {LIMIT} may go")


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (any_member, joined_by_the_deaf, cared_for, stopped_in_mid_write, without_the_store, lost_at_once)
}


def play(scenario: Scenario, seed: int) -> list[str]:
    """One history; which promises it broke."""
    return streams.lived(World(Loop(), seed), scenario)


# -- mutants


def _claim_before_complete() -> list[tuple[Any, str, Any]]:
    async def complete(self: Group, one: Shard) -> None:
        one.whole = self._assignment(one)
        self._changed()

    return [(Group, "_complete", complete)]


def _lock_not_compared() -> list[tuple[Any, str, Any]]:
    return [(server.Store, "compare", lambda self, fence: None)]


def _another_shard() -> list[tuple[Any, str, Any]]:
    real = Sharding.of

    def of(self: Sharding, name: ServiceName) -> int:
        return (real(self, name) + (name == SERVED[1])) % SHARDS

    return [(Sharding, "of", of)]


def _caretaker_removes() -> list[tuple[Any, str, Any]]:
    return [(Group, "waits_in", lambda self, shard: "")]


def _reserve_skipped() -> list[tuple[Any, str, Any]]:
    async def allowed(self: Reserves, batch: Batch) -> list[Change]:
        return batch.changes

    return [(Reserves, "allowed", allowed)]


def _stays() -> list[tuple[Any, str, Any]]:
    async def unreached(self: Group) -> None:
        await asyncio.Event().wait()

    return [(Group, "_unreached", unreached)]


MUTANTS = {
    "another-shard": Mutant(
        "a service is written under the lock of another shard", "stopped_in_mid_write", _another_shard
    ),
    "caretaker-removes": Mutant("who should not write a shard removes there", "cared_for", _caretaker_removes),
    "claim-before-complete": Mutant(
        "a shard is claimed before its picture is complete", "joined_by_the_deaf", _claim_before_complete
    ),
    "member-lock-not-compared": Mutant(
        "no write compares the lock of its shard", "stopped_in_mid_write", _lock_not_compared
    ),
    "stays-without-store": Mutant(
        "who does not reach the store of the locks stays a member", "without_the_store", _stays
    ),
    "reserve-skipped": Mutant("removals are sent without being reserved", "lost_at_once", _reserve_skipped),
}
