"""The services of every registry, or one of them side by side: who serves, and who owns the entries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from bridge.engine.engine import Engine
from bridge.model import Instance, Mark, Service, ServiceName
from bridge.plan.route import target_of
from bridge.report.status import scope_row
from bridge.report.values import Row
from bridge.sources.view import View

At = tuple[str, ServiceName]  # a registry, and a name there


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
        nothing_known = {name: Service(name) for name in view.unreadable if name not in view.services}
        for name, service in sorted({**view.services, **nothing_known}.items()):
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
                    "unreadable": len(view.unreadable.get(name, ())),
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


def side_by_side(engine: Engine, text: str) -> dict[str, list[Row]]:
    """One service over all registries and scopes, under the names that links give it: `places`, and `instances`.

    A row of `instances` is one running copy: what has an address and port in common is the same. `at` has, by place,
    its id, health, weight and owner there (None: a native).
    """
    names = _called(engine, text)
    now = engine.clock()
    places: list[Row] = []
    copies: list[Row] = []
    known: dict[tuple[str, int], Row] = {}
    for view in engine.store.views():
        services = [one for name, one in sorted(view.services.items()) if (view.registry, name) in names]
        unreadable = sum(len(ids) for name, ids in view.unreadable.items() if (view.registry, name) in names)
        places.append(_place(view, services, unreadable, scope_row(engine, view, now)))
        for service in services:
            for id, instance in sorted(service.instances.items()):
                copy = _copy_of(instance, known, copies)
                copy["at"].setdefault(repr(view), []).append(_standing(instance, service.marks.get(id)))
    return {"places": places, "instances": copies}


def _place(view: View, services: list[Service], unreadable: int, scope: Row) -> Row:
    instances = [one for service in services for one in service.instances.values()]
    marks = [mark for service in services for mark in service.marks.values()]
    return {
        "place": repr(view),
        "registry": view.registry,
        "scope": view.scope,
        "state": scope["state"],
        "age": scope["age"],
        "services": [str(service.name) for service in services],
        "instances": len(instances),
        "serving": sum(one.serving for one in instances),
        "unreadable": unreadable,
        "natives": len(instances) - len(marks),
        "owners": dict(Counter(mark.owner for mark in marks)),
    }


def _copy_of(instance: Instance, known: dict[tuple[str, int], Row], copies: list[Row]) -> Row:
    """The row of the running copy that an instance is; a new one where none of its addresses is known."""
    sockets = sorted(instance.sockets()) or [(instance.address, 0)]
    found = next((known[one] for one in sockets if one in known), None)
    if found is None:
        ports = ",".join(str(number) for _, number in sockets if number)
        found = {"instance": f"{instance.address}:{ports}" if ports else instance.address, "at": {}}
        copies.append(found)
    for one in sockets:
        known.setdefault(one, found)
    return found


def _standing(instance: Instance, mark: Mark | None) -> Row:
    return {
        "id": instance.id,
        "health": str(instance.health),
        "weight": instance.weight,
        "owner": mark.owner if mark is not None else None,
    }


def _called(engine: Engine, text: str) -> set[At]:
    """Where a service is: under the name `text`, in any namespace unless it says one, and what links make of it."""
    found: set[At] = set()
    same: dict[At, set[At]] = {}
    for view in engine.store.views():
        for name in {*view.services, *view.unreadable}:
            if text in (str(name), name.name):
                found.add((view.registry, name))
            for there in _sent(engine, view, name):
                same.setdefault((view.registry, name), set()).add(there)
                same.setdefault(there, set()).add((view.registry, name))
    new = set(found)
    while new:
        new = {other for one in new for other in same.get(one, ())} - found
        found |= new
    return found


def _sent(engine: Engine, view: View, name: ServiceName) -> Iterable[At]:
    for to, reconciler in engine.reconcilers.items():
        for link in reconciler.destination.links:
            if link.item(view.registry, view.scope) is not None:
                target, _ = target_of(link, view.registry, name, reconciler.sink.traits)
                if target is not None:
                    yield to, target
