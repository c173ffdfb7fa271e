"""How long an etcd is waited for, and how often it is asked, where the file does not say it; seconds."""

from __future__ import annotations

from typing import NamedTuple


class Times(NamedTuple):
    """`lock`: how long a standby waits for a writer that died. `audit`: from one audit of a watch to the next, so how
    long it may lie (safety fault 18). `probe`: between two questions how far the store is, and how far the watch.
    `ping`: of silence on a connection until it is tried, `pong`: in which the server must answer that.
    """

    lock: int = 10
    audit: float = 60.0
    probe: float = 5.0
    ping: float = 10.0
    pong: float = 5.0


TIMES = Times()
