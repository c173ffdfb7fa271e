"""Many at once, or one alone: a `complete` states what its partition holds, so nothing is under way beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Inside `shared` others may be too, inside `alone` nobody is; whoever waits to be alone lets no more in."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self._running = 0
        self._alone = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Beside others."""
        async with self._condition:
            await self._condition.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            async with self._condition:
                self._running -= 1
                self._condition.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """When all that is under way is done."""
        async with self._condition:
            await self._condition.wait_for(lambda: not self._alone)
            self._alone = True
        try:
            async with self._condition:
                await self._condition.wait_for(lambda: not self._running)
            yield
        finally:
            async with self._condition:
                self._alone = False
                self._condition.notify_all()
