"""The shards of one seat, as an adapter reaches them: each step is one transaction of the store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from math import inf

from adapters.common.shards import Claim, OfShard, Picture, Wish
from adapters.common.term import LeasedTerm
from adapters.memory.lots import MemoryLife, Part
from adapters.memory.server import SHARDS, Store
from bridge.adapter import Note


class MemoryShardTerm(OfShard, LeasedTerm[Part]):
    """The time during which a shard is this process's; the store tells at once when it is over."""

    def __init__(self, part: Part, wish: Wish) -> None:
        super().__init__(part, 0, inf)
        self.wish = wish
        self.version = part.version


class MemoryArea:
    """See `adapters.common.shards.Area`."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key

    async def divided(self) -> int | None:
        """See `Shards.divided`."""
        await self._store.reached()
        return self._store.lots.counts.get(self._key)

    async def divide(self, count: int) -> None:
        """See `Shards.divide`."""
        await self._store.reached()
        self._store.divide(self._key, count)

    async def unite(self) -> None:
        """See `Shards.unite`."""
        await self._store.reached()
        self._store.unite(self._key)

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[MemoryLife]:
        """Ends with the block; whoever dies without a word is ended by the store (`Lots.end`)."""
        await self._store.reached()
        life = self._store.lots.born()
        try:
            yield life
        finally:
            self._store.lots.end(life.id)

    async def follow(self, hear: Callable[[Picture], None]) -> None:
        """At each change of any shard."""
        while True:
            await self._store.reached()
            moved = self._store.lots.moved
            hear(self._store.lots.picture(self._key))
            await moved.wait()

    async def look(self) -> Picture:
        """As it is."""
        await self._store.reached()
        return self._store.lots.picture(self._key)

    async def claim(self, life: MemoryLife, wish: Wish) -> int:
        """See `Area.claim`."""
        await self._store.reached()
        return self._store.lots.claim(self._key, life.id, wish)

    async def take(self, life: MemoryLife, wish: Wish) -> MemoryShardTerm | None:
        """See `Area.take`."""
        await self._store.reached()
        version = self._store.lots.take(self._key, life.id, wish)
        return MemoryShardTerm(Part(self._key, wish.shard, version, wish.count), wish) if version is not None else None

    async def give(self, term: MemoryShardTerm, claim: Claim) -> bool:
        """See `Area.give`."""
        await self._store.reached()
        return self._store.lots.give(term.fence, claim)

    async def release(self, life: MemoryLife, shard: int) -> None:
        """See `Area.release`."""
        await self._store.reached()
        self._store.lots.release(self._key, life.id, shard)

    async def notes(self) -> dict[int, Note]:
        """See `Shards.shard_notes`."""
        await self._store.reached()
        start = f"{self._key}{SHARDS}"
        keys = [key for key in self._store.noted() if key.startswith(start)]
        found = ((int(key.removeprefix(start)), self._store.recall(key)) for key in keys)
        return {shard: note for shard, note in found if note is not None}

    async def note(self, content: bytes, before: Note | None, term: MemoryShardTerm) -> Note:
        """See `Shards.note_shard`."""
        await self._store.reached()
        return self._store.note(f"{self._key}{SHARDS}{term.fence.shard}", content, before, term.fence)
