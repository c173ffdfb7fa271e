"""A bridge core over registries in memory: what the tests of planning and reconciling run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from adapters.memory import Memory
from adapters.memory.server import Store as Server
from bridge.adapter import Cause, Change, Observed, Outcome, Source
from bridge.feed import Feed
from bridge.holds import HeldRemoval
from bridge.link import Link, Policy, Services
from bridge.model import Instance, Port, ServiceName
from bridge.reconcile import Reconciler
from bridge.store import Seen, Store, View


class Ear:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: Seen, serving: tuple[int, int]) -> None:
        self.lines.append((kind, str(outcome.change.service), outcome.change.id))

    def noticed(self, change: Change, kind: str, serving: tuple[int, int]) -> None:
        self.lines.append((f"noticed {kind}", str(change.service), change.id))

    def held(self, one: HeldRemoval) -> None:
        self.lines.append(("hold", str(one.removal.change.service), one.removal.change.id))

    def released(self, one: HeldRemoval, why: str) -> None:
        self.lines.append((why, str(one.removal.change.service), one.removal.change.id))

    def failed(self, change: Any, error: Exception) -> None:
        self.lines.append((type(error).__name__, str(change.service), change.id))

    def event(self, kind: str, **about: object) -> None:
        self.lines.append((kind, "", ""))

    def count(self, kind: str) -> int:
        return sum(line[0] == kind for line in self.lines)


class Core:
    """Feeds, a store and one reconciler a destination, over servers in memory."""

    def __init__(self, servers: dict[str, Server], links: list[Link], owner: str = "bridge") -> None:
        self.ear = Ear()
        self.rng = random.Random(1)
        self.store = Store(time.monotonic)
        self.links = links
        self.registries = {name: Memory(name, server) for name, server in servers.items()}
        self.feeds: dict[View, Feed] = {}
        self.sources: dict[View, Source] = {}
        self.reconcilers: dict[str, Reconciler] = {}
        for to in {link.to for link in links}:
            self.reconcilers[to] = Reconciler(
                owner=owner,
                destination=to,
                sink=self.registries[to].sink(owner),
                links=[link for link in links if link.to == to],
                store=self.store,
                ear=self.ear,
                clock=time.monotonic,
                rng=self.rng,
                second_opinion=self._read,
                relist=lambda view: self.feeds[view].relist(),
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
            running = [tasks.create_task(self._feed(name, tasks)) for link in self.links for name in link.from_]
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


async def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns when it is true; raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


def link(to: str = "target", *froms: str, **fields: Any) -> Link:
    """A sync link for everything."""
    return Link(
        **{
            "name": f"{'-'.join(froms or ('source',))}-to-{to}",
            "from_": froms or ("source",),
            "to": to,
            "policy": Policy.SYNC,
            "services": Services(include=("*",)),
            **fields,
        }
    )


def instance(id: str, address: str = "", port: int = 8080, **fields: Any) -> Instance:
    """An instance of an address of its own."""
    number = int("".join(c for c in id if c.isdigit()) or 1)
    return Instance(id, address or f"192.0.2.{number % 250}", (Port(port, "http", "http"),), **fields)


PAY = ServiceName("pay")
