"""What seats share: the writer's term where a store cannot compare it, and notes that older versions kept elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from bridge.adapter import Note, Seat, Term
from bridge.errors import Rejected, Superseded

# A note without anything in it, of a format that the versions which read the old place do not know: at it they freeze.
LEFT = b'{"format":2}'


def in_force(term: Term | None) -> None:
    """Raises Superseded where the term may be another writer's soon; to be asked before each request. None: no seat."""
    if term is not None and asyncio.get_running_loop().time() >= term.until:
        raise Superseded("the lock that this destination borrows may soon be another's")


LONGEST = 128 * 1024  # bytes of a note by key: what every kind of store that keeps them takes


def within(content: bytes) -> None:
    """Raises Rejected where a note by key is too long."""
    if len(content) > LONGEST:
        raise Rejected(f"a note of {len(content):,} bytes: {LONGEST:,} is the most")


class _Elsewhere(NamedTuple):
    """The version of a note that was found at the old place."""

    version: Any


class MovedSeat:
    """A seat whose note older versions kept at another place, which is read while the new place has none.

    `old`: a seat with the same lock, and the note at the old place. The first note of a term leaves `LEFT` at the old
    place if anything is there: a daemon of an older version that gets the lock then writes nothing.
    """

    def __init__(self, seat: Seat, old: Seat) -> None:
        self._seat = seat
        self._old = old
        self._left = False

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[Term]:
        """See `Seat.writer`."""
        self._left = False
        async with self._seat.writer() as term:
            yield term

    async def recall(self) -> Note | None:
        """The note of the new place, else that of the old one."""
        if (note := await self._seat.recall()) is not None:
            return note
        old = await self._old.recall()
        return Note(old.content, _Elsewhere(old.version)) if old is not None and old.content != LEFT else None

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`; always in the new place."""
        moves = before is not None and isinstance(before.version, _Elsewhere)
        # In this order: what is cut off between the two is done by the next term.
        made = await self._seat.note(content, None if moves else before, term=term)
        if term is not None and not self._left:
            old = await self._old.recall()
            if old is not None and old.content != LEFT:
                await self._old.note(LEFT, old, term=term)
            self._left = True
        return made

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`; the old place as well."""
        await self._old.leave(term)
        await self._seat.leave(term)
