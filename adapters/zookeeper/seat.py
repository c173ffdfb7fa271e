"""The seat: the lock of one bridge for one destination, and the note beside it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from kazoo.exceptions import NoAuthError, NoNodeError, NotEmptyError

from adapters.common.places import Own
from adapters.common.seat import within
from adapters.common.shards import DividedSeat
from adapters.common.term import writing
from adapters.zookeeper import acl
from adapters.zookeeper.client import Client
from adapters.zookeeper.lock import ZooKeeperTerm, locked
from adapters.zookeeper.replies import lists_of, values_of
from adapters.zookeeper.shards import ZooKeeperArea, ZooKeeperLife, ZooKeeperShardTerm, noted, noting
from adapters.zookeeper.traces import remove_shared
from adapters.zookeeper.txn import BYTES
from adapters.zookeeper.wire import Acl, Create, Delete, Op, SetData
from bridge.adapter import Note, Term
from bridge.errors import Conflict, Denied, Rejected


async def _nothing(term: ZooKeeperTerm) -> None:
    """A lent seat has no sink, so there is nothing to prepare or take over."""


class ZooKeeperNotes:
    """The notes by key of one bridge: a node each, in one folder."""

    def __init__(self, client: Client, own: Own, bridge: str) -> None:
        self._client = client
        self._own = own
        self._bridge = bridge
        self._folder = parent(own.noted(bridge, "any"))

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        await self._client.connected()
        (note,) = await self._read([key])
        return note

    async def below(self, start: str) -> dict[str, Note]:
        """See `Notes.below`."""
        await self._client.connected()
        (names,) = lists_of(await self._client.reads([], [self._folder]))
        found = (self._own.key_of(self._bridge, f"{self._folder}/{name}") for name in names or ())
        keys = sorted(key for key in found if key is not None and key.startswith(start))
        notes = await self._read(keys) if keys else []
        return {key: note for key, note in zip(keys, notes, strict=True) if note is not None}

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        within(content)
        await self._client.connected()
        if before is None:
            await acl.ensure(self._client, self._folder)
            await self._change(key, Create(self._place(key), content, await acl.inherited(self._client, self._folder)))
            return Note(content, 0)
        await self._change(key, SetData(self._place(key), content, before.version))
        return Note(content, before.version + 1)

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`; the folder is removed with the last note."""
        await self._client.connected()
        await self._change(key, Delete(self._place(key), before.version))
        await remove_empty(self._client, self._folder)

    async def _change(self, key: str, operation: Op) -> None:
        failed = (await self._client.multi(self._client.pack([operation]))).value
        if failed and isinstance(failed[0].error, NoAuthError):
            raise Denied(f"{self._place(key)}: {failed[0].error or 'not allowed'}")
        if failed:
            raise Conflict(f"the note {key} is not what it was")

    async def _read(self, keys: Sequence[str]) -> list[Note | None]:
        nodes = values_of(await self._client.reads([self._place(key) for key in keys]))
        return [Note(node.value, node.version) if node is not None else None for node in nodes]

    def _place(self, key: str) -> str:
        return self._own.noted(self._bridge, key)


class Places(NamedTuple):
    """The nodes of one seat; `notes`: above those of the shards' notes."""

    lock: str
    note: str
    notes: str

    @classmethod
    def of(cls, own: Own, bridge: str, lent: str = "") -> Places:
        """Of the seat of a bridge for this destination, or for one that it is lent to."""
        return cls(own.lock(bridge, lent), own.note(bridge, lent), own.shard_notes(bridge, lent))


class ZooKeeperSeat(DividedSeat[ZooKeeperLife, ZooKeeperShardTerm]):
    """The nodes of one seat. `prepare`: called before the lock is acquired, e.g. for the roots; `inherit`: after it.

    Nothing is inherited with a shard: its entries are lasting, for a leased one dies with the session that wrote it.
    """

    def __init__(
        self,
        client: Client,
        places: Places,
        now: Callable[[], datetime],
        prepare: Callable[[], Awaitable[list[Acl]]] | None = None,
        inherit: Callable[[ZooKeeperTerm], Awaitable[None]] = _nothing,
    ) -> None:
        self._client = client
        self._lock, self._note, notes = places
        self._now = now
        self._prepare = prepare or self._rights
        super().__init__(ZooKeeperArea(client, self._lock, notes, now, self._prepare), leases=False)
        self._inherit = inherit
        self._leaves = False

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[ZooKeeperTerm]:
        """See `Seat.writer`."""
        await self._client.connected()
        await acl.ensure(self._client, self._lock)
        rights = await self._prepare()
        self._leaves = False
        async with locked(self._client, self._lock, rights, self._now) as term:
            await self._inherit(term)
            yield term
        if self._leaves:  # only now, for it has children while somebody holds the lock or waits for it
            await remove_empty(self._client, self._lock, parent(self._lock))
            with contextlib.suppress(Denied):  # others use it, too; `footprint` names what stays
                await remove_shared(self._client)

    async def recall(self) -> Note | None:
        """The note of this seat, with the version of its node."""
        await self._client.connected()
        (node,) = values_of(await self._client.reads([self._note]))
        return Note(node.value, node.version) if node is not None else None

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        if len(content) > BYTES:
            raise Rejected(f"{len(content):,} bytes: a packet of ZooKeeper's holds {BYTES:,}")
        await self._client.connected()
        fence = writing(ZooKeeperTerm, self._lock, term).fence if term is not None else ()
        return await noted(self._client, self._note, content, before, fence)

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`. The lock's nodes are removed after its release, unless another process waits for it."""
        fence = writing(ZooKeeperTerm, self._lock, term).fence
        before = await self.recall()
        ops: list[Op] = [*fence, *([Delete(self._note, before.version)] if before is not None else [])]
        await noting(self._client, self._note, ops, fence)
        await remove_empty(self._client, parent(self._note))
        self._leaves = True

    async def _rights(self) -> list[Acl]:
        return await acl.inherited(self._client, self._lock)


def parent(path: str) -> str:
    """The node above a node."""
    return path.rpartition("/")[0]


async def remove_empty(client: Client, *paths: str) -> None:
    """Removes these nodes in this order, except those with children, which others use."""
    for path in paths:
        with contextlib.suppress(NotEmptyError, NoNodeError):
            await client.delete(path)
