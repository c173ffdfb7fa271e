"""How long a Eureka is waited for, and how often entries are renewed there, where the file does not say it; seconds."""

from __future__ import annotations

from typing import NamedTuple

from mappings import eureka as mapping


class Times(NamedTuple):
    """`list`: for all instances, 10,000 of which are 10 MB. `silence`: in which some of them must come, as a frozen
    server's never would. `renewal`: from one heartbeat of an entry to the next.
    """

    list: float = 60.0
    silence: float = 10.0
    renewal: float = mapping.RENEWAL


TIMES = Times()
