"""Losses that an operator stated before they happen: they count against the number stated, not against the limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import msgspec

from bridge.guard.limits import Limit
from bridge.model import ServiceName
from bridge.plan.values import Removal, scope_of

# Limits that an expectation overrides: never the last instance, a doubted scope, or cause `config`.
COVERED = (None, Limit.HARD_SHARE, Limit.SOURCE_SHARE, Limit.SERVICE_SHARE)


class Expectation(msgspec.Struct, kw_only=True):
    """`left` more serving instances of a subject, of the number stated, may be lost until `until` (monotonic seconds).

    `subject`: as the operator named it. Exactly one of `link`, `service` and `origin` is set; `origin` is
    the identity of a registry and a scope, "*": each.
    """

    subject: str
    left: int
    of: int = 0
    until: float
    link: str = ""
    service: ServiceName | None = None
    origin: tuple[str, str] | None = None

    def covers(self, removal: Removal) -> bool:
        """Whether this removal is one of those that were stated."""
        mark = removal.change.mark
        if mark is None:
            return False
        if self.origin is not None:
            identity, scope = scope_of(mark)
            return identity == self.origin[0] and self.origin[1] in ("*", scope)
        if self.service is not None:
            return self.service in (mark.service, removal.change.service)
        return self.link == mark.link


class Expectations:
    """The expected losses at one destination, by key of the decision.

    `part(count)`: how many of a number that was stated fall to the shards that this process writes; None: all.
    """

    def __init__(self) -> None:
        self.part: Callable[[int], int] | None = None
        self.entries: dict[str, Expectation] = {}
        self._stated: dict[str, tuple[str, float]] = {}  # by key: the subject, and when it was stated
        self._taken: dict[ServiceName, dict[str, str]] = {}  # by removal, the expectation that let it go
        self._promised: Counter[str] = Counter()

    def covering(self, removal: Removal, limit: Limit | None, serves_on: bool, now: float) -> str | None:
        """The key of the expectation by which a removal may go although that limit holds it, None: there is none."""
        if limit not in COVERED or not serves_on:
            return None
        mine = self._taken.get(removal.change.service, {}).get(removal.change.id)
        for key, one in self.entries.items():
            if one.until <= now or not one.covers(removal):
                continue
            if one.left - self._elsewhere(one) > self._promised[key] - (mine == key):
                return key
        return None

    def _elsewhere(self, one: Expectation) -> int:
        """How many of these are for others to lose: a service is in one shard, all else is in all of them."""
        return 0 if self.part is None or one.service is not None else one.of - self.part(one.of)

    def take(self, removal: Removal, key: str) -> None:
        """Notes that an expectation lets a removal go."""
        self._drop(removal.change.service, removal.change.id)
        self._taken.setdefault(removal.change.service, {})[removal.change.id] = key
        self._promised[key] += 1

    def _drop(self, name: ServiceName, entry: str) -> str | None:
        taken = self._taken.get(name, {})
        key = taken.pop(entry, None)
        if key is not None:
            self._promised[key] -= 1
            if not taken:
                del self._taken[name]
        return key

    def keep(self, name: ServiceName, ids: Collection[str]) -> None:
        """Forgets the removals of a name that are no longer asked for."""
        for entry in [entry for entry in self._taken.get(name, ()) if entry not in ids]:
            self._drop(name, entry)

    def made(self, name: ServiceName, entry: str) -> bool:
        """Counts a loss that was made. Returns whether it was expected, and so does not count in the windows."""
        key = self._drop(name, entry)
        if key is None:
            return False
        one = self.entries.get(key)
        if one is not None:
            one.left -= 1
            if one.left <= 0:
                del self.entries[key]
        return True

    def state(self, subject: str, key: str, at: float, one: Expectation) -> bool:
        """Takes a statement of an operator, made at that time; a repeated one is ignored. Returns whether it is new."""
        if self._stated.get(key) == (subject, at):
            return False
        self._stated[key] = (subject, at)
        self.entries[key] = one
        return True

    def only(self, subjects: Collection[str]) -> None:
        """Drops all others, which were revoked or have ended."""
        for key in [key for key, (subject, _) in self._stated.items() if subject not in subjects]:
            del self._stated[key]
            self.entries.pop(key, None)

    def left(self, subject: str, otherwise: int) -> int:
        """How many more instances of a subject may be lost."""
        keys = [key for key, (known, _) in self._stated.items() if known == subject]
        return min((self.entries[key].left if key in self.entries else 0 for key in keys), default=otherwise)

    def forget(self, now: float) -> None:
        """Drops expectations that have ended."""
        self.entries = {key: one for key, one in self.entries.items() if one.until > now}
