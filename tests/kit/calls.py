"""Counts what runs: work that must not grow is asserted by calls, and never by a clock."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def calls() -> Iterator[Counter[str]]:
    """How often each function of this thread is called inside, by its qualified name; a coroutine at each turn."""
    found: Counter[str] = Counter()
    before = sys.getprofile()

    def told(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found[frame.f_code.co_qualname] += 1

    sys.setprofile(told)
    try:
        yield found
    finally:
        sys.setprofile(before)
