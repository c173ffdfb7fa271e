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

    `notes`: of an export, and of what a group shares, where its daemons keep what they share.
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
        if seat is not None or lender is None:
            yield Opened(registry, seat, False, _notes_of(configuration, registry, seat, bridge))
        else:
            lending = await stack.enter_async_context(_made(configuration, lender))
            if isinstance(registry, Export):
                yield Opened(registry, None, True, kinds.notes(lending, bridge))
            else:
                lent = kinds.seat(lending, bridge, name)
                yield Opened(registry, lent, True, _notes_of(configuration, lending, lent, bridge))


def _notes_of(configuration: Configuration, keeper: Registry, seat: Seat | None, bridge: str) -> Notes | None:
    """Where the members of a group keep what they decide: in the store of its locks."""
    return kinds.notes(keeper, bridge) if isinstance(seat, Shards) else None


def _made(configuration: Configuration, name: str) -> Registry:
    block = configuration.registries[name]
    return kinds.make(name, block.kind, block.options, None)
