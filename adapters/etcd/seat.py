"""The seat: the lock of one bridge for one destination, and the note beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import NamedTuple

from adapters.common.places import Own
from adapters.common.seat import within
from adapters.common.shards import DividedSeat
from adapters.common.term import writing
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import RANGE, READ, TXN, Client
from adapters.etcd.keys import Range
from adapters.etcd.lock import EtcdTerm, locked
from adapters.etcd.shards import EtcdArea, EtcdLife, EtcdShardTerm
from adapters.etcd.txn import GONE, dropping, is_held, looks, noting, removing
from adapters.etcd.watching import told
from bridge.adapter import Note, Term
from bridge.errors import Conflict, Superseded


class EtcdNotes:
    """The notes by key of one bridge."""

    def __init__(self, client: Client, own: Own, bridge: str) -> None:
        self._client = client
        self._own = own
        self._bridge = bridge

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        found = await self._client.call(RANGE, pb.RangeRequest(key=self._place(key)))
        return Note(found.kvs[0].value, found.kvs[0].mod_revision) if found.kvs else None

    async def changed(self, key: str, since: Note | None) -> None:
        """See `Waking.changed`."""
        place = self._place(key)
        found = await self._client.call(RANGE, pb.RangeRequest(key=place))
        if (found.kvs[0].mod_revision if found.kvs else None) == (since.version if since is not None else None):
            await told(self._client, place, found.header, lambda _: True)

    async def below(self, start: str) -> dict[str, Note]:
        """See `Notes.below`."""
        area = Range.below(self._place(start))
        found = await self._client.call(RANGE, pb.RangeRequest(key=area.start, range_end=area.end))
        notes = ((self._own.key_of(self._bridge, kv.key.decode()), kv) for kv in found.kvs)
        return {key: Note(kv.value, kv.mod_revision) for key, kv in notes if key is not None}

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        within(content)
        revision = before.version if before is not None else GONE
        answer = await self._client.call(TXN, noting(self._place(key), content, revision, None))
        if not answer.succeeded:
            raise Conflict(f"the note {key} is not what it was")
        return Note(content, answer.header.revision)

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`."""
        if not (await self._client.call(TXN, dropping(self._place(key), before.version))).succeeded:
            raise Conflict(f"the note {key} is not what it was")

    def _place(self, key: str) -> bytes:
        return self._own.noted(self._bridge, key).encode()


class Places(NamedTuple):
    """The keys of one seat; `notes`: above those of the shards' notes."""

    lock: bytes
    note: bytes
    notes: bytes

    @classmethod
    def of(cls, own: Own, bridge: str, lent: str = "") -> Places:
        """Of the seat of a bridge for this destination, or for one that it is lent to."""
        texts = (own.lock(bridge, lent), own.note(bridge, lent), own.shard_notes(bridge, lent))
        return cls(*(text.encode() for text in texts))


class EtcdSeat(DividedSeat[EtcdLife, EtcdShardTerm]):
    """The keys of one seat. `ttl`: seconds of the lease of its locks.

    `inside`: a context that is entered while the lock is held, or those of shards are asked for.
    """

    def __init__(
        self,
        client: Client,
        places: Places,
        now: Callable[[], datetime],
        ttl: int,
        inside: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        super().__init__(EtcdArea(client, places.lock, places.notes, now, ttl, inside))
        self._client = client
        self._lock, self._note, self._notes = places
        self._now = now
        self._ttl = ttl
        self._inside = inside

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[EtcdTerm]:
        """See `Seat.writer`."""
        async with locked(self._client, self._lock, self._now, self._ttl) as term, self._inside():
            yield term

    async def recall(self) -> Note | None:
        """The note of this seat, with its revision."""
        found = await self._client.call(RANGE, pb.RangeRequest(key=self._note))
        return Note(found.kvs[0].value, found.kvs[0].mod_revision) if found.kvs else None

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        fence = writing(EtcdTerm, self._lock.decode(), term).fence if term is not None else None
        revision = before.version if before is not None else GONE
        answer = await self._client.call(TXN, noting(self._note, content, revision, fence))
        if answer.succeeded:
            return Note(content, answer.header.revision)
        if fence is not None and not is_held(fence, await self._client.call(READ, looks(fence, ()))):
            raise Superseded(f"the lock {self._lock.decode()} is not ours any more")
        raise Conflict(f"the note {self._note.decode()} is not what it was")

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`; the lock's key ends with its lease."""
        fence = writing(EtcdTerm, self._lock.decode(), term).fence
        areas = [Range(self._note, b""), Range.below(self._notes + b"/")]
        if not (await self._client.call(TXN, removing(areas, fence))).succeeded:
            raise Superseded(f"the lock {self._lock.decode()} is not ours any more")
