"""Addresses that a Service's own slices had a short time ago: who dies may be registered elsewhere for a while."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from adapters.common.disk import WriteBehind
from adapters.kubernetes.place import Place, owner_of
from bridge.adapter import Change, Outcome
from bridge.errors import Rejected

WAIT = 300.0  # seconds until an address that left is taken up again, whatever its source says of it
Socket = tuple[str, int]


class Known(msgspec.Struct):
    """Of one Service: what its own slices have, and since when what they had before is gone (seconds, epoch)."""

    own: set[Socket] = set()
    left: list[tuple[str, int, float]] = []


class Left:
    """What left the own slices of Services that are attached to, by what was read of them.

    A pod that also registers itself elsewhere is deregistered there after its slice, if at all. What is added as unable
    to serve gets no traffic and does not wait: it serves with the next check that it passes.
    `path`: where that is kept from one process to the next, so that what left while none ran has left, too.
    `clock` gives seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float], path: Path | None = None) -> None:
        self._clock = clock
        self._path = path
        known = _read(path) if path is not None else {}
        self._own = {name: frozenset(one.own) for name, one in known.items()}
        self._left = {name: {(at, port): since for at, port, since in one.left} for name, one in known.items()}
        self._writing = WriteBehind(self._write)

    def look(self, place: Place) -> None:
        """What stands there now."""
        name = str(place.name)
        if place.service is None or not place.service.spec.selector:
            if self._own.pop(name, None) is not None:
                self._left.pop(name, None)
                self._keep()
            return
        now, own = self._clock(), _own(place)
        before = self._own.get(name)
        left = {**self._left.get(name, {}), **dict.fromkeys((before or frozenset()) - own, now)}
        self._own[name] = own
        self._left[name] = {at: since for at, since in left.items() if at not in own and 0 <= now - since < WAIT}
        if before != own:
            self._keep()

    def too_early(self, place: Place, changes: Sequence[Change]) -> list[Outcome]:
        """What would bring an address back too early, not made; it is tried again when its time has come."""
        left, now, refused = self._left.get(str(place.name), {}), self._clock(), []
        for change in changes if left else ():
            if change.before is not None or change.after is None or not change.after.serving:
                continue
            rest = max((left[at] + WAIT - now for at in change.after.sockets() if at in left), default=0.0)
            if rest > 0:
                reason = (
                    f"{change.after.address} has just left the slices of {place.namespace}/{place.target}: "
                    f"it is taken up again after {WAIT / 60:.0f} min, or once it has failed and passed a check"
                )
                refused.append(Outcome(change, error=Rejected(reason, rest)))
        return refused

    async def close(self) -> None:
        """Returns when all is kept; a disk that does not answer is not waited for without end."""
        await self._writing.flush()

    def _keep(self) -> None:
        if self._path is not None:
            known = {
                name: Known(set(own), [(*at, since) for at, since in self._left.get(name, {}).items()])
                for name, own in self._own.items()
            }
            self._writing.put(msgspec.json.encode(known))

    def _write(self, content: bytes) -> None:
        if self._path is not None:
            draft = self._path.with_suffix(".new")
            draft.write_bytes(content)
            os.replace(draft, self._path)


def _read(path: Path) -> dict[str, Known]:
    with contextlib.suppress(OSError, ValueError):
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Known])
    return {}


def _own(place: Place) -> frozenset[Socket]:
    """Every address and port in slices that no bridge writes."""
    return frozenset(
        socket
        for one in place.shown.values()
        if one.instance is not None and one.mark is None and not owner_of(place.slices[one.slice])
        for socket in one.instance.sockets()
    )
