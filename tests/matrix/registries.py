"""Registries that are servers as a whole, and their natives: a Consul, a Eureka, a namespace of a Kubernetes."""

from __future__ import annotations

import asyncio
import urllib.error
from typing import Any

from bridge.model import Instance, Locality, Port
from tests.conformance.labs.kubernetes import SLICES, Cluster, service, slice_of
from tests.kit import eureka as natives
from tests.kit.stock import Native
from tests.servers.consul import Consul
from tests.servers.eureka import Eureka

CORE = "api/v1"
LONG = {"renewalIntervalInSecs": 30, "durationInSecs": 3600}  # no native of a test sends heartbeats


class Datacenter:
    """A Consul: each service's natives are on a node of their own, which has no agent."""

    layout = "consul"

    def __init__(self, server: Consul) -> None:
        self._server = server
        self._written: dict[tuple[str, str], Any] = {}

    @property
    def block(self) -> dict[str, Any]:
        address, dc = self._server.url, self._server.datacenter
        return {"kind": "consul", "address": address, "datacenters": [dc], "protocol": "grpc", "wait": 5}

    async def put(self, service: str, native: Native) -> None:
        record = {
            "ID": native.id,
            "Service": service,
            "Address": native.address,
            "Port": native.port,
            "Tags": ["blue", *([f"version={native.version}"] if native.version else [])],
            "Meta": dict(native.metadata),
            "Weights": {"Passing": native.weight, "Warning": 1},
        }
        checks = [{"CheckID": f"service:{native.id}", "Name": "alive", "Status": "passing", "ServiceID": native.id}]
        if native.draining:  # as an agent writes its maintenance mode
            maintenance = {"CheckID": f"_service_maintenance:{native.id}", "Name": "Service Maintenance Mode"}
            checks.append({**maintenance, "Status": "critical", "ServiceID": native.id})
        body = {"Node": _node(service), "Address": "192.0.2.250", "Service": record, "Checks": checks}
        await self._server.call("PUT", "/v1/catalog/register", body)
        self._written[service, native.id] = (await self._natives(service))[native.id]

    async def remove(self, service: str, id: str) -> None:
        del self._written[service, id]
        await self._server.call("PUT", "/v1/catalog/deregister", {"Node": _node(service), "ServiceID": id})

    async def untouched(self) -> bool:
        services = sorted({service for service, _ in self._written})
        found = zip(services, await asyncio.gather(*map(self._natives, services)), strict=True)
        return {(service, id): one for service, some in found for id, one in some.items()} == self._written

    async def position(self) -> object:
        services = sorted(await self._server.call("GET", "/v1/catalog/services"))
        return await asyncio.gather(*map(self._shown, services))

    async def _shown(self, service: str) -> Any:
        return await self._server.call("GET", f"/v1/health/service/{service}")

    async def _natives(self, service: str) -> dict[str, Any]:
        shown = await self._shown(service)
        return {one["Service"]["ID"]: one for one in shown if one["Node"]["Node"] == _node(service)}


def _node(service: str) -> str:
    return f"vm-{service}"


class Applications:
    """A Eureka: ids end with their service, as those that Spring makes do."""

    layout = "eureka"

    def __init__(self, server: Eureka) -> None:
        self._server = server
        self._clients = natives.Native(server)
        self._written: dict[tuple[str, str], Any] = {}

    @property
    def block(self) -> dict[str, Any]:
        return {"kind": "eureka", "urls": [self._server.url], "poll": 0.1}

    async def put(self, service: str, native: Native) -> None:
        more = {"version": native.version} if native.version else {}
        more |= {"weight": str(native.weight)} if native.weight != 1 else {}
        port = {"$": native.port, "@enabled": "true"}
        id, metadata = _id(service, native.id), {**native.metadata, **more}
        await self._clients.register(service, id, native.address, port=port, metadata=metadata, leaseInfo=LONG)
        if native.draining:
            await self._clients.override(service, id, "OUT_OF_SERVICE")
        self._written[service, native.id] = await self._native(service, native.id)

    async def remove(self, service: str, id: str) -> None:
        del self._written[service, id]
        await self._clients.cancel(service, _id(service, id))

    async def untouched(self) -> bool:
        found = await asyncio.gather(*(self._native(*key) for key in self._written))
        return found == list(self._written.values())

    async def position(self) -> object:
        found = await self._clients.all()
        return {key: (one["lastUpdatedTimestamp"], one["lastDirtyTimestamp"]) for key, one in found.items()}

    async def _native(self, service: str, id: str) -> dict[str, Any]:
        """Less its lease, which every heartbeat changes."""
        found = await self._clients.get(service, _id(service, id))
        return {key: value for key, value in found.items() if key != "leaseInfo"}


def _id(service: str, id: str) -> str:
    return f"{id}:{service}"


class Namespace:
    """A namespace of a cluster, in which a controller writes a slice for each pod.

    Metadata and version are the Service's, so what a pod says anew of itself is its zone.
    """

    layout = "kubernetes"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._written: dict[tuple[str, str], str] = {}  # the revision of each object that natives wrote

    @property
    def block(self) -> dict[str, Any]:
        namespace = self._cluster.namespace
        kubeconfig = str(self._cluster.server.kubeconfig)
        return {"kind": "kubernetes", "kubeconfig": kubeconfig, "namespaces": [namespace], "namespace": namespace}

    async def put(self, name: str, native: Native) -> None:
        if ("services", name) not in self._written:
            self._written["services", name] = ""
            body = service(name)
            body["metadata"]["labels"] = {"version": native.version} if native.version else {}
            await self._put(CORE, "services", body)
        zone = "-".join(f"{key}.{text}" for key, text in sorted(native.metadata.items()))
        port = Port(native.port, "main", "grpc")
        instance = Instance(native.id, native.address, (port,), locality=Locality(zone=zone))
        drained = {"conditions": {"ready": False, "serving": True, "terminating": True}} if native.draining else {}
        await self._put(SLICES, "endpointslices", slice_of(name, instance, **drained))

    async def remove(self, name: str, id: str) -> None:
        del self._written["endpointslices", f"{name}-{id}"]
        await self._cluster.remove(SLICES, "endpointslices", f"{name}-{id}")

    async def untouched(self) -> bool:
        now = {key: revision for key, (_, revision) in (await self._all()).items()}
        return all(now.get(key) == revision for key, revision in self._written.items())

    async def position(self) -> object:
        return await self._all()

    async def _all(self) -> dict[tuple[str, str], tuple[str, str]]:
        found = {}
        for group, plural in ((CORE, "services"), (SLICES, "endpointslices")):
            for each in await self._cluster.listed(group, plural):
                meta = each["metadata"]
                found[plural, meta["name"]] = meta["uid"], meta["resourceVersion"]
        return found

    async def _put(self, group: str, plural: str, body: dict[str, Any]) -> None:
        server, name = self._cluster.server, body["metadata"]["name"]
        try:
            made = await server.call("POST", self._cluster.path(group, plural), body)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise AssertionError(error.read().decode()) from error
            made = await server.call("PUT", self._cluster.path(group, plural, name), body)
        self._written[plural, name] = made["metadata"]["resourceVersion"]
