"""Natives that migrations have taken out of service: what we did to them is no news of their sources."""

from __future__ import annotations

from typing import NamedTuple

from bridge.model import ServiceName

Native = tuple[str, ServiceName, str]  # the identity of its store, the service there, and the native's key


class Steered(NamedTuple):
    """`out`: those that are out. `shows`: those that may read as out because of us: some were put back just now."""

    out: frozenset[Native] = frozenset()
    shows: frozenset[Native] = frozenset()


NOBODY = Steered()
