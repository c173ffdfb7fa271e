"""The writer's lock, and the leases of leased entries, kept alive while this process writes.

A lock alone does not keep a paused process from writing when it wakes up (Jepsen on etcd 3.4.3: "locks are not safe"):
every transaction of the sink compares the revision of the lock's key (`Fence`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any, NamedTuple

from adapters.common.places import SHARDS, is_divided
from adapters.common.term import LeasedTerm, holder
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import GRANT, KEEP_ALIVE, READ, REVOKE, TXN, Client, reading
from adapters.etcd.keys import Range
from adapters.etcd.watching import told
from bridge.errors import IsthmusError, Unavailable

REVOKE_TIME = 2.0  # seconds; where revoking fails, the lease expires by itself
PAUSE = 0.2  # seconds between attempts to reach any endpoint at all


class Divided(NamedTuple):
    """The key `shards`, and what it says."""

    key: bytes
    value: bytes


class Fence(NamedTuple):
    """What each transaction of the writer compares: the lock's key and its revision, which grows when it changes hands.

    `divided`: of the writer of a shard, also what the key `shards` says.
    """

    key: bytes
    revision: int
    cluster: int
    divided: Divided | None = None


class EtcdTerm(LeasedTerm[Fence]):
    """The time during which the lock is ours: at the latest until its lease may have expired."""


class Taken(NamedTuple):
    """An acquired lock. `since`: when its lease was requested (the loop's clock). `over`: from another process."""

    lease: int
    fence: Fence
    since: float
    over: bool


@contextlib.asynccontextmanager
async def locked(client: Client, key: bytes, now: Callable[[], datetime], ttl: int) -> AsyncIterator[EtcdTerm]:
    """Acquires the lock, and keeps it. Released on exit, so that a standby takes over at once.

    `ttl`: seconds until the lock of a writer that died is free.
    """
    taken = await _acquire(client, key, now, ttl)
    term = EtcdTerm(taken.fence, taken.since, ttl, taken_over=taken.over)
    async with kept(client, term, taken.lease, taken.since, ttl):
        yield term


@contextlib.asynccontextmanager
async def kept(client: Client, term: LeasedTerm[Any], lease: int, since: float, ttl: int) -> AsyncIterator[None]:
    """Inside, the lease is renewed, and the term is over when that fails for as long as it lives. Revoked on exit."""

    async def keep() -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(since + ttl) as limit:

                    def renewed(ends: float) -> None:
                        limit.reschedule(ends)
                        term.renewed(ends - ttl)

                    await kept_alive(client, lease, ttl / 3, renewed)
        finally:
            term.lose()

    keeping = asyncio.create_task(keep())
    try:
        yield
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
    """Acquires the lock. Raises Unavailable where the destination is divided into shards."""
    shards, over = key + f"/{SHARDS}".encode(), False
    while True:
        answer = await client.call(READ, reading([Range(key, b""), Range(shards, b"")]))
        held, divided = (bool(each.response_range.kvs) for each in answer.responses)
        if divided:
            raise Unavailable(is_divided(shards.decode()))
        if held:
            await _gone(client, key, answer.header)
        elif taken := await _take(client, key, shards, now, ttl):
            return taken._replace(over=over)
        over = True


async def _take(client: Client, key: bytes, shards: bytes, now: Callable[[], datetime], ttl: int) -> Taken | None:
    """Creates the lock's key under a new lease, unless there is one, or shards are."""
    since = asyncio.get_running_loop().time()
    lease = (await client.call(GRANT, pb.LeaseGrantRequest(ttl=ttl))).id
    free = [pb.Compare(target=pb.Compare.CREATE, key=each, create_revision=0) for each in (key, shards)]
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
    await told(client, key, header, lambda event: event.type == pb.Event.DELETE)


async def _revoke(client: Client, lease: int) -> None:
    with contextlib.suppress(IsthmusError):
        await client.call(REVOKE, pb.LeaseRevokeRequest(id=lease), REVOKE_TIME)
