"""A session that outlives the process: its id and password in a file, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec


class _Kept(msgspec.Struct, frozen=True):
    session: int
    password: bytes


class CarriedSession:
    """See `client.Carried`. A second process with the same file has a session of its own, which is not carried:
    two that use one session take it from each other for ever.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> tuple[int, bytes] | None:
        """The session of the process before us, if there was one and nobody else has it."""
        file = self._opened()
        if file is None:
            return None
        try:
            kept = msgspec.json.decode(os.pread(file, 4096, 0), type=_Kept)
        except ValueError:  # empty, or torn by a crash
            return None
        return kept.session, kept.password

    def keep(self, session: int, password: bytes) -> None:
        """Goes on with this one after a restart."""
        self._write(msgspec.json.encode(_Kept(session, password)))

    def forget(self) -> None:
        """It has ended."""
        self._write(b"")

    def close(self) -> None:
        """Lets another process have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int | None:
        if self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return None
            self._file = file
        return self._file

    def _write(self, text: bytes) -> None:
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, text, 0)
