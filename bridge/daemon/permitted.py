"""The commands of a daemon, each for those alone who may give it: `bridge.access` at the admin socket."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from bridge.admin import access
from bridge.admin.access import NEEDS, May, Right
from bridge.admin.protocol import Command, Peer, RefusedError
from bridge.engine.engine import Engine
from bridge.link import Services
from bridge.model import ServiceName
from bridge.override import LONGEST, Override
from bridge.report.seen import Seen
from bridge.state.decisions import EVERY_LINK
from bridge.state.journal import Journal

log = logging.getLogger("isthmus.daemon")

OFTEN = 10.0  # seconds between two lines about what is refused to one user: whoever asks on cannot fill the journal
USERS = 100  # that such a time is remembered of


class Permitted:
    """Judges every request by the file that runs, and by the user and the groups that the kernel names."""

    def __init__(self, engine: Engine, journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._refused: dict[int, tuple[float, int]] = {}  # by user: when that was last journaled, and how many since

    def table(self, commands: Mapping[str, Command]) -> dict[str, Command]:
        """The same commands, and `permit`, which says whether a command that needs no daemon may be given."""
        return {name: self._judged(name, command) for name, command in {**commands, "permit": _permit}.items()}

    def _judged(self, name: str, command: Command) -> Command:
        async def asked(arguments: dict[str, Any], peer: Peer) -> Any:
            what = str(arguments["what"]) if name == "permit" else name
            may = await self._may(peer)
            if what not in NEEDS or not self._lets(what, may, arguments):
                self._refuse(what, peer)
            return self._shown(name, may, await command(arguments, peer))

        return asked

    # -- who may

    async def _may(self, peer: Peer) -> May:
        """What a process may. Only names of others are looked up, in a thread: to freeze must not wait for a disk."""
        rules, owner = self._engine.configuration.bridge.access, os.geteuid()
        if peer.uid in (access.ROOT, owner) or not rules:
            return access.may(rules, peer.uid, peer.gids, owner)
        return await asyncio.to_thread(access.may, rules, peer.uid, peer.gids, owner)

    def _lets(self, command: str, may: May, arguments: Mapping[str, Any]) -> bool:
        """Whether the rule of `NEEDS` is fulfilled; what the command itself refuses is let through to it."""
        judges: dict[str, Callable[[May, Mapping[str, Any]], bool]] = {
            "approve": self._may_approve,
            "expect": self._may_expect,
            "ack": self._may_ack,
            "freeze": self._may_freeze,
            "unfreeze": self._may_freeze,
            **dict.fromkeys(("set", "unset", "drain"), self._may_override),
        }
        if may.on_all(Right.ADMIN):
            return True
        if command in judges:
            return judges[command](may, arguments)
        right = NEEDS[command].right
        if right is Right.READ and not NEEDS[command].whole:
            return may.has(right)
        return right is not None and may.on_all(right)

    def _may_approve(self, may: May, arguments: Mapping[str, Any]) -> bool:
        now = self._engine.clock()
        for reconciler in self._engine.reconcilers.values():
            holds = reconciler.destination.holds
            holds.show(now)
            if (items := holds.shown(str(arguments["id"]))) is not None:
                return all(may.on(Right.APPROVE, ServiceName.parse(service)) for _, service, _ in items)
        return may.has(Right.APPROVE)

    def _may_expect(self, may: May, arguments: Mapping[str, Any]) -> bool:
        subject = str(arguments["subject"])
        if (services := self._taken(subject)) is not None:
            return may.on_whole(Right.APPROVE, services)
        if subject.partition("/")[0] in self._engine.configuration.registries:
            return may.on_all(Right.APPROVE)
        return may.on(Right.APPROVE, ServiceName.parse(subject))

    def _may_override(self, may: May, arguments: Mapping[str, Any]) -> bool:
        """On every service that it may be of; what is of nothing is refused by the command."""
        of = str(arguments["of"])[:LONGEST]
        known = {name for view in self._engine.store.views() for name in view.services}
        services = {ServiceName.parse(service) for service, _, _ in Override(of=of).readings()} & known
        return all(may.on(Right.APPROVE, name) for name in services) and may.has(Right.APPROVE)

    def _may_ack(self, may: May, arguments: Mapping[str, Any]) -> bool:
        services = self._taken(str(arguments["subject"]))
        return may.on_all(Right.APPROVE) if services is None else may.on_whole(Right.APPROVE, services)

    def _may_freeze(self, may: May, arguments: Mapping[str, Any]) -> bool:
        link = str(arguments["link"])
        services = self._taken(link)
        if link == EVERY_LINK:
            return False  # of everything: an administrator's
        return may.on_all(Right.FREEZE) if services is None else may.on_whole(Right.FREEZE, services)

    def _taken(self, link: str) -> Services | None:
        """What a link takes; None: there is no such link."""
        return next((one.services for one in self._engine.configuration.links if one.name == link), None)

    def _refuse(self, command: str, peer: Peer) -> None:
        """Raises RefusedError; in the journal at once, and then not more often than every ten seconds for one user."""
        need = NEEDS.get(command)
        rule = f"needs may: [{need.right}]: {need.over}" if need is not None else "is not one that can be permitted"
        said = f"not permitted: {command} {rule}; see bridge.access in the file that runs"
        now = self._engine.clock()
        last, more = self._refused.pop(peer.uid, (-OFTEN, 0))
        if now - last < OFTEN:
            self._refused[peer.uid] = last, more + 1
        else:
            self._refused[peer.uid] = now, 0
            others = f"; and {more} more since the last of these lines" if more else ""
            log.warning("refused command=%s by=%r%s", command, str(peer), others)
            self._journal.append("refused", by=str(peer), reason=f"{command}{others}")
        for uid in list(self._refused)[:-USERS]:
            del self._refused[uid]
        raise RefusedError(said)

    # -- what is shown

    def _shown(self, name: str, may: May, answer: Any) -> Any:
        """An answer without what may not be read."""
        if may.on_all(Right.READ):
            return answer
        seen = Seen(
            self._engine,
            lambda service: may.on(Right.READ, service),
            lambda link: may.on_whole(Right.READ, link.services),
        )
        match name:
            case "status":
                return seen.status(answer)
            case "holds":
                return seen.holds(answer)
            case "refused":
                return seen.rows(answer)
            case "overrides":
                return seen.overrides(answer)
            case "log":
                return [one for one in answer if seen.record(one)]
            case "unfreeze":
                return {**answer, "pending": seen.pending(answer["pending"])}
        return answer


async def _permit(arguments: dict[str, Any], _: Peer) -> Any:
    return {"permitted": str(arguments["what"])}
