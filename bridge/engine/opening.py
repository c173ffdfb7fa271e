"""One destination, opened apart from any engine: for commands that write, or leave a note, without a daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from bridge.adapter import Export, Notes, Registry, Seat
from bridge.config import kinds
from bridge.config.schema import Configuration
from bridge.shards import Shards


class Opened(NamedTuple):
    """A registry that is open, and the seat of one bridge there. `is_lent`: another registry keeps that seat.

    `notes`: of an export, and of what a group shares, where its daemons keep what they share: at `bridge.seat`, else
    beside the locks.
    """

    registry: Registry
    seat: Seat | None
    is_lent: bool
    notes: Notes | None = None


@asynccontextmanager
async def opened(configuration: Configuration, name: str, bridge: str) -> AsyncIterator[Opened]:
    """Opens a registry of the file, and the one that lends it a seat where it has none. Raises ConfigError."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(_made(configuration, name))
        seat, lender = kinds.seat(registry, bridge, name), configuration.bridge.seat
        lends = seat is None and lender is not None
        keeper = registry
        if lender not in (None, name) and (lends or isinstance(seat, Shards)):
            keeper = await stack.enter_async_context(_made(configuration, lender or ""))
        if lends and not isinstance(registry, Export):
            seat = kinds.seat(keeper, bridge, name)
        shared = (isinstance(registry, Export) and lends) or isinstance(seat, Shards)
        yield Opened(registry, seat, lends, kinds.notes(keeper, bridge) if shared else None)


def _made(configuration: Configuration, name: str) -> Registry:
    block = configuration.registries[name]
    return kinds.make(name, block.kind, block.options, None)
