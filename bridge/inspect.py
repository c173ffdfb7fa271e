"""The commands that look without a daemon: an engine that only observes, waited for until it has seen everything."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bridge import control, show
from bridge.adapter import Cause, Change, Outcome, Reach
from bridge.blocks import Configuration
from bridge.config import pair_of
from bridge.engine import Engine
from bridge.errors import ConfigError, Rejected, Unavailable
from bridge.holds import HeldRemoval
from bridge.model import Instance, Service, ServiceName
from bridge.reconcile import Reconciler
from bridge.route import target_of
from bridge.secrets import written_by
from bridge.store import Seen, View

PATIENCE = 8.0  # seconds without a word after which a registry counts as out of reach
ANSWERS = 3.0  # seconds that a daemon may take to say what it knows; without, the command goes on
Row = dict[str, Any]


class Silence:
    """Hears what an engine does, and keeps it to itself."""

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: Seen, serving: tuple[int, int]) -> None:
        """Nothing is written by an engine that observes."""

    def noticed(self, change: Change, kind: str, serving: tuple[int, int]) -> None:
        """An engine that observes takes no lock."""

    def held(self, one: HeldRemoval) -> None:
        """Shown by the plan."""

    def released(self, one: HeldRemoval, why: str) -> None:
        """Shown by the plan."""

    def failed(self, change: Change, error: Exception) -> None:
        """Nothing is written by an engine that observes."""

    def event(self, kind: str, **about: object) -> None:
        """Of no interest to a command."""


async def _hear_of_refusals(engine: Engine) -> None:
    """What a target refused is known to who tried to write it: the daemon, where one runs."""
    state = engine.configuration.bridge.state
    if state is None:
        return
    try:
        rows = await asyncio.to_thread(control.call, Path(state) / "admin.sock", "refused", within=ANSWERS)
    except control.NoDaemonError:
        return
    except (ConfigError, Unavailable) as error:
        sys.stderr.write(f"what targets refused is not shown: {error}\n")
        return
    refused = {(row["to"], row["service"], row["instance"]): row for row in rows}
    for to, reconciler in engine.reconcilers.items() if refused else ():
        for change in (change for plan in reconciler.desk.plans.values() for change in plan.upserts):
            row = refused.get((to, str(change.service), change.id))
            if row is not None and change.after is not None and show.value_hash(change.after) == row["value"]:
                reconciler.desk.park(change, row["reason"], engine.clock() - row["age"])


@asynccontextmanager
async def looking(configuration: Configuration, patience: float = PATIENCE) -> AsyncIterator[tuple[Engine, bool]]:
    """An engine that has seen everything that can be reached; and whether that was all there is."""
    logging.getLogger("isthmus").setLevel(logging.CRITICAL)
    async with Engine(configuration, ear=Silence(), observe=True) as engine:
        whole = await engine.settled(patience, _progress)
        await _hear_of_refusals(engine)
        _progress("")
        yield engine, whole


def _progress(text: str) -> None:
    """One line on a terminal, overwritten in place; nothing in a pipe."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


async def check(engine: Engine) -> dict[str, list[Row]]:
    """Who answers, what we may do there; what each link loses in translation, and which names meet at its target."""
    reached = await engine.reach()
    registries: list[Row] = []
    for name, answer in reached.items():
        views = list(engine.store.views(name))
        ignored = {key: why for source in engine.sources(name) for key, why in source.ignored.items()}
        row: Row = {
            "registry": name,
            "kind": engine.configuration.registries[name].kind,
            "services": sum(len(view.services) for view in views),
            "ignored": len(ignored),
            "left_out": sum(view.left_out for view in views),
            "foreign": dict(Counter(tool for view in views for tool in _tools(view))),
        }
        if isinstance(answer, Reach):
            row |= {
                "reached": True,
                "version": answer.version,
                "identity": answer.identity,
                "may_read": answer.may_read,
                "may_write": answer.may_write,
                "notes": list(answer.notes),
            }
        else:
            row |= {"reached": False, "notes": [str(answer) or type(answer).__name__]}
        row["notes"] += [f"ignored {key}: {why}" for key, why in list(ignored.items())[:3]]
        registries.append(row)
    links: list[Row] = []
    names: list[Row] = []
    for reconciler in engine.reconcilers.values():
        for link in reconciler.desk.links:
            links.append(_losses(engine, reconciler, link.name))
            names += _meetings(engine, reconciler, link.name)
    parked = [row for row in show.unwritten_rows(engine) if row["state"] == "parked"]
    return {"registries": registries, "links": links, "names": names, "parked": parked}


def _tools(view: View) -> Iterator[str]:
    """The synchroniser of each instance that one wrote."""
    for service in view.services.values():
        for instance in service.instances.values():
            if tool := written_by(instance):
                yield tool


def _sent(engine: Engine, reconciler: Reconciler, link_name: str) -> list[tuple[ServiceName, Service]]:
    link = next(link for link in reconciler.desk.links if link.name == link_name)
    found = []
    for registry in link.from_:
        for view in engine.store.views(registry):
            for name, service in view.services.items():
                target, _ = target_of(link, registry, name, reconciler.sink.traits.namespaces)
                if target is not None:
                    found.append((target, service))
    return found


def _losses(engine: Engine, reconciler: Reconciler, link: str) -> Row:
    """What the target cannot hold of what is there now, by field, and how many it refuses."""
    lost: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    instances = 0
    for target, service in _sent(engine, reconciler, link):
        for instance in service.instances.values():
            instances += 1
            try:
                form = reconciler.sink.canonical(target, instance)
            except Rejected as error:
                refused[str(error)] += 1
                continue
            lost.update(_lost(instance, form))
    return {
        "link": link,
        "to": reconciler.destination,
        "pair": _pair(engine.configuration, link),
        "instances": instances,
        "lost": dict(lost),
        "refused": dict(refused),
    }


def _pair(configuration: Configuration, name: str) -> dict[str, str]:
    """What the table of pairs says of the layouts that a link joins, by source."""
    link = next(link for link in configuration.links if link.name == name)
    found = {}
    for source in link.from_:
        pair = pair_of(configuration.registries[source], configuration.registries[link.to])
        if pair is not None:
            found[source] = pair.verdict + (f": {', '.join(pair.lost)}" if pair.lost else "")
    return found


def _lost(instance: Instance, form: Instance) -> list[str]:
    return [field for field in show.FIELDS if getattr(instance, field) != getattr(form, field)]


def _meetings(engine: Engine, reconciler: Reconciler, link: str) -> list[Row]:
    """The names that natives hold at the target as well, and how the two sets of addresses lie."""
    rows = []
    for target, service in _sent(engine, reconciler, link):
        entries = reconciler.desk.entries.get(target, {}).values()
        natives = [entry.instance for entry in entries if entry.mark is None]
        if not natives:
            continue
        ours = {socket for instance in service.instances.values() for socket in instance.sockets()}
        theirs = {socket for instance in natives for socket in instance.sockets()}
        protocols = [{p.protocol for i in group for p in i.ports} for group in (service.instances.values(), natives)]
        relation = "same addresses" if ours == theirs else "overlapping" if ours & theirs else "disjoint"
        if all(protocols) and not protocols[0] & protocols[1]:
            relation = "other protocol"
        rows.append({"link": link, "service": str(service.name), "at_target": str(target), "relation": relation})
    return rows


def unreached(engine: Engine) -> list[str]:
    """Which registries did not answer, and why."""
    return [f"{name}: {reason}" for name, reason in engine.unreached().items()]


def pending(engine: Engine) -> dict[str, list[Row]]:
    """A plan as `isthmus plan` prints it."""
    return {
        "changes": show.plan_rows(engine),
        "holds": show.hold_rows(engine),
        "not_written": show.unwritten_rows(engine),
    }
