"""The records of Curator's service discovery in ZooKeeper: `/services/name/id`, the payload a map of metadata.

Source: curator-x-discovery, seen with 5.9.0; see `common.curator_record`. Without metadata no payload is
written, which readers of every payload class take; with metadata, a Java map, or what `dressed` says. `enabled: false`
is kept and never invented: the stock writer leaves it out by default, and ServiceCache returns such instances.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from bridge.model import Health, Instance, ServiceName, Traits
from mappings.common import curator_record, hostport, interning, json_values, keys
from mappings.common.faults import unreadable

NAME = "curator"
PREFIX = "/services"
PROTOCOL = "http"
IN_NAME = False  # the record is the node's value
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "metadata"}),
    ports=2,
    port_names=False,
    protocols=frozenset(),
    ports_apart=True,
)


class _Shape(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the model has no place for; see the fields of `curator_record.Record`.

    `type`: the payload's class, where it is not what would be written. `json`: its keys whose values are no texts.
    `whole`: all of a payload that is no object.
    """

    id: str | None = None
    type: str | None = None
    json: tuple[str, ...] = ()
    whole: str | None = None
    service_type: str | None = None
    uri: str | None = None
    enabled: bool | None = None
    address: str | None = None
    numbers: curator_record.Numbers | None = None


_SHAPE = msgspec.json.Decoder(_Shape)
_PLAIN = _Shape()

# Metadata, and what `_Shape` says of `type`, `json` and `whole`.
_Payload = tuple[dict[str, str], str | None, tuple[str, ...], str | None]
_PAYLOADS: dict[bytes, _Payload] = {}  # an lru_cache takes a fifth of the time of a record that is like no other
_NEAR = 1024

locate = keys.split


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = curator_record.read(value)
        address = curator_record.address(record)
        numbers = curator_record.numbers(record)
        enabled = curator_record.enabled(record)
        metadata, type, json, whole = _payload(bytes(record.payload))
        uri = None if record.uriSpec == interning.NULL else json_values.compact(bytes(record.uriSpec))
    except (ValueError, RecursionError) as error:
        raise unreadable("not a Curator record", error) from None
    shape = _Shape(
        id=curator_record.identified(record, id),
        type=type,
        json=json,
        whole=whole,
        service_type=None if record.serviceType == curator_record.DYNAMIC else record.serviceType,
        uri=uri,
        enabled=enabled,
        address=curator_record.spelled(record.address, address),
        numbers=curator_record.kept_numbers(numbers),
    )
    return Instance(
        id,
        address,
        curator_record.ports(numbers, protocol),
        health=Health.DRAINING if enabled is False else Health.UNKNOWN,
        metadata=metadata,
        native=curator_record.keep(NAME, curator_record.registered(record), shape),
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    id = keys.flat(instance.id)
    key = keys.path(name, id)
    time, shape = curator_record.kept(instance, NAME, _SHAPE, _PLAIN)
    ports = curator_record.written_ports(instance.ports, shape.numbers)
    enabled = _enabled(instance, shape)
    record = curator_record.Written(
        name=name.name,
        id=id if shape.id is None else shape.id,
        address=curator_record.written_address(instance, shape.address),
        port=ports.plain,
        sslPort=ports.tls,
        payload=_written_payload(instance.metadata, shape),
        registrationTimeUTC=int(time or 0),
        serviceType=shape.service_type if shape.service_type in curator_record.TYPES else curator_record.DYNAMIC,
        uriSpec=interning.NULL if shape.uri is None else json_values.raw(shape.uri) or interning.NULL,
        enabled=msgspec.UNSET if enabled is None else enabled,
    )
    return key, curator_record.write(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    time, shape = curator_record.kept(instance, NAME, _SHAPE, _PLAIN)
    if shape != _PLAIN or "@class" in instance.metadata:
        made = decode(name, keys.flat(instance.id), encode(name, instance)[1], protocol)
    else:
        keys.path(name, id := keys.flat(instance.id))
        made = Instance(
            id,
            hostport.address_of(instance),
            curator_record.ports(curator_record.written_ports(instance.ports, None), protocol),
            metadata=instance.metadata,
            native=curator_record.keep(NAME, time, shape),
        )
    return instance if made == instance else made


def dressed(instance: Instance, payload: str | None, texts: Collection[str] | None = None) -> Instance:
    """The instance as it is written with a payload of that class, None: without; the very same where it is so already.

    `texts`: the only keys that may be written, None: all. A bean's reader fails over a text where the bean has a number
    (seen with 5.9.0), so that of a class that is no map only keys are safe that hold texts in others' records.
    """
    time, shape = curator_record.kept(instance, NAME, _SHAPE, _PLAIN)
    metadata = instance.metadata
    if payload in (None, curator_record.TEXT, curator_record.OTHER):
        metadata = {}
    elif texts is not None:
        metadata = {key: text for key, text in metadata.items() if key in texts}
    said = payload if metadata and payload != curator_record.MAP else None
    fresh = msgspec.structs.replace(shape, type=said, whole=None, json=() if said or not metadata else shape.json)
    if fresh == shape and len(metadata) == len(instance.metadata):
        return instance
    native = {key: text for key, text in instance.native.items() if key != NAME}
    return msgspec.structs.replace(
        instance, metadata=metadata or interning.EMPTY, native=native | curator_record.keep(NAME, time, fresh)
    )


def _payload(text: bytes) -> _Payload:
    """What a payload says, and one object for all that say the same, as long as they are near. Raises ValueError."""
    found = _PAYLOADS.get(text)
    if found is None:
        if len(_PAYLOADS) >= _NEAR:
            _PAYLOADS.clear()
        found = _PAYLOADS[text] = _said(text)
    return found


def _said(text: bytes) -> _Payload:
    if text == b"null":
        return interning.EMPTY, None, (), None
    if not text.startswith(b"{"):
        return interning.EMPTY, None, (), json_values.compact(text)
    json: tuple[str, ...] = ()
    try:
        metadata = interning.fresh(text)
    except ValueError:
        metadata, json = json_values.read(text)
    said = metadata.pop("@class", "")
    if "@class" in json:
        raise ValueError("the @class of its payload is no text")
    if said in (curator_record.SPRING, curator_record.DUBBO):
        raise ValueError(f"its payload is of class {said}, which another layout reads")
    return metadata, None if said == curator_record.MAP and metadata else said, json, None


def _written_payload(metadata: dict[str, str], shape: _Shape) -> dict[str, str | msgspec.Raw] | msgspec.Raw | None:
    if shape.whole is not None:
        return json_values.raw(shape.whole)
    said = shape.type
    if said is None:
        if not metadata:
            return None
        said = curator_record.MAP
    found = json_values.write(metadata, shape.json)
    found.pop("@class", None)  # the type that Jackson would build, and no text of a user's
    return {"@class": said, **found} if said else found


def _enabled(instance: Instance, shape: _Shape) -> bool | None:
    return None if shape.enabled is False and instance.health is not Health.DRAINING else shape.enabled
