"""What the bridge knows, as plain rows for people and runbooks: reads the engine, changes nothing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from bridge.adapter import Entry
from bridge.engine import Engine
from bridge.link import Policy
from bridge.model import Instance, Mark, Service, ServiceName
from bridge.plan import Plan
from bridge.reconcile import Reconciler, Writer
from bridge.route import target_of
from bridge.secrets import Scrub
from bridge.store import View

Row = dict[str, Any]

FIELDS = tuple(field for field in Instance.__struct_fields__ if field not in ("id", "native"))  # what people compare


def plan_rows(engine: Engine) -> list[Row]:
    """Every change that is not made yet, with the reason where it may not be: one row an entry."""
    rows = []
    for reconciler in engine.reconcilers.values():
        for name, plan in sorted(reconciler.desk.plans.items()):
            rows += _plan_rows(reconciler, name, plan)
    return rows


def _plan_rows(reconciler: Reconciler, name: ServiceName, plan: Plan) -> list[Row]:
    held = reconciler.desk.holds.of(name)
    rows = []
    for change in plan.upserts:
        if change.forget:
            continue
        rows.append(
            {
                "action": "update" if change.before else "add",
                "link": change.mark.link if change.mark else "",
                "to": reconciler.destination,
                "service": str(name),
                "instance": change.id,
                "cause": "",
                "held": reconciler.desk.parked.get((name, change.id), ""),
                "before": plain(change.before.instance) if change.before else None,
                "after": plain(change.after),
            }
        )
    for removal in plan.removals:
        change = removal.change
        rows.append(
            {
                "action": "remove" if change.after is None else "update",
                "link": change.mark.link if change.mark else "",
                "to": reconciler.destination,
                "service": str(name),
                "instance": change.id,
                "cause": str(removal.cause),
                "held": held[change.id].verdict.rule if change.id in held else "",
                "before": plain(change.before.instance) if change.before else None,
                "after": plain(change.after),
            }
        )
    return rows


def hold_rows(engine: Engine) -> list[Row]:
    """What is held, as the sets that `approve` takes."""
    now = engine.clock()
    return [
        {**msgspec.to_builtins(hold), "to": reconciler.destination}
        for reconciler in engine.reconcilers.values()
        for hold in reconciler.desk.holds.show(now)
    ]


def unwritten_rows(engine: Engine) -> list[Row]:
    """Everything that is not written though it is there: parked, shadowed, or kept although it is wanted no more.

    `age`: seconds since the target refused it, None where that is not the reason.
    """
    now = engine.clock()
    rows: list[Row] = []
    for reconciler in engine.reconcilers.values():
        desk = reconciler.desk
        found = [("parked", *at, reason) for at, reason in sorted(desk.parked.items())]
        for state, by_name in (("shadowed", desk.shadowed), ("kept", desk.kept)):
            found += [(state, name, *one) for name, reasons in sorted(by_name.items()) for one in reasons.items()]
        for state, name, key, reason in found:
            refused = desk.refused.get((name, key)) if state == "parked" else None
            rows.append(
                {
                    "state": state,
                    "to": reconciler.destination,
                    "service": str(name),
                    "instance": key,
                    "age": round(now - refused.at, 3) if refused is not None else None,
                    "reason": reason,
                }
            )
    return rows


def refused_rows(engine: Engine) -> list[Row]:
    """What is parked because a target did not take it: the row of `unwritten_rows`, with a hash of the value."""
    rows = []
    for row in unwritten_rows(engine):
        refused = engine.reconcilers[row["to"]].desk.refused.get((ServiceName.parse(row["service"]), row["instance"]))
        if row["age"] is not None and refused is not None:
            rows.append({**row, "value": value_hash(refused.value)})
    return rows


def value_hash(instance: Instance) -> str:
    """The same for equal instances, also in another process."""
    # A tuple: whether a struct leaves out a default depends on which of two equal floats it holds.
    fields = msgspec.json.encode(msgspec.structs.astuple(instance), order="deterministic")
    return hashlib.blake2b(fields, digest_size=12).hexdigest()


def scope_row(engine: Engine, view: View, now: float) -> Row:
    """How one scope does: its state, and in seconds how long ago it was last known to be true."""
    state = "synced" if view.up else "stale" if view.synced else "known" if view.services else "unknown"
    return {
        "registry": view.registry,
        "scope": view.scope,
        "state": state,
        "age": 0.0 if view.up else round(now - view.lost, 3) if view.lost else None,
        "identity": view.identity,
        "incarnation": view.incarnation,
        "revision": view.revision,
        "services": len(view.services),
        "instances": sum(len(service.instances) for service in view.services.values()),
        "doubt": view.doubt,
        "left_out": view.left_out,
        "ignored": len(engine.feeds[view].source.ignored) if view in engine.feeds else 0,
        "reason": view.reason,
    }


def link_rows(engine: Engine) -> list[Row]:
    """How every link does."""
    rows = []
    for reconciler in engine.reconcilers.values():
        waiting = Counter(
            change.mark.link
            for plan in reconciler.desk.plans.values()
            for change in (*plan.upserts, *(removal.change for removal in plan.removals))
            if change.mark is not None
        )
        names = {link.name for link in reconciler.desk.links}
        for link in reconciler.desk.links:
            one = len(names) == 1
            rows.append(
                {
                    "link": link.name,
                    "from": list(link.from_),
                    "to": link.to,
                    "policy": str(link.policy),
                    "role": "observing" if link.policy is Policy.OBSERVE else reconciler.role,
                    "lag": round(reconciler.lag, 3),
                    "waiting": waiting[link.name],
                    "held": reconciler.desk.holds.count(link.name),
                    "parked": len(reconciler.desk.parked)
                    if one
                    else _feeding(reconciler, link.name, reconciler.desk.parked),
                    "shadowed": sum(len(found) for found in reconciler.desk.shadowed.values()),
                    "frozen": reconciler.desk.is_frozen(link.name),
                    "writer": msgspec.to_builtins(writer(reconciler)),
                    "differs": _differs(engine, reconciler),
                    "reason": reconciler.reason,
                }
            )
    return rows


def writer(reconciler: Reconciler) -> Writer | None:
    """Who writes at a destination, as far as is known."""
    return reconciler.peers.writer if reconciler.peers is not None else None


def _differs(engine: Engine, reconciler: Reconciler) -> bool:
    """Whether this process stands by for one that runs another file."""
    other = writer(reconciler)
    return reconciler.role == "standby" and other is not None and other.configuration != engine.configuration.hash


def _feeding(reconciler: Reconciler, link: str, parked: Iterable[tuple[ServiceName, str]]) -> int:
    return sum(any(supply.link.name == link for supply in reconciler.desk.supplies(name)) for name, _ in parked)


def service_rows(
    engine: Engine,
    writers: Mapping[str, Collection[str] | None],
    silences: Mapping[tuple[str, str], float],
) -> list[Row]:
    """The services of every registry, with who owns and who serves them.

    `writers`: by registry, the bridges whose daemon writes there now, None where nobody knows; `silent` names the
    owners without one. `silences`: by identity and owner, since when one has been silent, in seconds since the epoch.
    """
    now = engine.clock()
    rows = []
    for view in engine.store.views():
        for name, service in sorted(view.services.items()):
            owners = Counter(mark.owner for mark in service.marks.values())
            natives = len(service.instances) - sum(owners.values())
            silent = _silent(owners, writers.get(view.registry))
            rows.append(
                {
                    "registry": view.registry,
                    "scope": view.scope,
                    "service": str(name),
                    "instances": len(service.instances),
                    "serving": sum(instance.serving for instance in service.instances.values()),
                    "age": scope_row(engine, view, now)["age"],
                    "natives": natives,
                    "owners": dict(owners),
                    "silent": silent,
                    "silent_since": {owner: silences.get((view.identity, owner)) for owner in silent or ()},
                    "origins": sorted(
                        {mark.path[0] for mark in service.marks.values()} | ({view.identity} if natives else set())
                    ),
                }
            )
    return rows


def _silent(owners: Iterable[str], writers: Collection[str] | None) -> list[str] | None:
    return None if writers is None else sorted(owner for owner in owners if owner not in writers)


def diff_rows(engine: Engine, left: str, right: str) -> list[Row]:
    """Two registries in the common model, instance by instance and field by field, less what the second cannot hold."""
    sink = engine.registries[right].sink(engine.configuration.bridge.id)
    rows = []
    ours, theirs = _all(engine, left), _all(engine, right)
    for name in sorted(ours.keys() | theirs.keys()):
        there = {_key(instance): instance for instance in theirs.get(name, {}).values()}
        for key, instance in sorted(ours.get(name, {}).items()):
            try:
                form = sink.canonical(name, instance)
            except Exception as error:
                rows.append(_difference(name, key, "", f"cannot be held: {error}", None, None))
                continue
            other = there.pop(_key(form), None)
            if other is None:
                rows.append(_difference(name, key, "", f"only in {left}", plain(form), None))
                continue
            for field, (mine, its) in _fields(form, other).items():
                rows.append(_difference(name, key, field, "differs", mine, its))
        for instance in there.values():
            rows.append(_difference(name, instance.id, "", f"only in {right}", None, plain(instance)))
    return rows


def _difference(name: ServiceName, key: str, field: str, what: str, left: Any, right: Any) -> Row:
    return {"service": str(name), "instance": key, "field": field, "difference": what, "left": left, "right": right}


def _key(instance: Instance) -> object:
    return instance.sockets() or instance.id


def _fields(one: Instance, other: Instance) -> dict[str, tuple[Any, Any]]:
    return {
        field: (msgspec.to_builtins(getattr(one, field)), msgspec.to_builtins(getattr(other, field)))
        for field in FIELDS
        if getattr(one, field) != getattr(other, field)
    }


def _all(engine: Engine, registry: str) -> dict[ServiceName, dict[str, Instance]]:
    found: dict[ServiceName, dict[str, Instance]] = {}
    for view in engine.store.views(registry):
        for name, service in view.services.items():
            found.setdefault(name, {}).update(service.instances)
    return found


async def explain(engine: Engine, name: ServiceName, instance: str = "") -> list[Row]:
    """The way of a service or one instance: what stands where, what each link decides, and by which rule."""
    rows: list[Row] = []
    targets: dict[str, set[ServiceName]] = {}
    for view in engine.store.views():
        service = view.services.get(name)
        if service is None:
            continue
        raw = await _raw(engine, view.registry, name)
        for key, one in sorted(service.instances.items()):
            if instance in ("", key):
                rows.append(_standing(view, service, key, one, raw))
        for reconciler in engine.reconcilers.values():
            for link in reconciler.desk.links:
                if view.registry in link.from_:
                    target, rule = target_of(link, view.registry, name, reconciler.sink.traits.namespaces)
                    if target is None:
                        rows.append(_decision(link.name, reconciler.destination, name, "", "not sent", rule))
                    else:
                        targets.setdefault(reconciler.destination, set()).add(target)
    for to, reconciler in engine.reconcilers.items():
        here = {name} if name in reconciler.desk.entries else set()
        for target in sorted(targets.get(to, set()) | here):
            rows += _decisions(reconciler, target, name, instance, engine.clock())
    return rows


async def _raw(engine: Engine, registry: str, name: ServiceName) -> dict[str, str]:
    try:
        raw = await engine.registries[registry].raw(name)
        hidden = Scrub(engine.configuration.bridge.secrets).hidden
        return {place: hidden(text) for place, text in raw.items()}
    except Exception as error:
        return {"": f"no raw record: {error}"}


def _standing(view: View, service: Service, key: str, instance: Instance, raw: dict[str, str]) -> Row:
    mark = service.marks.get(key)
    place = next((place for place in raw if place.endswith(key) or key in raw[place]), "")
    return {
        "step": "held by",
        "at": repr(view),
        "service": str(service.name),
        "instance": key,
        "what": "copy" if mark else "native",
        "why": _whence(mark) if mark else "live" if view.up else f"as it was known before: {view.reason}",
        "place": place,
        "raw": raw.get(place, ""),
        "decoded": plain(instance),
    }


def _whence(mark: Mark) -> str:
    return f"written by {mark.owner} over {mark.link}, from {' > '.join(mark.path)} as {mark.service}/{mark.instance}"


def _decision(link: str, to: str, name: ServiceName, key: str, what: str, why: str, **more: Any) -> Row:
    return {
        "step": f"link {link}" if link else "destination",
        "at": to,
        "service": str(name),
        "instance": key,
        "what": what,
        "why": why,
        **more,
    }


def _decisions(
    reconciler: Reconciler, target: ServiceName, source: ServiceName, instance: str, now: float
) -> list[Row]:
    goal, plan = reconciler.desk.plan(target)
    rows = []
    to = reconciler.destination
    for at, refusal in goal.refused.items():
        if at[2] == source and instance in ("", at[3]):
            rows.append(_decision("", to, target, at[3], "parked" if refusal.parked else "left out", refusal.reason))
    if goal.parked:
        rows.append(_decision("", to, target, "*", "parked", goal.parked))
    changes = {change.id: change for change in plan.upserts if not change.forget}
    held = reconciler.desk.holds.of(target)
    for key, wanted in goal.wanted.items():
        if instance not in ("", key, wanted.mark.instance):
            continue
        if key in plan.shadowed:
            what, why = "shadowed", plan.shadowed[key]
        elif (target, key) in reconciler.desk.parked:
            what, why = "parked", _parked(reconciler, (target, key), now)
        elif key in changes:
            what, why = "to be written", f"lag {reconciler.lag:.3f} s; {reconciler.reason or reconciler.role}"
        else:
            what, why = "in step", _whence(wanted.mark)
        rows.append(_decision(wanted.mark.link, to, target, key, what, why, decoded=plain(wanted.instance)))
    for removal in plan.removals:
        key = removal.change.id
        if instance in ("", key) or (removal.change.mark and removal.change.mark.instance == instance):
            what = "held" if key in held else "to be removed" if removal.change.after is None else "to be updated"
            why = held[key].verdict.rule if key in held else f"cause {removal.cause}"
            rows.append(_decision("", to, target, key, what, why))
    for key, why in plan.kept.items():
        if instance in ("", key):
            rows.append(_decision("", to, target, key, "kept", why))
    for key, entry in reconciler.desk.entries.get(target, {}).items():
        if not _ours(entry, reconciler.desk.owner) and instance in ("", key):
            whose = f"the bridge {entry.mark.owner}" if entry.mark else "a native"
            rows.append(_decision("", to, target, key, "held", f"by {whose}", decoded=plain(entry.instance)))
    return rows


def _parked(reconciler: Reconciler, at: tuple[ServiceName, str], now: float) -> str:
    reason, refused = reconciler.desk.parked[at], reconciler.desk.refused.get(at)
    return f"refused by {reconciler.destination} {now - refused.at:.0f} s ago: {reason}" if refused else reason


def _ours(entry: Entry, owner: str) -> bool:
    return entry.mark is not None and entry.mark.owner == owner


def attention(engine: Engine) -> list[str]:
    """Why an operator should look, empty if all is well."""
    found = [f"{view!r}: {view.doubt or view.reason}" for view in engine.store.views() if view.doubt or not view.up]
    for row in link_rows(engine):
        for kind in ("held", "parked"):
            if row[kind]:
                found.append(f"{row['link']}: {row[kind]} {kind}")
        if row["frozen"]:
            found.append(f"{row['link']}: frozen")
        if row["differs"]:
            theirs = f"the writer's on {row['writer']['host']} is {row['writer']['configuration']}"
            found.append(f"{row['link']}: this file is {engine.configuration.hash}, {theirs}")
        if row["reason"]:
            found.append(f"{row['link']}: {row['reason']}")
    return list(dict.fromkeys(found))


def status(engine: Engine) -> Row:
    """One screen of a running bridge."""
    now = engine.clock()
    return {
        "bridge": engine.configuration.bridge.id,
        "configuration": engine.configuration.hash,
        "scopes": [scope_row(engine, view, now) for view in engine.store.views()],
        "links": link_rows(engine),
        "attention": attention(engine),
    }


def plain(instance: Instance | None) -> Row | None:
    """An instance as JSON has it, without what only one convention understands."""
    if instance is None:
        return None
    row: Row = msgspec.to_builtins(instance)
    row.pop("native", None)
    return row
