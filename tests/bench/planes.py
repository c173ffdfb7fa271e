"""`python -m tests.bench.planes ours|raw ADDRESS CLUSTERS`: a control plane of that many clusters of ten endpoints.

It is told on standard input, line by line: `change N` changes one endpoint of the N-th cluster, `count` does nothing.
After each it says `done MISSES`: how often a response was encoded until then.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2 as discovery

from adapters import xds
from adapters.xds.encoding import encoded
from bridge.adapter import Change, Entry
from bridge.model import Instance, Mark, Port, ServiceName
from mappings.xds_resources import Resource, assignment
from tests.bench.sides.xds import OPTIONS, SERVICE, TYPE, subscribed

SIZE = 10  # endpoints of a cluster
PART = 2 << 20  # bytes of resources in one response, as ours has


def instance(cluster: int, number: int, mark: int = 0) -> Instance:
    address = f"10.{cluster >> 8 & 255}.{cluster & 255}.{number}"
    metadata = {"commit": f"c0ffee-{mark}"}
    return Instance(f"i{number}", address, (Port(8080, "http", "http"),), metadata=metadata)


def name(cluster: int) -> str:
    return f"cluster-{cluster:05d}"


def create(cluster: int, number: int, before: Entry | None = None, mark: int = 0) -> Change:
    service, one = ServiceName(name(cluster)), instance(cluster, number, mark)
    return Change(service, one.id, before, one, Mark("b1", "link", ("origin",), "", service, one.id))


class Ours:
    """The export as it is."""

    def __init__(self, address: str, clusters: int) -> None:
        self._address = address
        self._registry = xds.create("mesh", xds.Config(listen=address), None)
        self._sink = self._registry.sink("b1")
        self._clusters = clusters
        self._marks = 0

    async def start(self) -> None:
        changes = [create(each, number) for each in range(self._clusters) for number in range(SIZE)]
        await self._sink.apply(changes, None)
        self._sink.missing(frozenset())
        self._serving = asyncio.create_task(self._registry.serve())
        async with grpc.aio.insecure_channel(self._address, OPTIONS) as channel:  # until all of it is encoded
            call = subscribed(channel)
            await call.write(
                discovery.DeltaDiscoveryRequest(
                    node={"id": "first"}, type_url=TYPE, resource_names_subscribe=[name(self._clusters - 1)]
                )
            )
            while not (await call.read()).resources[0].resource.value:
                pass

    async def change(self, cluster: int) -> None:
        self._marks += 1
        service = ServiceName(name(cluster))
        before = (await self._sink.held([service])).services[service]["i0"]
        await self._sink.apply([create(cluster, 0, before, self._marks)], None)

    @property
    def encodings(self) -> int:
        return encoded.cache_info().misses


class Raw:
    """Sends of the same bytes, and nothing else: what is sent is encoded beforehand, or once for a change."""

    def __init__(self, address: str, clusters: int) -> None:
        self._address = address
        self._resources = [self._made(each, 0) for each in range(clusters)]
        self._streams: list[Any] = []
        self._marks = 0
        self._parts: list[bytes] = []
        self.encodings = 0

    def _made(self, cluster: int, mark: int) -> Resource:
        some = [instance(cluster, number, mark if number == 0 else 0) for number in range(SIZE)]
        return assignment(name(cluster), some)

    async def start(self) -> None:
        part: list[Resource] = []
        for each in [*self._resources, None]:
            if each is None or sum(len(one.body) for one in part) + len(each.body) > PART:
                self._parts.append(self._encoded(part))
                part = []
            if each is not None:
                part.append(each)
        self._server = server = grpc.aio.server(options=OPTIONS)  # which ends when nobody has it
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery.DeltaDiscoveryRequest.FromString,
            response_serializer=lambda body: body,
        )
        methods = {"DeltaAggregatedResources": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        server.add_insecure_port(self._address)
        await server.start()

    async def change(self, cluster: int) -> None:
        self._marks += 1
        body = self._encoded([self._made(cluster, self._marks)])
        await asyncio.gather(*(each.write(body) for each in self._streams))

    def _encoded(self, some: list[Resource]) -> bytes:
        self.encodings += 1
        message: Any = discovery.DeltaDiscoveryResponse(type_url=TYPE)
        for one in some:
            resource = message.resources.add(name=one.name, version=one.version)
            resource.resource.type_url, resource.resource.value = TYPE, one.body
        return bytes(message.SerializeToString()) + b"\x2a\x011"  # the nonce comes last, as ours does

    async def _stream(self, _: object, context: Any) -> None:
        first = await context.read()
        if not first.initial_resource_versions:
            for part in self._parts:
                await context.write(part)
                await context.read()
        self._streams.append(context)
        while await context.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            pass
        self._streams.remove(context)


async def main(kind: str, address: str, clusters: int) -> None:
    plane = Ours(address, clusters) if kind == "ours" else Raw(address, clusters)
    await plane.start()
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).split():
        if line[0] == b"change":
            await plane.change(int(line[1]))
        print(f"done {plane.encodings}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
