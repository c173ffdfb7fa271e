"""Which life of a Eureka answers: a server that restarted looks exactly like one that is empty.

What tells them apart is the number of its delta, which begins at 1 again, and the uptime on its page for people. Both
are remembered for each peer, in the state folder too, for they say nothing of any other peer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from adapters.common.disk import WriteBehind

MINUTE = 60.0
SLACK = 30.0  # seconds by which clocks may differ, or be set
SAVE_EVERY = 60.0  # seconds


class Peer(msgspec.Struct, frozen=True):
    """What was seen of a peer: the number of its delta, and between which times it must have started (epoch)."""

    number: int
    earliest: float = 0.0
    latest: float = float(2**40)


class _Kept(msgspec.Struct):
    life: str = ""
    peers: dict[str, Peer] = {}


def seen(number: int, uptime: int | None, now: float) -> Peer:
    """A peer that answers now; `uptime` in whole minutes, None: it does not say."""
    if uptime is None:
        return Peer(number)
    return Peer(number, now - (uptime + 1) * MINUTE, now - uptime * MINUTE)


def restarted(before: Peer, now: Peer) -> bool:
    """Whether a peer has started since it was seen before."""
    return now.number < before.number or now.earliest > before.latest + SLACK


def narrowed(before: Peer, now: Peer) -> Peer:
    """What is known of a peer that has not restarted."""
    earliest, latest = max(before.earliest, now.earliest), min(before.latest, now.latest)
    if earliest > latest:  # clocks differ
        earliest, latest = now.earliest, now.latest
    return Peer(now.number, earliest, latest)


class Lives:
    """The life of one Eureka, all its peers together. `life`: "" or since when it is another than the first one known.

    `path`: where that is kept from one process to the next; None: nowhere.
    """

    def __init__(self, path: Path | None, wall: Callable[[], float] = time.time) -> None:
        self._path = path
        self._wall = wall
        self._saved = 0.0
        self._kept = _read(path) if path is not None else _Kept()
        self._writing = WriteBehind(self._write)

    @property
    def life(self) -> str:
        return self._kept.life

    def is_same(self, url: str, number: int, uptime: int | None) -> bool:
        """Whether this peer, as it answers now, has not restarted since it was seen last, or never was seen."""
        before = self._kept.peers.get(url)
        return before is None or not restarted(before, seen(number, uptime, self._wall()))

    def saw(self, url: str, number: int, uptime: int | None = None) -> None:
        """This peer answers, and is the same as before."""
        now, before = seen(number, uptime, self._wall()), self._kept.peers.get(url)
        fresh = narrowed(before, now) if before is not None else now
        if fresh != before:
            self._kept.peers[url] = fresh
            self._save(soon=before is None)

    def begin(self, url: str, number: int, uptime: int | None) -> None:
        """This peer has restarted, and no other is known that has not: another life begins."""
        self._kept.peers[url] = seen(number, uptime, self._wall())
        self._kept.life = "up since " + time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall()))
        self._save(soon=True)

    async def close(self) -> None:
        """Keeps what is known; a disk that does not answer is not waited for without end."""
        self._save(soon=True)
        await self._writing.flush()

    def _save(self, *, soon: bool) -> None:
        if self._path is None or not (soon or self._wall() - self._saved >= SAVE_EVERY):
            return
        self._saved = self._wall()
        self._writing.put(msgspec.json.encode(self._kept))

    def _write(self, content: bytes) -> None:
        if self._path is not None:
            draft = self._path.with_suffix(".new")
            draft.write_bytes(content)
            os.replace(draft, self._path)


def _read(path: Path) -> _Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, ValueError):
        return _Kept()
