"""A fleet of natives that change all the time, and the bridge between two real etcds that follows them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, Protocol

from tests.kit.natives import key, record
from tests.kit.running import Bridge

# The limits are those that users have; the second opinions come soon, so that the test does.
GUARD = {"confirm_event": "1s", "confirm_absence": "1s"}
SERVICES = 20
FEWEST, MOST = 4, 12  # instances of a service


def bridge(folder: Path, source: str, target: str, *, name: str = "bridge", **blocks: Any) -> Bridge:
    """From one etcd to the other, both in the layout of kratos."""
    registries = {
        "old": {"kind": "etcd", "endpoints": [f"http://{source}"], "layout": "kratos"},
        "new": {"kind": "etcd", "endpoints": [f"http://{target}"], "layout": "kratos"},
    }
    link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["pay-*"]}, "guard": GUARD}
    return Bridge(folder, registries, [link], name=name, **blocks)


class Source(Protocol):
    """Where natives register, by the keys and records of kratos; see `tests.kit.natives.Etcd`."""

    async def lease(self, ttl: int) -> int: ...

    async def put(self, where: str, value: str, lease: int = 0) -> None: ...

    async def delete(self, *places: str) -> None: ...


class Fleet:
    """Services whose instances come, change, move and go; every record says the number of its change."""

    def __init__(self, source: Source, rng: random.Random) -> None:
        self._source = source
        self._rng = rng
        self._count = 0
        self._lease = 0
        self._ids: dict[str, list[str]] = {f"pay-{n}": [] for n in range(SERVICES)}

    async def found(self) -> None:
        """The first instances."""
        self._lease = await self._source.lease(3600)
        for service in self._ids:
            for _ in range(self._rng.randint(FEWEST, MOST)):
                await self._add(service)

    async def change(self, count: int, seconds: float) -> None:
        """So many changes, spread over about so long."""
        for _ in range(count):
            service = self._rng.choice(list(self._ids))
            ids = self._ids[service]
            dice = self._rng.random()
            if dice < 0.6:
                await self._put(service, self._rng.choice(ids))
            elif (dice < 0.8 or len(ids) <= FEWEST) and len(ids) < MOST:
                await self._add(service)
            else:
                await self._remove(service, self._rng.choice(ids))
            await asyncio.sleep(self._rng.random() * 2 * seconds / count)

    async def _add(self, service: str) -> None:
        id = f"i{self._count}"
        self._ids[service].append(id)
        await self._put(service, id)

    async def _put(self, service: str, id: str) -> None:
        self._count += 1
        address = f"192.0.2.{self._rng.randint(1, 254)}"
        port = 10_000 + self._count  # nobody shares a socket
        await self._source.put(key(service, id), record(service, id, address, port, n=str(self._count)), self._lease)

    async def _remove(self, service: str, id: str) -> None:
        self._ids[service].remove(id)
        await self._source.delete(key(service, id))
