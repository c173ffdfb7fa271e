"""The daemon: an engine with its state, journal, socket, web server, signals and supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from bridge import __version__
from bridge.adapter import Export, Notes, Reach, Seat
from bridge.admin import server as admin
from bridge.config.bridge_block import address
from bridge.config.schema import Configuration
from bridge.daemon import seeding
from bridge.daemon.attention import Attention
from bridge.daemon.audit import Acts, Audit
from bridge.daemon.commands import Commands, freeze_row
from bridge.daemon.health import Web
from bridge.daemon.metrics import Metrics
from bridge.daemon.migrating import Following, Migrating, Steering
from bridge.daemon.moving import Moving
from bridge.daemon.overriding import Overriding
from bridge.daemon.permitted import Permitted
from bridge.daemon.reload import Reload
from bridge.daemon.shipping import Shipping
from bridge.daemon.systemd import Notifier
from bridge.daemon.traces import Traces
from bridge.daemon.trouble import STILL, Troubles
from bridge.destination import adding
from bridge.destination.destination import Destination
from bridge.destination.joint import Joint
from bridge.destination.roll import Roll
from bridge.destination.standby import Standby
from bridge.destination.writer import Writer
from bridge.engine import decoders
from bridge.engine.engine import Engine
from bridge.guard.limits import STOOD
from bridge.guard.losses import Past
from bridge.link import Policy
from bridge.plan.doses import Doses
from bridge.plan.orders import Rank
from bridge.report import plans, status
from bridge.report.attention import Finding, Level
from bridge.state import folder as state
from bridge.state.files import whole
from bridge.state.folder import Kind
from bridge.state.journal import Journal
from bridge.state.record import START, Loss
from bridge.state.segments import Limits

log = logging.getLogger("isthmus.daemon")

ONCE_PATIENCE = 15.0  # seconds without an answer after which `--once` gives a registry up
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104, addresses that nobody can dial
TICK = 1.0  # seconds between two status lines for the supervisor, each with its watchdog
THREADS = 64  # a hung disk holds up a few of them, and names are looked up in the others
LISTEN = 60.0  # seconds until the first look at who writes, where `resync` is not less


class Daemon:
    """One running bridge. `path` is the file it was started with. `tick`, `still`: seconds, see `TICK` and `STILL`.

    `ends`: called when it begins to stop.
    """

    ends: Callable[[], None] | None = None

    def __init__(
        self,
        path: Path,
        configuration: Configuration,
        kept: state.State,
        *,
        tick: float = TICK,
        still: float = STILL,
    ) -> None:
        decoders.prepare()  # what the state folder keeps is decoded in threads before the engine runs
        self.path = path
        self._tick = tick
        self.state = kept
        self.started = time.time()
        self.journal = Journal(kept.folder / "journal" if kept.folder else None, limits=_limits(configuration))
        self.metrics = Metrics(self._status, configuration.bridge.id)
        self._audit = Audit(self.journal, self.metrics, kept, time.monotonic, self._writer_of, self._observes)
        self._acts = Acts(self.journal)
        self._doses = Doses()
        self.overriding = Overriding(kept, self._acts, self._doses.move_of)
        self.engine = self._engine_of(configuration)
        self.overriding.attach(self.engine)
        self.roll = self._roll()
        self.following = Following(self.engine, self._doses, kept.folder, self.roll)
        self.migrating = Migrating(self.following, Steering(self.engine, self.following, self.journal))
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._shares = 0  # what was shared when that was last kept
        self._socket: admin.Place | None = None  # None: nobody is meant to reach this process by it
        self._stop = asyncio.Event()
        self._notifier = Notifier(os.environ)
        self.reload = Reload(path, self.engine, kept, self.journal, self._notifier)
        self.shipping = Shipping(self.engine, kept.folder, self.journal, self._audit.observed)
        self.metrics.unshipped = self.shipping.unshipped
        self._traces = Traces(self._audit, self.engine.store)
        self._traces.follow(configuration)
        self.metrics.spans_dropped = self._traces.dropped
        self.troubles = Troubles(
            path, self.engine, kept, self.journal, self.reload, self._tasks, self._is_reached, self.shipping, still
        )
        self.attention = Attention(self._findings, kept.folder)
        self.metrics.attention = self.attention.counts
        self._known: frozenset[tuple[str, str]] = frozenset()  # what needed a look at the last tick
        self._unnamed: dict[str, tuple[str, ...]] = {}  # by registry: scopes that the file does not name
        self.commands = Commands(
            self.engine, kept, self.journal, self.reload, self._status, self.attention, self._acts, self.overriding
        )
        self.commands.moving = Moving(self.engine, self.following, self.migrating.steering).table()
        self.permitted = Permitted(self.engine, self.journal)
        self.reload.taken = self._taken_over

    def _engine_of(self, configuration: Configuration) -> Engine:
        return Engine(
            configuration,
            events=self._audit,
            recorder=self.state.known,
            frozen=self._is_frozen,
            spend=self.state.spend,
            begins=self._begins,
            traced=self._audit.traced,
            peers=self._peers,
            joint=self._joint,
            state=self.state.folder,
            orderings={**self.overriding.orderings, Rank.SHARE: self._doses},
            overridden=self.overriding.is_of,
            believed=lambda view, doubt: self.state.believe(repr(view), view.life, doubt),
        )

    async def _begins(self, destination: Destination, link: str) -> None:
        scrub, entries = self.engine.store.scrub, destination.entries
        await self.state.before.keep(link, destination.name, destination.owner, entries, scrub)

    @property
    def configuration(self) -> Configuration:
        """The file that runs."""
        return self.engine.configuration

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self, *, once: bool = False) -> int:
        """Runs until a signal, or (`once`) until every link is in step; returns the exit code."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="isthmus"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.ask)
        await self._restore()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._running("journal", self.journal.writing.run()))
            await stack.enter_async_context(self._running("state", self.state.run(self._thawed)))
            if self.configuration.bridge.listen:
                await stack.enter_async_context(
                    Web(
                        self.configuration.bridge.listen,
                        self._alive,
                        self._ready,
                        self.metrics.text,
                        lambda: self.configuration.bridge.token_file,
                        seed=self._seed if self.state.folder is not None else None,
                    )
                )
            if self.state.folder:
                path = self.state.folder / "admin.sock"
                commands = self.permitted.table(self.commands.table())
                self._socket = await stack.enter_async_context(admin.serve(path, commands, self._is_shared))
            losses = await asyncio.to_thread(self.journal.recent_losses, self._longest_window())
            await stack.enter_async_context(self.engine)
            self.shipping.look()  # before any source says anything
            self._remember(losses)
            self._journal_start()
            for name, work in self._loops().items():
                await stack.enter_async_context(self._running(name, work))
            self._notifier.ready()
            code = await self._once() if once else await self._forever()
            self._notifier.stopping()
            if self.ends is not None:
                self.ends()
            await self.engine.leave()
            self._use_up()
            self.journal.append("stop", reason=f"pid={os.getpid()}")
        return code

    def _journal_start(self) -> None:
        file = self.configuration.hash
        reason = f"isthmus {__version__} pid={os.getpid()} file={file}"
        self.journal.append(START, reason=reason, file=file, version=__version__)

    def _loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        """What runs beside the engine, by name."""
        return {
            "roll": self.roll.run(),
            "tick": self._tick_loop(),
            "listen": self._listen_loop(),
            "reload": self.reload.run(),
            "shipping": self.shipping.run(),
            "migrations": self.migrating.run(),
            "tracing": self._traces.run(),
        }

    @contextlib.asynccontextmanager
    async def _running(self, name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))

    def _is_reached(self) -> bool:
        """Whether commands reach this process, as far as it is meant to be reached."""
        return self._socket is None or self._socket.listens

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
        rows = status.link_rows(self.engine)
        return 3 if any(row["held"] or row["parked"] for row in rows) else 0

    def _taken_over(self) -> None:
        """A changed file runs from now on."""
        self.commands.deciding.apply()
        self.following.reloaded()
        self._traces.follow(self.configuration)

    async def _restore(self) -> None:
        """Last known good, at once, before anything is reached (safety rule 8)."""
        self.following.restore()
        self.engine.store.claims.share(self.state.shared())
        for scope in await asyncio.to_thread(self.state.known.load, list(self.configuration.registries)):
            view = self.engine.store.view(scope.registry, scope.scope)
            view.restore(scope.identity, scope.incarnation, scope.revision, scope.services, scope.part, scope.former)
            view.scrub_again()  # by what is secret in this file, which need not be what was when it was kept
            view.lost = self.engine.clock() - max(0.0, time.time() - scope.at)

    def _remember(self, losses: Iterable[Loss]) -> None:
        """Approvals, losses and gains from shortly before a restart still count after it (safety rule 4)."""
        for reconciler in self.engine.reconcilers.values():
            reconciler.destination.settled.update(self.state.settled())
            if reconciler.destination.holds_additions:
                adding.restore(reconciler.destination.additions, reconciler.destination.links, self.state.decisions)
            mine = {link.name for link in reconciler.destination.links}
            for hold, approval in self.state.decisions.of(Kind.APPROVAL).items():
                items = [item for item in approval.items if item[0] in mine]
                until = self.engine.clock() + approval.left(time.time())
                reconciler.destination.holds.grant(hold, items, until)
            for hold, shown in self.state.decisions.of(Kind.SHOWN).items():
                if any(item[0] in mine for item in shown.items):
                    reconciler.destination.holds.remember(hold, shown.items)
        targets = {link.name: self.engine.reconcilers[link.to] for link in self.configuration.links}
        for loss in losses:
            if loss.link in targets:
                at = self.engine.clock() - (time.time() - loss.at)
                won = loss.serving[1] - loss.serving[0]
                past = Past(at, loss.service, loss.scope, won, loss.replaces, loss.reused)
                targets[loss.link].destination.remember([past])
        self.commands.deciding.apply()

    def _longest_window(self) -> float:
        return max((STOOD, *(link.longest_window for link in self.configuration.links)))

    async def _tick_loop(self) -> None:
        """Once a second: the supervisor's status line, and its watchdog, which is fed while all loops run."""
        while True:
            await asyncio.sleep(self._tick)
            self.commands.deciding.apply()
            self.journal.limit(_limits(self.configuration))
            self.overriding.apply()
            self.shipping.look()
            self._tell()
            self._share()
            if not self.troubles.broken():
                self._notifier.watchdog()
            self._use_up()

    def _findings(self) -> Iterator[Finding]:
        yield from self.troubles.findings()
        yield from self.overriding.findings()
        yield from self.migrating.steering.findings()

    def _share(self) -> None:
        """What was learnt of addresses that several services share outlives the process."""
        claims = self.engine.store.claims
        if claims.shares != self._shares:
            self._shares = claims.shares
            self.state.share(claims.shared)

    def _tell(self) -> None:
        """The supervisor's status line, and a line in the log for each trouble that begins or ends."""
        rows = self.attention.open()
        said = [f"{row['subject']}: {row['text']}" for row in rows if row["level"] == Level.ACT]
        self._notifier.status("; ".join(said[:3]) or "all links in step")
        now = {(row["code"], row["subject"]): row for row in rows}
        for key in now.keys() - self._known:
            log.warning("attention code=%s subject=%r text=%r mend=%r", *key, now[key]["text"], now[key]["mend"])
        for code, subject in self._known - now.keys():
            log.info("settled code=%s subject=%r", code, subject)
        self._known = frozenset(now)

    async def _listen_loop(self) -> None:
        """Which owners write no more, and which scopes no file names: nobody else tells.

        A command sees one moment alone.
        """
        wait = LISTEN
        while True:
            await asyncio.sleep(min(wait, self.configuration.bridge.resync))
            wait = math.inf
            for name, answer in (await self.engine.reach()).items():
                if isinstance(answer, Reach):
                    self._unnamed[name] = answer.unnamed
                owners = self.engine.owners(name) if name in self.engine.registries else None
                if owners is not None and isinstance(answer, Reach) and answer.writers is not None:
                    self.state.listen(answer.identity, owners, answer.writers)

    def _use_up(self) -> None:
        """An approval is for once: made, or no longer asked for where this process writes, it is taken off the disk."""
        approvals = self.state.decisions.of(Kind.APPROVAL).values()
        for one in self.engine.reconcilers.values() if approvals else ():
            if one.role == "writer":  # a standby keeps what it may inherit
                mine = {link.name for link in one.destination.links}
                approved = {item for approval in approvals for item in approval.items if item[0] in mine}
                self.state.decisions.use_up(approved - one.destination.holds.granted().keys())

    def _thawed(self, ended: frozenset[str]) -> None:
        """Freezes began, or these ended: what is desired now is planned afresh, and the guard applies to it."""
        pending = plans.plan_rows(self.engine) if ended else []
        for link in sorted(ended):
            rows = [row for row in pending if link in (row["link"], state.EVERY_LINK)]
            said = ", ".join(f"{count} to {action}" for action, count in Counter(r["action"] for r in rows).items())
            held = sum(bool(row["held"]) for row in rows)
            reason = f"pending: {said or 'nothing'}" + (f", {held} of them held" if held else "")
            log.warning("thaw link=%s reason=%r", link, reason)
            self.journal.append("thaw", link=link, reason=reason)
        for reconciler in self.engine.reconcilers.values():
            reconciler.poke()

    def _roll(self) -> Roll:
        return Roll(lambda: self.engine.notes, self._me, clock=time.monotonic, wall=time.time, seeds=self._seeds)

    async def _seed(self) -> bytes:
        """What a daemon that begins on another host may take over."""
        assert self.state.folder is not None
        await whole(self._flush())  # a request that is given up leaves no write half done
        return await asyncio.to_thread(seeding.pack, self.state.folder)

    async def _flush(self) -> None:
        """Brings to the disk what is written there only once a second, or the seed of a new daemon lacks it."""
        await self.state.known.writing.flush()
        for registry in list(self.engine.registries.values()):
            if isinstance(registry, Export):
                await registry.flush()
        await self.state.flush()

    def _seeds(self) -> str:
        """Where another host may ask for that, "" nowhere."""
        bridge = self.configuration.bridge
        if not bridge.listen or bridge.token_file is None or self.state.folder is None:
            return ""
        host, port = address(bridge.listen)
        host = socket.gethostname() if host in EVERYWHERE else host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{seeding.PATH}"

    def _is_shared(self) -> bool:
        """Whether others than root and this user may ask anything of this daemon."""
        return bool(self.configuration.bridge.access)

    def _is_frozen(self, link: str) -> bool:
        return self.state.frozen(link) is not None

    def _joint(self, notes: Notes, destination: Destination, kind: str) -> Joint:
        return Joint(
            notes,
            destination,
            self.state,
            self._audit,
            self.roll,
            me=self._me,
            clock=self.engine.clock,
            wall=time.time,
            again=lambda names: self.engine.reconcilers[destination.name].poke(names),
            acts=self._acts.latest,
            decided=lambda: self.commands.deciding.apply(),
            kind=kind,
        )

    def _peers(self, seat: Seat, destination: Destination) -> Standby:
        return Standby(
            seat,
            destination,
            self.state,
            self._audit,
            me=self._me,
            clock=self.engine.clock,
            wall=time.time,
            keys=lambda: self.configuration.keys,
            acts=self._acts.latest,
        )

    def _writer_of(self, link: str) -> Writer | None:
        to = next((one.to for one in self.configuration.links if one.name == link), None)
        return status.writer(self.engine.reconcilers[to]) if to in self.engine.reconcilers else None

    def _observes(self, link: str) -> bool:
        return any(one.name == link and one.policy is Policy.OBSERVE for one in self.configuration.links)

    def _me(self) -> Writer:
        folder = str(self.state.folder or os.getpid())
        return Writer(socket.gethostname(), os.getpid(), self.started, self.configuration.hash, folder)

    # -- what others ask ---------------------------------------------------------------------------------------------

    def _status(self) -> dict[str, Any]:
        freezes = {key: freeze_row(one) for key, one in self.state.decisions.of(Kind.FREEZE).items()}
        if (unreadable := self.state.decisions.unreadable) is not None:
            freezes[state.EVERY_LINK] = freeze_row(unreadable)
        fault = self.state.fault
        rows = self.attention.rows()
        moves, gates = self.migrating.steering.rows()
        return {
            **status.status(self.engine),
            "attention": [row for row in rows if row["acknowledged"] is None],
            "acknowledged": [row for row in rows if row["acknowledged"] is not None],
            "version": __version__,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self.started,
            "file": str(self.path),
            "folder": str(self.state.folder or ""),
            "freezes": freezes,
            "unnamed": self._not_read(),
            "moves": moves,
            "gates": gates,
            "approved": self._approved(),
            "expected": self.commands.deciding.rows(),
            "overrides": self.overriding.rows(),
            "state_fault": msgspec.to_builtins(fault) if fault else None,
            "journal_dropped": self.journal.dropped,
            "last_removals": [msgspec.to_builtins(one) for one in self.journal.last_removals()],
        }

    def _approved(self) -> list[dict[str, Any]]:
        """The approvals in force, with what of each has not gone yet."""
        return [
            {"id": id, "by": one.by, "reason": one.reason, "until": one.until, "items": list(one.items)}
            for id, one in self.state.decisions.of(Kind.APPROVAL).items()
        ]

    def _not_read(self) -> dict[str, list[str]]:
        """By registry, the scopes that it had when it was last asked, and that this file does not name."""
        named = {(view.registry, view.scope) for view in self.engine.store.views()}
        found = {
            name: [scope for scope in scopes if (name, scope) not in named] for name, scopes in self._unnamed.items()
        }
        return {name: scopes for name, scopes in found.items() if scopes and name in self.engine.registries}

    def _alive(self) -> tuple[bool, dict[str, Any]]:
        """Whether every loop runs; the body names those that do not."""
        broken = self.troubles.broken()
        return not broken, {"alive": not broken, "broken": broken}

    def _ready(self) -> tuple[bool, dict[str, Any]]:
        """Each scope synced, or serving last known good."""
        now = self.engine.clock()
        scopes = status.scope_rows(self.engine, now)
        read = {name for link in self.configuration.links for name in link.registries}
        divided = {name for name in read if self.engine.is_divided(name)}  # a member may have nothing to read there
        silent = sorted(read - divided - {row["registry"] for row in scopes if row["state"] != "unknown"})
        denied = [repr(view) for view, feed in self.engine.feeds.items() if feed.denied]
        roles = {row["link"]: row["role"] for row in status.link_rows(self.engine)}
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


def _limits(configuration: Configuration) -> Limits:
    return Limits(configuration.bridge.journal.room, configuration.bridge.journal.keep)
