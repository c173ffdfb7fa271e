"""The laboratory of Consul: natives register in its catalog, on a node of their own for each service."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from adapters.consul import Config, create
from bridge.adapter import Registry
from bridge.model import Health, Instance, Locality, ServiceName
from tests.conformance.lab import EVERY_PART, Can, Form, Kind, Lab
from tests.kit.proxy import Proxy
from tests.servers.consul import Consul

WAIT = 5.0  # seconds that a poll is held


def node_of(service: ServiceName) -> str:
    """The node that natives of a service are on: ids are unique on a node, not in a service."""
    return f"native-{service.name}"


def form(service: ServiceName, instance: Instance) -> Instance:
    """As it is read of a native's record: the id says where it is, and no checks are passing checks."""
    return replace(
        instance,
        id=f"dc1/{node_of(service)}/{instance.id}",
        health=Health.HEALTHY,
        locality=Locality("dc1"),
    )


class ConsulLab:
    """The bridge comes through a proxy, natives do not."""

    can: frozenset[Can] = frozenset({"change", "write", "spoil", "cut", "steal", "loose", "fence"})
    form: Form = staticmethod(form)

    def __init__(self, server: Consul, proxy: Proxy) -> None:
        self._server = server
        self._proxy = proxy

    def lender(self) -> Registry | None:
        return None

    def registry(self) -> Registry:
        return create("lab", msgspec.convert(self.block()[1], Config), None)

    def block(self) -> tuple[str, Mapping[str, Any]]:
        url = f"http://{self._proxy.address}"
        return "consul", {"address": url, "datacenters": ["dc1"], "protocol": "grpc", "wait": WAIT}

    async def register(self, service: ServiceName, instance: Instance) -> None:
        await self._register(service, instance.id, instance.address, instance)

    async def deregister(self, service: ServiceName, id: str) -> None:
        body = {"Node": node_of(service), "ServiceID": _own(id)}
        await self._server.call("PUT", "/v1/catalog/deregister", body)

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        found = {}
        for one in await self._server.call("GET", f"/v1/health/service/{quote(service.name, safe='')}"):
            native = f"dc1/{one['Node']['Node']}/{one['Service']['ID']}"
            id = (one["Service"]["Meta"] or {}).get("isthmus-id", native)
            found[id] = (one["Service"]["Address"], one["Service"]["Port"])
        return found

    async def place(self) -> object:
        services = await self._server.call("GET", "/v1/catalog/services")
        paths = [f"/v1/health/service/{quote(name, safe='')}" for name in sorted(services)]
        return [await self._server.call("GET", path) for path in [*paths, "/v1/health/state/any", "/v1/catalog/nodes"]]

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._register(service, id, "no address at all", None)

    async def erase(self, service: ServiceName, id: str) -> None:
        raise NotImplementedError  # the mark is in the record and goes with it

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        (lock,) = await self._server.call("GET", f"/v1/kv/isthmus/lock/{bridge}/?recurse")
        await self._server.call("PUT", f"/v1/session/destroy/{lock['Session']}")

    async def end(self, bridge: str, who: str) -> None:
        locks = await self._server.call("GET", f"/v1/kv/isthmus/lock/{bridge}/?recurse")
        named = [one for one in locks if f'"{who}"'.encode() in base64.b64decode(one["Value"])]
        for session in {one["Session"] for one in named}:
            await self._server.call("PUT", f"/v1/session/destroy/{session}")

    async def say(self, bridge: str, count: int | None) -> None:
        (key,) = (
            key
            for key in await self._server.call("GET", f"/v1/kv/isthmus/lock/{bridge}/?keys")
            if key.endswith("/shards")
        )
        if count is None:
            await self._server.call("DELETE", f"/v1/kv/{quote(key)}")
        else:
            await self._server.call("PUT", f"/v1/kv/{quote(key)}", count)

    async def expire(self, bridge: str) -> None:
        raise NotImplementedError  # entries outlive their writer

    async def _register(self, service: ServiceName, id: str, address: str, instance: Instance | None) -> None:
        port, metadata = (instance.ports[0].number, instance.metadata) if instance else (0, {})
        record: dict[str, Any] = {"ID": _own(id), "Service": service.name, "Address": address, "Port": port}
        body = {"Node": node_of(service), "Address": "192.0.2.250", "Service": {**record, "Meta": metadata}}
        await self._server.call("PUT", "/v1/catalog/register", body)


def _own(id: str) -> str:
    return id.rpartition("/")[2]


@asynccontextmanager
async def _open(server: Consul, folder: Path) -> AsyncIterator[Lab]:
    async with Proxy(server.address) as proxy:
        yield ConsulLab(server, proxy)


KINDS = {"consul": Kind("consul", _open, EVERY_PART - {"leases"} | {"shards"})}
