"""The store, written: one transaction a change, which compares the lock and all that it replaces."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Sequence

import msgspec

from adapters.memory.server import Store, Tenure
from bridge.adapter import Change, Held, Note, Outcome
from bridge.errors import IsthmusError, Rejected, Superseded
from bridge.model import Health, Instance, ServiceName, Traits


class MemorySink:
    """A store, written by the bridge with one id."""

    def __init__(self, store: Store, traits: Traits, bridge: str) -> None:
        self.traits = traits
        self._store = store
        self._bridge = bridge
        self._tenure: Tenure | None = None

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """Without the health and the ports that this registry has no place for; Rejected what nobody could dial."""
        if not name.name or not instance.id or not instance.address:
            raise Rejected("an entry needs a service, an id and an address")
        ports = instance.ports[: self.traits.ports or None]
        health = instance.health if self.traits.has_health else Health.UNKNOWN
        if ports == instance.ports and health == instance.health:
            return instance
        return msgspec.structs.replace(instance, ports=ports, health=health)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """What stands there; records that nobody can read stand there as natives without an address."""
        await self._store.reached()
        return self._store.held(self._bridge, names)

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """One transaction for each change, adds first."""
        outcomes: dict[int, Outcome] = {}
        for index in sorted(range(len(changes)), key=lambda index: _turn(changes[index])):
            change = changes[index]
            try:
                await self._store.reached()
                if change.after:
                    self.canonical(change.service, change.after)
                outcomes[index] = Outcome(change, self._store.commit(self._bridge, self._tenure, change))
            except Superseded:
                raise
            except IsthmusError as error:
                outcomes[index] = Outcome(change, error=error)
        return [outcomes[index] for index in range(len(changes))]

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """The empty set as soon as it listens, then the services that others wrote; raises as a watch does."""
        await self._store.reached()
        place = self._store.place()
        yield frozenset()
        while True:
            place, changes = await self._store.changes(place)
            if names := frozenset(name for name, writer in changes if writer != self._bridge):
                yield names

    @contextlib.asynccontextmanager
    async def writer(self) -> AsyncIterator[Tenure]:
        """Waits for the lock of this bridge id; one at a time, first come, first served."""
        await self._store.reached()
        async with self._store.lock(self._bridge) as tenure:
            self._tenure = tenure
            try:
                yield tenure
            finally:
                self._tenure = None

    async def recall(self) -> Note | None:
        """The note of this bridge."""
        await self._store.reached()
        return self._store.recall(self._bridge)

    async def note(self, content: bytes, before: Note | None, *, writer: bool) -> Note:
        """See `Sink.note`."""
        await self._store.reached()
        if writer:
            self._store.compare(self._bridge, self._tenure)
        return self._store.note(self._bridge, content, before)


def _turn(change: Change) -> int:
    """Adds before replacements before removals: nobody finds a service empty on the way (Slack, 2020-05-12)."""
    return 2 if change.after is None else 1 if change.before else 0
