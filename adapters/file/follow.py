"""Follows a folder: which files changed, as soon as the kernel says so and each is complete."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator

from adapters.file import folder
from adapters.file.folder import Signature
from adapters.file.notice import Notices
from adapters.file.track import Heard, Track
from bridge.errors import Expired


async def follow(root: str, rescan: float) -> AsyncGenerator[tuple[Track, set[str]], None]:
    """First every file there is, when each is complete; then those that changed or went, batch after batch for ever.

    Lists everything again every `rescan` seconds. Raises Unavailable or Denied where the folder cannot be listed, and
    Expired where another one stands in its place.
    """
    clock = asyncio.get_running_loop().time
    track, heard, changed = Track(), Heard(everything=True), set[str]()
    began = False
    with Notices(root) as notices:
        try:
            inode = await asyncio.to_thread(folder.inode, root)
            while True:
                if heard.everything:
                    listed = clock()
                paths = heard.paths | track.overdue(clock())
                found = await asyncio.to_thread(_find, root, inode, paths, notices, track if heard.everything else None)
                changed |= track.look(found, heard, clock(), time.time())
                if changed if began else track.whole:
                    began = True
                    yield track, changed
                    changed = set()
                heard = await notices.wait(max(0.0, min(listed + rescan, track.due or math.inf) - clock()))
                heard.everything = heard.everything or clock() >= listed + rescan
        except OSError as error:
            raise folder.trouble(error) from error


def _find(root: str, inode: int, paths: set[str], notices: Notices, track: Track | None) -> dict[str, Signature | None]:
    if folder.inode(root) != inode:
        raise Expired(f"{root} is another folder now")
    if track is not None:
        paths |= track.known.keys()
        paths.update(folder.paths(root, notices.follow))
    return {path: folder.signature(root, path) for path in paths}
