"""The daemon's journal: what was written or removed, and who decided what, collected, and written by threads.

The files are in `bridge.state.segments`, a line of them in `bridge.state.record`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Unpack

import msgspec
from msgspec.structs import replace

from bridge.model import Instance, ServiceName
from bridge.sources.scrub import disclosed
from bridge.state.record import START, WRITER, Loss, Record, Said
from bridge.state.segments import SEGMENT, Appended, Appender, Limits, losses, reaches, segments, tail
from bridge.state.writing import Writing

EVERY = 0.2  # seconds between writes
RETRY = 1.0  # seconds between attempts on a disk that refuses
ROOM = 100_000  # records that wait for the disk at most; more are dropped, and counted
ROOM_ON_DISK = 1 << 30  # bytes, where nothing else is said
SLICE = 250  # records encoded in one go: less than a millisecond
BATCH = 1000  # records handed to the thread at once
REMOVALS = 10  # remembered for the status


class Journal:
    """The daemon's journal, in a folder; None: only the last removals are remembered.

    `segment`: bytes in one of its files. `room`: records that wait for the disk at most.
    """

    def __init__(
        self,
        folder: Path | None,
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
        segment: int = SEGMENT,
        room: int = ROOM,
    ) -> None:
        self.dropped = 0  # records that found no room
        self.last = 0  # the number of the last line that this process wrote
        self._begun: dict[str, int] = {}
        self.writing = Writing(lambda: bool(self._waiting), self._write, clock, every=EVERY, retry=RETRY)
        self._folder = folder
        kept = limits or Limits(ROOM_ON_DISK)
        self._appender = Appender(folder, kept, segment) if folder is not None else None
        self._clock = clock
        self._room = room
        self._waiting: deque[Record] = deque()
        self._removals: deque[Record] = deque(maxlen=REMOVALS)
        self._encoder = msgspec.json.Encoder()
        self._told = 0  # of the dropped ones
        if folder is not None:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        try:
            if self._appender is not None:
                self._appender.reaches = reaches(folder)
            for path in segments(folder)[-2:]:
                self._removals += (record for record in tail(path) if _is_removal(record))
        except OSError as error:
            self.writing.refused(error)

    def append(
        self,
        kind: str,
        *,
        service: ServiceName | str = "",
        before: Instance | None = None,
        after: Instance | None = None,
        **said: Unpack[Said],
    ) -> None:
        """Notes what happened just now; never waits, and never fails. `said`: other fields of a `Record`."""
        if len(self._waiting) >= self._room:
            self.dropped += 1
            return
        record = Record(
            at=self._clock(),
            kind=kind,
            service=str(service),
            before=disclosed(before) if before is not None else None,
            after=disclosed(after) if after is not None else None,
            **said,
        )
        if _is_removal(record):
            self._removals.append(record)
        if self._folder is not None:
            self._waiting.append(record)

    def limit(self, limits: Limits) -> None:
        """What stays of it from now on."""
        if self._appender is not None:
            self._appender.limits = limits

    @property
    def lacks(self) -> float:
        """Seconds of what is to be kept that had no room; 0: none."""
        here = self._appender
        if here is None or here.reaches is None or here.limits is None or here.limits.keep is None:
            return 0.0
        return max(0.0, here.reaches - (self._clock() - here.limits.keep))

    def began(self, destination: str) -> int:
        """The number of the line that says since when this process writes there, or runs (""); 0: none on the disk."""
        return self._begun.get(destination, 0)

    def last_removals(self) -> list[Record]:
        """The newest removals, the oldest of them first."""
        return list(self._removals)

    def recent_losses(self, seconds: float) -> list[Loss]:
        """What changed lately how many instances serve; `seconds`: the longest window that the guard is asked for."""
        return losses(self._folder, self._clock() - seconds) if self._folder is not None else []

    async def _write(self) -> None:
        """Writes what waits. Raises OSError where the disk refuses: what is not on it waits on."""
        if self._appender is None:
            return
        while self._waiting:
            self.writing.turn()
            lines: list[bytes] = []
            for start in range(0, min(BATCH, len(self._waiting)), SLICE):
                lines += map(self._encoder.encode, islice(self._waiting, start, min(start + SLICE, BATCH)))
                await asyncio.sleep(0)
            appended = await asyncio.to_thread(self._appender.append, lines)
            self._done(appended)
            if appended.error is not None:
                raise appended.error
        if self.dropped > self._told:
            missing, self._told = self.dropped - self._told, self.dropped
            self.append("gap", reason=f"{missing} records found no room while the disk refused")

    def _done(self, appended: Appended) -> None:
        """Forgets what is on the disk; a line of which only a part is there is written again."""
        if appended.lines:
            self.last = appended.first + appended.lines - 1
        for number in range(appended.first, appended.first + appended.lines):
            record = self._waiting.popleft()
            if record.kind in (START, WRITER):
                self._begun[record.destination] = number
            if _is_removal(record):  # the newest few are shown with their numbers
                for index, one in enumerate(self._removals):
                    if one is record:
                        self._removals[index] = replace(record, seq=number)


def _is_removal(record: Record) -> bool:
    return record.kind == "remove" and not record.would
