"""Whether this process ran all the time: one that was stopped, or whose machine was, decided by old reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("isthmus.reconcile")

EVERY = 1.0  # seconds between two looks at the clock
STOPPED = 3.0  # seconds later than it asked for: a process that is woken so late was stopped


class Awake:
    """Looks at the clock once a second. `woke()` is called when it was stopped, before `has_slept` is False again.

    The lock does not show it: the process may have it still. What it planned rests on old reports, and its timers are
    over before it has read what came meanwhile.
    """

    def __init__(self, clock: Callable[[], float], woke: Callable[[], None]) -> None:
        self._clock = clock
        self._woke = woke
        self._looked = clock()

    @property
    def has_slept(self) -> bool:
        """Whether it was stopped, and what follows from that is not done yet."""
        return self._clock() - self._looked > EVERY + STOPPED

    async def run(self) -> None:
        """Never returns."""
        self._looked = self._clock()
        while True:
            await asyncio.sleep(EVERY)
            if self.has_slept:
                log.warning("stopped seconds=%.1f", self._clock() - self._looked)
                self._woke()
            self._looked = self._clock()
