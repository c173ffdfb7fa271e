"""Who reads a service at each place where it is: known with its evidence, possible, and what cannot be known there."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bridge.adapter import Certainty, Reader, Readers
from bridge.consumers import ANYWHERE, unseen_of
from bridge.engine.engine import Engine
from bridge.errors import Denied, Unavailable
from bridge.model import ServiceName
from bridge.plan.route import target_of
from bridge.report.values import Row

ORDER = (Certainty.KNOWN, Certainty.POSSIBLE, Certainty.UNKNOWN)


async def reader_rows(engine: Engine, name: ServiceName) -> list[Row]:
    """Its readers where it is read or written under that name, or under the one that a link gives it.

    `at` in seconds since the epoch. The last row is of every place: who calls what he knows, whatever registries say.
    """
    rows = [row for registry, there in sorted(places(engine, name)) for row in await _rows(engine, registry, there)]
    return [*rows, _row("", name, _unseen(name, ANYWHERE.who, ANYWHERE.why, ANYWHERE.command))] if rows else []


def places(engine: Engine, name: ServiceName) -> set[tuple[str, ServiceName]]:
    """The registries that have the service, with its name there: where it is read, and where links write it."""
    read = {view.registry for view in engine.store.views() if name in view.services}
    found = {(registry, name) for registry in read}
    for reconciler in engine.reconcilers.values():
        destination = reconciler.destination
        for link in destination.links:
            for registry in read & link.registries:
                there, _ = target_of(link, registry, name, reconciler.sink.traits)
                if there is not None:
                    found.add((destination.name, there))
    return found


async def _rows(engine: Engine, registry: str, name: ServiceName) -> list[Row]:
    found = await _asked(engine, registry, name)
    kind = engine.configuration.registries[registry].kind
    found += [_unseen(name, one.who, one.why, one.command) for one in unseen_of(kind)]
    return [_row(registry, name, one) for one in _in_order(found)]


async def _asked(engine: Engine, registry: str, name: ServiceName) -> list[Reader]:
    asked = engine.registries[registry]
    if not isinstance(asked, Readers):
        return []
    try:
        return list(await asked.readers(name))
    except (Unavailable, Denied) as error:
        return [_unseen(name, "whoever it would tell of", str(error), "")]


def _unseen(name: ServiceName, who: str, why: str, command: str) -> Reader:
    said = command.replace("{service}", name.name)
    return Reader(who=who, certainty=Certainty.UNKNOWN, evidence=why, at=time.time(), command=said)


def _in_order(readers: Iterable[Reader]) -> list[Reader]:
    return sorted(readers, key=lambda one: (ORDER.index(one.certainty), one.who))


def _row(registry: str, name: ServiceName, one: Reader) -> Row:
    return {
        "registry": registry,
        "service": str(name),
        "reader": one.who,
        "certainty": one.certainty.value,
        "evidence": one.evidence,
        "at": one.at,
        "command": one.command,
    }
