"""One process of a bridge: the real engine over lines that the weather reaches, with a disk that outlives it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from adapters.memory import FULL
from bridge.adapter import Cause, Change, Seat
from bridge.config import schema as blocks
from bridge.config.schema import Configuration
from bridge.daemon.audit import Acts
from bridge.daemon.deciding import Deciding
from bridge.daemon.migrating import Seen
from bridge.daemon.overriding import Overriding
from bridge.destination.destination import Destination
from bridge.destination.events import Event, Failed, Happened, HeldBack, Noticed, Released, Written
from bridge.destination.standby import Standby
from bridge.destination.writer import Writer
from bridge.engine import stopping
from bridge.engine.engine import Engine
from bridge.errors import ConfigError
from bridge.guard.holds import APPROVED, HeldRemoval, Hold, Item, set_hash
from bridge.guard.limits import Limit
from bridge.guard.losses import Past
from bridge.link import Link
from bridge.migration.intent import Record
from bridge.model import Service, ServiceName
from bridge.override import Override
from bridge.plan.doses import Doses
from bridge.plan.orders import Rank
from bridge.plan.values import scope_of
from bridge.sources.networks import DEFAULT
from bridge.sources.store import Store
from bridge.sources.view import Recorder, View
from bridge.state.decisions import Kind
from bridge.state.folder import State
from bridge.state.journal import Journal
from bridge.state.table import Table
from tests.simulation.client import Client
from tests.simulation.faults import Line
from tests.simulation.migrating import OPERATOR, Migrations
from tests.simulation.world import LENDER, SESSION, Server, World

if TYPE_CHECKING:
    from bridge.destination.reconciler import Reconciler

T = TypeVar("T")

BROKEN = "broken"  # a registry that cannot be made
RESYNC = 600.0  # seconds: longer than a history waits for agreement, so that nothing is found by chance


class Kept(State):
    """Decisions that are on the disk at once: no thread is at work in virtual time."""

    async def flush(self) -> None:
        """Brings them there."""
        self.save()


class Disk(Recorder):
    """The state folder of one process, always in step: last known good, and in `kept` what operators decided."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.kept = Kept(None, wall)
        self._about: dict[tuple[str, str], tuple[View, str, str, int, str]] = {}
        self._services: dict[tuple[str, str], dict[ServiceName, Service]] = {}
        self._told: dict[tuple[str, str], dict[tuple[ServiceName, str], str]] = {}  # by which store
        self.losses: list[tuple[str, Past]] = []  # by link
        self.followed: Callable[[], Record] = Record  # the record of migrations that was followed last

    def changed(self, view: View, name: ServiceName, changed: Collection[str], gone: Collection[str]) -> None:
        """A service of the view is what it is now."""
        services = self._services.setdefault((view.registry, view.scope), {})
        if name in view.services:
            services[name] = view.services[name]
        else:
            services.pop(name, None)
        told = self._told.setdefault((view.registry, view.scope), {})
        told.update({(name, key): view.told_by(name, key) for key in changed})

    def described(self, view: View) -> None:
        """Which store it is."""
        about = (view, view.identity, view.incarnation, view.revision, view.part)
        self._about[view.registry, view.scope] = about

    def restore(self, store: Store, copy: Disk) -> None:
        """Gives everything back to a new process, and to its disk."""
        copy.losses = [*self.losses]
        ours, theirs = self.kept, copy.kept
        tables: list[tuple[Table[Any], Table[Any]]] = [
            (ours.decisions.table, theirs.decisions.table),
            (ours.decisions.over, theirs.decisions.over),
            (ours.copies, theirs.copies),
            (ours.told, theirs.told),
        ]
        for before, table in tables:
            for key, entry in before.entries.items():
                table.put(key, entry)
        for (registry, scope), (old, identity, incarnation, revision, part) in self._about.items():
            if old.identity == identity and not old.doubt:
                revision = max(revision, old.revision)
            services = self._services.get((registry, scope), {})
            told = self._told.get((registry, scope), {})
            former: dict[ServiceName, dict[str, str]] = {}
            for (name, key), by in told.items():
                if by != identity and name in services and key in services[name].instances:
                    former.setdefault(name, {})[key] = by
            view = store.view(registry, scope)
            view.restore(identity, incarnation, revision, dict(services), part, former)
            copy._services[registry, scope], copy._told[registry, scope] = dict(services), dict(told)
            copy.described(view)


class Noted:
    """What the journal would have, as far as it matters here; the disk keeps what was lost and won."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.holds: list[HeldRemoval] = []

    def tell(self, event: Event) -> None:
        """One event."""
        match event:
            case Written(outcome, _, cause, _, serving):  # the stores themselves tell of it
                self._count(outcome.change, serving, replaces=cause is Cause.REPLACED)
            case Noticed(change, _, serving):
                self._count(change, serving)
            case HeldBack(ones):
                self.holds += ones
                for one in ones:
                    self._process.note(f"holds {'/'.join(one.item)}: {one.verdict.rule} ({one.removal.cause})")
            case Released(one, goes):
                self._process.note(f"no longer holds {'/'.join(one.item)}: {'released' if goes else 'not asked'}")
            case Failed(change, error):
                self._process.note(f"failed {change.service}/{change.id}: {type(error).__name__} {error}")
            case Happened(kind, about):
                if kind == "settled":
                    first = (str(about["destination"]), str(about["source"]), str(about["scope"]))
                    self._process.disk.kept.settle(*first)
                    self._process.world.oracle.settles(self._process)
                if kind == "believed" and self._process.world.moves is not None:
                    self._process.world.moves.has_believed(self._process, str(about["registry"]))
                self._process.note(f"{kind} {about}")

    def _count(self, change: Change, serving: tuple[int, int], *, replaces: bool = False) -> None:
        if change.mark is not None and serving[0] != serving[1]:
            now = self._process.world.loop.time()
            past = Past(now, change.service, scope_of(change.mark), serving[1] - serving[0], replaces)
            self._process.disk.losses.append((change.mark.link, past))


async def _first(*work: Awaitable[Any]) -> None:
    """Waits until one of these ends, which none should; raises its error."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in ended:
            one.result()
    finally:
        tasks[0].cancel()


class Process(Client):
    """One life of a bridge."""

    def __init__(self, world: World, owner: str, disk: Disk | None = None) -> None:
        super().__init__(world, owner, f"{owner}#{sum(one.owner == owner for one in world.processes) + 1}")
        self.disk = Disk(world.wall)
        self.record = Noted(self)
        self.ending = False
        self.stopped = False
        self.began = world.loop.time()
        self._reloading = asyncio.Lock()
        self._commands: list[asyncio.Task[Any]] = []
        self._overriding = Overriding(self.disk.kept, Acts(Journal(None)))
        self.doses = Doses()
        self.engine = Engine(
            self._configuration(),
            events=self.record,
            recorder=self.disk,
            frozen=lambda link: self.disk.kept.frozen(link) is not None,
            spend=self._spend,
            peers=self._peers,
            rng=random.Random(world.rng.random()),
            clock=world.loop.time,
            make=self._line,
            orderings={**self._overriding.orderings, Rank.SHARE: self.doses},
            believed=lambda view, doubt: self.disk.kept.believe(repr(view), view.life, doubt),
        )
        self._deciding = Deciding(self.engine, self.disk.kept, cast(Any, None))  # only `apply`, which journals nothing
        if disk is not None:
            disk.restore(self.engine.store, self.disk)
        self._overriding.attach(self.engine)
        self._migrations = Migrations(self, self.doses) if owner in world.migrations else None
        if disk is not None and world.moves is not None:
            self.doses.follow(disk.followed())
            world.moves.has_read(self, self.doses.record)
        self.disk.followed = lambda: self.doses.record
        world.processes.append(self)
        self.note(f"starts, {'with' if disk else 'without'} last known good")
        self.task = world.loop.spawn(self, self._run())

    def _line(self, name: str, *_: object) -> Line:
        """How it reaches a registry; raises ConfigError for one that no file may name."""
        if name == BROKEN:
            raise ConfigError("the endpoint has no scheme")
        return Line(self, name)

    def _configuration(self, links: Sequence[Link] | None = None, *also: str) -> Configuration:
        """Its file, with these links instead of those that are in force, and these registries beside those of links."""
        links = self.world.links[self.owner] if links is None else links
        names = {name: None for link in links for name in (*link.from_, link.to)} | dict.fromkeys(also)
        if self.world.lender is not None:
            names[LENDER] = None
        return Configuration(
            bridge=blocks.Bridge(id=self.owner, resync=RESYNC, seat=LENDER if self.world.lender is not None else None),
            registries={name: self._registry(name) for name in names},
            links=tuple(links),
            warnings=(),
            hash="",
            path=Path(),
            migrations=self.world.migrations.get(self.owner, ()),
        )

    def _registry(self, name: str) -> blocks.Registry:
        network = self.world.networks.get(name, DEFAULT)
        return blocks.Registry(name=name, kind="memory", options=self.world.options.get(name, FULL), network=network)

    async def _run(self) -> None:
        async with self.engine:
            self._remember()
            ticking = [asyncio.create_task(self._tick())]
            if self._migrations is not None:
                ticking.append(asyncio.create_task(self._migrations.run()))
            try:
                await _first(self.engine.crashed(), *ticking)
            finally:
                for one in ticking:
                    one.cancel()
                await asyncio.wait(ticking)
                for command in self._commands:
                    command.cancel()
                if self._commands:
                    await asyncio.wait(self._commands)

    def _peers(self, seat: Seat, destination: Destination) -> Standby:
        loop, kept = self.world.loop, self.disk.kept
        me, rng = Writer(self.name, 0, self.began, ""), random.Random(self.world.rng.random())
        return Standby(
            seat, destination, kept, self.record, me=lambda: me, clock=loop.time, wall=self.world.wall, rng=rng
        )

    @property
    def settled(self) -> set[tuple[str, str, str]]:
        """Targets and scopes whose first copy is done, by this process or, as the target's note says, before it."""
        return self.disk.kept.settled()

    def _remember(self) -> None:
        """As the daemon does: approvals that are not used, and what was lost before, are in force again."""
        targets = {link.name: self.reconcilers[link.to].destination for link in self.engine.configuration.links}
        kept, wall, now = self.disk.kept, self.world.wall(), self.world.loop.time()
        for one in self.reconcilers.values():
            one.destination.settled.update(kept.settled())
            mine = {link.name for link in one.destination.links}
            for hold, approval in kept.decisions.of(Kind.APPROVAL).items():
                items = [item for item in approval.items if item[0] in mine]
                one.destination.holds.grant(hold, items, now + approval.left(wall))
            for hold, shown in kept.decisions.of(Kind.SHOWN).items():
                if any(item[0] in mine for item in shown.items):
                    one.destination.holds.remember(hold, shown.items)
        for name, loss in self.disk.losses:
            targets[name].remember([loss])

    async def _spend(self, items: Sequence[Item]) -> bool:
        self.disk.kept.decisions.use_up(items)
        return True

    async def _tick(self) -> None:
        """As the daemon does: an approval is for once, and where a freeze has ended, also elsewhere, writes go on."""
        decisions, frozen = self.disk.kept.decisions, frozenset[str]()
        while True:
            await asyncio.sleep(1.0)
            before, frozen = frozen, self.disk.kept.in_force()
            if before != frozen:
                self._poke()
            self._deciding.apply()
            self._overriding.apply()
            decisions.tidy()
            for one in self.reconcilers.values():
                if one.role == "writer":  # a standby keeps what it may inherit
                    mine = {link.name for link in one.destination.links}
                    approvals = decisions.of(Kind.APPROVAL).values()
                    approved = {item for approval in approvals for item in approval.items if item[0] in mine}
                    decisions.use_up(approved - one.destination.holds.granted().keys())

    @property
    def links(self) -> tuple[Link, ...]:
        """What its file says, as far as it has read it."""
        return self.engine.configuration.links

    @property
    def reconcilers(self) -> dict[str, Reconciler]:
        """By destination."""
        return self.engine.reconcilers

    def reload(self) -> asyncio.Task[None]:
        """Takes the links of the world over, whatever becomes of who asked for it."""
        return self._command(self._reload())

    def _command(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A command that this process answers, which ends with it."""
        task = self.world.loop.spawn(self, work)
        self._commands.append(task)
        task.add_done_callback(self._commands.remove)
        return task

    async def _reload(self) -> None:
        """One after the other, as the daemon does."""
        async with self._reloading:
            await self.engine.switch(self.engine.prepare(self._configuration()))

    def refuse(self, links: Sequence[Link]) -> None:
        """Reads a file with these links, and with a registry that its adapter refuses: everything runs on as before."""
        try:
            self.engine.prepare(self._configuration(links, BROKEN))
        except ConfigError as error:
            self.note(f"refuses its file: {error}")

    async def end(self) -> None:
        """As by SIGTERM."""
        self.note("stops")
        self.ending = True
        await asyncio.shield(self.world.serve(self._over()))

    async def kill(self) -> None:
        """As by SIGKILL: what it sent goes on, and the stores find out some time later."""
        self.note("is killed")
        self.ending = self.dead = True
        for session, _ in self.sessions.values():
            self.world.loop.call_later(SESSION, session.cancel)
        await asyncio.shield(self.world.serve(self._over()))

    async def _over(self) -> None:
        self.resume()
        self.task.cancel()
        await asyncio.wait((self.task,))
        self.dead = True
        if not self.task.cancelled() and (error := self.task.exception()) is not None:
            self.world.oracle.breaks("bug", f"{self}: {error!r}")

    def freeze(self, *, keeps_lock: bool = False) -> None:
        """As by SIGSTOP; after a while the stores give its locks to others, but for one that a folder keeps."""
        self.note("is stopped")
        self.stopped = True
        self.slept = self.world.loop.time()
        self.world.loop.stop_process(self)
        for server, key in self.sessions:
            if not keeps_lock:
                self.world.loop.call_later(SESSION, self._expire, server, key)

    def cut(self, server: Server) -> None:
        """It cannot reach what it writes to; after a while the store gives its lock to others."""
        self.note(f"cannot reach {server!r}")
        self.cut_off.add(server)
        for held, key in self.sessions:
            if held is server:
                self.world.loop.call_later(SESSION, self._expire, server, key)

    def _expire(self, server: Server, key: str) -> None:
        if (self.stopped or server in self.cut_off) and self.leads(server, key):
            server.take_lock(key)

    def resume(self) -> None:
        """As by SIGCONT."""
        if self.stopped:
            self.note("goes on")
            self.woke = self.world.loop.time()
            self.stopped = False
            for server in self.world.servers.values():
                if server.another_life:  # it may have heard less of the last life than this one has
                    self.world.oracle.forgive(self, server)
            self.world.loop.continue_process(self)

    # -- the operator ------------------------------------------------------------------------------------------------

    def holds(self) -> list[tuple[Reconciler, Hold]]:
        """What is held, as an operator sees it."""
        now = self.world.loop.time()
        return [(one, hold) for one in self.reconcilers.values() for hold in one.destination.holds.show(now)]

    def shows(self, hold: Hold) -> None:
        """An operator has looked at a set: it can be approved after a restart, and after a take-over."""
        self.disk.kept.decisions.show(hold.id, hold.items)

    async def halt(self, link: str) -> bool:
        """The command `freeze`: stops the writes of a link at once here, elsewhere by the note; whether it says so."""
        self.note(f"operator freezes {link}")
        self.disk.kept.decisions.freeze(link, "", "operator")
        command = self._command(self._halted(link))
        await asyncio.wait((command,))
        return not command.cancelled() and command.result()

    async def _halted(self, link: str) -> bool:
        found = [await stopping.passed_on(self.reconcilers[to], to) for to in stopping.concerned(self.links, link)]
        return not any(one.why or one.here_only for one in (*found, *stopping.observing(self.links, link)))

    def thaw(self, link: str | None = None) -> None:
        """The command `unfreeze`, for one link or for all that are frozen."""
        decisions = self.disk.kept.decisions
        for frozen in [link] if link is not None else list(decisions.of(Kind.FREEZE)):
            if decisions.unfreeze(frozen) is not None:
                self.note(f"operator unfreezes {frozen}")
        self._poke()

    def _poke(self) -> None:
        for one in self.reconcilers.values():
            one.poke()

    def expect(self, subject: str, lose: int, lasting: float) -> None:
        """The command `expect`: so many of a link or a service may be lost."""
        self.note(f"operator expects that {subject} loses {lose}")
        self.world.oracle.expects(self, lasting)
        until = self.world.wall() + lasting
        self.disk.kept.decisions.decide(Kind.EXPECTED, subject, by="operator", until=until, count=lose)
        self._deciding.apply()

    async def migrates(self, verb: str, name: str, **more: Any) -> str:
        """The command `migrate`; what it says, "" where this process ends first."""
        assert self._migrations is not None and self.world.moves is not None
        command = self._command(self._migrations.act(verb, name, **more))
        self.world.moves.commanding.add(command)
        await asyncio.wait((command,))
        return "" if command.cancelled() else command.result()

    async def shares(self) -> dict[str, tuple[float, float]]:
        """What `migrate status` says at this host."""
        assert self._migrations is not None
        command = self._command(self._migrations.shares())
        await asyncio.wait((command,))
        return {} if command.cancelled() else command.result()

    def seen(self, name: str) -> Seen | None:
        """What was seen of a move last, where this process moves it."""
        return self._migrations.steering.last.get(name) if self._migrations is not None else None

    async def asks(self, kind: Kind, said: Override, lasting: float | None) -> dict[str, Any] | str | None:
        """The commands `set` and `drain`: their answer, or why they are refused; None: this process has ended."""
        arguments: dict[str, Any] = {"of": said.of, "at": said.at, "reason": "r", "lasting": lasting}
        arguments["including_last"] = said.including_last
        fields = ("weight", "zone", "health", "metadata")
        arguments["says"] = {one: value for one in fields if (value := getattr(said, one)) not in (None, {})}
        self.note(f"operator says of {said.of} at {said.at or 'all'}: {kind} {said.says} for {lasting}")
        do = self._overriding.drain if kind is Kind.DRAIN else self._overriding.set
        command = self._command(do(arguments, OPERATOR))
        await asyncio.wait((command,))
        if command.cancelled():
            return None
        error = command.exception()
        return str(error) if isinstance(error, ValueError | LookupError) else command.result()

    async def unsays(self, said: Override) -> bool:
        """The command `unset`; whether it is followed by all who write."""
        self.note(f"operator says nothing of {said.of} at {said.at or 'all'} any more")
        command = self._command(self._overriding.unset({"of": said.of, "at": said.at}, OPERATOR))
        await asyncio.wait((command,))
        if command.cancelled() or isinstance(command.exception(), LookupError):
            return False
        return all(row["followed"] for row in command.result()["destinations"])

    def accept(self, view: View) -> None:
        """The command `accept`: the life that answers is the true one, and what is held for its doubt may go."""
        scopes = {(identity, view.scope) for identity in view.identities}
        held = [
            (one, removal)
            for one in self.reconcilers.values()
            for name in sorted(one.destination.holds.names())
            for removal in one.destination.holds.of(name).values()
            if removal.removal.scope in scopes and removal.verdict.limit is Limit.INCARNATION
        ]
        mine = [(one, removal) for one, removal in held if one.role != "standby"]
        if not (view.doubt and view.up) or (held and not mine):
            self.note(f"refused: nothing to accept of {view!r}")
            return
        self.note(f"operator accepts {view!r}: {view.doubt}")
        view.believe()
        for one in self.reconcilers.values():
            items = sorted(removal.item for other, removal in mine if other is one)
            if items:
                self.world.oracle.approve(self, one.name, items)
                one.destination.holds.grant(set_hash(items), items, self.world.loop.time() + APPROVED)
                self.disk.kept.decisions.approve(set_hash(items), tuple(items), "", "operator", APPROVED)
            one.poke()

    def approve(self, reconciler: Reconciler, hold: Hold) -> None:
        """The operator approves a set that was shown at some time; nothing else has been approved by that."""
        if reconciler.role == "standby":  # as the daemon does: it is approved where somebody writes
            self.note(f"refused: {self.name} stands by")
            return
        self.note(f"operator approves {hold.id}: {[item[1:] for item in hold.items]}")
        self.world.oracle.approve(self, reconciler.name, hold.items)
        now = self.world.loop.time()
        try:
            items = reconciler.destination.holds.approve(hold.id, now)
            self.disk.kept.decisions.approve(hold.id, items, "", "operator", APPROVED)
        except (KeyError, ValueError) as error:
            self.note(f"refused: {error}")
        reconciler.poke()
