"""The incarnation of a Eureka: a restarted server looks exactly like an empty one.

A restart shows in the number of its delta, which begins at 1 again, and in the uptime on its status page. Both
are remembered for each peer, also in the state folder, because each peer has its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from adapters.common.disk import WriteBehind

MINUTE = 60.0
SLACK = 30.0  # seconds; clocks may differ or be adjusted by less
SAVE_EVERY = 60.0  # seconds


class Peer(msgspec.Struct, frozen=True):
    """The last state of a peer: the number of its delta, and the time range in which it started (epoch)."""

    number: int
    earliest: float = 0.0
    latest: float = float(2**40)


class _Kept(msgspec.Struct):
    life: str = ""
    peers: dict[str, Peer] = {}


def seen(number: int, uptime: int | None, now: float) -> Peer:
    """The state of a peer that answers now; `uptime` in whole minutes, None: unknown."""
    if uptime is None:
        return Peer(number)
    return Peer(number, now - (uptime + 1) * MINUTE, now - uptime * MINUTE)


def restarted(before: Peer, now: Peer) -> bool:
    """Whether a peer has restarted between two states."""
    return now.number < before.number or now.earliest > before.latest + SLACK


def narrowed(before: Peer, now: Peer) -> Peer:
    """The combined state of a peer that has not restarted."""
    earliest, latest = max(before.earliest, now.earliest), min(before.latest, now.latest)
    if earliest > latest:  # clocks differ
        earliest, latest = now.earliest, now.latest
    return Peer(now.number, earliest, latest)


class Lives:
    """The incarnation of one Eureka, all peers together. `life`: "" for the first one known, else since when it runs.

    `path`: the file that keeps it over restarts; None: none.
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
        """Whether this peer has not restarted since its last state, or has none."""
        before = self._kept.peers.get(url)
        return before is None or not restarted(before, seen(number, uptime, self._wall()))

    def saw(self, url: str, number: int, uptime: int | None = None) -> None:
        """Notes the state of a peer that has not restarted."""
        now, before = seen(number, uptime, self._wall()), self._kept.peers.get(url)
        fresh = narrowed(before, now) if before is not None else now
        if fresh != before:
            self._kept.peers[url] = fresh
            self._save(soon=before is None)

    def begin(self, url: str, number: int, uptime: int | None) -> None:
        """Begins a new incarnation: this peer has restarted, and so has every other one that answers."""
        self._kept.peers[url] = seen(number, uptime, self._wall())
        self._kept.life = "up since " + time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall()))
        self._save(soon=True)

    async def close(self) -> None:
        """Saves the state; waits for the disk for a limited time."""
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
