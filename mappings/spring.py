"""The records of Spring Cloud ZooKeeper: Curator's, with Spring's own payload and the status in its metadata.

Source: spring-cloud-zookeeper, seen with 4.3.0; see `common.curator_record`. Without a port, or with a payload of
another class, the lookup of the whole service throws; without uriSpec there is no URI, and with bare IPv6 a broken one.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from bridge.model import Health, Instance, ServiceName, Traits
from mappings.common import curator_record, hostport, interning, json_values, keys
from mappings.common.faults import part, unreadable

NAME = "spring"
PREFIX = "/services"
PROTOCOL = "http"
IN_NAME = False  # the record is the node's value
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "health", "metadata"}),
    ports=2,
    port_names=False,
    protocols=frozenset(),
    ports_apart=True,
)

# Spring Cloud LoadBalancer drops OUT_OF_SERVICE and DOWN, and keeps every other word and none.
_STATUS = "instance_status"
_READ = {"UP": Health.HEALTHY, "OUT_OF_SERVICE": Health.DRAINING, "DOWN": Health.UNHEALTHY}
_WRITE = {
    Health.UNKNOWN: "",
    Health.HEALTHY: "UP",
    Health.DEGRADED: "UP",
    Health.UNHEALTHY: "DOWN",
    Health.DRAINING: "OUT_OF_SERVICE",
}
_URI = (
    '{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},'
    '{"value":"address","variable":true},{"value":":","variable":false},{"value":"port","variable":true}]}'
)


class _Payload(msgspec.Struct, gc=False):
    type: str | None = msgspec.field(name="@class", default=None)
    id: str | None = None
    metadata: msgspec.Raw = interning.NULL


class _WrittenPayload(msgspec.Struct, gc=False):
    type: str = msgspec.field(name="@class")
    id: str
    name: str
    metadata: dict[str, str]


class _Shape(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the model has no place for, where it is not what would be written; see `curator_record.Record`.

    `application`: the payload's id. `status`: the word for the health. `bare`: no payload. `uri`: uriSpec, "" for null.
    """

    id: str | None = None
    application: str | None = None
    status: str | None = None
    bare: bool = False
    service_type: str | None = None
    uri: str | None = None
    enabled: bool | None = None
    address: str | None = None
    numbers: curator_record.Numbers | None = None


_PAYLOAD = msgspec.json.Decoder(_Payload | None)
_SHAPE = msgspec.json.Decoder(_Shape)
_PLAIN = _Shape()

locate = keys.split


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = curator_record.read(value)
        address = curator_record.address(record)
        numbers = curator_record.numbers(record)
        if numbers == curator_record.NONE:
            raise ValueError("neither port nor sslPort: the lookup of the whole service throws")
        enabled = curator_record.enabled(record)
        metadata, status, application, bare = _payload(bytes(record.payload))
        uri = "" if record.uriSpec == interning.NULL else json_values.compact(bytes(record.uriSpec))
    except (ValueError, RecursionError) as error:
        raise unreadable("not a Spring Cloud ZooKeeper record", error) from None
    health = _READ.get(status.upper(), Health.UNKNOWN)
    shape = _Shape(
        id=curator_record.identified(record, id),
        application=None if application == name.name else application,
        status=None if status == _WRITE[health] else status,
        bare=bare,
        service_type=None if record.serviceType == curator_record.DYNAMIC else record.serviceType,
        uri=None if uri == _URI else uri,
        enabled=enabled,
        address=curator_record.spelled(record.address, _bracketed(address)),
        numbers=curator_record.kept_numbers(numbers),
    )
    return Instance(
        id,
        address,
        curator_record.ports(numbers, protocol),
        health=health,
        metadata=metadata,
        native=curator_record.keep(NAME, curator_record.registered(record), shape),
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    id = keys.flat(instance.id)
    key = keys.path(name, id)
    time, shape = curator_record.kept(instance, NAME, _SHAPE, _PLAIN)
    ports = curator_record.written_ports(instance.ports, shape.numbers)
    uri = _URI if shape.uri is None else shape.uri
    status = _status(instance, shape)
    payload = _WrittenPayload(
        type=curator_record.SPRING,
        id=name.name if shape.application is None else shape.application,
        name=name.name,
        metadata={**_plain(instance.metadata), _STATUS: status} if status else _plain(instance.metadata),
    )
    record = curator_record.Written(
        name=name.name,
        id=id if shape.id is None else shape.id,
        address=_address(instance, shape),
        port=ports.plain,
        sslPort=ports.tls,
        payload=None if shape.bare and not payload.metadata else payload,
        registrationTimeUTC=int(time or 0),
        serviceType=shape.service_type if shape.service_type in curator_record.TYPES else curator_record.DYNAMIC,
        uriSpec=json_values.raw(uri) or interning.NULL,
        enabled=msgspec.UNSET if shape.enabled is None else shape.enabled,
    )
    return key, curator_record.write(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    time, shape = curator_record.kept(instance, NAME, _SHAPE, _PLAIN)
    if shape != _PLAIN:
        made = decode(name, keys.flat(instance.id), encode(name, instance)[1], protocol)
    else:
        keys.path(name, id := keys.flat(instance.id))
        made = Instance(
            id,
            hostport.address_of(instance),
            curator_record.ports(curator_record.written_ports(instance.ports, None), protocol),
            health=_READ.get(_WRITE[instance.health], Health.UNKNOWN),
            metadata=_plain(instance.metadata),
            native=curator_record.keep(NAME, time, _PLAIN),
        )
    return instance if made == instance else made


@lru_cache(maxsize=8192)
def _payload(text: bytes) -> tuple[dict[str, str], str, str | None, bool]:
    """Metadata, the status' word, the payload's id, and whether there is no payload. Raises ValueError."""
    payload = part("payload", _PAYLOAD, text)
    if payload is None:
        return interning.EMPTY, "", None, True
    if payload.type is None:
        raise ValueError("its payload names no class, over which the lookup of the whole service throws")
    if payload.type != curator_record.SPRING:
        raise ValueError(f"its payload is of class {payload.type}, which another layout reads")
    raw = bytes(payload.metadata)
    found, other = json_values.read(raw)
    # Numbers and booleans become texts in Spring's map, nested values fail its readers.
    if any(found[key][:1] in "{[" for key in other):
        raise ValueError("nested values in metadata")
    nulls = [key for key in other if found[key] == "null"]
    metadata = {key: value for key, value in found.items() if key != _STATUS and key not in nulls}
    return metadata or interning.EMPTY, found.get(_STATUS, ""), payload.id, False


def _plain(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata without the key that says the health."""
    return {key: text for key, text in metadata.items() if key != _STATUS} if _STATUS in metadata else metadata


def _status(instance: Instance, shape: _Shape) -> str:
    """The word for the health; the one that was read, as long as it means the same."""
    if shape.status is not None and _READ.get(shape.status.upper(), Health.UNKNOWN) is instance.health:
        return shape.status
    return _WRITE[instance.health]


def _address(instance: Instance, shape: _Shape) -> str:
    """As it is spelled in its record; else IPv6 in brackets, of which alone Spring makes a URI that works."""
    spelled = curator_record.written_address(instance, shape.address)
    return spelled if shape.address is not None and spelled == shape.address else _bracketed(spelled)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
