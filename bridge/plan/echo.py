"""Echoes: what another tool carries on from where this bridge wrote it, unmarked, back to where it came from.

Written there, it would come back for ever: its native goes, our copy goes, and the tool's copy brings both back. So an
address that this bridge wrote counts as its own for a while after it is gone: tools are slow to follow. Nothing tells
such a copy from a native that moved there and kept its address, which therefore has to wait as long, and no longer:
also where our entry has ended and stands all the same, because nothing may remove it (upsert-only, an orphan, a link
that observes by now).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from bridge.adapter import Entry
from bridge.model import Instance, ServiceName

LASTS = 60.0  # seconds: twice the period of the slowest synchroniser that is known (consul-k8s)


class _Place(NamedTuple):
    service: ServiceName
    id: str
    path: tuple[str, ...]
    gone: float | None = None  # since when, in monotonic seconds


class Written:
    """The addresses that this bridge holds, or held a short time ago (`lasts`, in seconds), at one destination."""

    def __init__(self, destination: str, clock: Callable[[], float], lasts: float = LASTS) -> None:
        self._destination = destination
        self._lasts = lasts
        self._clock = clock
        self._places: dict[tuple[str, int, str], _Place] = {}  # by address, port and network
        self.asked: set[ServiceName] = set()  # names of what was found to be the origin of an echo
        self._left: dict[ServiceName, dict[str, float]] = {}  # what has ended and is still there, and since when

    def note(self, name: ServiceName, entry: Entry, networks: Collection[str], *, gone: bool) -> None:
        """An entry of ours is there from now on, or gone.

        `networks`: that of its address, and that of the destination, which a tool takes it to be in.
        """
        path = entry.mark.path if entry.mark is not None else ()
        since = self._left.get(name, {}).get(entry.instance.id, self._clock()) if gone else None
        place = _Place(name, entry.instance.id, path, since)
        for socket in ((*one, network) for one in entry.instance.sockets() for network in networks):
            known = self._places.get(socket)
            if not (gone and known is not None and (known.service, known.id) != (name, entry.instance.id)):
                self._places[socket] = place

    def leave(self, name: ServiceName, ids: Collection[str]) -> None:
        """These entries under a name, and no others, have ended and stand there because nothing may remove them."""
        before, now = self._left.pop(name, {}), self._clock()
        if ids:
            self._left[name] = {id: before.get(id, now) for id in ids}

    def echo(self, instance: Instance, target: str, source: str, network: str) -> str:
        """Where this bridge wrote what has been in the target, and not in the source that has it now; "": nowhere.

        Both by identity; `network` is that of the instance. What has been in the source, too, is on its way from there.
        """
        for address, port in instance.sockets():
            place = self._places.get((address, port, network))
            if place is None or target not in place.path or source in place.path:
                continue
            if not self._is_over(place):
                self.asked.add(place.service)
                what = "has" if place.gone is None else "had lately"
                return f"{self._destination} {what} it as {place.service}/{place.id}, written by this bridge"
        return ""

    def sweep(self) -> None:
        """Forgets what is gone and over."""
        places = self._places.items()
        self._places = {socket: place for socket, place in places if place.gone is None or not self._is_over(place)}

    def _is_over(self, place: _Place) -> bool:
        since = self._left.get(place.service, {}).get(place.id) if place.gone is None else place.gone
        return since is not None and self._clock() - since >= self._lasts
