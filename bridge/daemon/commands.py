"""What a running daemon answers over its admin socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from bridge.admin.protocol import Command, Peer
from bridge.config.document import nearest
from bridge.daemon.attention import Attention
from bridge.daemon.audit import Acts
from bridge.daemon.deciding import Deciding
from bridge.daemon.overriding import Overriding
from bridge.daemon.reload import Reload
from bridge.daemon.undoing import Undoing
from bridge.destination.note import refusal
from bridge.engine.engine import Engine
from bridge.engine.stopping import SAVED, concerned, observing, passed_on
from bridge.errors import ConfigError
from bridge.report import plans, status
from bridge.report.attention import KINDS
from bridge.report.groups import group_rows
from bridge.state import folder as state
from bridge.state import segments
from bridge.state.journal import Journal
from bridge.state.record import Record

log = logging.getLogger("isthmus.daemon")

LOGGED = 10_000  # lines of the journal in one answer, the newest


def freeze_row(freeze: state.Decision) -> dict[str, Any]:
    """A freeze, as `status` and `freeze` show it: times in seconds since the epoch."""
    return {"reason": freeze.reason, "by": freeze.by, "since": freeze.at, "until": freeze.until}


class Commands:
    """One method a command; `table` names them as they are asked for."""

    def __init__(
        self,
        engine: Engine,
        kept: state.State,
        journal: Journal,
        reload: Reload,
        status: Callable[[], dict[str, Any]],
        attention: Attention,
        acts: Acts,
        overriding: Overriding,
    ) -> None:
        self._engine = engine
        self._kept = kept
        self._journal = journal
        self._reload = reload
        self._status = status
        self._attention = attention
        self._acts = acts
        self.deciding = Deciding(engine, kept, acts)
        self.moving: Mapping[str, Command] = {}
        self.overriding = overriding
        self.undoing = Undoing(engine, kept, acts)

    def table(self) -> Mapping[str, Command]:
        """Every command, by its name."""

        def of(answer: Callable[[], Any]) -> Command:
            async def asked(_: dict[str, Any], __: Peer) -> Any:
                found = answer()
                return await found if isinstance(found, Awaitable) else found

            return asked

        return {
            "status": of(self._status),
            "holds": of(self._holds),
            "approve": self.deciding.approve,
            "accept": self.deciding.accept,
            "expect": self.deciding.expect,
            "set": self.overriding.set,
            "drain": self.overriding.drain,
            "unset": self.overriding.unset,
            "undo": self.undoing.undo,
            "overrides": of(self.overriding.rows),
            "plan": of(lambda: plans.pending(self._engine)),
            "freeze": self._freeze,
            "unfreeze": self._unfreeze,
            "ack": self._ack,
            "group": of(lambda: group_rows(self._engine)),
            "clients": of(lambda: status.client_rows(self._engine)),
            "refused": of(lambda: plans.refused_rows(self._engine)),
            "configuration": of(self._configuration),
            "reload": of(self._reload.now),
            "log": self._log,
            **self.moving,
        }

    async def _holds(self) -> Any:
        rows = plans.hold_rows(self._engine)
        for row in rows:
            self._kept.decisions.show(row["id"], tuple(map(tuple, row["items"])))
        await self._kept.flush()
        return rows

    async def _log(self, arguments: dict[str, Any], _: Peer) -> list[Record]:
        """The newest lines of the journal, for who may not read its files."""
        folder = self._kept.folder
        if folder is None:
            raise LookupError("this daemon runs without a state folder, and keeps no journal")
        service, link = (None if arguments.get(key) is None else str(arguments[key]) for key in ("service", "link"))
        since = float(arguments.get("since") or 0.0)
        read = partial(segments.read, folder / "journal", since=since, service=service, link=link)
        return await asyncio.to_thread(lambda: list(deque(read(), LOGGED)))

    def _configuration(self) -> Any:
        configuration = self._engine.configuration
        return {
            "hash": configuration.hash,
            "links": {link.name: msgspec.to_builtins(link) for link in configuration.links},
            "registries": {name: one.digest for name, one in configuration.registries.items()},
        }

    async def _freeze(self, arguments: dict[str, Any], peer: Peer) -> Any:
        link, reason, by = self._link(arguments), str(arguments["reason"]), str(peer)
        lasting = None if arguments.get("lasting") is None else float(arguments["lasting"])
        decisions = self._kept.decisions
        if why := refusal(decisions.of(state.Kind.FREEZE).values(), link, reason):
            raise ValueError(why)
        freeze = decisions.freeze(link, reason, by, lasting)
        self._journal.append("freeze", link=link, reason=reason, by=by)
        log.warning("freeze link=%s by=%r reason=%r", link, by, reason)
        return {"frozen": link, **freeze_row(freeze), **await self._decided(link)}

    async def _unfreeze(self, arguments: dict[str, Any], peer: Peer) -> Any:
        link, by = self._link(arguments), str(peer)
        waits = plans.pending(self._engine)
        ended = self._kept.decisions.unfreeze(link)
        if ended is None:
            frozen = ", ".join(sorted(self._kept.decisions.of(state.Kind.FREEZE))) or "nothing"
            raise LookupError(f"{link} is not frozen; {frozen} is")
        self._journal.append("unfreeze", link=link, by=by)
        log.warning("unfreeze link=%s by=%r", link, by)
        return {"unfrozen": link, "pending": waits, **await self._decided(link)}

    def _link(self, arguments: dict[str, Any]) -> str:
        link = str(arguments["link"])
        names = {one.name for one in self._engine.configuration.links}
        if link != state.EVERY_LINK and link not in names:
            raise LookupError(f"{link!r} is no link of the file that runs; it has {', '.join(sorted(names))}")
        return link

    async def _decided(self, key: str) -> dict[str, Any]:
        """What became of a freeze that was decided, or taken back: on the disk, and at each destination."""
        with contextlib.suppress(TimeoutError):  # a disk that hangs is no reason to wait: it counts already
            async with asyncio.timeout(SAVED):
                await self._kept.flush()
        fault = self._kept.decisions.fault
        waits = "the disk does not answer" if self._kept.decisions.table.waits else ""
        links = self._engine.configuration.links
        told = await asyncio.gather(*(passed_on(self._engine.reconcilers[to], to) for to in concerned(links, key)))
        rows = [one.row for one in (*told, *observing(links, key))]
        return {"unsaved": fault.reason if fault else waits, "destinations": rows}

    async def _ack(self, arguments: dict[str, Any], peer: Peer) -> Any:
        code, subject, reason = (str(arguments[key]) for key in ("code", "subject", "reason"))
        if code not in KINDS:
            raise ConfigError(f"{code!r} is no code; {nearest(code, KINDS)}")
        row = await self._attention.acknowledge(code, subject, float(arguments["lasting"]), reason, str(peer))
        self._acts.note("ack", reason=f"{code} {subject}: {reason}", by=str(peer))
        return row
