"""Timeouts and intervals of the etcd adapter that are no keys of the file; in seconds."""

from __future__ import annotations

from typing import NamedTuple


class Times(NamedTuple):
    """`lock`: lease of the writer's lock, so the time until a standby takes over from a writer that died.

    `audit`: between two audits of a watch, so the time for which it may be wrong (safety fault 18).
    `probe`: between two requests for the revisions of the store and of the watch.
    `ping`: silence on a connection until it is tested, `pong`: until the server must have answered that.
    """

    lock: int = 10
    audit: float = 60.0
    probe: float = 5.0
    ping: float = 10.0
    pong: float = 5.0


TIMES = Times()
