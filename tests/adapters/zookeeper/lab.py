"""The laboratory of ZooKeeper: natives write through kazoo what the stock clients of a layout write."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus, unquote

from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError

from adapters import zookeeper as adapter
from adapters.zookeeper import Config
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from tests.conformance.lab import Can, Kind, Lab
from tests.proxy import Proxy
from tests.servers.zookeeper import ZooKeeper

T = TypeVar("T")

SPRING = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance"


def registry_of(state: Path | None = None, **config: Any) -> adapter.ZooKeeper:
    """A registry of Curator's layout, unless told otherwise; the caller enters it, or only leaves it."""
    settings: dict[str, Any] = {"layout": "curator", "protocol": "grpc"} | config
    return adapter.create("lab", Config(**settings), state)


def curator(service: ServiceName, instance: Instance) -> str:
    """What Curator writes for a map of metadata."""
    payload = {"@class": "java.util.LinkedHashMap", **instance.metadata} if instance.metadata else None
    return record(service, instance, payload)


def spring(service: ServiceName, instance: Instance) -> str:
    """What Spring Cloud writes."""
    payload = {"@class": SPRING, "id": service.name, "name": service.name, "metadata": dict(instance.metadata)}
    parts = [("scheme", True), ("://", False), ("address", True), (":", False), ("port", True)]
    uri = {"parts": [{"value": value, "variable": variable} for value, variable in parts]}
    return record(service, instance, payload, uri)


def record(service: ServiceName, instance: Instance, payload: object, uri: object = None) -> str:
    """A record of Curator's service discovery."""
    whole = {
        "name": service.name,
        "id": instance.id,
        "address": instance.address,
        "port": instance.ports[0].number,
        "sslPort": None,
        "payload": payload,
        "registrationTimeUTC": 0,
        "serviceType": "DYNAMIC",
        "uriSpec": uri,
    }
    return json.dumps(whole, separators=(",", ":"))


RECORDS: dict[str, Callable[[ServiceName, Instance], str]] = {"curator": curator, "spring": spring}


def provider(interface: str, address: str, port: int = 20880, **parameters: str) -> str:
    """The name of the node that a Dubbo provider creates."""
    query = "&".join(f"{key}={value}" for key, value in {"interface": interface, **parameters}.items())
    return quote_plus(f"dubbo://{address}:{port}/{interface}?{query}", safe="*")


class Native:
    """A stock client with a session of its own; every call in a thread, for kazoo's own API blocks."""

    def __init__(self, hosts: str, **options: Any) -> None:
        self.zk = KazooClient(hosts, timeout=20.0, **options)

    async def __aenter__(self) -> Native:
        await asyncio.to_thread(self.zk.start, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.zk.stop)
        await asyncio.to_thread(self.zk.close)

    async def do(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """One of kazoo's calls."""
        return await asyncio.to_thread(function, *arguments, **options)

    async def register(self, path: str, value: str, *, ephemeral: bool = True) -> None:
        """As Curator does: its own record is written over, anything else is deleted and created anew, here at once."""
        await self.do(self._register, path, value.encode(), ephemeral)

    async def delete(self, path: str) -> None:
        with contextlib.suppress(NoNodeError):
            await self.do(self.zk.delete, path)

    def _register(self, path: str, value: bytes, ephemeral: bool) -> None:
        while True:
            try:
                self.zk.create(path, value, ephemeral=ephemeral, makepath=True)
                return
            except NodeExistsError:
                with contextlib.suppress(NoNodeError):
                    stat = self.zk.exists(path)
                    if ephemeral and stat is not None and stat.ephemeralOwner == self.zk.client_id[0]:
                        self.zk.set(path, value)
                        return
                    anew = self.zk.transaction()
                    anew.delete(path)
                    anew.create(path, value, ephemeral=ephemeral)
                    anew.commit()
                    return

    async def expire(self, session: int, password: bytes) -> None:
        """Ends someone else's session, as silence would."""
        async with Native(",".join(f"{host}:{port}" for host, port in self.zk.hosts), client_id=(session, password)):
            pass


class ZooKeeperLab:
    """The bridge comes through a proxy, natives do not."""

    can: frozenset[Can] = frozenset({"spoil", "cut", "erase", "steal", "lease", "adopt"})

    def __init__(self, native: Native, proxy: Proxy, layout: str) -> None:
        self._native = native
        self._zk = native.zk
        self._proxy = proxy
        self._layout = layout
        self._record = RECORDS[layout]

    def registry(self) -> Registry:
        return registry_of(hosts=[self._proxy.address], layout=self._layout)

    async def register(self, service: ServiceName, instance: Instance) -> None:
        await self._native.register(self._path(service, instance.id), self._record(service, instance))

    async def deregister(self, service: ServiceName, id: str) -> None:
        await self._native.delete(self._path(service, id))

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        return await asyncio.to_thread(self._truth, service)

    def _truth(self, service: ServiceName) -> dict[str, tuple[str, int]]:
        while True:
            found: dict[str, tuple[str, int]] = {}
            try:
                ids = self._zk.get_children(f"/services/{service.name}")
            except NoNodeError:
                return found
            try:
                for id in ids:
                    record = json.loads(self._zk.get(self._path(service, id))[0])
                    found[id] = (record["address"], record["port"])
            except NoNodeError:  # replaced since it was listed: no picture of any moment
                continue
            return found

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
        await self._native.register(self._path(service, id), "{")

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

    def _path(self, service: ServiceName, id: str) -> str:
        return f"/services/{service.name}/{id}"


def kind(layout: str) -> Kind:
    @asynccontextmanager
    async def open(server: ZooKeeper, folder: Path) -> AsyncIterator[Lab]:
        async with Proxy(server.address) as proxy, Native(server.address) as native:
            yield ZooKeeperLab(native, proxy, layout)

    return Kind("zookeeper", open)


KINDS = {f"zookeeper-3.9-{layout}": kind(layout) for layout in RECORDS}


def plain(segment: str) -> str:
    """A Dubbo URL as people read it."""
    return unquote(segment)
