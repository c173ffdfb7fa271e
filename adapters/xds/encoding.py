"""Responses as bytes: what many clients are told alike is encoded once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2 as discovery

from mappings.xds_resources import Resource

_NUMBERS = itertools.count(1)


@lru_cache(maxsize=64)
def encoded(
    type: str, found: tuple[Resource, ...], gone: tuple[str, ...], *, delta: bool, version: str, number: str
) -> bytes:
    """A response with that nonce, at its end."""
    return (_delta(type, found, gone, version) if delta else _world(type, found, version)) + nonce(number)


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
    """The field that tells responses apart: number 5, a text, in both variants. Of two the last one counts."""
    body = text.encode()
    return bytes((0x2A, len(body))) + body


class Batch:
    """What one response says of resources that are there, put together once for all clients that are told it.

    Its nonce is the same for all, or each client would cost a copy of the whole: on a stream a nonce only has to be
    another one than that of the response before.
    """

    def __init__(self, found: tuple[Resource, ...]) -> None:
        self.found = found
        self.names: Mapping[str, str] = {one.name: one.version for one in found}
        said = "".join(f"{one.name} {one.version}\n" for one in found)
        # The same for the same content, whoever serves it.
        self.version = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        self._number = str(next(_NUMBERS))
        self._bodies: dict[tuple[str, bool], bytes] = {}

    def body(self, type: str, gone: tuple[str, ...], *, delta: bool, last: str) -> tuple[str, bytes]:
        """A nonce, and the response with it, in which these are gone. `last`: the nonce of the response before."""
        if gone:
            body = self._encoded(type, gone, delta)
        elif (found := self._bodies.get((type, delta))) is not None:
            body = found
        else:
            body = self._bodies[type, delta] = self._encoded(type, (), delta)
        if last != self._number:
            return self._number, body
        another = f"{self._number}'"
        return another, body + nonce(another)

    def _encoded(self, type: str, gone: tuple[str, ...], delta: bool) -> bytes:
        return encoded(type, self.found, gone, delta=delta, version=self.version, number=self._number)


@lru_cache(maxsize=64)
def batch(found: tuple[Resource, ...]) -> Batch:
    """The one of these resources."""
    return Batch(found)
