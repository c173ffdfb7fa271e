"""The laboratory of Kubernetes: natives write slices as its controllers do, one for each instance."""

from __future__ import annotations

import contextlib
import urllib.error
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from adapters.kubernetes import Config, create
from bridge.adapter import Registry
from bridge.model import Health, Instance, Locality, ServiceName
from tests.conformance.lab import EVERY_PART, Can, Form, Kind, Lab
from tests.kit.proxy import Proxy
from tests.servers.kubernetes import ADMIN, Kubernetes

EVERYTHING: frozenset[Can] = frozenset({"change", "write", "spoil", "cut", "loose"})
SLICES = "apis/discovery.k8s.io/v1"
LEASES = "apis/coordination.k8s.io/v1"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
FURTHER = ("eu", "us")  # namespaces that all labs share, emptied for each
_NUMBERS = count()


def form(service: ServiceName, instance: Instance) -> Instance:
    """What natives' endpoints say of an instance: metadata is the Service's, so the zone says what a test changes."""
    said = "-".join(f"{key}.{text}" for key, text in sorted(instance.metadata.items()))
    return replace(instance, health=Health.HEALTHY, locality=Locality(zone=said), metadata={})


def service(name: str, **more: Any) -> dict[str, Any]:
    """A headless Service that may be exported."""
    metadata = {"name": name, "annotations": {"isthmus.io/export": "true"}}
    return {"metadata": metadata, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}} | more


def slice_of(service: str, instance: Instance, **more: Any) -> dict[str, Any]:
    """The slice of one pod."""
    (port,) = instance.ports
    endpoint = {
        "addresses": [instance.address],
        "conditions": {"ready": instance.serving, "serving": instance.serving, "terminating": False},
        "targetRef": {"kind": "Pod", "name": instance.id},
        "zone": instance.locality.zone or None,
    }
    labels = {
        "kubernetes.io/service-name": service,
        MANAGED_BY: "endpointslice-controller.k8s.io",
    }
    return {
        "metadata": {"name": f"{service}-{instance.id}", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [endpoint | more],
        "ports": [{"name": port.name, "port": port.number, "appProtocol": port.protocol or None}],
    }


class Cluster:
    """Natives of one namespace."""

    def __init__(self, server: Kubernetes, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    def path(self, group: str, plural: str, name: str = "") -> str:
        return f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def put(self, group: str, plural: str, body: dict[str, Any]) -> None:
        """Creates an object, or puts it in the place of the one with its name."""
        try:
            await self.server.call("POST", self.path(group, plural), body)
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise AssertionError(error.read().decode()) from error
            await self.server.call("PUT", self.path(group, plural, body["metadata"]["name"]), body)

    async def remove(self, group: str, plural: str, name: str) -> None:
        await self.server.call("DELETE", self.path(group, plural, name))

    async def listed(self, group: str, plural: str) -> list[Any]:
        return list((await self.server.call("GET", self.path(group, plural)))["items"])


class KubernetesLab:
    """The bridge comes through a proxy, natives do not; each lab has a namespace of its own."""

    def __init__(self, cluster: Cluster, kubeconfig: Path, proxy: Proxy) -> None:
        self.can = EVERYTHING
        self.form: Form = form
        self._cluster = cluster
        self._kubeconfig = kubeconfig
        self._proxy = proxy

    def lender(self) -> Registry | None:
        return None

    def registry(self) -> Registry:
        return create("lab", msgspec.convert(self.block()[1], Config), None)

    def block(self) -> tuple[str, Mapping[str, Any]]:
        namespace = self._cluster.namespace
        where = {"namespaces": [namespace, *FURTHER], "namespace": namespace, "create_namespaces": True}
        return "kubernetes", {"kubeconfig": str(self._kubeconfig), **where}

    async def end(self, bridge: str, who: str) -> None:
        for one in await self._cluster.listed(LEASES, "leases"):
            notes, holder = one["metadata"].get("annotations", {}), one["spec"].get("holderIdentity")
            if f'"{who}"' in notes.get("isthmus.io/claims", ""):
                await self._cluster.remove(LEASES, "leases", one["metadata"]["name"])
            if notes.get("isthmus.io/who") == who and holder:
                with contextlib.suppress(urllib.error.HTTPError):
                    await self._cluster.remove(LEASES, "leases", holder)

    async def say(self, bridge: str, count: int | None) -> None:
        path = self._cluster.path(LEASES, "leases", f"isthmus-{bridge}")
        said = {"metadata": {"annotations": {"isthmus.io/shards": count and str(count)}}}
        await self._cluster.server.call("PATCH", path, said, content="application/merge-patch+json")

    async def register(self, service_name: ServiceName, instance: Instance) -> None:
        try:
            await self._cluster.server.call(
                "POST", self._cluster.path("api/v1", "services"), service(service_name.name)
            )
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise AssertionError(error.read().decode()) from error
            path = self._cluster.path("api/v1", "services", service_name.name)
            said = {"metadata": {"annotations": {"isthmus.io/export": "true"}}}
            await self._cluster.server.call("PATCH", path, said, content="application/merge-patch+json")
        await self._cluster.put(SLICES, "endpointslices", slice_of(service_name.name, instance))

    async def deregister(self, service_name: ServiceName, id: str) -> None:
        await self._cluster.remove(SLICES, "endpointslices", f"{service_name.name}-{id}")

    async def truth(self, service_name: ServiceName) -> Mapping[str, tuple[str, int]]:
        found = {}
        slices = await self._cluster.listed(SLICES, "endpointslices")
        for each in sorted(slices, key=lambda one: one["metadata"]["labels"][MANAGED_BY] != "isthmus.io"):
            if each["metadata"]["labels"]["kubernetes.io/service-name"] == service_name.name:
                for endpoint in each["endpoints"] or ():
                    found[endpoint["targetRef"]["name"]] = (endpoint["addresses"][0], each["ports"][0]["port"])
        return found

    async def place(self) -> object:
        found = [await self._cluster.listed("api/v1", "services"), await self._cluster.listed(SLICES, "endpointslices")]
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for all in found for each in all}

    async def spoil(self, service_name: ServiceName, id: str) -> None:
        """A port that nobody can dial: the apiserver takes any number."""
        name = f"{service_name.name}-{id}"
        found = await self._cluster.server.call("GET", self._cluster.path(SLICES, "endpointslices", name))
        found["ports"][0]["port"] = 0
        del found["metadata"]["resourceVersion"]
        await self._cluster.put(SLICES, "endpointslices", found)

    async def erase(self, service_name: ServiceName, id: str) -> None:
        await self.deregister(service_name, id)

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        raise NotImplementedError("a Lease that is renewed is nobody's to take")

    async def expire(self, bridge: str) -> None:
        raise NotImplementedError("no leases")


@asynccontextmanager
async def _open(server: Kubernetes, folder: Path) -> AsyncIterator[Lab]:
    async with Proxy(server.address) as proxy:
        namespace = await server.namespace(f"lab-{next(_NUMBERS)}")
        for further in FURTHER:
            await server.call("DELETE", f"/{SLICES}/namespaces/{further}/endpointslices")
            for each in (await server.call("GET", f"/api/v1/namespaces/{further}/services"))["items"]:
                await server.call("DELETE", f"/api/v1/namespaces/{further}/services/{each['metadata']['name']}")
        kubeconfig = folder / "kubeconfig"
        text = server.configure(ADMIN, name=namespace).read_text()
        kubeconfig.write_text(text.replace(server.address, proxy.address))
        yield KubernetesLab(Cluster(server, namespace), kubeconfig, proxy)


KINDS = {"kubernetes": Kind("kubernetes", _open, EVERY_PART - {"leases"} | {"shards"})}
