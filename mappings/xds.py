"""Resources of xDS v3: a cluster with its assignment and a listener for each service, as Envoy and gRPC both take them.

Source: Envoy 1.40, grpcio 1.85, grpc-go 1.79. One picture is for all clients: what any of them refuses is not sent, for
a Go client that refuses one assignment reads no other until its process restarts. Hence ROUND_ROBIN, IP addresses
without duplicates, a weight on each locality, and instances that must not get traffic left out: with more than half
marked UNHEALTHY, Envoy sends to the dead. DRAINING is for those that still answer. Host names are for
Envoy alone, which looks them up (STRICT_DNS): no gRPC client can.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from bridge.errors import Rejected
from bridge.model import SERVING, Health, Instance, ServiceName, Traits
from mappings.common import hostport, naming, weights

NAME = "xds"
FIELDS = frozenset({"id", "address", "ports", "weight", "locality", "version", "metadata"})

EGRESS = "isthmus-egress"  # listener and routes of an Envoy through which an application reaches every service
SHARE = 100  # the weight of an endpoint whose weight is 1.0


def traits(names: naming.Naming) -> Traits:
    """What its endpoints can say; several ports only where each has a name."""
    return Traits(fields=FIELDS, ports=0 if names.by_port else 1, namespaces=names.by_namespace, leases=False)


def canonical(names: naming.Naming, name: ServiceName, instance: Instance) -> Instance:
    """What is served of an instance. Raises Rejected what one of the clients refuses, or must not be sent to."""
    if instance.health not in SERVING and instance.health is not Health.DRAINING:
        raise Rejected(f"{instance.health}: it is left out, for data planes may send to what is only marked")
    address = hostport.address_of(instance)
    if "%" in address:
        raise Rejected(f"{address} has a zone, which is good on one host alone")
    for port in instance.ports:
        if names.name(name, hostport.dialable(port)) in ("*", EGRESS):
            raise Rejected(f"{names.name(name, port)} means something else to data planes: rename it")
    if instance.weight <= 0:
        raise Rejected("weight 0: every client refuses it; an instance that gets no traffic is left out")
    weights.write(instance.weight, SHARE, least=1)
    health = Health.DRAINING if instance.health is Health.DRAINING else Health.UNKNOWN
    made = Instance(
        instance.id,
        address,
        instance.ports,
        health=health,
        weight=instance.weight,
        locality=instance.locality,
        version=instance.version,
        metadata=instance.metadata,
    )
    return instance if made == instance else made


def has_host_names(instances: Iterable[Instance]) -> bool:
    """Whether any address has to be looked up."""
    return any(not hostport.is_ip(one.address) for one in instances)


def by_name(names: naming.Naming, name: ServiceName, instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """The instances of a service, each with one port, by the name that data planes know them by."""
    found: dict[str, list[Instance]] = {}
    for one in instances:
        for port in one.ports:
            alone = one if len(one.ports) == 1 else replace(one, ports=(port,))
            found.setdefault(names.name(name, port), []).append(alone)
    return found
