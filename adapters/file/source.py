"""The source: a folder of service files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from adapters.file import folder
from adapters.file.checks import Checks
from adapters.file.disk import Disk
from adapters.file.follow import follow, with_checks
from adapters.file.view import Stands, View
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.model import ServiceName


class FileSource:
    """The folder as one scope. `ignored`: the faults of each path, as "path:line: what is wrong, what is right"."""

    scope = ""

    def __init__(self, disk: Disk, root: str, rescan: float, checks: Checks | None = None) -> None:
        self._disk = disk
        self.ignored: dict[str, str] = {}
        self._root = root
        self._rescan = rescan
        self._checks = checks

    @property
    def behind(self) -> Behind | None:
        """Never known: a folder does not say how many changes wait."""
        return None

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. A service whose file cannot be read has "*" in `unreadable`.

        Raises Unavailable (the folder is gone), Expired (another folder has taken its place) or Denied.
        """
        self.ignored.clear()
        clock = asyncio.get_running_loop().time
        yield Listing(*await self._disk.look(folder.who, self._root))
        view = View(self._root, self.ignored)
        if self._checks is not None:
            await self._checks.restore()
        listed = False
        looks = follow(self._disk, self._root, self._rescan)
        async with aclosing(looks), aclosing(with_checks(looks, self._checks)) as both:
            async for look, checked in both:
                changed = set(checked)
                if look is not None:
                    doubtful: list[str] = []
                    track, paths = look
                    changed |= await self._disk.look(view.read, paths, doubtful.append)
                    for path in doubtful:
                        track.doubt(path, clock())
                for name in changed if listed else view.services():
                    yield self._seen(view.stands(name))
                if not listed:
                    listed = True
                    yield Synced()

    def _seen(self, stands: Stands) -> Observed:
        if self._checks is None:
            return Observed(stands.service, stands.unreadable)
        self._checks.know(stands)
        return Observed(self._checks.seen(stands), stands.unreadable)

    async def read(self, name: ServiceName) -> Observed:
        """One service, read from its files again."""
        stands = await self._disk.look(_read, self._root, name)
        service = stands.service if self._checks is None else await self._checks.again(stands)
        return Observed(service, stands.unreadable)


def _read(root: str, name: ServiceName) -> Stands:
    view = View(root)
    view.refresh(folder.paths_of(root, {name}))
    return view.stands(name)
