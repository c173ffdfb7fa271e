"""The record of Curator's service discovery, as Jackson reads and writes it; Spring and Dubbo 3 fill its payload.

Source: curator-x-discovery, seen with 5.9.0. One child that does not decode fails the lookup of the whole service, and
so does a payload of a class that its readers do not expect.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from bridge.errors import Rejected
from bridge.model import Instance, Port
from mappings.common import hostport, interning
from mappings.common.faults import unreadable

MAP = "java.util.LinkedHashMap"
SPRING = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance"
TEXT = "java.lang.String"
OTHER = "a number or a list"
DUBBO = "org.apache.dubbo.registry.zookeeper.ZookeeperInstance"

DYNAMIC = "DYNAMIC"
TYPES = frozenset({DYNAMIC, "STATIC", "PERMANENT", "DYNAMIC_SEQUENTIAL"})


class Record(msgspec.Struct, gc=False):
    """A record as it is read: everything but an object is optional to Curator, and Jackson makes numbers of texts."""

    id: str | int | None = None
    address: str | None = None
    port: int | float | str | None = None
    sslPort: int | float | str | None = None
    payload: msgspec.Raw = interning.NULL
    registrationTimeUTC: int | str | None = None
    serviceType: str | None = None
    uriSpec: msgspec.Raw = interning.NULL
    enabled: bool | int | str | msgspec.UnsetType | None = msgspec.UNSET


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


class Numbers(NamedTuple):
    """`port` and `sslPort` of a record; a number that is no port stays what it is."""

    plain: int | None = None
    tls: int | None = None


NONE = Numbers()


_MAPS = re.compile(r"java\.util\.(?:concurrent\.)?\w*Map").fullmatch
_RECORD = msgspec.json.Decoder(Record)
_PAYLOAD = msgspec.json.Decoder(_Payload)
_ENCODER = msgspec.json.Encoder()


def read(value: bytes) -> Record:
    """The record. Raises ValueError where Curator's readers would throw."""
    if not value:
        raise ValueError("the node is empty")
    try:
        record = _RECORD.decode(value)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        raise ValueError("it is no JSON") from None
    if record.serviceType is not None and record.serviceType not in TYPES:
        raise ValueError(f"serviceType {record.serviceType!r}")
    return record


def write(record: Written) -> bytes:
    """Raises Rejected where a text is not valid Unicode."""
    try:
        return _ENCODER.encode(record)
    except UnicodeEncodeError as error:
        raise Rejected(f"not valid Unicode: {error}") from None


class Payload(NamedTuple):
    """What a record's payload is to Jackson: its class, None for none; and the keys that hold texts in it."""

    said: str | None
    texts: frozenset[str] = frozenset()


def payload(value: bytes) -> Payload:
    """The payload of a record. An object that names no class is a map, as is one of any class of Java's maps.

    Raises Undecodable.
    """
    try:
        found = _PAYLOAD.decode(value).payload
    except (ValueError, RecursionError) as error:
        raise unreadable("not a Curator record", error) from None
    if isinstance(found, dict):
        said = found.pop("@class", MAP)
        said = MAP if _MAPS(str(said)) else str(said)
        return Payload(said, frozenset(key for key, text in found.items() if isinstance(text, str)))
    return Payload(None if found is None else TEXT if isinstance(found, str) else OTHER)


def payload_class(value: bytes) -> str | None:
    """The class of a record's payload: what its service's readers expect of every record. Raises Undecodable.

    None for no payload, which the readers of every class take. A reader of one class fails its whole query over a
    payload of another: `ClassCastException` (seen with 5.9.0 for Void, String, a bean and a Map).
    """
    return payload(value).said


def address(record: Record) -> str:
    """The canonical address. Raises ValueError."""
    if not record.address:
        raise ValueError("no address")
    return hostport.host(record.address)


def spelled(text: str | None, address: str) -> str | None:
    """The address's text, where it would be written in another way; None: it would not."""
    return None if text == address else text


def written_address(instance: Instance, text: str | None) -> str:
    """The address to write: as it is spelled in its record, as long as that names the same. Raises Rejected."""
    address = hostport.address_of(instance)
    try:
        return text if text is not None and hostport.host(text) == address else address
    except ValueError:
        return address


def numbers(record: Record) -> Numbers:
    """The record's two numbers. Raises ValueError where Jackson makes none of them."""
    return Numbers(_number("port", record.port), _number("sslPort", record.sslPort))


def _number(field: str, said: int | float | str | None) -> int | None:
    if isinstance(said, str):
        said = said.strip() or None
    try:
        return said if said is None or isinstance(said, int) else int(said)
    except (ValueError, OverflowError):
        raise ValueError(f"{field} is {said!r}; should be a whole number") from None


@lru_cache(maxsize=8192)
def ports(given: Numbers, protocol: str) -> tuple[Port, ...]:
    """The model's ports, the plain one named by the protocol, the other by the protocol and an s.

    One number in both fields is one port, with TLS: readers take the scheme from `sslPort` where there is one.
    What is no port of 1 to 65535, as those write who listen without TLS or with TLS only, is none.
    """
    plain, tls = [number if number is not None and 0 < number < 65536 else None for number in given]
    found = []
    if plain is not None and plain != tls:
        found.append(Port(plain, protocol, protocol))
    if tls is not None:
        found.append(Port(tls, f"{protocol}s" if protocol else "ssl", protocol, True))
    return tuple(found)


@lru_cache(maxsize=8192)
def written_ports(given: tuple[Port, ...], kept: Numbers | None) -> Numbers:
    """The numbers to write: those of its record as long as they say these ports.

    Raises Rejected: no port, or more than one with or without TLS.
    """
    if kept is not None and _alike(ports(kept, "")) == _alike(given):
        return kept
    for tls in (False, True):
        same = [hostport.dialable(port) for port in given if port.tls is tls]
        if len(same) > 1:
            raise hostport.ambiguous(same)
    if not given:
        raise Rejected("no port")
    plain = next((port.number for port in given if not port.tls), None)
    tls_port = next((port.number for port in given if port.tls), None)
    if plain == tls_port:
        raise Rejected(f"port {plain} with TLS and without: readers would take both for one, with TLS")
    return Numbers(plain, tls_port)


def _alike(given: tuple[Port, ...]) -> set[tuple[int, bool]]:
    return {(port.number, port.tls) for port in given}


def kept_numbers(given: Numbers) -> Numbers | None:
    """The record's numbers, where its ports would be written in another way; None: they would not."""
    made = ports(given, "")
    return None if made and written_ports(made, None) == given else given


def enabled(record: Record) -> bool | None:
    """As Jackson reads it; None where the record does not say it. Raises ValueError where it throws."""
    said = record.enabled
    if isinstance(said, str):
        text = said.strip()
        if text not in _BOOLEANS:
            raise ValueError(f"enabled: {said!r} is neither true nor false")
        return _BOOLEANS[text]
    return None if said is msgspec.UNSET else bool(said)


_BOOLEANS = {word: said for said in (True, False) for word in (str(said), str(said).lower(), str(said).upper())}
_BOOLEANS[""] = False


def identified(record: Record, id: str) -> str | None:
    """The record's id, where it is not that of its node; None: it is."""
    said = "" if record.id is None else str(record.id)
    return None if said == id else said


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
    text = interning.dump(convention, shape).get(convention, "")
    return {convention: time + text} if time else {convention: text} if text else interning.EMPTY


def kept(instance: Instance, convention: str, decoder: msgspec.json.Decoder[Any], default: Any) -> tuple[str, Any]:
    """The inverse of `keep`."""
    text = instance.native.get(convention)
    if not text:
        return "", default
    time, brace, shape = text.partition("{")
    return (
        time if _is_time(time) else "",
        interning.parse(decoder, brace + shape, default) if brace else default,
    )
