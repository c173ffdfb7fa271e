"""The seat: the lock of one bridge in a folder, for it or for a destination elsewhere, and the note beside it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from adapters.common.seat import within
from adapters.file import folder
from adapters.file.disk import Disk
from adapters.file.folder import SeatFiles
from adapters.file.lock import FileTerm, exclusive, hold
from bridge.adapter import Note, Term
from bridge.errors import Conflict, Denied, Superseded, Unavailable, Undecodable


class Fence(NamedTuple):
    """What each write checks just before it takes effect."""

    bridge: str
    root: str
    term: Term | None

    def stand(self) -> None:
        """Raises Superseded where this process is not the writer."""
        if not isinstance(self.term, FileTerm) or not self.term.stands():
            raise Superseded(f"the lock of {self.bridge} in {self.root} is not ours")


class FileNotes:
    """The notes by key of one bridge: a file each in the folder's own `.isthmus`."""

    def __init__(self, disk: Disk, root: str, bridge: str) -> None:
        self._disk = disk
        self._root = root
        self._bridge = bridge

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        return await self._disk.look(_recall, self._root, folder.noted(self._bridge, key))

    async def below(self, start: str) -> dict[str, Note]:
        """See `Notes.below`."""
        return await self._disk.look(self._below, start)

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        within(content)
        await self._disk.look(folder.make_ours, self._root)
        path = folder.noted(self._bridge, key)
        return await self._disk.look(_note, self._root, path, content, before, lambda: None)

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`."""
        await self._disk.look(self._remove, folder.noted(self._bridge, key), before)

    def _below(self, start: str) -> dict[str, Note]:
        os.stat(self._root)  # no folder is no answer
        keys = (key for key in folder.keys(self._root, self._bridge) if key.startswith(start))
        found = ((key, _recall(self._root, folder.noted(self._bridge, key))) for key in keys)
        return {key: note for key, note in found if note is not None}

    def _remove(self, path: str, before: Note) -> None:
        with exclusive(os.path.join(self._root, folder.OURS)):
            if folder.signature(self._root, path) != before.version:
                raise Conflict(f"{path} is not what it was")
            folder.remove(os.path.join(self._root, path))


class FileSeat:
    """The files of one seat, in the folder's own `.isthmus`. `is_own`: the folder is the destination itself."""

    def __init__(self, disk: Disk, root: str, bridge: str, files: SeatFiles, *, is_own: bool = False) -> None:
        self._disk = disk
        self._root = root
        self._bridge = bridge
        self._is_own = is_own
        self._files = files
        self._leaves = False

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[FileTerm]:
        """See `Seat.writer`. Raises Unavailable or Denied."""
        disk, lock = self._disk, self._path(self._files.lock)
        await disk.look(folder.make_ours, self._root)
        self._leaves = False
        async with hold(disk, lock) as term:
            if self._is_own:
                await disk.look(folder.settle_identity, self._root, self._bridge)
            yield term
            if self._leaves:
                await disk.look(folder.remove, lock)  # while it is ours: who gets a removed file tries again
                with contextlib.suppress(Denied):  # others use it, too; `footprint` names what stays
                    await disk.look(folder.remove_shared, self._root)

    async def recall(self) -> Note | None:
        """The note of this seat, with the state of its file."""
        return await self._disk.look(_recall, self._root, self._files.note)

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """See `Seat.note`."""
        stand = Fence(self._bridge, self._root, term).stand if term is not None else lambda: None
        return await self._disk.look(_note, self._root, self._files.note, content, before, stand)

    async def leave(self, term: Term) -> None:
        """See `Seat.leave`."""
        fence = Fence(self._bridge, self._root, term)
        await self._disk.look(self._leave, fence)
        self._leaves = True

    def _leave(self, fence: Fence) -> None:
        with exclusive(self._path(folder.OURS)):
            fence.stand()
            folder.remove(self._path(self._files.note))

    def _path(self, path: str) -> str:
        return os.path.join(self._root, path)


def _recall(root: str, path: str) -> Note | None:
    try:
        signature, content = folder.read(root, path)
    except (FileNotFoundError, NotADirectoryError):
        os.stat(root)  # no folder is no answer
        return None
    except Undecodable as error:
        raise Unavailable(f"{path}: {error}") from None
    return Note(content, signature)


def _note(root: str, path: str, content: bytes, before: Note | None, stand: Callable[[], None]) -> Note:
    """Writes a note. `stand` is called just before it takes effect, and raises where it must not."""
    with exclusive(os.path.join(root, folder.OURS)):
        if folder.signature(root, path) != (before.version if before is not None else None):
            raise Conflict(f"{path} is not what it was")
        return Note(content, folder.replace(root, path, content, lambda _: stand()))
