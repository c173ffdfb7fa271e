"""Brokers and daemons die under load: the state topic is what is alive, and the log leaves nothing out unsaid."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.model import Mark, ServiceName
from bridge.state import segments
from bridge.state.record import Record
from mappings import kafka as mapping
from mappings import kratos
from tests.conftest import StartEtcd, StartKafka, provided
from tests.kit import changes
from tests.kit.natives import PREFIX, Etcd, key, record
from tests.kit.running import Bridge
from tests.kit.stream import Stream
from tests.kit.waiting import until
from tests.servers.etcd import Etcd as EtcdServer
from tests.servers.kafka import Kafka, cluster
from tests.servers.server import together

PARTITIONS = 3
SERVICES, INSTANCES = 20, 12
AT_ONCE = 10
EVERY = 0.02  # seconds: with `AT_ONCE`, 500 changes a second where the machine is that fast
LANES = 3  # estates whose daemons die side by side, and share the 500 changes
SLACK = 15.0  # seconds that what a busy daemon has heard may be old
LIMITS = {"confirm_event": "1s", "confirm_absence": "1s", "source_share": 1, "hard_share": 1, "hard_count": 1000}
GUARD = {**LIMITS, "service_share": 1, "source_count": 1000, "last_instance": "pass"}


class Load:
    """Instances of kratos that come, change and go, some at once; every record says the number of its change."""

    def __init__(self, source: Etcd, rng: random.Random, every: float = EVERY) -> None:
        self.source = source
        self.changes = 0
        self.flows = asyncio.Event()
        self._rng = rng
        self._every = every
        self._lease = 0
        self._places = [(f"pay-{s}", f"i{i}") for s in range(SERVICES) for i in range(INSTANCES)]

    async def some(self) -> None:
        """Some changes at once."""
        self._lease = self._lease or await self.source.lease(3600)
        places = self._rng.sample(self._places, AT_ONCE)
        await asyncio.gather(*(self._change(*place) for place in places))

    async def _change(self, service: str, id: str) -> None:
        self.changes += 1
        where = key(service, id)
        if where in self.source.truth.now and self._rng.random() < 0.15:
            await self.source.delete(where)
            return
        address = f"192.0.2.{self._rng.randint(1, 254)}"
        text = record(service, id, address, 10_000 + self.changes % 50_000, n=str(self.changes))
        await self.source.put(where, text, self._lease)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """All the while."""

        over = asyncio.Event()
        self.flows.set()

        async def flow() -> None:
            while not over.is_set():
                await self.flows.wait()
                await asyncio.gather(self.some(), asyncio.sleep(self._every))

        task = asyncio.create_task(flow())
        try:
            yield
        finally:
            self.flows.set()
            over.set()  # a write that is cut short may have been made
            await task

    async def more(self, count: int) -> None:
        """Returns after so many changes."""
        before = self.changes
        await until(lambda: self.changes >= before + count)

    async def bytes(self, owner: str, identity: str) -> dict[bytes, bytes]:
        """What a stream that this bridge fills has to have, key by key: to the byte."""
        found = {}
        for kv in await self.source.below():
            service, id = kv.key.decode().removeprefix(PREFIX).split("/")
            name = ServiceName(service)
            published = mapping.in_picture("core", name)
            mark = Mark(owner, "core-to-stream", (identity,), "", name, id)
            one = kratos.decode(name, id, kv.value, "grpc")
            found[mapping.key_of(published, id)] = mapping.encode(published, mapping.canonical(published, one), mark)
        return found


class Site(NamedTuple):
    """An etcd under load, and the topics that the bridge with that id publishes it in."""

    id: str
    load: Load
    server: Kafka
    state: Stream
    log: Stream

    async def held(self) -> dict[bytes, bytes]:
        """What the state topic has, key by key."""
        found: dict[bytes, bytes] = {}
        for each in await self.state.records():
            if each.value is None:
                found.pop(each.key, None)
            elif not mapping.place_of(each.key).complete:
                found[each.key] = each.value
        return found

    async def begun(self) -> bool:
        """Whether the state topic says that it is whole."""
        return len(await self.state.completes()) >= PARTITIONS

    async def equal(self) -> bool:
        """Whether the state topic is what is alive, to the byte."""
        found = await self.held()
        marks = {mapping.decode(mapping.place_of(where), value)[1] for where, value in found.items()}
        (identity,) = {mark.path[0] for mark in marks if mark is not None} or {""}
        return found == await self.load.bytes(self.id, identity)

    async def wrongful(self) -> list[str]:
        """The removals that no removal at the source lies behind, or one that was undone long before."""
        found = []
        now = time.time() - time.monotonic()
        for each in await self.state.records():
            place = mapping.place_of(each.key)
            if each.value is None and not place.complete:
                at = datetime.fromisoformat(dict(each.headers)["ce_time"].decode()).timestamp() - now
                if not self.load.source.truth.allows_removal(key(place.service.name, place.id), at, SLACK):
                    found.append(f"{each.key!r} was removed at offset {each.offset}, though it lives")
        return found

    async def told(self) -> list[changes.Told]:
        """The log's events, judged record by record."""
        events, faults = changes.told(await self.log.records())
        assert faults == []
        assert changes.disordered(events) == []
        return events

    async def lose_lock(self) -> None:
        """What etcd does when the writer has been silent for ten seconds."""
        await self.load.source.expire_lock(self.id)


@pytest.fixture
async def site(etcd_server: StartEtcd, kafka_server: StartKafka, seed: int) -> AsyncIterator[Site]:
    core, server = await asyncio.gather(etcd_server(), kafka_server())
    async with published(core, server, seed) as made:
        yield made


@pytest.fixture
async def replicated(
    etcd_server: StartEtcd, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> AsyncIterator[Site]:
    """The same on three brokers; each partition has a leader of its own, and two more that follow it."""
    core = await etcd_server()
    with provided():
        brokers = cluster(tmp_path_factory.mktemp("servers"))
        async with together(brokers), published(core, brokers[0], seed) as made:
            yield made


@pytest.fixture
async def lanes(etcd_server: StartEtcd, kafka_server: StartKafka, seed: int) -> AsyncIterator[list[Site]]:
    """Several of them on one broker, which have the load of one together."""
    server, cores = await asyncio.gather(kafka_server(), asyncio.gather(*(etcd_server() for _ in range(LANES))))
    async with AsyncExitStack() as stack:
        made = [
            published(core, server, seed + number, f"b{number}", EVERY * LANES) for number, core in enumerate(cores, 1)
        ]
        yield [await stack.enter_async_context(one) for one in made]


@asynccontextmanager
async def published(
    core: EtcdServer, server: Kafka, seed: int, id: str = "b1", every: float = EVERY
) -> AsyncIterator[Site]:
    async with (
        Etcd(core.address) as source,
        Stream.open(server, PARTITIONS, f"{id}.state") as state,
        Stream.open(server, PARTITIONS, f"{id}.changes") as log,
    ):
        load = Load(source, random.Random(seed), every)
        for _ in range(20):
            await load.some()
        yield Site(id, load, server, state, log)


def bridge(folder: Path, site: Site, name: str = "one") -> Bridge:
    servers = [one.address for one in site.server.nodes]
    topics = {"state_topic": site.state.topic, "changes_topic": site.log.topic}
    registries = {
        "core": {"kind": "etcd", "endpoints": [f"http://{site.load.source.address}"], "layout": "kratos"},
        "stream": {"kind": "kafka", "bootstrap_servers": servers, "partitions": PARTITIONS, **topics},
    }
    link = {"from": "core", "to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    return Bridge(folder, registries, [link], name=name, id=site.id, seat="core")


def noted(daemon: Bridge, after: int) -> list[Record]:
    """What a daemon's journal has observed, after a line."""
    lines = segments.read(daemon.state / "journal")
    return [one for one in lines if one.kind == changes.OBSERVED and one.seq > after]


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.timeout(3600)
async def test_a_broker_that_dies_under_load_costs_no_change_and_no_event(
    folder: Path, site: Site, seed: int, kills: int
) -> None:
    await survives(folder, site, random.Random(seed), kills)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_leaders_that_die_under_load_cost_no_change_and_no_event(
    folder: Path, replicated: Site, seed: int
) -> None:
    await survives(folder, replicated, random.Random(seed), 30)


async def survives(folder: Path, site: Site, rng: random.Random, kills: int) -> None:
    """Kills one broker after the other, while what is published changes."""
    async with bridge(folder, site) as daemon:
        await until(site.begun, "it has begun")  # nothing is said to be whole while there is more to do than time
        async with site.load.flowing():
            for number in range(kills):
                await site.load.more(rng.randrange(50, 500))
                broker = rng.choice(site.server.nodes)
                await broker.kill()
                await site.load.more(1000 if number == 1 else 20)  # once it is away for longer
                site.load.flows.clear()  # what a test of minutes would have to read back
                await broker.start()
                site.load.flows.set()
        await until(site.equal, "what is alive is published", every=0.5)
        await until(lambda: shipped(daemon) >= last(daemon), "all that was noted is shipped", every=0.5)
        events = await site.told()
        assert await daemon.stop() == 0
    assert await site.wrongful() == []
    assert changes.broken(events) == []
    numbers = {one.data["number"] for one in events}
    assert numbers >= {one.seq for one in noted(daemon, min(numbers))}


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.timeout(3600)
async def test_whoever_takes_over_goes_on_and_says_what_is_not_known(
    folder: Path, lanes: list[Site], seed: int, kills: int
) -> None:
    async with asyncio.TaskGroup() as group:
        for number, site in enumerate(lanes):
            acts = until_killed((kills + number) // LANES, number)
            group.create_task(goes_on(folder, site, random.Random(seed + number), list(acts)))


class Pair:
    """Two daemons of one bridge, of which one writes."""

    def __init__(self, folder: Path, site: Site, rng: random.Random) -> None:
        self.site = site
        self.one, self.two = (bridge(folder, site, f"{site.id}-{name}") for name in ("one", "two"))
        self.owed: dict[Path, range] = {}  # lines that a daemon has noted, and its successor in the same folder ships
        self._rng = rng

    async def both(self) -> tuple[Bridge, Bridge]:
        """Who writes, and the other one."""
        await until(lambda: self._one_writes, "one of them writes")
        return (self.one, self.two) if await self.one.writes() else (self.two, self.one)

    async def _one_writes(self) -> bool:
        return await self.one.writes() or await self.two.writes()

    async def kill(self) -> None:
        """The writer is gone at once, and comes back as the standby of the other one."""
        writer, other = await self.both()
        await writer.kill()
        await self.site.lose_lock()
        await until(other.writes, "the other one writes")
        await writer.start()

    async def succeed(self) -> None:
        """Nobody stands by: it is its own successor, and ships what it had noted."""
        writer, other = await self.both()
        await other.stop()
        before = last(writer)
        await self.site.load.more(100)
        await writer.kill()
        self.owed[writer.state] = range(before, last(writer) + 1)
        await self.site.lose_lock()
        await writer.start()
        await until(writer.writes, "it writes again")
        await other.start()

    async def freeze(self) -> None:
        """It wakes when the other one writes."""
        writer, other = await self.both()
        writer.freeze()
        await self.site.lose_lock()
        await until(other.writes, "the other one writes")
        await self.site.load.more(100)
        writer.thaw()


Act = Callable[[Pair], Awaitable[None]]
ACTS: Sequence[Act] = (Pair.kill, Pair.kill, Pair.succeed, Pair.freeze)  # over and over; the last one kills nobody


def until_killed(kills: int, first: int) -> Iterator[Act]:
    """What becomes of the writers of a lane, from that place of the table on, until so many of them were killed."""
    for act in islice(cycle(ACTS), first, None):
        yield act
        kills -= act is not Pair.freeze
        if not kills:
            return


async def goes_on(folder: Path, site: Site, rng: random.Random, acts: Sequence[Act]) -> None:
    """One lane: what is alive is published whatever becomes of its writers, and the log says what it leaves out."""
    pair = Pair(folder, site, rng)
    async with pair.one, pair.two:
        await until(site.begun, "it has begun")  # nothing is said to be whole while there is more to do than time
        async with site.load.flowing():
            for act in acts:
                await site.load.more(rng.randrange(50, 500))
                await act(pair)
        writer, _ = await pair.both()
        await until(site.equal, "what is alive is published")
        await until(lambda: shipped(writer) >= last(writer), "all is shipped")
        events = await site.told()
        assert await pair.one.stop() == await pair.two.stop() == 0
    terms = list(changes.terms(events))
    assert len(terms) >= len(acts)
    assert await site.wrongful() == []
    assert [fault for term in terms for fault in changes.broken(term)] == []
    for daemon in (pair.one, pair.two):
        lines = {one.data["number"] for one in events if one.data["daemon"].endswith(f":{daemon.state}")}
        assert lines >= {one.seq for one in noted(daemon, 0) if one.seq in pair.owed.get(daemon.state, ())}


def shipped(daemon: Bridge) -> int:
    """Up to which line of its journal a daemon has shipped."""
    cursor = daemon.state / "shipped.stream.json"
    return int(cursor.read_text()) if cursor.exists() else 0


def last(daemon: Bridge) -> int:
    """The last line of its journal."""
    return segments.last_number(segments.segments(daemon.state / "journal"))
