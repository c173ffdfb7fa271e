"""The seat of one bridge at one destination: the store's lock and note under one key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from adapters.common.seat import within
from adapters.common.shards import DividedSeat
from adapters.memory.lots import MemoryLife
from adapters.memory.server import KEYED, Store, Tenure
from adapters.memory.shards import MemoryArea, MemoryShardTerm
from bridge.adapter import Note, Term


class MemoryNotes:
    """The notes by key of one bridge."""

    def __init__(self, store: Store, bridge: str) -> None:
        self._store = store
        self._start = f"{bridge}{KEYED}"

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        await self._store.reached()
        return self._store.recall(self._start + key)

    async def below(self, start: str) -> dict[str, Note]:
        """See `Notes.below`."""
        await self._store.reached()
        keys = (key for key in self._store.noted() if key.startswith(self._start + start))
        found = {key.removeprefix(self._start): self._store.recall(key) for key in keys}
        return {key: note for key, note in found.items() if note is not None}

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        within(content)
        await self._store.reached()
        return self._store.note(self._start + key, content, before, None)

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`."""
        await self._store.reached()
        self._store.drop(self._start + key, before)


class MemorySeat(DividedSeat[MemoryLife, MemoryShardTerm]):
    """A seat in a store, under one key."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__(MemoryArea(store, key))
        self._store = store
        self.key = key

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[Tenure]:
        """Waits for the lock; one at a time, first come, first served."""
        await self._store.reached()
        async with self._store.lock(self.key) as tenure:
            yield tenure

    async def recall(self) -> Note | None:
        """The note of this seat."""
        await self._store.reached()
        return self._store.recall(self.key)

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        await self._store.reached()
        return self._store.note(self.key, content, before, term.fence if term is not None else None)

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`."""
        await self._store.reached()
        self._store.leave(self.key, term.fence)
