"""The record of Curator's service discovery, as Jackson reads and writes it; Spring and Dubbo 3 fill its payload.

Source: curator-x-discovery, seen with 5.9.0. One child that does not decode fails the lookup of the whole service, and
so does a payload of a class that its readers do not expect.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from bridge.errors import Rejected, Undecodable
from bridge.model import Instance, Port
from mappings import hostport, shared

MAP = "java.util.LinkedHashMap"
SPRING = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance"
DUBBO = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance"

DYNAMIC = "DYNAMIC"
TYPES = frozenset({DYNAMIC, "STATIC", "PERMANENT", "DYNAMIC_SEQUENTIAL"})


class Record(msgspec.Struct, gc=False):
    """A record as it is read: everything but an object is optional to Curator, and numbers may be texts."""

    id: str | None = None
    address: str | None = None
    port: int | str | None = None
    sslPort: int | str | None = None
    payload: msgspec.Raw = shared.NULL
    registrationTimeUTC: int | str | None = None
    serviceType: str | None = None
    uriSpec: msgspec.Raw = shared.NULL
    enabled: bool | str | None = None


class Written(msgspec.Struct, gc=False, kw_only=True):
    """A record as it is written, in the stock writer's order; stock writers leave `enabled` out by default."""

    name: str
    id: str
    address: str
    port: int | None
    sslPort: int | None
    payload: Any
    registrationTimeUTC: int
    serviceType: str
    uriSpec: msgspec.Raw
    enabled: bool | msgspec.UnsetType = msgspec.UNSET


class _Payload(msgspec.Struct, gc=False):
    payload: Any = None


class Ports(NamedTuple):
    """The record's two ports, and the model's for them."""

    plain: int | None
    tls: int | None
    model: tuple[Port, ...]


_RECORD = msgspec.json.Decoder(Record)
_PAYLOAD = msgspec.json.Decoder(_Payload)
_ENCODER = msgspec.json.Encoder()


def read(value: bytes) -> Record:
    """The record. Raises ValueError where Curator's readers would throw."""
    record = _RECORD.decode(value)
    if record.serviceType is not None and record.serviceType not in TYPES:
        raise ValueError(f"serviceType {record.serviceType!r}")
    return record


def write(record: Written) -> bytes:
    """Raises Rejected where a text is not valid Unicode."""
    try:
        return _ENCODER.encode(record)
    except UnicodeEncodeError as error:
        raise Rejected(f"not valid Unicode: {error}") from None


def payload_class(value: bytes) -> str | None:
    """The class that a record's payload names: what its service's readers expect of every record.

    "" for a payload without one (a text, an object that names none), None for no payload, which all readers take.
    Raises Undecodable.
    """
    try:
        payload = _PAYLOAD.decode(value).payload
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"not a Curator record: {error}") from None
    if payload is None:
        return None
    said = payload.get("@class") if isinstance(payload, dict) else None
    return said if isinstance(said, str) else ""


def address(record: Record) -> str:
    """The canonical address. Raises ValueError."""
    if not record.address:
        raise ValueError("no address")
    return hostport.host(record.address)


@lru_cache(maxsize=8192)
def ports(plain: int | str | None, tls: int | str | None, protocol: str) -> tuple[Port, ...]:
    """The model's ports, the plain one named by the protocol, the other by the protocol and an s.

    Raises ValueError where there is none.
    """
    found = []
    if plain is not None:
        found.append(Port(hostport.port_number(str(plain)), protocol, protocol))
    if tls is not None:
        found.append(Port(hostport.port_number(str(tls)), f"{protocol}s" if protocol else "ssl", protocol, True))
    if not found:
        raise ValueError("neither port nor sslPort")
    return tuple(found)


@lru_cache(maxsize=8192)
def written_ports(given: tuple[Port, ...], protocol: str) -> Ports:
    """The ports to write, and the model's for them. Raises Rejected: none, or more than one with or without TLS."""
    for tls in (False, True):
        same = [hostport.dialable(port) for port in given if port.tls is tls]
        if len(same) > 1:
            raise hostport.ambiguous(same)
    if not given:
        raise Rejected("no port")
    plain = next((port.number for port in given if not port.tls), None)
    tls_port = next((port.number for port in given if port.tls), None)
    return Ports(plain, tls_port, ports(plain, tls_port, protocol))


def registered(record: Record) -> str:
    """`registrationTimeUTC`, in milliseconds since 1970, as text; "" where it says nothing."""
    time = record.registrationTimeUTC
    if isinstance(time, int):
        return str(time) if 0 < time < 10**18 else ""
    return time if time and _is_time(time) else ""


def _is_time(text: str) -> bool:
    return len(text) < 19 and text.isascii() and text.isdigit() and text[0] != "0"


def keep(convention: str, time: str, shape: msgspec.Struct) -> dict[str, str]:
    """For `Instance.native`: the time of registration, and behind it what many instances have in common."""
    text = shared.dump(convention, shape).get(convention, "")
    return {convention: time + text} if time else {convention: text} if text else shared.EMPTY


def kept(instance: Instance, convention: str, decoder: msgspec.json.Decoder[Any], default: Any) -> tuple[str, Any]:
    """The inverse of `keep`."""
    text = instance.native.get(convention)
    if not text:
        return "", default
    time, brace, shape = text.partition("{")
    return (
        time if _is_time(time) else "",
        shared.parse(decoder, brace + shape, default) if brace else default,
    )
