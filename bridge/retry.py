"""What each class of error calls for, in one table, and the one loop that tries again for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, NoReturn

from bridge.errors import Conflict, Denied, Expired, Rejected, Superseded, Unavailable

FIRST_DELAY, LONGEST_DELAY = 0.25, 2.0  # seconds: an outage is tried about once a second, and found over within two
DENIED_DELAY = 15.0  # seconds: permissions are changed by hand
STEADY = 10.0  # seconds: work that ran for so long was not flapping, and its next delay is the first one again


class Reaction(NamedTuple):
    """What an error calls for. `delay`: seconds until the next try; None: the next step of the back-off."""

    kind: str
    delay: float | None


AGAIN = Reaction("ended", 0.0)  # the work returned
BUG = Reaction("bug", None)  # an error that no adapter should raise
REACTIONS: tuple[tuple[type[Exception], Reaction], ...] = (
    (Expired, Reaction("expired", 0.0)),
    (Superseded, Reaction("superseded", 0.0)),
    (Denied, Reaction("denied", DENIED_DELAY)),
    (Unavailable, Reaction("unavailable", None)),
    (Conflict, Reaction("conflict", None)),
    (Rejected, Reaction("rejected", None)),
)


class Backoff:
    """Doubling delays with jitter, in seconds."""

    def __init__(self, rng: random.Random, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY) -> None:
        self._rng, self._first, self._longest = rng, first, longest
        self._next = first

    def reset(self) -> None:
        """The next delay is the first one again."""
        self._next = self._first

    def delay(self) -> float:
        """The next delay: between half of the current step and all of it."""
        step, self._next = self._next, min(self._next * 2, self._longest)
        return step * (0.5 + self._rng.random() / 2)


def react(error: Exception) -> Reaction:
    """The row of the table for this error. An Unavailable that names a time to wait (`retry_after`) gets that time."""
    for kind, reaction in REACTIONS:
        if isinstance(error, kind):
            if isinstance(error, Unavailable) and error.retry_after is not None:
                return reaction._replace(delay=error.retry_after)
            return reaction
    return BUG


def cause_of(error: Exception) -> Exception:
    """The error that a group of concurrent tasks failed with: a bug before what is expected, else the first."""
    if not isinstance(error, ExceptionGroup):
        return error
    found = [cause_of(one) for one in error.exceptions]
    return next((one for one in found if react(one) is BUG), found[0])


async def forever(
    work: Callable[[], Awaitable[None]],
    failed: Callable[[Exception, Reaction], None],
    *,
    rng: random.Random,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    least: Callable[[], float] = lambda: 0.0,
) -> NoReturn:
    """Does the work again and again; only a cancellation ends it.

    `failed` is called with each error and its reaction, before the delay. `least`: seconds to wait in any case.
    """
    backoff = Backoff(rng)
    while True:
        began = clock()
        reaction = AGAIN
        try:
            await work()
        except Exception as error:
            cause = cause_of(error)
            reaction = react(cause)
            failed(cause, reaction)
        if clock() - began > STEADY:
            backoff.reset()
        await sleep(max(least(), backoff.delay() if reaction.delay is None else reaction.delay))
