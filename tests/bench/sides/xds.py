"""What a data plane is told of over delta xDS, and the raw arm that tells it: builds an assignment, and sends it.

As a target it is read by `follow`, as a client that is subscribed to every service of the fleet; the raw arm writes to
it with `put`, which is the smallest control plane there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio
import msgspec
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.service.discovery.v3 import discovery_pb2 as discovery

from tests.bench import records
from tests.bench.sides import Record
from tests.bench.sides.etcd import Kratos
from tests.servers import ports

LINK: dict[str, Any] = {"port": "grpc"}
LOCK_TTL = 1.0  # an export needs no lock, and borrows none
NOTE = ""
ARMS = ("/bench/ours/", "/bench/raw/", "/bench/again/")  # each answers at a port of its own
FLEET = 1_000  # instances of the fleet
TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
OPTIONS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", -1))


class Addresses(NamedTuple):
    """Where the arms answer, joined by commas: there is no server but theirs."""

    address: str

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@asynccontextmanager
async def server(folder: Path, name: str, arms: int) -> AsyncIterator[Addresses]:
    some = ports.reserve(len(ARMS))
    try:
        yield Addresses(",".join(f"127.0.0.1:{port}" for port in some))
    finally:
        ports.release(some)


def address_of(address: str, prefix: str) -> str:
    """That of the arm with this prefix."""
    return address.split(",")[ARMS.index(prefix)]


def open(address: str, prefix: str) -> Xds:
    return Xds(address_of(address, prefix))


def block(address: str, prefix: str) -> dict[str, Any]:
    return {"kind": "xds", "listen": address_of(address, prefix)}


class Xds:
    """See `tests.bench.sides.Side`."""

    shape = Kratos
    takes_bytes = True  # those of the source's layout, which `put` decodes

    def __init__(self, address: str) -> None:
        self._address = address
        self._served: dict[str, dict[str, Kratos]] = {}
        self._server: Any = None
        self._streams: dict[Any, set[str]] = {}
        self._turn = asyncio.Lock()
        self._decoder = msgspec.json.Decoder(Kratos)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._server is not None:
            await self._server.stop(None)

    # -- what a data plane hears --

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        yield []
        marks: dict[str, int] = {}
        async with grpc.aio.insecure_channel(self._address, OPTIONS) as channel:
            call: Any = subscribed(channel)
            names = [records.path(number).partition("/")[0] for number in range(0, FLEET, records.SIZE)]
            await call.write(
                discovery.DeltaDiscoveryRequest(node={"id": "bench"}, type_url=TYPE, resource_names_subscribe=names)
            )
            while (response := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                lot = [
                    (path, b'"commit":"0-%d"' % mark)
                    for each in response.resources
                    for path, mark in _marks(each.resource.value)
                    if marks.get(path) != mark
                ]
                yield lot
                marks |= {path: records.mark(value) for path, value in lot}
                await call.write(discovery.DeltaDiscoveryRequest(type_url=TYPE, response_nonce=response.nonce))

    # -- the raw arm --

    async def put(self, path: str, value: bytes) -> None:
        if self._server is None:
            await self._serve()
        service, _, id = path.partition("/")
        instances = self._served.setdefault(service, {})
        instances[id] = self._decoder.decode(value)
        body = discovery.DeltaDiscoveryResponse(
            type_url=TYPE, nonce="1", resources=[self._resource(service)]
        ).SerializeToString()
        for context, names in list(self._streams.items()):
            if service in names:
                await self._send(context, body)

    def _resource(self, service: str) -> discovery.Resource:
        made = ClusterLoadAssignment(cluster_name=service)
        group = made.endpoints.add()
        group.locality.SetInParent()
        for one in self._served.get(service, {}).values():
            host, _, port = one.endpoints[0].removeprefix("grpc://").rpartition(":")
            endpoint = group.lb_endpoints.add()
            endpoint.endpoint.address.socket_address.address = host
            endpoint.endpoint.address.socket_address.port_value = int(port)
            endpoint.load_balancing_weight.value = 100
            fields = endpoint.metadata.filter_metadata["envoy.lb"].fields
            for key, text in (one.metadata or {}).items():
                fields[key].string_value = text
        group.load_balancing_weight.value = 100 * len(group.lb_endpoints) or 1
        found = discovery.Resource(name=service, version="1")
        found.resource.type_url, found.resource.value = TYPE, made.SerializeToString()
        return found

    async def _serve(self) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery.DeltaDiscoveryRequest.FromString,
            response_serializer=lambda body: body,
        )
        methods = {"DeltaAggregatedResources": handler}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def _stream(self, _: object, context: Any) -> None:
        names = self._streams[context] = set()
        while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            fresh = set(request.resource_names_subscribe) - names
            names |= fresh
            if known := [self._resource(name) for name in fresh if name in self._served]:
                response = discovery.DeltaDiscoveryResponse(type_url=TYPE, nonce="1", resources=known)
                await self._send(context, response.SerializeToString())
        del self._streams[context]

    async def _send(self, context: Any, body: bytes) -> None:
        async with self._turn:  # grpc takes one at a time
            await context.write(body)

    # -- what it has no natives for --

    def encode(self, native: records.Native) -> bytes:
        raise NotImplementedError

    def decode(self, path: str, value: bytes) -> records.Native:
        raise NotImplementedError

    def value(self, number: int, mark: int = 0) -> bytes:
        raise NotImplementedError

    async def register(self, lot: Sequence[Record]) -> None:
        raise NotImplementedError

    async def deregister(self, paths: Sequence[str]) -> None:
        raise NotImplementedError

    async def put_many(self, lot: Sequence[Record]) -> None:
        raise NotImplementedError

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        raise NotImplementedError
        yield []

    async def writes(self) -> int:
        raise NotImplementedError


def subscribed(channel: grpc.aio.Channel) -> Any:
    """A delta stream, which waits for whoever will listen there."""
    method: Any = channel.stream_stream(
        f"/{SERVICE}/DeltaAggregatedResources",
        request_serializer=discovery.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=discovery.DeltaDiscoveryResponse.FromString,
    )
    return method(wait_for_ready=True)


def _marks(body: bytes) -> list[tuple[str, int]]:
    """By path, which is told by the address: the fleet's number is in it."""
    found = []
    for locality in ClusterLoadAssignment.FromString(body).endpoints:
        for each in locality.lb_endpoints:
            first, second, third = map(int, each.endpoint.address.socket_address.address.split(".")[1:])
            commit = each.metadata.filter_metadata["envoy.lb"].fields["commit"].string_value
            found.append((records.path(first << 16 | second << 8 | third), int(commit.rpartition("-")[2])))
    return found
