"""How long watches of a cluster last and may be silent, where the file does not say it; seconds."""

from __future__ import annotations

from typing import NamedTuple


class Times(NamedTuple):
    """`watch`: of one watch, after which rights that were revoked show: the server goes on with an open one.

    `silence`: without a bookmark, which comes each minute: the watch is dead, or one from the future. `begins`: until a
    watch must have begun, as a busy apiserver queues requests for up to 15. `first`: until a watch that begins with a
    list has told the first of it, for there is always something. `audit`: from one audit to the next, so how long a
    watch may have lost an event.
    """

    watch: float = 300.0
    silence: float = 90.0
    begins: float = 20.0
    first: float = 20.0
    audit: float = 900.0


TIMES = Times()
