"""The instances of Dubbo 3's application level in ZooKeeper, read only: Curator's record with Dubbo's payload.

Source: Dubbo 3.3.6 and dubbo-go v3.3.0, as seen. Consumers ignore an instance without a revision, and call the port
that the metadata report of that revision names, which is another node: see `report` and `reported`.
"""

from __future__ import annotations

import msgspec

from bridge.errors import Rejected
from bridge.model import LOST, Health, Instance, Port, ServiceName, Traits
from mappings.common import curator_record, hostport, interning, keys, weights
from mappings.common.faults import part, unreadable

NAME = "dubbo3"
PREFIX = "/services"
PROTOCOL = ""  # dubbo.endpoints says it
IN_NAME = False  # the record is the node's value
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "health", "weight", "metadata"}),
    port_names=False,
    tls=False,
)

_DEFAULT_WEIGHT = 100


class _Payload(msgspec.Struct, gc=False):
    type: str = msgspec.field(name="@class")
    metadata: dict[str, str | int | float | bool | None]


class _Endpoint(msgspec.Struct, gc=False):
    port: int
    protocol: str = "dubbo"


class _Report(msgspec.Struct, gc=False):
    services: dict[str, _Endpoint] = {}


_PAYLOAD = msgspec.json.Decoder(_Payload)
_ENDPOINTS = msgspec.json.Decoder(list[_Endpoint])
_REPORT = msgspec.json.Decoder(_Report)

locate = keys.split


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = curator_record.read(value)
        if record.payload == interning.NULL:
            raise ValueError("it has no payload, which every instance of Dubbo has")
        payload = part("payload", _PAYLOAD, record.payload)
        if payload.type != curator_record.DUBBO:
            raise ValueError(f"its payload is of class {payload.type}, which another layout reads")
        address = curator_record.address(record)
        metadata = {key: _text(value) for key, value in payload.metadata.items() if value is not None}
        ports = _ports(_endpoints(metadata.get("dubbo.endpoints", ""))) or curator_record.ports(
            curator_record.numbers(record)._replace(tls=None), protocol
        )
        if not ports:
            raise ValueError("neither its endpoints nor the record name a port")
    except (ValueError, RecursionError) as error:
        raise unreadable("not a Dubbo 3 instance", error) from None
    said = metadata.pop("weight", "")
    weight = weights.parse(said)
    seen = metadata.get("dubbo.metadata.revision", "0") not in ("", "0")
    return Instance(
        id,
        address,
        ports,
        health=Health.UNKNOWN if seen else Health.UNHEALTHY,
        weight=1.0 if weight is None else weights.read(max(0, weight), _DEFAULT_WEIGHT),
        metadata=metadata or interning.EMPTY,
        native={LOST: f"weight={said} (no number)"} if said and weight is None else interning.EMPTY,
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    raise Rejected("Dubbo 3 applications are read only: consumers call what the metadata report of a revision names")


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    encode(name, instance)
    return instance


def report(name: ServiceName, instance: Instance) -> str | None:
    """The path of its metadata report below `/dubbo`; None where the provider itself keeps it (storage type local)."""
    revision = instance.metadata.get("dubbo.metadata.revision", "")
    if instance.metadata.get("dubbo.metadata.storage-type") != "remote" or not revision:
        return None
    return f"metadata/{name.name}/{revision}"


def reported(instance: Instance, report: bytes) -> Instance:
    """The instance with the ports that its report names, which are those that consumers call. Raises Undecodable."""
    try:
        services = _REPORT.decode(report).services
        ports = _ports(list(services.values()))
    except (ValueError, RecursionError) as error:
        raise unreadable("not a metadata report of Dubbo 3", error) from None
    return msgspec.structs.replace(instance, ports=ports) if ports else instance


def _endpoints(text: str) -> list[_Endpoint]:
    """Of `dubbo.endpoints`; none where it cannot be read: consumers take the report's port."""
    try:
        return _ENDPOINTS.decode(text or "[]")
    except (ValueError, RecursionError):
        return []


def _text(value: object) -> str:
    """As Jackson makes a text of a number or a truth value."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _ports(endpoints: list[_Endpoint]) -> tuple[Port, ...]:
    found = {(said.port, said.protocol): None for said in endpoints if 0 < said.port < 65536}
    return tuple([hostport.port(number, protocol.lower()) for number, protocol in found])
