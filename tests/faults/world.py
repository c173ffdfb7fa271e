"""A fleet in one etcd, its copies in another, the daemon between two proxies, and the judges at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.kit.natives import Etcd as Natives
from tests.kit.natives import History, backward, key, record, wrongful
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge
from tests.kit.waiting import DEADLINE, until
from tests.servers.etcd import Etcd

LIMITS = {"confirm_event": "1s", "confirm_absence": "1s"}  # the rest as users have it
SERVICES, INSTANCES = 6, 4
FOUND_TIME = 20.0  # seconds in which a silent server is found: keep-alives every 10 s, each waits for 5 s


class World:
    """`source` and `target`: natives at the two servers; `up` and `down`: the proxies before them, for the bridge."""

    def __init__(self, source: Natives, target: Natives, up: Proxy, down: Proxy, bridge: Bridge) -> None:
        self.source = source
        self.target = target
        self.up = up
        self.down = down
        self.bridge = bridge
        self.history: History
        self.foreign: dict[str, tuple[bytes, int]] = {}
        self._count = 0
        self.lease = 0

    async def put(self, service: str, id: str, **metadata: str) -> str:
        """Registers an instance or changes it; every record is another one. Returns its key."""
        self._count += 1
        self.lease = self.lease or await self.source.lease(3600)
        address, port = f"192.0.2.{1 + self._count % 250}", 10_000 + self._count
        where = key(service, id)
        await self.source.put(where, record(service, id, address, port, n=str(self._count), **metadata), self.lease)
        return where

    async def found(self, services: int = SERVICES, instances: int = INSTANCES) -> None:
        """The fleet."""
        for number in range(services):
            for each in range(instances):
                await self.put(f"pay-{number}", f"i{each}")

    async def change(self, count: int = 10) -> None:
        """Some instances change, one comes, one goes."""
        for number in range(count):
            await self.put(f"pay-{number % SERVICES}", f"i{number % INSTANCES}")
        await self.put("pay-0", f"new{self._count}")
        last = sorted(where for where in self.source.truth.now if where.startswith(key("pay-1", "")))[-1]
        await self.source.delete(last)

    async def equal(self) -> bool:
        """Whether the target holds what the source holds, and what is its natives'."""
        now = await self.target.records()
        return {where: value for where, value in now.items() if where not in self.foreign} == self.source.truth.now

    async def in_step(self, within: float = DEADLINE) -> None:
        """Waits until all is equal."""
        await until(self.equal, "source and target are equal", within=within)

    async def reads(self, state: str, registry: str = "old") -> bool:
        """Whether the daemon says that of a registry."""
        scopes = await self.bridge.scopes()
        return registry in scopes and bool(scopes[registry]["state"] == state)

    async def heard(self) -> bool:
        """Whether the daemon has heard all that stands at the source."""
        scopes = await self.bridge.scopes()
        return bool(scopes["old"]["state"] == "synced" and scopes["old"]["instances"] == len(self.source.truth.now))

    async def removals(self) -> list[str]:
        """The keys that have been removed at the target by now, in order."""
        return [event.key for event in await self.history.caught_up() if event.value is None]

    async def judge(self) -> None:
        """I1, I3, I4, and no half-written group."""
        assert wrongful(await self.history.caught_up(), self.source.truth) == []
        assert backward([event for event in self.history if event.key not in self.foreign]) == []
        assert await self.target.halves() == []
        now = {kv.key.decode(): (kv.value, kv.mod_revision) for kv in await self.target.below()}
        assert {where: now.get(where) for where in self.foreign} == self.foreign


@asynccontextmanager
async def world(
    folder: Path, old: Etcd, new: Etcd, *, link: Mapping[str, Any] | None = None, start: bool = True, **bridge: Any
) -> AsyncIterator[World]:
    """The fleet, copied; judged at the end. `link`: more of its block. `start` False: nothing is there yet."""
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(Natives(server.address)) for server in (old, new)]
        up, down = [await stack.enter_async_context(Proxy(server.address)) for server in (old, new)]
        registries = {
            name: {"kind": "etcd", "endpoints": [f"http://{proxy.address}"], "layout": "kratos"}
            for name, proxy in (("old", up), ("new", down))
        }
        blocks = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["pay-*"]}, "guard": LIMITS}
        daemon = Bridge(folder, registries, [{**blocks, **(link or {})}], **bridge)
        made = World(source, target, up, down, daemon)
        await target.register("pay-0", "native", "192.0.2.250")
        await target.register("other", "native", "192.0.2.251")
        made.foreign = {kv.key.decode(): (kv.value, kv.mod_revision) for kv in await target.below()}
        async with target.history() as made.history:
            try:
                if start:
                    await made.found()
                    await daemon.start()
                    await made.in_step()
                yield made
                await made.judge()
            except BaseException as error:
                await daemon.__aexit__(error)
                raise
            await daemon.__aexit__(None)
