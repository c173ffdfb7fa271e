"""Two registries side by side in the common model, or one link's goal and what its target holds, field by field."""

from __future__ import annotations

from typing import Any

import msgspec

from bridge.adapter import Cause, Entry
from bridge.engine.engine import Engine
from bridge.link import Link
from bridge.model import Instance, ServiceName, Traits
from bridge.plan.route import target_of
from bridge.report.unreadable import unreadable_rows
from bridge.report.values import FIELDS, Row, plain
from bridge.sources.scrub import as_written, lost
from bridge.state.before import Instances, comparable

LEFT_OUT = "left out"  # no difference: the second cannot hold it


async def diff_rows(engine: Engine, left: str, right: str) -> list[Row]:
    """Two registries in the common model, instance by instance and field by field, less what the second cannot hold.

    What cannot be read in one of them differs until it can: nobody knows what it says.
    """
    sink = engine.registries[right].sink(engine.configuration.bridge.id)
    rows = await _unread(engine, left, right)
    ours, theirs = _all(engine, left), _all(engine, right)
    for name in sorted(ours.keys() | theirs.keys()):
        forms: dict[str, Instance] = {}
        without: list[Row] = []
        for key, instance in sorted(ours.get(name, {}).items()):
            try:
                form = sink.canonical(name, as_written(instance, sink.traits))
                if form.serving and not instance.serving:  # no link would write it
                    without.append(
                        _difference(name, key, f"{instance.health}: {right} cannot say so", LEFT_OUT, None, None)
                    )
                    continue
                forms[key] = form
                without += [_difference(name, key, text, LEFT_OUT, None, None) for text in lost(instance, sink.traits)]
            except Exception as error:
                rows.append(_difference(name, key, "", f"cannot be written: {error}", None, None))
        rows += _compared(name, forms, theirs.get(name, {}), sink.traits, (left, right))
        rows += without
    return rows


async def link_diff_rows(engine: Engine, link: Link) -> list[Row]:
    """What a link should have at its target, its names, ports and rules applied, and what is there.

    A native that holds the place of one of ours is compared with it; other natives are nobody's difference.
    """
    reconciler = engine.reconcilers[link.to]
    destination = reconciler.destination
    traits = reconciler.sink.traits
    rows = await _unread(engine, *sorted(link.registries), link.to)
    for target in sorted(_targets(engine, link)):
        goal, _ = destination.plan(target)
        wanted = {key: one.instance for key, one in goal.wanted.items() if one.mark.link == link.name}
        entries = destination.entries.get(target, {})
        ours = {key for key, entry in entries.items() if _is_of(entry, destination.owner, link)}
        there = {key: entry.instance for key, entry in entries.items() if key in ours or entry.mark is None}
        same = _same(wanted, there, traits)
        met = {key: one for key, one in there.items() if key in ours or key in same.values()}
        rows += _compared(target, wanted, met, traits, (", ".join(link.from_), link.to))
        if goal.parked:
            rows.append(_difference(target, "*", "", f"parked: {goal.parked}", None, None))
        rows += [
            _difference(target, at[3], "", f"parked: {refusal.reason}", None, None)
            for at, refusal in sorted(goal.refused.items())
            if refusal.parked and at[0] in link.registries
        ]
        rows += [
            _difference(target, at[3], refusal.reason, LEFT_OUT, None, None)
            for at, refusal in sorted(goal.refused.items())
            if refusal.cause is Cause.HEALTH and at[0] in link.registries
        ]
    return rows


async def before_rows(engine: Engine, link: Link, stood: Instances) -> list[Row]:
    """What stood at a link's target before its first write, and what stands under these names now."""
    reconciler = engine.reconcilers[link.to]
    entries, traits = reconciler.destination.entries, reconciler.sink.traits
    rows = await _unread(engine, link.to)
    for name in sorted(stood.keys() | entries.keys()):
        now = {key: comparable(engine.store.scrub(one.instance)) for key, one in entries.get(name, {}).items()}
        rows += _compared(name, dict(stood.get(name, {})), now, traits, ("what stood before", link.to))
    return rows


def _targets(engine: Engine, link: Link) -> set[ServiceName]:
    """The names at a link's target: of what it sends, and of what it wrote there."""
    reconciler = engine.reconcilers[link.to]
    destination, traits = reconciler.destination, reconciler.sink.traits
    sent = {
        target_of(link, view.registry, name, traits)[0]
        for view in engine.store.views()
        if link.item(view.registry, view.scope) is not None
        for name in view.services
    }
    written = {
        name
        for name, entries in destination.entries.items()
        if any(_is_of(entry, destination.owner, link) for entry in entries.values())
    }
    return {name for name in sent if name is not None} | written


def _is_of(entry: Entry, owner: str, link: Link) -> bool:
    return entry.mark is not None and entry.mark.owner == owner and entry.mark.link == link.name


async def _unread(engine: Engine, *registries: str) -> list[Row]:
    return [
        {
            **_difference(ServiceName.parse(row["service"]), row["instance"], "", "cannot be read", None, None),
            "difference": f"cannot be read in {row['registry']}: {row['reason']}",
        }
        for row in await unreadable_rows(engine, *registries)
    ]


def _compared(
    name: ServiceName, forms: dict[str, Instance], theirs: dict[str, Instance], traits: Traits, ends: tuple[str, str]
) -> list[Row]:
    """The differences of one service. `ends`: what the two sides are called."""
    rows = []
    there = dict(theirs)
    same = _same(forms, there, traits)
    for key, form in forms.items():
        if key not in same:
            rows.append(_difference(name, key, "", f"only in {ends[0]}", plain(form), None))
            continue
        for field, (mine, its) in _fields(form, there.pop(same[key]), traits).items():
            rows.append(_difference(name, key, field, "differs", mine, its))
    for instance in there.values():
        rows.append(_difference(name, instance.id, "", f"only in {ends[1]}", None, plain(instance)))
    return rows


def _same(forms: dict[str, Instance], there: dict[str, Instance], traits: Traits) -> dict[str, str]:
    """Which instance here is which there: by id, and of those that are left by what tells instances there apart."""
    ids = {form.id: key for key, form in sorted(forms.items(), reverse=True)}
    same = {key: id for id, key in ids.items() if id in there}
    left = there.keys() - same.values()
    at = {place: id for id in sorted(left, reverse=True) for place in traits.places(there[id])}
    for key, form in forms.items():
        places = sorted(traits.places(form), key=str) if key not in same else ()
        if id := next((at[place] for place in places if at.get(place) in left), ""):
            same[key] = id
            left.discard(id)
    return same


def _difference(name: ServiceName, key: str, field: str, what: str, left: Any, right: Any) -> Row:
    return {"service": str(name), "instance": key, "field": field, "difference": what, "left": left, "right": right}


def _fields(one: Instance, other: Instance, traits: Traits) -> dict[str, tuple[Any, Any]]:
    found = {
        field: (msgspec.to_builtins(getattr(one, field)), msgspec.to_builtins(getattr(other, field)))
        for field in FIELDS
        if getattr(one, field) != getattr(other, field)
    }
    mine, its = (each.native.get(traits.confidential, "") for each in (one, other))
    return found | {"token": ("***" if mine else "", "***" if its else "")} if mine != its else found


def _all(engine: Engine, registry: str) -> dict[ServiceName, dict[str, Instance]]:
    found: dict[ServiceName, dict[str, Instance]] = {}
    for view in engine.store.views(registry):
        for name, service in view.services.items():
            found.setdefault(name, {}).update(service.instances)
    return found
