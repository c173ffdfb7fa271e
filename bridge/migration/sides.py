"""Which side of a migration anything is of: an original by where it is read, a copy by where it came from; pure.

Links between the sides and the places carry copies of each side into registries of the other one. Such a copy is no
instance of the side that it is copied to: it is counted where its original is, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bridge.migration.block import Migration, Part
from bridge.model import Instance, Mark


class Scope(NamedTuple):
    """A scope that is read, and the identity of its registry: what marks name; "" where nobody has told it yet."""

    identity: str
    registry: str
    scope: str


class Sides:
    """Tells sides of one migration apart. `scopes`: what is read, by each store that answered for it.

    `unknown`: the scopes of a side whose identity nobody has told yet; until then copies of what they have cannot be
    told from what others wrote.
    """

    def __init__(self, block: Migration, scopes: Iterable[Scope]) -> None:
        ends = (*block.old, *block.new)
        self._block = block
        self._scopes: dict[str, set[Scope]] = {}
        unknown: list[str] = []
        for one in scopes:
            if any(end.reads(one.registry, one.scope) for end in ends):
                if one.identity:
                    self._scopes.setdefault(one.identity, set()).add(one)
                else:
                    unknown.append(f"{one.registry}/{one.scope}" if one.scope else one.registry)
        self.unknown = tuple(unknown)
        self._parts: dict[tuple[str, str], Callable[[Instance], Part | None]] = {}

    def parts(self, registry: str, scope: str) -> Callable[[Instance], Part | None]:
        """What tells the side of each instance of a scope."""
        key = registry, scope
        if key not in self._parts:
            self._parts[key] = self._block.parts(registry, scope)
        return self._parts[key]

    def is_copy(self, mark: Mark | None) -> bool:
        """Whether a side has the original of what stands in a registry, or had it."""
        return mark is not None and not self._scopes.keys().isdisjoint(mark.path)

    def is_original(self, mark: Mark | None) -> bool:
        """Whether what stands in a registry of a side is no copy of what a side has, as far as that is known."""
        return mark is None or not (self.unknown or self.is_copy(mark))

    def side(self, place: str, instance: Instance, mark: Mark | None) -> Part:
        """The side of what stands at a place; whatever is not known to be new is old.

        A copy is of the first side on its way: what came on from there by a registry of the other side, or by a bridge
        in between, serves from where it was first. `instance`: as its registry has it, where that is known.
        """
        if mark is None:
            return self._block.native(place, instance) or Part.OLD
        first = next((one for one in mark.path if one in self._scopes), None)
        there = self._scopes[first] if first is not None else set()
        if first == mark.path[-1]:
            there = {one for one in there if one.scope == mark.scope} or there
        parts = {self.parts(one.registry, one.scope)(instance) for one in there} - {None}
        return Part.NEW if parts == {Part.NEW} else Part.OLD
