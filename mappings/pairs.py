"""What is lost between any two layouts, or why they must not be linked: computed from their traits, and one table.

`check`, the documentation and the round-trip tests say what this says.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bridge.model import Instance, Traits
from mappings import curator, dubbo2, dubbo3, gomicro, gozero, grpc, kitex, kratos, spring
from mappings.layout import Layout


class Pair(msgspec.Struct, frozen=True):
    """What becomes of instances on their way. `lost`: words for what the target cannot say; `why`: a sentence."""

    verdict: Literal["full", "lossy", "refused"]
    lost: tuple[str, ...] = ()
    why: str = ""


_ALL: tuple[Layout, ...] = (grpc, kratos, kitex, gozero, gomicro, curator, spring, dubbo2, dubbo3)
LAYOUTS: dict[str, Layout] = {layout.NAME: layout for layout in _ALL}

_EVERYTHING = Traits(fields=frozenset(Instance.__struct_fields__) - {"native"}, namespaces=True)
TRAITS: dict[str, Traits] = {
    **{name: layout.TRAITS for name, layout in LAYOUTS.items()},
    "file": _EVERYTHING,
    "memory": _EVERYTHING,
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

# Layouts whose readers fail over each other's records, or dial them, under the same root.
_APART = (
    (
        frozenset({curator.NAME, spring.NAME, dubbo3.NAME}),
        "one record with another payload class fails the lookup of the whole service",
    ),
    (frozenset({grpc.NAME, gozero.NAME}), "go-zero dials whatever stands below a service's key"),
)

# What a target has a field for and still cannot tell from something else.
_BLURRED = {spring.NAME: ("health", "DEGRADED, which reads as HEALTHY")}

_ORDER = ("id", "health", "weight", "locality", "version", "tags", "metadata")


def pair(source: Traits | str, target: Traits | str, same_root: bool = False) -> Pair:
    """What a link from one layout (by name, or its traits) to another loses; `same_root`: in one place of one store."""
    names = (source if isinstance(source, str) else "", target if isinstance(target, str) else "")
    takes, why = _TAKES.get(names[1], (None, ""))
    if takes is not None and names[0] not in takes:
        return Pair("refused", (), why)
    for apart, why in _APART:
        if same_root and names[0] != names[1] and apart.issuperset(names):
            return Pair("refused", (), why)
    if names[0] and names[0] == names[1]:
        return Pair("full")
    lost = _lost(_traits(source), _traits(target), _alike(*names))
    field, blurred = _BLURRED.get(names[1], ("", ""))
    if field in _traits(source).fields:
        lost += (blurred,)
    if not lost:
        return Pair("full")
    return Pair("lossy", lost, f"{names[1] or 'the target'} cannot say: {', '.join(lost)}")


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
