"""The source: one datacenter, its list of services polled, and a poll for each service that links ask for."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable

from adapters.common.assembly import Ignored
from adapters.consul import records
from adapters.consul.budget import Budget
from adapters.consul.client import Client, instances_of
from adapters.consul.identity import identity
from adapters.consul.records import Reading
from adapters.consul.watching import Watch
from bridge.adapter import Behind, Interest, Listing, Observed, Synced
from bridge.model import ServiceName

READS_AT_ONCE = 16

Asked = Callable[[ServiceName], Interest]


class ConsulSource:
    """One datacenter. `wait`: seconds that a poll is held: how long a restored snapshot may go unnoticed."""

    def __init__(
        self, client: Client, dc: str, reading: Reading, budget: Budget, wait: float, rng: random.Random
    ) -> None:
        self.scope = dc
        self.ignored = Ignored()  # by node and service id
        self._client = client
        self._reading = reading
        self._budget = budget
        self._wait = wait
        self._rng = rng
        self._asked: Asked = lambda name: Interest.SOME
        self._running: set[Watch] = set()

    @property
    def behind(self) -> Behind | None:
        """Not known: an index says nothing of how much happened."""
        return None

    def follow(self, asked: Asked) -> None:
        """Only these services are read from now on; of the others nothing is told, not even that they are gone."""
        self._asked = asked
        for watch in self._running:
            watch.ask_again()

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises Unavailable, Expired (an index went back) or Denied."""
        self.ignored.clear()
        watch = Watch(
            self._client, self.scope, self._wait, self._budget, self._rng, lambda name: self._asked(name), self._told
        )
        self._running.add(watch)
        try:
            who = await identity(self._client, self.scope)
            await watch.list_names()
            yield Listing(who, revision=watch.revision)
            async for observed in watch.listed(READS_AT_ONCE):
                yield observed
            yield Synced(watch.revision)
            async for observed in watch.changes():
                yield observed
        finally:
            self._running.discard(watch)
            await watch.close()

    async def read(self, name: ServiceName) -> Observed:
        """One service, asked of the leader after it made sure that it is one. Raises Unavailable or Denied."""
        reply = await self._client.get(instances_of(name.name), self.scope, consistent="")
        return records.observed(name, records.shelf(reply.body, self._reading), Ignored(), 0)

    def _told(self, name: ServiceName, body: bytes, revision: int) -> Observed:
        return records.observed(name, records.shelf(body, self._reading), self.ignored, revision)
