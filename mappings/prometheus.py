"""Groups of targets as Prometheus' HTTP discovery reads them: addresses with the labels that they have in common.

Source: Prometheus 2.42. One label that it does not take refuses the whole document, so each is made safe here: a name
is ASCII letters, digits and underscores, a value is a text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from bridge.model import Instance, Port, ServiceName, Traits
from mappings.common import hostport

NAME = "prometheus"
TRAITS = Traits(fields=frozenset(Instance.__struct_fields__) - {"native", "weight"}, namespaces=True, leases=False)

_PREFIX = "__meta_isthmus_"
_UNSAFE = re.compile(r"[^A-Za-z0-9_]")
_ENCODER = msgspec.json.Encoder(order="deterministic")


def canonical(name: ServiceName, instance: Instance) -> Instance:
    """With its address as RFC 5952 has it. Raises Rejected where there is nothing to connect to."""
    address = hostport.address_of(instance)
    for port in instance.ports:
        hostport.dialable(port)
    changed = address != instance.address or instance.weight != 1.0 or bool(instance.native)
    return msgspec.structs.replace(instance, address=address, weight=1.0, native={}) if changed else instance


def groups(name: ServiceName, instances: Mapping[str, Instance]) -> bytes:
    """The groups of one service, as a list in JSON without its brackets: one for each set of labels."""
    found: dict[bytes, tuple[dict[str, str], list[str]]] = {}
    for instance in instances.values():
        for port in instance.ports:
            labels = _labels(name, instance, port)
            targets = found.setdefault(_ENCODER.encode(labels), (labels, []))[1]
            targets.append(hostport.join(instance.address, port.number))
    made = [{"targets": sorted(set(targets)), "labels": labels} for _, (labels, targets) in sorted(found.items())]
    return b",".join(map(_ENCODER.encode, made))


def document(groups: Sequence[bytes]) -> bytes:
    """The whole list."""
    return b"[" + b",\n".join(filter(None, groups)) + b"]\n"


def _labels(name: ServiceName, instance: Instance, port: Port) -> dict[str, str]:
    said = {
        "service": name.name,
        "namespace": name.namespace,
        "health": str(instance.health),
        "version": instance.version,
        "region": instance.locality.region,
        "zone": instance.locality.zone,
        "sub_zone": instance.locality.sub_zone,
        "port_name": port.name,
        "protocol": port.protocol,
        "tls": "true" if port.tls else "",
        "tags": f",{','.join(instance.tags)}," if instance.tags else "",
    }
    # Two keys that become one name: the first in their order is kept, so that the document stays as it is.
    for key in sorted(instance.metadata, reverse=True):
        said[f"metadata_{_UNSAFE.sub('_', key)}"] = instance.metadata[key]
    return {f"{_PREFIX}{key}": _text(value) for key, value in said.items() if value}


def _text(value: str) -> str:
    return value.encode(errors="replace").decode()
