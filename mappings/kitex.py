"""The records of CloudWeGo Kitex in etcd: `kitex/registry-etcd/service/host:port`, JSON with weight and tags.

Source: kitex-contrib/registry-etcd, seen with v0.2.5. A weight of 0 reads as the default, 10. Stock writers print IPv6
without brackets, which Go cannot dial; it is written here with brackets, which Go dials.
"""

from __future__ import annotations

import msgspec

from bridge.model import Instance, ServiceName, Traits
from mappings.common import gojson, hostport, interning, keys, weights
from mappings.common.faults import unreadable

NAME = "kitex"
PREFIX = "kitex/registry-etcd/"  # without a slash in front
PROTOCOL = "thrift"
TRAITS = Traits(
    fields=frozenset({"address", "ports", "weight", "metadata"}),  # the id is the address
    ports=1,
    port_names=False,
    protocols=frozenset(),
    tls=False,
)

_DEFAULT = 10
_WEIGHTS = 2**63  # an int in Go, in which its balancers add them up
_MOST = 2**53  # the greatest weight that the model tells from its neighbours
_NETWORKS = frozenset({"tcp", "tcp4", "tcp6"})


class _Record(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    network: str = ""
    address: str = ""
    weight: int = 0
    tags: msgspec.Raw = interning.NULL


class _Written(msgspec.Struct, gc=False):
    network: str
    address: str
    weight: int
    tags: dict[str, str] | None


class _Kept(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`network`: not tcp. `weight`: one below 1, that reads as the default. `empty`: tags are {}, not null."""

    network: str | None = None
    weight: int | None = None
    empty: bool = False


_RECORD = gojson.Reader(_Record)
_KEPT = msgspec.json.Decoder(_Kept)
_NOTHING = _Kept()

locate = keys.below  # readers take all that is below a service


def decode(name: ServiceName, id: str, value: bytes, protocol: str) -> Instance:
    try:
        record = _RECORD.decode(value)
        if record.network not in _NETWORKS:
            raise ValueError(f"network {record.network!r} reaches nobody on another host")
        if not -_WEIGHTS <= record.weight < _WEIGHTS:
            raise ValueError(f"weight {record.weight} does not fit into 64 bits")
        address, number = _split(record.address)
        raw = bytes(record.tags)
        metadata = gojson.strings(raw)
    except (ValueError, RecursionError) as error:
        raise unreadable("not a kitex record", error) from None
    kept = _Kept(
        network=None if record.network == "tcp" else record.network,
        weight=None if record.weight > 0 else record.weight,
        empty=not metadata and raw != b"null",
    )
    return Instance(
        id,
        address,
        (hostport.port(number, protocol),),
        weight=weights.read(record.weight if record.weight > 0 else _DEFAULT, _DEFAULT),
        metadata=metadata,
        native=interning.dump(NAME, kept),
    )


def encode(name: ServiceName, instance: Instance) -> tuple[str, bytes]:
    kept = interning.load(instance, NAME, _KEPT, _NOTHING)
    id = _id(name, instance)
    weight = weights.write(instance.weight, _DEFAULT, 1, _MOST)
    record = _Written(
        network=kept.network if kept.network in _NETWORKS else "tcp",
        address=id,
        weight=kept.weight if kept.weight is not None and weight == _DEFAULT else weight,
        tags=instance.metadata or ({} if kept.empty else None),
    )
    return keys.join(name, id), gojson.encode(record)


def canonical(name: ServiceName, instance: Instance, protocol: str) -> Instance:
    if NAME in instance.native:  # rare: not what the stock registry writes
        key, value = encode(name, instance)
        made = decode(name, key.rpartition("/")[2], value, protocol)
    else:
        id = _id(name, instance)
        keys.join(name, id)
        made = Instance(
            id,
            hostport.address_of(instance),
            (hostport.port(instance.ports[0].number, protocol),),
            weight=weights.read(weights.write(instance.weight, _DEFAULT, 1, _MOST), _DEFAULT),
            metadata=instance.metadata,
        )
    return instance if made == instance else made


def _id(name: ServiceName, instance: Instance) -> str:
    return hostport.join(hostport.address_of(instance), hostport.one_port(instance).number)


def _split(text: str) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    host, colon, number = text.rpartition(":")
    # Stock writers print IPv6 without brackets, and always with a port: what follows the last colon.
    bare = colon and host.count(":") > 1 and not host.startswith("[")
    return (hostport.host(host), hostport.port_number(number)) if bare else hostport.split(text)
