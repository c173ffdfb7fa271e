"""A bridge core over registries in memory: what the tests of planning and reconciling run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

from adapters.memory import Config, Memory
from adapters.memory.server import Store as Server
from bridge.adapter import Change, Observed, Sink, Source
from bridge.destination.destination import Destination
from bridge.destination.events import Event, Failed, Happened, HeldBack, Noticed, Released, Taken, Written
from bridge.destination.reconciler import Reconciler
from bridge.link import Link
from bridge.migration.block import Migration
from bridge.migration.sides import Sides
from bridge.model import ServiceName
from bridge.plan.orders import UNORDERED, Ordering
from bridge.sources.feed import Feed
from bridge.sources.store import Store
from bridge.sources.view import View
from tests.kit.waiting import until


class Record:
    """Remembers what happened: kind, service, instance."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.happened: list[Happened] = []

    def tell(self, event: Event) -> None:
        match event:
            case Written():
                self._line(event.kind, event.outcome.change)
            case Noticed():
                self._line(f"noticed {event.kind}", event.change)
            case Taken():
                self._line("taken", event.change)
            case HeldBack():
                for one in event.ones:
                    self._line("hold", one.removal.change)
            case Released():
                self._line("released" if event.goes else "no longer asked", event.one.removal.change)
            case Failed():
                self._line(type(event.error).__name__, event.change)
            case Happened():
                self.lines.append((event.kind, "", ""))
                self.happened.append(event)

    def _line(self, kind: str, change: Change) -> None:
        self.lines.append((kind, str(change.service), change.id))

    def count(self, kind: str) -> int:
        return sum(line[0] == kind for line in self.lines)


class Core:
    """Feeds, a store and one reconciler a destination, over servers in memory.

    `seatless`: registries that cannot lock; `lender`: the one whose seats these borrow. `exports`: the sinks of
    destinations that are no servers.
    """

    def __init__(
        self,
        servers: dict[str, Server],
        links: list[Link],
        owner: str = "bridge",
        seatless: Collection[str] = (),
        lender: str = "",
        ordering: Ordering = UNORDERED,
        exports: Mapping[str, Sink] = MappingProxyType({}),
    ) -> None:
        self.record = Record()
        self.rng = random.Random(1)
        self.store = Store(time.monotonic)
        self.sides: dict[str, tuple[int, Migration, Sides]] = {}
        self.links = links
        self.registries = {
            name: Memory(name, server, config=Config(seat=name not in seatless)) for name, server in servers.items()
        }
        self.feeds: dict[View, Feed] = {}
        self.sources: dict[View, Source] = {}
        self.reconcilers: dict[str, Reconciler] = {}
        for to in {link.to for link in links}:
            sink = exports[to] if to in exports else self.registries[to].sink(owner)
            seat = (
                None if to in exports else self.registries[to if to not in seatless else lender or to].seat(owner, to)
            )
            destination = Destination(
                name=to,
                owner=owner,
                sink=sink,
                links=[link for link in links if link.to == to],
                store=self.store,
                events=self.record,
                clock=time.monotonic,
                frozen=lambda _: False,
                ordering=ordering,
            )
            self.reconcilers[to] = Reconciler(
                destination,
                sink=sink,
                seat=seat,
                store=self.store,
                events=self.record,
                clock=time.monotonic,
                rng=self.rng,
                second_opinion=self._read,
                relist=lambda view, reason: self.feeds[view].relist(reason),
            )

    async def _read(self, view: View, name: ServiceName) -> Observed:
        return await self.sources[view].read(name)

    async def _feed(self, name: str, tasks: asyncio.TaskGroup) -> None:
        async for source in self.registries[name].scopes():
            view = self.store.view(name, source.scope)
            self.sources[view] = source
            self.feeds[view] = Feed(source, view, time.monotonic, self.rng)
            tasks.create_task(self.feeds[view].run())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Core]:
        async with asyncio.TaskGroup() as tasks:
            sources = dict.fromkeys(name for link in self.links for name in link.from_)
            running = [tasks.create_task(self._feed(name, tasks)) for name in sources]
            running += [tasks.create_task(one.run()) for one in self.reconcilers.values()]
            try:
                yield self
            finally:
                for task in tasks._tasks:
                    task.cancel()

    async def idle(self) -> None:
        await until(
            lambda: (
                all(view.synced for view in self.store.views())
                and bool(list(self.store.views()))
                and all(one.idle and one.role in ("writer", "observing") for one in self.reconcilers.values())
            )
        )
