"""The loop that writes what was collected: away from the event loop, and again later what the disk refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bridge.state.files import Fault, whole, why


class Writing:
    """Writes as soon as something waits, at most once in `every` seconds; after a fault once in `retry` seconds.

    `waits()`: whether there is anything to write. `write()` writes it; raises OSError, and what is not on the disk
    waits on. `fault`: what the disk refuses, None: nothing. `turned`: when it last went on (monotonic seconds).
    """

    def __init__(
        self,
        waits: Callable[[], bool],
        write: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        *,
        every: float,
        retry: float,
    ) -> None:
        self.fault: Fault | None = None
        self.turned = time.monotonic()
        self._waits = waits
        self._write = write
        self._clock = clock
        self._every = every
        self._retry = retry
        self._tried = float("-inf")
        self._writes = asyncio.Lock()  # what one flush writes, another one must not write beside it

    async def run(self) -> None:
        """Writes until cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(self._every)
                await whole(self.flush())
        finally:
            self._tried = float("-inf")
            await self.flush()

    async def flush(self) -> None:
        """Writes what waits, unless the disk refused a moment ago."""
        async with self._writes:
            await self._flush()

    async def _flush(self) -> None:
        self.turn()
        if not self._waits() or (self.fault is not None and self._clock() - self._tried < self._retry):
            return
        self._tried = self._clock()
        try:
            await self._write()
        except OSError as error:
            self.refused(error)
        else:
            self.fault = None

    def refused(self, error: OSError) -> None:
        """Notes what the disk refuses, and since when."""
        self.fault = Fault(self.fault.since if self.fault else self._clock(), why(error))

    def turn(self) -> None:
        """It goes on: to be called between parts of a long write, so that it is not taken for one that hangs."""
        self.turned = time.monotonic()
