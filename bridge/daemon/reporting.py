"""What daemons of a bridge tell each other of requests: the reports of `isthmus probe`, and what the meters said."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence

import msgspec

from bridge.adapter import Note, Notes
from bridge.errors import Conflict, Rejected
from bridge.migration import reports
from bridge.migration.intent import Requests
from bridge.migration.reports import Reports

log = logging.getLogger("isthmus.daemon")

EVERY = 10.0  # seconds between two looks at what other daemons were given
TRIES = 10
MEASURED = "measured"  # the key of what the meters said


class Reporting:
    """Follows what was reported; `known` is that, without what is too old to say anything.

    `measured`: the requests of each move as its meter said last; only who moves the steps asks it, and tells.
    """

    def __init__(self) -> None:
        self.known = Reports()
        self.measured: Mapping[str, Requests] = {}
        self._read = 0.0

    def forget(self, moves: Collection[str]) -> None:
        """What was measured of any others."""
        self.measured = {move: one for move, one in self.measured.items() if move in moves}

    async def look(self, notes: Notes, *, leads: bool) -> None:
        """Reads them where that is due, and removes what says nothing any more. Raises what the notes do."""
        if time.time() - self._read >= EVERY:
            await self._look(notes)
            await self._share(notes, leads)

    async def _share(self, notes: Notes, leads: bool) -> None:
        note = await notes.read(MEASURED)
        if not leads:
            self.measured = _decoded(note)
        elif self.measured != _decoded(note):
            with contextlib.suppress(Conflict, Rejected):  # of somebody else who leads now; of thousands of moves
                await notes.write(MEASURED, msgspec.json.encode(self.measured), note)

    async def keep(self, notes: Notes, some: Sequence[reports.One]) -> str:
        """Keeps these in the place of earlier ones of their hosts; why not, "" if it did. Raises what the notes do."""
        if any(reports.is_old(one, time.time()) for one in some):
            return "a report is more than a day old: probe anew"
        await self._look(notes)
        known: list[reports.One] = [*self.known.reached, *self.known.listening]
        if len({reports.key(one) for one in (*known, *some)}) > reports.MOST:
            return f"more than {reports.MOST} reports would be kept; they are kept for a day"
        for one in some:
            try:
                await _put(notes, reports.key(one), msgspec.json.encode(one))
            except Rejected as error:
                return f"a report does not fit: {error}; probe with a smaller --limit"
        await self._look(notes)
        return ""

    async def _look(self, notes: Notes) -> None:
        found, now = [], time.time()
        for key, note in (await notes.below(reports.BELOW)).items():
            try:
                one = reports.decoded(note.content)
            except ValueError as error:
                log.warning("unreadable what=report key=%s reason=%r", key, str(error))
                continue
            if reports.is_old(one, now):
                with contextlib.suppress(Conflict):
                    await notes.remove(key, note)
            else:
                found.append(one)
        self.known, self._read = Reports.of(found), now


def _decoded(note: Note | None) -> Mapping[str, Requests]:
    with contextlib.suppress(ValueError):  # of another version
        return msgspec.json.decode(note.content, type=dict[str, Requests]) if note is not None else {}
    return {}


async def _put(notes: Notes, key: str, content: bytes) -> None:
    """Raises Conflict where others change it all the time."""
    for left in reversed(range(TRIES)):
        try:
            await notes.write(key, content, await notes.read(key))
        except Conflict:
            if not left:
                raise
        else:
            return
