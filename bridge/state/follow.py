"""A journal, followed by whoever ships it: its lines from a number on, in their order, over all of its files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge.state.record import Record
from bridge.state.segments import segments

CHUNK = 1024 * 1024  # bytes read at once


class Taken(NamedTuple):
    """Lines in their order. `missing`: the numbers of the first and the last line that were dropped before them."""

    records: list[Record]
    missing: tuple[int, int] | None = None


class Follower:
    """Reads the lines of a journal after the one with that number. Waits for the disk."""

    def __init__(self, folder: Path, after: int) -> None:
        self.after = after
        self._folder = folder
        self._decoder = msgspec.json.Decoder(Record)
        self._path: Path | None = None
        self._offset = 0

    def take(self) -> Taken:
        """The next lines, some thousand at most; raises OSError."""
        files = segments(self._folder)
        missing = self._begin(files)
        while self._path is not None:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read(CHUNK)
                while len(content) % CHUNK == 0 and b"\n" not in content and (more := file.read(CHUNK)):
                    content += more  # one line may be longer
            whole, _, _ = content.rpartition(b"\n")
            if whole:
                self._offset += len(whole) + 1
                records = [one for line in whole.split(b"\n") if (one := self._record(line)) is not None]
                if records:
                    self.after = records[-1].seq
                    return Taken(records, missing)
                continue
            later = [path for path in files if path > self._path]
            if not later:
                break
            self._path, self._offset = later[0], 0
        return Taken([], missing)

    def _begin(self, files: list[Path]) -> tuple[int, int] | None:
        """Opens the file that has the next line; says which lines are there no more."""
        if self._path is not None and self._path in files:
            return None
        lost = self._path is not None
        fitting = [path for path in files if int(path.stem) <= self.after + 1]
        self._path = fitting[-1] if fitting else files[0] if files else None
        self._offset = 0
        if self._path is None or fitting or not (self.after or lost):
            return None
        return self.after + 1, int(self._path.stem) - 1

    def _record(self, line: bytes) -> Record | None:
        with contextlib.suppress(msgspec.DecodeError):
            record = self._decoder.decode(line)
            if record.seq > self.after:
                return record
        return None
