"""The laboratories of exports: what is served is read as a data plane reads it, over the network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from adapters import prometheus, traefik, xds
from adapters.common.export import ExportRegistry
from bridge.adapter import Registry
from bridge.model import Instance, ServiceName
from mappings.common import hostport
from tests.conformance.lab import Can, Form, Kind, Lab
from tests.kit.ads import Ads
from tests.kit.waiting import until
from tests.servers import ports

Truth = Callable[[str, ServiceName], Awaitable[list[str]]]  # every `host:port` that is served for a service


def by_place(service: ServiceName, instance: Instance) -> Instance:
    """The id is the address and port, for data planes are told no other; metadata becomes what all of them can say."""
    turn = float(instance.metadata.get("turn", 0))
    id = hostport.join(instance.address, instance.ports[0].number)
    return msgspec.structs.replace(instance, id=id, metadata={}, weight=1.0 + turn)


def with_metadata(service: ServiceName, instance: Instance) -> Instance:
    """Likewise, where metadata is told."""
    return msgspec.structs.replace(instance, id=hostport.join(instance.address, instance.ports[0].number))


class ExportLab:
    """One export that answers; nobody but its bridge writes there."""

    can: frozenset[Can] = frozenset({"change", "write"})

    def __init__(self, registry: ExportRegistry, address: str, form: Form, truth: Truth) -> None:
        self.form = form
        self._registry = registry
        self._address = address
        self._truth = truth

    def lender(self) -> Registry | None:
        return None

    def registry(self) -> Registry:
        return self._registry

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        places = await self._truth(self._address, service)
        return {place: hostport.split(place) for place in places}

    async def place(self) -> object:
        held = await self._registry.sink("nobody").held()
        return {name: {id: one.version for id, one in entries.items()} for name, entries in held.services.items()}

    async def register(self, service: ServiceName, instance: Instance) -> None:
        raise NotImplementedError

    async def deregister(self, service: ServiceName, id: str) -> None:
        raise NotImplementedError

    async def spoil(self, service: ServiceName, id: str) -> None:
        raise NotImplementedError

    async def erase(self, service: ServiceName, id: str) -> None:
        raise NotImplementedError

    async def cut(self) -> None:
        raise NotImplementedError

    async def heal(self) -> None:
        raise NotImplementedError

    async def steal(self, bridge: str) -> None:
        raise NotImplementedError

    async def expire(self, bridge: str) -> None:
        raise NotImplementedError


async def _json(url: str) -> Any:
    return json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read()))


async def _targets(address: str, service: ServiceName) -> list[str]:
    return [
        target for group in await _json(f"http://{address}/targets?service={service}") for target in group["targets"]
    ]


async def _servers(address: str, service: ServiceName) -> list[str]:
    document = await _json(f"http://{address}/traefik")
    named = document["http"]["services"].get(service.name, {"loadBalancer": {"servers": []}})
    return [server["url"].partition("://")[2] for server in named["loadBalancer"]["servers"]]


async def _endpoints(address: str, service: ServiceName) -> list[str]:
    async with grpc.aio.insecure_channel(address) as channel, Ads(channel).delta() as stream:
        await stream.ask("endpoint.v3.ClusterLoadAssignment", service.name)
        told = await stream.told()
        made = ClusterLoadAssignment.FromString(told.found[service.name])
        places = [end.endpoint.address.socket_address for group in made.endpoints for end in group.lb_endpoints]
        return [hostport.join(place.address, place.port_value) for place in places]


def _kind(make: Callable[[str, Path], ExportRegistry], form: Form, truth: Truth) -> Kind:
    @asynccontextmanager
    async def open(server: object, folder: Path) -> AsyncIterator[Lab]:
        (port,) = ports.reserve(1)
        address = f"127.0.0.1:{port}"
        registry = make(address, folder)
        registry.sink("nobody").missing(frozenset())
        serving = asyncio.create_task(registry.serve())

        async def answers() -> bool:
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", port))[1].close()
                return True
            return False

        try:
            await until(answers, "it listens")
            yield ExportLab(registry, address, form, truth)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            ports.release([port])

    return Kind(None, open, frozenset({"sink"}))


KINDS = {
    "prometheus": _kind(
        lambda listen, folder: prometheus.create("lab", prometheus.Config(listen=listen), folder),
        with_metadata,
        _targets,
    ),
    "traefik": _kind(
        lambda listen, folder: traefik.create("lab", traefik.Config(listen=listen), folder), by_place, _servers
    ),
    "xds": _kind(
        lambda listen, folder: xds.create("lab", xds.Config(listen=listen), folder), with_metadata, _endpoints
    ),
}
