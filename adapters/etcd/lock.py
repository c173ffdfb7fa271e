"""The writer's lock and the leases that entries live under: etcd leases, kept alive while this process writes.

A lock alone does not keep a paused process from writing when it wakes up (Jepsen on etcd 3.4.3: "locks are not safe"):
every transaction of the sink compares the lock's create revision.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import GRANT, KEEP_ALIVE, RANGE, REVOKE, TXN, Client
from adapters.etcd.keys import Range
from adapters.etcd.watching import Batch, Watching
from bridge.errors import IsthmusError, Unavailable

LOCK_TTL = 10  # seconds: how long a standby waits for a writer that died
REVOKE_TIME = 2.0  # seconds: where it fails, the lease ends by itself
PAUSE = 0.2  # seconds between attempts to reach any endpoint at all


class Fence(NamedTuple):
    """What a transaction compares to be that of the only writer: the lock's key and its create revision."""

    key: bytes
    revision: int
    cluster: int


class EtcdTerm:
    """The time during which the lock is ours; it ends with the lock's lease, at the latest when that may have ended."""

    def __init__(self, fence: Fence) -> None:
        self.fence = fence
        self.lost = asyncio.Event()

    async def ended(self) -> None:
        """Returns when the lock is lost."""
        await self.lost.wait()


@contextlib.asynccontextmanager
async def locked(client: Client, key: bytes, now: Callable[[], datetime]) -> AsyncIterator[EtcdTerm]:
    """Waits for the lock and keeps it; given back at the end, so that a standby goes on at once."""
    lease, fence, since = await _acquire(client, key, now)
    term = EtcdTerm(fence)

    async def keep() -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(since + LOCK_TTL) as limit:
                    await kept_alive(client, lease, LOCK_TTL / 3, limit.reschedule)
        finally:
            term.lost.set()

    keeping = asyncio.create_task(keep())
    try:
        yield term
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await _revoke(client, lease)


async def kept_alive(client: Client, lease: int, patience: float, renewed: Callable[[float], None]) -> None:
    """Renews a lease every third of its time to live; returns when etcd says that it has expired.

    `patience`: seconds for one answer. `renewed` is called with the loop's time at which it expires without another.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            async with client.stream(KEEP_ALIVE) as call:
                while True:
                    asked = loop.time()  # etcd's clock for it starts later
                    async with asyncio.timeout(patience):
                        await call.write(pb.LeaseKeepAliveRequest(id=lease))
                        answer = await call.read()
                    if not isinstance(answer, pb.LeaseKeepAliveResponse):
                        raise Unavailable("etcd ended the stream of renewals")
                    if answer.ttl <= 0:
                        return
                    renewed(asked + answer.ttl)
                    await asyncio.sleep(answer.ttl / 3)
        except TimeoutError:
            await client.leave()
        except IsthmusError:
            pass  # tried again until it is too late: whoever waits for the end sets a limit
        await asyncio.sleep(PAUSE)


async def _acquire(client: Client, key: bytes, now: Callable[[], datetime]) -> tuple[int, Fence, float]:
    loop = asyncio.get_running_loop()
    while True:
        found = await client.call(RANGE, pb.RangeRequest(key=key))
        if found.kvs:
            await _gone(client, key, found.header)
            continue
        since = loop.time()
        lease = (await client.call(GRANT, pb.LeaseGrantRequest(ttl=LOCK_TTL))).id
        free = pb.Compare(target=pb.Compare.CREATE, key=key, create_revision=0)
        put = pb.PutRequest(key=key, value=_holder(now()), lease=lease)
        try:
            request = pb.TxnRequest(compare=[free], success=[pb.RequestOp(request_put=put)])
            answer = await client.call(TXN, request)
        except BaseException:
            await _revoke(client, lease)  # it may have been taken, and the answer lost
            raise
        if answer.succeeded:
            return lease, Fence(key, answer.header.revision, answer.header.cluster_id), since
        await _revoke(client, lease)


async def _gone(client: Client, key: bytes, header: pb.Header) -> None:
    """Waits until someone deletes the key, or its lease ends."""
    watching = Watching(client, {Range(key, b""): header.revision}, header.cluster_id)
    gone = asyncio.Event()

    async def look(batch: Batch) -> None:
        if any(event.type == pb.Event.DELETE for event in batch.events):
            gone.set()

    watch = asyncio.create_task(watching.run(lambda: None, look))
    wait = asyncio.create_task(gone.wait())
    try:
        done, _ = await asyncio.wait({watch, wait}, return_when=asyncio.FIRST_COMPLETED)
        if watch in done:
            watch.result()
    finally:
        watch.cancel()
        wait.cancel()
        await asyncio.gather(watch, wait, return_exceptions=True)


async def _revoke(client: Client, lease: int) -> None:
    with contextlib.suppress(IsthmusError):
        await client.call(REVOKE, pb.LeaseRevokeRequest(id=lease), REVOKE_TIME)


def _holder(now: datetime) -> bytes:
    """For whoever looks at the lock and asks who has it."""
    return msgspec.json.encode({"host": socket.gethostname(), "pid": os.getpid(), "since": now.isoformat()})
