"""Follows a folder: reports changed files as soon as inotify says so and each is complete."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from typing import Any

from adapters.file import folder
from adapters.file.checks import Checks
from adapters.file.disk import Disk
from adapters.file.folder import Signature
from adapters.file.notice import Notices
from adapters.file.track import Heard, Track
from bridge.errors import Expired
from bridge.model import ServiceName

Look = tuple[Track, set[str]]  # with the paths that changed


async def follow(disk: Disk, root: str, rescan: float) -> AsyncGenerator[Look, None]:
    """First every file, once all are complete; then batches of files that changed or were removed, for ever.

    Lists everything every `rescan` seconds. Raises Unavailable or Denied where the folder cannot be listed, and
    Expired where another folder has taken its place.
    """
    clock = asyncio.get_running_loop().time
    track, heard, changed = Track(), Heard(everything=True), set[str]()
    began = False
    with Notices(root) as notices:
        inode = await disk.look(folder.inode, root)
        while True:
            if heard.everything:
                listed = clock()
            paths = heard.paths | track.overdue(clock())
            found = await disk.look(_find, root, inode, paths, notices, track if heard.everything else None)
            changed |= track.look(found, heard, clock(), time.time())
            if changed if began else track.whole:
                began = True
                yield track, changed
                changed = set()
            heard = await notices.wait(max(0.0, min(listed + rescan, track.due or math.inf) - clock()))
            heard.everything = heard.everything or clock() >= listed + rescan


async def with_checks(
    looks: AsyncGenerator[Look, None], checks: Checks | None
) -> AsyncGenerator[tuple[Look | None, set[ServiceName]], None]:
    """Merges the changes of a folder with the services whose health checks changed.

    Checks run from the first scan on. Raises what scanning raises.
    """
    if checks is None:
        async for look in looks:
            yield look, set()
        return
    looking = asyncio.ensure_future(anext(looks))
    told = asyncio.ensure_future(checks.changed.wait())
    tasks: list[asyncio.Future[Any]] = [looking, told]
    try:
        while True:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            found = looking.result() if looking.done() else None
            yield found, checks.take() if told.done() else set()
            looking = asyncio.ensure_future(anext(looks)) if looking.done() else looking
            told = asyncio.ensure_future(checks.changed.wait()) if told.done() else told
            running = tasks[2] if len(tasks) > 2 else asyncio.ensure_future(checks.run())
            if running.done():
                running.result()
            tasks = [looking, told, running]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _find(root: str, inode: int, paths: set[str], notices: Notices, track: Track | None) -> dict[str, Signature | None]:
    if folder.inode(root) != inode:
        raise Expired(f"{root} is another folder now")
    if track is not None:
        paths |= track.known.keys()
        paths.update(folder.paths(root, notices.follow))
    return {path: folder.signature(root, path) for path in paths}
