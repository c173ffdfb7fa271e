"""Daemons of one group on one broker, each behind a proxy of its own towards it, and what the destination went through.

An ungrouped daemon publishes an etcd; the members write another etcd from the stream, or another kind of store.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapters.etcd import etcd_pb2 as pb
from bridge.config.load import load
from bridge.engine.opening import opened
from bridge.shards import Shards
from bridge.state import segments
from tests.group.judge import NOBODY, Gap, Holders, Turn, Verdict, gaps, one_writer, said
from tests.group.load import SHARDS, Load, shard_of
from tests.group.targets import KINDS, Events, Target
from tests.kit.natives import LOCKS, PREFIX, Etcd, Event, wrongful
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd as EtcdServer
from tests.servers.kafka import Kafka
from tests.servers.server import Server

MEMBERS = 3
GROUP = "crew"
SLACK = 15.0  # seconds that what a busy member has heard may be old
GUARD = {
    "confirm_event": "1s",
    "confirm_absence": "1s",
    "source_count": 100,
    "hard_count": 1000,  # on a busy machine removals come late and many at once: none is to wait for an operator
    "service_share": 0.2,
}
LOCK = re.compile(rf"{LOCKS}b1/[^/]+/shards/(\d+)$")
WHO = re.compile(rb'"who": ?"([^"]*)"')
OBSERVER = "/~observer"  # the test's own
MOVED = 60.0  # seconds in which shards have moved for certain, on a machine that is busy


class Member:
    """One daemon. `names`: of its processes, one after the other, as its locks have them."""

    def __init__(self, bridge: Bridge, proxy: Proxy) -> None:
        self.bridge = bridge
        self.proxy = proxy
        self.name = bridge.file.stem
        self.pids: dict[int, float] = {}
        self.killed = False

    async def start(self) -> None:
        """Returns when it is ready, or (where it is cut off) at once."""
        await self.bridge.start(ready=False)
        self.pids[self.bridge.process.pid] = time.monotonic()

    async def kill(self) -> None:
        """SIGKILL: its last lines may be lost."""
        self.killed = True
        await self.bridge.kill()

    async def cut(self) -> None:
        """Cut off from Kafka: what is sent there never arrives, and nobody says so."""
        self.proxy.drop()

    async def heal(self) -> None:
        """In touch again; connections that lost something are of no use."""
        await self.proxy.cut()
        await self.proxy.heal()


class Figure(NamedTuple):
    """How long shards went unwritten around one event. `moved`: those that went from one member to another."""

    what: str
    gaps: Sequence[Gap]
    moved: frozenset[int]

    @property
    def worst(self) -> float:
        return max(one.seconds for one in self.gaps)

    @property
    def beyond(self) -> float:
        """How much longer one that moved went unwritten than any other: those show how busy the machine is."""
        moved = [one.seconds for one in self.gaps if one.shard in self.moved]
        others = [one.seconds for one in self.gaps if one.shard not in self.moved]
        return max(moved, default=0.0) - max(others, default=0.0)

    def __str__(self) -> str:
        seconds = sorted(one.seconds for one in self.gaps)
        every = " ".join(f"{one:.1f}" for one in seconds)
        median = seconds[len(seconds) // 2]
        return f"{self.what}: unwritten for {median:.2f} s at the median, {self.beyond:.2f} s more by a move: {every}"


class Fleet:
    """The members and what they write. `history`: all that happened at the destination, from its first revision on.

    `whole`: that is every write, however soon it was overwritten.
    """

    def __init__(
        self, kafka: Kafka, load: Load, target: Target, history: Events, members: Sequence[Member], *, whole: bool
    ) -> None:
        self.kafka = kafka
        self.load = load
        self.target = target
        self.history = history
        self.members = members
        self.whole = whole
        self.figures: list[Figure] = []
        self._spoilt: set[int] = set()  # revisions at which the test itself wrote there

    # -- what is seen of them

    def turns(self) -> list[Turn]:
        """How the locks of the shards went from one to another, by the names of the members."""
        found = []
        for event in self.history:
            if lock := LOCK.match(event.key):
                who = WHO.search(event.value.encode()) if event.value is not None else None
                holder = self._member(who[1].decode(), event.at) if who else NOBODY
                found.append(Turn(event.revision, int(lock[1]), holder))
        return found

    def _member(self, who: str, at: float) -> str:
        """Who was called so then: in a long history a number of a process comes again."""
        pid = int(who.rpartition(":")[2])
        begun = [(one.pids[pid], one.name) for one in self.members if one.pids.get(pid, at) < at]
        return max(begun)[1] if begun else who

    def holders(self) -> dict[int, str]:
        """Who holds which shard now."""
        return {turn.shard: turn.holder for turn in sorted(self.turns())}

    async def begin(self, *members: Member) -> Sequence[Member]:
        """Starts these members, or all, and waits until they share the shards; those that run now."""
        running = members or self.members
        await asyncio.gather(*(one.start() for one in running))
        await self.shared(*running)
        return running

    async def shared(self, *members: Member, within: float = MOVED) -> None:
        """Waits until these, and nobody else, hold all shards, each its part."""
        names = {one.name for one in members}
        fewest, most = SHARDS // len(names), -(-SHARDS // len(names))

        def is_shared() -> bool:
            held = Counter(self.holders().values())
            return held.keys() == names and all(fewest <= count <= most for count in held.values())

        await until(is_shared, f"{sorted(names)} share the shards, and not {self.holders()}", within, every=0.1)

    def entries(self) -> list[Event]:
        """What members did to entries."""
        return [
            event
            for event in self.history
            if event.key.startswith(PREFIX) and event.revision not in self._spoilt and event.key != OBSERVER
        ]

    async def spoil(self, among: Collection[str]) -> dict[str, str]:
        """Takes one of these away in each shard at the destination, behind the members' backs; what they said."""
        assert isinstance(self.target, Etcd)
        taken: dict[int, tuple[str, str]] = {}
        for where, value in (await self.target.records()).items():
            if where in among:
                taken.setdefault(shard_of(where), (where, value))
        for where, _ in taken.values():
            gone = await self.target.call("delete", pb.DeleteRangeRequest(key=where.encode()))
            self._spoilt.add(gone.header.revision)
        return dict(taken.values())

    @asynccontextmanager
    async def measured(self, what: str, settle: float = 1.0) -> AsyncIterator[None]:
        """Notes for how long shards go unwritten from now on, until some seconds after the block."""
        begin, turns = time.monotonic(), len(self.turns())
        yield
        await asyncio.sleep(settle)
        await self.history.caught_up()
        moved = frozenset(turn.shard for turn in self.turns()[turns:])
        self.figures.append(Figure(what, gaps(self.entries(), SHARDS, shard_of, begin, time.monotonic()), moved))
        print(self.figures[-1])

    # -- in the end

    async def equal(self) -> bool:
        """Whether the destination has what the source has."""
        return await self.target.records() == self.load.source.truth.now

    async def judged(self, running: Collection[Member]) -> Verdict:
        """Everything converges, nobody wrote what was another's, nothing was removed that the source had."""
        self.load.flows.clear()
        try:
            await until(self.equal, "all is equal in the end", every=0.3)
        except AssertionError:
            await self._tell(running)
            raise
        for member in running:
            assert await member.bridge.stop() == 0
        await self.history.caught_up()
        journals = {
            one.name: said(segments.read(one.bridge.state / "journal"), "new") for one in self.members if one.pids
        }
        killed = [one.name for one in self.members if one.killed]
        verdict = one_writer(self.entries(), Holders(self.turns()), journals, shard_of, killed, whole=self.whole)
        print(f"writes {dict(verdict.writes)}, of which no journal has {verdict.unsaid}")
        assert verdict.faults == []
        assert wrongful(self.entries(), self.load.source.truth, SLACK) == []
        assert await self.target.halves() == []
        return verdict

    async def _tell(self, running: Collection[Member]) -> None:
        """What is not as it should be, and what each member says of itself."""
        there, wanted = await self.target.records(), self.load.source.truth.now
        for where in sorted(there.keys() | wanted.keys()):
            if there.get(where) != wanted.get(where):
                print(f"{where} in shard {shard_of(where)}: {there.get(where)} and not {wanted.get(where)}")
        print(self.holders())
        for member in running:
            now = await member.bridge.ask("status")
            print(member.name, now["links"], now["scopes"], await member.bridge.holds())


def publisher(folder: Path, kafka: Kafka, source: EtcdServer) -> Bridge:
    """The daemon that fills the stream."""
    registries = {
        "core": {"kind": "etcd", "endpoints": [source.url], "layout": "kratos"},
        "stream": stream(kafka.address),
    }
    link = {"from": "core", "to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    return Bridge(folder, registries, [link], name="publisher", id="p1", seat="core")


def stream(server: str) -> dict[str, Any]:
    """Its block."""
    return {"kind": "kafka", "bootstrap_servers": [server], "partitions": SHARDS}


def writer(folder: Path, kafka: str, target: Server, name: str, **bridge: Any) -> Bridge:
    """One that writes the destination from the stream."""
    registries = {"stream": stream(kafka), "new": KINDS[type(target)].block(target)}
    link = {"name": "onward", "from": "stream/core", "to": "new", "policy": "sync", "services": {"include": ["*"]}}
    return Bridge(folder, registries, [{**link, "guard": GUARD}], name=name, **bridge)


async def divide(member: Bridge) -> None:
    """As `isthmus group init` does."""
    async with opened(load(member.file), "new", "b1") as place:
        assert isinstance(place.seat, Shards)
        await place.seat.divide(SHARDS)


@asynccontextmanager
async def fleet(
    folder: Path, kafka: Kafka, source: EtcdServer, target: Server, seed: int, count: int = MEMBERS
) -> AsyncIterator[Fleet]:
    """So many members, none of which runs yet; the stream is filled, and changes all the time."""
    async with AsyncExitStack() as open:
        core = await open.enter_async_context(Etcd(source.address))
        load = Load(core, random.Random(seed))
        await load.found()
        kind = KINDS[type(target)]
        new, history = await open.enter_async_context(kind.seen(target))
        members = []
        for number in range(count):
            proxy = await open.enter_async_context(kafka.behind_a_proxy(number))
            bridge = writer(folder, proxy.address, target, f"m{number}", group=GROUP, additions="flow")
            open.push_async_exit(bridge.__aexit__)
            members.append(Member(bridge, proxy))
        await divide(members[0].bridge)
        await open.enter_async_context(publisher(folder, kafka, source))
        async with load.flowing():
            yield Fleet(kafka, load, new, history, members, whole=kind.whole)
