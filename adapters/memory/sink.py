"""The store, written: one transaction a change, which compares the lock, if there is one, and all that it replaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import cast

import msgspec

from adapters.common.changes import Outcomes, judge, turn
from adapters.common.seat import in_force
from adapters.memory.server import Fence, Store
from bridge.adapter import Change, Held, Outcome, Term, Whole
from bridge.errors import IsthmusError, Rejected, Superseded, Unavailable
from bridge.model import Health, Instance, ServiceName, Traits


class MemorySink:
    """A store, written by the bridge with one id.

    `locks`: the registry has a seat of its own, and (`fenced`) a write compares it. `shared`: the entries of a service
    are one object. `natives`: whether anyone but bridges writes there.
    """

    def __init__(
        self,
        store: Store,
        traits: Traits,
        bridge: str,
        *,
        locks: bool,
        natives: bool,
        fenced: bool = True,
        shared: bool = False,
    ) -> None:
        self.traits = traits
        self._store = store
        self._bridge = bridge
        self._locks = locks
        self._fenced = locks and fenced
        self._shared = shared
        self._natives = natives

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

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """One transaction for each object, adds first; a store that does not compare a lock goes by the term's time."""
        if term is None and self._locks:
            raise Superseded(f"the lock of {self._bridge} is not ours")
        tenure = cast(Fence, term.fence) if term is not None and self._fenced else None
        outcomes = Outcomes(changes)
        for some in self._objects(sorted(changes, key=turn)):
            await self._write(some, tenure, term, outcomes)
        return outcomes.in_order()

    def _objects(self, changes: list[Change]) -> Iterable[list[Change]]:
        """What is written in one request."""
        if not self._shared:
            return ([change] for change in changes)
        names = dict.fromkeys(change.service for change in changes)
        return ([change for change in changes if change.service == name] for name in names)

    async def _write(self, some: list[Change], tenure: Fence | None, term: Term | None, outcomes: Outcomes) -> None:
        """One object: what cannot be written is left out of it; where the answer is lost, it is for all of it."""
        made: list[Outcome] = []
        lost: IsthmusError | None = None
        try:
            await self._store.reached()
        except IsthmusError as error:
            for change in some:
                outcomes.fail(change, error)
            return
        if not self._fenced:
            in_force(term)
        for change in some:
            try:
                judge(self._bridge, change)
                if change.after:
                    self.canonical(change.service, change.after)
                made.append(Outcome(change, self._store.commit(self._bridge, tenure, change)))
            except Superseded:
                raise
            except Unavailable as error:
                lost = error
                made.append(Outcome(change))
            except IsthmusError as error:
                outcomes.fail(change, error)
        for outcome in made:
            if lost is None:
                outcomes.put(outcome)
            else:
                outcomes.fail(outcome.change, lost)

    async def whole(self, scopes: frozenset[Whole], term: Term | None) -> None:
        """Notes them, for whoever looks at the store."""
        await self._store.reached()
        self._store.whole = scopes

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """The empty set as soon as it listens, then the services that others wrote; raises as a watch does."""
        await self._store.reached()
        place = self._store.place()
        yield frozenset()
        while self._natives:
            place, changes = await self._store.changes(place)
            if names := frozenset(name for name, writer in changes if writer != self._bridge):
                yield names
        await asyncio.Event().wait()  # nobody else writes there
