"""The writer's lock, and the leases of leased entries, kept alive while this process writes.

A lock alone does not keep a paused process from writing when it wakes up (Jepsen on etcd 3.4.3: "locks are not safe"):
every transaction of the sink compares the lock's create revision.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

from adapters.common.places import SHARDS
from adapters.common.term import LeasedTerm, holder
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import GRANT, KEEP_ALIVE, READ, REVOKE, TXN, Client, reading
from adapters.etcd.keys import Range
from adapters.etcd.watching import Batch, Watching
from bridge.errors import IsthmusError, Unavailable

REVOKE_TIME = 2.0  # seconds; where revoking fails, the lease expires by itself
PAUSE = 0.2  # seconds between attempts to reach any endpoint at all


class Fence(NamedTuple):
    """What each transaction of the writer compares: the lock's key and its create revision."""

    key: bytes
    revision: int
    cluster: int


class Taken(NamedTuple):
    """An acquired lock. `since`: when its lease was requested (the loop's clock). `over`: from another process."""

    lease: int
    fence: Fence
    since: float
    over: bool


class EtcdTerm(LeasedTerm[Fence]):
    """The time during which the lock is ours: at the latest until its lease may have expired."""


@contextlib.asynccontextmanager
async def locked(
    client: Client, key: bytes, shard: str, now: Callable[[], datetime], ttl: int
) -> AsyncIterator[EtcdTerm]:
    """Acquires the lock, or that of one shard, and keeps it. Released on exit, so that a standby takes over at once.

    `ttl`: seconds until the lock of a writer that died is free.
    """
    taken = await (_acquire_shard(client, key, shard, now, ttl) if shard else _acquire(client, key, now, ttl))
    term = EtcdTerm(taken.fence, taken.since, ttl, taken_over=taken.over)

    async def keep() -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(taken.since + ttl) as limit:

                    def renewed(ends: float) -> None:
                        limit.reschedule(ends)
                        term.renewed(ends - ttl)

                    await kept_alive(client, taken.lease, ttl / 3, renewed)
        finally:
            term.lost.set()

    keeping = asyncio.create_task(keep())
    try:
        yield term
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await _revoke(client, taken.lease)


async def kept_alive(client: Client, lease: int, patience: float, renewed: Callable[[float], None]) -> None:
    """Renews a lease every third of its time to live; returns when etcd says that it has expired.

    `patience`: seconds for one answer. `renewed` is called with the loop's time at which it expires without another.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            async with client.stream(KEEP_ALIVE) as call:
                while True:
                    asked = loop.time()  # etcd starts counting later than this
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
            pass  # retried until the caller's deadline
        await asyncio.sleep(PAUSE)


async def _acquire(client: Client, key: bytes, now: Callable[[], datetime], ttl: int) -> Taken:
    """Acquires the lock of the whole. Raises Unavailable where shards are marked beside it."""
    mark, over = _mark(key), False
    while True:
        held, marked, header = await _look(client, key, mark)
        if marked:
            raise Unavailable(f"shards are marked beside the lock ({mark.decode()}): its daemons write one shard each")
        if held:
            await _gone(client, key, header)
        elif taken := await _take(client, key, [key, mark], now, ttl):
            return taken._replace(over=over)
        over = True


async def _acquire_shard(client: Client, whole: bytes, shard: str, now: Callable[[], datetime], ttl: int) -> Taken:
    """Acquires the lock of one shard, once the mark of shards is set and nobody holds the lock of the whole."""
    mark, over = _mark(whole), False
    key = mark + b"/" + quote(shard, safe="").encode()
    free = pb.Compare(target=pb.Compare.CREATE, key=mark, create_revision=0)
    put = pb.PutRequest(key=mark, value=holder(now()))
    await client.call(TXN, pb.TxnRequest(compare=[free], success=[pb.RequestOp(request_put=put)]))
    while True:
        for each in (whole, key):
            held, _, header = await _look(client, each, mark)
            if held:
                over = True
                await _gone(client, each, header)
        if taken := await _take(client, key, [key, whole], now, ttl):
            return taken._replace(over=over)
        over = True


async def _look(client: Client, key: bytes, mark: bytes) -> tuple[bool, bool, pb.Header]:
    """Whether somebody holds the lock, and whether the mark of shards exists."""
    answer = await client.call(READ, reading([Range(key, b""), Range(mark, b"")]))
    held, marked = (bool(each.response_range.kvs) for each in answer.responses)
    return held, marked, answer.header


async def _take(
    client: Client, key: bytes, absent: Sequence[bytes], now: Callable[[], datetime], ttl: int
) -> Taken | None:
    """Creates the lock's key under a new lease, unless one of the keys `absent` exists."""
    since = asyncio.get_running_loop().time()
    lease = (await client.call(GRANT, pb.LeaseGrantRequest(ttl=ttl))).id
    free = [pb.Compare(target=pb.Compare.CREATE, key=each, create_revision=0) for each in absent]
    put = pb.PutRequest(key=key, value=holder(now()), lease=lease)
    try:
        answer = await client.call(TXN, pb.TxnRequest(compare=free, success=[pb.RequestOp(request_put=put)]))
    except BaseException:
        await _revoke(client, lease)  # the lock may have been acquired and the answer lost
        raise
    if answer.succeeded:
        return Taken(lease, Fence(key, answer.header.revision, answer.header.cluster_id), since, over=False)
    await _revoke(client, lease)
    return None


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


def _mark(whole: bytes) -> bytes:
    return whole + f"/{SHARDS}".encode()
