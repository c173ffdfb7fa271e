"""A client of the aggregated discovery service, in both variants, that accepts or refuses by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2 as discovery

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
PREFIX = "type.googleapis.com/envoy.config."
CLUSTER = "cluster.v3.Cluster"
ENDPOINTS = "endpoint.v3.ClusterLoadAssignment"
LISTENER = "listener.v3.Listener"
ROUTES = "route.v3.RouteConfiguration"
PATIENCE = 20.0  # seconds in which an answer comes


class Told(NamedTuple):
    """One response: by name what is there (state of the world: numbered, for it has no names), and what is gone."""

    type: str
    found: Mapping[str, bytes]
    versions: Mapping[str, str]
    gone: tuple[str, ...]
    version: str
    nonce: str


class Conversation:
    """One stream. `ask` and `told` are its two directions; each response is to be accepted or refused."""

    def __init__(
        self,
        call: Any,
        delta: bool,
        node: str,
        metadata: Mapping[str, str] | None = None,
        locality: Mapping[str, str] | None = None,
        agent: str = "",
    ) -> None:
        self._call = call
        self._delta = delta
        self._node: dict[str, Any] | None = {
            "id": node,
            "metadata": dict(metadata or {}),
            "locality": dict(locality or {}),
            "user_agent_name": agent,
        }
        self._names: dict[str, list[str]] = {}
        self._accepted: dict[str, str] = {}

    async def ask(self, type: str, *names: str, known: Mapping[str, str] | None = None) -> None:
        """Subscribes to names; none: to all that there are."""
        self._names[type] = list(names)
        if self._delta:
            await self._send(type, resource_names_subscribe=names, initial_resource_versions=known or {})
        else:
            await self._send(type, resource_names=names, version_info=self._accepted.get(type, ""))

    async def leave(self, type: str, *names: str) -> None:
        """Unsubscribes, in the delta variant."""
        await self._send(type, resource_names_unsubscribe=names)

    async def told(self) -> Told:
        """The next response, not yet answered."""
        async with asyncio.timeout(PATIENCE):
            response = await self._call.read()
        assert response is not grpc.aio.EOF, "the server ended the stream"  # type: ignore[attr-defined]
        type = response.type_url.removeprefix(PREFIX)
        if not self._delta:
            found = {str(number): one.value for number, one in enumerate(response.resources)}
            return Told(type, found, {}, (), response.version_info, response.nonce)
        return Told(
            type,
            {one.name: one.resource.value for one in response.resources},
            {one.name: one.version for one in response.resources},
            tuple(response.removed_resources),
            response.system_version_info,
            response.nonce,
        )

    async def accept(self, told: Told) -> None:
        """It is in use."""
        self._accepted[told.type] = told.version
        await self._answer(told, None)

    async def refuse(self, told: Told, reason: str) -> None:
        """It is not."""
        await self._answer(told, reason)

    async def next(self) -> Told:
        """The next response, accepted."""
        told = await self.told()
        await self.accept(told)
        return told

    async def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        reading = asyncio.ensure_future(self._call.read())
        done, _ = await asyncio.wait((reading,), timeout=seconds)
        reading.cancel()
        return not done

    async def _answer(self, told: Told, reason: str | None) -> None:
        fields: dict[str, Any] = {"response_nonce": told.nonce}
        if reason is not None:
            fields["error_detail"] = {"code": 3, "message": reason}
        if not self._delta:
            fields |= {
                "resource_names": self._names.get(told.type, []),
                "version_info": self._accepted.get(told.type, ""),
            }
        await self._send(told.type, **fields)

    async def _send(self, type: str, **fields: Any) -> None:
        kind = discovery.DeltaDiscoveryRequest if self._delta else discovery.DiscoveryRequest
        node, self._node = self._node, None
        await self._call.write(kind(type_url=PREFIX + type, node=node, **fields))


class Ads:
    """The service at the other end of a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    @asynccontextmanager
    async def delta(
        self, node: str = "a-client", *, network: str = "", agent: str = "", **locality: str
    ) -> AsyncIterator[Conversation]:
        """A stream in the delta variant, from a client that may say where it is."""
        async with self._stream("Delta", discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse) as call:
            yield Conversation(call, True, node, {"network": network} if network else None, locality, agent)

    @asynccontextmanager
    async def world(
        self, node: str = "a-client", metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[Conversation]:
        """A stream in the variant that tells the state of the world."""
        async with self._stream("Stream", discovery.DiscoveryRequest, discovery.DiscoveryResponse) as call:
            yield Conversation(call, False, node, metadata)

    @asynccontextmanager
    async def _stream(self, word: str, request: Any, response: Any) -> AsyncIterator[Any]:
        method: Any = self._channel.stream_stream(
            f"{SERVICE}{word}AggregatedResources",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        call = method()
        try:
            yield call
        finally:
            call.cancel()


def names(resources: Iterable[bytes], message: Any) -> list[str]:
    """The names in some encoded resources, which state-of-the-world responses do not say beside them."""
    field = "cluster_name" if message.DESCRIPTOR.name == "ClusterLoadAssignment" else "name"
    return sorted(getattr(message.FromString(one), field) for one in resources)
