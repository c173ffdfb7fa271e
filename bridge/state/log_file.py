"""A file that grows by lines, and is written anew when it has grown too large; both away from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from bridge.state.files import private, sync_folder

CHUNK = 1024 * 1024  # bytes handed to the thread at once
SMALL = 256 * 1024  # bytes


class LogFile:
    """The file at `path`, of which the first `good` bytes are whole lines. Its base is what was written anew last.

    `small`: bytes; below them nothing is worth a new base.
    """

    def __init__(self, path: Path, good: int, small: int = SMALL) -> None:
        self._path = path
        self._small = small
        self._size = good  # what follows is damaged, and cut by the next write
        self._base = good // 2  # where the base of an older process ended is not known
        self._sound = good > 0

    @property
    def wants_base(self) -> bool:
        """More was appended than twice the base, or what is on the disk cannot be trusted."""
        return not self._sound or self._size > max(3 * self._base, self._small)

    async def append(self, content: Iterator[bytes]) -> None:
        """Adds lines behind the last good one; raises OSError, after which a new base is due."""
        async for chunk in _chunks(content):
            self._sound = False
            await asyncio.to_thread(self._write, chunk)
            self._sound = True

    def _write(self, chunk: bytes) -> None:
        with open(os.open(self._path, os.O_WRONLY | os.O_CLOEXEC), "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(chunk)
            _sync(file)
        self._size += len(chunk)

    async def rebase(self, content: Iterator[bytes]) -> None:
        """Writes a new base beside the old file and puts it in its place; raises OSError, and the old one stays."""
        fresh = self._path.with_name(f".{self._path.name}.new")
        size = 0
        try:
            file = await asyncio.to_thread(private, fresh)
            try:
                async for chunk in _chunks(content):
                    await asyncio.to_thread(file.write, chunk)
                    size += len(chunk)
                await asyncio.to_thread(_sync, file)
            finally:
                await asyncio.to_thread(file.close)
            await asyncio.to_thread(fresh.replace, self._path)
        except OSError:
            self._sound = False
            await asyncio.to_thread(_remove, fresh)
            raise
        await asyncio.to_thread(sync_folder, self._path.parent)
        self._size = self._base = size
        self._sound = True


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


async def _chunks(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The lines in chunks, made one at a time so that others get their turn on the loop between them."""
    parts: list[bytes] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
        await asyncio.sleep(0)
    if parts:
        yield b"".join(parts)
