"""The share of requests by those who count them for each address: two looks at their counters make a window; pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bridge.adapter import Counts
from bridge.migration.asking import Measured

Address = tuple[str, int]


class Window(NamedTuple):
    """What the counters said at a time (seconds since the epoch), in one step of a move."""

    number: int
    at: float
    counts: Counts


def measured(before: Counts, after: Counts, old: Collection[Address], new: Collection[Address]) -> Measured:
    """How many requests each side had between two looks; an address of both sides or of none counts for none."""
    from_ = to = 0.0
    for key, count in after.items():
        address = key[1:]
        if (address in old) == (address in new):
            continue
        earlier = before.get(key, 0.0)
        grown = count - earlier if count >= earlier else count  # it began anew
        if address in new:
            to += grown
        else:
            from_ += grown
    return Measured(from_, to)
