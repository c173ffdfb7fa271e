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
_END = re.compile(r"([^/?#]*)(.*)", re.DOTALL).fullmatch


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
    native = _native(record.id, id, tails, not metadata and raw != b"null")
    return Instance(id, address, ports, version=shared.text(record.version), metadata=metadata, native=native)


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    key = keys.join(name, instance.id)
    kept = shared.load(instance, NAME, _KEPT, _NOTHING)
    address = hostport.address_of(instance)
    host = f"[{address}]" if ":" in address else address
    ports, tails = _written(instance.ports, kept.tails)
    record = _Written(
        id=instance.id if kept.id is None else kept.id,
        name=name.name,
        version=instance.version,
        metadata=instance.metadata or ({} if kept.empty else None),
        endpoints=[f"{port.name}://{host}:{port.number}{tail}" for port, tail in zip(ports, tails, strict=True)],
    )
    return key, gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    keys.join(name, instance.id)
    kept = shared.load(instance, NAME, _KEPT, _NOTHING)
    ports, tails = _written(instance.ports, kept.tails)
    id = instance.id if kept.id is None else kept.id
    made = Instance(
        instance.id,
        hostport.address_of(instance),
        ports,
        version=instance.version,
        metadata=instance.metadata,
        native=_native(id, instance.id, tails, kept.empty and not instance.metadata),
    )
    return instance if made == instance else made


def _native(said: str, id: str, tails: tuple[str, ...], empty: bool) -> dict[str, str]:
    if said == id and not empty and not any(tails):
        return shared.EMPTY
    return shared.dump(NAME, _Kept(None if said == id else said, tails if any(tails) else (), empty))


def _endpoints(urls: list[str] | None) -> tuple[str, tuple[Port, ...], tuple[str, ...]]:
    """The one host of all, the ports, and what follows each in its URL."""
    address = ""
    said = None
    ends = []
    for url in urls or ():
        scheme, colon, rest = url.partition("://")
        if not colon:
            raise ValueError(f"no URL: {url!r}")
        if rest.startswith("["):
            host, _, end = rest.partition("]:")
        else:
            host, _, end = rest.partition(":")
        if host != said:
            known, address, said = address, hostport.host(host.removeprefix("[")), host
            if known and address != known:
                raise ValueError(f"endpoints on several hosts: {known} and {address}")
        ends.append((scheme, end))
    return address, *_read(tuple(ends))


@lru_cache(maxsize=8192)
def _read(ends: tuple[tuple[str, str], ...]) -> tuple[tuple[Port, ...], tuple[str, ...]]:
    """The ports and what follows them, of each URL's scheme and all that stands behind its host."""
    if not ends:
        raise ValueError("no endpoints")
    ports = []
    tails = []
    for scheme, end in ends:
        number, tail = _END(end).groups()  # type: ignore[union-attr]  # matches any text
        ports.append(_port(hostport.port_number(number), scheme.lower(), tail))
        tails.append(tail)
    return tuple(ports), tuple(tails)


@lru_cache(maxsize=8192)
def _written(ports: tuple[Port, ...], tails: tuple[str, ...]) -> tuple[tuple[Port, ...], tuple[str, ...]]:
    """The ports as they will be read, named by the scheme of their URL, and what follows each there."""
    if not ports:
        raise Rejected("no port")
    if len(tails) != len(ports):
        tails = ("",) * len(ports)
    pairs = [_scheme(hostport.dialable(port), tail) for port, tail in zip(ports, tails, strict=True)]
    read = [_port(port.number, scheme, tail) for port, (scheme, tail) in zip(ports, pairs, strict=True)]
    return tuple(read), tuple([tail for _, tail in pairs])


def _port(number: int, scheme: str, tail: str) -> Port:
    if not _SCHEME(scheme):
        raise ValueError(f"{scheme!r} is no scheme of a URL")
    return Port(number, scheme, _PLAIN.get(scheme, scheme), scheme in _PLAIN or _secure(tail))


def _secure(tail: str) -> bool:
    """Whether the query says `isSecure=true`, as kratos wrote it once."""
    return parse_qs(tail.partition("#")[0].partition("?")[2]).get("isSecure", [""])[0].lower() == "true"


def _scheme(port: Port, tail: str) -> tuple[str, str]:
    """The scheme that says the port's protocol and TLS, and the tail, which once said the latter."""
    said = port.protocol or (port.name if port.name in _SECURE or port.name in _PLAIN else "")
    if not said:
        raise Rejected(f"the protocol of port {port.number} is not known: set `protocol:` on its registry")
    protocol = _PLAIN.get(said, said)
    if not _SCHEME(protocol):
        raise Rejected(f"protocol {protocol!r} cannot be the scheme of a URL")
    if not port.tls and said == protocol:
        return protocol, "" if _secure(tail) else tail
    if _secure(tail) and port.name == protocol:
        return protocol, tail
    if protocol in _SECURE:
        return _SECURE[protocol], tail
    return protocol, tail if _secure(tail) else "?isSecure=true"
