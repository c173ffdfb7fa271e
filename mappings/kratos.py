"""The records of go-kratos in etcd: JSON below `/microservices/`, one URL for each port.

Source: go-kratos contrib/registry/etcd, seen with v2.9.2. One value that a reader cannot decode fails its whole
lookup, and a record whose name is not the service's is dropped without a word: such values are never written.

Of the URLs a reader takes the first one with the scheme that it wants. It looks no further than the first text that
is no URL at all, nor than a URL of its scheme without a host. So the instance has the ports that some reader finds, at
the host that has most of those that kratos' own transports dial; the list is written again as it was read.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qs

import msgspec

from bridge.errors import Rejected, Undecodable
from bridge.model import Instance, Port, ServiceName, Traits
from mappings.common import gojson, hostport, interning, keys, weights
from mappings.common.faults import unreadable

NAME = "kratos"
PREFIX = "/microservices/"
PROTOCOL = ""  # the URL's scheme says it
TRAITS = Traits(fields=frozenset({"id", "address", "ports", "weight", "version", "metadata"}), port_names=False)

_WEIGHT, _DEFAULT = "weight", 100  # kratos selector/node/direct: a weight that is missing or no number is this one

# transport/http and transport/grpc of kratos announce TLS by the scheme (internal/endpoint: scheme + "s").
_PLAIN = {"grpcs": "grpc", "https": "http", "wss": "ws"}
_SECURE = {plain: secure for secure, plain in _PLAIN.items()}


_TRANSPORTS = frozenset({"grpc", "grpcs", "http", "https"})  # those of kratos itself
_DEFAULTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}  # the port of a URL without one; nobody dials others

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*").fullmatch
_NUMBER = re.compile(r"[1-9][0-9]*").fullmatch
# net/url of Go 1.26: a scheme, an authority, and the rest; and what it takes for no URL at all.
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?(.*)", re.DOTALL).fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
_NO_SCHEME = re.compile(r":|[^/?#]*:").match
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})").search
_HOST = re.compile(r"(?:\[[^\]%]*(?:%25[^\]]*)?\]|[^\[\]\s%\\^`{|}]*(?=:)|[^\[\]\s%\\^`{|}:]*)(?::[0-9]*)?").fullmatch


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    id: str = ""
    name: str = ""
    version: str = ""
    metadata: msgspec.Raw = interning.NULL
    endpoints: list[str] | None = None


class _Written(msgspec.Struct, gc=False):
    id: str
    name: str
    version: str
    metadata: dict[str, str] | None
    endpoints: list[str]


class _Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`id`: the record's own, where the key differs. `tails`: what follows each URL's port. `empty`: {} for null.

    `endpoints`: the whole list, where it says more than ports of one host.
    """

    id: str | None = None
    tails: tuple[str, ...] = ()
    empty: bool = False
    endpoints: tuple[str, ...] = ()


class _Read(NamedTuple):
    """What a list of URLs says. `whole`: the list itself where ports and tails do not say it all, else ()."""

    address: str
    ports: tuple[Port, ...]
    tails: tuple[str, ...]
    whole: tuple[str, ...] = ()


_RECORD = gojson.Reader(_Record)
_KEPT = msgspec.json.Decoder(_Kept)
_NOTHING = _Kept()

locate = keys.levels  # names may have several levels; an id may not


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = _RECORD.decode(value)
        raw = bytes(record.metadata)
        metadata = gojson.strings(raw)
        read = _endpoints(tuple(record.endpoints or ()))
    except (ValueError, RecursionError) as error:
        raise unreadable("not a kratos record", error) from None
    if record.name != name.name:
        raise Undecodable(f"kratos drops it: the record says {record.name!r} under {name.name!r}")
    native = _native(record.id, id, read, not metadata and raw != b"null")
    return Instance(
        id,
        read.address,
        read.ports,
        weight=_weight(metadata) if metadata else 1.0,
        version=interning.text(record.version),
        metadata=metadata,
        native=native,
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    entry = keys.flat(instance.id)
    key = keys.join(name, entry, nested="name")
    kept = interning.load(instance, NAME, _KEPT, _NOTHING)
    said = _said(instance, kept)
    host = f"[{said.address.replace('%', '%25')}]" if ":" in said.address else said.address  # RFC 6874
    urls = [f"{port.name}://{host}:{port.number}{tail}" for port, tail in zip(said.ports, said.tails, strict=True)]
    record = _Written(
        id=entry if kept.id is None else kept.id,
        name=name.name,
        version=instance.version,
        metadata=_metadata(instance) or ({} if kept.empty else None),
        endpoints=list(said.whole) or urls,
    )
    return key, gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    entry = keys.flat(instance.id)
    keys.join(name, entry, nested="name")
    kept = interning.load(instance, NAME, _KEPT, _NOTHING)
    said = _said(instance, kept)
    id = entry if kept.id is None else kept.id
    metadata = _metadata(instance)
    made = Instance(
        entry,
        said.address,
        said.ports,
        weight=_weight(metadata),
        version=instance.version,
        metadata=metadata,
        native=_native(id, entry, said, kept.empty and not metadata),
    )
    return instance if made == instance else made


def _weight(metadata: dict[str, str]) -> float:
    """As the selectors of kratos have it: a whole number of 64 bits, none below nothing."""
    number = weights.parse(metadata[_WEIGHT], 64) if _WEIGHT in metadata else None
    return 1.0 if number is None else weights.read(max(0, number), _DEFAULT)


def _metadata(instance: Instance) -> dict[str, str]:
    """The metadata to write: what it says of the weight is always the field's. Raises Rejected."""
    number = weights.write(instance.weight, _DEFAULT, 0)
    if round(_weight(instance.metadata) * _DEFAULT) == number:
        return instance.metadata
    return {**instance.metadata, _WEIGHT: str(number)}


def beyond(instance: Instance) -> str:
    """What no other layout can say of its list of URLs, "" if nothing: those of other hosts, and those nobody dials."""
    urls = interning.load(instance, NAME, _KEPT, _NOTHING).endpoints
    return "endpoints of other hosts, or without one" if any(_host(url) != instance.address for url in urls) else ""


def _host(url: str) -> str:
    """The host that a client dials, "" where there is none."""
    try:
        scheme, authority, tail = _parsed(url)
        return _dialed(scheme, authority, tail)[0] if scheme and authority else ""
    except ValueError:
        return ""


def _native(said: str, id: str, read: _Read, empty: bool) -> dict[str, str]:
    if said == id and not empty and not read.whole and not any(read.tails):
        return interning.EMPTY
    tails = read.tails if any(read.tails) and not read.whole else ()
    return interning.dump(NAME, _Kept(None if said == id else said, tails, empty, read.whole))


def _said(instance: Instance, kept: _Kept) -> _Read:
    """What will be written of address and ports: the list that was read while it says the same, else one URL a port."""
    address = hostport.address_of(instance)
    if kept.endpoints:
        try:
            read = _endpoints(kept.endpoints)
        except ValueError:
            pass
        else:
            if read.whole and (read.address, read.ports) == (address, instance.ports):
                return read
    return _Read(address, *_written(instance.ports, kept.tails))


@lru_cache(maxsize=8192)
def _parsed(url: str) -> tuple[str, str, str]:
    """Scheme, host with port, and what follows, "" where there is none. Raises ValueError where Go finds no URL."""
    if _CONTROL(url):
        raise ValueError(f"no URL: {url!r}")
    found = _PARTS(url)
    if found is None:
        if _NO_SCHEME(url) or _ESCAPE(url.partition("?")[0]):
            raise ValueError(f"no URL: {url!r}")
        return "", "", ""
    scheme, authority, tail = found.groups()
    if authority is None:
        return scheme.lower(), "", ""
    host = authority.rpartition("@")[2]
    if not _HOST(host) or _ESCAPE(tail.partition("?")[0]):
        raise ValueError(f"no URL: {url!r}")
    return scheme.lower(), host, tail


def _endpoints(urls: tuple[str, ...]) -> _Read:
    """The ports that some reader finds, at one host. Raises ValueError where there are none."""
    return _plain(urls) or _any(urls)


def _plain(urls: tuple[str, ...]) -> _Read | None:
    """What `_any` says of URLs of one IPv4 address with nothing behind the port, which nearly all are; else None."""
    address = urls[0].rpartition(":")[0].partition("://")[2] if urls else ""
    ends: list[str] = []
    for url in urls:
        scheme, _, rest = url.partition("://")
        host, _, number = rest.rpartition(":")
        if host != address:
            return None
        ends += (scheme, number)
    found = _plain_ports(tuple(ends)) if hostport.is_ipv4(address) else None
    return _Read(address, *found) if found is not None else None


@lru_cache(maxsize=8192)
def _plain_ports(ends: tuple[str, ...]) -> tuple[tuple[Port, ...], tuple[str, ...]] | None:
    """The ports of such URLs, a scheme and a number each, and the nothing behind each; None: they are no such URLs."""
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    if not all(_SCHEME(scheme) and _NUMBER(number) for scheme, number in pairs):
        return None
    try:
        return tuple([_port(hostport.port_number(number), scheme, "") for scheme, number in pairs]), ("",) * len(pairs)
    except ValueError:
        return None


def _any(urls: tuple[str, ...]) -> _Read:
    found: list[tuple[str, Port, str]] = []
    without: set[str] = set()  # schemes with a URL that has no host: their readers look no further
    fault = ValueError("no endpoints")
    exact = True
    # A user's name and password are nothing that a reader uses: they are not copied.
    bare = tuple([re.sub(r"(?<=://)[^/?#]*@", "", url) for url in urls])
    for url, kept in zip(urls, bare, strict=True):
        try:
            scheme, authority, tail = _parsed(url)
        except ValueError as error:
            fault, exact = error, False
            break
        try:
            if not scheme or scheme in without:
                raise ValueError(f"no URL with a host: {url!r}")
            if not authority:
                without.add(scheme)
                raise ValueError(f"no URL with a host: {url!r}")
            host, port = _dialed(scheme, authority, tail)
        except ValueError as error:
            fault, exact = error, False
            continue
        exact = exact and kept[len(scheme) + 3 :] == authority + tail and authority[-1:].isdigit()
        found.append((host, port, tail))
    if not found:
        raise fault
    dialed = Counter(host for host, port, _ in found if port.name in _TRANSPORTS) or Counter(one[0] for one in found)
    address = max(dialed, key=lambda host: dialed[host])  # the first of the most
    exact = exact and all(host == address for host, _, _ in found)
    ports, tails = _shared(tuple([(port, tail) for host, port, tail in found if host == address]))
    return _Read(address, ports, tails, () if exact else bare)


@lru_cache(maxsize=8192)
def _shared(found: tuple[tuple[Port, str], ...]) -> tuple[tuple[Port, ...], tuple[str, ...]]:
    """Ports and tails, one object for all that have the same."""
    return tuple([port for port, _ in found]), tuple([tail for _, tail in found])


@lru_cache(maxsize=8192)
def _dialed(scheme: str, authority: str, tail: str) -> tuple[str, Port]:
    """The host and the port that a client with that scheme dials. Raises ValueError."""
    host, colon, number = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host, number = authority, ""
    if not number and scheme not in _DEFAULTS:
        raise ValueError(f"no port in {authority!r}")
    if ":" in host and not host.startswith("["):
        raise ValueError(f"IPv6 without brackets is ambiguous: {authority!r}")
    port = hostport.port_number(number) if number else _DEFAULTS[scheme]
    return hostport.host(host.replace("%25", "%", 1)), _port(port, scheme, tail)


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
