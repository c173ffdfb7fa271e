"""What the tests of writing share: a namespace of its own, a bridge in it, and short words for changes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from adapters.kubernetes import Config, create
from bridge.adapter import Change, Registry
from bridge.model import Instance, Mark, Port, ServiceName
from tests.kit.seated import Seated
from tests.servers.kubernetes import Kubernetes

BRIDGE = "bridge-a"
PAY = ServiceName("pay")
SLICES = "apis/discovery.k8s.io/v1"
MERGE = "application/merge-patch+json"

_NUMBERS = count()


def instance(number: int, port: int = 9000, **metadata: str) -> Instance:
    return Instance(f"i{number}", f"192.0.2.{number}", (Port(port, "grpc", "grpc"),), metadata=metadata)


def create_of(what: Instance, service: ServiceName = PAY, owner: str = BRIDGE) -> Change:
    return Change(service, what.id, None, what, Mark(owner, "link", ("origin",), "", service, what.id))


class Cluster:
    """One namespace of a cluster, past our code."""

    def __init__(self, server: Kubernetes, namespace: str) -> None:
        self.server = server
        self.namespace = namespace

    def config(self, **more: Any) -> Config:
        given = {"kubeconfig": str(self.server.kubeconfig), "namespaces": [self.namespace], "namespace": self.namespace}
        return Config(**{**given, **more})

    def registry(self, *, clock: Callable[[], float] = time.monotonic, **more: Any) -> Registry:
        return create("lab", self.config(**more), None, clock=clock)

    def keeping(self, state: Path, *, wall: Callable[[], float] = time.time, **more: Any) -> Registry:
        """The same with a state folder."""
        return create("lab", self.config(**more), state, wall=wall)

    def path(self, group: str, plural: str, name: str = "") -> str:
        return f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def slices(self) -> list[Any]:
        return list((await self.server.call("GET", self.path(SLICES, "endpointslices")))["items"])

    async def services(self) -> list[Any]:
        return list((await self.server.call("GET", self.path("api/v1", "services")))["items"])

    async def patch_slice(self, name: str, body: object) -> None:
        await self.server.call("PATCH", self.path(SLICES, "endpointslices", name), body, content=MERGE)

    async def delete_slice(self, name: str) -> None:
        await self.server.call("DELETE", self.path(SLICES, "endpointslices", name))

    async def put_service(self, name: str, **spec: Any) -> None:
        body = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}
        await self.server.call("POST", self.path("api/v1", "services"), body)


async def cluster(server: Kubernetes) -> Cluster:
    """A namespace that no other test has."""
    return Cluster(server, await server.namespace(f"writing-{next(_NUMBERS)}"))


@asynccontextmanager
async def writing(registry: Registry, bridge: str = BRIDGE) -> AsyncIterator[Seated]:
    """The destination side, with the lock held."""
    async with registry:
        sink = Seated(registry, bridge)
        async with sink.writer():
            yield sink
