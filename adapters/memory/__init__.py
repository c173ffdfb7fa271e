"""A registry in memory, whole and small: for tests, for embedding, and the adapter to copy from.

`server` has the store, which can be poked behind a bridge's back; `source` and `sink` are the adapter: what a real one
does over the network, they do by calling the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import msgspec

from adapters.memory.polled import PolledSource
from adapters.memory.seat import MemoryNotes, MemorySeat
from adapters.memory.server import KEYED, LENT, SHARDS, Store
from adapters.memory.sink import MemorySink
from adapters.memory.source import MemorySource
from bridge.adapter import Raw, Reach, Source, Trace
from bridge.model import Instance, ServiceName, Traits


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How much the registry can carry: turn things off to stand for a poorer convention."""

    health: bool = True
    ports: int = 0  # the most that an instance may have, 0: any
    seat: bool = True  # whether it can lock; without, a bridge borrows a seat elsewhere, or has none
    fence: bool = True  # whether a write compares the lock; without, it goes by the term's time
    shared: bool = False  # whether the entries of a service are one object, written as a whole
    polls: bool = False  # whether each service is watched by a poll of its own
    natives: bool = True  # whether anyone but bridges writes there; without, nothing drifts
    cluster: bool = False  # whether it gives out the addresses of its network itself


FULL = Config()


class Memory:
    """A registry of one store, or of several that are its scopes; the first is the one that is written."""

    def __init__(self, name: str, store: Store, *more: Store, config: Config = FULL) -> None:
        self.name = name
        self.store = store
        self._config = config
        fields = frozenset(Instance.__struct_fields__) - (set() if config.health else {"health"})
        self.traits = Traits(fields, ports=config.ports, namespaces=True, is_cluster=config.cluster)
        self._stores = (store, *more)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def scopes(self) -> AsyncIterator[Source]:
        """One source a store, and then no more."""
        for store in self._stores:
            yield PolledSource(store) if self._config.polls else MemorySource(store)

    def sink(self, bridge: str) -> MemorySink:
        """The first store, to be written by this bridge."""
        config = self._config
        return MemorySink(
            self.store,
            self.traits,
            bridge,
            locks=config.seat,
            fenced=config.fence,
            shared=config.shared,
            natives=config.natives,
        )

    def seat(self, bridge: str, destination: str) -> MemorySeat | None:
        """Under the bridge's id, or beside it for the destination that it is lent to."""
        if not self._config.seat:
            return None
        return MemorySeat(self.store, bridge if destination == self.name else f"{bridge}{LENT}{destination}")

    def notes(self, bridge: str) -> MemoryNotes:
        """See `bridge.adapter.Keeper`."""
        return MemoryNotes(self.store, bridge)

    async def reach(self) -> Reach:
        """Always allowed, if it answers at all."""
        await self.store.reached()
        return Reach(self.store.identity, "memory", may_read=True, may_write=True, writers=self.store.writers())

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`: notes; the ledger's entries go with those that they are about."""
        await self.store.reached()
        keys = [*self.store.noted(), *(f"{key}{SHARDS}" for key in self.store.lots.counts)]
        parts = ((key, *key.partition(SHARDS)[:2]) for key in keys)
        found = [("shards" if below else "note", key, *seat.partition(LENT)[::2]) for key, seat, below in parts]
        return [
            Trace(kind, key, f"it is of the destination {lent}: leave that first" if lent and KEYED not in key else "")
            for kind, key, whose, lent in found
            if whose == bridge
        ]

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: the instances of one service as JSON."""
        await self.store.reached()
        found = [
            Raw(f"{name}/{id}", msgspec.json.encode(one).decode(), id) for id, one in self.store.instances(name).items()
        ]
        prefix = f"{name}/"
        spoiled = self.store.spoiled().items()
        return found + [Raw(at, "", at.removeprefix(prefix), why) for at, why in spoiled if at.startswith(prefix)]


def create(name: str, config: Config, state: Path | None) -> Memory:
    """A registry with a store of its own, which lives as long as the process."""
    return Memory(name, Store(identity=f"memory:{name}"), config=config)
