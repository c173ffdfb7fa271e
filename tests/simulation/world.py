"""The world around the bridges: registries with their ground truth, the natives in them, and what was noted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from adapters.memory import Config
from adapters.memory.polled import PolledSource
from adapters.memory.server import NATIVE, Fence, Saved, Store
from adapters.memory.source import MemorySource
from bridge.adapter import Change
from bridge.errors import Unavailable
from bridge.guard.holds import Hold
from bridge.link import Link
from bridge.model import Instance, Mark, Port, Service, ServiceName
from bridge.sources.claims import Pair
from bridge.sources.networks import DEFAULT
from tests.simulation.faults import Weather
from tests.simulation.invariants import Oracle
from tests.simulation.levers import Rules
from tests.simulation.loop import Loop
from tests.simulation.saying import Sayings

if TYPE_CHECKING:
    from bridge.migration.block import Migration
    from tests.simulation.client import Client
    from tests.simulation.moving import Moves
    from tests.simulation.process import Process

DETECT = 5.0  # seconds after which an adapter finds out that nobody answers (its ping or its timeout)
LENDER = "locks"  # the registry that lends its lock
SESSION = 4.0  # seconds for which a store keeps the lock of a process that is dead or stopped
LATENCY = 0.02  # seconds that a request takes at most, on a good day


class Server(Store):
    """A registry in memory with its ground truth: `rightful` is what natives and bridges made of it.

    A restored backup, an empty restart or a lie change what it answers, never what is rightful.
    """

    def __init__(self, world: World, registry: str, identity: str, scope: str = "", *, health: bool = True) -> None:
        super().__init__(identity, scope=scope)
        self.registry = registry
        self.health = health
        self.rightful: dict[ServiceName, dict[str, Instance]] = {}
        self.since: dict[tuple[ServiceName, str], float] = {}  # when a native took a place
        self.left: dict[tuple[ServiceName, Pair], float] = {}  # when a native's address went
        self.arrived: dict[tuple[ServiceName, str], float] = {}  # by service and value: since when it was there
        self.deleted: dict[tuple[ServiceName, str], float] = {}  # when somebody who is no bridge deleted an entry
        self.weather = Weather()
        self.latency = LATENCY
        self.trouble_since: float | None = None  # since when nothing is answered, or nothing but errors
        self.well_since = float("-inf")  # since when it answers, and in this life
        self.another_life = False  # what it holds was replaced as a whole
        self.lives = 1
        self.config = Config(health=health)  # what kind of registry it is
        self.batches: dict[asyncio.Task[Any], tuple[Client, list[Change]]] = {}  # writes under way
        self._stood: dict[tuple[ServiceName, str], list[Instance]] = {}  # every value that an entry ever had
        self.rules = Rules()  # beside the records of natives, where migrations may write them
        self._world = world

    def __repr__(self) -> str:
        return f"{self.identity}/{self.scope}" if self.scope else self.identity

    @property
    def source(self) -> MemorySource:
        """How it is read."""
        return PolledSource(self) if self.config.polls else MemorySource(self)

    async def reached(self) -> None:
        """A request travels; one that nobody answers is given up as an adapter would give it up."""
        await asyncio.sleep(self._world.rng.random() * self.latency)
        if not self._silent:
            return await super().reached()
        try:
            async with asyncio.timeout(DETECT):
                await super().reached()
        except TimeoutError:
            raise Unavailable(f"no answer in {DETECT:g} s") from None

    def register(self, service: ServiceName, instance: Instance, mark: Mark | None = None) -> int:
        """A native or another bridge writes, and means it."""
        now = self._world.loop.time()
        before = self.rightful.get(service, {}).get(instance.id)
        if before is not None and (service, instance.id) in self.since:
            left = self._world.places(before) - self._world.places(instance)
            self.left.update({(service, place): now for place in left})
        self._begin(service, instance)
        self.since[service, instance.id] = now
        return super().register(service, instance, mark)

    def deregister(self, service: ServiceName, id: str) -> None:
        """Somebody deletes it, and means it."""
        self.deleted[service, id] = self._world.loop.time()
        self._end(service, id)
        super().deregister(service, id)

    def _begin(self, service: ServiceName, instance: Instance) -> None:
        self.rightful.setdefault(service, {})[instance.id] = instance
        self.arrived.setdefault((service, instance.version), self._world.loop.time())
        self._stood.setdefault((service, instance.id), []).append(instance)
        if self.weather.excused:
            self._world.oracle.excuse(self, [service])

    def stood(self, service: ServiceName, id: str) -> list[Instance]:
        """Every value that an entry has had there, the oldest first."""
        return self._stood.get((service, id), [])

    def _end(self, service: ServiceName, id: str) -> None:
        self._world.said.left(id)
        native = self.since.pop((service, id), None) is not None
        rightful = self.rightful.get(service, {})
        if (gone := rightful.pop(id, None)) is not None and native:
            now = self._world.loop.time()
            self.left.update({(service, place): now for place in self._world.places(gone)})
        if not rightful:
            self.rightful.pop(service, None)

    def commit(self, bridge: str, tenure: Fence | None, change: Change) -> int | None:
        """A bridge writes: judged as it is made."""
        stood = self._records.get(change.service, {}).get(change.id)
        whose = self.mark(change.service, change.id)
        writes, by = self.writes, self.batches[asyncio.current_task()][0]  # type: ignore[index]
        holds_lock = by.holds_lock(self)
        try:
            return super().commit(bridge, tenure, change)
        finally:
            process, pending = self.batches[asyncio.current_task()]  # type: ignore[index]
            pending[:] = [one for one in pending if one is not change]
            if self.writes > writes:
                if not change.forget:
                    self.since.pop((change.service, change.id), None)
                if change.after is not None:
                    self._begin(change.service, change.after)
                elif not change.forget:
                    self._end(change.service, change.id)
                self._world.oracle.made(process, self, change, stood, whose, pending, holds_lock=holds_lock)

    def silence(self) -> None:
        """Nobody answers any more, and whoever waits for news finds that out too."""
        self.trouble_since = self._world.loop.time()
        super().silence()
        self._stir()

    def fail_with(self, error: Exception) -> None:
        """Nothing but this error is answered."""
        self.trouble_since = self._world.loop.time()
        super().fail_with(error)

    def heal(self) -> None:
        """Answers again."""
        if self.trouble_since is not None:
            self.well_since = self._world.loop.time()
        self.trouble_since = None
        super().heal()

    def restore(self, saved: Saved, incarnation: str | None = None) -> None:
        """Another life, which does not change what is rightful."""
        self.another_life = True
        self.lives += 1
        self.well_since = self._world.loop.time()
        for _, link in self._world.links_to(self):  # the note goes back as well: who has no memory is told of no freeze
            self._world.frozen.discard(link.name)
        self._world.said.went_back(self)
        for process in self._world.alive():
            told = process.told.get((self.identity, self.scope))
            if told is None or not told.listed:  # it cannot know that there was another life
                self._world.oracle.forgive(process, self)
        super().restore(saved, incarnation)

    def has_returned(self) -> bool:
        """Whether so much of another life is back, and for so long, that it may be believed without an operator."""
        if self.returns is None or not self.another_life:
            return False
        natives = [(name, id) for name, id in self._world.natives(self)]
        back = sum(id in self.instances(name) for name, id in natives)
        return self._world.loop.time() - self.well_since >= self.returns.after and back >= self.returns.share * len(
            natives
        )

    def announce(self, names: list[ServiceName]) -> None:
        """Watches hear of these services again, though nobody wrote."""
        for name in names:
            self._changed(name, NATIVE)

    def gives_out(self, instance: Instance) -> bool:
        """Whether it is a cluster, and the address is one of those that it alone gives out."""
        own = self._world.networks.get(self.registry, DEFAULT)
        return self.config.cluster and own != DEFAULT and any(own == place[0] for place in self._world.places(instance))

    def back(self, service: ServiceName, id: str) -> None:
        """A native registers again what another life of the store has lost."""
        instance = self.rightful.get(service, {}).get(id)
        if instance is not None and id not in self._records.get(service, {}):
            Store.register(self, service, instance)

    def mend(self) -> None:
        """The natives set right what another life of the store got wrong; ledgered entries stay as they are."""
        self.weather = Weather()
        self.another_life = False
        self.well_since = self._world.loop.time()
        for service, records in list(self._records.items()):
            for id in list(records):
                if self.mark(service, id) is None and (service, id) not in self.since:
                    Store.deregister(self, service, id)
        for service, instances in list(self.rightful.items()):
            for id, instance in list(instances.items()):
                if (service, id) in self.since and self.instances(service).get(id) != instance:
                    Store.register(self, service, instance)
                elif id not in self.instances(service):
                    self._end(service, id)
        for service, records in self._records.items():
            for id, record in records.items():
                if record.instance is not None:
                    self.rightful.setdefault(service, {})[id] = record.instance

    def contents(self) -> dict[ServiceName, Service]:
        """What stands there now."""
        return {name: self.observe(name).service for name in self._records}

    def serving(self, service: ServiceName) -> int:
        """How many entries of a service serve there now."""
        return sum(one.serving for one in self.instances(service).values())


class World:
    """Everything there is in one history. `links` by the id of the bridge that has them."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.loop = loop
        self.seed = seed
        self.rng = random.Random(seed)
        self.servers: dict[tuple[str, str], Server] = {}  # by registry and scope
        self.behind: dict[tuple[str, str], Server] = {}  # who answers to that name now
        self.others: list[Server] = []  # clusters that have no business here
        self.links: dict[str, list[Link]] = {}
        self.former: dict[str, list[tuple[Link, float]]] = {}  # what the file said of a link, and until when
        self.first: dict[tuple[str, str], Link] = {}  # what the file said of a link at first, by bridge and link
        self.processes: list[Process] = []
        self.frozen: set[str] = set()  # links that the operator has stopped
        self.pausing: set[str] = set()  # links that some operator is about to stop, or has stopped
        self.shown: list[tuple[str, Hold]] = []  # sets that an operator has looked at, by destination
        self.said = Sayings(self)
        self.options: dict[str, Config] = {}  # by registry, where its consumers are of some layout
        self.levered: frozenset[str] = frozenset()  # registries with levers on their natives
        self.migrations: dict[str, tuple[Migration, ...]] = {}  # what the file of a bridge says
        self.moves: Moves | None = None  # what is true of them
        self.oracle = Oracle(self)
        self.story: list[str] = []
        self.faulty = False
        self.jumped = 0.0  # seconds by which the wall clock is off
        self.under_spell: set[Server] = set()
        self.lender: Server | None = None  # who lends its lock to those that cannot lock
        self.seatless: frozenset[str] = frozenset()  # registries that cannot lock
        self.networks: dict[str, str] = {}  # by registry, where it is not the one of all others
        self._numbers = 0
        self._happening: dict[asyncio.Task[Any], None] = {}  # in order: sets of tasks have none that replays
        self._serving: dict[asyncio.Task[Any], None] = {}

    def wall(self) -> float:
        """The wall clock, in seconds, which may jump."""
        return self.loop.time() + self.jumped

    def note(self, text: str) -> None:
        """A line of the story."""
        self.story.append(f"{self.loop.time():10.3f}  {text}")

    def server(self, registry: str, scope: str = "", *, health: bool = True) -> Server:
        """The server of a registry's scope, made on first use."""
        key = (registry, scope)
        if key not in self.servers:
            self.servers[key] = self.behind[key] = Server(self, registry, f"mem:{registry}", scope, health=health)
        return self.servers[key]

    async def reload(self, owner: str, links: list[Link]) -> None:
        """The file of a bridge changes, and every daemon of it reads it; one that is stopped does when it goes on.

        No daemon waits for another: one that is stopped keeps none from reading.
        """
        for one in self.links[owner]:
            self.former.setdefault(one.name, []).append((one, self.loop.time()))
        self.links[owner] = links
        if reloads := [process.reload() for process in self.alive() if process.owner == owner]:
            await asyncio.wait(reloads)

    def borrow(self, *registries: str) -> Server:
        """These registries cannot lock from now on, and borrow the lock of a server that is not linked to anything."""
        self.lender = Server(self, LENDER, f"mem:{LENDER}", "", health=True)
        self.seatless = frozenset(registries)
        return self.lender

    def places(self, instance: Instance) -> frozenset[Pair]:
        """The network, address and port of each port: the network is that of the registry that it is native in."""
        origin = self.oracle.origins.get(instance.version)
        server = self.at(origin[0], origin[1]) if origin is not None else None
        network = self.networks.get(server.registry, DEFAULT) if server is not None else DEFAULT
        return frozenset((network, *socket) for socket in instance.sockets())

    def at(self, identity: str, scope: str) -> Server | None:
        """The server that calls itself so."""
        every = [*self.servers.values(), *self.others]
        return next((one for one in every if one.identity == identity and one.scope == scope), None)

    def scopes(self, registry: str) -> list[str]:
        """The scopes of a registry."""
        return [scope for name, scope in self.servers if name == registry]

    def serve(self, work: Coroutine[Any, Any, Any], *, happening: bool = False) -> asyncio.Task[Any]:
        """Work that no process of a bridge does, and that goes on when one dies; `happening`: part of the history."""
        task = self.loop.spawn(None, work)
        tasks = self._happening if happening else self._serving
        tasks[task] = None
        task.add_done_callback(lambda one: tasks.pop(one, None))
        task.add_done_callback(lambda one: one.cancelled() or one.exception())
        return task

    async def over(self) -> None:
        """The history is over: whatever was happening ends as it should."""
        await _ended(self._happening)

    async def end(self) -> None:
        """The world ends."""
        await _ended(self._happening)
        await _ended(self._serving)

    # -- natives -----------------------------------------------------------------------------------------------------

    def number(self) -> int:
        """A number that was not given before."""
        self._numbers += 1
        return self._numbers

    def start(self, server: Server, service: ServiceName, id: str = "", **fields: Any) -> Instance:
        """A native registers; `version` counts every value that was ever registered."""
        number = self.number()
        values: dict[str, Any] = {
            "ports": (Port(8080, "http", "http"),),
            "id": id or f"i{number}",
            "address": f"10.0.{number // 250}.{number % 250}",
        } | fields
        return self.put(server, service, Instance(**values))

    def put(self, server: Server, service: ServiceName, instance: Instance) -> Instance:
        """A native writes this value."""
        instance = msgspec.structs.replace(instance, version=f"v{self.number()}")
        self.oracle.values[instance.version] = instance
        self.oracle.written[instance.version] = self.loop.time()
        self.oracle.origins[instance.version] = (server.identity, server.scope, service, instance.id)
        self.note(f"{server!r} {service}/{instance.id} = {instance.address} {instance.health} {instance.version}")
        server.register(service, instance)
        return instance

    def alter(self, server: Server, service: ServiceName, id: str, **fields: Any) -> Instance:
        """A native changes its own entry."""
        return self.put(server, service, msgspec.structs.replace(server.rightful[service][id], **fields))

    def stop(self, server: Server, service: ServiceName, id: str) -> None:
        """Somebody deregisters an entry."""
        self.note(f"{server!r} {service}/{id} deregistered")
        server.deregister(service, id)

    def natives(self, server: Server) -> list[tuple[ServiceName, str]]:
        """The entries of natives, in order."""
        return [
            (service, id)
            for service, instances in server.rightful.items()
            for id in instances
            if (service, id) in server.since
        ]

    def fill(self, server: Server, services: int, instances: int, first: int = 0) -> None:
        """So many services s0, s1 ... with so many instances each."""
        for number in range(first, first + services):
            for _ in range(instances):
                self.start(server, ServiceName(f"s{number}"))

    # -- processes ---------------------------------------------------------------------------------------------------

    def alive(self) -> list[Process]:
        """The processes that run, or are stopped."""
        return [one for one in self.processes if not one.ending]

    def links_to(self, server: Server) -> list[tuple[str, Link]]:
        """Every link into a registry, with its bridge."""
        return [(owner, link) for owner, links in self.links.items() for link in links if link.to == server.registry]


async def _ended(tasks: dict[asyncio.Task[Any], None]) -> None:
    ending = list(tasks)
    for task in ending:
        task.cancel()
    if ending:
        await asyncio.wait(ending)
