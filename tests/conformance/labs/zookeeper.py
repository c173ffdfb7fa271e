"""The laboratory of ZooKeeper: natives write through kazoo what the stock clients of a layout write."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kazoo.exceptions import NoNodeError

from adapters.zookeeper import ZooKeeper as ZooKeeperRegistry
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from mappings.pairs import LAYOUTS
from tests.adapters.zookeeper.lab import registry_of
from tests.conformance.lab import EVERY_PART, Kind, Lab, Part
from tests.conformance.labs import layouts
from tests.kit.natives import Kazoo
from tests.kit.proxy import Proxy
from tests.kit.stock import IN_ZOOKEEPER
from tests.servers.zookeeper import ZooKeeper


class ZooKeeperLab:
    """The bridge comes through a proxy, natives do not."""

    def __init__(self, native: Kazoo, proxy: Proxy, layout: str) -> None:
        self.can = layouts.can(layout)
        self.form = layouts.form(layout)
        self._native = native
        self._zk = native.zk
        self._proxy = proxy
        self._layout = layout
        self._mapping = LAYOUTS[layout]
        self._root = self._mapping.PREFIX
        self._made: list[ZooKeeperRegistry] = []

    def lender(self) -> Registry | None:
        return None

    def registry(self) -> Registry:
        made = registry_of(**self.block()[1])
        self._made.append(made)
        return made

    def block(self) -> tuple[str, Mapping[str, Any]]:
        return "zookeeper", {"hosts": [self._proxy.address], "layout": self._layout, "protocol": layouts.PROTOCOL}

    async def register(self, service: ServiceName, instance: Instance) -> None:
        key, value = layouts.record(self._layout, service, instance)
        await self._native.register(f"{self._root}/{key}", value.decode())

    async def deregister(self, service: ServiceName, id: str) -> None:
        for path in await asyncio.to_thread(self._paths, service):
            if self._id(path) == id:
                await self._native.delete(path)

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        return await asyncio.to_thread(self._truth, service)

    def _truth(self, service: ServiceName) -> dict[str, tuple[str, int]]:
        while True:
            found: dict[str, tuple[str, int]] = {}
            try:
                for path in self._paths(service):
                    found[self._id(path)] = _dialed(self._layout, path, self._zk.get(path)[0])
            except NoNodeError:  # replaced since it was listed: no picture of any moment
                continue
            return found

    def _paths(self, service: ServiceName) -> list[str]:
        folder = f"{self._root}/{service.name}{'/providers' if self._layout == 'dubbo2' else ''}"
        try:
            return [f"{folder}/{node}" for node in self._zk.get_children(folder)]
        except NoNodeError:
            return []

    def _id(self, path: str) -> str:
        place = self._mapping.locate(path.removeprefix(f"{self._root}/"))
        assert place is not None, path
        return place[1]

    async def place(self) -> object:
        """Of all nodes that are not the locks': their last transactions."""
        return await asyncio.to_thread(self._tree, "/")

    def _tree(self, path: str) -> dict[str, int]:
        stat = self._zk.exists(path)
        if stat is None or path in ("/zookeeper", "/isthmus/lock"):
            return {}
        places = {path: stat.mzxid}
        for child in self._zk.get_children(path):
            places |= self._tree(f"{path.rstrip('/')}/{child}")
        return places

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._native.register(f"{self._root}/{service.name}/{id}", "{")

    async def erase(self, service: ServiceName, id: str) -> None:
        await self.deregister(service, id)

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        await asyncio.to_thread(self._steal, f"/isthmus/lock/{bridge}")

    def _steal(self, locks: str) -> None:
        for folder in self._zk.get_children(locks):
            holder = min(self._zk.get_children(f"{locks}/{folder}"))
            self._zk.delete(f"{locks}/{folder}/{holder}")

    async def end(self, bridge: str, who: str) -> None:
        owners = await asyncio.to_thread(self._owners, f"/isthmus/lock/{bridge}", f'"{who}"'.encode())
        connections = [client._connection for made in self._made for client in made._writing.values()]
        for each in [one for one in connections if one is not None and one.session in owners]:
            await self._native.expire(each.session, each.password)

    def _owners(self, path: str, words: bytes) -> set[int]:
        """The sessions of the nodes below that have these words in them."""
        found = set()
        with contextlib.suppress(NoNodeError):
            value, stat = self._zk.get(path)
            found = {stat.ephemeralOwner} if words in value else set()
            for child in self._zk.get_children(path):
                found |= self._owners(f"{path}/{child}", words)
        return found

    async def say(self, bridge: str, count: int | None) -> None:
        await asyncio.to_thread(self._say, f"/isthmus/lock/{bridge}", count)

    def _say(self, locks: str, count: int | None) -> None:
        (folder,) = self._zk.get_children(locks)
        if count is None:
            self._zk.delete(f"{locks}/{folder}/shards", recursive=True)
        else:
            self._zk.set(f"{locks}/{folder}/shards", str(count).encode())

    async def expire(self, bridge: str) -> None:
        """As if the session had ended: every ephemeral node of the bridge's is gone, both of each pair."""
        await asyncio.to_thread(self._expire, bridge, "")

    def _expire(self, bridge: str, path: str) -> None:
        for child in self._zk.get_children(f"/isthmus/ledger{path}"):
            below = f"{path}/{child}"
            value, stat = self._zk.get(f"/isthmus/ledger{below}")
            if stat.ephemeralOwner and bridge in value.decode():
                with contextlib.suppress(NoNodeError):
                    self._zk.delete(below)
                with contextlib.suppress(NoNodeError):
                    self._zk.delete(f"/isthmus/ledger{below}")
            else:
                self._expire(bridge, below)


def _dialed(layout: str, path: str, value: bytes) -> tuple[str, int]:
    """What a stock client of the layout calls."""
    if layout == "dubbo2":
        url = urlsplit(unquote(path.rpartition("/")[2]))
        assert url.hostname is not None and url.port is not None
        return url.hostname, url.port
    record = json.loads(value)
    return record["address"], record["port"]


def _kind(fixture: str, layout: str) -> Kind:
    @asynccontextmanager
    async def open(server: ZooKeeper, folder: Path) -> AsyncIterator[Lab]:
        async with Proxy(server.address) as proxy, Kazoo(server.address) as native:
            yield ZooKeeperLab(native, proxy, layout)

    parts: frozenset[Part] = EVERY_PART if "write" in layouts.can(layout) else frozenset({"source"})
    return Kind(fixture, open, parts | {"shards"} if layout == "curator" else parts)


KINDS = {f"zookeeper-3.9-{layout}": _kind("zookeeper", layout) for layout in sorted(IN_ZOOKEEPER)} | {
    "zookeeper-3.9-ensemble": _kind("zookeeper_ensemble", "curator")
}
