"""How long a ZooKeeper is waited for, and how often it is asked, where the file does not say it; seconds."""

from __future__ import annotations

from typing import NamedTuple


class Times(NamedTuple):
    """`connection`: without one, until the ensemble counts as out of reach. `answer`: without any while one is owed.

    `proof`: without a word of the server, until a watch asks it for one. `look_again`: between two looks at what might
    not be read.
    """

    connection: float = 10.0
    answer: float = 8.0
    proof: float = 5.0
    look_again: float = 30.0


TIMES = Times()
