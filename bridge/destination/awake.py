"""Detects that this process, or its machine, was stopped: what it had decided then rests on old reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("isthmus.reconcile")

EVERY = 1.0  # seconds between two readings of the clock
STOPPED = 3.0  # seconds: a timer that fires later than this shows that the process was stopped


class Awake:
    """Reads the clock once a second. After a stop `woke()` is called, and then `has_slept` becomes False again.

    The lock does not show a stop: the process may still hold it. But its plans rest on old reports, and its timers fire
    before it has read what came meanwhile.
    """

    def __init__(self, clock: Callable[[], float], woke: Callable[[], None]) -> None:
        self._clock = clock
        self._woke = woke
        self._looked = clock()

    @property
    def has_slept(self) -> bool:
        """Whether the process was stopped and `woke()` has not been called yet."""
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
