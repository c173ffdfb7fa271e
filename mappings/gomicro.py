"""The records of go-micro in etcd: `/micro/registry/service/node`, JSON of a service with one node.

Source: go-micro plugins/v4/registry/etcd, seen with v1.2.0. In keys a `/` of a name or id becomes `-`, which blurs
`a/b` and `a-b`: such names and ids are read, and never made. Node metadata `protocol` names the port's protocol.
"""

from __future__ import annotations

import msgspec

from bridge.model import Instance, ServiceName, Traits
from mappings.common import gojson, hostport, interning, json_values, keys
from mappings.common.faults import unreadable

NAME = "go-micro"
PREFIX = "/micro/registry/"
PROTOCOL = ""  # node metadata says it
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "version", "metadata"}),
    ports=1,
    port_names=False,
    tls=False,
)


_NO_METHODS = msgspec.Raw(b"[]")


class _Node(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    metadata: msgspec.Raw = interning.NULL
    id: str = ""
    address: str = ""


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    name: str = ""
    version: str = ""
    metadata: msgspec.Raw = interning.NULL
    endpoints: msgspec.Raw = _NO_METHODS
    nodes: list[_Node] | None = None


class _WrittenNode(msgspec.Struct, gc=False):
    metadata: dict[str, str] | None
    id: str
    address: str


class _Written(msgspec.Struct, gc=False):
    name: str
    version: str
    metadata: dict[str, str] | None
    endpoints: msgspec.Raw
    nodes: tuple[_WrittenNode, ...]


_SAID = ("broker", "protocol", "registry", "server", "transport")  # what go-micro itself says of a node


class _Other(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A node that shares the key of the one that is the instance, with what go-micro itself says of it.

    A user's metadata is not kept: nobody would look for secrets there.
    """

    id: str = ""
    address: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


class _Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`name`, `id`: as the record has them, where the key differs. `endpoints`: the service's methods, as JSON, if any.

    `service`: key in the service's own metadata (not the node's), and in the model. `empty_service`, `empty_node`:
    {} for null. `others`: further nodes under the same key, which no instance can stand for.
    """

    name: str | None = None
    id: str | None = None
    endpoints: str | None = None
    service: tuple[tuple[str, str], ...] = ()
    empty_service: bool = False
    empty_node: bool = False
    others: tuple[_Other, ...] = ()


class _Parts(msgspec.Struct, gc=False):
    """A record's parts that are not plain fields of an instance."""

    name: str
    id: str
    endpoints: str | None
    service: dict[str, str] | None
    node: dict[str, str] | None
    others: tuple[_Other, ...] = ()


_RECORD = gojson.Reader(_Record, lenient=True)  # its readers ignore what json.Unmarshal says
_KEPT = msgspec.json.Decoder(_Kept)
_NOTHING = _Kept()

locate = keys.below  # readers take all that is below a service


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = _RECORD.decode(value)
        node, address, number = _dialable(record.nodes or [])
        parts = _Parts(
            record.name,
            node.id,
            json_values.compact(bytes(record.endpoints)) if record.endpoints != _NO_METHODS else None,
            _texts(record.metadata),
            _texts(node.metadata),
            tuple([_other(one) for one in record.nodes or [] if one is not node]),
        )
    except (ValueError, RecursionError) as error:
        raise unreadable("not a go-micro record", error) from None
    return _instance(name, id, address, number, protocol, record.version, parts)


def _dialable(nodes: list[_Node]) -> tuple[_Node, str, int]:
    """The first node with an address. Stock writers make a key for each node; readers take all that are under one."""
    fault = ValueError("it lists no node, so nobody can be called")
    for node in nodes:
        try:
            return node, *hostport.split(node.address)
        except ValueError as error:
            fault = error
    raise fault


def _other(node: _Node) -> _Other:
    metadata = _texts(node.metadata) or {}
    return _Other(node.id, node.address, tuple([(key, metadata[key]) for key in _SAID if key in metadata]))


def _texts(raw: msgspec.Raw) -> dict[str, str] | None:
    return None if raw == interning.NULL else gojson.strings(bytes(raw), lenient=True)


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    parts = _parts(name, instance)
    node = _WrittenNode(
        metadata=parts.node,
        id=parts.id,
        address=hostport.join(hostport.address_of(instance), hostport.one_port(instance).number),
    )
    record = _Written(
        name=parts.name,
        version=instance.version,
        metadata=parts.service,
        endpoints=_NO_METHODS if parts.endpoints is None else json_values.raw(parts.endpoints) or _NO_METHODS,
        nodes=(node, *[_WrittenNode(dict(one.metadata) or None, one.id, one.address) for one in parts.others]),
    )
    return keys.join(name, instance.id, nested="id"), gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    keys.join(name, instance.id, nested="id")
    number = hostport.one_port(instance).number
    address = hostport.address_of(instance)
    made = _instance(name, instance.id, address, number, protocol, instance.version, _parts(name, instance))
    return instance if made == instance else made


def _instance(
    name: ServiceName, id: str, address: str, number: int, protocol: str, version: str, parts: _Parts
) -> Instance:
    node = metadata = parts.node or interning.EMPTY
    service = []
    if parts.service:
        metadata = dict(node)
        for key, text in parts.service.items():
            shown = key
            while shown in metadata:
                shown = f"service.{shown}"
            metadata[shown] = text
            service.append((key, shown))
    kept = _Kept(
        name=None if parts.name == name.name else parts.name,
        id=None if parts.id == id else parts.id,
        endpoints=parts.endpoints,
        service=tuple(service),
        empty_service=parts.service is not None and not parts.service,
        empty_node=parts.node is not None and not parts.node,
        others=parts.others,
    )
    port = hostport.port(number, node.get("protocol", "").lower() or protocol)
    return Instance(id, address, (port,), version=version, metadata=metadata, native=interning.dump(NAME, kept))


def _parts(name: ServiceName, instance: Instance) -> _Parts:
    kept = interning.load(instance, NAME, _KEPT, _NOTHING)
    service = {key: instance.metadata[shown] for key, shown in kept.service if shown in instance.metadata}
    node = instance.metadata
    if service:
        ours = {shown for _, shown in kept.service}
        node = {key: text for key, text in node.items() if key not in ours}
    said = instance.ports[0].protocol if instance.ports else ""
    if said and node.get("protocol", "").lower() != said:
        node = {**node, "protocol": said}
    return _Parts(
        name=kept.name if kept.name is not None and kept.name.replace("/", "-") == name.name else name.name,
        id=kept.id if kept.id is not None and kept.id.replace("/", "-") == instance.id else instance.id,
        endpoints=kept.endpoints,
        service=service or ({} if kept.empty_service else None),
        node=node or ({} if kept.empty_node else None),
        others=kept.others,
    )
