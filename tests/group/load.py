"""A source in which every shard of the stream changes all the time, at a bounded rate."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

from bridge.model import ServiceName
from mappings import kafka as mapping
from tests.kit.natives import PREFIX, Etcd, key, record

SHARDS = 12
SERVICES = 2  # of each shard
FEWEST, MOST = 3, 8  # instances of a service
EVERY = 0.25  # seconds between two changes of one shard


def shard_of(where: str) -> int:
    """The shard of an entry, by its key at the destination."""
    return mapping.partition_of(ServiceName(where.removeprefix(PREFIX).partition("/")[0]), SHARDS)


def named() -> list[list[str]]:
    """Services by shard, as many in each."""
    found: list[list[str]] = [[] for _ in range(SHARDS)]
    names: Iterator[str] = (f"pay-{number}" for number in count())
    while any(len(each) < SERVICES for each in found):
        name = next(names)
        each = found[shard_of(key(name, ""))]
        if len(each) < SERVICES:
            each.append(name)
    return found


class Load:
    """Instances of kratos that come, change and go. No id comes twice; each record says the number of its change.

    `flows`: cleared, nothing changes for a while.
    """

    def __init__(self, source: Etcd, rng: random.Random) -> None:
        self.source = source
        self.flows = asyncio.Event()
        self.flows.set()
        self._rng = rng
        self._number = 0
        self._lease = 0
        self.services = named()
        self._ids: dict[str, list[str]] = {name: [] for each in self.services for name in each}

    async def found(self) -> None:
        """The first instances."""
        self._lease = await self.source.lease(3600)
        for service in self._ids:
            for _ in range((FEWEST + MOST) // 2):
                await self.add(service)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Every shard changes inside."""
        over = asyncio.Event()

        async def flow(shard: int) -> None:
            await asyncio.sleep(EVERY * shard / SHARDS)
            while not over.is_set():
                await self.flows.wait()
                await asyncio.gather(self.change(shard), asyncio.sleep(EVERY))

        tasks = [asyncio.create_task(flow(shard)) for shard in range(SHARDS)]
        try:
            yield
        finally:
            over.set()  # a write that is cut short may have been made
            self.flows.set()
            await asyncio.gather(*tasks)

    async def change(self, shard: int) -> None:
        """One change in a shard."""
        service = self._rng.choice(self.services[shard])
        ids, dice = self._ids[service], self._rng.random()
        if dice < 0.7 and ids:
            await self._put(service, self._rng.choice(ids))
        elif (dice < 0.85 or len(ids) <= FEWEST) and len(ids) < MOST:
            await self.add(service)
        else:
            await self.remove(service, self._rng.choice(ids))

    async def add(self, service: str) -> None:
        """One instance more."""
        self._number += 1
        id = f"i{self._number}"
        self._ids[service].append(id)
        await self._put(service, id)

    async def remove(self, service: str, *ids: str) -> None:
        """Some are gone for good."""
        for id in ids:
            self._ids[service].remove(id)
        await self.source.delete(*(key(service, id) for id in ids))

    def ids(self, service: str) -> list[str]:
        """Those that are there."""
        return [*self._ids[service]]

    async def _put(self, service: str, id: str) -> None:
        self._number += 1
        address = f"192.0.2.{self._rng.randint(1, 254)}"
        text = record(service, id, address, 10_000 + self._number % 50_000, n=str(self._number))
        await self.source.put(key(service, id), text, self._lease)
