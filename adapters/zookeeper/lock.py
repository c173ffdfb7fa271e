"""The writer's lock: the lowest of the ephemeral sequential nodes below one node is the writer's.

Every transaction of the sink checks that the writer's own node is there. A node of a fixed name would not do: a
transaction can compare no more than a version, which is 0 for every holder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import msgspec
from kazoo.exceptions import KazooException, NoNodeError

from adapters.zookeeper import wire
from adapters.zookeeper.answers import Disconnected, values_of
from adapters.zookeeper.client import Client
from adapters.zookeeper.wire import Acl
from bridge.errors import Expired, IsthmusError, Unavailable

NODE = "writer-"
SURE = 2 / 3  # of the session's time without a word of the server: then the lock may soon be another's
RELEASE_TIME = 1.5  # seconds: where it fails, the session's end does it


class ZooKeeperTerm:
    """The time during which the lock is ours."""

    def __init__(self, client: Client, path: str) -> None:
        self.path = path
        self._client = client
        self._lost = False
        self._doubtful = False
        self._stirred = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether the lock is lost, or may be by the time that a request arrives."""
        self._lost = self._lost or self._client.silence >= self._client.granted * SURE
        return self._lost

    async def ended(self) -> None:
        """Returns when the lock is lost."""
        while not self.over:
            self._stirred.clear()
            if self._doubtful and self._client.up:
                with contextlib.suppress(Unavailable):
                    await self._look()
                    continue
            left = self._client.granted * SURE - self._client.silence
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, left)):
                    await self._stirred.wait()

    def lose(self) -> None:
        """It is over."""
        self._lost = True
        self._stirred.set()

    async def _look(self) -> None:
        self._doubtful = False
        try:
            await self._client.watch(self.path)
            if not await self._client.exists(self.path):
                self.lose()
        except Expired:
            self.lose()
        except Unavailable:
            self._doubtful = True
            raise

    # What the client tells.

    def connected(self) -> None:
        self._stirred.set()

    def disconnected(self) -> None:
        self._doubtful = True
        self._stirred.set()

    def lost(self, reason: str) -> None:
        self.lose()

    def told(self, kind: int, path: str) -> None:
        if path == self.path and kind == wire.DELETED:
            self.lose()


class _Stir:
    """Wakes whoever waits for the lock."""

    def __init__(self, folder: str) -> None:
        self.event = asyncio.Event()
        self.reason = ""
        self._folder = folder

    def connected(self) -> None:
        self.event.set()

    def disconnected(self) -> None:
        self.event.set()

    def lost(self, reason: str) -> None:
        self.reason = reason
        self.event.set()

    def told(self, kind: int, path: str) -> None:
        if path.startswith(self._folder):
            self.event.set()


@contextlib.asynccontextmanager
async def locked(
    client: Client, folder: str, acl: list[Acl], now: Callable[[], datetime]
) -> AsyncIterator[ZooKeeperTerm]:
    """Waits for the lock and keeps it; given back at the end, so that a standby goes on at once."""
    value = msgspec.json.encode({"host": socket.gethostname(), "pid": os.getpid(), "since": now().isoformat()})
    await _tidy(client, folder)
    mine = await client.create(f"{folder}/{NODE}", value, acl, wire.EPHEMERAL | wire.SEQUENTIAL)
    term = ZooKeeperTerm(client, mine)
    deaf = client.listen(term)
    try:
        await _first(client, folder, mine)
        await client.watch(mine)
        yield term
    finally:
        deaf()
        term.lose()
        with contextlib.suppress(IsthmusError, KazooException, TimeoutError):
            async with asyncio.timeout(RELEASE_TIME):
                await client.delete(mine)


async def _first(client: Client, folder: str, mine: str) -> None:
    """Waits until no node is before ours; raises Unavailable where ours is gone."""
    stir = _Stir(folder)
    deaf = client.listen(stir)
    own = mine.rpartition("/")[2]
    try:
        while True:
            stir.event.clear()
            if stir.reason:
                raise Unavailable(f"{stir.reason} while waiting for the lock")
            try:
                await client.connected()
                await client.watch(folder)
                names = sorted(await client.children(folder))
            except Disconnected:
                continue
            except Expired as error:
                raise Unavailable(f"{error} while waiting for the lock") from None
            if own not in names:
                raise Unavailable(f"{mine} is gone while waiting for the lock")
            if names[0] == own:
                return
            await stir.event.wait()
    finally:
        deaf()


async def _tidy(client: Client, folder: str) -> None:
    """Deletes what an earlier process left in the session that we carry on, or a term of ours whose answer was lost."""
    await client.connected()
    paths = [f"{folder}/{name}" for name in await client.children(folder)]
    if not paths:
        return
    for path, node in zip(paths, values_of(await client.reads(paths)), strict=True):
        if node is not None and node.owner == client.session:
            with contextlib.suppress(NoNodeError):
                await client.delete(path)
