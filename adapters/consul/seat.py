"""The seat: the lock of one bridge for one destination, and the note beside it."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import quote

from adapters.common.places import Own
from adapters.common.seat import within
from adapters.common.shards import DividedSeat
from adapters.common.term import writing
from adapters.consul.client import Client
from adapters.consul.lock import ConsulLife, ConsulTerm, Lock
from adapters.consul.nodes import Nodes
from adapters.consul.shards import ConsulArea, ConsulShardTerm, note_of, noted
from adapters.consul.traces import remove_shared
from adapters.consul.txn import Refusal, fence_of, kv, submit
from bridge.adapter import Note, Term
from bridge.errors import Conflict, Denied, Rejected, Superseded

LONGEST = 400_000  # bytes: one transaction may have 512 KiB, in base64


class ConsulNotes:
    """The notes by key of one bridge in one datacenter."""

    def __init__(self, client: Client, dc: str, own: Own, bridge: str) -> None:
        self._client = client
        self._dc = dc
        self._own = own
        self._bridge = bridge

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        return await _recall(self._client, self._dc, self._place(key))

    async def below(self, start: str) -> dict[str, Note]:
        """See `Notes.below`."""
        path = f"/v1/kv/{quote(self._place(start))}"
        reply = await self._client.get(path, self._dc, accept=(404,), recurse="", consistent="")
        rows = reply.json(list[dict[str, Any]]) if reply.status == 200 else []
        notes = ((self._own.key_of(self._bridge, f"/{row['Key']}"), row) for row in rows)
        return {key: note_of(row) for key, row in notes if key is not None}

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        within(content)
        value, index = base64.b64encode(content).decode(), before.version if before is not None else 0
        results = await self._submit(key, {"Verb": "cas", "Value": value, "Index": index})
        return Note(content, results[-1]["KV"]["ModifyIndex"])

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`; Consul takes it for done where there is none."""
        if await self.read(key) is None:
            raise Conflict(f"the note {key} is gone")
        await self._submit(key, {"Verb": "delete-cas", "Index": before.version})

    async def _submit(self, key: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            return await submit(self._client, self._dc, [{"KV": {**operation, "Key": self._place(key)}}])
        except Refusal:
            raise Conflict(f"the note {key} is not what it was") from None

    def _place(self, key: str) -> str:
        return self._own.noted(self._bridge, key).removeprefix("/")


class ConsulSeat(DividedSeat[ConsulLife, ConsulShardTerm]):
    """The keys of one seat in one datacenter. `notes`: above those of shards.

    `nodes`: those of its copies, None for a seat that is lent.
    """

    ousts = True  # a session lives for up to twice its time, which is ten seconds at least

    def __init__(self, client: Client, dc: str, lock: Lock, note: str, notes: str, nodes: Nodes | None = None) -> None:
        super().__init__(ConsulArea(client, dc, lock, notes))
        self._notes = f"{notes}/"
        self._nodes = nodes
        self._leaves = False
        self._client = client
        self._dc = dc
        self._lock = lock
        self._note = note

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[ConsulTerm]:
        """See `Seat.writer`."""
        self._leaves = False
        async with self._lock.held() as term:
            yield term
        if self._leaves:  # only now: our own session was on it
            with contextlib.suppress(Denied):  # it is not ours alone, and `footprint` names what stays
                await remove_shared(self._client, self._dc)

    async def oust(self, shard: int, who: str) -> None:
        """See `Shards.oust`."""
        area = cast(ConsulArea, self.area)
        lot = (await area.look()).lot(shard)
        if lot.life and lot.who == who and lot.claims:
            await area.give_in_place(shard, lot)

    async def recall(self) -> Note | None:
        """The note of this seat, with its index."""
        return await _recall(self._client, self._dc, self._note)

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        if len(content) > LONGEST * 3 // 4:
            raise Rejected(f"a note of {len(content)} bytes is longer than one transaction of Consul's takes")
        fence = fence_of(writing(ConsulTerm, self._lock.key, term)) if term is not None else []
        return await noted(self._client, self._dc, self._note, content, before, fence)

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`; the lock's key ends with its session."""
        fence = fence_of(writing(ConsulTerm, self._lock.key, term))
        left = [kv("delete", self._note), kv("delete-tree", self._notes)]
        try:
            await submit(self._client, self._dc, [*fence, *left])
        except Refusal:
            raise Superseded(f"the lock {self._lock.key} is not ours any more") from None
        if self._nodes is not None:
            await self._nodes.remove_empty(writing(ConsulTerm, self._lock.key, term))
        self._leaves = True


async def _recall(client: Client, dc: str, key: str) -> Note | None:
    reply = await client.get(f"/v1/kv/{quote(key)}", dc, accept=(404,), consistent="")
    return note_of(reply.json(list[dict[str, Any]])[0]) if reply.status != 404 else None
