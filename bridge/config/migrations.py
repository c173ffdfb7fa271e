"""The block `migrations` of the file, and what each migration asks of the registries and links that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bridge.config.bridge_block import beside
from bridge.config.document import Document, Place, nearest
from bridge.config.links import layout_of
from bridge.config.schema import Bridge, Link, Registry
from bridge.link import Item
from bridge.migration.block import Migration
from bridge.migration.intent import DESTINATION


def migrations_block(
    document: Document,
    block: Any,
    registries: Mapping[str, Registry | None],
    links: Sequence[Link],
    bridge: Bridge,
    folder: Path,
) -> tuple[Migration, ...]:
    """All migrations; what is faulty is noted. Paths are made absolute."""
    if not isinstance(block, list):
        document.fault(("migrations",), "should be a list")
        return ()
    found: list[Migration] = []
    for index, one in enumerate(block):
        made = document.build(Migration, one, ("migrations", index))
        if isinstance(made, Migration):
            _judge(document, made, ("migrations", index), registries, links)
            if made.name in {before.name for before in found}:
                document.fault(("migrations", index, "name"), f"{made.name} is there twice")
            found.append(_placed(made, folder))
    if found:
        _judge_bridge(document, bridge, registries)
    return tuple(found)


def _judge_bridge(document: Document, bridge: Bridge, registries: Mapping[str, Registry | None]) -> None:
    if bridge.seat is None:
        document.fault(
            ("bridge", "seat"),
            "missing; migrations keep their steps there: name a registry that can lock, e.g. an etcd",
        )
    if DESTINATION in registries:
        document.fault(("registries", DESTINATION), "has the name that migrations keep their own lock under; rename it")


def _judge(
    document: Document, made: Migration, place: Place, registries: Mapping[str, Registry | None], links: Sequence[Link]
) -> None:
    if any(one is None for one in (made.services, made.from_, made.to, made.at)):
        return  # a fault already
    for key, ends in (("from", made.old), ("to", made.new)):
        for end in ends:
            if (name := Item.parse(end.item).registry) not in registries:
                document.fault((*place, key), f"{name!r} is no registry of this file; {nearest(name, registries)}")
    targets = {link.to for link in links}
    for key, names in (("at", (*made.at, *made.elsewhere)), ("attach_at", made.attach_at)):
        for name in names:
            if name not in registries:
                document.fault((*place, key), f"{name!r} is no registry of this file; {nearest(name, registries)}")
            elif name not in targets:
                document.fault((*place, key), f"no link leads to {name}: the migration doses what links carry")
    new = {Item.parse(end.item).registry for end in made.new}
    if here := sorted(new & set(made.at)):
        text = f"{here[0]} is the side that the services go to: they are at 100 % there already; to have its consumers "
        document.fault((*place, "at"), text + "call both sides meanwhile, name it in `attach_at`")
    _judge_attached(document, made, place, registries, new)
    if shared := sorted({end.item for end in made.old} & {end.item for end in made.new if not end.where}):
        document.fault((*place, "to"), f"{shared[0]} is on both sides; tell them apart by where: or addresses:")


def _judge_attached(
    document: Document, made: Migration, place: Place, registries: Mapping[str, Registry | None], new: set[str]
) -> None:
    old = {Item.parse(end.item).registry for end in made.old}
    for name in made.attach_at:
        if name not in new or name in old:
            text = f"{name} is no registry of `to` alone: consumers elsewhere look at both sides by `at`"
            document.fault((*place, "attach_at"), text)
        registry = registries.get(name)
        if registry is None:
            continue
        if layout_of(registry) == "istio":
            text = f"{name} has `layout: istio`, which says shares by weights: name it in `at`"
            document.fault((*place, "attach_at"), text)
        elif not getattr(registry.options, "attach", True):
            text = f"{name} adds nothing to Services that have pods of their own without `attach: true` in its block"
            document.fault((*place, "attach_at"), text)


def _placed(made: Migration, folder: Path) -> Migration:
    prometheus = made.gates.prometheus if made.gates is not None else None
    if prometheus is None:
        return made
    gates = msgspec.structs.replace(made.gates, prometheus=prometheus.placed(lambda path: str(beside(folder, path))))
    return msgspec.structs.replace(made, gates=gates)
