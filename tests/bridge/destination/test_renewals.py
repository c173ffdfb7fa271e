"""Who renews what must be renewed: the last writer, until another process writes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, cast

from adapters.memory import Config, Memory
from adapters.memory.server import Store as Server
from adapters.memory.sink import MemorySink
from bridge.adapter import Renewal, Term
from bridge.destination.destination import Destination
from bridge.destination.reconciler import Reconciler
from bridge.destination.writer import Role, Writer
from bridge.sources.store import Store
from tests.bridge.core import Record
from tests.kit.builders import link
from tests.kit.waiting import steady, until


class Renewed(MemorySink):
    """A registry in memory whose entries must be renewed."""

    said: list[bool]

    def renew(self, *, ours: bool) -> None:
        self.said.append(ours)

    @property
    def renewal(self) -> Renewal | None:
        return Renewal(0, 30.0, 0.0, None) if self.said[-1:] == [True] else None


class Known:
    """The other daemons, as far as is known: somebody writes."""

    def __init__(self, writer: Writer | None) -> None:
        self.writer = writer
        self.me = Writer("here", 1, 0.0, "file")

    async def inherit(self) -> None:
        self.writer = self.me

    async def pass_on(self) -> None:
        return None

    async def run(self, term: Callable[[], Term | None]) -> None:
        await asyncio.Event().wait()


async def test_the_last_writer_renews_until_another_process_writes() -> None:
    lender, peers = Server("lender"), Known(None)
    registry = Memory("target", Server("target"), config=Config(seat=False))
    sink = Renewed(registry.store, registry.traits, "bridge", locks=False, natives=True)
    sink.said = []
    store, record = Store(time.monotonic), Record()
    destination = Destination(
        name="target",
        owner="bridge",
        sink=sink,
        links=[link()],
        store=store,
        events=record,
        clock=time.monotonic,
        frozen=lambda _: False,
    )
    reconciler = Reconciler(
        destination,
        sink=sink,
        seat=Memory("lender", lender).seat("bridge", "target"),
        store=store,
        events=record,
        clock=time.monotonic,
        rng=random.Random(1),
        second_opinion=cast(Any, lambda *_: asyncio.sleep(3600)),
        relist=cast(Any, lambda *_: None),
        peers=cast(Any, peers),
        renewed=0.01,
    )
    running = asyncio.create_task(reconciler.run())
    try:
        await until(lambda: reconciler.role is Role.WRITER)
        assert sink.said == [True]
        peers.writer = Writer("here", 1, 0.0, "another file")  # after a reload it is the same process
        (key,) = lender._locks
        queue = lender._locks[key]

        async def _said() -> list[bool]:
            return [*sink.said]

        other = asyncio.create_task(_hold(lender, key))
        await until(lambda: len(queue) == 2)
        lender.take_lock(key)
        await until(lambda: reconciler.role is Role.STANDBY)
        assert await steady(_said, 0.1) == [True]  # nobody is known to write
        assert reconciler.renewals.now is not None
        peers.writer = Writer("there", 2, 1.0, "file")
        await until(lambda: sink.said[-1] is False)
        assert reconciler.renewals.now is None
        other.cancel()
        await until(lambda: sink.said[-1] is True)
        assert reconciler.role is Role.WRITER
    finally:
        running.cancel()
        await asyncio.gather(running, other, return_exceptions=True)


async def _hold(server: Server, key: str) -> None:
    async with server.lock(key):
        await asyncio.Event().wait()
