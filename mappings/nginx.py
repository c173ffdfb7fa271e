"""Files of nginx: one `upstream` for each service, with its servers by IP address.

Source: nginx 1.22. A host name that cannot be resolved keeps nginx from starting, an upstream without servers from
reloading, and what is below is text in its syntax: names and numbers of a few characters alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bridge.errors import Rejected
from bridge.model import Instance, ServiceName, Traits
from mappings.common import hostport, naming, weights

NAME = "nginx"
FIELDS = frozenset({"id", "address", "ports", "weight"})

HEAD = "# written by isthmus; changes are lost"

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}").fullmatch
_NOBODY = "server 127.0.0.1:9 down;"  # an upstream must have a server


def traits(names: naming.Naming) -> Traits:
    """What its servers can say; several ports only where each has a name."""
    return Traits(fields=FIELDS, ports=0 if names.by_port else 1, namespaces=names.by_namespace, leases=False)


def canonical(names: naming.Naming, name: ServiceName, instance: Instance) -> Instance:
    """Address, ports and weight. Raises Rejected what nginx would not start with."""
    address = hostport.address_of(instance)
    if not hostport.is_ip(address):
        raise Rejected(f"{address} is a host name, or has a zone: nginx does not start where it cannot resolve one")
    for port in instance.ports:
        hostport.dialable(port)
        if not _SAFE(upstream := names.name(name, port)):
            raise Rejected(f"{upstream!r} is no name for an upstream: letters, digits, . _ - alone, 200 at most")
    if instance.weight <= 0:
        raise Rejected("weight 0: it gets no traffic, so it is left out")
    weights.write(instance.weight, 100, least=1)
    made = Instance(instance.id, address, instance.ports, weight=instance.weight)
    return instance if made == instance else made


def files(names: naming.Naming, name: ServiceName, instances: Mapping[str, Instance]) -> dict[str, bytes]:
    """The content of the file of each upstream that a service has, by the upstream's name."""
    servers: dict[str, dict[str, float]] = {}
    for instance in instances.values():
        for port in instance.ports:
            found = servers.setdefault(names.name(name, port), {})
            found[hostport.join(instance.address, port.number)] = instance.weight
    return {upstream: _upstream(upstream, found) for upstream, found in servers.items()}


def is_safe(upstream: str) -> bool:
    """Whether an upstream may have this name."""
    return _SAFE(upstream) is not None


def nobody(upstream: str) -> bytes:
    """The file of an upstream whose last server is gone: what names it in a `proxy_pass` still needs it."""
    return _block(upstream, [_NOBODY])


def _upstream(name: str, found: Mapping[str, float]) -> bytes:
    equal = len(set(found.values())) == 1
    return _block(
        name,
        [
            f"server {place};" if equal else f"server {place} weight={weights.write(found[place], 100, least=1)};"
            for place in sorted(found)
        ],
    )


def _block(name: str, servers: list[str]) -> bytes:
    inside = "".join(f"    {server}\n" for server in servers)
    return f"{HEAD}\nupstream {name} {{\n{inside}}}\n".encode()
