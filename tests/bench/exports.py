"""Rows of exports: what a change costs a hundred clients, cold starts, memory, reconnects, and one large document."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2 as discovery

from adapters.common.document import Document
from adapters.common.export import ExportSink, picture
from mappings import prometheus
from tests.bench import machine, planes
from tests.bench.figures import ratio
from tests.bench.sides.xds import OPTIONS, SERVICE, TYPE
from tests.bench.stage import Stage
from tests.bench.table import Row
from tests.servers import ports

LOCAL = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))  # a connection for each client
QUIET = 2.0  # seconds in which what is said of an unchanged picture would have come
KINDS = ("ours", "raw")


class Plane:
    """A control plane as a process, and its clients' streams, which are here."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.pid = process.pid
        self.address = address
        self._process = process

    async def ask(self, words: str) -> int:
        """Tells it; how often it has encoded a response until then."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{words}\n".encode())
        return int((await self._process.stdout.readline()).split()[1])


@asynccontextmanager
async def plane(kind: str, clusters: int) -> AsyncIterator[Plane]:
    (port,) = ports.reserve(1)
    address = f"127.0.0.1:{port}"
    words = [sys.executable, "-m", "tests.bench.planes", kind, address, str(clusters)]
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield Plane(process, address)
    finally:
        process.kill()
        await process.wait()
        ports.release([port])


class Client:
    """One stream, subscribed to the endpoints of all clusters; it accepts what it is told and decodes none of it."""

    def __init__(self, address: str, clusters: int) -> None:
        self._names = [planes.name(each) for each in range(clusters)]
        self._address = address
        self.responses = 0
        self.resources = 0
        self.size = 0
        self.arrived = asyncio.Event()

    async def run(self, known: dict[str, str] | None = None, *, counts: bool = False) -> None:
        """Until it is cancelled. `known`: what it has already; `counts`: it looks at what it is told."""
        async with grpc.aio.insecure_channel(self._address, LOCAL) as channel:
            method: Any = channel.stream_stream(
                f"/{SERVICE}/DeltaAggregatedResources",
                request_serializer=discovery.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=bytes,
            )
            call = method()
            first = discovery.DeltaDiscoveryRequest(
                node={"id": "bench"},
                type_url=TYPE,
                resource_names_subscribe=self._names,
                initial_resource_versions=known or {},
            )
            await call.write(first)
            while isinstance(body := await call.read(), bytes):
                self.responses += 1
                self.size += len(body)
                if counts:
                    self.resources += len(discovery.DeltaDiscoveryResponse.FromString(body).resources)
                self.arrived.set()
                nonce = body[body.rindex(b"\x2a") + 2 :].decode()
                await call.write(discovery.DeltaDiscoveryRequest(type_url=TYPE, response_nonce=nonce))


async def _cold(at: Plane, clusters: int, streams: int) -> tuple[list[Client], list[Any], float, int]:
    """Connects all streams; the clients, their tasks, the seconds until each has all, and the bytes that one gets."""
    clients = [Client(at.address, clusters) for _ in range(streams)]
    began = time.perf_counter()
    tasks = [asyncio.create_task(each.run(counts=number == 0)) for number, each in enumerate(clients)]
    first = clients[0]
    while first.resources < clusters:
        first.arrived.clear()
        await first.arrived.wait()
    for each in clients[1:]:
        while each.size < first.size:
            each.arrived.clear()
            await each.arrived.wait()
    return clients, tasks, time.perf_counter() - began, first.size


async def _change(at: Plane, clients: list[Client], cluster: int) -> int:
    """One endpoint changes, and every stream has heard of it; how many encodings that took."""
    before, wanted = await at.ask("count"), [each.responses + 1 for each in clients]
    after = await at.ask(f"change {cluster}")
    for each, count in zip(clients, wanted, strict=True):
        while each.responses < count:
            each.arrived.clear()
            await each.arrived.wait()
    return max(after, await at.ask("count")) - before


async def planes_rows(stage: Stage, clusters: int, streams: int, rounds: int, changes: int) -> list[Row]:
    """Both planes in turn, cold and changing."""
    cold: list[tuple[list[float], list[float]]] = []
    walls: list[tuple[list[float], list[float]]] = []
    warm: list[tuple[list[float], list[float]]] = []
    told, encodings, memory, sent = 0.0, 0.0, 0.0, 0
    for _ in range(rounds):
        found: dict[str, tuple[float, float, float]] = {}
        for kind in KINDS:
            async with plane(kind, clusters) as at:
                before, empty = machine.cpu(at.pid), machine.pss(at.pid)
                clients, tasks, wall, _ = await _cold(at, clusters, streams)
                spent = machine.cpu(at.pid) - before
                known = clients[0].resources
                begun = machine.cpu(at.pid)
                count = 0
                for number in range(changes):
                    count += await _change(at, clients, number % clusters)
                found[kind] = spent, wall, machine.cpu(at.pid) - begun
                if kind == "ours":
                    told = max(told, (clients[0].resources - known) / changes)
                    encodings = max(encodings, count / changes)
                    memory = (machine.pss(at.pid) - empty) / streams
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if kind == "ours":
                    sent = max(sent, await _again(at, clusters, streams))
        cold.append(([found["ours"][0]], [found["raw"][0]]))
        walls.append(([found["ours"][1]], [found["raw"][1]]))
        warm.append(([found["ours"][2] / changes], [found["raw"][2] / changes]))
    about = {"clusters": clusters, "endpoints": clusters * planes.SIZE, "streams": streams, "changes": changes}
    return [
        Row(name="one endpoint changes: resources a stream", unit="", ours=told, limit=1.0, about=about),
        Row(name="one endpoint changes: encodings", unit="", ours=encodings, limit=1.0, about=about),
        _row("one endpoint changes: server CPU", "ms", warm, 1.5, about, scale=1000),
        _row("cold start of all streams: server CPU", "s", cold, 1.5, about),
        _row("cold start of all streams: until the last has all", "s", walls, 1.5, about),
        Row(name="memory of a stream that has all", unit="B", ours=memory, limit=float("inf"), about=about),
        Row(name="all clients come back: resources sent", unit="", ours=float(sent), limit=0.0, about=about),
    ]


async def _again(at: Plane, clusters: int, streams: int) -> int:
    """Clients that come back with what they have; how many resources they are sent."""
    first = Client(at.address, clusters)
    versions: dict[str, str] = {}
    async with grpc.aio.insecure_channel(at.address, OPTIONS) as channel:
        method: Any = channel.stream_stream(
            f"/{SERVICE}/DeltaAggregatedResources",
            request_serializer=discovery.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery.DeltaDiscoveryResponse.FromString,
        )
        call = method()
        names = [planes.name(each) for each in range(clusters)]
        await call.write(
            discovery.DeltaDiscoveryRequest(node={"id": "first"}, type_url=TYPE, resource_names_subscribe=names)
        )
        while len(versions) < clusters:
            response = await call.read()
            versions |= {each.name: each.version for each in response.resources}
            await call.write(discovery.DeltaDiscoveryRequest(type_url=TYPE, response_nonce=response.nonce))
    clients = [first, *(Client(at.address, clusters) for _ in range(streams - 1))]
    tasks = [asyncio.create_task(each.run(versions, counts=True)) for each in clients]
    await asyncio.sleep(QUIET)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sum(each.resources for each in clients)


async def picture_rows(stage: Stage, clusters: int) -> list[Row]:
    """What an endpoint that is served costs in memory."""
    async with AsyncExitStack() as stack:
        small = await stack.enter_async_context(plane("ours", 1))
        large = await stack.enter_async_context(plane("ours", clusters))
        await asyncio.sleep(QUIET)
        cost = (machine.pss(large.pid) - machine.pss(small.pid)) / ((clusters - 1) * planes.SIZE)
    about = {"endpoints": clusters * planes.SIZE}
    return [Row(name="memory of the served picture, an endpoint", unit="B", ours=cost, limit=float("inf"), about=about)]


async def document_rows(stage: Stage, clusters: int, rounds: int) -> list[Row]:
    """The document of Prometheus: again after one change, by building it whole."""
    shown = picture(None, "sd")
    sink = ExportSink("prometheus:sd", shown, prometheus.TRAITS, prometheus.canonical, "b1")
    await sink.apply([planes.create(each, number) for each in range(clusters) for number in range(planes.SIZE)], None)
    kept = Document(shown, prometheus.groups, prometheus.document)
    kept.body()
    blocks = []
    for number in range(rounds):
        name = planes.create(number, 0).service
        before = (await sink.held([name])).services[name]["i0"]
        await sink.apply([planes.create(number, 0, before, number + 1)], None)
        began = time.perf_counter()
        again = kept.body()
        middle = time.perf_counter()
        whole = Document(shown, prometheus.groups, prometheus.document).body()
        blocks.append(([middle - began], [time.perf_counter() - middle]))
        assert again == whole
    about = {"targets": clusters * planes.SIZE, "bytes": len(whole)}
    return [_row("document after one change, by building it whole", "ms", blocks, 0.1, about, scale=1000)]


async def measure(stage: Stage, quick: bool) -> list[Row]:
    """All of them."""
    clusters, streams = (1_000, 20) if quick else (10_000, 100)
    return [
        *await planes_rows(stage, clusters, streams, 2 if quick else 4, 50 if quick else 200),
        *await picture_rows(stage, clusters),
        *await document_rows(stage, clusters, 5 if quick else 20),
    ]


def _row(
    name: str,
    unit: str,
    blocks: list[tuple[list[float], list[float]]],
    limit: float,
    about: dict[str, Any],
    scale: float = 1.0,
) -> Row:
    ours, raw = (sum(block[arm][0] for block in blocks) / len(blocks) * scale for arm in (0, 1))
    return Row(name=name, unit=unit, ours=ours, raw=raw, ratio=ratio(blocks), limit=limit, about=about)
