"""What this process let go of a destination lately, for the other daemons that serve it: they let the same go."""

from __future__ import annotations

import msgspec

from bridge.adapter import Change
from bridge.guard.holds import HeldRemoval, Item, item_of

KEPT = 500  # the newest ones
LASTS = 900.0  # seconds, as an approval
LATE = 10.0  # seconds that a daemon may hear of the same change later than another, their clocks' difference included


class Gone(msgspec.Struct, frozen=True, array_like=True):
    """One entry that serves no more. `at`: seconds since the epoch. `removed`: else it is there with its health."""

    item: Item
    at: float
    removed: bool

    def lets_go(self, one: HeldRemoval, since: float) -> bool:
        """Whether a removal that is held since then (seconds since the epoch) is the same one.

        What came after that entry went is another thing: it was there again meanwhile.
        """
        same = self.item == one.item and self.removed == (one.removal.change.after is None)
        return same and one.removal.change.before is not None and since <= self.at + LATE


class Went:
    """The entries that went, by item: when (monotonic), whether they were removed, and what is told of them."""

    def __init__(self) -> None:
        self._at: dict[Item, tuple[float, bool]] = {}
        self._told: dict[Item, Gone] = {}  # as it was told first: clocks drift

    def made(self, change: Change, won: int, now: float) -> None:
        """A change was made; `won`: how many more serve by it."""
        item = item_of(change)
        self._forget(item)
        if won < 0 or change.after is None:
            self._at[item] = now, change.after is None
            while len(self._at) > KEPT:
                self._forget(next(iter(self._at)))

    def since(self, now: float, ahead: float) -> tuple[Gone, ...]:
        """Those of the last quarter of an hour, the oldest first; `ahead`: of the epoch's seconds over `now`'s."""
        for item in [item for item, (at, _) in self._at.items() if now - at > LASTS]:
            self._forget(item)
        return tuple(
            self._told.setdefault(item, Gone(item, at + ahead, removed)) for item, (at, removed) in self._at.items()
        )

    def _forget(self, item: Item) -> None:
        self._at.pop(item, None)
        self._told.pop(item, None)
