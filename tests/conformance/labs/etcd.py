"""The laboratory of etcd: natives write through its HTTP gateway what the stock clients of a layout write."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from adapters.etcd import Config, create
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from tests.conformance.lab import Can, Kind, Lab
from tests.proxy import Proxy
from tests.servers.etcd import Etcd


def _grpc(service: ServiceName, instance: Instance) -> object:
    address = f"{instance.address}:{instance.ports[0].number}"
    return {"Op": 0, "Addr": address, "Metadata": dict(instance.metadata) or None}


def _kratos(service: ServiceName, instance: Instance) -> object:
    return {
        "id": instance.id,
        "name": service.name,
        "version": instance.version,
        "metadata": dict(instance.metadata) or None,
        "endpoints": [f"grpc://{instance.address}:{instance.ports[0].number}"],
    }


RECORDS: dict[str, tuple[str, Callable[[ServiceName, Instance], object]]] = {
    "grpc": ("", _grpc),
    "kratos": ("/microservices/", _kratos),
}


class EtcdLab:
    """The bridge comes through a proxy, natives do not."""

    can: frozenset[Can] = frozenset({"spoil", "cut", "erase", "steal", "lease", "adopt"})

    def __init__(self, server: Etcd, proxy: Proxy, layout: str) -> None:
        self._server = server
        self._proxy = proxy
        self._layout = layout
        self._prefix, self._record = RECORDS[layout]

    def registry(self) -> Registry:
        config = {"endpoints": [f"http://{self._proxy.address}"], "layout": self._layout}
        return create("lab", Config(**config), None)  # type: ignore[arg-type]

    async def register(self, service: ServiceName, instance: Instance) -> None:
        await self._put(service, instance.id, json.dumps(self._record(service, instance)))

    async def deregister(self, service: ServiceName, id: str) -> None:
        await self._ask("kv/deleterange", key=_base64(self._key(service, id)))

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        found = {}
        for kv in await self._below(self._key(service, "")):
            record = json.loads(base64.b64decode(kv["value"]))
            address, _, port = (record.get("Addr") or record["endpoints"][0].partition("://")[2]).rpartition(":")
            found[base64.b64decode(kv["key"]).decode().rpartition("/")[2]] = (address, int(port))
        return found

    async def place(self) -> object:
        answer = await self._ask("kv/range", key=_base64("x"))
        return answer["header"]["revision"]

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._put(service, id, "{")

    async def erase(self, service: ServiceName, id: str) -> None:
        await self.deregister(service, id)

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        (lock,) = await self._below(f"/isthmus/lock/{bridge}/")
        await self._ask("lease/revoke", ID=lock["lease"])

    async def expire(self, bridge: str) -> None:
        words = await self._below("/isthmus/ledger/")
        for lease in {word["lease"] for word in words if "lease" in word and bridge in _text(word["value"])}:
            await self._ask("lease/revoke", ID=lease)

    def _key(self, service: ServiceName, id: str) -> str:
        return f"{self._prefix}{service.name}/{id}"

    async def _put(self, service: ServiceName, id: str, value: str) -> None:
        await self._ask("kv/put", key=_base64(self._key(service, id)), value=_base64(value))

    async def _below(self, prefix: str) -> list[dict[str, str]]:
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = await self._ask("kv/range", key=_base64(prefix), range_end=_base64(end))
        found: list[dict[str, str]] = answer.get("kvs", [])
        return found

    async def _ask(self, method: str, **body: object) -> dict[str, Any]:
        return await asyncio.to_thread(_post, f"{self._server.url}/v3/{method}", json.dumps(body).encode())


def _post(url: str, body: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=10) as answer:
        said: dict[str, Any] = json.load(answer)
        return said


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(value: str) -> str:
    return base64.b64decode(value).decode()


def _kind(fixture: str, layout: str) -> Kind:
    @asynccontextmanager
    async def open(server: Etcd, folder: Path) -> AsyncIterator[Lab]:
        async with Proxy(server.address) as proxy:
            yield EtcdLab(server, proxy, layout)

    return Kind(fixture, open)


KINDS = {
    f"etcd-{version}-{layout}": _kind(fixture, layout)
    for version, fixture in (("3.6", "etcd"), ("3.4", "etcd34"))
    for layout in RECORDS
}
