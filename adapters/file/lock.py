"""The lock of a bridge's one writer: flock(2) on a file in the folder, released by the kernel when we die."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from math import inf

from adapters.file import folder
from adapters.file.disk import Disk
from bridge.errors import Unavailable

AGAIN = 0.1  # seconds between two attempts of a standby, and between two checks of a writer


class FileTerm:
    """The time during which the lock is ours: while the file that we locked is the one at the path."""

    def __init__(self, disk: Disk, path: str, descriptor: int) -> None:
        self.taken_over = False
        self._disk = disk
        self._path = path
        self._descriptor = descriptor
        self._is_over = False

    @property
    def fence(self) -> FileTerm:
        """What each write checks (`stands`)."""
        return self

    @property
    def until(self) -> float:
        """Infinite, for the kernel keeps the lock as long as we live; past, once the file is known to be another."""
        return -inf if self._is_over else inf

    def stands(self) -> bool:
        """Whether we are the writer. Reads the disk: not to be called on the event loop."""
        if self._is_over:
            return False
        try:
            there, ours = os.stat(self._path), os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)

    def release(self) -> None:
        """Releases the lock without waiting for the disk. Nothing is written with this term from now on."""
        self._is_over = True
        self._disk.leave(os.close, self._descriptor)

    async def ended(self) -> None:
        """Returns when somebody removed or replaced the lock's file, or the folder."""
        while await self._disk.run(self.stands):
            await asyncio.sleep(AGAIN)
        self._is_over = True


@contextlib.asynccontextmanager
async def hold(disk: Disk, path: str) -> AsyncIterator[FileTerm]:
    """Acquires the lock. Raises Unavailable or Denied where its file cannot be made."""
    waited = False
    while (term := await _taken(disk, path)) is None:
        waited = True
        await asyncio.sleep(AGAIN)
    term.taken_over = waited
    try:
        yield term
    finally:
        term.release()


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[None]:
    """A lock between processes for one small change. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: str) -> bool:
    """Whether somebody holds the lock. Raises OSError where its file does not exist."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two checks do not exclude each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


async def _taken(disk: Disk, path: str) -> FileTerm | None:
    """Tries the lock once; None: another process has it. A lock acquired after our cancellation is released."""
    taking = asyncio.ensure_future(disk.run(_take, disk, path))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        taking.add_done_callback(_give_back)
        raise


def _give_back(taking: asyncio.Future[FileTerm | None]) -> None:
    if not taking.cancelled() and taking.exception() is None and (term := taking.result()) is not None:
        term.release()


def _take(disk: Disk, path: str) -> FileTerm | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise folder.trouble(error) from error
    term = FileTerm(disk, path, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if term.stands():
            return term
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(f"no lock on {path}: {error.strerror}") from error
    os.close(descriptor)
    return None
