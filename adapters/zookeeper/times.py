"""Timeouts and intervals of the ZooKeeper adapter that are no keys of the file; in seconds."""

from __future__ import annotations

from typing import NamedTuple


class Times(NamedTuple):
    """`connection`: without one, until the ensemble is out of reach. `answer`: without one to requests in flight.

    `quiet`: without an event, until a watch asks whether the server answers. `look_again`: between two reads of what
    we had no permission for.
    """

    connection: float = 10.0
    answer: float = 8.0
    quiet: float = 5.0
    look_again: float = 30.0


TIMES = Times()
