"""The way of one service or instance: where it is, what each link decides, and by which rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bridge.adapter import Entry, Raw
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.model import Instance, Mark, Service, ServiceName
from bridge.plan.route import Wanted, target_of
from bridge.plan.values import Plan
from bridge.report.unreadable import kept, records
from bridge.report.values import Row, plain
from bridge.sources.scrub import lost
from bridge.sources.view import EVERY_ID, View


async def explain(engine: Engine, name: ServiceName, instance: str = "") -> list[Row]:
    """The way of a service or one instance: where it is held, what each link decides, and by which rule."""
    rows: list[Row] = []
    targets: dict[str, set[ServiceName]] = {}
    for view in engine.store.views():
        unreadable = view.unreadable.get(name, frozenset[str]())
        service = view.services.get(name, Service(name))
        hidden = not unreadable and view.hides(name)
        if not (service.instances or unreadable or hidden):
            continue
        raw = await records(engine, view.registry, name)
        if hidden and any(one.fault for one in raw):
            unreadable = frozenset({EVERY_ID})
        for key, one in sorted(service.instances.items()):
            if instance in ("", key):
                rows.append(_standing(view, service, key, one, raw))
        for key in sorted(unreadable):
            if instance in ("", key) or key == EVERY_ID:
                rows += _unread(view, name, key, raw)
        for link, to, target, rule in _ways(engine, view, name):
            if target is None:
                rows.append(_decision(link, to, name, "", "not sent", rule))
            else:
                targets.setdefault(to, set()).add(target)
    for to, reconciler in engine.reconcilers.items():
        here = {name} if name in reconciler.destination.entries else set()
        for target in sorted(targets.get(to, set()) | here):
            rows += _decisions(reconciler, target, name, instance, engine.clock())
    return rows


def _ways(engine: Engine, view: View, name: ServiceName) -> Iterator[tuple[str, str, ServiceName | None, str]]:
    """Each link that reads the scope: its name and destination, the name there (None: it is not sent), and the rule."""
    for reconciler in engine.reconcilers.values():
        for link in reconciler.destination.links:
            if link.item(view.registry, view.scope) is not None:
                target, rule = target_of(link, view.registry, name, reconciler.sink.traits)
                yield link.name, reconciler.name, target, rule


def subject(engine: Engine, text: str) -> tuple[ServiceName, str]:
    """What SERVICE or SERVICE/INSTANCE means here: names and ids may have a `/` too, and the longest name wins."""
    known = {name for view in engine.store.views() for name in (*view.services, *view.unreadable)}
    known |= {name for reconciler in engine.reconcilers.values() for name in reconciler.destination.entries}
    end = len(text)
    while end > 0:
        if (name := ServiceName.parse(text[:end])) in known:
            return name, text[end + 1 :]
        end = text.rfind("/", 0, end)
    service, _, instance = text.partition("/")
    return ServiceName.parse(service), instance


def _unread(view: View, name: ServiceName, key: str, raw: list[Raw]) -> list[Row]:
    """What is known of a record that cannot be read: one row for each place where it may be."""
    found = [one for one in raw if one.fault and (key in (EVERY_ID, one.id) or one.id == EVERY_ID)]
    end = "; what was known of it before stays" if kept(view, name, key) else ""
    return [
        {
            "step": "registry",
            "at": repr(view),
            "service": str(name),
            "instance": one.id or key,
            "what": "unreadable",
            "why": f"{one.fault or 'it can be read by now'}{end}",
            "place": one.place,
            "raw": one.text,
            "decoded": None,
        }
        for one in found or [Raw("", "", key)]
    ]


def _standing(view: View, service: Service, key: str, instance: Instance, raw: list[Raw]) -> Row:
    mark = service.marks.get(key)
    record = next((one for one in raw if one.id == key), None) or next((one for one in raw if not one.place), None)
    return {
        "step": "registry",
        "at": repr(view),
        "service": str(service.name),
        "instance": key,
        "what": "copy" if mark else "native",
        "why": _whence(mark) if mark else "live" if view.up else f"as it was known before: {view.reason}",
        "place": record.place if record is not None else "",
        "raw": (record.text or record.fault) if record is not None else "",
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
    """Each decision about one name at a destination."""
    goal, plan = reconciler.destination.plan(target)
    to = reconciler.name
    rows = [
        _decision("", to, target, at[3], "parked" if refusal.parked else "left out", refusal.reason)
        for at, refusal in goal.refused.items()
        if at[2] == source and instance in ("", at[3])
    ]
    if goal.parked:
        rows.append(_decision("", to, target, "*", "parked", goal.parked))
    for key, wanted in goal.wanted.items():
        if instance in ("", key, wanted.mark.instance):
            rows.append(_wanted(reconciler, plan, target, key, wanted, now))
    rows += _removals(reconciler, plan, target, instance)
    rows += [
        _decision("", to, target, key, "kept", str(reason))
        for key, reason in plan.kept.items()
        if instance in ("", key)
    ]
    return [*rows, *_others(reconciler, target, instance)]


def _wanted(reconciler: Reconciler, plan: Plan, target: ServiceName, key: str, wanted: Wanted, now: float) -> Row:
    """What becomes of an instance that should be there."""
    if key in plan.shadowed:
        what, why = "shadowed", plan.shadowed[key]
    elif (target, key) in reconciler.destination.parked:
        what, why = "parked", _parked(reconciler, (target, key), now)
    elif any(change.id == key and not change.forget for change in plan.upserts):
        what, why = "to be written", f"lag {reconciler.lag:.3f} s; {reconciler.reason or reconciler.role}"
    else:
        what, why = "in step", _whence(wanted.mark)
    without = lost(wanted.source, reconciler.sink.traits)
    why += f"; without {', '.join(without)}" if without else ""
    why += f"; {wanted.order.rule}" if wanted.order is not None else ""
    to = reconciler.name
    return _decision(wanted.mark.link, to, target, key, what, why, decoded=plain(wanted.instance))


def _removals(reconciler: Reconciler, plan: Plan, target: ServiceName, instance: str) -> Iterator[Row]:
    held = reconciler.destination.holds.of(target)
    for removal in plan.removals:
        key, mark = removal.change.id, removal.change.mark
        if instance in ("", key) or (mark is not None and mark.instance == instance):
            what = "held" if key in held else "to be removed" if removal.change.after is None else "to be updated"
            why = held[key].verdict.rule if key in held else f"cause {removal.cause}"
            item = [mark.link if mark is not None else "", str(target), key]
            yield _decision("", reconciler.name, target, key, what, why, item=item)


def _others(reconciler: Reconciler, target: ServiceName, instance: str) -> Iterator[Row]:
    """What others hold under the name."""
    for key, entry in reconciler.destination.entries.get(target, {}).items():
        if not _ours(entry, reconciler.destination.owner) and instance in ("", key):
            whose = f"the bridge {entry.mark.owner}" if entry.mark else "a native"
            whose += "" if entry.instance.address else ", whose record cannot be read"
            decoded = plain(entry.instance)
            yield _decision("", reconciler.name, target, key, "another's", f"of {whose}", decoded=decoded)


def _parked(reconciler: Reconciler, at: tuple[ServiceName, str], now: float) -> str:
    reason, refused = reconciler.destination.parked[at], reconciler.destination.refused.get(at)
    return f"refused by {reconciler.name} {now - refused.at:.0f} s ago: {reason}" if refused else str(reason)


def _ours(entry: Entry, owner: str) -> bool:
    return entry.mark is not None and entry.mark.owner == owner
