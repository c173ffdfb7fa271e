"""The writer's lock: the lowest of the ephemeral sequential nodes below one node is the writer's.

Every transaction of the sink checks that the writer's own node is there. A node of a fixed name would not do: a
transaction can compare no more than a version, which is 0 for every holder.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from math import inf

from kazoo.exceptions import KazooException, NoNodeError

from adapters.common.places import SHARDS, is_divided
from adapters.common.term import SURE, holder
from adapters.zookeeper import wire
from adapters.zookeeper.client import Client
from adapters.zookeeper.replies import Disconnected, values_of
from adapters.zookeeper.wire import Acl, Check
from bridge.errors import Expired, IsthmusError, Unavailable

NODE = "writer-"
RELEASE_TIME = 1.5  # seconds; where it fails, the node ends with the session


class ZooKeeperTerm:
    """The time during which the lock is ours. `leases`: entries may die with its session."""

    leases = True

    def __init__(self, client: Client, path: str) -> None:
        self.path = path
        self.taken_over = False
        self._client = client
        self._lost = False
        self._doubtful = False
        self._changed = asyncio.Event()

    @property
    def fence(self) -> tuple[Check, ...]:
        """What each transaction checks: that the writer's node exists."""
        return (Check(self.path),)

    @property
    def until(self) -> float:
        """See `Term.until`."""
        left = self._client.granted * SURE - self._client.silence
        return -inf if self.over else asyncio.get_running_loop().time() + left

    @property
    def over(self) -> bool:
        """Whether the lock is lost, or may be lost before a request arrives."""
        self._lost = self._lost or self._client.silence >= self._client.granted * SURE
        return self._lost

    async def ended(self) -> None:
        """Returns when the lock is lost."""
        while not self.over:
            self._changed.clear()
            if self._doubtful and self._client.up:
                with contextlib.suppress(Unavailable):
                    await self._look()
                    continue
            left = self._client.granted * SURE - self._client.silence
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, left)):
                    await self._changed.wait()

    def lose(self) -> None:
        """Ends the term."""
        self._lost = True
        self._changed.set()

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

    # Called by the client.

    def connected(self) -> None:
        self._changed.set()

    def disconnected(self) -> None:
        self._doubtful = True
        self._changed.set()

    def lost(self, reason: str) -> None:
        self.lose()

    def told(self, kind: int, path: str) -> None:
        if path == self.path and kind == wire.DELETED:
            self.lose()


class Wake:
    """Wakes who waits for a change below a folder. `reason`: why the session is over, "" while it is not."""

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
    """Acquires the lock, and keeps it. Released on exit, so that a standby takes over at once.

    `folder`: the node of the lock, which exists.
    """
    value = holder(now())
    await _tidy(client, folder)
    mine = await client.create(f"{folder}/{NODE}", value, acl, wire.EPHEMERAL | wire.SEQUENTIAL)
    term = ZooKeeperTerm(client, mine)
    quiet = client.listen(term)
    try:
        term.taken_over = await _first(client, folder, mine)
        await client.watch(mine)
        yield term
    finally:
        quiet()
        term.lose()
        with contextlib.suppress(IsthmusError, KazooException, TimeoutError):
            async with asyncio.timeout(RELEASE_TIME):
                await client.delete(mine)


async def _first(client: Client, folder: str, mine: str) -> bool:
    """Waits until no node is before ours; whether there was one.

    Raises Unavailable where our node is gone, or the destination is divided into shards.
    """
    own, waited = mine.rpartition("/")[2], False
    async with aclosing(_children(client, folder)) as looks:
        async for names in looks:
            if SHARDS in names:
                raise Unavailable(is_divided(f"{folder}/{SHARDS}"))
            if own not in names:
                raise Unavailable(f"{mine} is gone while waiting for the lock")
            if contenders(names)[0] == own:
                break
            waited = True
    return waited


async def _children(client: Client, folder: str) -> AsyncGenerator[list[str]]:
    """The names below a node, now and at each possible change. Raises Unavailable where the session ends."""
    wake = Wake(folder)
    quiet = client.listen(wake)
    try:
        while True:
            wake.event.clear()
            if wake.reason:
                raise Unavailable(f"{wake.reason} while waiting for the lock")
            try:
                await client.connected()
                await client.watch(folder)
                names = await client.children(folder)
            except Disconnected:
                continue
            except Expired as error:
                raise Unavailable(f"{error} while waiting for the lock") from None
            yield names
            await wake.event.wait()
    finally:
        quiet()


def contenders(names: Iterable[str]) -> list[str]:
    """The nodes of all contenders, the holder's first."""
    return sorted(name for name in names if name.startswith(NODE))


async def _tidy(client: Client, folder: str) -> None:
    """Deletes nodes of an earlier process in the session that we resumed, and one whose creation's answer was lost."""
    await client.connected()
    paths = [f"{folder}/{name}" for name in contenders(await client.children(folder))]
    if not paths:
        return
    for path, node in zip(paths, values_of(await client.reads(paths)), strict=True):
        if node is not None and node.owner == client.session:
            with contextlib.suppress(NoNodeError):
                await client.delete(path)
