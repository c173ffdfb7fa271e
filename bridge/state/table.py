"""A small file of named values that several processes read and change; a change counts at once, the disk follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from bridge.state.files import Fault, exclusive, replace, why

T = TypeVar("T")

Stamp = tuple[int, int, int]  # inode, time of the last change, size
NEVER: Stamp = (0, 0, 0)  # of a file that was not looked at yet


class Table(Generic[T]):
    """`put` and `drop` count at once in this process and never wait; `save` brings them to the disk, and reads it.

    `save` waits for the disk and for other processes: call it in a thread, or where nothing else runs. What cannot be
    read leaves in force what was read before; what cannot be written, or was taken away, is written by the next `save`.
    `fault` says why, None: all is on the disk. `unread`: nothing is known of the file yet. path None: kept in memory
    only.
    """

    def __init__(
        self, path: Path | None, kind: type[T], clock: Callable[[], float] = time.time, keep: int | None = None
    ) -> None:
        """`keep`: so many entries, the newest ones; None: all."""
        self.entries: dict[str, T] = {}
        self.fault: Fault | None = None
        self.unread = path is not None
        self.path = path
        self._clock = clock
        self._keep = keep
        self._decoder = msgspec.json.Decoder(dict[str, kind])  # type: ignore[valid-type]
        self._stamp: Stamp | None = NEVER
        self._on_disk: dict[str, T] = {}
        self._waiting: dict[str, T | None] = {}  # None: dropped
        self.damaged = False  # what is on the disk cannot be read; it stays there until `begin_anew`
        self._anew = False
        self._saving = threading.Lock()
        self._changing = threading.Lock()  # never held while the disk is waited for
        self.save()

    def put(self, key: str, value: T) -> None:
        """Adds or replaces an entry."""
        self._change(key, value)

    def drop(self, key: str) -> None:
        """Removes an entry, if it is there."""
        if key in self.entries:
            self._change(key, None)

    def begin_anew(self) -> None:
        """The next `save` puts a file that makes no sense aside, and writes what is known here in its place."""
        self._anew = True

    @property
    def waits(self) -> bool:
        """Whether anything is not on the disk yet."""
        return bool(self._waiting) and self.path is not None

    def _change(self, key: str, value: T | None) -> None:
        with self._changing:
            self._waiting[key] = value
            self.entries = self._with(self.entries, {key: value})

    def save(self) -> bool:
        """Writes what waits and takes over what other processes wrote; whether all of it is on the disk now."""
        with self._saving:
            if self.path is None:
                self._waiting = {}
                return True
            with self._changing:
                waiting, self._waiting = self._waiting, {}
            try:
                if waiting or (self._anew and self.damaged) or self._is_gone(_stamp(self.path)):
                    with exclusive(self.path.parent):
                        self._read(self.path)
                        fresh = self._with(self._on_disk, waiting)
                        replace(self.path, msgspec.json.format(msgspec.json.encode(fresh)) + b"\n")
                        self._on_disk, self._stamp, self.unread = fresh, _stamp(self.path), False
                else:
                    self._read(self.path)
                self.fault, self.damaged, self._anew = None, False, False
            except (OSError, msgspec.DecodeError) as error:
                self.damaged = isinstance(error, msgspec.DecodeError)
                reason = why(error) if isinstance(error, OSError) else f"{self.path.name} cannot be read: {error}"
                self.fault = Fault(self.fault.since if self.fault else self._clock(), reason)
                with self._changing:
                    self._waiting = {**waiting, **self._waiting}
                return False
            with self._changing:
                self.entries = self._with(self._on_disk, self._waiting)
            return True

    def _read(self, path: Path) -> None:
        stamp = _stamp(path)
        if (stamp == self._stamp and not self.damaged) or self._is_gone(stamp):
            return
        if stamp is not None:
            try:
                self._on_disk = self._decoder.decode(path.read_bytes())
            except msgspec.DecodeError:
                if not self._anew:
                    raise
                path.replace(path.with_name(f"{path.name}.unreadable"))
                self._on_disk = dict(self.entries)
        self._stamp, self.unread = stamp, False

    def _is_gone(self, stamp: Stamp | None) -> bool:
        """Whether the file was there, and is not any more."""
        return stamp is None and self._stamp not in (NEVER, None)

    def _with(self, entries: Mapping[str, T], changes: Mapping[str, T | None]) -> dict[str, T]:
        kept = [(key, value) for key, value in entries.items() if key not in changes]
        added = [(key, value) for key, value in changes.items() if value is not None]
        return dict([*kept, *added][-self._keep if self._keep else 0 :])


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
