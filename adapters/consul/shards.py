"""The locks of shards in Consul: keys of one session a process, claims beside them, handed over in one transaction."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any
from urllib.parse import quote

from adapters.common.shards import Claim, Lot, OfShard, Picture, Said, Wish, count_of, said, who_of
from adapters.consul.client import Client, Reply
from adapters.consul.lock import WAIT, ConsulLife, ConsulTerm, Divided, Fence, Lock
from adapters.consul.txn import Refusal, fence_of, kv, submit
from bridge.adapter import Note
from bridge.errors import Conflict, Superseded

Row = Mapping[str, Any]  # a key as the store has it


class ConsulShardTerm(OfShard, ConsulTerm):
    """The time during which the lock of a shard is ours, at the latest until the session may have ended."""

    def __init__(self, fence: Fence, life: ConsulLife, wish: Wish, version: int) -> None:
        super().__init__(fence, 0, 0)
        self.wish = wish
        self.version = version
        self._life = life

    @property
    def until(self) -> float:
        """See `Term.until`."""
        return -inf if self.over else self._life.until


class ConsulArea:
    """The shards of one seat, by key; see `adapters.common.shards.Area`."""

    def __init__(self, client: Client, dc: str, lock: Lock, notes: str) -> None:
        self._client = client
        self._dc = dc
        self._lock = lock
        self._shards = lock.shards
        self._notes = f"{notes}/"
        self._said = Said(None, 0)

    async def divided(self) -> int | None:
        """See `Shards.divided`."""
        row = await self._count()
        return count_of(_value(row)) if row is not None else None

    async def divide(self, count: int) -> None:
        """See `Shards.divide`."""
        value = base64.b64encode(str(count).encode()).decode()
        ops = [
            kv("check-not-exists", self._lock.key),
            kv("cas", self._shards, Value=value, Index=0),
            kv("delete-tree", self._notes),
        ]
        try:
            await submit(self._client, self._dc, ops)
        except Refusal:
            if (stands := await self.divided()) != count:
                name = self._shards
                raise Conflict(f"{name} says {stands}" if stands else "a process holds the lock of the whole") from None

    async def unite(self) -> None:
        """See `Shards.unite`. Who takes a lock in between can write nothing, for it compares the key `shards`."""
        row = await self._count()
        if (await self.look()).lots:
            raise Conflict("a process holds the lock of a shard, or claims it")
        gone = [kv("delete-cas", self._shards, Index=row["ModifyIndex"])] if row is not None else []
        try:
            await submit(self._client, self._dc, [*gone, kv("delete-tree", self._notes)])
        except Refusal:
            raise Conflict(f"{self._shards} is not what it was") from None

    def alive(self) -> AbstractAsyncContextManager[ConsulLife]:
        """A session."""
        return self._lock.alive()

    async def follow(self, hear: Callable[[Picture], None]) -> None:
        """By a poll of all keys."""
        path, index = _kv(self._shards), 0
        while True:
            if index:
                reply = await self._client.poll(path, self._dc, index, WAIT, accept=(404,), recurse="")
            else:
                reply = await self._read()
            index = max(1, reply.index)
            hear(self._picture(reply))

    async def look(self) -> Picture:
        """By a consistent read."""
        return self._picture(await self._read())

    async def claim(self, life: ConsulLife, wish: Wish) -> int:
        """A key that our session holds."""
        if self._said.shards != wish.count:
            return 0
        value = base64.b64encode(said(wish.who, self._lock.now())).decode()
        claim = kv("lock", self._claim(wish.shard, life.id), Value=value, Session=life.id)
        try:
            results = await submit(self._client, self._dc, [self._compared(), claim])
        except Refusal:
            return 0
        return int(results[-1]["KV"]["ModifyIndex"])

    async def take(self, life: ConsulLife, wish: Wish) -> ConsulShardTerm | None:
        """Locks the key by our session, also where it is ours already; `lock` fails where it is another's.

        Whether nobody claims, a transaction cannot compare: who claims just then has to wait for this lock.
        """
        if self._said.shards != wish.count:
            return None
        key, index = self._key(wish.shard), self._said.version
        value = base64.b64encode(said(wish.who, self._lock.now())).decode()
        ops = [
            kv("check-not-exists", self._lock.key),
            self._compared(),
            kv("lock", key, Value=value, Session=life.id),
            kv("delete", self._claim(wish.shard, life.id)),
        ]
        try:
            results = await submit(self._client, self._dc, ops)
        except Refusal:
            return None
        version = next(one["KV"]["ModifyIndex"] for one in results if one["KV"]["Key"] == key)
        fence = Fence(key, life.id, self._dc, Divided(version, self._shards, index))
        return ConsulShardTerm(fence, life, wish, version)

    async def give(self, term: ConsulShardTerm, claim: Claim) -> bool:
        """Unlocks the key and locks it for the claimant's session, at once."""
        return await self._give(term.wish.shard, term.version, term.fence.session, claim)

    async def give_in_place(self, shard: int, lot: Lot) -> bool:
        """The same to the oldest claim, in the place of a holder that does not do so; whether all stood as in `lot`."""
        return await self._give(shard, lot.version, lot.life, lot.claims[0])

    async def _give(self, shard: int, version: int, session: str, claim: Claim) -> bool:
        key, theirs = self._key(shard), self._claim(shard, claim.life)
        value = base64.b64encode(said(claim.who, self._lock.now())).decode()
        ops = [
            kv("check-index", key, Index=version),
            kv("check-index", theirs, Index=claim.version),
            kv("unlock", key, Value=value, Session=session),
            kv("lock", key, Value=value, Session=claim.life),
            kv("delete", theirs),
        ]
        try:
            await submit(self._client, self._dc, ops)
        except Refusal:
            return False
        return True

    async def release(self, life: ConsulLife, shard: int) -> None:
        """Deletes the claim, and the lock where our session has it."""
        key, claim = self._key(shard), kv("delete", self._claim(shard, life.id))
        try:
            await submit(self._client, self._dc, [kv("check-session", key, Session=life.id), kv("delete", key), claim])
        except Refusal:
            await submit(self._client, self._dc, [claim])

    async def notes(self) -> dict[int, Note]:
        """By one consistent read."""
        reply = await self._client.get(_kv(self._notes), self._dc, accept=(404,), recurse="", consistent="")
        found = ((str(row["Key"]).removeprefix(self._notes), row) for row in _rows(reply))
        return {int(name): note_of(row) for name, row in found if name.isdigit()}

    async def note(self, content: bytes, before: Note | None, term: ConsulShardTerm) -> Note:
        """Compares the fence, and what it replaces."""
        key = f"{self._notes}{term.wish.shard}"
        return await noted(self._client, self._dc, key, content, before, fence_of(term))

    async def _count(self) -> Row | None:
        reply = await self._client.get(_kv(self._shards), self._dc, accept=(404,), consistent="")
        return _rows(reply)[0] if reply.status == 200 else None

    async def _read(self) -> Reply:
        return await self._client.get(_kv(self._shards), self._dc, accept=(404,), recurse="", consistent="")

    def _compared(self) -> dict[str, Any]:
        return kv("check-index", self._shards, Index=self._said.version)

    def _picture(self, reply: Reply) -> Picture:
        count: int | None = None
        said_at = 0
        lots: dict[int, Lot] = {}
        claims: dict[int, list[Row]] = {}
        for row in _rows(reply):
            match str(row["Key"]).removeprefix(self._shards).split("/"):
                case [""]:
                    count, said_at = count_of(_value(row)), row["ModifyIndex"]
                case ["", shard] if shard.isdigit():
                    lots[int(shard)] = Lot(row.get("Session", "-"), who_of(_value(row)), row["ModifyIndex"])
                case ["", shard, _] if shard.isdigit():
                    claims.setdefault(int(shard), []).append(row)
        for number, some in claims.items():
            oldest = sorted(some, key=lambda row: row["CreateIndex"])
            names = (Claim(row.get("Session", ""), who_of(_value(row)), row["ModifyIndex"]) for row in oldest)
            lots[number] = lots.get(number, Lot())._replace(claims=tuple(names))
        self._said = Said(count, said_at)
        return Picture(count, lots, reply.index)

    def _key(self, shard: int) -> str:
        return f"{self._shards}/{shard}"

    def _claim(self, shard: int, session: str) -> str:
        return f"{self._shards}/{shard}/{session}"


async def noted(
    client: Client, dc: str, key: str, content: bytes, before: Note | None, fence: list[dict[str, Any]]
) -> Note:
    """Puts a note, as its writer. Raises Superseded, and Conflict where it is not what it was."""
    index = before.version if before is not None else 0
    value = base64.b64encode(content).decode()
    try:
        results = await submit(client, dc, [*fence, kv("cas", key, Value=value, Index=index)])
    except Refusal as refusal:
        if refusal.superseded(fence):
            raise Superseded(f"the lock of the note {key} is not ours any more") from None
        raise Conflict(f"the note {key} is not what it was") from None
    return Note(content, results[-1]["KV"]["ModifyIndex"])


def note_of(row: Row) -> Note:
    """The note in a key."""
    return Note(_value(row), row["ModifyIndex"])


def _kv(key: str) -> str:
    return f"/v1/kv/{quote(key)}"


def _value(row: Row) -> bytes:
    return base64.b64decode(row["Value"] or "")


def _rows(reply: Reply) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = reply.json(list[dict[str, Any]]) if reply.status == 200 else []
    return found
