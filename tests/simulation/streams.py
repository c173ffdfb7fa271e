"""Histories of a stream: a registry is published by two daemons, and another bridge copies the picture onward.

What may never happen: something alive disappears from the topic or from where it is copied to, or `complete` records
state what is not so. At every quiescent point the topic, read from its beginning, is the live picture.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

from adapters import kafka
from adapters.kafka import sink as stream_sink
from adapters.kafka.working_copy import WorkingCopy
from adapters.memory import FULL, Memory, server
from adapters.memory.server import Store, Tenure
from bridge.adapter import Change
from bridge.config import schema as blocks
from bridge.config.schema import Configuration
from bridge.daemon.audit import Audit
from bridge.daemon.metrics import Metrics
from bridge.daemon.shipping import Shipment, Shipping
from bridge.destination import completeness
from bridge.destination.events import Event
from bridge.engine.engine import Engine
from bridge.link import Guard, Link
from bridge.model import Instance, Port, ServiceName
from bridge.state import segments
from bridge.state.folder import State
from bridge.state.journal import Journal
from bridge.state.record import START
from mappings import kafka as mapping
from tests.kit import changes
from tests.kit.mutants import Mutant
from tests.simulation.broker import Broker, Record
from tests.simulation.history import link
from tests.simulation.loop import PROCESS, Loop, Stuck
from tests.simulation.process import Disk
from tests.simulation.world import SESSION

PARTITIONS = 3
TOPIC, LOG = "isthmus.state", "isthmus.changes"
SERVICES = tuple(ServiceName(f"s{number}") for number in range(8))
# The limits are open: what is promised here is not to rest on them.
OPEN = Guard(
    window=40.0,
    source_count=10_000,
    source_share=1.0,
    service_share=1.0,
    hard_count=10_000,
    hard_share=1.0,
    last_instance="pass",
    confirm_event=1.0,
    confirm_absence=1.0,
)
SLACK = 15.0  # seconds: a removal may come so long after what it removes is alive again, and no later
LATE = 40.0  # seconds by which a request may be late
BOUND = 200.0  # seconds to agree
STEPS = 60

Place = tuple[ServiceName, str]


class Owned(Tenure):
    """A contender, and whose it is."""

    def __init__(self, key: str = "") -> None:
        super().__init__(key)
        self.process = PROCESS.get()


class Silent:
    """Nobody keeps a record of what happens at destinations."""

    def tell(self, event: Event) -> None:
        """Never waits, and never fails."""


class Logged(NamedTuple):
    """A record of the log, as a reader sees it."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Host:
    """One daemon of a bridge. `folder`: where its journal is, which it ships; None: it keeps none."""

    def __init__(
        self,
        world: World,
        owner: str,
        links: tuple[Link, ...],
        disk: Disk | None = None,
        folder: Path | None = None,
        group: str | None = None,
    ) -> None:
        self.owner = owner
        self.links = links
        self.disk = Disk(world.loop.time)
        self.keeps = folder is not None
        self._journal = Journal(folder / "journal" if folder is not None else None, world.loop.time)
        audit = Audit(
            self._journal,
            Metrics(dict, owner),
            State(None, world.loop.time),
            world.loop.time,
            lambda link: None,
            lambda link: False,
        )
        self.engine = Engine(
            Configuration(
                bridge=blocks.Bridge(id=owner, resync=30.0, seat="locks", group=group),
                registries={name: world.block(name) for name in {*("locks",), *names(links)}},
                links=links,
                warnings=(),
                hash="",
                path=Path(),
            ),
            events=Silent() if folder is None else audit,
            recorder=self.disk,
            rng=random.Random(world.rng.random()),
            clock=world.loop.time,
            make=world.make,
        )
        if disk is not None:
            disk.restore(self.engine.store, self.disk)
        self._shipping = Shipping(self.engine, folder, self._journal, audit.observed)
        self.task = world.loop.spawn(self, self._run())

    @property
    def unshipped(self) -> int:
        """How many lines its journal has that the log was not told."""
        return self._shipping.unshipped()["stream"]

    async def _run(self) -> None:
        async with self.engine, asyncio.TaskGroup() as tasks:
            tasks.create_task(self.engine.crashed())
            if self.keeps:
                self._shipping.look()
                self._journal.append(START)
                tasks.create_task(self._journal.writing.run())
                tasks.create_task(self._shipping.run())


def names(links: tuple[Link, ...]) -> Iterator[str]:
    """The registries of links."""
    for one in links:
        yield one.to
        yield from one.registries


class World:
    """A registry, the stream of it, and a mirror of the stream."""

    def __init__(self, loop: Loop, seed: int, partitions: int = PARTITIONS) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.partitions = partitions
        self.broker = Broker(loop, self.rng, partitions)
        self.stores = {name: Store(f"mem:{name}") for name in ("a", "c", "locks")}
        self.since: dict[Place, float] = {}  # when a native came back to life, or came
        self.broken: list[str] = []
        self.hosts: list[Host] = []
        self.killed: list[Host] = []
        self.broker.committed = self._judge
        self._numbers = 0
        self._copy = WorkingCopy(partitions)
        self._seen: set[Place] = set()

    def block(self, name: str) -> blocks.Registry:
        """Its block of the file."""
        if name == "stream":
            options = kafka.Config(bootstrap_servers=["127.0.0.1:1"], partitions=self.partitions, changes_topic=LOG)
            return blocks.Registry(name=name, kind="kafka", options=options)
        return blocks.Registry(name=name, kind="memory", options=FULL)

    def make(self, name: str, kind: str, options: Any, state: Path | None) -> Any:
        """The registry as one process reaches it."""
        return kafka.create(name, options, state) if kind == "kafka" else Memory(name, self.stores[name])

    # -- natives

    def change(self) -> None:
        """A native comes, changes or goes."""
        service = self.rng.choice(SERVICES)
        id = f"i{self.rng.randrange(4)}"
        if id in self.stores["a"].instances(service) and self.rng.random() < 0.4:
            self.stop(service, id)
        else:
            self.put(service, id)

    def put(self, service: ServiceName, id: str) -> None:
        """It registers."""
        self._numbers += 1
        ports = (Port(10_000 + self._numbers, "http", "http"),)
        self.since.setdefault((service, id), self.loop.time())
        self.stores["a"].register(service, Instance(id, "192.0.2.1", ports, version=str(self._numbers)))

    def stop(self, service: ServiceName, id: str) -> None:
        """It goes."""
        del self.since[service, id]
        self.stores["a"].deregister(service, id)

    def lives(self, place: Place) -> bool:
        """Whether it has lived for so long that nobody may remove it."""
        return self.loop.time() - self.since.get(place, self.loop.time()) > SLACK

    # -- daemons

    def start(self, owner: str, links: tuple[Link, ...], disk: Disk | None = None, folder: Path | None = None) -> Host:
        """One more."""
        host = Host(self, owner, links, disk, folder)
        self.hosts.append(host)
        return host

    def supersede(self, host: Host) -> None:
        """Its locks end, as those of a process that is silent."""
        for store in self.stores.values():
            for key in [key for key, queue in store._locks.items() if queue and cast(Owned, queue[0]).process is host]:
                store.take_lock(key)

    def kill(self, host: Host) -> None:
        """SIGKILL: nothing of it runs any more, and its locks end."""
        self.hosts.remove(host)
        self.killed.append(host)
        self.loop.stop_process(host)

    async def sessions(self) -> None:
        """The locks of the dead end in a while."""
        while True:
            await asyncio.sleep(SESSION)
            for host in self.killed:
                self.supersede(host)

    # -- what is seen

    def _judge(self, topic: str, partition: int, record: Record) -> None:
        """A record that readers see from now on."""
        if topic != TOPIC:
            return
        place = mapping.place_of(record.key)
        if record.value is None and not place.complete and self.lives((mapping.own_name(place.service), place.id)):
            self.broken.append(f"{self.loop.time():.3f} {place} was removed from the topic, and lives")
        told = self._copy.take(partition, record.offset, record.key, record.value, record.headers)
        if told.complete is not None and told.complete.audit != self._copy.audit(told.complete):
            self.broken.append(f"{self.loop.time():.3f} {told.complete} is not what the topic holds")

    async def look(self) -> None:
        """Nothing that lives disappears from the mirror."""
        while True:
            await asyncio.sleep(0.1)
            now = {(name, id) for name in self.stores["c"].names() for id in self.stores["c"].instances(name)}
            for place in self._seen - now:
                if self.lives(place):
                    self.broken.append(f"{self.loop.time():.3f} {place} was removed from the mirror, and lives")
            self._seen = now

    def differences(self) -> list[str]:
        """What is not as it should be when nothing happens any more."""
        alive, mirror = self._held("a"), self._held("c")
        return [
            f"{where}: {place} is {found.get(place)}, not {alive.get(place)}"
            for where, found in (("the topic", self.replay()), ("the mirror", mirror))
            for place in alive.keys() | found.keys()
            if found.get(place) != alive.get(place)
        ]

    def _held(self, name: str) -> dict[Place, str]:
        store = self.stores[name]
        return {(service, id): one.version for service in SERVICES for id, one in store.instances(service).items()}

    def replay(self) -> dict[Place, str]:
        """What a reader makes of the topic from its beginning."""
        found: dict[Place, str] = {}
        for log in self.broker.topics.get(TOPIC, []):
            for record in log:
                if record.void or record.open or (place := mapping.place_of(record.key)).complete:
                    continue
                where = mapping.own_name(place.service), place.id
                found.pop(where, None)
                if record.value is not None:
                    found[where] = mapping.decode(place, record.value)[0].version
        return found

    def untold(self, folder: Path) -> list[str]:
        """What a journal observed and the log does not tell, or not in its order."""
        events, faults = changes.told(self._read(LOG))
        told = {one.data["number"] for one in events}
        lines = [one for one in segments.read(folder / "journal") if one.kind == changes.OBSERVED]
        faults += changes.disordered(events)
        return faults + [f"line {one.seq} was not told: {one}" for one in lines if one.seq not in told]

    def _read(self, topic: str) -> Iterator[Logged]:
        for partition, log in enumerate(self.broker.topics.get(topic, [])):
            yield from (Logged(partition, one.offset, one.key, one.value, one.headers) for one in log if not one.void)

    async def agreed(self) -> None:
        """Returns when everything is as it should be; it is broken if that takes too long."""
        until = self.loop.time() + BOUND
        while (found := self.differences()) and self.loop.time() < until and not self.broken:
            await asyncio.sleep(0.5)
        self.broken += found


TO_STREAM = (link("stream", "a", guard=OPEN),)
ONWARD = (link("c", "stream/a", guard=OPEN),)

Scenario = Callable[[World], Coroutine[Any, Any, None]]


async def anything(world: World) -> None:
    """Natives change, brokers and daemons come and go, topics are made again."""
    await begun(world)
    for _ in range(STEPS):
        await asyncio.sleep(world.rng.random() * 3.0)
        dice = world.rng.random()
        if dice < 0.75:
            world.change()
        elif dice < 0.85:
            world.broker.down()
            world.loop.call_later(world.rng.random() * 20.0, world.broker.back)
        elif dice < 0.9:
            host = world.rng.choice(world.hosts)
            world.kill(host)
            world.start(host.owner, host.links, host.disk)
        elif dice < 0.95:
            await frozen(world)
        else:
            world.broker.late = world.rng.random() * LATE
            world.loop.call_later(world.rng.random() * LATE, on_time, world)


def on_time(world: World) -> None:
    """Requests arrive as they should."""
    world.broker.late = 0.0


async def begun(world: World) -> None:
    """Two daemons publish, one copies onward, and all is copied."""
    for service in SERVICES:
        for number in range(4):
            world.put(service, f"i{number}")
    world.start("x", TO_STREAM)
    world.start("x", TO_STREAM)
    world.start("y", ONWARD)
    await world.agreed()


async def frozen(world: World) -> None:
    """The writer is stopped, another one writes, and it wakes."""
    host = world.hosts[0]
    world.loop.stop_process(host)
    world.supersede(host)
    await asyncio.sleep(world.rng.random() * 10.0)
    world.loop.continue_process(host)


async def made_again(world: World) -> None:
    """The topic is deleted and made again, and is filled slowly: of a half of it nobody makes a removal."""
    await begun(world)
    await asyncio.sleep(SLACK)
    world.broker.late = 1.0
    world.broker.forget(TOPIC)
    world._copy = WorkingCopy(PARTITIONS)
    await asyncio.sleep(60.0)
    on_time(world)
    for _ in range(5):
        world.change()


async def late_removals(world: World) -> None:
    """A removal is on its way while its writer is followed by another one, and what it removes comes back."""
    await begun(world)
    await asyncio.sleep(SLACK)
    for turn in range(4):
        service = SERVICES[turn]
        world.stop(service, "i1")
        world.broker.late = LATE
        await asyncio.sleep(3.0)
        writer = next(one for one in world.hosts if one.engine.reconcilers.get("stream") and writes(one))
        world.broker.late = 0.0
        world.loop.stop_process(writer)
        world.supersede(writer)
        world.put(service, "i1")
        await asyncio.sleep(LATE)
        world.loop.continue_process(writer)
        await asyncio.sleep(5.0)


async def killed_while_it_ships(world: World) -> None:
    """A daemon dies again and again with lines on its disk that no broker has taken; its successor tells them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "journal").mkdir()
        host = world.start("x", TO_STREAM, folder=folder)
        world.start("y", ONWARD)
        await asyncio.sleep(SLACK)
        for _ in range(5):
            await asyncio.sleep(world.rng.random() * 3.0)
            world.broker.down()
            for _ in range(4):
                world.change()
            await asyncio.sleep(1.0 + world.rng.random() * 8.0)
            if not host.unshipped:
                world.broken.append(f"{world.loop.time():.3f} nothing counts as unshipped while nobody takes it")
            world.kill(host)
            world.broker.back()
            host = world.start("x", TO_STREAM, host.disk, folder)
            await asyncio.sleep(LATE)
            await world.agreed()
        world.broken += world.untold(folder)
        if host.unshipped:
            world.broken.append(f"{host.unshipped} lines count as unshipped for ever")


def writes(host: Host) -> bool:
    """Whether it is the writer of the stream, as far as it knows."""
    return host.engine.reconcilers["stream"].lead.writes


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one for one in (anything, made_again, late_removals, killed_while_it_ships)
}


async def by_the_loop(work: Callable[..., Any], *about: Any) -> Any:
    """What a thread would do: virtual time has none."""
    await asyncio.sleep(0.001)
    return work(*about)


def play(scenario: Scenario, seed: int) -> list[str]:
    """One history; which promises it broke."""
    loop = Loop()
    return lived(World(loop, seed), scenario)


def lived(world: World, scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> list[str]:
    """What happens in a world, until everything agrees; which promises were broken."""
    loop = world.loop

    async def live() -> None:
        always = [loop.spawn(None, work) for work in (world.look(), world.sessions())]
        await scenario(world)
        on_time(world)
        world.broker.back()
        await asyncio.sleep(LATE)  # what was late has arrived
        await world.agreed()
        for task in always:
            task.cancel()
        for host in (*world.hosts, *world.killed):
            loop.continue_process(host)
            host.task.cancel()
        await asyncio.wait([host.task for host in (*world.hosts, *world.killed)])

    try:
        with (
            world.broker.serving(),
            mock.patch.object(time, "time", new=loop.time),
            mock.patch.object(server, "Tenure", Owned),
            mock.patch.object(asyncio, "to_thread", by_the_loop),
            mock.patch.object(os, "fsync", return_value=None),
        ):
            loop.run_until_complete(live())
    except Stuck as stuck:
        world.broken.append(str(stuck))
    finally:
        loop.close()
    return world.broken


# -- mutants


def _complete_before_whole() -> list[tuple[Any, str, Any]]:
    real = completeness.Completeness.tell

    async def tell(self: completeness.Completeness, *, idle: bool) -> None:
        await real(self, idle=True)

    return [(completeness.Completeness, "tell", tell)]


def _removal_outside() -> list[tuple[Any, str, Any]]:
    def takes_away(change: Change) -> bool:
        return False

    return [(stream_sink, "_takes_away", takes_away)]


def _cursor_before_shipped() -> list[tuple[Any, str, Any]]:
    real = Shipment._send

    async def send(self: Shipment, taken: Any) -> None:
        if taken.records:
            self._keep(taken.records[-1].seq)
        await real(self, taken)

    return [(Shipment, "_send", send)]


MUTANTS = {
    "complete-before-whole": Mutant("a picture is whole before it is", "made_again", _complete_before_whole),
    "cursor-before-shipped": Mutant(
        "what is under way counts as told", "killed_while_it_ships", _cursor_before_shipped
    ),
    "removal-outside": Mutant("a removal is sent outside a transaction", "late_removals", _removal_outside),
}
