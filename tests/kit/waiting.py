"""Waiting for conditions: no test sleeps for a fixed time and hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

DEADLINE = 90.0  # seconds; generous, because other tests keep the machine busy, and nothing waits for it in vain
POLL = 0.02  # seconds from one look to the next

Condition = Callable[[], Any] | Callable[[], Awaitable[Any]]
T = TypeVar("T")


async def until(condition: Condition, what: str = "", within: float = DEADLINE, every: float = POLL) -> Any:
    """Returns what the condition returned as soon as that is true; the condition may be a coroutine function.

    Raises AssertionError, with `what`, after `within` seconds; what the condition raises is passed on.
    """
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"it did not happen within {within:.0f} s: {what or condition}"
        await asyncio.sleep(every)


async def steady(value: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Returns the value; raises AssertionError if it changes within so many seconds."""
    before = await value()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        now = await value()
        assert now == before
    return before
