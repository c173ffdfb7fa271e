"""Files of the state folder: written whole or not at all, off the loop, and never the reason to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

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
