"""The records that cannot be read: which they are, where they are, and why; whatever was known of them stays."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.adapter import Raw
from bridge.engine.engine import Engine
from bridge.model import ServiceName
from bridge.report.values import Row
from bridge.sources.scrub import Scrub
from bridge.sources.view import EVERY_ID, View

READ = 50  # services whose records are read for their reasons; `explain` reads those of any service


async def unreadable_rows(engine: Engine, *registries: str) -> list[Row]:
    """One row for each record that cannot be read, of some registries or of all, with its place and the reason.

    `instance` is "*" where any of the service may be meant. `kept`: what was known of it before is still used.
    """
    rows: list[Row] = []
    for asked, (view, name, ids) in enumerate(_unreadable(engine, registries)):
        raw = await records(engine, view.registry, name) if asked < READ else []
        for id in sorted(ids):
            place, fault = _where(raw, id)
            rows.append(
                {
                    "registry": repr(view),
                    "service": str(name),
                    "instance": id,
                    "kept": kept(view, name, id),
                    "place": place,
                    "reason": fault or f"`isthmus explain {name}` says why",
                }
            )
    return rows


async def records(engine: Engine, registry: str, name: ServiceName) -> list[Raw]:
    """The records of one service without their secrets; what keeps them from being read is one of their faults."""
    hidden = Scrub(engine.configuration.bridge.secrets).hidden
    try:
        found = await engine.registries[registry].raw(name)
        return [Raw(hidden(one.place), hidden(one.text), one.id, hidden(one.fault)) for one in found]
    except Exception as error:
        return [Raw("", "", EVERY_ID, f"no raw record: {error}")]


def kept(view: View, name: ServiceName, id: str) -> bool:
    """Whether something is known of an unreadable record from before."""
    service = view.services.get(name)
    return service is not None and bool(service.instances) and (id == EVERY_ID or id in service.instances)


def _unreadable(engine: Engine, registries: tuple[str, ...]) -> Iterator[tuple[View, ServiceName, frozenset[str]]]:
    for view in engine.store.views():
        if not registries or view.registry in registries:
            for name, ids in sorted(view.unreadable.items()):
                yield view, name, ids


def _where(raw: list[Raw], id: str) -> tuple[str, str]:
    """The place of an unreadable record, and why it is that; "" where it can be read by now."""
    faulty = [one for one in raw if one.fault]
    found = next((one for one in faulty if one.id == id), None)
    if found is None and id == EVERY_ID:
        found = next(iter(faulty), None)
    if found is None:
        found = next((one for one in faulty if one.id == EVERY_ID), None)
    return (found.place, found.fault) if found is not None else ("", "")
