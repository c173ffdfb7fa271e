"""A document over all that an export serves, put together from a part for each service that is made once a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from adapters.common.picture import Picture
from bridge.model import Instance, ServiceName

Part = TypeVar("Part")


class Document(Generic[Part]):
    """`part(name, instances)`: what a service is in it. `whole(parts)`: the document, parts in the order of names."""

    def __init__(
        self,
        picture: Picture,
        part: Callable[[ServiceName, Mapping[str, Instance]], Part],
        whole: Callable[[Sequence[Part]], bytes],
    ) -> None:
        self._picture = picture
        self._part = part
        self._whole = whole
        self._parts: dict[ServiceName, Part] = {}
        self._names: list[ServiceName] = []
        self._version = -1
        self._body = b""

    def body(self) -> bytes:
        """The document as of now; equal bytes while nothing changed."""
        if self._picture.version != self._version:
            self._refresh()
            self._body = self._whole([self._parts[name] for name in self._names])
        return self._body

    def parts(self, wanted: Callable[[ServiceName], bool]) -> bytes:
        """The document of some services alone."""
        self.body()
        return self._whole([self._parts[name] for name in self._names if wanted(name)])

    def _refresh(self) -> None:
        changed = self._picture.since(self._version)
        self._version = self._picture.version
        moved = False  # whether names came or went
        for name in changed:
            entries = self._picture.services.get(name)
            moved |= bool(entries) != (name in self._parts)
            if entries:
                self._parts[name] = self._part(name, {id: entries[id].instance for id in sorted(entries)})
            else:
                self._parts.pop(name, None)
        if moved:
            self._names = sorted(self._parts)
