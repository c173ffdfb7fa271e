"""The daemon: an engine with its state, journal, socket, web server, signals and supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bridge import __version__, config, control, metrics, show, state
from bridge.adapter import Cause, Change, Outcome
from bridge.blocks import Configuration
from bridge.document import Document
from bridge.engine import Engine
from bridge.errors import ConfigError
from bridge.holds import HeldRemoval
from bridge.inspect import pending
from bridge.journal import Journal, Record
from bridge.metrics import Metrics
from bridge.notify import Notifier
from bridge.web import Web

log = logging.getLogger("isthmus.daemon")

ONCE_PATIENCE = 15.0  # seconds without a word after which `--once` gives a registry up
TICK = 1.0


class Daemon:
    """One running bridge. `path` is the file it was started with, `configuration` what runs."""

    def __init__(self, path: Path, configuration: Configuration, kept: state.State) -> None:
        self.path = path
        self.configuration = configuration
        self.state = kept
        self.started = time.time()
        self.journal = Journal(kept.folder / "journal" if kept.folder else None)
        self.metrics = Metrics(self._status, configuration.bridge.id)
        self.engine = Engine(configuration, ear=self, recorder=kept.known, frozen=self._is_frozen, state=kept.folder)
        self._stop = asyncio.Event()
        self._notifier = Notifier(os.environ)
        self._thawing: set[str] = set()

    # -- what happens (bridge.reconcile.Ear) -------------------------------------------------------------------------

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: float, serving: tuple[int, int]) -> None:
        """One change was made at a destination."""
        change = outcome.change
        link = change.mark.link if change.mark else ""
        took = self.engine.clock() - seen
        self.metrics.written(link, kind, took)
        self.journal.append(
            kind,
            link=link,
            service=change.service,
            instance=change.id,
            cause=str(cause or ""),
            before=change.before.instance if change.before else None,
            after=change.after,
            scope=(change.mark.path[-1], change.mark.scope) if change.mark else ("", ""),
            serving=serving,
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s link=%s service=%s instance=%s cause=%s took=%.6f version=%s",
                kind,
                link,
                change.service,
                change.id,
                cause or "",
                took,
                outcome.version,
            )

    def held(self, one: HeldRemoval) -> None:
        """The guard holds a removal."""
        link, service, key = one.item
        log.warning("held link=%s service=%s instance=%s rule=%r", link, service, key, one.verdict.rule)
        change = one.removal.change
        before = change.before.instance if change.before else None
        self.journal.append(
            "hold",
            link=link,
            service=change.service,
            instance=key,
            cause=str(one.removal.cause),
            reason=one.verdict.rule,
            before=before,
        )

    def released(self, one: HeldRemoval, why: str) -> None:
        """A held removal is held no more."""
        link, service, key = one.item
        log.info("release link=%s service=%s instance=%s why=%r", link, service, key, why)
        self.journal.append(
            "release",
            link=link,
            service=one.removal.change.service,
            instance=key,
            cause=str(one.removal.cause),
            reason=why,
        )

    def failed(self, change: Change, error: Exception) -> None:
        """One change failed."""
        link = change.mark.link if change.mark else ""
        kind = type(error).__name__.lower()
        self.metrics.failed(link, kind)
        log.warning("%s link=%s service=%s instance=%s reason=%r", kind, link, change.service, change.id, str(error))
        if kind == "rejected":
            self.journal.append(
                "park", link=link, service=change.service, instance=change.id, reason=str(error), after=change.after
            )

    def event(self, kind: str, **about: object) -> None:
        """Anything else worth a line."""
        log.info("%s %s", kind, " ".join(f"{key}={value}" for key, value in about.items()))
        self.journal.append(kind, reason=" ".join(f"{key}={value}" for key, value in about.items()))

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self, *, once: bool = False) -> int:
        """Runs until a signal, or (`once`) until every link is in step; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(self._hup()))
        self._restore()
        async with contextlib.AsyncExitStack() as stack:
            journal = asyncio.create_task(self.journal.run())
            stack.push_async_callback(_ended, journal)
            known = asyncio.create_task(self.state.known.run())
            stack.push_async_callback(_ended, known)
            if self.configuration.bridge.listen:
                await stack.enter_async_context(
                    Web(self.configuration.bridge.listen, self._alive, self._ready, self.metrics.text)
                )
            if self.state.folder:
                await stack.enter_async_context(control.serve(self.state.folder / "admin.sock", self._commands()))
            await stack.enter_async_context(self.engine)
            self._approve_again()
            self.journal.append(
                "start", reason=f"isthmus {__version__} pid={os.getpid()} file={self.configuration.hash}"
            )
            ticking = asyncio.create_task(self._tick_loop())
            stack.push_async_callback(_ended, ticking)
            self._notifier.ready()
            code = await self._once() if once else await self._forever()
            self._notifier.stopping()
            self.journal.append("stop", reason=f"pid={os.getpid()}")
        return code

    async def _forever(self) -> int:
        stop = asyncio.ensure_future(self._stop.wait())
        crash = asyncio.ensure_future(self.engine.crashed())
        await asyncio.wait((stop, crash), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if crash.done():
            log.critical("crash", exc_info=crash.exception())
            return 1
        crash.cancel()
        return 0

    async def _once(self) -> int:
        if not await self.engine.settled(ONCE_PATIENCE):
            for name, reason in self.engine.unreached().items():
                log.error("unreached name=%s reason=%r", name, reason)
            return 1
        rows = show.link_rows(self.engine)
        return 3 if any(row["held"] or row["parked"] for row in rows) else 0

    def _restore(self) -> None:
        """Last known good, at once, before anything is reached (rule 8)."""
        for scope in self.state.known.load(list(self.configuration.registries)):
            view = self.engine.store.view(scope.registry, scope.scope)
            view.restore(scope.identity, scope.incarnation, scope.revision, scope.services)
            view.lost = self.engine.clock() - max(0.0, time.time() - scope.at)
        for record in self.journal.recent_losses():
            self._remember_loss(record)

    def _remember_loss(self, record: Record) -> None:
        """What was lost shortly before a restart still counts in the guard's window."""
        age = time.time() - record.at
        before, after = record.serving
        for link in self.configuration.links:
            if link.name == record.link and before != after:
                self._losses.append((link.to, record, self.engine.clock() - age, after - before))

    _losses: list[tuple[str, Record, float, int]] = []

    async def _tick_loop(self) -> None:
        """Once a second: freezes made by the command, their ends, the supervisor's watchdog, its status line."""
        frozen: dict[str, bool] = {}
        while True:
            await asyncio.sleep(TICK)
            for name, reconciler in self.engine.reconcilers.items():
                now = any(self._is_frozen(link.name) for link in reconciler.links)
                if frozen.get(name, False) and not now:
                    # Nothing is replayed: what is desired now is planned afresh, and the guard applies.
                    reconciler.poke()
                frozen[name] = now
            problems = show.attention(self.engine)
            self._notifier.status("; ".join(problems[:3]) or "all links in step")
            self._notifier.watchdog()

    def _is_frozen(self, link: str) -> bool:
        return self.state.frozen(link) is not None

    # -- the file ----------------------------------------------------------------------------------------------------

    async def _hup(self) -> None:
        self._notifier.reloading()
        try:
            await self.reload(self.path)
        except ConfigError as error:
            for fault in error.faults:
                log.error("refused file=%s fault=%r", self.path, fault)
            self.journal.append("config", reason=f"refused: {error}")
        self._notifier.ready()

    async def reload(self, path: Path) -> str:
        """Takes a file over; raises ConfigError and goes on with the old one where it has faults. Returns its hash."""
        document = Document.read(path)
        fresh = config.parse(path, document, os.environ, ephemeral=self.state.folder is None)
        old = self.configuration
        for key in ("id", "state", "listen"):
            if getattr(fresh.bridge, key) != getattr(old.bridge, key):
                raise ConfigError(f"{path}: bridge.{key} cannot change while the daemon runs; restart it")
        await self.engine.reload(fresh)
        self.configuration = fresh
        self.state.accept(path, fresh.hash, path.read_text("utf-8"))
        log.info("reloaded file=%s hash=%s", path, fresh.hash)
        self.journal.append("config", reason=f"reloaded: {old.hash} -> {fresh.hash}")
        return fresh.hash

    # -- what others ask ---------------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        freezes = {
            link: msgspec.to_builtins(freeze)
            for link in ("*", *(link.name for link in self.configuration.links))
            if (freeze := self.state.freezes.entries.get(link)) is not None
        }
        fault = self.state.fault
        return {
            **show.status(self.engine),
            "version": __version__,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self.started,
            "file": str(self.path),
            "freezes": freezes,
            "state_fault": msgspec.to_builtins(fault) if fault else None,
            "journal_dropped": self.journal.dropped,
            "last_removals": [msgspec.to_builtins(one) for one in self.journal.last_removals()],
        }

    def _alive(self) -> tuple[bool, dict[str, Any]]:
        """The loops run: this very answer comes from them."""
        return True, {"alive": True}

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        """Each scope synced, or serving last known good."""
        now = self.engine.clock()
        scopes = [show.scope_row(view, now) for view in self.engine.store.views()]
        read = {name for link in self.configuration.links for name in link.from_}
        silent = sorted(read - {row["registry"] for row in scopes if row["state"] != "unknown"})
        denied = [repr(view) for view, feed in self.engine.feeds.items() if feed.denied]
        roles = {row["link"]: row["role"] for row in show.link_rows(self.engine)}
        ready = not silent and not denied
        return ready, {"ready": ready, "scopes": scopes, "links": roles, "silent": silent, "denied": denied}

    def _commands(self) -> Mapping[str, control.Command]:
        async def status(_: dict[str, Any], __: control.Peer) -> Any:
            return self._status()

        async def holds(_: dict[str, Any], __: control.Peer) -> Any:
            rows = show.hold_rows(self.engine)
            for row in rows:
                self.state.shown.put(row["id"], state.Shown(items=tuple(map(tuple, row["items"])), at=time.time()))
            return rows

        async def approve(arguments: dict[str, Any], peer: control.Peer) -> Any:
            return self._approve(str(arguments["id"]), str(arguments["reason"]), str(peer))

        async def plan(_: dict[str, Any], __: control.Peer) -> Any:
            return pending(self.engine)

        async def configuration(_: dict[str, Any], __: control.Peer) -> Any:
            return {
                "hash": self.configuration.hash,
                "links": {link.name: msgspec.to_builtins(link) for link in self.configuration.links},
                "registries": {name: one.kind for name, one in self.configuration.registries.items()},
            }

        async def reload(_: dict[str, Any], __: control.Peer) -> Any:
            return await self.reload(self.path)

        return {
            "status": status,
            "holds": holds,
            "approve": approve,
            "plan": plan,
            "configuration": configuration,
            "reload": reload,
        }

    def _approve(self, hold: str, reason: str, by: str) -> list[tuple[str, str, str]]:
        now = self.engine.clock()
        for reconciler in self.engine.reconcilers.values():
            try:
                items = reconciler.holds.approve(hold, now)
            except KeyError:
                continue
            self.state.approvals.put(hold, state.Approval(items=items, reason=reason, by=by, at=time.time()))
            self.journal.append("approve", link=items[0][0] if items else "", reason=f"{hold}: {reason}", by=by)
            log.warning("approve id=%s removals=%d by=%r reason=%r", hold, len(items), by, reason)
            reconciler.poke()
            return list(items)
        raise LookupError(f"nothing is held under {hold!r}; see `isthmus holds`")

    def _approve_again(self) -> None:
        """Approvals outlive a restart: what was let go and is still asked for may go."""
        for to, record, at, delta in self._losses:
            reconciler = self.engine.reconcilers.get(to)
            if reconciler is not None:
                reconciler.windows.add(record.service, at, delta)
                reconciler.windows.add(record.scope, at, delta)
        for approval in self.state.approvals.entries.values():
            for reconciler in self.engine.reconcilers.values():
                reconciler.holds.free(approval.items)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def start(path: Path, *, once: bool = False, ephemeral: bool = False) -> int:
    """Runs the daemon for a file; a file with faults gives way to the last accepted one, loudly. Returns the exit code."""
    document: Document | None = None
    try:
        document = Document.read(path)
        configuration = config.parse(path, document, os.environ, ephemeral=ephemeral)
        text = path.read_text("utf-8")
    except ConfigError as error:
        accepted = _last_accepted(path, document)
        if accepted is None:
            raise
        for fault in error.faults:
            log.critical("broken file=%s fault=%r", path, fault)
        configuration, text = accepted
        log.critical("runs the last accepted file instead hash=%s", configuration.hash)
    for warning in configuration.warnings:
        log.warning("file %s", warning)
    folder = None if ephemeral or configuration.bridge.state is None else Path(configuration.bridge.state)
    with state.opened(folder, configuration.bridge.id) as kept:
        kept.accept(path, configuration.hash, text)
        return asyncio.run(_run(path, configuration, kept, once))


async def _run(path: Path, configuration: Configuration, kept: state.State, once: bool) -> int:
    return await Daemon(path, configuration, kept).run(once=once)


def _last_accepted(path: Path, document: Document | None) -> tuple[Configuration, str] | None:
    """The last accepted file, found by the state folder that the broken one still names."""
    block = document.data.get("bridge") if document is not None and isinstance(document.data, dict) else None
    folder = block.get("state") if isinstance(block, dict) else None
    if not isinstance(folder, str):
        return None
    accepted = state.State(path.parent / folder).accepted()
    if accepted is None:
        return None
    return config.parse(path, Document.parse(accepted.text, str(path)), os.environ, ephemeral=False), accepted.text


_ = metrics
