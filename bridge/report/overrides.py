"""What overrides are of, and what each makes of it at each destination, as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.model import Instance, ServiceName
from bridge.override import Override
from bridge.plan.route import Refusal, Wanted, target_of
from bridge.plan.values import source_of
from bridge.report.values import Row, plain
from bridge.sources.view import EVERY_ID, View
from bridge.state.decisions import Decision


class Match(NamedTuple):
    """One instance that an override is of; `single`: it names that very instance."""

    view: View
    service: ServiceName
    instance: str
    single: bool


def matched(engine: Engine, override: Override) -> list[Match]:
    """All that an override is of, of what is known now."""
    found: dict[tuple[View, ServiceName, str], bool] = {}
    for view, name in _services(engine, override):
        meant = override.meant(str(name), view.registry)
        for key in view.services[name].instances if name in view.services else ():
            if None in meant or key in meant:
                found[view, name, key] = None not in meant
    return [Match(*at, single) for at, single in found.items()]


def is_away(engine: Engine, override: Override) -> bool:
    """Whether the one instance that an override is of is known not to be there, in any registry that may have it."""
    registries = {registry for _, registry, _ in override.readings()}
    views = [one for one in engine.store.views() if "" in registries or one.registry in registries]
    if not views or any(not (one.up and one.synced) or one.doubt for one in views):
        return False
    for view, name in _services(engine, override):
        unreadable: frozenset[str | None] = frozenset(view.unreadable.get(name, ()))
        meant = override.meant(str(name), view.registry)
        if EVERY_ID in unreadable or view.hides(name) or not meant.isdisjoint(unreadable):
            return False
    return not matched(engine, override)


def names_at(engine: Engine, override: Override) -> dict[str, set[ServiceName]]:
    """The names at each destination that the services feed of which it is, by destination."""
    found: dict[str, set[ServiceName]] = {}
    for view, name in _services(engine, override):
        for to, reconciler in engine.reconcilers.items():
            if override.at in ("", to) and (names := _targets(reconciler, view, name)):
                found.setdefault(to, set()).update(names)
    return found


def _services(engine: Engine, override: Override) -> Iterator[tuple[View, ServiceName]]:
    for view in engine.store.views():
        for service, registry, _ in override.readings():
            name = ServiceName.parse(service)
            if registry in ("", view.registry) and (name in view.services or name in view.unreadable):
                yield view, name


def _targets(reconciler: Reconciler, view: View, name: ServiceName) -> set[ServiceName]:
    traits = reconciler.sink.traits
    links = [one for one in reconciler.destination.links if one.item(view.registry, view.scope) is not None]
    return {target for link in links if (target := target_of(link, view.registry, name, traits)[0]) is not None}


class Effects(NamedTuple):
    """What becomes of instances at destinations, and the names of which nothing would serve there any more."""

    rows: list[Row]
    empties: list[str]


def effects(engine: Engine, matches: Sequence[Match], override: Override) -> Effects:
    """What becomes of each of these at each destination that an override is of, as it is planned now.

    `what`: written, withdrawn, left out, or parked; `serves`: whether it may be called there; `lost`: what is said and
    cannot be written there.
    """
    found = Effects([], [])
    for to, reconciler in engine.reconcilers.items():
        if override.at not in ("", to):
            continue
        by_target: dict[ServiceName, list[Match]] = {}
        for match in matches:
            for target in _targets(reconciler, match.view, match.service):
                by_target.setdefault(target, []).append(match)
        for target, ones in sorted(by_target.items()):
            goal, plan = reconciler.destination.plan(target)
            wanted = {source_of(one.mark): one for one in goal.wanted.values()}
            for match in ones:
                refusal = goal.refused.get((match.view.registry, match.view.scope, match.service, match.instance))
                source = (match.view.identity, match.view.part, match.service, match.instance)
                row = _effect(wanted.get(source), refusal, override)
                found.rows.append({**_of(match), "to": to, "as": str(target), **row})
            going = sum(removal.loses for removal in plan.removals)
            ordered = any(one.ordered and one.loses and not one.including_last for one in plan.removals)
            if ordered and plan.serving <= going:
                found.empties.append(f"{target} at {to}")
    return found


def _of(match: Match) -> Row:
    return {"registry": match.view.registry, "service": str(match.service), "instance": match.instance}


def _effect(wanted: Wanted | None, refusal: Refusal | None, override: Override) -> Row:
    if wanted is not None:
        serves, lost = wanted.instance.serving, _lost(wanted.instance, override)
        return {"what": "written", "serves": serves, "lost": lost, "why": "", "after": plain(wanted.instance)}
    what = "parked" if refusal is None or refusal.parked else "withdrawn" if refusal.order is not None else "left out"
    why = refusal.reason if refusal is not None else ""
    return {"what": what, "serves": False, "lost": [], "why": why, "after": None}


def _lost(written: Instance, override: Override) -> list[str]:
    """What an override says and is not written."""
    lost = []
    if override.weight and (written.weight == 1.0) != (override.weight == 1.0):
        lost.append("weight")
    if override.zone is not None and written.locality.zone != override.zone:
        lost.append("zone")
    return lost + [f"metadata.{key}" for key, text in override.metadata.items() if written.metadata.get(key) != text]


def pending(engine: Engine, matches: Sequence[Match], at: str) -> tuple[int, int]:
    """How many of these serve at destinations all the same, as copies of this bridge; and how many of them are held."""
    sources = {(one.view.identity, one.view.part, one.service, one.instance): one for one in matches}
    serving = held = 0
    for to, reconciler in engine.reconcilers.items():
        targets = {name for one in matches for name in _targets(reconciler, one.view, one.service)}
        for name in targets if at in ("", to) else ():
            holds = reconciler.destination.holds.of(name)
            for key, entry in reconciler.destination.entries.get(name, {}).items():
                mark = entry.mark
                ours = mark is not None and mark.owner == reconciler.destination.owner and source_of(mark) in sources
                if ours and entry.instance.serving:
                    serving += 1
                    held += key in holds
    return serving, held


def override_row(one: Decision, kind: str) -> Row:
    """An override by command: times in seconds since the epoch, `until` None: until it is taken back."""
    said = one.said
    assert said is not None
    return {
        "kind": kind,
        "of": said.of,
        "at": said.at,
        "says": said.says,
        "by": one.by,
        "reason": one.reason,
        "since": one.at,
        "until": one.until,
        "including_last": said.including_last,
    }


def file_row(said: Override) -> Row:
    """An override of the file."""
    row = {"kind": "file", "of": said.of, "at": said.at, "says": said.says, "by": "", "reason": said.reason}
    return {**row, "since": None, "until": None, "including_last": said.including_last}
