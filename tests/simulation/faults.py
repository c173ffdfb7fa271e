"""What goes wrong between a bridge's process and a registry: the weather of a registry, and the lines it falls on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from adapters.memory import Config, Memory
from adapters.memory.server import Tenure
from adapters.memory.sink import MemorySink
from adapters.memory.source import MemorySource
from bridge.adapter import Change, Held, Listing, Observed, Outcome, Reach, Sink, Source, Synced
from bridge.model import Instance, Service, ServiceName

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import Server

Word = Listing | Observed | Synced
Spoken = tuple[Word, dict[ServiceName, dict[str, Instance]]]  # a word, and what was rightful when it was spoken


@dataclass
class Weather:
    """What becomes of a registry's answers. Shares are 0..1, of words in an unbroken watch."""

    hidden: Callable[[ServiceName, str], bool] | None = None  # instances that answers leave out
    excused: bool = False  # so are the small losses which that causes
    reads_too: bool = False  # whether fresh reads leave them out as well
    unreadable: frozenset[tuple[ServiceName, str]] = field(default_factory=frozenset)
    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0

    def seen(self, observed: Observed, *, fresh: bool) -> Observed:
        """What arrives of an answer."""
        name, instances = observed.service.name, observed.service.instances
        hidden = self.hidden if self.reads_too or not fresh else None
        gone = {id for id in instances if hidden is not None and hidden(name, id)}
        bad = {id for id in instances if (name, id) in self.unreadable}
        if not (gone or bad):
            return observed
        left = {id: one for id, one in instances.items() if id not in gone | bad}
        marks = {id: mark for id, mark in observed.service.marks.items() if id in left}
        return Observed(Service(name, left, marks), observed.unreadable | (bad - gone), observed.revision)


class Told:
    """What one process has been told of one scope, truly: the ground truth as far as it can know it.

    An instance is taken out only when it was left out of an answer while it was truly gone.
    """

    def __init__(self) -> None:
        self.listed = False
        self.services: dict[ServiceName, dict[str, Instance]] = {}
        self._newest: dict[ServiceName, int] = {}

    def take(self, word: Word, rightful: dict[ServiceName, dict[str, Instance]]) -> None:
        """A word is handed to the bridge; what was rightful when it was spoken."""
        if isinstance(word, Listing):
            self._newest = {}
        elif isinstance(word, Observed):
            name = word.service.name
            if word.revision >= self._newest.get(name, 0):
                self._newest[name] = word.revision
                self._put(name, {**word.service.instances, **rightful.get(name, {})})
        else:
            self.listed = True
            for name in self.services.keys() - self._newest.keys():
                self._put(name, rightful.get(name, {}))

    def _put(self, name: ServiceName, instances: dict[str, Instance]) -> None:
        if instances:
            self.services[name] = dict(instances)
        else:
            self.services.pop(name, None)


class SourceLine:
    """A source as one process sees it."""

    def __init__(self, process: Process, registry: str, scope: str) -> None:
        self.scope = scope
        self.ignored: dict[str, str] = {}
        self._process = process
        self._at = (registry, scope)

    async def watch(self) -> AsyncIterator[Word]:
        """The words of whoever answers to that name when it begins, as the weather leaves them."""
        server = self._process.world.behind[self._at]
        told = self._process.told.setdefault((server.identity, server.scope), Told())
        words = cast(Any, MemorySource(server).watch())
        synced, kept = False, list[Spoken]()
        async with aclosing(words):
            async for word in words:
                if isinstance(word, Observed):
                    name = word.service.name
                    spoken = (server.weather.seen(word, fresh=False), {name: dict(server.rightful.get(name, {}))})
                    coming = self._damaged(server, spoken, kept) if synced else [spoken]
                else:
                    coming = [(word, server.rightful)]
                    synced = synced or isinstance(word, Synced)
                for one, rightful in coming:
                    told.take(one, rightful)
                    yield one

    def _damaged(self, server: Server, spoken: Spoken, kept: list[Spoken]) -> list[Spoken]:
        """A word of an unbroken watch: it may be lost, come twice, or come after the next one."""
        weather, rng = server.weather, self._process.world.rng
        if not (weather.lost or weather.repeated or weather.late or kept):
            return [spoken]
        late, kept[:] = list(kept), []
        if rng.random() < weather.lost:
            self._process.world.oracle.excuse(server, list(spoken[1]))
            return late
        if rng.random() < weather.late:
            kept.append(spoken)
            return late
        if rng.random() < weather.repeated:
            kept.append(spoken)
        return [spoken, *late]

    async def read(self, name: ServiceName) -> Observed:
        """The second opinion."""
        server = self._process.world.behind[self._at]
        observed = await MemorySource(server).read(name)
        return server.weather.seen(observed, fresh=True)


class SinkLine:
    """A destination as one process sees it: a request that was sent is carried out whatever becomes of the sender."""

    def __init__(self, process: Process, server: Server, inner: MemorySink) -> None:
        self.traits = inner.traits
        self.canonical = inner.canonical
        self.recall = inner.recall
        self.note = inner.note
        self._process = process
        self._server = server
        self._inner = inner

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """What stands there, a little old by the time it arrives."""
        held = await self._inner.held(names)
        await asyncio.sleep(self._process.world.rng.random() * self._server.latency)
        return held

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Sends the changes and waits for the answer."""
        await self._process.living()
        self._process.world.oracle.asked(self._process, self._server, changes)
        return cast(Sequence[Outcome], await asyncio.shield(self._process.world.serve(self._carried_out(changes))))

    async def _carried_out(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._server.batches[task] = (self._process, list(changes))
        try:
            outcomes = await self._inner.apply(changes)
            await asyncio.sleep(self._process.world.rng.random() * self._server.latency)
            return outcomes
        finally:
            del self._server.batches[task]

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """What others wrote."""
        words = cast(Any, self._inner.drift())
        async with aclosing(words):
            async for names in words:
                yield names

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[Tenure]:
        """The lock, which is held by a session that outlives a process that dies without a word."""
        await self._process.living()
        granted: asyncio.Future[Tenure] = asyncio.get_running_loop().create_future()
        granted.add_done_callback(lambda one: one.cancelled() or one.exception())  # nobody may be left to hear it
        session = self._process.world.serve(self._session(granted))
        self._process.sessions[self._server] = (session, granted)
        try:
            yield await asyncio.shield(granted)
        finally:
            if not self._process.dead:
                session.cancel()

    async def _session(self, granted: asyncio.Future[Tenure]) -> None:
        try:
            async with self._inner.writer() as tenure:
                granted.set_result(tenure)
                await asyncio.Event().wait()
        except Exception as error:
            granted.set_exception(error)


class Line(Memory):
    """A registry in memory as one process reaches it."""

    def __init__(self, process: Process, registry: str) -> None:
        servers = [process.world.servers[registry, scope] for scope in process.world.scopes(registry)]
        super().__init__(registry, servers[0], *servers[1:], config=Config(health=servers[0].health))
        self._process = process

    async def scopes(self) -> AsyncIterator[Source]:
        """A line for each scope."""
        for scope in self._process.world.scopes(self.name):
            yield SourceLine(self._process, self.name, scope)

    def sink(self, bridge: str) -> Any:
        """A line to the first scope."""
        server = self._process.world.servers[self.name, self._process.world.scopes(self.name)[0]]
        sink: Sink = SinkLine(self._process, server, super().sink(bridge))
        return sink

    async def reach(self) -> Reach:
        """Not asked here."""
        raise NotImplementedError
