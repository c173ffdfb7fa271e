"""What checks of one host come to: which instances they turn, and when the host itself is to be doubted; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from bridge.model import ServiceName

DOUBT = 0.2  # of what a host checks: where more fails within a minute, it is the host
DOUBT_TIME = 60.0  # seconds


class Target(NamedTuple):
    """What is checked: another address under one id is another running copy, of which nothing is known."""

    service: ServiceName
    id: str
    address: str
    port: int


class Kept(msgspec.Struct, frozen=True):
    """What outlives the process. `host`: who checked; `began`: when it was first to check, in seconds of the epoch."""

    host: str
    began: float
    passed: tuple[Target, ...] = ()
    turned: tuple[Target, ...] = ()


class _Target(msgspec.Struct):
    passed: bool = False
    fails: int = 0
    failing: bool = False  # often enough in turn, after it had passed
    turned: float | None = None  # since when
    why: str = ""


class Verdicts:
    """`failures`: so many in turn make an instance fail; one that passes makes it well.

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
        """All that are checked."""
        return self._targets.keys()

    @property
    def turned(self) -> frozenset[Target]:
        """Those that are not to be called, whatever their source says."""
        return frozenset(each for each, one in self._targets.items() if one.turned is not None)

    @property
    def failing(self) -> dict[Target, str]:
        """Those that would be, with the reason."""
        return {each: one.why for each, one in self._targets.items() if one.failing}

    def restore(self, kept: Kept) -> None:
        """What the process before knew; long ago, as far as the doubt is concerned."""
        for each in kept.passed:
            self._targets[each] = _Target(passed=True)
        for each in kept.turned:
            self._targets[each] = _Target(True, self._failures, True, -DOUBT_TIME, "as before the restart")

    def keep(self, host: str, began: float) -> Kept:
        """For the disk."""
        passed = tuple(sorted(each for each, one in self._targets.items() if one.passed))
        return Kept(host, began, passed, tuple(sorted(self.turned)))

    def know(self, wanted: Iterable[Target]) -> None:
        """These are checked from now on; of others nothing is remembered."""
        self._targets = {each: self._targets.get(each) or _Target() for each in wanted}

    def take(self, target: Target, why: str) -> None:
        """What one check came to; "" is passed."""
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
        """After a round of checks: turns what fails, unless the host is doubted, or only observes."""
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
