"""Eureka's instances, as its REST interface in JSON has them; our mark is one text in their metadata.

Source: Netflix eureka-core 2.0.4 and spring-cloud-netflix 4.3.0. Spring finds a service by its VIP address, calls
`hostName` at the secure port where that is enabled, and only what is UP. A nested value in metadata spoils the whole
registration, an empty key the XML of the whole application, and an override is shared by all that have the same id.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Any

import msgspec

from bridge.errors import Rejected
from bridge.model import NOWHERE, Health, Instance, Locality, Mark, ServiceName, Traits
from mappings import ledger
from mappings.common import curator_record, hostport, interning, weights
from mappings.common.curator_record import Numbers
from mappings.common.faults import unreadable

NAME = "eureka"
PROTOCOL = "http"
TRAITS = Traits(
    fields=frozenset({"address", "ports", "health", "weight", "version", "locality", "metadata"}),
    ports=2,
    port_names=False,
    protocols=frozenset(),
    ports_apart=True,
)
MARK = "isthmus-mark"
RENEWAL = 30  # seconds: what a server counts its renewals by, whatever the lease says
LASTING = 604_800  # seconds: above 2,147,483 a server's 32-bit milliseconds overflow

_READ = {"UP": Health.HEALTHY, "OUT_OF_SERVICE": Health.DRAINING}  # every other word is hidden from callers
_WRITE = {
    Health.UNKNOWN: "UP",
    Health.HEALTHY: "UP",
    Health.DEGRADED: "UP",
    Health.UNHEALTHY: "DOWN",
    Health.DRAINING: "OUT_OF_SERVICE",
}
_DATA_CENTER = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}
_URLS = ("homePageUrl", "statusPageUrl", "healthCheckUrl", "secureHealthCheckUrl")
_WEIGHT, _VERSION = "weight", "version"
_PLACES = (("region", "region"), ("zone", "zone"), ("sub_zone", "sub-zone"))  # of Locality, and in metadata
_RESERVED = (MARK, "@class")  # the latter is Jackson's word for the class of the map

# XML 1.0, 2.2: what no reader of an application's XML could parse.
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]").search
_NO_ID = re.compile(r"[/\\\x00-\x1f\x7f-\x9f]")  # Tomcat answers 400 to the heartbeat and the cancel of such an id


class _Port(msgspec.Struct, gc=False):
    number: int = msgspec.field(name="$", default=0)
    enabled: str | bool = msgspec.field(name="@enabled", default="true")


class Lease(msgspec.Struct, gc=False):
    """Seconds, and milliseconds since 1970."""

    durationInSecs: int = 90
    registrationTimestamp: int = 0
    lastRenewalTimestamp: int = 0

    def silent(self, now: float) -> float:
        """Seconds since the last heartbeat, or the registration; `now` since the epoch.

        A heartbeat writes the time at which the lease would end (Lease.renew), a registration its own time.
        """
        renewed = self.lastRenewalTimestamp > self.registrationTimestamp
        last = self.lastRenewalTimestamp / 1000 - (self.durationInSecs if renewed else 0)
        return now - max(last, self.registrationTimestamp / 1000)


class Record(msgspec.Struct, gc=False):
    """One instance as a server tells it; what it leaves out is None."""

    instanceId: str | None = None
    hostName: str | None = None
    app: str = ""
    ipAddr: str | None = None
    vipAddress: str | None = None
    status: str = "UP"
    overriddenStatus: str = "UNKNOWN"
    port: _Port | None = None
    securePort: _Port | None = None
    dataCenterInfo: dict[str, Any] | None = None
    leaseInfo: Lease | None = None
    metadata: dict[str, Any] | None = None
    homePageUrl: str | None = None
    statusPageUrl: str | None = None
    healthCheckUrl: str | None = None
    secureHealthCheckUrl: str | None = None
    lastDirtyTimestamp: int = 0
    lastUpdatedTimestamp: int = 0
    actionType: str | None = None

    @property
    def id(self) -> str:
        """As readers have it: of old clients it is the host's name."""
        return self.instanceId or self.hostName or ""

    @property
    def mark(self) -> Mark | None:
        """The mark of the bridge that wrote it; None: a native's, or `is_marked` and nobody can read it."""
        text = self.metadata.get(MARK) if self.metadata else None
        return ledger.decode(text.encode()) if isinstance(text, str) else None

    @property
    def is_marked(self) -> bool:
        """Whether a bridge wrote it."""
        return bool(self.metadata) and MARK in (self.metadata or {})


class _Shape(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What the model has no place for: the other name of the host, the word for the health, the pages, the ports."""

    host: str | None = None
    status: str | None = None
    urls: tuple[str | None, ...] = ()
    numbers: Numbers | None = None


_RECORD = msgspec.json.Decoder(Record, strict=False)
_SHAPE = msgspec.json.Decoder(_Shape)
_PLAIN = _Shape()


def read(raw: bytes | msgspec.Raw) -> Record:
    """One instance's JSON; raises Undecodable."""
    try:
        return _RECORD.decode(raw)
    except (ValueError, RecursionError) as error:
        raise unreadable("not an instance of Eureka's", error) from None


def names(record: Record) -> list[ServiceName]:
    """The services that it belongs to: each of its VIP addresses, without any the application in lower case."""
    vips = [vip.strip() for vip in (record.vipAddress or "").split(",")]
    return [_named(vip) for vip in dict.fromkeys(vips) if vip] or [_named(record.app.lower())]


def entry_id(name: ServiceName, record: Record) -> str:
    """The id within a service: an id is one application's own, and several may have one VIP address."""
    return record.id if record.app.upper() == name.name.upper() else f"{record.app}:{record.id}"


def decode(name: ServiceName, record: Record, by: str) -> Instance:
    """The instance; `by`: `ip` or `host`, which of its two addresses is taken. Raises Undecodable."""
    try:
        own, other = (record.ipAddr, record.hostName) if by == "ip" else (record.hostName, record.ipAddr)
        address = hostport.host(own or other or "")
        numbers = _numbers(record)
        ports = curator_record.ports(numbers, PROTOCOL)
        if not ports:
            raise ValueError(f"its port {numbers[0]} is none (1 to 65535)")
    except ValueError as error:
        raise unreadable("nobody can dial it", error) from None
    metadata = _texts(record.metadata)
    status = record.status.upper()
    health = _READ.get(status, Health.UNHEALTHY)
    urls = tuple(getattr(record, key) for key in _URLS)
    shape = _Shape(
        host=None if by != "ip" or other in (None, "", own, address, _spelled(address)) else other,
        status=None if status == _WRITE[health] else status,
        urls=urls if any(urls) else (),
        numbers=curator_record.kept_numbers(numbers),
    )
    return Instance(
        entry_id(name, record),
        address,
        ports,
        health=health,
        weight=_weight(metadata),
        locality=_locality(metadata, record.dataCenterInfo),
        version=metadata.get(_VERSION, ""),
        metadata=metadata,
        native=interning.dump(NAME, shape),
    )


def canonical(name: ServiceName, instance: Instance) -> Instance:
    """What will be read of the instance once it is written; the very same object where nothing is lost."""
    shape = interning.load(instance, NAME, _SHAPE, _PLAIN)
    _checked_name(name)
    numbers = curator_record.written_ports(instance.ports, shape.numbers)
    address = hostport.address_of(instance)
    metadata = _written(instance)
    if (
        instance.id == written_id(name, instance.id)
        and address == instance.address
        and metadata == instance.metadata
        and shape == _PLAIN
        and _READ.get(_WRITE[instance.health], Health.UNHEALTHY) is instance.health
        and curator_record.ports(numbers, PROTOCOL) == instance.ports
        and not instance.tags
        and instance.native.keys() <= {NAME}
        and instance.native.get(NAME) is None
        and _agrees(instance, metadata)
    ):
        return instance
    made = decode(name, read(msgspec.json.encode(_fields(name, instance))), "ip")
    return instance if made == instance else made


def body(name: ServiceName, instance: Instance, mark: Mark | None, *, dirty: int, ttl: int, status: str = "") -> bytes:
    """What is registered: in the order of Spring's client. `dirty` in milliseconds, `ttl` in seconds.

    Raises Rejected where a server or its readers could not live with it.
    """
    fields = _fields(name, instance)
    if mark is not None:
        fields["metadata"] = {**fields["metadata"], MARK: ledger.encode(mark).decode()}
    fields["leaseInfo"] = {**_LEASE, "durationInSecs": ttl}
    fields["lastUpdatedTimestamp"] = fields["lastDirtyTimestamp"] = dirty
    fields["status"] = status or fields["status"]
    return msgspec.json.encode({"instance": fields})


def status(instance: Instance) -> str:
    """The word that is registered for its health."""
    return _status(instance, interning.load(instance, NAME, _SHAPE, _PLAIN))


def app(name: ServiceName) -> str:
    """The application that a service is written to. Raises Rejected."""
    return _checked_name(name).name.upper()


@lru_cache(maxsize=65536)
def written_id(name: ServiceName, id: str) -> str:
    """An id that no other service has: an override of the status goes by the id alone, over all applications.

    It ends with the service's name, as `host:service:port` of Spring's does but for the port. Raises Rejected.
    """
    if not id:
        raise Rejected("empty id")
    if found := _NO_XML(id.translate(_CONTROLS)):
        raise Rejected(f"{found[0]!r} in id {id!r} would break the XML of its application")
    if _NO_ID.search(id):
        id = f"{_NO_ID.sub('.', id)}-{hashlib.sha256(id.encode()).hexdigest()[:8]}"
    parts = id.lower().split(":")
    service = name.name.lower()
    if len(parts) > 2 and parts[-2] == service and parts[-1].isdecimal():
        return id
    return id if len(parts) > 1 and parts[-1] == service else f"{id}:{name.name}"


_CONTROLS = dict.fromkeys(range(32), ".")  # they are replaced anyway
_LEASE = {
    "renewalIntervalInSecs": RENEWAL,
    "durationInSecs": 90,
    "registrationTimestamp": 0,
    "lastRenewalTimestamp": 0,
    "evictionTimestamp": 0,
    "serviceUpTimestamp": 0,
}


def _fields(name: ServiceName, instance: Instance) -> dict[str, Any]:
    shape = interning.load(instance, NAME, _SHAPE, _PLAIN)
    application = app(name)
    numbers = curator_record.written_ports(instance.ports, shape.numbers)
    address = hostport.address_of(instance)
    urls = shape.urls if len(shape.urls) == len(_URLS) else (None,) * len(_URLS)
    plain, secure = numbers
    host = shape.host if shape.host and not _NO_XML(shape.host) else _spelled(address)
    return {
        "instanceId": written_id(name, instance.id),
        "app": application,
        "appGroupName": None,
        "ipAddr": address,
        "sid": "na",
        **dict(zip(_URLS, urls, strict=True)),
        "vipAddress": name.name,
        "secureVipAddress": name.name,
        "countryId": 1,
        "dataCenterInfo": _DATA_CENTER,
        "hostName": host,
        "status": _status(instance, shape),
        "overriddenStatus": "UNKNOWN",
        "leaseInfo": _LEASE,
        "isCoordinatingDiscoveryServer": False,
        "lastUpdatedTimestamp": 0,
        "lastDirtyTimestamp": 0,
        "actionType": None,
        "asgName": None,
        "port": _port(plain, 80),
        "securePort": _port(secure, 443),
        "metadata": _written(instance),
    }


def _port(number: int | None, otherwise: int) -> dict[str, Any]:
    return {"$": otherwise if number is None else number, "@enabled": "false" if number is None else "true"}


def _status(instance: Instance, shape: _Shape) -> str:
    """The word for the health; the one that was read, as long as it means the same."""
    word = shape.status
    same = word in ("STARTING", "UNKNOWN") and instance.health is Health.UNHEALTHY
    return word if same and word else _WRITE[instance.health]


def _numbers(record: Record) -> Numbers:
    """The ports that are enabled; without any, the plain one, which readers fall back to."""
    plain, secure = record.port or _Port(7001), record.securePort or _Port(7002, "false")
    tls = secure.number if _enabled(secure) else None
    return Numbers(plain.number if _enabled(plain) or tls is None else None, tls)


def _enabled(port: _Port) -> bool:
    return str(port.enabled).lower() == "true"


def _texts(metadata: dict[str, Any] | None) -> dict[str, str]:
    if not metadata:
        return interning.EMPTY
    found = {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in metadata.items()
        if key not in _RESERVED
    }
    return found or interning.EMPTY


def _written(instance: Instance) -> dict[str, str]:
    """The metadata to write: with what the model has fields for. The weight is always the field's. Raises Rejected."""
    metadata, place = instance.metadata, instance.locality
    said = {key: getattr(place, field) for field, key in _PLACES if getattr(place, field)}
    if instance.version:
        said[_VERSION] = instance.version
    weight = weights.write(instance.weight, 1, 1)
    if weight != 1 or _weight(metadata) != 1.0:
        said[_WEIGHT] = str(weight)
    if any(key in metadata for key in _RESERVED) or any(metadata.get(key) != text for key, text in said.items()):
        metadata = {key: text for key, text in metadata.items() if key not in _RESERVED} | said
    for key, text in metadata.items():
        if not key:
            raise Rejected("an empty key in metadata breaks the XML of the whole application")
        if found := _NO_XML(key) or _NO_XML(text):
            raise Rejected(f"{found[0]!r} in metadata {key!r} would break the XML of the whole application")
    return metadata


def _agrees(instance: Instance, metadata: dict[str, str]) -> bool:
    """Whether what the fields say is what will be read from the metadata."""
    return (
        instance.weight == _weight(metadata)
        and instance.version == metadata.get(_VERSION, "")
        and instance.locality == _locality(metadata, None)
    )


def _weight(metadata: dict[str, str]) -> float:
    """As Spring's weighted load balancer has it: whatever is no positive whole number counts as one."""
    if _WEIGHT not in metadata:
        return 1.0
    number = weights.parse(metadata[_WEIGHT])
    return float(number) if number is not None and number > 0 else 1.0


def _locality(metadata: dict[str, str], data_center: dict[str, Any] | None) -> Locality:
    said = {field: metadata[key] for field, key in _PLACES if metadata.get(key)}
    if not said and data_center is not None and isinstance(amazon := data_center.get("metadata"), dict):
        zone = amazon.get("availability-zone")
        return Locality(zone=zone) if isinstance(zone, str) else NOWHERE
    return Locality(**said) if said else NOWHERE


def _spelled(address: str) -> str:
    """A host as Spring makes a URI of it."""
    return f"[{address}]" if ":" in address else address


@lru_cache(maxsize=8192)
def _checked_name(name: ServiceName) -> ServiceName:
    service, namespace = name
    if namespace:
        raise Rejected(f"Eureka has no namespaces, and {name} is in one: say the name with `rename:` on the link")
    if not service or service != service.strip():
        raise Rejected(f"{service!r} is no name of a service")
    if found := re.search(r"[/\\,\x00-\x1f\x7f-\x9f]", service) or _NO_XML(service):
        raise Rejected(f"{found[0]!r} in service name {service!r}: Eureka has no way to tell it")
    return name


_named = lru_cache(maxsize=8192)(ServiceName)
