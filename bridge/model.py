"""The common model: services, their instances, and what a convention can carry of them; values only."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec


class Health(enum.StrEnum):
    """Envoy's terms. UNKNOWN, HEALTHY and DEGRADED receive traffic."""

    UNKNOWN = "UNKNOWN"
    HEALTHY = "HEALTHY"
    DEGRADED = "DEGRADED"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"


SERVING = frozenset({Health.UNKNOWN, Health.HEALTHY, Health.DEGRADED})


class ServiceName(NamedTuple):
    """A service's name inside its namespace; the empty namespace is the registry's only or default one."""

    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}:{self.name}" if self.namespace else self.name

    @classmethod
    def parse(cls, text: str) -> ServiceName:
        """The inverse of `str`: `name` or `namespace:name`."""
        namespace, colon, name = text.partition(":")
        return cls(name, namespace) if colon else cls(text)


DATAGRAMS = frozenset({"udp", "sctp", "quic"})  # protocols of ports that no TCP connection is made to


class Port(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One named port. `protocol` is lower case (grpc, http, thrift, dubbo, tcp ...), "" where unsaid."""

    number: int
    name: str = ""
    protocol: str = ""
    tls: bool = False

    @property
    def connects(self) -> bool:
        """Whether clients make TCP connections to it: of any other a connection says nothing."""
        return self.protocol not in DATAGRAMS


class Locality(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where an instance runs, in Envoy's three steps; "" where unsaid."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


NOWHERE = Locality()


Place = tuple[str | int, ...]  # an address and a port, and what else tells instances there apart


class Instance(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One running copy of a service: a pure value, which does not say who owns it or where it came from.

    `address` is a bare canonical IP (RFC 5952) or a host name; `weight` is relative, 1.0 is a convention's default.
    `native` holds what only one convention understands (key: that convention's name), so that a round trip
    through the same convention loses nothing; other conventions ignore it.
    Treat the two dictionaries as frozen.
    """

    id: str
    address: str
    ports: tuple[Port, ...] = ()
    health: Health = Health.UNKNOWN
    weight: float = 1.0
    locality: Locality = NOWHERE
    version: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    native: dict[str, str] = {}

    @property
    def serving(self) -> bool:
        """Allowed to receive traffic: what the deletion guard counts."""
        return self.health in SERVING

    def sockets(self) -> frozenset[tuple[str, int]]:
        """Every address and port pair; whether two that share one are the same copy, `Traits.places` says."""
        return frozenset((self.address, port.number) for port in self.ports)


# Keys of `Instance.native` that are about the record, whatever its convention.
LOST = "lost"  # what the record says and the model cannot: a text for people, never written anywhere
CONFIDENTIAL = (
    "confidential:"  # and a convention's name: what that convention's readers need, and nothing else may be told
)


LEDGER_FORMAT = 1  # of what a ledger entry says: a Mark


class Mark(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the ledger says of an entry that a bridge wrote: proof of ownership, and the way it came.

    `path` names the registries it has been in, by identity, the origin first and the one it was copied from last;
    `scope`, `service` and `instance` name it in that last registry. `network`: of its address, "": the own one of the
    registry that the entry stands in.
    """

    owner: str
    link: str
    path: tuple[str, ...]
    scope: str
    service: ServiceName
    instance: str
    network: str = ""


class Service(msgspec.Struct, frozen=True, gc=False):
    """A service with all its instances, by id; `marks` has the ids of those that a bridge wrote, natives have none.

    Treat the two dictionaries as frozen: change is a new Service.
    """

    name: ServiceName
    instances: dict[str, Instance] = {}
    marks: dict[str, Mark] = {}


class Traits(msgspec.Struct, frozen=True):
    """What a convention can carry. `fields` are names of Instance's fields, `ports` the most it can hold (0: any)."""

    fields: frozenset[str]
    ports: int = 0
    port_names: bool = True
    protocols: frozenset[str] | None = None  # None: any
    tls: bool = True
    namespaces: bool = False
    pictures: bool = False  # services stand apart by the picture of their link (ADR 23), named before the namespace
    leases: bool = True  # whether an entry can end with its writer
    identity: tuple[str, ...] = ()  # what tells instances on one address and port apart: "protocol", "version"
    confidential: str = ""  # the key of `Instance.native` that may be written here, "": none
    ports_apart: bool = False  # what only its own records say (`Instance.native`) is true of one port of several, too
    calls_unhealthy: bool = False  # stock readers call what is marked unhealthy: it is withdrawn by default
    needs: frozenset[str] = frozenset()  # metadata that its readers act on: a copy without it misleads them
    is_read: bool = True  # it can be a link's source
    is_cluster: bool = False  # it gives out the addresses of its network itself: nobody else writes one of them there

    @property
    def has_health(self) -> bool:
        """Whether any unhealthy instance can be marked; where not, only those that its own clients marked."""
        return "health" in self.fields

    def places(self, instance: Instance, network: str = "") -> frozenset[Place]:
        """Every place that an instance takes: two that share one are the same running copy to this convention.

        `network`: of its address, where it is not that of the registry.
        """
        beyond = (network,) if network else ()
        if not self.identity:
            return frozenset((instance.address, port.number, *beyond) for port in instance.ports)
        own = tuple([getattr(instance, word) for word in self.identity if word != "protocol"])
        by_protocol = "protocol" in self.identity
        return frozenset(
            (instance.address, port.number, *((port.protocol,) if by_protocol else ()), *own, *beyond)
            for port in instance.ports
        )
