"""Kubernetes: a slice a service, whose endpoints natives change one by one; a raw writer keeps slices of its own."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from mappings import kubernetes as layout
from mappings.kubernetes.objects import Slice
from tests.bench import records
from tests.bench.records import Native
from tests.bench.sides import Record, http
from tests.servers.kubernetes import ADMIN, Kubernetes

LINK: dict[str, Any] = {"port": "grpc"}
LOCK_TTL = 15.0
NOTE = "server-side apply, which tells writers apart, where the raw loop has PUT: 1.7 times the server's CPU (ADR 46)"
SLICES, SERVICES = "/apis/discovery.k8s.io/v1", "/api/v1"
RAW = "bench/instances"  # the annotation of a raw writer: what it copied, by id
EXPORT = {"isthmus.io/export": "true"}
PAGE = 500


class Endpoint(msgspec.Struct, omit_defaults=True):
    """As natives write it: the node's name carries the mark."""

    addresses: list[str]
    targetRef: dict[str, str]
    nodeName: str = ""
    zone: str = ""
    conditions: dict[str, bool] = {}


class _Meta(msgspec.Struct):
    name: str
    resourceVersion: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Slice(msgspec.Struct):
    metadata: _Meta
    endpoints: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Slice]


_ENDPOINT = msgspec.json.Decoder(Endpoint)
_SLICE = msgspec.json.Decoder(_Slice)
_OURS = msgspec.json.Decoder(Slice)
_EVENT = msgspec.json.Decoder(_Event)
_PAGE = msgspec.json.Decoder(_Page)
_CONDITIONS = {"ready": True, "serving": True, "terminating": False}
_WRITES = re.compile(r'^apiserver_request_total\{[^}]*resource="(?:endpointslices|services)"[^}]*\} (\S+)', re.M)
_WRITING = re.compile(r'verb="(?:POST|PUT|PATCH|APPLY|DELETE)"')


class Server(Kubernetes):
    """`address`: its kubeconfig, which says all that a client needs."""

    def __init__(self, folder: Path, *, name: str) -> None:
        super().__init__(folder, name=name)
        self.address = str(self.kubeconfig)


def server(folder: Path, name: str, arms: int = 1) -> Server:
    return Server(folder, name=name)


def open(address: str, prefix: str) -> Cluster:
    return Cluster(address, _namespace(prefix))


def block(address: str, prefix: str) -> dict[str, Any]:
    namespace = _namespace(prefix)
    return {"kind": "kubernetes", "kubeconfig": address, "namespaces": [namespace], "namespace": namespace}


def _namespace(prefix: str) -> str:
    return prefix.strip("/").replace("/", "-")


class Cluster:
    """See `tests.bench.sides.Side`."""

    shape = Endpoint
    takes_bytes = False

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._stands: dict[str, dict[str, bytes]] = {}  # by service: what was written, by id
        self._made: set[str] = set()

    async def __aenter__(self) -> Self:
        cluster = json.loads(Path(self._kubeconfig).read_text())["clusters"][0]["cluster"]
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._http = http.Bare(cluster["server"], {"Authorization": f"Bearer {ADMIN}"}, tls)
        await self._http.call("POST", f"{SERVICES}/namespaces", {"metadata": {"name": self._namespace}}, accept=(409,))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.close()

    def encode(self, native: Native) -> bytes:
        mark = native.metadata["commit"].rpartition("-")[2]
        zone = native.metadata["zone"]
        target = {"kind": "Pod", "name": native.id, "namespace": self._namespace}
        return msgspec.json.encode(Endpoint([native.host], target, f"vm-mark-{mark}", zone, _CONDITIONS))

    def decode(self, path: str, value: bytes) -> Native:
        service = path.partition("/")[0]
        found = _ENDPOINT.decode(value)
        metadata = {"commit": f"0-{found.nodeName.rpartition('-')[2]}", "zone": found.zone}
        return Native(service, found.targetRef["name"], found.addresses[0], "", metadata)

    def value(self, number: int, mark: int = 0) -> bytes:
        return self.encode(records.native(number, mark))

    async def register(self, lot: Sequence[Record]) -> None:
        await self._write(lot, EXPORT, {})

    async def put(self, path: str, value: bytes) -> None:
        await self.put_many([(path, value)])

    async def put_many(self, lot: Sequence[Record]) -> None:
        await self._write(lot, {}, {RAW: "1"})

    async def deregister(self, paths: Sequence[str]) -> None:
        for path in paths:
            service, _, id = path.partition("/")
            self._stands[service].pop(id, None)
        services = {path.partition("/")[0] for path in paths}
        await http.all_of(self._put_slice(service, {}) for service in services)

    async def _write(self, lot: Sequence[Record], service: dict[str, str], annotations: dict[str, str]) -> None:
        for path, value in lot:
            name, _, id = path.partition("/")
            self._stands.setdefault(name, {})[id] = value
        names = {path.partition("/")[0] for path, _ in lot}
        new = names - self._made
        self._made |= new
        await http.all_of(self._put_service(name, service) for name in new)
        await http.all_of(self._put_slice(name, annotations) for name in names)

    async def _put_service(self, name: str, annotations: dict[str, str]) -> None:
        port = {"name": "grpc", "port": 9000, "appProtocol": "grpc"}
        body = {"metadata": {"name": name, "annotations": annotations}, "spec": {"ports": [port], "clusterIP": "None"}}
        await self._http.call("POST", self._path(SERVICES, "services"), body, accept=(409,))
        slice = {**self._slice(name, {}), "endpoints": []}
        await self._http.call("POST", self._path(SLICES, "endpointslices"), slice, accept=(409,))

    async def _put_slice(self, name: str, annotations: dict[str, str]) -> None:
        body = self._slice(name, annotations)
        await self._http.call("PUT", self._path(SLICES, "endpointslices", f"{name}-s"), body)

    def _slice(self, name: str, annotations: dict[str, str]) -> dict[str, Any]:
        labels = {"kubernetes.io/service-name": name}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-s", "labels": labels, "annotations": annotations},
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": 9000, "appProtocol": "grpc"}],
            "endpoints": [msgspec.Raw(each) for each in self._stands.get(name, {}).values()],
        }

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        """Of Services that say so: whoever reads them must know which do."""
        exported: set[str] = set()
        async for page in self._pages(SERVICES, "services"):
            exported |= {one.metadata.name for one in page if EXPORT.items() <= one.metadata.annotations.items()}
        async for page in self._pages(SLICES, "endpointslices"):
            of = (each for each in page if each.metadata.labels.get("kubernetes.io/service-name") in exported)
            yield [record for each in of for record in _endpoints(each)]

    async def _pages(self, group: str, plural: str) -> AsyncIterator[list[_Slice]]:
        more = ""
        while True:
            query = f"?limit={PAGE}" + (f"&continue={more}" if more else "")
            body, _ = await self._http.call("GET", self._path(group, plural) + query)
            page = _PAGE.decode(body)
            yield page.items
            more = page.metadata.continue_
            if not more:
                return

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        body, _ = await self._http.call("GET", self._path(SLICES, "endpointslices"))
        page = _PAGE.decode(body)
        known = {each.metadata.name: dict(_endpoints(each)) for each in page.items}
        path = self._path(SLICES, "endpointslices")
        query = f"?watch=1&resourceVersion={page.metadata.resourceVersion}&timeoutSeconds=3600"
        async with self._http.session.get(f"{self._http.url}{path}{query}", read_bufsize=1 << 20) as stream:
            yield []
            if page.items:
                yield [record for each in known.values() for record in each.items()]
            async for line in stream.content:
                event = _EVENT.decode(line)
                name, now = _told(event)
                before = known.pop(name, {})
                if event.type != "DELETED":
                    known[name] = now
                else:
                    now = {}
                lot: list[tuple[str, bytes | None]] = [(at, one) for at, one in now.items() if before.get(at) != one]
                lot += [(at, None) for at in before.keys() - now.keys()]
                if lot:
                    yield lot

    def _path(self, group: str, plural: str, name: str = "") -> str:
        return f"{group}/namespaces/{self._namespace}/{plural}" + (f"/{name}" if name else "")

    async def writes(self) -> int:
        text, _ = await self._http.call("GET", "/metrics")
        lines = _WRITES.finditer(text.decode())
        return sum(int(float(found[1])) for found in lines if _WRITING.search(found[0]) and 'code="2' in found[0])


def _endpoints(found: _Slice) -> list[Record]:
    service = found.metadata.labels.get("kubernetes.io/service-name", "")
    return [(f"{service}/{_ENDPOINT.decode(each).targetRef['name']}", bytes(each)) for each in found.endpoints or ()]


def _told(event: _Event) -> tuple[str, dict[str, bytes]]:
    """What a slice says by path: natives' and raw writers' endpoints as they are, a bridge's as its instances."""
    found = _SLICE.decode(event.object)
    if found.metadata.labels.get("endpointslice.kubernetes.io/managed-by") is None:
        return found.metadata.name, dict(_endpoints(found))
    slice = _OURS.decode(event.object)
    service = layout.service_name(slice)
    told = {}
    for entry in layout.entries(slice, layout.surroundings()):
        if entry.instance is not None:
            id = entry.instance.id.rpartition("/")[2]  # where it was copied from is before it
            told[f"{service}/{id}"] = msgspec.json.encode(entry.instance.metadata)
    return found.metadata.name, told
