"""One scope of the store, read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from adapters.memory.server import Store
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.model import ServiceName


class MemorySource:
    """The one scope of a store, read."""

    def __init__(self, store: Store) -> None:
        self.scope = store.scope
        self._store = store

    @property
    def ignored(self) -> dict[str, str]:
        """The entries that nobody can read, by service and id."""
        return self._store.spoiled()

    @property
    def behind(self) -> Behind | None:
        """Never: what is written is told at once."""
        return None

    def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`; raises what the store fails with, and Expired where the watch was cut."""
        return self._store.observations()

    async def read(self, name: ServiceName) -> Observed:
        """One service as it stands now."""
        await self._store.reached()
        return self._store.observe(name)
