"""What is lost between any two layouts, or why they must not be linked: computed from their traits, and one table.

`check`, the documentation and the round-trip tests say what this says.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge.model import Instance, Traits
from mappings import (
    consul,
    curator,
    dubbo2,
    dubbo3,
    eureka,
    gomicro,
    gozero,
    grpc,
    istio,
    kitex,
    kratos,
    kubernetes,
    nginx,
    prometheus,
    spring,
    traefik,
    xds,
)
from mappings.common import hostport, naming
from mappings.layout import Layout


class Pair(msgspec.Struct, frozen=True):
    """What becomes of instances on their way. `lost`: words for what the target cannot say; `why`: a sentence."""

    verdict: Literal["full", "lossy", "refused"]
    lost: tuple[str, ...] = ()
    why: str = ""


_ALL: tuple[Layout, ...] = (grpc, kratos, kitex, gozero, gomicro, curator, spring, dubbo2, dubbo3)
LAYOUTS: dict[str, Layout] = {layout.NAME: layout for layout in _ALL}

# Kinds of registry whose records have one form.
REGISTRIES: dict[str, Traits] = {each.NAME: each.TRAITS for each in (consul, eureka, kubernetes)}

# What only answers data planes: a target, and never a source.
EXPORTS: dict[str, Traits] = {
    xds.NAME: xds.traits(naming.Naming("{name}")),
    prometheus.NAME: prometheus.TRAITS,
    traefik.NAME: traefik.traits(naming.Naming("{name}")),
    nginx.NAME: nginx.traits(naming.Naming("{name}")),
    istio.NAME: istio.traits(naming.Naming("{name}")),
}

_EVERYTHING = Traits(fields=frozenset(Instance.__struct_fields__) - {"native"}, namespaces=True)
TRAITS: dict[str, Traits] = {
    **{name: layout.TRAITS for name, layout in LAYOUTS.items()},
    **REGISTRIES,
    **EXPORTS,
    "file": _EVERYTHING,
    "memory": _EVERYTHING,
    "kafka": _EVERYTHING,
}

# Targets that take only some sources, and why. Whatever a source may hold, an instance is refused one by one as well.
_TAKES = {
    dubbo2.NAME: (
        frozenset({dubbo2.NAME, "file", "memory"}),
        "consumers call an interface of a Dubbo provider, and only Dubbo 2 and the full model name one",
    ),
    dubbo3.NAME: (
        frozenset[str](),
        "consumers call what the metadata report of a revision names, and no bridge may invent that",
    ),
}

# What readers make of a record of another layout below a name that they look up, in this order; seen with the versions
# that each mapping names. Two layouts of a group are never linked in one place of one store.
_GO = frozenset({gozero.NAME, grpc.NAME, kitex.NAME, kratos.NAME, gomicro.NAME})
_APART = (
    (
        frozenset({curator.NAME, spring.NAME, dubbo3.NAME}),
        frozenset({curator.NAME, spring.NAME, dubbo3.NAME}),
        "one record with another payload class fails the lookup of the whole service",
    ),
    (frozenset({gozero.NAME}), _GO, "go-zero dials whatever is below a service's key"),
    (
        frozenset({grpc.NAME, kitex.NAME}),
        _GO,
        "gRPC and kitex take any JSON object for an instance, with an empty address",
    ),
    (frozenset({kratos.NAME}), _GO, "a record whose endpoints are no texts fails kratos's lookup of the whole service"),
)

# The fields by which a record in JSON is told from those of the other layouts of etcd's, the surest first.
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FIELDS = (
    (gomicro.NAME, {"name", "nodes"}),
    (kratos.NAME, {"name", "endpoints"}),
    (grpc.NAME, {"addr"}),
    (kitex.NAME, {"network", "address"}),
)

# What a target has a field for and still cannot tell from something else.
_BLURRED = {
    spring.NAME: ("health", "DEGRADED, which reads as HEALTHY"),
    eureka.NAME: ("health", "DEGRADED and UNKNOWN, which read as HEALTHY"),
}

# Layouts whose keys take an id as one level: of an id with slashes, as all of Consul's have, they make one without.
_FLAT = frozenset({grpc.NAME, kratos.NAME, curator.NAME, spring.NAME})

# What a layout's own records say that no field of an instance holds, as words for people.
_BEYOND = {kratos.NAME: kratos.beyond}

# Readers of Curator's records take payloads of one class, which only its own records and the file name.
UNDRESSED = "metadata unless the registry says `payload:`, or others' records have one"

_ORDER = ("id", "health", "weight", "locality", "version", "tags", "metadata")


def pair(source: Traits | str, target: Traits | str, same_root: bool = False, payload: bool = False) -> Pair:
    """What a link from one layout (by name, or its traits) to another loses.

    `same_root`: in one place of one store. `payload`: the file says what metadata becomes in Curator's records.
    """
    names = (source if isinstance(source, str) else "", target if isinstance(target, str) else "")
    takes, why = _TAKES.get(names[1], (None, ""))
    if takes is not None and names[0] not in takes:
        return Pair("refused", (), why)
    if same_root and (why := apart(*names)):
        return Pair("refused", (), why)
    if names[0] and names[0] == names[1]:
        return Pair("full")
    lost = _lost(_traits(source), _traits(target), _alike(*names))
    if names[0] == consul.NAME and names[1] in _FLAT:
        lost = ("id", *lost)
    if names[1] == curator.NAME and not payload and "metadata" in _traits(source).fields:
        lost += (UNDRESSED,)
    field, blurred = _BLURRED.get(names[1], ("", ""))
    if field in _traits(source).fields:
        lost += (blurred,)
    if not lost:
        return Pair("full")
    return Pair("lossy", lost, f"{names[1] or 'the target'} cannot say: {', '.join(lost)}")


def beyond(source: str, target: str, instance: Instance) -> str:
    """What one instance loses between two layouts besides its fields, "" if nothing."""
    said = _BEYOND.get(source) if source != target else None
    return said(instance) if said is not None else ""


def apart(one: str, other: str) -> str:
    """Why records of these two layouts must not be under one name in one place of one store, "" if they may."""
    if one == other:
        return ""
    pairs = ((one, other), (other, one))
    return next((why for a, b, why in _APART if any(x in a and y in b for x, y in pairs)), "")


def recognized(value: bytes) -> str:
    """The layout of etcd's that a record is of, by its form alone: "" where that is not known.

    For a sink that finds it under a name that it is about to write: `apart` says whether it may.
    """
    try:
        hostport.split(value.decode())
    except ValueError:
        pass
    else:
        return gozero.NAME
    try:
        found = _OBJECT.decode(value)
    except ValueError:
        return ""
    said = {key.lower() for key in found}
    return next((layout for layout, fields in _FIELDS if fields <= said), "")


def _traits(layout: Traits | str) -> Traits:
    return TRAITS[layout] if isinstance(layout, str) else layout


def _alike(source: str, target: str) -> bool:
    """Whether both say the same of every port without saying it: the default of `protocol:` on a registry."""
    return source in LAYOUTS and target in LAYOUTS and LAYOUTS[source].PROTOCOL == LAYOUTS[target].PROTOCOL


def _lost(source: Traits, target: Traits, alike: bool) -> tuple[str, ...]:
    lost = [field for field in _ORDER if field in source.fields and field not in target.fields]
    if source.namespaces and not target.namespaces:
        lost.insert(0, "namespace")
    if target.ports and not 0 < source.ports <= target.ports:
        lost.append("all ports but one" if target.ports == 1 else f"more than {target.ports} ports")
    if source.port_names and not target.port_names:
        lost.append("port names")
    if target.protocols is not None and (source.protocols is None or source.protocols - target.protocols or not alike):
        lost.append("protocol")
    if source.tls and not target.tls:
        lost.append("tls")
    return tuple(lost)
