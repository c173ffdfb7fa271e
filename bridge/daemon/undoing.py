"""The command `undo`: puts back what a link changed of late, and leaves the link frozen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from bridge.adapter import Change
from bridge.admin.protocol import Peer
from bridge.daemon.audit import Acts
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.engine.stopping import passed_on
from bridge.errors import Unavailable
from bridge.guard.holds import item_of, set_hash
from bridge.link import Link
from bridge.model import Mark, ServiceName
from bridge.plan.adopt import Left
from bridge.plan.undo import Step, Undo, plan_undo, spared
from bridge.report.values import Row, plain
from bridge.state import segments
from bridge.state.folder import State

log = logging.getLogger("isthmus.daemon")

MADE = ("add", "update", "remove")
ANSWERS = 3.0  # seconds that an address has to answer
PROBES = 32  # connections at a time


class Undoing:
    """`undo` of one daemon."""

    def __init__(self, engine: Engine, kept: State, acts: Acts) -> None:
        self._engine = engine
        self._kept = kept
        self._acts = acts

    async def undo(self, arguments: dict[str, Any], peer: Peer) -> Any:
        """Freezes a link, shows what would put back what it changed, and (`sure`: the `id` of what was shown) does it.

        `since` in seconds since the epoch.

        Raises LookupError where there is no such link or journal, Unavailable where another daemon writes, ValueError
        where it is not what was shown.
        """
        link, reason, by = self._link(str(arguments["link"])), str(arguments["reason"]), str(peer)
        if self._kept.folder is None:
            raise LookupError("this daemon runs without a state folder, and keeps no journal")
        reconciler = self._engine.reconcilers[link.to]
        if not reconciler.lead.writes:
            raise Unavailable(f"this daemon does not write {link.to}: undo it where it is written, by its journal")
        if self._kept.decisions.frozen(link.name) is None:
            self._kept.decisions.freeze(link.name, f"undo: {reason}", by)
            self._acts.note("freeze", link=link.name, by=by, reason=f"undo: {reason}")
            await self._kept.flush()
            await passed_on(reconciler, link.to)
        await reconciler.still()
        undo = await self._planned(link, reconciler, float(arguments["since"]))
        shown = {
            "id": set_hash(item_of(change) for change in undo.changes),
            "changes": [_row(change, link) for change in undo.changes],
            "left": [{"service": str(one.service), "instance": one.id, "why": one.why} for one in undo.left],
        }
        if not arguments.get("sure"):
            return {**shown, "done": False, "failed": []}
        if arguments["sure"] != shown["id"]:
            raise ValueError("it would write something else than was shown: do the same again, and look")
        self._acts.note("undo", link=link.name, by=by, reason=f"{len(undo.changes)} entries: {reason}")
        log.warning("undo link=%s entries=%d by=%r reason=%r", link.name, len(undo.changes), by, reason)
        outcomes = await reconciler.make(undo.changes)
        failed = [
            {"service": str(one.change.service), "instance": one.change.id, "why": str(one.error)}
            for one in outcomes
            if one.error is not None
        ]
        return {**shown, "done": True, "failed": failed}

    def _link(self, name: str) -> Link:
        links = {one.name: one for one in self._engine.configuration.links}
        if name not in links:
            raise LookupError(f"{name!r} is no link of the file that runs; it has {', '.join(sorted(links))}")
        return links[name]

    async def _planned(self, link: Link, reconciler: Reconciler, since: float) -> Undo:
        steps = await asyncio.to_thread(self._steps, link, since)
        there = reconciler.destination
        undo = plan_undo(steps, there.entries, there.owner, lambda mark: self._names(link, mark), link.ttl)
        room = asyncio.Semaphore(PROBES)
        alive = await asyncio.gather(*(_answers(change, room) for change in undo.unnamed))
        said = "its source names it no more, and nothing answers at its address"
        dead = [
            Left(change.service, change.id, said)
            for change, lives in zip(undo.unnamed, alive, strict=True)
            if not lives
        ]
        again = [change for change, lives in zip(undo.unnamed, alive, strict=True) if lives]
        return spared(Undo([*undo.changes, *again], [], [*undo.left, *dead]), there.entries)

    def _steps(self, link: Link, since: float) -> list[Step]:
        assert self._kept.folder is not None
        return [
            Step(ServiceName.parse(one.service), one.instance, one.before, one.after, one.mark)
            for one in segments.read(self._kept.folder / "journal", since=since, link=link.name)
            if one.kind in MADE and not one.would and one.destination == link.to
        ]

    def _names(self, link: Link, mark: Mark) -> bool:
        """Whether the source of an entry has it now, by a watch that runs."""
        return any(
            view.up and mark.service in view.services and mark.instance in view.services[mark.service].instances
            for view in self._engine.store.views()
            if view.is_of(mark) and link.item(view.registry, view.scope) is not None
        )


async def _answers(change: Change, room: asyncio.Semaphore) -> bool:
    """Whether a port of what would be written takes a connection."""
    for host, port in sorted(change.after.sockets()) if change.after is not None else ():
        async with room:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWERS):
                    _, writer = await asyncio.open_connection(host, port)
                writer.close()
                return True
    return False


def _row(change: Change, link: Link) -> Row:
    action = "add" if change.before is None else "remove" if change.after is None else "update"
    return {
        "action": action,
        "link": link.name,
        "to": link.to,
        "service": str(change.service),
        "instance": change.id,
        "before": plain(change.before.instance) if change.before is not None else None,
        "after": plain(change.after),
    }
