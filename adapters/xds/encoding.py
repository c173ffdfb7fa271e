"""Responses as bytes: what many clients are told alike is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from mappings.xds_resources import Resource


@lru_cache(maxsize=64)
def encoded(type: str, found: tuple[Resource, ...], gone: tuple[str, ...], *, delta: bool, version: str) -> bytes:
    """A response without its nonce, which is a field of its own at the end: fields may be encoded apart and joined."""
    return _delta(type, found, gone, version) if delta else _world(type, found, version)


def _delta(type: str, found: tuple[Resource, ...], gone: tuple[str, ...], version: str) -> bytes:
    message: Any = discovery.DeltaDiscoveryResponse(type_url=type, system_version_info=version, removed_resources=gone)
    for one in found:
        resource = message.resources.add(name=one.name, version=one.version)
        resource.resource.type_url, resource.resource.value = type, one.body
    return bytes(message.SerializeToString())


def _world(type: str, found: tuple[Resource, ...], version: str) -> bytes:
    message: Any = discovery.DiscoveryResponse(type_url=type, version_info=version)
    for one in found:
        resource = message.resources.add()
        resource.type_url, resource.value = type, one.body
    return bytes(message.SerializeToString())


def nonce(text: str) -> bytes:
    """The field that differs from client to client, to be put behind: number 5, a text, in both variants."""
    body = text.encode()
    return bytes((0x2A, len(body))) + body


class Batch:
    """What one response says of resources that are there, put together once for all clients that are told it."""

    def __init__(self, found: tuple[Resource, ...]) -> None:
        self.found = found
        self.names: Mapping[str, str] = {one.name: one.version for one in found}
        said = "".join(f"{one.name} {one.version}\n" for one in found)
        # The same for the same content, whoever serves it.
        self.version = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        self._bodies: dict[tuple[str, bool], bytes] = {}

    def body(self, type: str, gone: tuple[str, ...], *, delta: bool) -> bytes:
        """The response without its nonce, in which these are gone."""
        if gone:
            return encoded(type, self.found, gone, delta=delta, version=self.version)
        if (type, delta) not in self._bodies:
            self._bodies[type, delta] = encoded(type, self.found, (), delta=delta, version=self.version)
        return self._bodies[type, delta]


@lru_cache(maxsize=64)
def batch(found: tuple[Resource, ...]) -> Batch:
    """The one of these resources."""
    return Batch(found)
