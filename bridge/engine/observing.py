"""Of which kinds the clients of a service are, as far as registries know: what they said last (ADR 40)."""

from __future__ import annotations

import contextlib

from bridge.adapter import Observer
from bridge.engine.engine import Engine
from bridge.errors import Denied, Unavailable
from bridge.model import ServiceName


async def observe(engine: Engine, place: str, name: ServiceName) -> None:
    """Asks one place; where it does not answer, what it said before is true still."""
    registry = engine.registries.get(place)
    if isinstance(registry, Observer):
        with contextlib.suppress(Unavailable, Denied):
            engine.observed[place, name] = frozenset(await registry.consumers(name))
