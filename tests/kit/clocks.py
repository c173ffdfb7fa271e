"""A clock that a test sets ahead, instead of waiting."""

from __future__ import annotations

import time
from collections.abc import Callable


class Ahead:
    """The time that another clock shows, and as much as the test has added to it; seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.by = 0.0
        self._clock = clock

    def __call__(self) -> float:
        return self._clock() + self.by
