"""The files of a journal: lines of JSON, appended by several processes under one lock, in a limited number of files."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause
from bridge.errors import Unavailable
from bridge.model import ServiceName
from bridge.state.files import exclusive, why
from bridge.state.record import Loss, Record

SEGMENT = 64 * 1024 * 1024  # bytes in a file, then comes the next
TAIL = 1024 * 1024  # bytes at the end of a file that are looked at for the last number

_CHANGED = re.compile(rb'"serving":\[(\d+),(?!\1\])')  # within a text the quotes would be escaped


class _Counted(msgspec.Struct, frozen=True, gc=False):
    """The part of a `Record` that makes a `Loss`: quicker to read."""

    at: float
    link: str = ""
    service: str = ""
    scope: tuple[str, str] = ("", "")
    serving: tuple[int, int] = (0, 0)
    cause: str = ""
    would: bool = False


class Appended(NamedTuple):
    """So many lines are on the disk, the first of them with that number; and why no more are."""

    lines: int
    first: int
    error: OSError | None = None


class Limits(NamedTuple):
    """What stays of a journal: so many bytes, and (`keep`, seconds) nothing that is older; None: whatever has room."""

    room: int
    keep: float | None = None

    def files(self, segment: int) -> int:
        """How many full files of so many bytes may be there beside the one that is written."""
        return max(1, self.room // segment - 1)


class Appender:
    """Appends lines and numbers them, beside other processes that do the same. Waits for the disk and for them.

    `limits` None: it removes nothing. `segment`: bytes in a file, then comes the next. `reaches`: the time of the first
    line that is there, where others were removed.
    """

    def __init__(self, folder: Path, limits: Limits | None = None, segment: int = SEGMENT) -> None:
        self.limits = limits
        self.reaches: float | None = None
        self._folder = folder
        self._segment = segment
        self._after: tuple[Path, int] | None = None  # the file and its size after what was appended here last
        self._last = 0

    def append(self, lines: Sequence[bytes]) -> Appended:
        """Each line a JSON object without `seq` and without a line break."""
        try:
            with exclusive(self._folder):
                return self._append(lines)
        except OSError as error:
            return Appended(0, 0, error)

    def _append(self, lines: Sequence[bytes]) -> Appended:
        path, torn = self._current()
        first = self._last + 1
        texts = [b'{"seq":%d,%b\n' % (first + n, line[1:]) for n, line in enumerate(lines)]
        content = memoryview((b"\n" if torn else b"") + b"".join(texts))
        done, error = 0, None
        descriptor = _opened(path)
        try:
            while done < len(content):
                done += os.write(descriptor, content[done:])
            os.fsync(descriptor)
        except OSError as refused:
            error = refused
        finally:
            os.close(descriptor)
        whole = _whole(texts, done - torn)
        self._last += whole
        # Half a line is no line: whoever writes next looks at the end of the file.
        self._after = (path, path.stat().st_size) if error is None else None
        return Appended(whole, first, error)

    def _current(self) -> tuple[Path, bool]:
        """The file to append to, and whether it ends in half a line. A full one is followed by the next."""
        found = segments(self._folder)
        if not found:
            return self._next(), False
        size = found[-1].stat().st_size
        torn = False
        if self._after != (found[-1], size):
            torn = _is_torn(found[-1])
            self._last = max(self._last, last_number(found))
        if size < self._segment:
            return found[-1], torn
        self._drop(found)
        return self._next(), False

    def _drop(self, found: Sequence[Path]) -> None:
        """Removes the oldest of the full files."""
        if self.limits is not None:
            oldest = time.time() - (self.limits.keep if self.limits.keep is not None else float("inf"))
            files = self.limits.files(self._segment)
            for number, path in enumerate(found):
                if len(found) - number > files or path.stat().st_mtime < oldest:
                    path.unlink()
        self.reaches = reaches(self._folder)

    def _next(self) -> Path:
        return self._folder / f"{self._last + 1:016d}.jsonl"


def _whole(texts: Sequence[bytes], done: int) -> int:
    """How many of the texts lie within so many bytes."""
    for number, text in enumerate(texts):
        done -= len(text)
        if done < 0:
            return number
    return len(texts)


def reaches(folder: Path) -> float | None:
    """The time of the first line that is there, where others were removed before it; None: nothing was."""
    for path in segments(folder)[:1]:
        if int(path.stem) > 1:
            with path.open("rb") as file, contextlib.suppress(msgspec.DecodeError):
                return msgspec.json.decode(file.readline(), type=_Counted).at
    return None


def segments(folder: Path) -> list[Path]:
    """The files of a journal, the oldest first."""
    return sorted(folder.glob("*.jsonl"))


def note(
    folder: Path,
    kind: str,
    *,
    link: str = "",
    destination: str = "",
    by: str = "",
    reason: str = "",
    segment: int = SEGMENT,
) -> None:
    """Adds one line beside a running daemon, or without one; raises Unavailable where the disk refuses."""
    made = Record(at=time.time(), kind=kind, link=link, destination=destination, by=by, reason=reason)
    appended = Appender(folder, segment=segment).append([msgspec.json.encode(made)])
    if appended.error is not None:
        raise Unavailable(f"the journal cannot be written: {why(appended.error)}")


def read(folder: Path, *, since: float = 0.0, service: str | None = None, link: str | None = None) -> Iterator[Record]:
    """The records from a time on (seconds since the epoch), the oldest first; damaged lines are left out."""
    decoder = msgspec.json.Decoder(Record)
    for path in segments(folder):
        if not _reaches(path, since):
            continue
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(msgspec.DecodeError):
                    record = decoder.decode(line)
                    if record.at >= since and service in (None, record.service) and link in (None, record.link):
                        yield record


def holding(folder: Path, texts: Sequence[bytes]) -> Iterator[Record]:
    """The records whose lines have any of these in them, the oldest first: the others are not even decoded."""
    decoder = msgspec.json.Decoder(Record)
    for path in segments(folder):
        with path.open("rb") as file:
            for line in file:
                if any(text in line for text in texts):
                    with contextlib.suppress(msgspec.DecodeError):
                        yield decoder.decode(line)


def losses(folder: Path, since: float) -> list[Loss]:
    """What changed from a time on (seconds since the epoch) how many instances serve."""
    decoder = msgspec.json.Decoder(_Counted)
    found: list[Loss] = []
    for path in segments(folder):
        with contextlib.suppress(OSError):
            for line in _changing(path.read_bytes()) if _reaches(path, since) else ():
                with contextlib.suppress(msgspec.DecodeError):
                    one = decoder.decode(line)
                    if one.at >= since and not one.would:
                        name = ServiceName.parse(one.service)
                        replaces, reused = one.cause == Cause.REPLACED, one.cause == Cause.REUSED
                        found.append(Loss(one.at, one.link, name, one.scope, one.serving, replaces, reused))
    return found


def tail(path: Path) -> list[Record]:
    """The last records of one file: those of its last `TAIL` bytes, or the last one where it is longer than that."""
    decoder = msgspec.json.Decoder(Record)
    found: list[Record] = []
    with path.open("rb") as file:
        size, room = file.seek(0, os.SEEK_END), TAIL
        while not found:
            file.seek(max(0, size - room))
            for line in file.read().splitlines():
                with contextlib.suppress(msgspec.DecodeError):  # the first line may be half of one
                    found.append(decoder.decode(line))
            if room >= size:
                break
            room *= 2
    return found


def last_number(paths: Sequence[Path]) -> int:
    """The highest number in the newest of some files. A file's name is the number of its first line."""
    return max(
        (max(int(path.stem) - 1, *(record.seq for record in tail(path)), 0) for path in paths[-2:]),
        default=0,
    )


def _reaches(path: Path, since: float) -> bool:
    return path.stat().st_mtime >= since - 1.0  # file systems round, and the kernel's stamp is that of its last tick


def _changing(content: bytes) -> Iterator[bytes]:
    """The lines that say that more or fewer serve than before: few, so the others are not even decoded."""
    for found in _CHANGED.finditer(content):
        end = content.find(b"\n", found.end())
        yield content[content.rfind(b"\n", 0, found.start()) + 1 : end if end >= 0 else None]


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")


def _opened(path: Path) -> int:
    fresh = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if fresh and os.geteuid() == 0:  # as in `bridge.state.files.private`
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
