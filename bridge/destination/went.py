"""Removals that this process made lately at an export, for the other daemons that serve it: they make the same."""

from __future__ import annotations

import msgspec

from bridge.adapter import Change
from bridge.guard.holds import HeldRemoval, Item, item_of

KEPT = 500  # removals: the newest ones
LASTS = 900.0  # seconds, as an approval
LATE = 10.0  # seconds between two daemons' reports of the same change, at most, with the difference of their clocks


class Gone(msgspec.Struct, frozen=True, array_like=True):
    """An entry that no longer serves. `at`: seconds since the epoch. `removed`: False where it stays as unhealthy."""

    item: Item
    at: float
    removed: bool

    def lets_go(self, one: HeldRemoval, since: float) -> bool:
        """Whether a removal that is held since then (seconds since the epoch) is the same one.

        One that is held since later is another removal: the instance had returned meanwhile.
        """
        same = self.item == one.item and self.removed == (one.removal.change.after is None)
        return same and one.removal.change.before is not None and since <= self.at + LATE


class Went:
    """The removals by item: when (monotonic), whether the entry was removed, and what others are told."""

    def __init__(self) -> None:
        self._at: dict[Item, tuple[float, bool]] = {}
        self._told: dict[Item, Gone] = {}  # as first told: the clocks may drift apart

    def made(self, change: Change, won: int, now: float) -> None:
        """Notes a change that was made; `won`: by how many more entries serve."""
        item = item_of(change)
        self._forget(item)
        if won < 0 or change.after is None:
            self._at[item] = now, change.after is None
            while len(self._at) > KEPT:
                self._forget(next(iter(self._at)))

    def since(self, now: float, ahead: float) -> tuple[Gone, ...]:
        """The removals of the last 15 minutes, oldest first; `ahead`: seconds since the epoch minus monotonic ones."""
        for item in [item for item, (at, _) in self._at.items() if now - at > LASTS]:
            self._forget(item)
        return tuple(
            self._told.setdefault(item, Gone(item, at + ahead, removed)) for item, (at, removed) in self._at.items()
        )

    def _forget(self, item: Item) -> None:
        self._at.pop(item, None)
        self._told.pop(item, None)
