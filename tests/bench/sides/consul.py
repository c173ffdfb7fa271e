"""Consul: natives on nodes of their own, and a raw reader with one blocking query a service, as consul-template has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.bench import records
from tests.bench.records import Native
from tests.bench.sides import Record, farm, http
from tests.servers.consul import Consul as Server

LINK: dict[str, Any] = {"port": "grpc"}
LOCK_TTL = 30.0
NOTE = ""
WAIT = 60  # seconds that a query is held
# Natives of a benchmark and its raw arm have as many connections as they like; nothing but catalogs is written to Raft.
SETTINGS = ("limits { http_max_conns_per_client = 12000 } disable_coordinates = true",)


class Service(msgspec.Struct):
    """As it is registered, and as it is read."""

    ID: str
    Service: str
    Address: str
    Port: int
    Meta: dict[str, str]
    ModifyIndex: int = 0


class _Shown(msgspec.Struct):
    Service: msgspec.Raw


class _Index(msgspec.Struct):
    ID: str
    ModifyIndex: int


class _Sample(msgspec.Struct):
    Name: str
    Count: int


class _Telemetry(msgspec.Struct):
    Samples: list[_Sample]


_ID = re.compile("[:/]")  # a bridge's has the service and where it was copied from before it
_SHOWN = msgspec.json.Decoder(list[_Shown])
_INDEX = msgspec.json.Decoder(_Index)
_SERVICE = msgspec.json.Decoder(Service)


def server(folder: Path, name: str, arms: int = 1) -> farm.Farm:
    servers = [Server(folder, name=f"{name}-{arm}", settings=SETTINGS) for arm in farm.ARMS[:arms]]
    return farm.Farm(servers, [each.address for each in servers])


def open(address: str, prefix: str) -> Consul:
    return Consul(f"http://{farm.of(address, prefix)}")


def block(address: str, prefix: str) -> dict[str, Any]:
    url = f"http://{farm.of(address, prefix)}"
    return {"kind": "consul", "address": url, "datacenters": ["dc1"], "protocol": "grpc", "max_polls": 150}


class Consul:
    """See `tests.bench.sides.Side`."""

    shape = Service
    takes_bytes = False

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._http = http.Bare(self._url, {})
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    def encode(self, native: Native) -> bytes:
        meta = {**native.metadata, "version": native.version}
        return msgspec.json.encode(Service(native.id, native.service, native.host, 9000, meta))

    def decode(self, path: str, value: bytes) -> Native:
        found = _SERVICE.decode(value)
        return Native(found.Service, found.ID, found.Address, found.Meta.pop("version", ""), found.Meta)

    def value(self, number: int, mark: int = 0) -> bytes:
        return self.encode(records.native(number, mark))

    async def register(self, lot: Sequence[Record]) -> None:
        await http.all_of(self._write("vm", path, value) for path, value in lot)

    async def deregister(self, paths: Sequence[str]) -> None:
        await http.all_of(self._remove(path) for path in paths)

    async def put(self, path: str, value: bytes) -> None:
        await self._write("raw", path, value)

    async def put_many(self, lot: Sequence[Record]) -> None:
        await http.all_of(self._write("raw", path, value) for path, value in lot)

    async def _write(self, node: str, path: str, value: bytes) -> None:
        service, _, id = path.partition("/")
        body = {
            "Node": f"{node}-{service}",
            "Address": "192.0.2.250",
            "SkipNodeUpdate": True,
            "Service": msgspec.Raw(value),
            "Checks": [{"CheckID": f"service:{id}", "Name": "alive", "Status": "passing", "ServiceID": id}],
        }
        await self._http.call("PUT", "/v1/catalog/register", body)

    async def _remove(self, path: str) -> None:
        service, _, id = path.partition("/")
        for node in ("vm", "raw"):
            body = {"Node": f"{node}-{service}", "ServiceID": id}
            await self._http.call("PUT", "/v1/catalog/deregister", body)

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        for name in await self._names():
            body, _ = await self._http.call("GET", f"/v1/health/service/{name}")
            yield [(f"{name}/{_INDEX.decode(one.Service).ID}", bytes(one.Service)) for one in _SHOWN.decode(body)]

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        lots: asyncio.Queue[list[tuple[str, bytes | None]] | Exception] = asyncio.Queue()
        polls: dict[str, asyncio.Task[None]] = {}
        names = asyncio.create_task(_told(self._follow_names(polls, lots), lots))
        try:
            yield []
            while True:
                lot = await lots.get()
                if isinstance(lot, Exception):
                    raise lot
                yield lot
        finally:
            for task in (names, *polls.values()):
                task.cancel()

    async def _follow_names(self, polls: dict[str, asyncio.Task[None]], lots: Any) -> None:
        index = 0
        while True:
            body, index = await self._poll("/v1/catalog/services", index)
            for name in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
                if name != "consul" and name not in polls:
                    polls[name] = asyncio.create_task(_told(self._follow_one(name, lots), lots))

    async def _follow_one(self, name: str, lots: Any) -> None:
        index = 0
        known: dict[str, int] = {}
        while True:
            body, index = await self._poll(f"/v1/health/service/{name}", index)
            fresh: dict[str, int] = {}
            lot: list[tuple[str, bytes | None]] = []
            for one in _SHOWN.decode(body):
                found = _INDEX.decode(one.Service)
                id = _ID.split(found.ID)[-1]
                fresh[id] = found.ModifyIndex
                if known.get(id) != found.ModifyIndex:
                    lot.append((f"{name}/{id}", bytes(one.Service)))
            lot += [(f"{name}/{id}", None) for id in known.keys() - fresh.keys()]
            known = fresh
            if lot:
                lots.put_nowait(lot)

    async def _poll(self, path: str, index: int) -> tuple[bytes, int]:
        body, headers = await self._http.call("GET", f"{path}?index={index}&wait={WAIT}s&near=_agent")
        return body, int(headers["X-Consul-Index"])

    async def _names(self) -> list[str]:
        body, _ = await self._http.call("GET", "/v1/catalog/services")
        return [name for name in msgspec.json.decode(body, type=dict[str, msgspec.Raw]) if name != "consul"]

    async def counted(self, name: str) -> int:
        """How often that happened in the last whole interval of ten seconds, by the agent's telemetry."""
        body, _ = await self._http.call("GET", "/v1/agent/metrics")
        samples = msgspec.json.decode(body, type=_Telemetry).Samples
        return sum(each.Count for each in samples if each.Name.endswith(name))

    async def writes(self) -> int:
        body, _ = await self._http.call("GET", "/v1/agent/self")
        return int(msgspec.json.decode(body)["Stats"]["raft"]["last_log_index"])


async def _told(work: Coroutine[Any, Any, None], failures: Any) -> None:
    """Whoever waits for what it finds is told of its failure."""
    try:
        await work
    except Exception as error:
        failures.put_nowait(error)
