"""The document of Traefik's HTTP provider: a service with its servers, and where a rule is given, a router to it.

Source: Traefik 3.7. A document without any service clears every route, and so does one that is empty: a service that
nobody uses is always there. A server of weight 0 gets nothing, so an instance of weight 0 is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from bridge.errors import Rejected
from bridge.model import Instance, Port, ServiceName, Traits
from mappings.common import hostport, naming, weights

NAME = "traefik"
FIELDS = frozenset({"id", "address", "ports", "weight"})
PLACEHOLDER = "isthmus"  # the service that nobody uses

_SCHEMES = {"grpc": "h2c", "h2c": "h2c", "http": "http", "": "http"}
_SECURE = {"h2c": "https", "http": "https"}
_ENCODER = msgspec.json.Encoder(order="deterministic")

Part = tuple[dict[str, Any], dict[str, Any]]  # services and routers, by name


class Rule(NamedTuple):
    """How routers are made: a rule as a template over `{service}`, and the entry points, () for all."""

    template: str
    entry_points: tuple[str, ...] = ()


def traits(names: naming.Naming) -> Traits:
    """What its servers can say; several ports only where each has a name."""
    protocols = frozenset({"http", "grpc", "h2c"})
    return Traits(
        fields=FIELDS, ports=0 if names.by_port else 1, protocols=protocols, namespaces=names.by_namespace, leases=False
    )


def canonical(names: naming.Naming, name: ServiceName, instance: Instance) -> Instance:
    """Address, ports and weight. Raises Rejected what Traefik would not reach."""
    for port in instance.ports:
        hostport.dialable(port)
        if port.protocol not in _SCHEMES:
            raise Rejected(f"port {port.number} speaks {port.protocol}, and Traefik's HTTP services do not")
        if "@" in (service := names.name(name, port)):
            raise Rejected(f"{service!r} is no name for a service of Traefik: @ divides it from its provider")
    if instance.weight <= 0:
        raise Rejected("weight 0: it gets no traffic, so it is left out")
    weights.write(instance.weight, 100, least=1)
    made = Instance(instance.id, hostport.address_of(instance), instance.ports, weight=instance.weight)
    return instance if made == instance else made


def part(names: naming.Naming, rule: Rule | None, name: ServiceName, instances: Mapping[str, Instance]) -> Part:
    """The services of one name, one for each port that has a name of its own, and their routers."""
    servers: dict[str, dict[str, float]] = {}
    for instance in instances.values():
        for port in instance.ports:
            servers.setdefault(names.name(name, port), {})[_url(instance.address, port)] = instance.weight
    services = {service: {"loadBalancer": {"servers": _servers(urls)}} for service, urls in servers.items()}
    if rule is None:
        return services, {}
    routers: dict[str, Any] = {}
    for service in services:
        routers[service] = {"rule": rule.template.format(service=service), "service": service}
        if rule.entry_points:
            routers[service]["entryPoints"] = list(rule.entry_points)
    return services, routers


def document(parts: Sequence[Part]) -> bytes:
    """The whole document; never one that would clear a route that is not gone."""
    services: dict[str, Any] = {PLACEHOLDER: {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:9"}]}}}
    routers: dict[str, Any] = {}
    for some, other in reversed(parts):  # by service: of two with one name the lesser is told, at every daemon
        services |= some
        routers |= other
    return _ENCODER.encode({"http": {"services": services, **({"routers": routers} if routers else {})}}) + b"\n"


def _url(address: str, port: Port) -> str:
    scheme = _SCHEMES[port.protocol]
    return f"{_SECURE[scheme] if port.tls else scheme}://{hostport.join(address, port.number)}"


def _servers(urls: Mapping[str, float]) -> list[dict[str, Any]]:
    if len(set(urls.values())) == 1:
        return [{"url": url} for url in sorted(urls)]
    return [{"url": url, "weight": weights.write(urls[url], 100, least=1)} for url in sorted(urls)]
