"""The locks of shards in etcd: keys on one lease a process, claims beside them, and a hand-over in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from math import inf

from adapters.common.places import SHARDS
from adapters.common.shards import Claim, Lot, OfShard, Picture, Wish, count_of, said, who_of
from adapters.common.term import LeasedTerm
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import GRANT, RANGE, READ, TXN, Client
from adapters.etcd.keys import Range
from adapters.etcd.lock import Divided, EtcdTerm, Fence, kept
from adapters.etcd.txn import GONE, deleting, is_held, looks, noting
from adapters.etcd.watching import Batch, Watching
from bridge.adapter import Note
from bridge.errors import Conflict, Superseded


class EtcdLife(LeasedTerm[int]):
    """The lease that the locks and claims of this process are on."""

    def __init__(self, lease: int, cluster: int, since: float, ttl: int) -> None:
        super().__init__(lease, since, ttl)
        self.id = str(lease)
        self.cluster = cluster


class EtcdShardTerm(OfShard, EtcdTerm):
    """The time during which the lock of a shard is ours, at the latest until the lease may have expired."""

    def __init__(self, fence: Fence, life: EtcdLife, wish: Wish) -> None:
        super().__init__(fence, 0, 0)
        self.wish = wish
        self.version = fence.revision
        self._life = life

    @property
    def until(self) -> float:
        """See `Term.until`."""
        return -inf if self.over else self._life.until


class EtcdArea:
    """The shards of one seat, by key; see `adapters.common.shards.Area`."""

    def __init__(
        self,
        client: Client,
        lock: bytes,
        notes: bytes,
        now: Callable[[], datetime],
        ttl: int,
        inside: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._client = client
        self._whole = lock
        self._shards = lock + f"/{SHARDS}".encode()
        self._all = Range(self._shards, Range.below(self._shards + b"/").end)
        self._notes = notes + b"/"
        self._now = now
        self._ttl = ttl
        self._inside = inside

    async def divided(self) -> int | None:
        """See `Shards.divided`."""
        found = (await self._client.call(RANGE, pb.RangeRequest(key=self._shards))).kvs
        return count_of(found[0].value) if found else None

    async def divide(self, count: int) -> None:
        """See `Shards.divide`."""
        request = pb.TxnRequest(
            compare=[_absent(self._shards), _absent(self._whole)],
            success=[_put(self._shards, str(count).encode()), deleting(Range.below(self._notes))],
        )
        if (await self._client.call(TXN, request)).succeeded or (stands := await self.divided()) == count:
            return
        name = self._shards.decode()
        raise Conflict(f"{name} says {stands}" if stands else "a process holds the lock of the whole")

    async def unite(self) -> None:
        """See `Shards.unite`."""
        request = pb.TxnRequest(
            compare=[_absent(*Range.below(self._shards + b"/"))],
            success=[deleting(Range(self._shards, b"")), deleting(Range.below(self._notes))],
        )
        if not (await self._client.call(TXN, request)).succeeded:
            raise Conflict("a process holds the lock of a shard, or claims it")

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[EtcdLife]:
        """A lease, renewed inside."""
        since = asyncio.get_running_loop().time()
        granted = await self._client.call(GRANT, pb.LeaseGrantRequest(ttl=self._ttl))
        life = EtcdLife(granted.id, granted.header.cluster_id, since, self._ttl)
        async with kept(self._client, life, granted.id, since, self._ttl), self._inside():
            yield life

    async def follow(self, hear: Callable[[Picture], None]) -> None:
        """By a watch of all keys."""
        answer = await self._read()
        keys = {kv.key: kv for kv in answer.kvs}
        hear(self._picture(keys, answer.header.revision))

        async def told(batch: Batch) -> None:
            for event in batch.events:
                if event.type == pb.Event.DELETE:
                    keys.pop(event.kv.key, None)
                else:
                    keys[event.kv.key] = event.kv
            hear(self._picture(keys, batch.revision))

        watching = Watching(self._client, {self._all: answer.header.revision}, answer.header.cluster_id)
        await watching.run(lambda: None, told)

    async def look(self) -> Picture:
        """By a linearizable read."""
        answer = await self._read()
        return self._picture({kv.key: kv for kv in answer.kvs}, answer.header.revision)

    async def claim(self, life: EtcdLife, wish: Wish) -> int:
        """A key on our lease."""
        key = self._claim(life, wish.shard)
        request = pb.TxnRequest(
            compare=[_absent(key), self._says(wish.count)],
            success=[_put(key, said(wish.who, self._now()), life.fence)],
        )
        return (await self._client.call(TXN, request)).header.revision

    async def take(self, life: EtcdLife, wish: Wish) -> EtcdShardTerm | None:
        """Puts the lock's key on our lease. Where it is there, the answer says whose it is."""
        lock = self._lock(wish.shard)
        free = [_absent(lock), _absent(self._whole), self._says(wish.count)]
        unclaimed = [] if wish.claims else [_absent(*Range.below(lock + b"/"))]
        request = pb.TxnRequest(
            compare=free + unclaimed,
            success=[
                _put(lock, said(wish.who, self._now()), life.fence),
                deleting(Range(self._claim(life, wish.shard), b"")),
            ],
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=lock))],
        )
        answer = await self._client.call(TXN, request)
        revision = answer.header.revision
        if not answer.succeeded:
            found = answer.responses[0].response_range.kvs
            if not found or found[0].lease != life.fence:
                return None
            revision = found[0].mod_revision
        divided = Divided(self._shards, str(wish.count).encode())
        return EtcdShardTerm(Fence(lock, revision, life.cluster, divided), life, wish)

    async def give(self, term: EtcdShardTerm, claim: Claim) -> bool:
        """Puts the lock's key on the claim's lease: it keeps its create revision and gets another revision."""
        lock = term.fence.key
        key = _claimed(lock, claim.life)
        request = pb.TxnRequest(
            compare=[
                pb.Compare(target=pb.Compare.MOD, key=lock, mod_revision=term.fence.revision),
                pb.Compare(target=pb.Compare.CREATE, key=key, create_revision=claim.version),
            ],
            success=[deleting(Range(key, b"")), _put(lock, said(claim.who, self._now()), int(claim.life))],
        )
        return (await self._client.call(TXN, request)).succeeded

    async def release(self, life: EtcdLife, shard: int) -> None:
        """Deletes the claim, and the lock where it is on our lease."""
        lock, claim = self._lock(shard), deleting(Range(self._claim(life, shard), b""))
        request = pb.TxnRequest(
            compare=[pb.Compare(target=pb.Compare.LEASE, key=lock, lease=life.fence)],
            success=[deleting(Range(lock, b"")), claim],
            failure=[claim],
        )
        await self._client.call(TXN, request)

    async def notes(self) -> dict[int, Note]:
        """By one linearizable read."""
        area = Range.below(self._notes)
        answer = await self._client.call(RANGE, pb.RangeRequest(key=area.start, range_end=area.end))
        found = ((kv.key.removeprefix(self._notes), kv) for kv in answer.kvs)
        return {int(name): Note(kv.value, kv.mod_revision) for name, kv in found if name.isdigit()}

    async def note(self, content: bytes, before: Note | None, term: EtcdShardTerm) -> Note:
        """Compares the fence, and what it replaces."""
        key = self._notes + str(term.wish.shard).encode()
        revision = before.version if before is not None else GONE
        answer = await self._client.call(TXN, noting(key, content, revision, term.fence))
        if answer.succeeded:
            return Note(content, answer.header.revision)
        if not is_held(term.fence, await self._client.call(READ, looks(term.fence, ()))):
            raise Superseded(f"the lock {term.fence.key.decode()} is not ours any more")
        raise Conflict(f"the note {key.decode()} is not what it was")

    async def _read(self) -> pb.RangeResponse:
        return await self._client.call(RANGE, pb.RangeRequest(key=self._all.start, range_end=self._all.end))

    def _picture(self, keys: Mapping[bytes, pb.KeyValue], revision: int) -> Picture:
        count = keys.get(self._shards)
        lots: dict[int, Lot] = {}
        claims: dict[int, list[pb.KeyValue]] = {}
        for key, kv in keys.items():
            match key.removeprefix(self._shards).decode(errors="replace").split("/"):
                case ["", shard] if shard.isdigit():
                    lots[int(shard)] = Lot(str(kv.lease), who_of(kv.value), kv.mod_revision)
                case ["", shard, _] if shard.isdigit():
                    claims.setdefault(int(shard), []).append(kv)
        for number, some in claims.items():
            lots[number] = lots.get(number, Lot())._replace(claims=_by_age(some))
        return Picture(count_of(count.value) if count is not None else None, lots, revision)

    def _says(self, count: int) -> pb.Compare:
        return pb.Compare(target=pb.Compare.VALUE, key=self._shards, value=str(count).encode())

    def _lock(self, shard: int) -> bytes:
        return b"%s/%d" % (self._shards, shard)

    def _claim(self, life: EtcdLife, shard: int) -> bytes:
        return _claimed(self._lock(shard), life.id)


def _claimed(lock: bytes, life: str) -> bytes:
    return b"%s/%s" % (lock, life.encode())


def _by_age(kvs: Sequence[pb.KeyValue]) -> tuple[Claim, ...]:
    oldest = sorted(kvs, key=lambda kv: kv.create_revision)
    return tuple(Claim(str(kv.lease), who_of(kv.value), kv.create_revision) for kv in oldest)


def _absent(key: bytes, end: bytes = b"") -> pb.Compare:
    """That there is no such key, or none in that range."""
    return pb.Compare(target=pb.Compare.CREATE, key=key, range_end=end, create_revision=0)


def _put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
