"""The aggregated discovery service over gRPC: a task that reads and one that writes for each client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from google.protobuf.message import DecodeError

from adapters.common.credentials import Pems, Tls
from adapters.common.listen import Listen
from adapters.xds.resources import EVERYBODY, Served, View
from adapters.xds.stream import Asking, Stream
from bridge.adapter import Certainty, Client, Concern, Reader
from bridge.errors import Denied, Rejected, Unavailable
from bridge.model import ServiceName
from mappings.xds_resources import Near

log = logging.getLogger("isthmus.xds")

EOF: Any = getattr(grpc.aio, "EOF")  # the stubs of grpc do not have it  # noqa: B009
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SHOWN = 5  # names in one line
NAME = 200  # characters of what a client says of itself that are kept
STUCK = 10.0  # seconds after which a client that neither accepts nor refuses is said
LOOK = 5.0  # seconds between two looks for those
MANY = 1_000  # names in one request, from which on it is compared with those of others
ALIKE = 8  # of such requests that are kept for that
GRACE = 0.2  # seconds that calls under way get when the server stops
OPTIONS = (
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),  # a client that comes back lists all that it has
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # two daemons on one address would share its clients without a word
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),  # the bootstrap has clients ask every five seconds
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)


class Connected:
    """One stream of one client."""

    def __init__(self, stream: Stream, address: str) -> None:
        self.stream = stream
        self.address = address
        self.name = ""
        self.view = EVERYBODY
        self.is_known = False  # it has said where it is
        self.looks_up = True  # it takes host names
        self.since = self.seen = time.time()
        self.more = asyncio.Event()
        self.is_stuck = False
        self.is_ended = False  # it asks no more

    @property
    def behind(self) -> float:
        """Seconds that its oldest response has not been answered."""
        waiting = [topic.sent.at for topic in self.stream.topics.values() if topic.sent is not None]
        return time.monotonic() - min(waiting) if waiting else 0.0

    def told(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the names that it has asked for."""
        topics = [topic for topic in self.stream.topics.values() if topic.asked]
        return frozenset(name for name in names if any(topic.wants(name) for topic in topics))

    def shown(self, looked_up: Collection[str]) -> Client:
        """As `clients` has it. `looked_up`: names of which it is told no address, where it looks none up."""
        topics = {type.rpartition(".")[2]: topic for type, topic in self.stream.topics.items() if topic.asked}
        refused = {
            f"{type} {name}": reason for type, topic in topics.items() for name, (_, reason) in topic.refused.items()
        }
        sent = {type: f"{len(topic.has)} accepted" for type, topic in topics.items()}
        if not self.looks_up and (empty := sorted(self.told(looked_up))):
            sent["empty"] = f"{', '.join(empty[:SHOWN])}: gRPC looks no host name up"
        return Client(
            name=self.name,
            address=self.address,
            since=self.since,
            seen=self.seen,
            sent=sent,
            behind=self.behind,
            refused=refused,
            network=self.view.network,
        )


class Ads:
    """The server. `tls`: its certificate and key, and the authority of its clients' certificates.

    `priority`: whether other zones, or other regions, than a client's own are behind it.
    """

    def __init__(self, listen: Listen, served: Served, tls: Tls | None, priority: str | None = None) -> None:
        self._listen = listen
        self._served = served
        self._tls = tls
        self._priority = priority
        self._connected: set[Connected] = set()

    @property
    def clients(self) -> Sequence[Client]:
        """See `Export.clients`."""
        return [one.shown(self._served.looked_up) for one in sorted(self._connected, key=lambda one: one.since)]

    def readers(self, service: ServiceName) -> list[Reader]:
        """The clients that are told of a service, by the name that they ask for."""
        names = self._served.names(service)
        return [
            Reader(
                who=f"{one.name or 'unnamed'} at {one.address}",
                certainty=Certainty.KNOWN,
                evidence=f"has asked for {', '.join(sorted(told))}",
                at=one.seen,
            )
            for one in sorted(self._connected, key=lambda one: one.since)
            if (told := names & one.told(names))
        ]

    def kinds(self, service: ServiceName) -> set[str]:
        """Of which kind the clients are that are told of a service."""
        names = self._served.names(service)
        return {"envoy" if one.looks_up else "grpc" for one in self._connected if names & one.told(names)}

    @property
    def notes(self) -> Sequence[str]:
        """Where it answers, and whom."""
        proofs = self._served.proofs
        left_out = proofs.notes if proofs is not None else []
        hosts = sorted(self._served.looked_up)
        more = f" and {len(hosts) - SHOWN} more" if len(hosts) > SHOWN else ""
        named = f"Envoy alone is told the addresses of {', '.join(hosts[:SHOWN])}{more}: they have host names"
        said = f"answers xDS at {self._listen}, {len(self._connected)} streams"
        clashes = [f"warning: {each}" for each in self._served.clashes]
        return [said, *([named] if hosts else []), *clashes, *left_out]

    @property
    def concerns(self) -> Sequence[Concern]:
        """See `Concerned`."""
        return self._served.proofs.concerns() if self._served.proofs is not None else ()

    async def serve(self) -> None:
        """Never returns. Raises Unavailable where it cannot listen, Denied where its certificates cannot be used."""
        server = grpc.aio.server(options=OPTIONS)
        methods = {
            "StreamAggregatedResources": _method(self._world, discovery.DiscoveryRequest),
            "DeltaAggregatedResources": _method(self._delta, discovery.DeltaDiscoveryRequest),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            if self._tls is None:
                server.add_insecure_port(str(self._listen))
            else:
                server.add_secure_port(str(self._listen), _credentials(self._tls))
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {self._listen}: is it taken?") from error
        await server.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow())
                tasks.create_task(self._watch())
                tasks.create_task(self._prove())
        finally:
            await server.stop(GRACE)

    async def _follow(self) -> None:
        """Wakes every client when something is served anew."""
        picture = self._served.picture
        while True:
            standing = picture.standing
            self._served.refresh()
            for one in self._connected:
                one.more.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._served.pace.due):
                    await picture.newer(standing)

    async def _prove(self) -> None:
        """Asks instances whose health checks are left out, as often as an Envoy would."""
        proofs = self._served.proofs
        while proofs is not None:
            await proofs.more.wait()
            await self._served.prove()
            for one in self._connected:
                one.more.set()
            if next(proofs.open(), None) is not None:
                await asyncio.sleep(proofs.interval)
                proofs.more.set()

    async def _watch(self) -> None:
        """Says which clients neither accept nor refuse: some stop reading for good and go on with what they have."""
        while True:
            await asyncio.sleep(LOOK)
            for one in self._connected:
                if (is_stuck := one.behind > STUCK) != one.is_stuck:
                    one.is_stuck = is_stuck
                    log.warning("%s client=%r address=%s", "stuck" if is_stuck else "goes on", one.name, one.address)

    async def _world(self, context: Any) -> None:
        await self._converse(context, False, _asking_world)

    async def _delta(self, context: Any) -> None:
        await self._converse(context, True, _asking_delta)

    async def _converse(self, context: Any, delta: bool, asking: Callable[[Any], Asking]) -> None:
        one = Connected(Stream(self._served.view(EVERYBODY), time.monotonic, delta=delta), context.peer())
        self._connected.add(one)
        writing = asyncio.create_task(self._write(context, one))
        try:
            while (request := await context.read()) is not EOF and request is not None:
                if request.HasField("node"):
                    try:
                        self._greet(one, request.node, delta)
                    except Rejected as error:
                        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
                one.seen = time.time()
                asked = asking(request)
                if asked.refusal is not None:
                    log.warning("refused client=%r type=%s reason=%r", one.name, asked.type, asked.refusal[:500])
                one.stream.take(asked)
                if one.stream.is_due:
                    one.more.set()
            # A status while a response is under way is refused by grpc, and the client would wait for it for ever.
            one.is_ended = True
            one.more.set()
            await writing
            if request is None:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "these bytes are no request of xDS v3")
        finally:
            self._connected.discard(one)
            self._served.keep({each.view for each in self._connected})
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    def _greet(self, one: Connected, node: Any, delta: bool) -> None:
        """Who a client is, and by that what it is told; said with its first request."""
        one.name = node.id[:NAME]
        if one.is_known:
            return
        one.is_known = True
        network = node.metadata.fields["network"].string_value[:NAME] if "network" in node.metadata.fields else ""
        picture, there = self._served.picture, node.locality
        near = self._near(there.region[:NAME], there.zone[:NAME])
        one.view = View("" if network == picture.own else network, near)
        one.looks_up = not node.user_agent_name.lower().startswith("grpc")
        kinds = self._served.view(one.view, looks_up=one.looks_up)
        one.stream = Stream(kinds, time.monotonic, delta=delta)

    def _near(self, region: str, zone: str) -> Near:
        """What of a client's locality counts, by `priority` of the block."""
        return Near(region if self._priority else "", zone if self._priority == "zone" else "")

    async def _write(self, context: Any, one: Connected) -> None:
        """Nothing that is not known whole: a client keeps what it has while nobody says anything."""
        while not one.is_ended:
            one.more.clear()
            while (response := one.stream.next(self._served.ready)) is not None:
                await context.write(response)
                if one.is_ended:
                    return
            await one.more.wait()


def _method(handler: Callable[[Any], Any], request: Any) -> Any:
    async def called(_: object, context: Any) -> None:
        await handler(context)

    return grpc.stream_stream_rpc_method_handler(
        called, request_deserializer=partial(_decoded, request), response_serializer=lambda body: body
    )


def _decoded(kind: Any, body: bytes) -> Any:
    """The request, None where the bytes are none: an error here would be an exception of ours to grpc."""
    try:
        return kind.FromString(body)
    except DecodeError:
        return None


def _asking_world(request: Any) -> Asking:
    refusal = request.error_detail.message if request.HasField("error_detail") else None
    return Asking(request.type_url, request.response_nonce, refusal, list(request.resource_names))


def _asking_delta(request: Any) -> Asking:
    """What is asked. Who begins with a whole fleet by name often begins as others did: its names are read once."""
    if len(request.resource_names_subscribe) < MANY or request.initial_resource_versions:
        return _read(request)
    request.ClearField("node")
    return _alike(request.SerializeToString())


@lru_cache(maxsize=ALIKE)
def _alike(body: bytes) -> Asking:
    return _read(discovery.DeltaDiscoveryRequest.FromString(body))


def _read(request: Any) -> Asking:
    return Asking(
        request.type_url,
        request.response_nonce,
        request.error_detail.message if request.HasField("error_detail") else None,
        tuple(request.resource_names_subscribe),
        tuple(request.resource_names_unsubscribe),
        dict(request.initial_resource_versions),
    )


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Read again for each connection whose files changed, so that certificates rotate without a restart."""
    shown = Pems()

    def configuration() -> Any:
        nonlocal shown
        now = shown.read(tls)
        if now is shown:
            return None
        shown = now
        pair = (now.key or b"", now.cert or b"")
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=now.ca)

    def fresh() -> Any:
        try:
            return configuration()
        except Unavailable as error:
            log.warning("certificates cannot be read, the last ones stay: %s", error)
            return None

    try:
        first = configuration()
    except Unavailable as error:
        raise Denied(str(error)) from error
    return grpc.dynamic_ssl_server_credentials(first, fresh, require_client_authentication=tls.ca is not None)
