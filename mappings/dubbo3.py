"""The instances of Dubbo 3's application level in ZooKeeper, read only: Curator's record with Dubbo's payload.

Source: Dubbo 3.3.6 and dubbo-go v3.3.0, as seen. Consumers ignore an instance without a revision, and call the port
that the metadata report of that revision names, which is another node: see `report` and `reported`.
"""

from __future__ import annotations

import msgspec

from bridge.errors import Rejected, Undecodable
from bridge.model import Health, Instance, Port, ServiceName, Traits
from mappings import hostport, jackson, keys, shared, weights

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
    metadata: dict[str, str]


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
        record = jackson.read(value)
        payload = _PAYLOAD.decode(record.payload)
        if payload.type != jackson.DUBBO:
            raise ValueError(f"a payload of class {payload.type}")
        metadata = payload.metadata
        address = jackson.address(record)
        said = _ENDPOINTS.decode(metadata.get("dubbo.endpoints", "[]"))
        ports = _ports(said) or jackson.ports(record.port, None, protocol)
        weight = metadata.pop("weight", None)
        if weight is not None and not (weight.isascii() and weight.isdigit()):
            raise ValueError(f"weight {weight!r}")
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"not a Dubbo 3 instance: {error}") from None
    seen = metadata.get("dubbo.metadata.revision", "0") not in ("", "0")
    return Instance(
        id,
        address,
        ports,
        health=Health.UNKNOWN if seen else Health.UNHEALTHY,
        weight=1.0 if weight is None else weights.read(int(weight), _DEFAULT_WEIGHT),
        metadata=metadata or shared.EMPTY,
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
        raise Undecodable(f"not a metadata report of Dubbo 3: {error}") from None
    return msgspec.structs.replace(instance, ports=ports) if ports else instance


def _ports(endpoints: list[_Endpoint]) -> tuple[Port, ...]:
    found = {(said.port, said.protocol): None for said in endpoints if 0 < said.port < 65536}
    return tuple([hostport.port(number, protocol.lower()) for number, protocol in found])
