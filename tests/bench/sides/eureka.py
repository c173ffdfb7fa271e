"""Eureka: natives register as Spring's client does, with leases that outlast it all; raw readers poll deltas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.bench import records
from tests.bench.records import Native
from tests.bench.sides import Record, farm, http
from tests.servers.eureka import Eureka as Server

LINK: dict[str, Any] = {"port": "grpc"}
LOCK_TTL = 0.0
NOTE = ""
POLL = 0.02  # seconds from one look of a raw reader to the next: the finest that does not load the server
# What was changed is told for some seconds alone: a look costs as much as was changed in that time. And a cache that
# lost a change, for it was filled just then, is filled again soon.
SETTINGS = {
    "eureka.server.retention-time-in-m-s-in-delta-queue": "2500",
    "eureka.server.delta-retention-timer-interval-in-ms": "200",
    "eureka.server.response-cache-auto-expiration-in-seconds": "1",
}
_MY_OWN = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}


_LEASE: dict[str, Any] = {"renewalIntervalInSecs": 30, "durationInSecs": 604_800}


class _Port(msgspec.Struct):
    number: int = msgspec.field(name="$")
    enabled: str = msgspec.field(name="@enabled", default="true")


class Instance(msgspec.Struct):
    """As it is registered, and as it is read."""

    instanceId: str
    app: str
    ipAddr: str
    hostName: str
    vipAddress: str
    metadata: dict[str, str]
    port: _Port
    status: str = "UP"
    dataCenterInfo: dict[str, str] = msgspec.field(default_factory=lambda: _MY_OWN)
    leaseInfo: dict[str, Any] = msgspec.field(default_factory=lambda: _LEASE)


class _Key(msgspec.Struct):
    instanceId: str
    vipAddress: str
    actionType: str = ""
    lastUpdatedTimestamp: str | int = 0


class _Application(msgspec.Struct):
    instance: list[msgspec.Raw]


class _All(msgspec.Struct):
    application: list[_Application]


class _Envelope(msgspec.Struct):
    applications: _All


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_KEY = msgspec.json.Decoder(_Key)
_INSTANCE = msgspec.json.Decoder(Instance, strict=False)


def server(folder: Path, name: str, arms: int = 1) -> farm.Farm:
    servers = [Server(folder, name=f"{name}-{arm}", settings=SETTINGS) for arm in farm.ARMS[:arms]]
    return farm.Farm(servers, [each.address for each in servers])


def open(address: str, prefix: str) -> Eureka:
    return Eureka(f"http://{farm.of(address, prefix)}/eureka")


def block(address: str, prefix: str) -> dict[str, Any]:
    return {"kind": "eureka", "urls": [f"http://{farm.of(address, prefix)}/eureka"], "poll": 1}


class Eureka:
    """See `tests.bench.sides.Side`."""

    shape = Instance
    takes_bytes = False

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Self:
        self._http = http.Bare(self._url, {"Accept": "application/json"})
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    def encode(self, native: Native) -> bytes:
        metadata = {**native.metadata, "version": native.version}
        app = native.service.upper()
        made = Instance(native.id, app, native.host, native.host, native.service, metadata, _Port(9000))
        return msgspec.json.encode(made)

    def decode(self, path: str, value: bytes) -> Native:
        found = _INSTANCE.decode(value)
        return Native(
            found.vipAddress, found.instanceId, found.ipAddr, found.metadata.pop("version", ""), found.metadata
        )

    def value(self, number: int, mark: int = 0) -> bytes:
        return self.encode(records.native(number, mark))

    async def register(self, lot: Sequence[Record]) -> None:
        await http.all_of(self.put(path, value) for path, value in lot)

    async def deregister(self, paths: Sequence[str]) -> None:
        for path in paths:
            service, _, id = path.partition("/")
            await self._http.call("DELETE", f"/apps/{service.upper()}/{id}", accept=(404,))

    async def put(self, path: str, value: bytes) -> None:
        service = path.partition("/")[0]
        await self._http.call("POST", f"/apps/{service.upper()}", {"instance": msgspec.Raw(value)})

    async def put_many(self, lot: Sequence[Record]) -> None:
        await self.register(lot)

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        yield [(path, value) for path, value, _, _ in await self._asked("/apps")]

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        seen: dict[str, tuple[str, str | int]] = {}
        yield []
        while True:
            lot: list[tuple[str, bytes | None]] = []
            for path, value, action, at in await self._asked("/apps/delta"):
                if seen.get(path) != (action, at):
                    seen[path] = (action, at)
                    lot.append((path, None if action == "DELETED" else value))
            if lot:
                yield lot
            await asyncio.sleep(POLL)

    async def _asked(self, path: str) -> list[tuple[str, bytes, str, str | int]]:
        body, _ = await self._http.call("GET", path)
        found = []
        for app in _ENVELOPE.decode(body).applications.application:
            for raw in app.instance:
                key = _KEY.decode(raw)
                where = f"{key.vipAddress}/{key.instanceId.partition(':')[0]}"  # a bridge's has the service behind it
                found.append((where, bytes(raw), key.actionType, key.lastUpdatedTimestamp))
        return found

    async def writes(self) -> int:
        raise NotImplementedError("Eureka counts no writes: see `tests.bench.cost`")
