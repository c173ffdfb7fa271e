"""Changes of a folder, by inotify(7). Without it, changes are found by the next rescan."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import sys
from types import TracebackType
from typing import Any, Self

from adapters.file.folder import place
from adapters.file.track import Heard

# From <sys/inotify.h>.
MODIFY, ATTRIB, CLOSE_WRITE = 0x002, 0x004, 0x008
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x040, 0x080, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
UNMOUNT, Q_OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
ONLYDIR, ISDIR = 0x0100_0000, 0x4000_0000

WANTED = (
    MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR
)  # fmt: skip
WHOLE = DELETE_SELF | MOVE_SELF | UNMOUNT | Q_OVERFLOW | IGNORED | ISDIR  # after these, everything is listed again
COMPLETE = CLOSE_WRITE | MOVED_TO

_HEAD = struct.Struct("iIII")  # watch descriptor, mask, cookie, length of the name


class Notices:
    """Listens to one folder and its namespaces; a context manager inside a running loop."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
        self._descriptor = -1
        self._folders: dict[int, str] = {}
        self._heard = Heard()
        self._open: set[str] = set()
        self._rang = asyncio.Event()

    def __enter__(self) -> Self:
        if self._libc:
            # The kernel allows a user 128 instances by default. Without one we rescan, which is slower, but correct.
            self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def follow(self, folder: str) -> None:
        """Watches a folder, relative to the root, from now on. Idempotent."""
        if self._descriptor >= 0:
            watch = self._libc.inotify_add_watch(
                self._descriptor, os.fsencode(os.path.join(self._root, folder)), WANTED
            )
            if watch >= 0:
                self._folders[watch] = folder

    async def wait(self, seconds: float) -> Heard:
        """The changes since the last call; waits so long for one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rang.wait()
        self._rang.clear()
        heard, self._heard = self._heard, Heard()
        heard.open = frozenset(self._open)
        return heard

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._descriptor, 1 << 16)
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, at)
                at += _HEAD.size + length
                self._note(watch, mask, os.fsdecode(data[at - length : at].rstrip(b"\0")))

    def _note(self, watch: int, mask: int, name: str) -> None:
        folder = self._folders.get(watch)
        path = f"{folder}/{name}" if folder else name
        if mask & IGNORED:
            self._folders.pop(watch, None)
        if name.startswith("..") and mask & MOVED_TO:
            # Kubernetes replaces all files of a ConfigMap at once by swapping the link `..data` (AtomicWriter).
            self._heard.everything = self._heard.swapped = True
        elif name.startswith("."):
            return
        elif mask & WHOLE or folder is None:
            self._heard.everything = True
        elif place(path):
            self._heard.paths.add(path)
            if mask & (COMPLETE | MOVED_FROM | DELETE):
                self._open.discard(path)
            if mask & MODIFY:
                self._open.add(path)
                self._heard.closed.discard(path)
            if mask & COMPLETE:
                self._heard.closed.add(path)
        else:
            return
        self._rang.set()
