"""The same for many items, some at once; the first failure ends it and is raised by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def together(items: Iterable[T], do: Callable[[T], Awaitable[R]], at_once: int) -> list[R]:
    """What each came to, in the order of the items. Raises what the first that failed raised, not a group."""
    todo = list(enumerate(items))
    results: dict[int, R] = {}
    rest = iter(todo)

    async def work() -> None:
        for index, item in rest:
            results[index] = await do(item)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(at_once, len(todo))):
                tasks.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [results[index] for index, _ in todo]
