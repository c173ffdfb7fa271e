"""Losses and gains of a destination within the guard's windows, and completed first copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple, TypeGuard

import msgspec

from bridge.guard.limits import STOOD, Level
from bridge.guard.windows import MINUTE, SECOND, Windows
from bridge.model import ServiceName
from bridge.plan.values import Scope
from bridge.shards import WHOLE


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


class Part(NamedTuple):
    """The key of what a scope won and lost in one shard."""

    shard: int
    key: Scope | Reused


Key = ServiceName | Scope | Reused | Part


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
    def of(cls, key: ServiceName | Scope | Reused, won: dict[int, int]) -> Lost:
        """What the guard's window has under a key."""
        if isinstance(key, ServiceName):
            return cls(won, str(key))
        return cls(won, scope=key.scope, reused=True) if isinstance(key, Reused) else cls(won, scope=key)

    @property
    def key(self) -> ServiceName | Scope | Reused:
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
    growth counts; before, it would offset every later loss. `mine()`: the shards that this process writes, None: the
    destination is not divided. Where it is, what a scope won and lost is counted by shard, and `settled_in` has the
    scopes whose first copy is done in one.
    """

    def __init__(self) -> None:
        self.windows = Windows()
        self.settled: set[tuple[str, str, str]] = set()
        self.settled_in: set[tuple[int, Scope]] = set()
        self.mine: Callable[[], Collection[int]] | None = None

    def counts(self, identity: str, scope: Scope, won: int, shard: int = WHOLE) -> bool:
        """Whether a gain or a loss counts."""
        settled = (identity, *scope) in self.settled if shard == WHOLE else (shard, scope) in self.settled_in
        return won < 0 or (won > 0 and settled)

    def made(
        self, name: ServiceName, scope: Scope, won: int, now: float, *, replaces: bool, late: bool, shard: int = WHOLE
    ) -> None:
        """Counts a change that this process made; `late`: perhaps long ago, so that a gain may be as old."""
        # A replacement is counted on both sides, or its gain would offset later losses. The new entry may come from
        # another scope: the scope that is left has lost nothing by it.
        for key in (name,) if replaces else (name, within(shard, scope)):
            if late:
                self._noticed(key, won, now)
            else:
                self.windows.add(key, now, won)

    def noticed(self, name: ServiceName, scope: Scope, won: int, now: float, shard: int = WHOLE) -> None:
        """Counts a change that another process made, at an unknown time."""
        self._noticed(name, won, now)
        self._noticed(within(shard, scope), won, now)

    def _noticed(self, key: Key, won: int, now: float) -> None:
        if won > 0:
            self.windows.cancel(key, won)
        else:
            self.windows.add(key, now, won)

    def remember(self, past: Iterable[Past]) -> None:
        """Counts losses and gains from before this process began; of a destination that is divided, its notes tell."""
        for one in past if self.mine is None else ():
            for key in (one.service,) if one.replaces else (one.service, one.scope):
                self.windows.add(key, one.at, one.won)
            if one.reused:
                self.withdrawn(one.scope, one.at)

    def withdrawn(self, scope: Scope, at: float, shard: int = WHOLE) -> None:
        """Counts an instance of a scope that was removed because its address serves elsewhere."""
        self.windows.add(within(shard, Reused(scope)), at, -1)

    def reused(self, scope: Scope, after: float) -> int:
        """How many of a scope were removed since then because their addresses serve elsewhere."""
        return -self.net(Reused(scope), after)

    def net(self, key: Scope | Reused, after: float) -> int:
        """What a scope won since then, in the shards that this process writes."""
        if self.mine is None:
            return self.windows.net(key, after)
        return sum(self.windows.net(Part(shard, key), after) for shard in self.mine())

    def whole(self, scope: Scope, serving: int, after: int, now: float, window: float) -> Level:
        """The levels of a scope."""
        start = serving - self.net(scope, now - window)
        stood = start if window <= STOOD else serving - self.net(scope, now - STOOD)
        return Level(start, after, stood, serving)

    # -- where several processes write a shard each

    def leave(self, shard: int, is_of: Callable[[ServiceName], bool]) -> None:
        """Another process writes a shard: what was counted of it, and of its services, is counted there."""
        self.windows.drop(lambda key: key.shard == shard if isinstance(key, Part) else _is_service(key) and is_of(key))
        self.settled_in = {one for one in self.settled_in if one[0] != shard}

    def enter(self, shard: int, scope: Scope, won: Mapping[int, int], reused: Mapping[int, int], ahead: float) -> None:
        """What the writer of a shard before us counted of a scope, by the minute of a clock that is `ahead`."""
        self._recall(Part(shard, scope), won, ahead)
        self._recall(Part(shard, Reused(scope)), reused, ahead)

    def enter_service(self, lost: Lost, ahead: float) -> None:
        """Likewise of a service."""
        if lost.service:
            self._recall(ServiceName.parse(lost.service), lost.won, ahead)

    def _recall(self, key: Key, won: Mapping[int, int], ahead: float) -> None:
        for minute, delta in won.items():
            # A loss counts for as long as any second of its minute does, a gain for as long as all of them do.
            at = (minute + 1) * MINUTE - SECOND if delta < 0 else minute * MINUTE
            self.windows.add(key, at - ahead, delta)


def within(shard: int, key: Scope | Reused) -> Scope | Reused | Part:
    """The key of what happened to a scope in a shard."""
    return key if shard == WHOLE else Part(shard, key)


def _is_service(key: object) -> TypeGuard[ServiceName]:
    return isinstance(key, ServiceName)
