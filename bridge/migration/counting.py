"""The share of requests by those who count them for each address: two looks at their counters make a window; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
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
    for address, grown in _grown(before, after):
        if (address in old) == (address in new):
            continue
        if address in new:
            to += grown
        else:
            from_ += grown
    return Measured(from_, to)


def reached(before: Counts, after: Counts, some: Collection[Address]) -> float:
    """How many requests came to some addresses between two looks; who has forgotten one sends nothing there."""
    return sum(grown for address, grown in _grown(before, after) if address in some)


def _grown(before: Counts, after: Counts) -> Iterator[tuple[Address, float]]:
    """By how much each counter grew; one that is less than before began anew."""
    for key, count in after.items():
        earlier = before.get(key, 0.0)
        yield key[1:], count - earlier if count >= earlier else count
