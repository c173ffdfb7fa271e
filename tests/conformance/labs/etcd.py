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
from urllib.parse import quote

import msgspec

from adapters.etcd import Config, create
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from mappings.pairs import LAYOUTS
from tests.conformance.lab import EVERY_PART, Kind, Lab
from tests.conformance.labs import layouts
from tests.kit.proxy import Proxy
from tests.servers.etcd import Etcd

_DIALED: dict[str, Callable[[bytes], str]] = {  # what a stock client of the layout calls
    "grpc": lambda value: str(json.loads(value)["Addr"]),
    "kratos": lambda value: str(json.loads(value)["endpoints"][0]).partition("://")[2],
    "kitex": lambda value: str(json.loads(value)["address"]),
    "go-zero": lambda value: value.decode(),
    "go-micro": lambda value: str(json.loads(value)["nodes"][0]["address"]),
}


class EtcdLab:
    """The bridge comes through a proxy, natives do not."""

    def __init__(self, server: Etcd, proxy: Proxy, layout: str) -> None:
        self.can = layouts.can(layout)
        self.form = layouts.form(layout)
        self._server = server
        self._proxy = proxy
        self._layout = layout
        self._prefix = LAYOUTS[layout].PREFIX

    def lender(self) -> Registry | None:
        return None

    def registry(self) -> Registry:
        return create("lab", msgspec.convert(self.block()[1], Config), None)

    def block(self) -> tuple[str, Mapping[str, Any]]:
        url = f"http://{self._proxy.address}"
        return "etcd", {"endpoints": [url], "layout": self._layout, "protocol": layouts.PROTOCOL}

    async def register(self, service: ServiceName, instance: Instance) -> None:
        key, value = layouts.record(self._layout, service, instance)
        await self._put(self._prefix + key, value)

    async def deregister(self, service: ServiceName, id: str) -> None:
        await self._ask("kv/deleterange", key=_base64(self._key(service, id)))

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        found = {}
        for kv in await self._below(self._key(service, "")):
            address, _, port = _DIALED[self._layout](base64.b64decode(kv["value"])).rpartition(":")
            found[base64.b64decode(kv["key"]).decode().rpartition("/")[2]] = (address, int(port))
        return found

    async def place(self) -> object:
        answer = await self._ask("kv/range", key=_base64("x"))
        return answer["header"]["revision"]

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._put(self._key(service, id), b"{")

    async def erase(self, service: ServiceName, id: str) -> None:
        await self.deregister(service, id)

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        (lock,) = await self._below(f"/isthmus/lock/{bridge}/")
        await self._ask("lease/revoke", ID=lock["lease"])

    async def end(self, bridge: str, who: str) -> None:
        locks = await self._below(f"/isthmus/lock/{bridge}/")
        for lease in {one["lease"] for one in locks if "lease" in one and f'"{who}"' in _text(one["value"])}:
            await self._ask("lease/revoke", ID=lease)

    async def say(self, bridge: str, count: int | None) -> None:
        key = f"/isthmus/lock/{bridge}/{self._layout}:{quote(self._prefix, safe='')}/shards"
        if count is None:
            await self._ask("kv/deleterange", key=_base64(key))
        else:
            await self._put(key, str(count).encode())

    async def expire(self, bridge: str) -> None:
        words = await self._below("/isthmus/ledger/")
        for lease in {word["lease"] for word in words if "lease" in word and bridge in _text(word["value"])}:
            await self._ask("lease/revoke", ID=lease)

    def _key(self, service: ServiceName, id: str) -> str:
        return f"{self._prefix}{service.name}/{id}"

    async def _put(self, key: str, value: bytes) -> None:
        await self._ask("kv/put", key=_base64(key), value=base64.b64encode(value).decode())

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

    return Kind(fixture, open, EVERY_PART | {"shards"} if layout == "kratos" else EVERY_PART)


KINDS = {
    f"etcd-{version}-{layout}": _kind(fixture, layout)
    for version, fixture in (("3.6", "etcd"), ("3.4", "etcd34"))
    for layout in _DIALED
    if version == "3.6" or layout in ("grpc", "kratos")
} | {"etcd-3.6-cluster": _kind("etcd_cluster", "kratos")}
