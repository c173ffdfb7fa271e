"""The records of etcd's naming/endpoints package, that gRPC-Go resolves: `target/id`, JSON with one address.

Source: etcd client/v3/naming/endpoints, seen with v3.6.5. Readers skip what they cannot decode, and take a record
without an address for an instance with an empty one: such values are never written. Metadata is any JSON.
"""

from __future__ import annotations

import msgspec

from bridge.errors import Undecodable
from bridge.model import Instance, ServiceName, Traits
from mappings import gojson, hostport, keys, loose, shared

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


class _Record(msgspec.Struct, gc=False):
    Op: int = 0
    Addr: str = ""
    Metadata: msgspec.Raw = shared.NULL


class _Written(msgspec.Struct, gc=False):
    Op: int
    Addr: str
    Metadata: dict[str, str] | dict[str, str | msgspec.Raw] | msgspec.Raw


class _Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`json`: the keys of Metadata whose values are no texts. `whole`: all of a Metadata that is no object."""

    op: int = 0
    json: tuple[str, ...] = ()
    whole: str | None = None


_RECORD = msgspec.json.Decoder(_Record)
_KEPT = msgspec.json.Decoder(_Kept)
_NOTHING = _Kept()


def locate(key: str) -> tuple[ServiceName, str] | None:
    # A target may have several levels (`services/user`): its readers list `target/`.
    name, _, id = key.rpartition("/")
    return (ServiceName(name), id) if name and id else None


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = _RECORD.decode(value)
        address, number = hostport.split(record.Addr)
        raw = bytes(record.Metadata)
        metadata, json = loose.read(raw) if raw.startswith(b"{") else (shared.EMPTY, ())
        whole = None if metadata or raw == b"null" else loose.compact(raw)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"not a record of etcd's endpoints manager: {error}") from None
    native = shared.dump(NAME, _Kept(record.Op, json, whole))
    return Instance(id, address, (hostport.port(number, protocol),), metadata=metadata, native=native)


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    kept = shared.load(instance, NAME, _KEPT, _NOTHING)
    port = hostport.one_port(instance)
    record = _Written(
        Op=kept.op,
        Addr=hostport.join(hostport.address_of(instance), port.number),
        Metadata=_metadata(instance, kept),
    )
    return keys.join(name, instance.id), gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    if NAME in instance.native:  # rare: stock clients leave Metadata null, or fill it with texts
        made = decode(name, instance.id, encode(name, instance)[1], protocol)
    else:
        keys.join(name, instance.id)
        made = Instance(
            instance.id,
            hostport.address_of(instance),
            (hostport.port(hostport.one_port(instance).number, protocol),),
            metadata=instance.metadata,
        )
    return instance if made == instance else made


def _metadata(instance: Instance, kept: _Kept) -> dict[str, str] | dict[str, str | msgspec.Raw] | msgspec.Raw:
    if instance.metadata:
        return loose.write(instance.metadata, kept.json) if kept.json else instance.metadata
    return shared.NULL if kept.whole is None else loose.raw(kept.whole) or shared.NULL
