"""Consul's services: what its health endpoint shows of an instance, and what is written into its catalog.

Sources: hashicorp/consul 1.20 (`api/health.go` for the order of checks, `agent/structs` for the limits of metadata),
and what consul-api, Spring Cloud Consul, go-kratos and consul-k8s write, each seen on a real server.

A bridge's copies stand on nodes of its own, `isthmus-BRIDGE-NN`, and say in their metadata what stock readers have no
field for: `isthmus-id`, `isthmus-mark` (the ledger's entry) and `isthmus-more` (the rest of the model), each continued
under `isthmus-mark-1` and so on where it is longer than Consul takes. On other nodes these keys mean nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from bridge.errors import Rejected
from bridge.model import NOWHERE, Health, Instance, Locality, Mark, Port, ServiceName, Traits
from mappings import ledger
from mappings.common import hostport, interning, weights
from mappings.common.faults import unreadable
from mappings.consul import records

NAME = "consul"
TRAITS = Traits(
    fields=frozenset({"id", "address", "ports", "health", "weight", "locality", "version", "tags", "metadata"}),
    leases=False,
    calls_unhealthy=True,
)

NODE = "isthmus-"  # and the bridge's id and a number: the node that a bridge keeps its copies on
ID, MARK, MORE = "isthmus-id", "isthmus-mark", "isthmus-more"
OWN = "isthmus-"  # what every key of ours begins with
CHECK = "isthmus:"  # and the service's id: the check that says how the instance is
MAINTENANCE = "_service_maintenance:"  # as an agent's maintenance mode writes it
NODE_MAINTENANCE = "_node_maintenance"

# agent/structs: ValidateServiceMetadata.
PAIRS, KEY_BYTES, VALUE_BYTES = 64, 128, 512
MARK_PAIRS = 10  # kept free for the mark, whose length is not known before it is written
PLAIN_PAIRS = 40  # of metadata that stand under their own keys; the others are packed
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}").fullmatch
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]").search

_READ = {"passing": Health.HEALTHY, "warning": Health.DEGRADED, "critical": Health.UNHEALTHY}
_WORST = (Health.DRAINING, Health.UNHEALTHY, Health.UNKNOWN, Health.DEGRADED)
STATUS = {
    Health.UNKNOWN: "passing",
    Health.HEALTHY: "passing",
    Health.DEGRADED: "warning",
    Health.UNHEALTHY: "critical",
    Health.DRAINING: "critical",  # beside a maintenance check
}

# Tagged addresses that are Consul's own: no URL of go-kratos stands under them.
_NETWORKS = frozenset({"lan", "wan", "lan_ipv4", "lan_ipv6", "wan_ipv4", "wan_ipv6", "virtual"})
_PLAIN_OF = {"grpcs": "grpc", "https": "http"}
_SECURE_OF = {plain: secure for secure, plain in _PLAIN_OF.items()}


class _More(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What of a copy no field of Consul's says. `metadata`: pairs that Consul does not take under their own keys.

    `added`: keys of metadata that are there for stock readers alone. `unknown`: passing, and nobody knows whether so.
    """

    ports: tuple[Port, ...] = ()
    metadata: dict[str, str] = {}
    added: tuple[str, ...] = ()
    weight: float | None = None
    locality: Locality = NOWHERE
    unknown: bool = False


class Where(NamedTuple):
    """Where a record stands. `id`: the entry's. `copy`: on a bridge's node, under an id that it gave."""

    id: str
    node: str
    service_id: str
    service: str
    modified: int
    copy: bool
    mark: Mark | None
    ledgered: bool


class Written(NamedTuple):
    """What is written of an instance: the service, the status of its check, and whether it is in maintenance."""

    service: dict[str, Any]
    status: str
    maintenance: bool


_MORE = msgspec.json.Decoder(_More)


def locate(raw: bytes) -> Where | None:
    """Where a record stands and who wrote it. Raises Undecodable.

    None: nothing to call, but a sidecar, a gateway, Consul itself, or a peer's.
    """
    try:
        found = records.KEY.decode(raw)
    except (ValueError, RecursionError) as error:
        raise unreadable("not a record of Consul's health endpoint", error) from None
    service, node = found.Service, found.Node
    if service.Kind or service.PeerName or service.Service.lower() == "consul":
        return None
    meta = service.Meta or {}
    owner = owner_of(node.Node)
    given = meta.get(ID)
    copy = owner is not None and isinstance(given, str)
    text = joined(meta, MARK) if copy else ""
    mark = ledger.decode(text.encode()) if text else None
    if mark is not None and (owner is None or mark.owner.lower() != owner.lower()):
        mark = None  # carried here from another bridge's node: nobody's, and a copy all the same
    id = str(given) if copy else f"{node.Datacenter}/{node.Node}/{service.ID}"
    return Where(id, node.Node, service.ID, service.Service, service.ModifyIndex, copy, mark, bool(text))


def decode(raw: bytes, protocol: str = "", tag: str = "") -> Instance:
    """The instance that a record of the health endpoint stands for; raises Undecodable.

    `protocol`: of ports that say none. `tag`: the tagged address to take, where there is one.
    """
    where = locate(raw)
    try:
        record = records.RECORD.decode(raw)
        if where is None:
            raise ValueError("a sidecar, a gateway, Consul itself or a peer's")
        if where.copy:
            return _copy(where.id, record)
        return _native(where.id, record, protocol, tag)
    except (ValueError, RecursionError) as error:
        raise unreadable("not a service that anybody could call", error) from None


def owner_of(node: str) -> str | None:
    """The bridge whose node that is; None: nobody's."""
    owner, dash, number = node.removeprefix(NODE).rpartition("-")
    return owner if node.startswith(NODE) and dash and number.isdecimal() and len(number) >= 2 else None


def node_of(bridge: str, number: int) -> str:
    """The inverse."""
    return f"{NODE}{bridge}-{number:02}"


def service_id(name: ServiceName, id: str) -> str:
    """Unique on a node among all services: Consul renames what is registered again under another name there.

    Consul takes no notice of case in ids, entries of the model do: one with capital letters carries a digest.
    """
    plain = f"{name.name}:{id}"
    return plain if plain == plain.lower() else f"{plain}~{_digest(plain)}"


def encode(name: ServiceName, instance: Instance, mark: Mark | None) -> Written:
    """What stands for the instance on a bridge's node. `mark` None: released. Raises Rejected."""
    _named(name)
    if not instance.id or len(instance.id.encode()) > VALUE_BYTES:
        raise Rejected("Consul takes no id of that length in metadata" if instance.id else "empty id")
    address = _address(instance)
    ports = tuple(map(hostport.dialable, instance.ports))
    weight = min(weights.write(instance.weight, 1, 1), 65535)
    plain, packed = _split(instance.metadata)
    added = _added(instance, plain)
    more = _More(
        ports,
        packed,
        tuple(added),
        None if weight == instance.weight else instance.weight,
        instance.locality,
        instance.health is Health.UNKNOWN,
    )
    meta = {**plain, **added, ID: instance.id, **_pieces(MORE, msgspec.json.encode(more).decode())}
    if len(meta) > PAIRS - MARK_PAIRS:
        raise Rejected(f"more metadata than Consul takes in {PAIRS} pairs of {VALUE_BYTES} bytes: `metadata: drop`")
    if mark is not None:
        meta |= _pieces(MARK, ledger.encode(mark).decode())
    if len(meta) > PAIRS:
        raise Rejected("the way that it came is longer than Consul's metadata takes")
    service: dict[str, Any] = {
        "ID": service_id(name, instance.id),
        "Service": name.name,
        "Tags": _tags(instance),
        "Address": address,
        "Port": ports[0].number if ports else 0,
        "Meta": meta,
        "Weights": {"Passing": weight, "Warning": 1},
        "TaggedAddresses": _tagged(address, ports),
    }
    return Written(service, STATUS[instance.health], instance.health is Health.DRAINING)


def canonical(name: ServiceName, instance: Instance) -> Instance:
    """What will be read of the instance once it is written: the very same object where nothing is lost."""
    encode(name, instance, None)
    version, tags = _version(instance.version, instance.metadata, tuple(_tags(instance)))
    metadata = {key: text for key, text in instance.metadata.items() if not key.startswith(OWN)}
    made = Instance(
        instance.id,
        hostport.address_of(instance),
        instance.ports,
        instance.health,
        instance.weight,
        instance.locality,
        version,
        tags,
        metadata,
    )
    return instance if made == instance else made


def joined(meta: Mapping[str, Any], key: str) -> str:
    """The text that stands under a key and those that continue it."""
    pieces = [meta.get(key)]
    while isinstance(pieces[-1], str):
        pieces.append(meta.get(f"{key}-{len(pieces)}"))
    return "".join(map(str, pieces[:-1]))


# -- reading ---------------------------------------------------------------------------------------------------------


def _copy(id: str, record: records.Record) -> Instance:
    """A bridge's own: nothing is guessed."""
    service, meta = record.Service, record.Service.Meta or {}
    more = _MORE.decode(joined(meta, MORE) or "{}")
    metadata = {key: text for key, text in meta.items() if not key.startswith(OWN) and key not in more.added}
    metadata |= more.metadata
    version, tags = _version("", metadata, tuple(service.Tags or ()))
    health = _health(record)
    return Instance(
        id,
        hostport.host(service.Address),
        more.ports,
        Health.UNKNOWN if more.unknown and health is Health.HEALTHY else health,
        float(_weight(service)) if more.weight is None else more.weight,
        more.locality,
        version,
        tags,
        metadata or interning.EMPTY,
    )


def _native(id: str, record: records.Record, protocol: str, tag: str) -> Instance:
    service = record.Service
    metadata = {key: text for key, text in (service.Meta or {}).items() if not key.startswith(OWN)}
    version, tags = _version("", metadata, tuple(service.Tags or ()))
    address, number = _place(record, tag)
    return Instance(
        id,
        hostport.host(address),
        tuple(_ports(service, number, metadata, protocol)),
        _health(record),
        float(_weight(service)),
        _locality(record, metadata),
        version,
        tags,
        metadata or interning.EMPTY,
    )


def _place(record: records.Record, tag: str) -> tuple[str, int]:
    """The address and the port: the tagged ones of the service, its own, the tagged one of the node, the node's own."""
    node, service = record.Node, record.Service
    tagged = (service.TaggedAddresses or {}).get(tag) if tag else None
    if tagged is not None and tagged.Address:
        return tagged.Address, tagged.Port or service.Port
    of_node = (node.TaggedAddresses or {}).get(tag, "") if tag else ""
    return service.Address or of_node or node.Address, service.Port


def _ports(service: records.Service, number: int, metadata: Mapping[str, str], protocol: str) -> Iterator[Port]:
    """Named ports of Consul 1.22, else the URLs of go-kratos, else the one port; and those in metadata."""
    if service.Ports:
        for one in sorted(service.Ports, key=lambda one: not one.Default):
            yield hostport.port(_number(one.Port), _spoken(one.Name, protocol), name=one.Name)
        return
    urls = list(_urls(service))
    if urls:
        yield from urls
        return
    tls = metadata.get("secure") == "true"  # Spring Cloud Consul
    spoken = protocol or ("http" if "secure" in metadata else "udp" if "udp" in (service.Tags or ()) else "")
    if number:
        yield hostport.port(_number(number), spoken, tls)
    if "external-k8s-ns" in metadata:
        return  # consul-k8s gives the ports of the Kubernetes Service there, which no endpoint need have
    for key, text in metadata.items():
        name = key.removeprefix("port-")
        if name != key and name and text.isdecimal() and text != str(number):
            yield hostport.port(hostport.port_number(text), _spoken(name, protocol), name=name)


def _urls(service: records.Service) -> Iterator[Port]:
    for key, tagged in (service.TaggedAddresses or {}).items():
        if key not in _NETWORKS and "://" in tagged.Address:
            url = urlsplit(tagged.Address)
            plain = _PLAIN_OF.get(url.scheme, url.scheme)
            secure = plain != url.scheme or "isSecure=true" in url.query
            yield hostport.port(_number(url.port or tagged.Port), plain, secure, url.scheme)


def _number(number: int) -> int:
    return hostport.port_number(str(number))


def _spoken(name: str, protocol: str) -> str:
    return name if name in ("grpc", "http", "tcp", "udp") else protocol


def _health(record: records.Record) -> Health:
    """In Consul's order (`api/health.go`); checks of the node count for each of its instances."""
    found = {_of(check) for check in record.Checks or () if check.ServiceID in ("", record.Service.ID)}
    return next((worst for worst in _WORST if worst in found), Health.HEALTHY)


def _of(check: records.Check) -> Health:
    if check.CheckID == NODE_MAINTENANCE or check.CheckID.startswith(MAINTENANCE) or check.Status == "maintenance":
        return Health.DRAINING
    return _READ.get(check.Status, Health.UNKNOWN)


def _weight(service: records.Service) -> int:
    return service.Weights.Passing if service.Weights is not None else 1


def _locality(record: records.Record, metadata: Mapping[str, str]) -> Locality:
    said = record.Service.Locality or records.Locality()
    zone = said.Zone or metadata.get("zone", "") or metadata.get("external-k8s-topology-zone", "")
    return Locality(said.Region or metadata.get("region", "") or record.Node.Datacenter, zone)


def _version(said: str, metadata: Mapping[str, str], tags: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The version, by the tag of go-kratos or by metadata, and the other tags."""
    tagged = next((tag for tag in tags if tag.startswith("version=")), "")
    if not tagged:
        return said or metadata.get("version", ""), tags
    at = tags.index(tagged)
    return tagged.removeprefix("version="), tags[:at] + tags[at + 1 :]


# -- writing ---------------------------------------------------------------------------------------------------------


def _named(name: ServiceName) -> None:
    if name.namespace:
        raise Rejected(f"Consul has no namespaces, and {name} is in one: say the name with `rename:` on the link")
    if name.name in ("", ".", ".."):
        raise Rejected(f"no service of Consul can be read under the name {name.name!r}")
    if name.name.lower() == "consul":
        raise Rejected("consul is the name of Consul's own servers")


def _address(instance: Instance) -> str:
    address = hostport.address_of(instance)
    if address in ("0.0.0.0", "::"):  # noqa: S104
        raise Rejected(f"Consul refuses {address} as an address")
    return address


def _split(metadata: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Pairs that Consul takes as they are, and those that it does not, or has no room for."""
    plain: dict[str, str] = {}
    packed: dict[str, str] = {}
    for key, text in metadata.items():
        if key.startswith(OWN):
            continue
        reserved = key.lower().startswith("consul-")
        fits = _KEY(key) and not reserved and len(text.encode()) <= VALUE_BYTES and not _UNPRINTABLE(text)
        (plain if fits and len(plain) < PLAIN_PAIRS else packed)[key] = text
    return plain, packed


def _added(instance: Instance, plain: Mapping[str, str]) -> dict[str, str]:
    """What stock readers look for in metadata, and our instances say elsewhere."""
    wanted = {}
    if instance.locality.zone and len(instance.locality.zone.encode()) <= VALUE_BYTES:
        wanted["zone"] = instance.locality.zone
    if instance.ports and instance.ports[0].tls:
        wanted["secure"] = "true"
    for port in instance.ports[1:]:
        if _KEY(key := f"port-{port.name}") and port.name:
            wanted[key] = str(port.number)
    return {key: text for key, text in wanted.items() if key not in instance.metadata and key not in plain}


def _tags(instance: Instance) -> list[str]:
    said = instance.version and instance.version != instance.metadata.get("version")
    return [f"version={instance.version}", *instance.tags] if said else list(instance.tags)


def _tagged(address: str, ports: tuple[Port, ...]) -> dict[str, dict[str, Any]] | None:
    """The URLs that go-kratos looks for: of a record without them it makes `http://address:port`."""
    found: dict[str, dict[str, Any]] = {}
    for port in ports:
        if port.protocol in _SECURE_OF:
            scheme = _SECURE_OF[port.protocol] if port.tls else port.protocol
            url = f"{scheme}://{hostport.join(address.replace('%', '%25'), port.number)}"
            found.setdefault(scheme, {"Address": url, "Port": port.number})
    return found or None


def _pieces(key: str, text: str) -> dict[str, str]:
    """A text under a key, and under numbered ones where it is longer than one value may be."""
    pieces: list[str] = []
    piece: list[str] = []
    used = 0
    for character in text:
        size = len(character.encode())
        if used + size > VALUE_BYTES:
            pieces.append("".join(piece))
            piece, used = [], 0
        piece.append(character)
        used += size
    pieces.append("".join(piece))
    return {key if not number else f"{key}-{number}": each for number, each in enumerate(pieces)}


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
