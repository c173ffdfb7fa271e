"""Timeouts and intervals of the Eureka adapter that are no keys of the file; in seconds."""

from __future__ import annotations

from typing import NamedTuple

from adapters.common.http import ANSWER_TIME
from mappings import eureka as mapping


class Times(NamedTuple):
    """`list`: for a list of all instances (10,000 are 10 MB). `silence`: without a byte of it, after which the server
    counts as frozen. `instance`: for one instance. `renewal`: from one heartbeat of an entry to the next.
    """

    list: float = 60.0
    silence: float = 10.0
    instance: float = ANSWER_TIME
    renewal: float = mapping.RENEWAL


TIMES = Times()
