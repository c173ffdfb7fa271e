"""The block `links` of the file, and what each link asks of the registries at its ends."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec

from bridge import adapter as interface
from bridge.config.document import Document, Place, nearest
from bridge.config.groups import judge_group
from bridge.config.kinds import in_one_place, seat, sink
from bridge.config.registries import adapters_own
from bridge.config.rules import (
    judge_link,
    judge_networks,
    judge_pairs,
    judge_picture,
    judge_pictures,
)
from bridge.config.schema import Bridge, Link, Registry
from bridge.errors import ConfigError
from bridge.link import Item, Policy, Unhealthy
from bridge.model import Instance
from mappings import pairs

ANOTHER = "-"  # the name of no registry: what is asked for is a seat that is lent


def links_block(
    document: Document,
    block: Any,
    registries: Mapping[str, Registry | None],
    made: Mapping[str, interface.Registry],
    bridge: Bridge,
) -> tuple[Link, ...]:
    """All links, faulty ones too; what is faulty is noted. `made`: the registries that have no fault."""
    _judge_lender(document, bridge, registries, made)
    if not isinstance(block, list):
        document.fault(("links",), "should be a list")
        return ()
    links: list[Link] = []
    for index, one in enumerate(block):
        if isinstance(one, dict) and isinstance(one.get("from"), str):
            one = {**one, "from": [one["from"]]}
        link = document.build(Link, one, ("links", index))
        if isinstance(link, Link):
            link = _completed(link, one)
            links.append(link)
            judge_link(document, link, ("links", index), registries)
            clusters = {one for one, registry in made.items() if registry.traits.is_cluster}
            judge_networks(document, link, ("links", index), registries, clusters)
            _judge_layouts(document, link, ("links", index), registries)
            _judge_sources(document, link, ("links", index), made)
            if link.to in made:
                _judge_target(document, link, ("links", index), made[link.to], bridge.id)
                _judge_seat(document, link, ("links", index), made[link.to], bridge)
    stores = {name for name, one in made.items() if one.traits.pictures}
    judge_pairs(document, links, stores)
    judge_pictures(document, links, stores)
    judge_group(document, bridge, links, made)
    used = {Item.parse(text or "").registry for link in links for text in (*(link.from_ or ()), link.to)} | {
        bridge.seat
    }
    for name in registries.keys() - used:
        document.warn(("registries", name), "no link names this registry")
    return tuple(links)


def _completed(link: Link, block: dict[str, Any]) -> Link:
    """The link with its name, and with the limits of `guard` where its `guard_for` states none."""
    stated = block.get("guard_for")
    special = tuple(
        one.over(link.guard, own) if one is not None and isinstance(own, dict) else one
        for one, own in zip(link.guard_for, stated if isinstance(stated, list) else (), strict=False)
    )
    return msgspec.structs.replace(link, name=link.name or _default_name(link), guard_for=special)


def _default_name(link: Link) -> str:
    return f"{'-'.join(name or '' for name in link.from_ or ())}-to-{link.to}".replace("/", "-")


def _judge_sources(document: Document, link: Link, place: Place, made: Mapping[str, interface.Registry]) -> None:
    for name in dict.fromkeys(Item.parse(text or "").registry for text in link.from_ or ()):
        registry = made.get(name)
        if registry is not None and not registry.traits.is_read:
            document.fault((*place, "from"), f"{name} is only written, and cannot be read; name what feeds it")
        elif isinstance(registry, interface.Export):
            document.fault((*place, "from"), f"{name} answers data planes and cannot be read; name what feeds it")


def _judge_layouts(document: Document, link: Link, place: Place, registries: Mapping[str, Registry | None]) -> None:
    target = registries.get(link.to or "")
    for name in dict.fromkeys(Item.parse(text or "").registry for text in link.from_ or ()):
        source = registries.get(name)
        pair = pair_of(source, target) if source and target else None
        if pair is not None and pair.verdict == "refused":
            document.fault((*place, "to"), f"{name} cannot be written to {link.to}: {pair.why}; use another layout")


def _judge_target(document: Document, link: Link, place: Place, target: interface.Registry, bridge: str) -> None:
    """What a link asks of its target that the target cannot do."""
    adapters_own(document, (*place, "to"), lambda: sink(target, bridge))
    traits = target.traits
    if link.lifetime == "leased" and not traits.leases:
        document.fault((*place, "lifetime"), f"{link.to} has no leases; should be lasting")
    if link.unhealthy is Unhealthy.MARK and not traits.has_health:
        document.fault((*place, "unhealthy"), f"{link.to} has no health to mark; should be withdraw")
    judge_picture(document, link, place, needed=traits.pictures)


def _judge_lender(
    document: Document,
    bridge: Bridge,
    registries: Mapping[str, Registry | None],
    made: Mapping[str, interface.Registry],
) -> None:
    """What `bridge.seat` names must be there, and must be a store that can lock."""
    name, place = bridge.seat, ("bridge", "seat")
    if name is None:
        return
    if name not in registries:
        document.fault(place, f"{name!r} is no registry of this file; {nearest(name, registries)}")
    elif name in made and seat(made[name], bridge.id, ANOTHER) is None:
        document.fault(place, f"{name} cannot lock; name a registry that can, e.g. one of the kind etcd")


def _judge_seat(document: Document, link: Link, place: Place, target: interface.Registry, bridge: Bridge) -> None:
    """A destination that has no seat and borrows none has one daemon, and no other must run."""
    if bridge.seat is not None or link.policy is Policy.OBSERVE or isinstance(target, interface.Export):
        return
    with contextlib.suppress(ConfigError):  # of a registry that is only read, which is a fault already
        if seat(target, bridge.id, target.name) is None:
            document.warn(
                (*place, "to"),
                f"{target.name} cannot lock, and bridge.seat names no registry that lends a lock: "
                "there is no standby, and only one daemon may run",
            )


def pair_of(source: Registry, target: Registry) -> pairs.Pair | None:
    """What the table of pairs says of the layouts of two registries; None: it does not know them (kinds of others)."""
    one, other = layout_of(source), layout_of(target)
    payload = getattr(target.options, "payload", None) not in (None, "none")
    if not pairs.TRAITS.keys() >= {one, other}:
        return None
    same = source.kind == target.kind and in_one_place(source.kind, source.options, target.options)
    return pairs.pair(one, other, same_root=same, payload=payload)


def beyond(source: Registry, target: Registry, instance: Instance) -> str:
    """What an instance of one registry loses at another besides its fields, "" if nothing."""
    return pairs.beyond(layout_of(source), layout_of(target), instance)


def layout_of(registry: Registry) -> str:
    """How a registry's records are written: its layout, of a kind without layouts the kind."""
    return str(getattr(registry.options, "layout", registry.kind))
