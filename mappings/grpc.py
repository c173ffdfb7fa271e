"""The records of etcd's naming/endpoints package, that gRPC-Go resolves: `target/id`, JSON with one address.

Source: etcd client/v3/naming/endpoints, seen with v3.6.5. Readers skip what they cannot decode, and take a record
without an address for an instance with an empty one: such values are never written. Metadata is any JSON.
"""

from __future__ import annotations

import msgspec

from bridge.model import Instance, ServiceName, Traits
from mappings.common import gojson, hostport, interning, json_values, keys
from mappings.common.faults import unreadable

NAME = "grpc"
PREFIX = ""
PROTOCOL = "grpc"
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "metadata"}),
    ports=1,
    port_names=False,
    protocols=frozenset(),
    tls=False,
)


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    Op: int = 0
    Addr: str = ""
    Metadata: msgspec.Raw = interning.NULL


class _Written(msgspec.Struct, gc=False):
    Op: int
    Addr: str
    Metadata: dict[str, str] | dict[str, str | msgspec.Raw] | msgspec.Raw


class _Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`json`: the keys of Metadata whose values are no texts. `whole`: all of a Metadata that is no object."""

    op: int = 0
    json: tuple[str, ...] = ()
    whole: str | None = None


_OPS = 255  # it is a byte in Go: readers skip a record with more
_RECORD = gojson.Reader(_Record)
_KEPT = msgspec.json.Decoder(_Kept)
_NOTHING = _Kept()

locate = keys.levels  # a target may have several levels (`services/user`): its readers list `target/`


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = _RECORD.decode(value)
        if not 0 <= record.Op <= _OPS:
            raise ValueError(f"Op {record.Op} is no byte")
        address, number = hostport.split(record.Addr)
        raw = gojson.unicode(bytes(record.Metadata))
        metadata, json = json_values.read(raw) if raw.startswith(b"{") else (interning.EMPTY, ())
        whole = None if metadata or raw == b"null" else json_values.compact(raw)
    except (ValueError, RecursionError) as error:
        raise unreadable("not a record of etcd's endpoints manager", error) from None
    native = interning.dump(NAME, _Kept(record.Op, json, whole))
    return Instance(id, address, (hostport.port(number, protocol),), metadata=metadata, native=native)


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    kept = interning.load(instance, NAME, _KEPT, _NOTHING)
    port = hostport.one_port(instance)
    record = _Written(
        Op=kept.op,
        Addr=hostport.join(hostport.address_of(instance), port.number),
        Metadata=_metadata(instance, kept),
    )
    return keys.join(name, keys.flat(instance.id), nested="name"), gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    if NAME in instance.native:  # rare: stock clients leave Metadata null, or fill it with texts
        made = decode(name, keys.flat(instance.id), encode(name, instance)[1], protocol)
    else:
        keys.join(name, id := keys.flat(instance.id), nested="name")
        made = Instance(
            id,
            hostport.address_of(instance),
            (hostport.port(hostport.one_port(instance).number, protocol),),
            metadata=instance.metadata,
        )
    return instance if made == instance else made


def _metadata(instance: Instance, kept: _Kept) -> dict[str, str] | dict[str, str | msgspec.Raw] | msgspec.Raw:
    if instance.metadata:
        return json_values.write(instance.metadata, kept.json) if kept.json else instance.metadata
    return interning.NULL if kept.whole is None else json_values.raw(kept.whole) or interning.NULL
