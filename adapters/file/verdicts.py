"""The verdicts of one host's checks: which instances fail, and when the host itself is at fault. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from bridge.model import ServiceName

DOUBT = 0.2  # of all targets: where more fail within a minute, the host is at fault
DOUBT_TIME = 60.0  # seconds


class Target(NamedTuple):
    """The target of a check. Another address under the same id is another target, of which nothing is known."""

    service: ServiceName
    id: str
    address: str
    port: int


class Kept(msgspec.Struct, frozen=True):
    """What outlives the process. `host`: that checked; `began`: since when it checks, in seconds since the epoch."""

    host: str
    began: float
    passed: tuple[Target, ...] = ()
    turned: tuple[Target, ...] = ()


class _Target(msgspec.Struct):
    passed: bool = False
    fails: int = 0
    failing: bool = False  # it has failed often enough in a row, after it had passed
    turned: float | None = None  # since when
    why: str = ""


class Verdicts:
    """`failures`: in a row make an instance unhealthy; one pass makes it healthy.

    Only what has passed from this host is ever turned: who never answered here may be out of this host's reach alone.
    More than a fifth that fails within a minute, and more than one, says that the host is ill: then nothing is turned,
    what was turned in that minute is as its source says, and the host is in doubt until they pass or are gone.
    """

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self._targets: dict[Target, _Target] = {}
        self.doubt = ""

    @property
    def targets(self) -> Collection[Target]:
        """All targets."""
        return self._targets.keys()

    @property
    def turned(self) -> frozenset[Target]:
        """The targets that are unhealthy by the checks, whatever their file says."""
        return frozenset(each for each, one in self._targets.items() if one.turned is not None)

    @property
    def failing(self) -> dict[Target, str]:
        """The targets that fail, with the reason."""
        return {each: one.why for each, one in self._targets.items() if one.failing}

    def restore(self, kept: Kept) -> None:
        """Restores the state of the previous process. Its failures do not count against the host."""
        for each in kept.passed:
            self._targets[each] = _Target(passed=True)
        for each in kept.turned:
            self._targets[each] = _Target(True, self._failures, True, -DOUBT_TIME, "as before the restart")

    def keep(self, host: str, began: float) -> Kept:
        """The state to be saved."""
        passed = tuple(sorted(each for each, one in self._targets.items() if one.passed))
        return Kept(host, began, passed, tuple(sorted(self.turned)))

    def know(self, wanted: Iterable[Target]) -> None:
        """Sets the targets; the others are forgotten."""
        self._targets = {each: self._targets.get(each) or _Target() for each in wanted}

    def take(self, target: Target, why: str) -> None:
        """Takes the result of one check; "" is a pass."""
        one = self._targets.get(target)
        if one is None:
            return
        one.why = why
        if not why:
            one.passed, one.fails, one.failing, one.turned = True, 0, False, None
            return
        one.fails += 1
        one.failing = one.passed and one.fails >= self._failures

    def judge(self, now: float, *, observe: bool) -> None:
        """Judges after a round of checks: failing targets become unhealthy, unless the host is at fault or observes."""
        checked = [one for one in self._targets.values() if one.passed]
        fresh = [one for one in checked if one.failing and (one.turned is None or now - one.turned < DOUBT_TIME)]
        self.doubt = ""
        if len(fresh) > max(1, DOUBT * len(checked)):
            self.doubt = f"{len(fresh)} of {len(checked)} instances fail its checks, the last: {fresh[-1].why}"
        for one in fresh:
            if self.doubt or observe:
                one.turned = None
            elif one.turned is None:
                one.turned = now
