"""The records of Curator's service discovery in ZooKeeper: `/services/name/id`, the payload a map of metadata.

Source: curator-x-discovery, seen with 5.9.0; see `mappings.jackson`. Without metadata no payload is written, which
readers of every payload class take; with metadata, a Java map. `enabled: false` is kept and never invented: the stock
writer leaves it out by default, and ServiceCache returns such instances.
"""

from __future__ import annotations

import msgspec

from bridge.errors import Undecodable
from bridge.model import Health, Instance, ServiceName, Traits
from mappings import hostport, jackson, keys, loose, shared

NAME = "curator"
PREFIX = "/services"
PROTOCOL = "http"
IN_NAME = False  # the record is the node's value
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "metadata"}),
    ports=2,
    port_names=False,
    protocols=frozenset(),
)


class _Shape(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the model has no place for; see the fields of `jackson.Record`.

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


_SHAPE = msgspec.json.Decoder(_Shape)
_PLAIN = _Shape()

# Metadata, and what `_Shape` says of `type`, `json` and `whole`.
_Payload = tuple[dict[str, str], str | None, tuple[str, ...], str | None]
_PAYLOADS: dict[bytes, _Payload] = {}  # an lru_cache takes a fifth of the time of a record that is like no other
_NEAR = 1024

locate = keys.split


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = jackson.read(value)
        address = jackson.address(record)
        ports = jackson.ports(record.port, record.sslPort, protocol)
        metadata, type, json, whole = _payload(bytes(record.payload))
        uri = None if record.uriSpec == shared.NULL else loose.compact(bytes(record.uriSpec))
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"not a Curator record: {error}") from None
    enabled = None if record.enabled is None else record.enabled not in (False, "false")
    shape = _Shape(
        id=None if record.id == id else record.id or "",
        type=type,
        json=json,
        whole=whole,
        service_type=None if record.serviceType == jackson.DYNAMIC else record.serviceType,
        uri=uri,
        enabled=enabled,
    )
    return Instance(
        id,
        address,
        ports,
        health=Health.DRAINING if enabled is False else Health.UNKNOWN,
        metadata=metadata,
        native=jackson.keep(NAME, jackson.registered(record), shape),
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    key = keys.path(name, instance.id)
    time, shape = jackson.kept(instance, NAME, _SHAPE, _PLAIN)
    ports = jackson.written_ports(instance.ports, "")
    enabled = _enabled(instance, shape)
    record = jackson.Written(
        name=name.name,
        id=instance.id if shape.id is None else shape.id,
        address=hostport.address_of(instance),
        port=ports.plain,
        sslPort=ports.tls,
        payload=_written_payload(instance.metadata, shape),
        registrationTimeUTC=int(time or 0),
        serviceType=shape.service_type if shape.service_type in jackson.TYPES else jackson.DYNAMIC,
        uriSpec=shared.NULL if shape.uri is None else loose.raw(shape.uri) or shared.NULL,
        enabled=msgspec.UNSET if enabled is None else enabled,
    )
    return key, jackson.write(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    time, shape = jackson.kept(instance, NAME, _SHAPE, _PLAIN)
    if shape != _PLAIN or "@class" in instance.metadata:
        made = decode(name, instance.id, encode(name, instance)[1], protocol)
    else:
        keys.path(name, instance.id)
        made = Instance(
            instance.id,
            hostport.address_of(instance),
            jackson.written_ports(instance.ports, protocol).model,
            metadata=instance.metadata,
            native=jackson.keep(NAME, time, shape),
        )
    return instance if made == instance else made


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
        return shared.EMPTY, None, (), None
    if not text.startswith(b"{"):
        return shared.EMPTY, None, (), loose.compact(text)
    json: tuple[str, ...] = ()
    try:
        metadata = shared.fresh(text)
    except ValueError:
        metadata, json = loose.read(text)
    said = metadata.pop("@class", "")
    if said in (jackson.SPRING, jackson.DUBBO) or "@class" in json:
        raise ValueError(f"a payload of class {said}")
    return metadata, None if said == jackson.MAP and metadata else said, json, None


def _written_payload(metadata: dict[str, str], shape: _Shape) -> dict[str, str | msgspec.Raw] | msgspec.Raw | None:
    if shape.whole is not None:
        return loose.raw(shape.whole)
    said = shape.type
    if said is None:
        if not metadata:
            return None
        said = jackson.MAP
    found = loose.write(metadata, shape.json)
    found.pop("@class", None)  # the type that Jackson would build, and no text of a user's
    return {"@class": said, **found} if said else found


def _enabled(instance: Instance, shape: _Shape) -> bool | None:
    return None if shape.enabled is False and instance.health is not Health.DRAINING else shape.enabled
