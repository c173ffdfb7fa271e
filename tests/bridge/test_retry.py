"""What each class of error calls for, and that trying again never ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from bridge.errors import ConfigError, Conflict, Denied, Expired, Rejected, Superseded, Unavailable
from bridge.retry import BUG, DENIED_DELAY, LONGEST_DELAY, STEADY, Backoff, Reaction, cause_of, forever, react

BACK_OFF = None
TABLE = [
    (Unavailable("down"), "unavailable", BACK_OFF),
    (Unavailable("throttled", retry_after=7.0), "unavailable", 7.0),
    (Unavailable("throttled", retry_after=0.0), "unavailable", 0.0),
    (Expired("compacted"), "expired", 0.0),
    (Superseded("the lock is gone"), "superseded", 0.0),
    (Denied("no rights"), "denied", DENIED_DELAY),
    (Conflict("written over"), "conflict", BACK_OFF),
    (Rejected("too long"), "rejected", BACK_OFF),
    (ConfigError("no such file"), "bug", BACK_OFF),
    (KeyError("x"), "bug", BACK_OFF),
]


@pytest.mark.parametrize(("error", "kind", "delay"), TABLE, ids=lambda one: type(one).__name__)
def test_one_class_of_error_has_one_reaction(error: Exception, kind: str, delay: float | None) -> None:
    assert react(error) == Reaction(kind, delay)


def test_a_bug_in_a_group_of_tasks_is_not_hidden_by_an_outage() -> None:
    bug = KeyError("x")
    assert cause_of(ExceptionGroup("", [Unavailable("down"), ExceptionGroup("", [bug])])) is bug
    assert cause_of(ExceptionGroup("", [Denied("no"), Unavailable("down")])).args == ("no",)


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(random.Random(1))
    delays = [backoff.delay() for _ in range(20)]
    assert delays[0] <= 0.25
    assert all(LONGEST_DELAY / 2 <= delay <= LONGEST_DELAY for delay in delays[4:])
    backoff.reset()
    assert backoff.delay() <= 0.25


class Work:
    """Fails as it is told to, one error a try, each after some seconds; then it is cancelled."""

    def __init__(self, *fails: tuple[Exception | None, float]) -> None:
        self.fails = list(fails)
        self.slept: list[float] = []
        self.failed: list[Reaction] = []
        self.now = 0.0

    async def __call__(self) -> None:
        if not self.fails:
            raise asyncio.CancelledError
        error, lasts = self.fails.pop(0)
        self.now += lasts
        if error is not None:
            raise error

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def slept(*fails: tuple[Exception | None, float], least: float = 0.0) -> Sequence[float]:
    work = Work(*fails)
    with pytest.raises(asyncio.CancelledError):
        await forever(
            work,
            lambda error, reaction: work.failed.append(reaction),
            rng=random.Random(1),
            clock=lambda: work.now,
            sleep=work.sleep,
            least=lambda: least,
        )
    assert len(work.failed) == sum(error is not None for error, _ in fails)
    return work.slept


async def test_work_is_done_again_whatever_it_fails_with() -> None:
    delays = await slept((Expired("gone"), 0), (Denied("no"), 0), (None, 0), (BUGGY, 0), (Unavailable("down", 3.0), 0))
    assert delays[:3] == [0.0, DENIED_DELAY, 0.0]
    assert 0 < delays[3] <= 0.25
    assert delays[4] == 3.0
    assert react(BUGGY) is BUG


async def test_a_long_run_begins_with_the_first_delay_again() -> None:
    flapping = [(Unavailable("down"), 0.0)] * 6
    delays = await slept(*flapping, (Unavailable("down"), STEADY + 1))
    assert delays[5] >= LONGEST_DELAY / 2
    assert delays[6] <= 0.25


async def test_no_try_comes_before_the_least_wait() -> None:
    assert await slept((Expired("gone"), 0), (None, 0), least=5.0) == [5.0, 5.0]


BUGGY = KeyError("x")
