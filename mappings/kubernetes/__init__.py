"""Kubernetes: Services, EndpointSlices and Pods read as instances, and what a bridge writes into a slice.

The objects are in `objects`, addresses that stand for all pods of a Service in `fronts`. Source: the API `v1` and
`discovery.k8s.io/v1`, seen with kube-apiserver 1.34.

**What a bridge writes.** A slice with the labels `MANAGED_BY: MANAGER` and `SERVICE_NAME`, of one service of the model.
Its endpoints have what stock readers need. Their `targetRef` is `{kind: TARGET, name: the instance's id}`, which the
apiserver leaves as it is. The marks and the whole instances are JSON in one annotation, see `common.slice_entry`.
The annotation `ORIGINAL_NAME` has the service's name where no Service can have it (`is_service_name`).

**Who owns it.** An endpoint is a bridge's only while it is what the annotation says (`endpoint_of`, port numbers):
what anybody else changed since is a native's (docs/safety.md, ownership).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from bridge.errors import Undecodable
from bridge.model import Health, Instance, Locality, Mark, Port, Traits
from mappings.common import hostport, slice_entry
from mappings.common.slice_entry import Written
from mappings.kubernetes.objects import (
    SERVICE_NAME,
    Conditions,
    Endpoint,
    Meta,
    Pod,
    Slice,
    SlicePort,
    Target,
)

NAME = "kubernetes"
TRAITS = Traits(fields=frozenset(Instance.__struct_fields__) - {"native"}, namespaces=True, leases=False)

ORIGINAL_NAME = "isthmus.io/service-name"
TARGET = "IsthmusInstance"  # the kind of a written endpoint's targetRef

# Labels and annotations of tools, `*` for any text: neither read as metadata nor written. A copied one makes its tool
# take the copy for its own: Argo CD in another cluster prunes live slices that carry its tracking id.
TOOLS = (
    "kubectl.kubernetes.io/*",
    "*argocd*",
    "*argoproj.io*",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "meta.helm.sh/*",
    "helm.sh/*",
    "*fluxcd*",
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "*statefulset.kubernetes.io/*",
    "deployment.kubernetes.io/*",
    "service.kubernetes.io/*",
    "service.*.kubernetes.io/*",
    "endpoints.kubernetes.io/*",
    "endpointslice.kubernetes.io/*",
    SERVICE_NAME,
    "isthmus.io/*",
)
_TOOLS = re.compile("|".join(re.escape(each).replace(r"\*", ".*") for each in TOOLS)).fullmatch

# Labels that say an instance's version, the recommended one first.
_VERSIONS = ("app.kubernetes.io/version", "version")
NODE = "kubernetes.io/hostname"  # the metadata that names the node

# appProtocol, or the port's name up to its first dash where it says none: the model's protocol, and TLS.
_PROTOCOLS = {
    "http": ("http", False),
    "https": ("http", True),
    "http2": ("http2", False),
    "h2c": ("h2c", False),
    "kubernetes.io/h2c": ("h2c", False),
    "ws": ("ws", False),
    "wss": ("ws", True),
    "kubernetes.io/ws": ("ws", False),
    "kubernetes.io/wss": ("ws", True),
    "grpc": ("grpc", False),
    "grpcs": ("grpc", True),
    "thrift": ("thrift", False),
    "dubbo": ("dubbo", False),
    "tcp": ("tcp", False),
}
_NAMED = frozenset({"http", "https", "http2", "grpc", "thrift", "dubbo"})  # of which a port's name alone says enough
_APP_PROTOCOL = re.compile(r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?").fullmatch
_PORT_NAME = re.compile(r"(?=.{1,63}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?").fullmatch


Said = dict[str, Written | str] | str  # see `written_in`


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one endpoint says. `mark` None: a native's. `why`: why it cannot be read, and then there is no instance.

    `slice`: the name of its slice, for who writes it.
    """

    id: str
    instance: Instance | None
    mark: Mark | None = None
    why: str = ""
    slice: str = ""


class Surroundings(NamedTuple):
    """What an instance's metadata comes from beside its endpoint: the Service, and where wanted the Pods by name."""

    metadata: dict[str, str]
    pods: Mapping[str, Pod]
    first_family: str  # of a service with two, the one whose addresses are read
    version: str  # what the metadata says of it
    by_node: dict[str | None, dict[str, str]]  # the metadata that instances of a node share


def surroundings(
    metadata: dict[str, str] | None = None, pods: Mapping[str, Pod] | None = None, first_family: str = ""
) -> Surroundings:
    """What surrounds the slices of one service now."""
    return Surroundings(metadata or {}, pods or {}, first_family, version_of(metadata or {}), {})


# -- what a bridge writes --


CONDITIONS = {
    Health.UNKNOWN: Conditions(True, True, False),
    Health.HEALTHY: Conditions(True, True, False),
    Health.DEGRADED: Conditions(True, True, False),
    Health.UNHEALTHY: Conditions(False, False, False),
    Health.DRAINING: Conditions(False, True, True),
}


def endpoint_of(instance: Instance) -> Endpoint:
    """The endpoint of an instance, as it stands in the store once the apiserver has filled in what is left out."""
    return Endpoint(
        (instance.address,),
        CONDITIONS[instance.health],
        target_ref=Target(TARGET, name=instance.id),
        zone=instance.locality.zone or None,
    )


@lru_cache(maxsize=8192)
def ports_of(ports: tuple[Port, ...]) -> tuple[SlicePort, ...]:
    """The ports of a slice whose instances have these, likewise: names are unique, and of the allowed form."""
    names: set[str] = set()
    made = []
    for port in ports:
        # Never without a name: a Service with several ports needs one for each, and its other instances may have more.
        given = port.name or port.protocol
        name = given.lower() if _PORT_NAME(given.lower()) else "port"
        if name in names:
            name = f"{name[:57]}-{port.number}"
        names.add(name)
        made.append(SlicePort(name, port.number, _TRANSPORTS.get(port.protocol, "TCP"), _app_protocol(port)))
    return tuple(made)


_TRANSPORTS = {"udp": "UDP", "sctp": "SCTP"}
_SECURE = {"http": "https", "ws": "kubernetes.io/wss", "grpc": "grpcs"}
_PLAIN = {"h2c": "kubernetes.io/h2c", "ws": "kubernetes.io/ws"}


def _app_protocol(port: Port) -> str | None:
    if port.protocol in _TRANSPORTS or not port.protocol:
        return None
    said = (_SECURE if port.tls else _PLAIN).get(port.protocol, port.protocol)
    return said if _APP_PROTOCOL(said) else None


# -- what is read --


def entries(found: Slice, around: Surroundings | None = None, said: Said | None = None) -> list[Entry]:
    """What the endpoints of one slice say, each by itself. `said`: what `written_in` says of it, if that is known."""
    around = around or surroundings()
    written, slice = found.written, found.metadata.name
    if said is None or not written:
        said = written_in(found) if written else {}
    ports: tuple[Port, ...] = ()
    why = ""
    try:
        ports = _ports(found.ports or ())
    except Undecodable as error:
        why = str(error)
    told: list[Entry] = []
    for endpoint in found.endpoints or ():
        if written and (entry := _written(found, endpoint, said)) is not None:
            told.append(entry)
            continue
        id = _id(endpoint, ports)
        if why:
            told.append(Entry(id, None, None, why, slice))
            continue
        try:
            told.append(Entry(id, _native(id, endpoint, ports, around), None, "", slice))
        except ValueError as error:
            told.append(Entry(id, None, None, str(error), slice))
    return told


_SERVICE_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?").fullmatch


def is_service_name(name: str) -> bool:
    """Whether a Service may have this name (RFC 1035, 63 characters); a slice's label says it then as it is."""
    return _SERVICE_NAME(name) is not None


def service_name(found: Slice) -> str:
    """The service's name in the model: the label's, unless a bridge noted another one."""
    return (found.metadata.annotations or {}).get(ORIGINAL_NAME, found.service) if found.written else found.service


def merged(slices: Iterable[tuple[Slice, Sequence[Entry]]], first_family: str = "") -> dict[str, Entry]:
    """All entries of one service: of two with one id natives win, then what can be read, then the first address family.

    Of the same family the later slice wins, for an endpoint that moves between slices stands in both for a moment.
    """
    several = list(slices)
    if len(several) == 1:
        (_, only), *_ = several
        found_once = {entry.id: entry for entry in only}
        if len(found_once) == len(only):
            return found_once
    best: dict[str, tuple[tuple[bool, bool, bool, int], Entry]] = {}
    for found, each in several:
        family = not first_family or found.address_type == first_family
        position = revision(found.metadata.resource_version)
        for entry in each:
            rank = (entry.mark is None, entry.instance is not None, family, position)
            if entry.id not in best or best[entry.id][0] < rank:
                best[entry.id] = rank, entry
    return {id: entry for id, (_, entry) in best.items()}


def revision(text: str) -> int:
    """A resourceVersion as a number: 0 where it is none."""
    return int(text) if text.isdecimal() else 0


def written_in(found: Slice) -> Said:
    """What a bridge's slice says of its entries, by id, each readable or why not; a text: why none is."""
    try:
        return slice_entry.decode((found.metadata.annotations or {}).get(slice_entry.ENTRIES, ""))
    except ValueError as error:
        return f"its slice's annotation {slice_entry.ENTRIES} cannot be read: {error}"


def _written(found: Slice, endpoint: Endpoint, said: Said) -> Entry | None:
    """A bridge's entry; None: it is a native's, for it is not what the annotation says."""
    target = endpoint.target_ref
    if target is None or target.kind != TARGET:
        return None
    entry = said if isinstance(said, str) else said.get(target.name)
    if entry is None:
        return None
    if isinstance(entry, str):
        return Entry(target.name, None, None, entry, found.metadata.name)
    numbers = sorted(each.port or 0 for each in found.ports or ())
    if endpoint_of(entry.instance) != endpoint or numbers != sorted(port.number for port in entry.instance.ports):
        return None
    return Entry(target.name, entry.instance, entry.mark, slice=found.metadata.name)


def _id(endpoint: Endpoint, ports: Sequence[Port]) -> str:
    """A pod's name, or what else a bridge named it; else its address, with the first port where there is one."""
    target = endpoint.target_ref
    if target is not None and target.kind in ("Pod", TARGET) and target.name:
        return target.name
    address = endpoint.addresses[0] if endpoint.addresses else ""
    return hostport.join(address, ports[0].number) if ports else address


def _native(id: str, endpoint: Endpoint, ports: tuple[Port, ...], around: Surroundings) -> Instance:
    if not endpoint.addresses:
        raise ValueError("an endpoint without an address")
    target, metadata, version = endpoint.target_ref, around.metadata, around.version
    pod = around.pods.get(target.name) if around.pods and target is not None and target.kind == "Pod" else None
    if pod is not None:
        metadata = metadata | metadata_of(pod.metadata)
        version = version_of(metadata)
        if endpoint.node_name:
            metadata[NODE] = endpoint.node_name
    elif node := endpoint.node_name:
        metadata = around.by_node.get(node) or around.by_node.setdefault(node, {**metadata, NODE: node})
    # By position, up to the metadata: a cluster has so many of them that names of arguments count.
    return Instance(
        id,
        hostport.host(endpoint.addresses[0]),
        ports,
        _health(endpoint.conditions),
        1.0,
        _locality(endpoint.zone or ""),
        version,
        (),
        metadata,
    )


def version_of(metadata: Mapping[str, str]) -> str:
    """The version that labels say, "" where none does."""
    return next((metadata[key] for key in _VERSIONS if key in metadata), "")


_HEALTHY = Health.HEALTHY  # a name of the module is found in a third of the time


def _health(conditions: Conditions) -> Health:
    if conditions.ready and not conditions.terminating:
        return _HEALTHY
    if conditions.terminating:
        return Health.UNHEALTHY if conditions.serving is False else Health.DRAINING
    return Health.UNKNOWN if conditions.ready is None else Health.UNHEALTHY


@lru_cache(maxsize=256)
def _locality(zone: str) -> Locality:
    return Locality(zone=zone)


@lru_cache(maxsize=8192)
def _ports(found: tuple[SlicePort, ...]) -> tuple[Port, ...]:
    """The ports of a slice; a port without a number stands for all, and is none. Raises Undecodable."""
    made = []
    for each in found:
        if each.port is None:
            continue
        if not 0 < each.port < 65536:  # the apiserver takes any number here
            raise Undecodable(f"port {each.port} of a slice is none (1 to 65535)")
        made.append(port(each.port, each.name, each.protocol, each.app_protocol))
    return tuple(made)


def port(number: int, name: str | None, transport: str | None, app_protocol: str | None) -> Port:
    """A port of a slice or a Service."""
    if transport and transport != "TCP":
        return hostport.port(number, transport.lower(), name=name or "")
    if app_protocol:
        protocol, tls = _PROTOCOLS.get(app_protocol.lower(), (app_protocol.lower(), False))
    else:
        prefix = (name or "").partition("-")[0]
        protocol, tls = _PROTOCOLS[prefix] if prefix in _NAMED else ("", False)
    return hostport.port(number, protocol, tls, name or "")


def metadata_of(meta: Meta) -> dict[str, str]:
    """Annotations and labels, without those of tools; of a key that is both, the label."""
    both = {**(meta.annotations or {}), **(meta.labels or {})}
    return {key: text for key, text in both.items() if not of_a_tool(key)}


@lru_cache(maxsize=8192)
def of_a_tool(key: str) -> bool:
    """Whether a label or annotation is a tool's own; see TOOLS."""
    return _TOOLS(key) is not None
