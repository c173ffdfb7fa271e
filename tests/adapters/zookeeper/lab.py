"""The laboratory of ZooKeeper: natives write through kazoo what the stock clients of a layout write."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus, unquote

from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError

from adapters import zookeeper as adapter
from adapters.zookeeper import Config
from bridge.model import Instance, ServiceName

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


def plain(segment: str) -> str:
    """A Dubbo URL as people read it."""
    return unquote(segment)
