"""Which of many things changed since a moment, at the cost of those that did; what is gone is forgotten in time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar

GONE_KEPT = 1000  # things that are gone, of which is known when they went

K = TypeVar("K", bound=Hashable)


class Touched(Generic[K]):
    """Names with the version at which each changed last. `version` grows with each change."""

    def __init__(self) -> None:
        self.version = 0
        self._at: dict[K, int] = {}  # in order of version
        self._forgotten = 0  # up to that version, some that are gone are told of no more

    def touch(self, name: K, there: Mapping[K, Any]) -> None:
        """It changed now, or went; `there`: what there is after that."""
        self.version += 1
        self._at.pop(name, None)
        self._at[name] = self.version
        if len(self._at) > 2 * (len(there) + GONE_KEPT):
            for gone in [one for one in self._at if one not in there][:-GONE_KEPT]:
                self._forgotten = self._at.pop(gone)

    def since(self, version: int) -> list[K]:
        """What changed after that version, the newest first; all that is known where that is too long ago."""
        if version < self._forgotten:
            return list(self._at)
        found = []
        for name in reversed(self._at):
            if self._at[name] <= version:
                break
            found.append(name)
        return found
