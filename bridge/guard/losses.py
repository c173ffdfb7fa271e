"""Losses and gains of a destination within the guard's windows, and completed first copies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from bridge.guard.limits import STOOD, Level
from bridge.guard.windows import Windows
from bridge.model import ServiceName
from bridge.plan.values import Scope


class Past(NamedTuple):
    """A gain (> 0) or a loss from before this process began; `at` in monotonic seconds.

    `replaces`: it is only under another id now, or of another scope, so that its scope neither lost nor won it.
    `reused`: it was removed because its address serves elsewhere.
    """

    at: float
    service: ServiceName
    scope: Scope
    won: int
    replaces: bool = False
    reused: bool = False


class Reused(NamedTuple):
    """The key of what a scope lost because its addresses serve elsewhere."""

    scope: Scope


Key = ServiceName | Scope | Reused


class Lost(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a service or a scope lost on balance within the guard's window, by the minute since the epoch.

    By the minute, since whoever takes over counts by its own eyes what happened after it first looked. `reused`: only
    what went because its address serves elsewhere.
    """

    won: dict[int, int]  # < 0: lost
    service: str = ""
    scope: tuple[str, str] | None = None
    reused: bool = False

    @classmethod
    def of(cls, key: Key, won: dict[int, int]) -> Lost:
        """What the guard's window has under a key."""
        if isinstance(key, ServiceName):
            return cls(won, str(key))
        return cls(won, scope=key.scope, reused=True) if isinstance(key, Reused) else cls(won, scope=key)

    @property
    def key(self) -> Key:
        """The key in the guard's window."""
        if self.scope is None:
            return ServiceName.parse(self.service)
        return Reused(self.scope) if self.reused else self.scope

    @property
    def about(self) -> tuple[object, ...]:
        """What tells it from the others of a note."""
        return self.service, self.scope, self.reused

    @property
    def lost(self) -> int:
        """How many on balance."""
        return -sum(self.won.values())


class Losses:
    """Gains and losses of one destination, `identity`.

    `settled`: identity of the destination, identity and name of a scope whose first copy there is done. From then on
    growth counts; before, it would offset every later loss.
    """

    def __init__(self) -> None:
        self.windows = Windows()
        self.settled: set[tuple[str, str, str]] = set()

    def counts(self, identity: str, scope: Scope, won: int) -> bool:
        """Whether a gain or a loss counts."""
        return won < 0 or (won > 0 and (identity, *scope) in self.settled)

    def made(self, name: ServiceName, scope: Scope, won: int, now: float, *, replaces: bool, late: bool) -> None:
        """Counts a change that this process made; `late`: perhaps long ago, so that a gain may be as old."""
        # A replacement is counted on both sides, or its gain would offset later losses. The new entry may come from
        # another scope: the scope that is left has lost nothing by it.
        for key in (name,) if replaces else (name, scope):
            if late:
                self._noticed(key, won, now)
            else:
                self.windows.add(key, now, won)

    def noticed(self, name: ServiceName, scope: Scope, won: int, now: float) -> None:
        """Counts a change that another process made, at an unknown time."""
        self._noticed(name, won, now)
        self._noticed(scope, won, now)

    def _noticed(self, key: ServiceName | Scope, won: int, now: float) -> None:
        if won > 0:
            self.windows.cancel(key, won)
        else:
            self.windows.add(key, now, won)

    def remember(self, past: Iterable[Past]) -> None:
        """Counts losses and gains from before this process began."""
        for one in past:
            for key in (one.service,) if one.replaces else (one.service, one.scope):
                self.windows.add(key, one.at, one.won)
            if one.reused:
                self.withdrawn(one.scope, one.at)

    def withdrawn(self, scope: Scope, at: float) -> None:
        """Counts an instance of a scope that was removed because its address serves elsewhere."""
        self.windows.add(Reused(scope), at, -1)

    def reused(self, scope: Scope, after: float) -> int:
        """How many of a scope were removed since then because their addresses serve elsewhere."""
        return -self.windows.net(Reused(scope), after)

    def whole(self, scope: Scope, serving: int, after: int, now: float, window: float) -> Level:
        """The levels of a scope."""
        start = self.windows.start(scope, serving, now, window)
        stood = start if window <= STOOD else self.windows.start(scope, serving, now, STOOD)
        return Level(start, after, stood, serving)
