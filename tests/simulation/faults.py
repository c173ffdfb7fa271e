"""What goes wrong between a bridge's process and a registry: the weather of a registry, and the lines it falls on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec

from adapters.memory import Memory
from adapters.memory.seat import MemorySeat
from adapters.memory.server import Tenure
from adapters.memory.sink import MemorySink
from bridge.adapter import Change, Held, Listing, Note, Observed, Outcome, Reach, Sink, Source, Synced, Term
from bridge.errors import Unavailable
from bridge.model import Instance, Service, ServiceName
from tests.simulation.levers import LeverLine
from tests.simulation.migrating import NotesLine

if TYPE_CHECKING:
    from tests.simulation.client import Client
    from tests.simulation.world import Server

DEAD = 6.0  # seconds after which an adapter finds that its watch is dead

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
    ends: bool = False  # a watch ends without an error where it has something to say

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
        self.hidden = False  # another life of the store is behind the revision of the one before, and named like it
        self._newest: dict[ServiceName, int] = {}
        self._life = ("", 0)  # incarnation, and how often the store was restored
        self._revision = 0

    def take(self, word: Word, rightful: dict[ServiceName, dict[str, Instance]], lives: int) -> None:
        """A word is handed to the bridge: what was rightful as it was spoken, and in which life of the store."""
        if isinstance(word, Listing):
            self._newest = {}
            incarnation, known = self._life
            if lives != known:
                self.hidden = self.listed and incarnation == word.incarnation and word.revision >= self._revision
            self._life = (word.incarnation, lives)
            self._revision = word.revision if lives != known else max(self._revision, word.revision)
        elif isinstance(word, Observed):
            name = word.service.name
            self._revision = max(self._revision, word.revision)
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

    def __init__(self, process: Client, registry: str, scope: str) -> None:
        self.scope = scope
        self.ignored: dict[str, str] = {}
        self.behind = None
        self._process = process
        self._at = (registry, scope)

    async def watch(self) -> AsyncIterator[Word]:
        """The words of whoever answers to that name when it begins, as the weather leaves them."""
        server = self._process.world.behind[self._at]
        told = self._process.told.setdefault((server.identity, server.scope), Told())
        began = self._process.world.loop.time()
        words = cast(Any, server.source.watch())
        synced, kept = False, list[Spoken]()
        async with aclosing(words):
            async for word in words:
                if self._process.deaf.get(server, float("-inf")) > began:
                    await asyncio.sleep(DEAD)
                    raise Unavailable("the watch is dead")
                if synced and server.weather.ends:
                    return
                if isinstance(word, Observed):
                    name = word.service.name
                    spoken = (server.weather.seen(word, fresh=False), {name: dict(server.rightful.get(name, {}))})
                    coming = self._damaged(server, spoken, kept) if synced else [spoken]
                else:
                    coming = [(word, server.rightful)]
                    synced = synced or isinstance(word, Synced)
                for one, rightful in coming:
                    told.take(one, rightful, server.lives)
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
        observed = await server.source.read(name)
        return server.weather.seen(observed, fresh=True)


class SinkLine:
    """A destination as one process sees it: a request that was sent is carried out whatever becomes of the sender."""

    def __init__(self, process: Client, server: Server, inner: MemorySink) -> None:
        self.traits = inner.traits
        self.canonical = inner.canonical
        self._process = process
        self._server = server
        self._inner = inner

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """What stands there, a little old by the time it arrives."""
        self._process.reach(self._server)
        held = await self._inner.held(names)
        await asyncio.sleep(self._process.world.rng.random() * self._server.latency)
        return held

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """Sends the changes and waits for the answer."""
        await self._process.living()
        try:
            self._process.reach(self._server)
        except Unavailable as error:
            return [Outcome(change, error=error) for change in changes]
        self._process.world.oracle.asked(self._process, self._server, changes)
        sent = self._process.world.serve(self._carried_out(changes, term))
        return cast(Sequence[Outcome], await asyncio.shield(sent))

    async def _carried_out(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._server.batches[task] = (self._process, list(changes))
        try:
            outcomes = await self._inner.apply(changes, term)
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


class SeatLine:
    """A seat as one process sees it."""

    def __init__(self, process: Client, server: Server, inner: MemorySeat) -> None:
        self._process = process
        self._server = server
        self._inner = inner

    async def recall(self) -> Note | None:
        """See `Seat.recall`."""
        self._process.reach(self._server)
        return await self._inner.recall()

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        self._process.reach(self._server)
        return await self._inner.note(content, before, term=term)

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`."""
        self._process.reach(self._server)
        await self._inner.leave(term)

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[Tenure]:
        """The lock, which is held by a session that outlives a process that dies without a word."""
        await self._process.living()
        self._process.reach(self._server)
        granted: asyncio.Future[Tenure] = asyncio.get_running_loop().create_future()
        granted.add_done_callback(lambda one: one.cancelled() or one.exception())  # nobody may be left to hear it
        session = self._process.world.serve(self._session(granted))
        self._process.sessions[self._server, self._inner.key] = (session, granted)
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

    def __init__(self, process: Client, registry: str) -> None:
        world = process.world
        servers = [world.servers[registry, scope] for scope in world.scopes(registry)]
        if world.lender is not None and registry == world.lender.registry:
            servers = [world.lender]
        config = msgspec.structs.replace(servers[0].config, seat=registry not in world.seatless)
        super().__init__(registry, servers[0], *servers[1:], config=config)
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

    def seat(self, bridge: str, destination: str) -> Any:
        """A line to the seat in the first scope."""
        inner = super().seat(bridge, destination)
        return SeatLine(self._process, cast("Server", self.store), inner) if inner is not None else None

    def notes(self, bridge: str) -> Any:
        """A line to the notes in the first scope."""
        return NotesLine(self._process, cast("Server", self.store), super().notes(bridge))

    def levers(self, bridge: str) -> LeverLine | None:
        """Those of the first scope, where natives have any."""
        is_levered = self.name in self._process.world.levered
        return LeverLine(self._process, cast("Server", self.store), bridge) if is_levered else None

    async def reach(self) -> Reach:
        """Not asked here."""
        raise NotImplementedError
