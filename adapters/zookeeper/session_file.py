"""A session that outlives the process: its id and password in a file, held by one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
from pathlib import Path

import msgspec

from adapters.common.disk import PATIENCE, Question, WriteBehind
from bridge.errors import Unavailable

log = logging.getLogger("isthmus.zookeeper")


class _Kept(msgspec.Struct, frozen=True):
    session: int
    password: bytes


class CarriedSession:
    """See `client.Carried`. A second process with the same file has a session of its own, which is not carried:
    two that use one session take it from each other for ever. Without a usable file no session is carried.

    The disk is used in threads. `patience`: seconds for the disk, after which a new session begins.
    """

    def __init__(self, path: Path, patience: float = PATIENCE) -> None:
        self._path = path
        self._file: int | None = None
        self._using = threading.Lock()  # one thread at a time
        self._patience = patience
        self._reading = Question(self._read, str(path), patience)
        self._writing = WriteBehind(self._write)

    async def take(self) -> tuple[int, bytes] | None:
        """The session of the previous process, if there was one and no other process uses it."""
        await self._writing.flush(self._patience)  # a write that forgets the last one may be under way
        try:
            kept = await self._reading.answer()
        except (OSError, Unavailable) as error:
            log.warning("session not carried file=%s reason=%r", self._path, str(error))
            return None
        return (kept.session, kept.password) if kept is not None else None

    def keep(self, session: int, password: bytes) -> None:
        """Keeps this session, to be resumed after a restart."""
        self._writing.put(msgspec.json.encode(_Kept(session, password)))

    def forget(self) -> None:
        """It has ended."""
        self._writing.put(b"")

    async def close(self) -> None:
        """Releases the file for another process."""
        await self._writing.flush(self._patience)
        await asyncio.wait((asyncio.ensure_future(asyncio.to_thread(self._let_go)),), timeout=self._patience)

    def _read(self) -> _Kept | None:
        with self._using:
            file = self._opened()
            if file is None:
                return None
            try:
                return msgspec.json.decode(os.pread(file, 4096, 0), type=_Kept)
            except ValueError:  # empty, or torn by a crash
                return None

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
        with self._using:
            if self._file is not None:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, text, 0)

    def _let_go(self) -> None:
        with self._using, contextlib.suppress(OSError):
            if self._file is not None:
                os.close(self._file)
                self._file = None
