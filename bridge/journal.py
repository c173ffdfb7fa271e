"""The journal: what was written or removed, and who decided what; JSON lines, appended behind the loop's back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge.disk import Fault, whole, why
from bridge.errors import Unavailable
from bridge.model import Instance, ServiceName

EVERY = 0.2  # seconds between writes
RETRY = 1.0  # seconds between attempts on a disk that refuses
SEGMENT = 64 * 1024 * 1024  # bytes in a file, then comes the next
KEPT = 8  # files
ROOM = 100_000  # records that wait for the disk at most; more are dropped, and counted
SLICE = 250  # records encoded in one go: less than a millisecond
BATCH = 1000  # records handed to the thread at once
REMOVALS = 10  # remembered for the status
TAIL = 1024 * 1024  # bytes at the end of a file that are looked at on a start
WINDOW = 3600.0  # seconds of losses that a restart looks back


_CHANGED = re.compile(rb'"serving":\[(\d+),(?!\1\])')  # within a text the quotes would be escaped


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line.

    `at` in seconds since the epoch; `seq` grows by one within a daemon's journal, 0 where a command wrote the line.
    `kind`: add, update, remove, forget, hold, release, approve, freeze, unfreeze, thaw, purge, handover, config, park,
    start, stop, gap.
    `service` as `name` or `namespace:name`; `scope` is the origin's identity and scope; `serving` counts the
    service's serving instances before and after, and is equal where the guard counts nothing (a first copy);
    `by` is the operator (peer credentials), where there was one.
    """

    at: float
    seq: int
    kind: str
    link: str = ""
    service: str = ""
    instance: str = ""
    cause: str = ""
    scope: tuple[str, str] = ("", "")
    serving: tuple[int, int] = (0, 0)
    change: int = 0
    by: str = ""
    reason: str = ""
    before: Instance | None = None
    after: Instance | None = None


class Loss(NamedTuple):
    """What the guard needs to know of a line that changed how many serve."""

    at: float
    link: str
    service: ServiceName
    scope: tuple[str, str]
    serving: tuple[int, int]


class _Counted(msgspec.Struct, frozen=True, gc=False):
    """The part of a `Record` that makes a `Loss`: quicker to read."""

    at: float
    link: str = ""
    service: str = ""
    scope: tuple[str, str] = ("", "")
    serving: tuple[int, int] = (0, 0)


class _Written(NamedTuple):
    bytes: int
    error: OSError | None


class Journal:
    """The daemon's journal, in a folder; None: only the last removals are remembered."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.dropped = 0  # records that found no room
        self.turned = time.monotonic()  # when it last wrote, or saw that there is nothing to write
        self.fault: Fault | None = None
        self._folder = folder
        self._clock = clock
        self._waiting: deque[Record] = deque()
        self._removals: deque[Record] = deque(maxlen=REMOVALS)
        self._encoder = msgspec.json.Encoder()
        self._told = 0  # of the dropped ones
        self._tried = float("-inf")
        self._seq = 0
        self._path: Path | None = None
        self._torn = False
        if folder is not None:
            self._open(folder)

    def _open(self, folder: Path) -> None:
        try:
            for path in segments(folder)[-2:]:
                self._path, self._seq, self._torn = path, max(self._seq, int(path.stem) - 1), _is_torn(path)
                for record in _tail(path):
                    self._seq = max(self._seq, record.seq)
                    if record.kind == "remove":
                        self._removals.append(record)
        except OSError as error:
            self.fault = Fault(self._clock(), why(error))

    def append(
        self,
        kind: str,
        *,
        link: str = "",
        service: ServiceName | str = "",
        instance: str = "",
        cause: str = "",
        scope: tuple[str, str] = ("", ""),
        serving: tuple[int, int] = (0, 0),
        change: int = 0,
        by: str = "",
        reason: str = "",
        before: Instance | None = None,
        after: Instance | None = None,
    ) -> None:
        """Notes what happened just now; never waits, and never fails."""
        if len(self._waiting) >= ROOM:
            self.dropped += 1
            return
        self._seq += 1
        record = Record(
            at=self._clock(),
            seq=self._seq,
            kind=kind,
            link=link,
            service=str(service),
            instance=instance,
            cause=cause,
            scope=scope,
            serving=serving,
            change=change,
            by=by,
            reason=reason,
            before=before,
            after=after,
        )
        if kind == "remove":
            self._removals.append(record)
        if self._folder is not None:
            self._waiting.append(record)

    def last_removals(self) -> list[Record]:
        """The newest removals, the oldest of them first."""
        return list(self._removals)

    def recent_losses(self, seconds: float = WINDOW) -> list[Loss]:
        """What lately changed how many instances serve: the guard's window of the process before this one."""
        if self._folder is None:
            return []
        start = self._clock() - seconds
        decoder = msgspec.json.Decoder(_Counted)
        found: list[Loss] = []
        for path in segments(self._folder):
            with contextlib.suppress(OSError):
                for line in _changing(path.read_bytes()) if _reaches(path, start) else ():
                    with contextlib.suppress(msgspec.DecodeError):
                        one = decoder.decode(line)
                        if one.at >= start:
                            name = ServiceName.parse(one.service)
                            found.append(Loss(one.at, one.link, name, one.scope, one.serving))
        return found

    async def run(self) -> None:
        """Writes five times a second until cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(EVERY)
                await whole(self.flush())
        finally:
            self._tried = float("-inf")
            await self.flush()

    async def flush(self) -> None:
        """Writes what waits; what the disk refuses goes on waiting."""
        self.turned = time.monotonic()
        if self._folder is None or not self._waiting:
            return
        if self.fault is not None and self._clock() - self._tried < RETRY:
            return
        self._tried = self._clock()
        while self._waiting:
            self.turned = time.monotonic()
            content = b""
            for start in range(0, min(BATCH, len(self._waiting)), SLICE):
                content += self._encoder.encode_lines([*islice(self._waiting, start, start + SLICE)])
                await asyncio.sleep(0)
            written = await asyncio.to_thread(self._write, self._folder, content)
            self._done(content, written.bytes)
            if written.error is not None:
                self.fault = Fault(self.fault.since if self.fault else self._clock(), why(written.error))
                return
        self.fault = None
        if self.dropped > self._told:
            missing, self._told = self.dropped - self._told, self.dropped
            self.append("gap", reason=f"{missing} records found no room while the disk refused")

    def _done(self, content: bytes, size: int) -> None:
        """Forgets what is on the disk as a whole; a line of which only a part is there is written again."""
        if self._torn and size:
            self._torn, size = False, size - 1
        done = content[:size]
        if done:
            self._torn = not done.endswith(b"\n")
        for _ in range(done.count(b"\n")):
            self._waiting.popleft()

    def _write(self, folder: Path, content: bytes) -> _Written:
        if self._torn:
            content = b"\n" + content
        done = 0
        try:
            descriptor = _opened(self._current(folder))
            try:
                while done < len(content):
                    done += os.write(descriptor, memoryview(content)[done:])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            return _Written(done, error)
        return _Written(done, None)

    def _current(self, folder: Path) -> Path:
        """The file to append to; a full one is followed by the next, and the oldest goes."""
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_size < SEGMENT:
                    return self._path
        for path in segments(folder)[: -(KEPT - 1)]:
            path.unlink()
        self._path = folder / f"{self._waiting[0].seq:016d}.jsonl"
        return self._path


def segments(folder: Path) -> list[Path]:
    """The files of a journal, the oldest first."""
    return sorted(folder.glob("*.jsonl"))


def note(folder: Path, kind: str, *, link: str = "", by: str = "", reason: str = "") -> None:
    """Adds one line beside a running daemon, or without one; raises Unavailable where the disk refuses."""
    line = msgspec.json.encode(Record(at=time.time(), seq=0, kind=kind, link=link, by=by, reason=reason)) + b"\n"
    try:
        path = next(reversed(segments(folder)), folder / f"{1:016d}.jsonl")
        torn = path.exists() and _is_torn(path)
        descriptor = _opened(path)
        try:
            os.write(descriptor, b"\n" + line if torn else line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"the journal cannot be written: {why(error)}") from None


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


def _reaches(path: Path, since: float) -> bool:
    return path.stat().st_mtime >= since - 1.0  # file systems round, and the kernel's stamp is that of its last tick


def _changing(content: bytes) -> Iterator[bytes]:
    """The lines that say that more or fewer serve than before: few, so the others are not even decoded."""
    for found in _CHANGED.finditer(content):
        end = content.find(b"\n", found.end())
        yield content[content.rfind(b"\n", 0, found.start()) + 1 : end if end >= 0 else None]


def _tail(path: Path) -> Iterator[Record]:
    """The last records of one file."""
    decoder = msgspec.json.Decoder(Record)
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        for line in file.read().splitlines():
            with contextlib.suppress(msgspec.DecodeError):  # the first line may be half of one
                yield decoder.decode(line)


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")


def _opened(path: Path) -> int:
    """For appending: lines of several processes do not overwrite each other."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if fresh and os.geteuid() == 0:  # as in `bridge.disk.private`
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor
