"""Files of the state folder: written whole or not at all, off the loop, and never the reason to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Fault(msgspec.Struct, frozen=True):
    """What the disk refuses: since when (seconds since the epoch), and why."""

    since: float
    reason: str


def private(path: Path) -> BinaryIO:
    """An empty file for one user only (0600), to be written; raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:  # a command run by root must not lock the daemon's user out of its own folder
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return open(descriptor, "wb")


def replace(path: Path, content: bytes) -> None:
    """Atomically, and on the disk when it returns; raises OSError and leaves the old file."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with private(fresh) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A name in the folder survives a power cut only after this; some file systems refuse it, which is theirs."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keeps every other process that does the same out, for the time of one small change."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Awaits to the end also when cancelled, and only then is cancelled: what a thread writes must not be overtaken."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def why(error: OSError) -> str:
    """The error without its number, with the file where it names one."""
    return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")


class Table(Generic[T]):
    """A small file of named values that several processes read and change; path None: kept in memory only.

    What cannot be read leaves in force what was read before (`fault` says why); what cannot be written is in force in
    this process all the same.
    """

    def __init__(
        self, path: Path | None, kind: type[T], clock: Callable[[], float] = time.time, keep: int | None = None
    ) -> None:
        """`keep`: so many entries, the newest ones; None: all."""
        self.entries: dict[str, T] = {}
        self.fault: Fault | None = None
        self.unread = path is not None  # nothing is known of the file yet
        self._path = path
        self._clock = clock
        self._keep = keep
        self._decoder = msgspec.json.Decoder(dict[str, kind])  # type: ignore[valid-type]
        self._stamp: tuple[int, int, int] | None = (0, 0, 0)
        self._unsaved = False
        self._read()

    def refresh(self) -> bool:
        """Takes over what another process wrote; whether anything changed. Cheap where nothing did."""
        before = self.entries
        if self._unsaved:
            self._change(set(), {})
        else:
            self._read()
        return self.entries != before

    def put(self, key: str, value: T) -> None:
        """Adds or replaces an entry; `fault` says so where it is not on the disk, and `refresh` tries again."""
        self._change(set(), {key: value})

    def drop(self, key: str) -> None:
        """Removes an entry, if it is there."""
        self._change({key}, {})

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self.entries = {} if stamp is None else self._decoder.decode(self._path.read_bytes())
            self.unread, self.fault = False, None
        except OSError as error:
            self._failed(why(error))
        except msgspec.DecodeError as error:
            self._failed(f"{self._path.name} cannot be read: {error}")

    def _change(self, without: set[str], added: dict[str, T]) -> None:
        if self._path is None:
            self._apply(without, added)
            return
        try:
            with exclusive(self._path.parent):
                self._read()
                self._apply(without, added)
                replace(self._path, msgspec.json.format(msgspec.json.encode(self.entries)) + b"\n")
                self._stamp, self.unread, self.fault = _stamp(self._path), False, None
            self._unsaved = False
        except OSError as error:
            self._apply(without, added)
            self._unsaved = True
            self._failed(why(error))

    def _apply(self, without: set[str], added: dict[str, T]) -> None:
        kept = [(key, value) for key, value in self.entries.items() if key not in without | added.keys()]
        self.entries = dict([*kept, *added.items()][-self._keep if self._keep else 0 :])

    def _failed(self, reason: str) -> None:
        self.fault = Fault(self.fault.since if self.fault else self._clock(), reason)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
