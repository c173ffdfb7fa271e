"""Istio: a ServiceEntry a host, WorkloadEntries beside the pods of a Service, and the DestinationRule that shares need.

Source: `networking.istio.io/v1`, seen with istiod of August 2026 on kube-apiserver 1.34. What istiod makes of an entry
is not what the server takes: it leaves host names out without a word, reads weight 0 as 1, gives a proxy two endpoints
of one address (which gRPC refuses), and an entry without endpoints is an outage at once. All of that is refused here.

**What a bridge writes.** The whole instances and their marks are JSON in one annotation, as in a slice
(`common.slice_entry`); above `slice_entry.MOST_BYTES` it is deflated, under another key. Endpoints are the instances
that may receive traffic; where none may, those that were there last stay.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from bridge.errors import Rejected
from bridge.model import Instance, Locality, Port, ServiceName, Traits
from mappings import kubernetes
from mappings.common import naming, slice_entry, weights
from mappings.common.slice_entry import Written
from mappings.kubernetes.objects import Meta, Service

NAME = "istio"
SERVICE = "isthmus.io/service"  # a label: a digest of the service's name in the model, which an annotation has in full
DEFLATED = "isthmus.io/entries-deflated"  # the annotation `slice_entry.ENTRIES`, deflated, in base64
HEALTH_CHECKS = "proxy.istio.io/health-checks-enabled"  # with it and without a status, a WorkloadEntry gets no traffic

MOST_ENDPOINTS = 4096  # the server refuses more
SHARE = 100  # the weight of an endpoint whose weight is 1.0
MOST_WEIGHT = 2**20 - 1  # 4,096 of them add up to less than the 2^32 that a locality's weight may be

_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_PROTOCOLS = {"http": "HTTP", "http2": "HTTP2", "h2c": "HTTP2", "grpc": "GRPC", "ws": "HTTP"}


class Endpoint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One endpoint of a ServiceEntry, and with `labels` the spec of a WorkloadEntry."""

    address: str = ""
    ports: dict[str, int] = {}
    labels: dict[str, str] = {}
    locality: str = ""
    weight: int = 0


class EntryPort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A port that clients dial."""

    name: str
    number: int
    protocol: str = ""


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of a ServiceEntry."""

    hosts: tuple[str, ...] = ()
    location: str = ""
    resolution: str = ""
    ports: tuple[EntryPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


class ServiceEntry(msgspec.Struct, frozen=True):
    """As the server has it."""

    metadata: Meta = Meta()
    spec: Spec = Spec()


class WorkloadEntry(msgspec.Struct, frozen=True):
    """As the server has it."""

    metadata: Meta = Meta()
    spec: Endpoint = Endpoint()


class LoadBalancer(msgspec.Struct, frozen=True, rename="camel"):
    """Of a traffic policy."""

    simple: str = ""
    consistent_hash: Any = None
    locality_lb_setting: dict[str, Any] | None = None


class Policy(msgspec.Struct, frozen=True, rename="camel"):
    """How proxies deal what goes to a host."""

    load_balancer: LoadBalancer = LoadBalancer()
    outlier_detection: Any = None


class RuleSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Of a DestinationRule."""

    host: str = ""
    traffic_policy: Policy = Policy()


class DestinationRule(msgspec.Struct, frozen=True):
    """As the server has it."""

    metadata: Meta = Meta()
    spec: RuleSpec = RuleSpec()


def traits(names: naming.Naming) -> Traits:
    """What its entries carry: everything but what one convention alone understands."""
    fields = frozenset(Instance.__struct_fields__) - {"native"}
    return Traits(fields=fields, namespaces=names.by_namespace, leases=False, is_read=False)


def host(names: naming.Naming, name: ServiceName) -> str:
    """The host of a service, which is also its ServiceEntry's name. Raises Rejected where it is none."""
    found = names.name(name, Port(0))
    if not _HOST.fullmatch(found):
        raise Rejected(f"{found!r} is no host name (a-z, 0-9, - and dots): `rename` the service on its link")
    return found


def canonical(names: naming.Naming, name: ServiceName, instance: Instance) -> Instance:
    """What will be read of an instance once it is written. Raises Rejected what istiod would not serve as it is."""
    host(names, name)
    if any(each.protocol != "TCP" for each in kubernetes.ports_of(instance.ports)):
        raise Rejected("Istio carries TCP alone")
    found = slice_entry.canonical(name, instance)
    weights.write(found.weight, SHARE, least=0, most=MOST_WEIGHT)
    return replace(found, native={}) if found.native else found


def gets_traffic(instance: Instance) -> bool:
    """Whether it may be an endpoint: health does not exist in a ServiceEntry, and weight 0 counts as 1."""
    return instance.serving and instance.weight > 0


# -- a ServiceEntry --


def spec(host: str, entries: Mapping[str, Instance], before: ServiceEntry | None) -> Spec:
    """A ServiceEntry of these instances, by id. Raises Rejected where they have no port in common.

    Of an endpoint without a port that the entry declares, istiod takes the declared number, where nobody listens: so
    only ports that all have are declared. Their numbers stay, for clients dial them.
    """
    known = {endpoint_key(each) for each in before.spec.endpoints} if before is not None else set()
    chosen = _endpoints(entries, known)
    ports = _ports(chosen, before.spec.ports if before is not None else ())
    if not ports:
        raise Rejected("it has no port whose name all its siblings have, too: one host cannot serve both")
    endpoints = tuple(sorted((endpoint(each) for each in chosen), key=endpoint_key))
    return Spec((host,), "MESH_EXTERNAL", "STATIC", ports, endpoints)


def endpoint(instance: Instance, *, scale: int = SHARE) -> Endpoint:
    """The endpoint of an instance. `scale`: the weight of one whose weight is 1.0."""
    return Endpoint(
        instance.address,
        {each.name or "": each.port or 0 for each in kubernetes.ports_of(instance.ports)},
        {},
        _locality(instance.locality),
        weights.write(instance.weight, scale, least=1, most=MOST_WEIGHT),
    )


def endpoint_key(one: Endpoint) -> tuple[str, tuple[tuple[str, int], ...]]:
    """What tells endpoints of one entry apart."""
    return one.address, tuple(sorted(one.ports.items()))


def _endpoints(entries: Mapping[str, Instance], known: Collection[object]) -> list[Instance]:
    """Those that may receive traffic; if none may, those that were there last; if there are none, all."""
    found = [each for each in entries.values() if gets_traffic(each)]
    last = [each for each in entries.values() if endpoint_key(endpoint(each)) in known]
    return found or last or list(entries.values())


def _ports(instances: Iterable[Instance], standing: Iterable[EntryPort]) -> tuple[EntryPort, ...]:
    numbers = {each.name: each.number for each in standing}
    common: dict[str, EntryPort] | None = None
    for one in instances:
        named = zip(kubernetes.ports_of(one.ports), one.ports, strict=True)
        ports = {made.name or "": EntryPort(made.name or "", made.port or 0, _protocol(port)) for made, port in named}
        common = ports if common is None else {name: port for name, port in common.items() if name in ports}
    taken: set[int] = set()
    found = []
    for name, port in sorted((common or {}).items(), key=lambda item: (item[0] not in numbers, item[0])):
        number = numbers.get(name, port.number)
        while number in taken:
            number = number % 65535 + 1
        taken.add(number)
        found.append(replace(port, number=number))
    return tuple(sorted(found, key=lambda each: each.name))


def _protocol(port: Port) -> str:
    if port.tls:
        return "TLS"
    return _PROTOCOLS.get(port.protocol, "TCP")


def _locality(found: Locality) -> str:
    """Region, zone and sub-zone, as far as they are said; a name with a slash would be two of them."""
    names = [each.replace("/", "-") for each in (found.region, found.zone, found.sub_zone)]
    return "/".join(names).rstrip("/")


# -- a WorkloadEntry --


def selected_by(service: Service | None) -> dict[str, str] | None:
    """The labels of a Service's pods; None: it has no selector, so that nothing stands beside pods."""
    return dict(service.spec.selector) if service is not None and service.spec.selector else None


def workload(instance: Instance, service: Service, ports: Mapping[str, int]) -> Endpoint:
    """The spec of a WorkloadEntry beside a Service's pods, which always weigh 1: so does an instance of weight 1.0."""
    labels = selected_by(service) or {}
    return replace(endpoint(instance, scale=1), labels=labels, ports=dict(ports))


# -- what is read back --


def name_of(meta: Meta) -> ServiceName | None:
    """The service that a bridge's object is of; None: it is nobody's that we know."""
    text = (meta.annotations or {}).get(kubernetes.ORIGINAL_NAME)
    return ServiceName.parse(text) if text and SERVICE in (meta.labels or {}) else None


def label(name: ServiceName) -> str:
    """The value of the label SERVICE."""
    return slice_entry.digest(str(name), 16)


def encoded(entries: Mapping[str, Written]) -> dict[str, str]:
    """The annotation of these entries. Raises Rejected where there is no room for them."""
    text = slice_entry.encode({id: slice_entry.encode_one(each) for id, each in entries.items()})
    if len(text.encode()) <= slice_entry.MOST_BYTES:
        return {slice_entry.ENTRIES: text}
    packed = base64.b64encode(zlib.compress(text.encode())).decode()
    if len(packed) > slice_entry.MOST_BYTES:
        raise Rejected(f"no room: {len(entries)} entries are more than the annotations of one ServiceEntry can say")
    return {DEFLATED: packed}


def written_in(meta: Meta) -> dict[str, Written | str] | str:
    """The entries of a bridge's object by id, each readable or why not; a text: why none is."""
    notes = meta.annotations or {}
    try:
        packed = notes.get(DEFLATED)
        text = zlib.decompress(base64.b64decode(packed)).decode() if packed else notes.get(slice_entry.ENTRIES, "")
        return slice_entry.decode(text)
    except (ValueError, zlib.error) as error:
        return f"the annotation with its entries cannot be read: {error}"


def intact(found: ServiceEntry, entries: Mapping[str, Written]) -> bool:
    """Whether its endpoints are still those of its entries: somebody who edits them owns what stands there."""
    try:
        made = spec((found.spec.hosts or ("",))[0], {id: one.instance for id, one in entries.items()}, found)
    except Rejected:
        return False
    return sorted(map(_comparable, made.endpoints)) == sorted(map(_comparable, found.spec.endpoints))


def _comparable(one: Endpoint) -> tuple[object, ...]:
    return one.address, tuple(sorted(one.ports.items())), one.locality, one.weight


# -- shares --


def rule(host: str) -> dict[str, Any]:
    """How proxies have to deal so that shares are what the weights say.

    By default it is LEAST_REQUEST, which makes of 75 to 25 some 65 to 35; and with an outlier detection of anybody's,
    locality failover sends all to the side that is in the proxy's own zone.
    """
    dealt = {"simple": "ROUND_ROBIN", "localityLbSetting": {"enabled": False}}
    return {"host": host, "trafficPolicy": {"loadBalancer": dealt}}


def covers(found: DestinationRule, host: str) -> bool:
    """Whether a rule is about a host."""
    pattern = found.spec.host
    return pattern == host or pattern == "*" or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def harm(found: RuleSpec) -> str:
    """What a rule does to shares by weight, "" if nothing."""
    dealt, said = found.traffic_policy.load_balancer, []
    if dealt.consistent_hash is not None:
        said.append("it deals by a hash, so that shares are those of the clients' keys")
    elif dealt.simple != "ROUND_ROBIN":
        kind = dealt.simple or "LEAST_REQUEST, Istio's default"
        said.append(f"it deals by {kind}: weights of 75 to 25 come out as about 65 to 35")
    setting = dealt.locality_lb_setting or {}
    if found.traffic_policy.outlier_detection is not None and setting.get("enabled") is not False:
        said.append(
            "its outlierDetection turns locality failover on: a proxy in the zone of one side sends the other nothing, "
            "unless localityLbSetting.enabled is false"
        )
    return "; ".join(said)
