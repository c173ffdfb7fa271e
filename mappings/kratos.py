"""The records of go-kratos in etcd (and ZooKeeper): JSON below `/microservices/`, one URL for each port.

Source: go-kratos contrib/registry/etcd, seen with v2.9.2. One value that a reader cannot decode fails its whole
lookup, and a record whose name is not the service's is dropped without a word: such values are never written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import parse_qs

import msgspec

from bridge.errors import Rejected, Undecodable
from bridge.model import Instance, Port, ServiceName, Traits
from mappings import gojson, hostport, keys, shared

NAME = "kratos"
PREFIX = "/microservices/"
PROTOCOL = ""  # the URL's scheme says it
TRAITS = Traits(fields=frozenset({"id", "address", "ports", "version", "metadata"}), port_names=False)

# transport/http and transport/grpc of kratos announce TLS by the scheme (internal/endpoint: scheme + "s").
_PLAIN = {"grpcs": "grpc", "https": "http", "wss": "ws"}
_SECURE = {plain: secure for secure, plain in _PLAIN.items()}


_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*").fullmatch
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL).fullmatch


class _Record(msgspec.Struct, gc=False):
    id: str = ""
    name: str = ""
    version: str = ""
    metadata: msgspec.Raw = shared.NULL
    endpoints: list[str] | None = None


class _Written(msgspec.Struct, gc=False):
    id: str
    name: str
    version: str
    metadata: dict[str, str] | None
    endpoints: list[str]


class _Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`id`: the record's own, where the key differs. `tails`: what follows each URL's port. `empty`: {} for null."""

    id: str | None = None
    tails: tuple[str, ...] = ()
    empty: bool = False


_RECORD = msgspec.json.Decoder(_Record)
_KEPT = msgspec.json.Decoder(_Kept)
_NOTHING = _Kept()

locate = keys.split


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = _RECORD.decode(value)
        raw = bytes(record.metadata)
        metadata = shared.strings(raw)
        address, ports, tails = _endpoints(record.endpoints)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"not a kratos record: {error}") from None
    if record.name != name.name:
        raise Undecodable(f"kratos drops it: the record says {record.name!r} under {name.name!r}")
    native = shared.EMPTY
    if tails or record.id != id or (not metadata and raw != b"null"):
        native = shared.dump(
            NAME, _Kept(record.id if record.id != id else None, tails, not metadata and raw != b"null")
        )
    return Instance(id, address, ports, version=record.version, metadata=metadata, native=native)


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    key = keys.join(name, instance.id)
    kept = shared.load(instance, NAME, _KEPT, _NOTHING)
    address = hostport.address_of(instance)
    record = _Written(
        id=instance.id if kept.id is None else kept.id,
        name=name.name,
        version=instance.version,
        metadata=instance.metadata or ({} if kept.empty else None),
        endpoints=[
            f"{scheme}://{hostport.join(address, port.number)}{tail}"
            for port, (scheme, tail) in zip(instance.ports, _schemes(instance, kept), strict=True)
        ],
    )
    return key, gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    keys.join(name, instance.id)
    kept = shared.load(instance, NAME, _KEPT, _NOTHING)
    schemes = _schemes(instance, kept)
    native = shared.EMPTY
    tails = tuple([tail for _, tail in schemes])
    if kept is not _NOTHING or any(tails):
        native = shared.dump(
            NAME,
            _Kept(
                kept.id if kept.id != instance.id else None,
                tails if any(tails) else (),
                kept.empty and not instance.metadata,
            ),
        )
    made = Instance(
        instance.id,
        hostport.address_of(instance),
        tuple([_port(port.number, scheme, tail) for port, (scheme, tail) in zip(instance.ports, schemes, strict=True)]),
        version=instance.version,
        metadata=instance.metadata,
        native=native,
    )
    return instance if made == instance else made


def _endpoints(urls: list[str] | None) -> tuple[str, tuple[Port, ...], tuple[str, ...]]:
    """The one host, the ports, and what follows them in the URLs (nothing at all: an empty tuple)."""
    if not urls:
        raise ValueError("no endpoints")
    address = ""
    ports = []
    tails = []
    for url in urls:
        parts = _URL(url)
        if not parts:
            raise ValueError(f"no URL: {url!r}")
        scheme, authority, tail = parts.groups()
        host, number = hostport.split(authority)
        if address and host != address:
            raise ValueError(f"endpoints on several hosts: {address} and {host}")
        address = host
        ports.append(_port(number, scheme.lower(), tail))
        tails.append(tail)
    return address, tuple(ports), tuple(tails) if any(tails) else ()


@lru_cache(maxsize=4096)
def _port(number: int, scheme: str, tail: str) -> Port:
    return Port(number, scheme, _PLAIN.get(scheme, scheme), scheme in _PLAIN or _secure(tail))


@lru_cache(maxsize=256)
def _secure(tail: str) -> bool:
    """Whether the query says `isSecure=true`, as kratos before 2.6 wrote it."""
    return parse_qs(tail.partition("#")[0].partition("?")[2]).get("isSecure", [""])[0].lower() == "true"


def _schemes(instance: Instance, kept: _Kept) -> list[tuple[str, str]]:
    """Scheme and tail of each port's URL."""
    if not instance.ports:
        raise Rejected("no port")
    tails = kept.tails if len(kept.tails) == len(instance.ports) else ("",) * len(instance.ports)
    return [_scheme(hostport.dialable(port), tail) for port, tail in zip(instance.ports, tails, strict=True)]


@lru_cache(maxsize=4096)
def _scheme(port: Port, tail: str) -> tuple[str, str]:
    said = port.protocol or (port.name if port.name in _SECURE or port.name in _PLAIN else "")
    if not said:
        raise Rejected(f"the protocol of port {port.number} is not known: set `protocol:` on its registry")
    protocol = _PLAIN.get(said, said)
    tls = port.tls or said in _PLAIN
    if not _SCHEME(protocol):
        raise Rejected(f"protocol {protocol!r} cannot be a URL's scheme")
    if not tls:
        return protocol, "" if _secure(tail) else tail
    if _secure(tail) and port.name == protocol:
        return protocol, tail
    if protocol in _SECURE:
        return _SECURE[protocol], tail
    return protocol, tail if _secure(tail) else "?isSecure=true"
