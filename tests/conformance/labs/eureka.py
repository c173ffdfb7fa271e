"""The laboratory of Eureka: natives register over HTTP what Spring's client does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adapters.eureka import Config, create
from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from mappings import eureka as mapping
from tests.conformance.lab import Can, Form, Kind, Lab
from tests.kit.proxy import Proxy
from tests.servers.eureka import Eureka

POLL = 0.05


class EurekaLab:
    """The bridge comes through a proxy, natives do not. The seat is lent by a registry in memory."""

    can: frozenset[Can] = frozenset({"change", "write", "spoil", "cut", "lease"})

    def __init__(self, server: Eureka, proxy: Proxy) -> None:
        self.form: Form = mapping.canonical
        self._server = server
        self._proxy = proxy
        self._seats = Store("lender")

    def lender(self) -> Registry | None:
        return Memory("lender", self._seats)

    def registry(self) -> Registry:
        return create("lab", Config(urls=[f"http://{self._proxy.address}/eureka"], poll=POLL), None)

    async def register(self, service: ServiceName, instance: Instance) -> None:
        await self._put(service, instance.id, instance.address, instance.ports[0].number, instance.metadata)

    async def _put(self, service: ServiceName, id: str, address: str, port: int, metadata: dict[str, str]) -> None:
        app = service.name.upper()
        record = {
            "instanceId": id,
            "app": app,
            "ipAddr": address,
            "hostName": address,
            "vipAddress": service.name,
            "status": "UP",
            "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
            "port": {"$": port, "@enabled": "true"},
            "metadata": metadata,
        }
        await self._server.call("POST", f"/apps/{app}", {"instance": record})

    async def deregister(self, service: ServiceName, id: str) -> None:
        await self._server.call("DELETE", f"/apps/{service.name.upper()}/{quote(id, safe='')}")

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._put(service, id, "192.0.2.99", 70_000, {})

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        return {
            one["instanceId"]: (one["ipAddr"], one["port"]["$"])
            for one in await self._all()
            if one["vipAddress"] == service.name
        }

    async def place(self) -> object:
        return sorted((one["app"], one["instanceId"], one["lastUpdatedTimestamp"]) for one in await self._all())

    async def erase(self, service: ServiceName, id: str) -> None:
        raise NotImplementedError  # the mark is in the record and goes with it

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        raise NotImplementedError  # it has no lock

    async def expire(self, bridge: str) -> None:
        """As if their time had passed: it takes Eureka minutes to see that."""
        for one in await self._all():
            leased = one["leaseInfo"]["durationInSecs"] < mapping.LASTING
            if leased and bridge in one["metadata"].get(mapping.MARK, ""):
                await self._server.call("DELETE", f"/apps/{one['app']}/{quote(one['instanceId'], safe='')}")

    async def _all(self) -> list[dict[str, Any]]:
        return list((await self._server.listed()).values())


@asynccontextmanager
async def _open(server: Eureka, folder: Path) -> AsyncIterator[Lab]:
    async with Proxy(server.address) as proxy:
        yield EurekaLab(server, proxy)


KINDS = {"eureka": Kind("eureka", _open, frozenset({"source", "sink", "natives", "leases"}))}
