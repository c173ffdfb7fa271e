"""The lock of a bridge's one writer: flock(2) on a file in the folder, which the kernel gives back when we die."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator

from adapters.file import folder
from bridge.errors import Unavailable

AGAIN = 0.1  # seconds between two tries of a standby, and between two looks of a writer


class FileTerm:
    """The time during which the lock is ours: while the file that we locked is the one that stands there."""

    def __init__(self, path: str, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def stands(self) -> bool:
        """Whether we are the writer."""
        try:
            there, ours = os.stat(self._path), os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)

    def release(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)

    async def ended(self) -> None:
        """Returns when somebody removed or replaced the lock's file, or the folder."""
        while self.stands():
            await asyncio.sleep(AGAIN)


@contextlib.asynccontextmanager
async def hold(path: str) -> AsyncIterator[FileTerm]:
    """Waits for the lock. Raises Unavailable or Denied where there can be no such file."""
    term = _take(path)
    while term is None:
        await asyncio.sleep(AGAIN)
        term = _take(path)
    try:
        yield term
    finally:
        term.release()


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Keeps every other process that does the same out, for the time of one small change. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: str) -> bool:
    """Whether somebody has the lock. Raises OSError where there is no such file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who look do not take each other for a writer
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _take(path: str) -> FileTerm | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise folder.trouble(error) from error
    term = FileTerm(path, descriptor)
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
