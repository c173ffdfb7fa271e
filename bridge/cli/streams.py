"""The log of a stream, as commands read it: each event once."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bridge.adapter import Event, Logged
from bridge.config import kinds
from bridge.config.schema import Configuration
from bridge.errors import ConfigError

REMEMBERED = 100_000  # ids of events, of which one may come twice


async def logged(configuration: Configuration, name: str, since: float, *, follow: bool) -> AsyncIterator[list[Event]]:
    """The events of a stream, each once; raises what `Logged.events` does."""
    block = configuration.registries[name]
    registry = kinds.make(name, block.kind, block.options, None)
    if not isinstance(registry, Logged):
        raise ConfigError(f"{name} is {block.kind}, which keeps no log")
    seen: dict[str, None] = {}
    async with registry:
        async for batch in registry.events(since, follow=follow):
            fresh = list({one.id: one for one in batch if one.id not in seen}.values())
            seen.update(dict.fromkeys(one.id for one in fresh))
            while len(seen) > REMEMBERED:
                del seen[next(iter(seen))]
            yield fresh
