"""A registry in memory, whole and small: for tests, for embedding, and the adapter to copy from.

`server` has the store, which can be poked behind a bridge's back; `source` and `sink` are the adapter: what a real one
does over the network, they do by calling the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import msgspec

from adapters.memory.server import Store
from adapters.memory.sink import MemorySink
from adapters.memory.source import MemorySource
from bridge.adapter import Reach, Source
from bridge.model import Instance, ServiceName, Traits


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How much the registry can carry: turn things off to stand for a poorer convention."""

    health: bool = True
    ports: int = 0  # the most that an instance may have, 0: any


FULL = Config()


class Memory:
    """A registry of one store, or of several that are its scopes; the first is the one that is written."""

    def __init__(self, name: str, store: Store, *more: Store, config: Config = FULL) -> None:
        self.name = name
        self.store = store
        fields = frozenset(Instance.__struct_fields__) - (set() if config.health else {"health"})
        self.traits = Traits(fields, ports=config.ports, namespaces=True)
        self._stores = (store, *more)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def scopes(self) -> AsyncIterator[Source]:
        """One source a store, and then no more."""
        for store in self._stores:
            yield MemorySource(store)

    def sink(self, bridge: str) -> MemorySink:
        """The first store, to be written by this bridge."""
        return MemorySink(self.store, self.traits, bridge)

    async def reach(self) -> Reach:
        """Always allowed, if it answers at all."""
        await self.store.reached()
        return Reach(self.store.identity, "memory", may_read=True, may_write=True, writers=self.store.writers())

    async def raw(self, name: ServiceName) -> dict[str, str]:
        """The instances of one service as JSON, by place."""
        await self.store.reached()
        return {f"{name}/{id}": msgspec.json.encode(i).decode() for id, i in self.store.instances(name).items()}


def create(name: str, config: Config, state: Path | None) -> Memory:
    """A registry with a store of its own, which lives as long as the process."""
    return Memory(name, Store(identity=f"memory:{name}"), config=config)
