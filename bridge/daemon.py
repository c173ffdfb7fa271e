"""The daemon: an engine with its state, journal, socket, web server, signals and supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bridge import __version__, config, control, show, state
from bridge.adapter import Reach, Sink
from bridge.blocks import Configuration
from bridge.chronicle import Chronicle
from bridge.desk import Desk
from bridge.document import Document
from bridge.engine import Engine
from bridge.errors import ConfigError, Unavailable
from bridge.inspect import pending
from bridge.journal import Journal
from bridge.metrics import Metrics
from bridge.notify import Notifier
from bridge.reconcile import Writer
from bridge.succession import Succession
from bridge.web import Web

log = logging.getLogger("isthmus.daemon")

ONCE_PATIENCE = 15.0  # seconds without a word after which `--once` gives a registry up
TICK = 1.0
LISTEN = 60.0  # seconds until the first look at who writes, where `resync` is not less
STILL = 60.0  # seconds after which a loop that writes to the disk stands still, and is not only slow


class Daemon:
    """One running bridge. `path` is the file it was started with, `configuration` what runs."""

    def __init__(self, path: Path, configuration: Configuration, kept: state.State) -> None:
        self.path = path
        self.configuration = configuration
        self.state = kept
        self.started = time.time()
        self.journal = Journal(kept.folder / "journal" if kept.folder else None)
        self.metrics = Metrics(self._status, configuration.bridge.id)
        self._chronicle = Chronicle(self.journal, self.metrics, kept, time.monotonic, self._writer_of)
        self.engine = Engine(
            configuration,
            ear=self._chronicle,
            recorder=kept.known,
            frozen=self._is_frozen,
            peers=self._peers,
            state=kept.folder,
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._missed: frozenset[str] = frozenset()
        self._stop = asyncio.Event()
        self._notifier = Notifier(os.environ)

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self, *, once: bool = False) -> int:
        """Runs until a signal, or (`once`) until every link is in step; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(self._hup()))
        self._restore()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._running("journal", self.journal.run()))
            await stack.enter_async_context(self._running("state", self.state.run(self._thawed)))
            if self.configuration.bridge.listen:
                await stack.enter_async_context(
                    Web(self.configuration.bridge.listen, self._alive, self._ready, self.metrics.text)
                )
            if self.state.folder:
                await stack.enter_async_context(control.serve(self.state.folder / "admin.sock", self._commands()))
            await stack.enter_async_context(self.engine)
            self._remember()
            self.journal.append(
                "start", reason=f"isthmus {__version__} pid={os.getpid()} file={self.configuration.hash}"
            )
            await stack.enter_async_context(self._running("tick", self._tick_loop()))
            await stack.enter_async_context(self._running("listen", self._listen_loop()))
            self._notifier.ready()
            code = await self._once() if once else await self._forever()
            self._notifier.stopping()
            self._use_up()
            self.journal.append("stop", reason=f"pid={os.getpid()}")
        return code

    @contextlib.asynccontextmanager
    async def _running(self, name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

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

    def _remember(self) -> None:
        """What was let go, and what was lost and won shortly before a restart, still counts after it (rule 4)."""
        for approval in self.state.approvals.entries.values():
            for reconciler in self.engine.reconcilers.values():
                reconciler.desk.holds.free(approval.items)
        for reconciler in self.engine.reconcilers.values():
            reconciler.desk.settled.update(self.state.settled())
            mine = {link.name for link in reconciler.desk.links}
            for hold, shown in self.state.shown.entries.items():
                if any(item[0] in mine for item in shown.items):
                    reconciler.desk.holds.remember(hold, shown.items)
        targets = {link.name: self.engine.reconcilers[link.to] for link in self.configuration.links}
        for loss in self.journal.recent_losses():
            if loss.link in targets:
                at = self.engine.clock() - (time.time() - loss.at)
                for key in (loss.service, loss.scope):
                    targets[loss.link].desk.windows.add(key, at, loss.serving[1] - loss.serving[0])

    async def _tick_loop(self) -> None:
        """Once a second: the supervisor's status line, and its watchdog, which is fed while all loops run."""
        while True:
            await asyncio.sleep(TICK)
            self._notifier.status("; ".join(self._attention()[:3]) or "all links in step")
            broken = self._broken()
            if not broken:
                self._notifier.watchdog()
            for name in broken.keys() - self._missed:
                log.critical("broken loop=%r reason=%r", name, broken[name])
            self._missed = frozenset(broken)
            self._use_up()

    async def _listen_loop(self) -> None:
        """Which owners write no more: nobody else tells, and a command sees one moment alone."""
        wait = LISTEN
        while True:
            await asyncio.sleep(min(wait, self.configuration.bridge.resync))
            wait = math.inf
            for name, answer in (await self.engine.reach()).items():
                owners = self.engine.owners(name) if name in self.engine.registries else None
                if owners is not None and isinstance(answer, Reach) and answer.writers is not None:
                    self.state.listen(answer.identity, owners, answer.writers)

    def _use_up(self) -> None:
        """An approval is for once: what has gone must not go again by the same word after a restart."""
        for hold, approval in list(self.state.approvals.entries.items()):
            if not any(one.desk.holds.waits_for(approval.items) for one in self.engine.reconcilers.values()):
                self.state.approvals.drop(hold)

    def _thawed(self, ended: frozenset[str]) -> None:
        """Freezes began, or these ended: what is desired now is planned afresh, and the guard applies to it."""
        pending = show.plan_rows(self.engine) if ended else []
        for link in sorted(ended):
            rows = [row for row in pending if link in (row["link"], state.EVERY_LINK)]
            said = ", ".join(f"{count} to {action}" for action, count in Counter(r["action"] for r in rows).items())
            held = sum(bool(row["held"]) for row in rows)
            reason = f"pending: {said or 'nothing'}" + (f", {held} of them held" if held else "")
            log.warning("thaw link=%s reason=%r", link, reason)
            self.journal.append("thaw", link=link, reason=reason)
        for reconciler in self.engine.reconcilers.values():
            reconciler.poke()

    def _is_frozen(self, link: str) -> bool:
        return self.state.frozen(link) is not None

    def _peers(self, destination: str, sink: Sink, desk: Desk) -> Succession:
        return Succession(
            destination, sink, desk, self.state, self._chronicle, me=self._me, clock=self.engine.clock, wall=time.time
        )

    def _writer_of(self, link: str) -> Writer | None:
        to = next((one.to for one in self.configuration.links if one.name == link), None)
        return show.writer(self.engine.reconcilers[to]) if to in self.engine.reconcilers else None

    def _me(self) -> Writer:
        return Writer(socket.gethostname(), os.getpid(), self.started, self.configuration.hash)

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
        document = await asyncio.to_thread(Document.read, path)
        text = document.text
        fresh = config.parse(path, document, os.environ, ephemeral=self.state.folder is None)
        old = self.configuration
        for key in ("id", "state", "listen"):
            if getattr(fresh.bridge, key) != getattr(old.bridge, key):
                raise ConfigError(f"{path}: bridge.{key} cannot change while the daemon runs; restart it")
        await self.engine.reload(fresh)
        self.configuration = fresh
        self.state.accept(path, fresh.hash, text)
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
            "attention": self._attention(),
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
        """Whether every loop runs; the body names those that do not."""
        broken = self._broken()
        return not broken, {"alive": not broken, "broken": broken}

    def _broken(self) -> dict[str, str]:
        """The loops that do not run, each with what is wrong with it.

        One that waits for a registry is not among them, however long: a restart would not bring the answer.
        """
        found = {
            name: f"it has ended{_why(task)}"
            for name, task in {**self._tasks, **self.engine.loops()}.items()
            if task.done()
        }
        for name, turned in (("journal", self.journal.turned), ("last known good", self.state.known.turned)):
            still = time.monotonic() - turned
            if still > STILL:
                found.setdefault(name, f"it has stood still for {still:.0f} s")
        return found

    def _attention(self) -> list[str]:
        return [f"the loop {name}: {what}" for name, what in self._broken().items()] + show.attention(self.engine)

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        """Each scope synced, or serving last known good."""
        now = self.engine.clock()
        scopes = [show.scope_row(self.engine, view, now) for view in self.engine.store.views()]
        read = {name for link in self.configuration.links for name in link.from_}
        silent = sorted(read - {row["registry"] for row in scopes if row["state"] != "unknown"})
        denied = [repr(view) for view, feed in self.engine.feeds.items() if feed.denied]
        roles = {row["link"]: row["role"] for row in show.link_rows(self.engine)}
        ready = not silent and not denied
        role = "standby" if "standby" in roles.values() else "writer" if "writer" in roles.values() else "observing"
        return ready, {
            "ready": ready,
            "role": role,
            "scopes": scopes,
            "links": roles,
            "silent": silent,
            "denied": denied,
        }

    def _commands(self) -> Mapping[str, control.Command]:
        async def status(_: dict[str, Any], __: control.Peer) -> Any:
            return self._status()

        async def holds(_: dict[str, Any], __: control.Peer) -> Any:
            rows = show.hold_rows(self.engine)
            for row in rows:
                self.state.show(row["id"], tuple(map(tuple, row["items"])))
            return rows

        async def approve(arguments: dict[str, Any], peer: control.Peer) -> Any:
            return self._approve(str(arguments["id"]), str(arguments["reason"]), str(peer))

        async def plan(_: dict[str, Any], __: control.Peer) -> Any:
            return pending(self.engine)

        async def refused(_: dict[str, Any], __: control.Peer) -> Any:
            return show.refused_rows(self.engine)

        async def configuration(_: dict[str, Any], __: control.Peer) -> Any:
            return {
                "hash": self.configuration.hash,
                "links": {link.name: msgspec.to_builtins(link) for link in self.configuration.links},
                "registries": {name: one.digest for name, one in self.configuration.registries.items()},
            }

        async def reload(_: dict[str, Any], __: control.Peer) -> Any:
            return await self.reload(self.path)

        return {
            "status": status,
            "holds": holds,
            "approve": approve,
            "plan": plan,
            "refused": refused,
            "configuration": configuration,
            "reload": reload,
        }

    def _approve(self, hold: str, reason: str, by: str) -> list[tuple[str, str, str]]:
        now = self.engine.clock()
        for reconciler in self.engine.reconcilers.values():
            if reconciler.role == "standby":
                if all(one.id != hold for one in reconciler.desk.holds.show(now)):
                    continue
                writer = show.writer(reconciler)
                where = f"{writer.host} (pid {writer.pid})" if writer is not None else "another host"
                raise Unavailable(f"this daemon stands by, and {where} writes: approve it there")
            try:
                items = reconciler.desk.holds.approve(hold, now)
            except KeyError:
                continue
            self.state.approvals.put(hold, state.Approval(items=items, reason=reason, by=by, at=time.time()))
            self.journal.append("approve", link=items[0][0] if items else "", reason=f"{hold}: {reason}", by=by)
            log.warning("approve id=%s removals=%d by=%r reason=%r", hold, len(items), by, reason)
            reconciler.poke()
            return list(items)
        raise LookupError(f"nothing is held under {hold!r}; see `isthmus holds`")


def _why(task: asyncio.Task[None]) -> str:
    error = None if task.cancelled() else task.exception()
    return f": {type(error).__name__}: {error}" if error is not None else ""


def start(path: Path, *, once: bool = False, ephemeral: bool = False) -> int:
    """Runs the daemon and returns the exit code; a file with faults gives way to the last accepted one, loudly."""
    try:
        text = Document.read(path).text
        configuration = _parsed(path, text, ephemeral)
    except ConfigError as error:
        accepted = _last_accepted(path)
        if accepted is None:
            raise
        for fault in error.faults:
            log.critical("broken file=%s fault=%r", path, fault)
        text = accepted.text
        configuration = _parsed(path, text, ephemeral)
        log.critical("runs the last accepted file instead hash=%s", configuration.hash)
    if once:
        _refuse_leased(configuration)
    for warning in configuration.warnings:
        log.warning("warning %s", warning)
    folder = None if ephemeral or configuration.bridge.state is None else Path(configuration.bridge.state)
    with state.opened(folder, configuration.bridge.id) as kept:
        kept.accept(path, configuration.hash, text)
        # What lives long here is values without cycles, a hundred thousand of them: the collector is to look rarely.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        return asyncio.run(_run(path, configuration, kept, once))


def _refuse_leased(configuration: Configuration) -> None:
    leased = [link.name for link in configuration.links if link.ttl is not None]
    if leased:
        raise ConfigError(
            f"{configuration.path}: {', '.join(leased)}: leased entries would die after --once; write lifetime: lasting"
        )


async def _run(path: Path, configuration: Configuration, kept: state.State, once: bool) -> int:
    return await Daemon(path, configuration, kept).run(once=once)


def _parsed(path: Path, text: str, ephemeral: bool) -> Configuration:
    return config.parse(path, Document(str(path), text), os.environ, ephemeral=ephemeral)


def _last_accepted(path: Path) -> state.Accepted | None:
    """The last accepted file, in the state folder that the broken one still names, or that systemd gave us."""
    folders = [os.environ["STATE_DIRECTORY"]] if "STATE_DIRECTORY" in os.environ else []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # The file may be no YAML at all, so this is a search and not a reading.
        found = re.search(r"^\s+state:\s*['\"]?([^'\"#\n]+?)['\"]?\s*(#.*)?$", path.read_text("utf-8"), re.MULTILINE)
        folders += [found[1]] if found else []
    for folder in reversed(folders):
        accepted = state.State(path.absolute().parent / folder).accepted()
        if accepted is not None:
            return accepted
    return None
