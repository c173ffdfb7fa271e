"""A store that is read by polls, as Consul's agents are: the list of names, and each service by a poll of its own.

The polls overtake each other, and one may answer that nothing is left of a service that is there (`Store.blank`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from adapters.common.inbox import Latest
from adapters.memory.server import Place
from adapters.memory.source import MemorySource
from bridge.adapter import Listing, Observed, Synced
from bridge.model import Service, ServiceName


class PolledSource(MemorySource):
    """The one scope of a store, read so."""

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`; what a poll says is newer than what was told of its service, and than nothing else."""
        store = self._store
        await store.reached()
        place = store.place()
        yield Listing(store.identity, store.incarnation, place.revision, store.returns)
        names = store.names()
        for name in names:
            yield await self._read(name, place)
        yield Synced(place.revision)
        latest: Latest[ServiceName, Observed] = Latest()
        polls = {name: asyncio.create_task(self._poll(name, place, latest)) for name in names}
        following = asyncio.create_task(self._follow_names(place, polls, latest))
        try:
            while True:
                for observed in (await latest.take()).values():
                    yield observed
        finally:
            for task in (following, *polls.values()):
                task.cancel()

    async def _follow_names(
        self,
        place: Place,
        polls: dict[ServiceName, asyncio.Task[None]],
        latest: Latest[ServiceName, Observed],
    ) -> None:
        """The list of names: what is new gets a poll, which reads it at once."""
        try:
            while True:
                before = place
                place, changes = await self._store.changes(place)
                for name in dict.fromkeys(name for name, _ in changes):
                    if name not in polls:
                        polls[name] = asyncio.create_task(self._poll(name, before, latest))
        except Exception as error:
            latest.fail(error)

    async def _poll(self, name: ServiceName, place: Place, latest: Latest[ServiceName, Observed]) -> None:
        """One service: each answer comes in its own time."""
        try:
            while True:
                place, changes = await self._store.changes(place)
                if any(changed == name for changed, _ in changes):
                    latest.put(name, await self._answered(name, place))
        except Exception as error:
            latest.fail(error)

    async def _answered(self, name: ServiceName, place: Place) -> Observed:
        """What a poll answers; that nothing is left is believed only once a plain read says so, too."""
        answer = await self._read(name, place)
        if name in self._store.blank:
            answer = Observed(Service(name, {}), revision=answer.revision)
        return answer if is_something(answer) else await self._read(name, place)

    async def _read(self, name: ServiceName, place: Place) -> Observed:
        await self._store.unbroken(place)
        return self._store.observe(name)


def is_something(answer: Observed) -> bool:
    """Whether anything is left of a service."""
    return bool(answer.service.instances or answer.unreadable)
