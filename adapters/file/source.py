"""A folder of service files, read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from adapters.file import folder
from adapters.file.follow import follow
from adapters.file.view import Stands, View
from bridge.adapter import Listing, Observed, Synced
from bridge.model import ServiceName


class FileSource:
    """The folder as one scope. `ignored`: the faults of each path, as "path:line: what is wrong, what is right"."""

    scope = ""

    def __init__(self, root: str, rescan: float) -> None:
        self.ignored: dict[str, str] = {}
        self._root = root
        self._rescan = rescan

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. A file that makes no sense is its service with "*" in `unreadable`.

        Raises Unavailable (the folder is gone), Expired (another folder stands there) or Denied.
        """
        self.ignored.clear()
        clock = asyncio.get_running_loop().time
        try:
            yield Listing(*await asyncio.to_thread(folder.who, self._root))
        except OSError as error:
            raise folder.trouble(error) from error
        view = View(self._root, self.ignored)
        listed = False
        async with aclosing(follow(self._root, self._rescan)) as looks:
            async for track, paths in looks:
                doubtful: list[str] = []
                changed = await asyncio.to_thread(view.read, paths, doubtful.append)
                for path in doubtful:
                    track.doubt(path, clock())
                for name in changed if listed else view.services():
                    stands = view.stands(name)
                    yield Observed(stands.service, stands.unreadable)
                if not listed:
                    listed = True
                    yield Synced()

    async def read(self, name: ServiceName) -> Observed:
        """One service, from files that are opened for it."""
        try:
            stands = await asyncio.to_thread(_read, self._root, name)
        except OSError as error:
            raise folder.trouble(error) from error
        return Observed(stands.service, stands.unreadable)


def _read(root: str, name: ServiceName) -> Stands:
    view = View(root)
    view.refresh(folder.paths_of(root, {name}))
    return view.stands(name)
