"""Which entry stands in which slice: pure, and stable, so that one changed instance rewrites one slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from mappings.common.slice_entry import MOST_BYTES, digest
from mappings.kubernetes.objects import Endpoint, SlicePort

MOST_ENDPOINTS = 100  # one change in a slice of 1000 costs the server 45 ms, in one of 100 it costs 7


class SetKey(msgspec.Struct, frozen=True):
    """What all endpoints of one slice have in common: the address family, and the ports."""

    family: str
    ports: tuple[SlicePort, ...]


class Packed(msgspec.Struct, frozen=True):
    """What one entry is to its slice: the endpoint, and its text in the annotation (`slice_entry.encode_one`)."""

    id: str
    key: SetKey
    text: bytes
    endpoint: Endpoint

    @property
    def size(self) -> int:
        """Bytes of the annotation: the entry, its quoted id, and what stands between."""
        return len(self.text) + len(self.id.encode()) + 4


class Slice(msgspec.Struct, frozen=True):
    """One slice: its name, and its entries by id."""

    name: str
    key: SetKey
    entries: Mapping[str, Packed] = {}


class Rewrite(NamedTuple):
    """A slice that changes. `before` None: it is new. `after.entries` empty: it goes.

    `gains`: entries that were not in it before, which readers must find before they lose others.
    """

    before: Slice | None
    after: Slice

    @property
    def gains(self) -> bool:
        """Whether it has an entry that it had not."""
        return not self.after.entries.keys() <= (self.before.entries.keys() if self.before else frozenset())

    @property
    def loses(self) -> bool:
        """Whether it has no longer an entry that it had."""
        return self.before is not None and not self.before.entries.keys() <= self.after.entries.keys()


def repack(
    base: str, standing: Iterable[Slice], put: Iterable[Packed], removed: Iterable[str] = (), taken: Iterable[str] = ()
) -> list[Rewrite]:
    """The slices of one service that change, those first that gain entries.

    An entry stays in its slice as long as its key does and there is room. A new one goes where a slice changes anyway,
    else into the first with room by name. `base`: what names of new slices begin with; `taken`: names that others have.
    """
    before = {each.name: each for each in standing}
    plan = _Plan(base, before, frozenset(taken))
    for id in removed:
        plan.remove(id)
    for entry in put:
        plan.put(entry)
    rewrites = list(plan.rewrites())
    rewrites.sort(key=lambda each: (not each.gains, each.loses, each.after.name))
    return rewrites


class _Plan:
    def __init__(self, base: str, before: Mapping[str, Slice], taken: frozenset[str]) -> None:
        self._base = base
        self._before = before
        self._taken = taken
        self._keys = {name: each.key for name, each in before.items()}
        self._entries = {name: dict(each.entries) for name, each in before.items()}
        self._sizes = {name: _size(each.entries.values()) for name, each in before.items()}
        self._places: dict[str, set[str]] = {}  # several where a writer was killed while an entry moved
        for name, each in before.items():
            for id in each.entries:
                self._places.setdefault(id, set()).add(name)
        self._changed: set[str] = set()

    def remove(self, id: str, keep: str | None = None) -> None:
        for name in self._places.get(id, set()) - {keep}:
            self._places[id].discard(name)
            self._sizes[name] -= self._entries[name].pop(id).size
            self._changed.add(name)

    def put(self, entry: Packed) -> None:
        names = sorted(self._places.get(entry.id, ()), key=lambda name: (self._known(name, entry) != entry, name))
        kept = next((name for name in names if self._fits(name, entry)), None)
        self.remove(entry.id, kept)
        if kept is None:
            self._add(self._room(entry) or self._new(entry.key), entry, 0)
        elif (known := self._known(kept, entry)) != entry:
            self._add(kept, entry, known.size)

    def _known(self, name: str, entry: Packed) -> Packed:
        return self._entries[name][entry.id]

    def _fits(self, name: str, entry: Packed) -> bool:
        """Whether it may stand in the slice that has it: as it is, or with its new size."""
        known = self._known(name, entry)
        return known == entry or (known.key == entry.key and self._sizes[name] - known.size + entry.size <= MOST_BYTES)

    def rewrites(self) -> Iterator[Rewrite]:
        for name in self._changed:
            before = self._before.get(name)
            if self._entries[name] or before is not None:
                yield Rewrite(before, Slice(name, self._keys[name], self._entries[name]))

    def _add(self, name: str, entry: Packed, replaced: int) -> None:
        self._entries[name][entry.id] = entry
        self._sizes[name] += entry.size - replaced
        self._places.setdefault(entry.id, set()).add(name)
        self._changed.add(name)

    def _room(self, entry: Packed) -> str | None:
        fitting = (
            name
            for name, key in self._keys.items()
            if key == entry.key
            and len(self._entries[name]) < MOST_ENDPOINTS
            and self._sizes[name] + entry.size <= MOST_BYTES
        )
        return min(fitting, key=lambda name: (name not in self._changed, name), default=None)

    def _new(self, key: SetKey) -> str:
        stem = f"{self._base}-{digest(msgspec.json.encode(key).decode(), 3)}"
        number = 0
        while (name := f"{stem}-{number}") in self._keys or name in self._taken:
            number += 1
        self._keys[name], self._entries[name], self._sizes[name] = key, {}, 0
        return name


def _size(entries: Iterable[Packed]) -> int:
    return sum(entry.size for entry in entries)
