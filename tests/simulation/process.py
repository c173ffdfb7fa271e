"""One process of a bridge: the real engine over lines that the weather reaches, with a disk that outlives it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.memory import FULL
from adapters.memory.server import Tenure
from bridge import blocks
from bridge.adapter import Cause, Change, Outcome
from bridge.blocks import Configuration
from bridge.engine import Engine
from bridge.holds import HeldRemoval, Hold
from bridge.link import Link
from bridge.model import Service, ServiceName
from bridge.store import Recorder, Seen, Store, View
from tests.simulation.faults import Line, Told
from tests.simulation.world import SESSION, Server, World

if TYPE_CHECKING:
    from bridge.reconcile import Reconciler

RESYNC = 600.0  # seconds: longer than a history waits for agreement, so that nothing is found by chance


class Disk(Recorder):
    """Last known good of one process, always in step; `View.restore` takes it over."""

    def __init__(self) -> None:
        self._about: dict[tuple[str, str], tuple[View, str, str, int]] = {}
        self._services: dict[tuple[str, str], dict[ServiceName, Service]] = {}

    def changed(self, view: View, name: ServiceName, changed: Collection[str], gone: Collection[str]) -> None:
        """A service of the view is what it is now."""
        services = self._services.setdefault((view.registry, view.scope), {})
        if name in view.services:
            services[name] = view.services[name]
        else:
            services.pop(name, None)

    def described(self, view: View) -> None:
        """Which store it is."""
        self._about[view.registry, view.scope] = (view, view.identity, view.incarnation, view.revision)

    def restore(self, store: Store, copy: Disk) -> None:
        """Gives everything back to a new process, and to its disk."""
        for (registry, scope), (old, identity, incarnation, revision) in self._about.items():
            if old.identity == identity and not old.doubt:
                revision = max(revision, old.revision)
            services = self._services.get((registry, scope), {})
            view = store.view(registry, scope)
            view.restore(identity, incarnation, revision, dict(services))
            copy._services[registry, scope] = dict(services)
            copy.described(view)


class Ear:
    """What the journal would hear, as far as it matters here."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.holds: list[HeldRemoval] = []

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: Seen, serving: tuple[int, int]) -> None:
        """Told by the stores themselves."""

    def noticed(self, change: Change, kind: str, serving: tuple[int, int]) -> None:
        """Told by the stores themselves."""

    def held(self, one: HeldRemoval) -> None:
        """A removal is held."""
        self.holds.append(one)
        self._process.note(f"holds {'/'.join(one.item)}: {one.verdict.rule} ({one.removal.cause})")

    def released(self, one: HeldRemoval, why: str) -> None:
        """Or no longer."""
        self._process.note(f"no longer holds {'/'.join(one.item)}: {why}")

    def failed(self, change: Change, error: Exception) -> None:
        """A write failed."""
        self._process.note(f"failed {change.service}/{change.id}: {type(error).__name__} {error}")

    def event(self, kind: str, **about: object) -> None:
        """Anything else."""
        if kind == "settled":
            self._process.settled.add((str(about["destination"]), str(about["source"]), str(about["scope"])))
        self._process.note(f"{kind} {about}")


class Process:
    """One life of a bridge. `told` is what it knows in truth, by the identity and scope of who told it."""

    def __init__(self, world: World, owner: str, disk: Disk | None = None) -> None:
        self.world = world
        self.owner = owner
        self.name = f"{owner}#{sum(one.owner == owner for one in world.processes) + 1}"
        self.disk = Disk()
        self.told: dict[tuple[str, str], Told] = {}
        self.sessions: dict[Server, tuple[asyncio.Task[Any], asyncio.Future[Tenure]]] = {}
        self.settled: set[tuple[str, str, str]] = set()  # targets and scopes whose first copy is done
        self.ear = Ear(self)
        self.ending = False
        self.dead = False  # nothing more is heard of it
        self.stopped = False
        self.woke = float("-inf")
        self.naps: list[tuple[float, float]] = []  # when it was stopped
        self.began = world.loop.time()
        self.engine = Engine(
            self._configuration(),
            ear=self.ear,
            recorder=self.disk,
            frozen=world.frozen.__contains__,
            rng=random.Random(world.rng.random()),
            clock=world.loop.time,
        )
        for registry in self.engine.configuration.registries:
            self.engine.registries[registry] = Line(self, registry)
            self.engine._opened[registry] = asyncio.Event()
        if disk is not None:
            disk.restore(self.engine.store, self.disk)
        world.processes.append(self)
        self.note(f"starts, {'with' if disk else 'without'} last known good")
        self.task = world.loop.spawn(self, self._run())

    def __repr__(self) -> str:
        return self.name

    def note(self, text: str) -> None:
        """A line of the story."""
        self.world.note(f"{self.name} {text}")

    def _configuration(self) -> Configuration:
        links: list[Link] = self.world.links[self.owner]
        names = {name: None for link in links for name in (*link.from_, link.to)}
        return Configuration(
            bridge=blocks.Bridge(id=self.owner, resync=RESYNC),
            registries={name: blocks.Registry(name=name, kind="memory", options=FULL) for name in names},
            links=tuple(links),
            warnings=(),
            hash="",
            path=Path(),
        )

    async def _run(self) -> None:
        async with self.engine:
            await self.engine.crashed()

    @property
    def reconcilers(self) -> dict[str, Reconciler]:
        """By destination."""
        return self.engine.reconcilers

    async def reload(self) -> None:
        """Takes the links of the world over."""
        await self.world.loop.spawn(self, self.engine.reload(self._configuration()))

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

    async def living(self) -> None:
        """Returns to the living: nothing more comes from a process that was killed."""
        if self.dead:
            await asyncio.Event().wait()

    def freeze(self) -> None:
        """As by SIGSTOP; after a while the stores give its locks to others."""
        self.note("is stopped")
        self.stopped = True
        self._slept = self.world.loop.time()
        self.world.loop.stop_process(self)
        for server, (_, granted) in self.sessions.items():
            self.world.loop.call_later(SESSION, self._expire, server, granted)

    def _expire(self, server: Server, granted: asyncio.Future[Tenure]) -> None:
        queue = server._locks.get(self.owner)
        has = granted.result() if granted.done() and not granted.cancelled() and not granted.exception() else None
        if self.stopped and queue and queue[0] is has:
            server.take_lock(self.owner)

    def resume(self) -> None:
        """As by SIGCONT."""
        if self.stopped:
            self.note("goes on")
            self.woke = self.world.loop.time()
            self.naps.append((self._slept, self.woke))
            self.stopped = False
            for server in self.world.servers.values():
                if server.another_life:  # it may have heard less of the last life than this one has
                    self.world.oracle.forgive(self, server)
            self.world.loop.continue_process(self)

    # -- the operator ------------------------------------------------------------------------------------------------

    def holds(self) -> list[tuple[Reconciler, Hold]]:
        """What is held, as an operator sees it."""
        now = self.world.loop.time()
        return [(one, hold) for one in self.reconcilers.values() for hold in one.desk.holds.show(now)]

    def approve(self, reconciler: Reconciler, hold: Hold) -> None:
        """The operator approves a set that was shown at some time; nothing else has been approved by that."""
        self.note(f"operator approves {hold.id}: {[item[1:] for item in hold.items]}")
        self.world.oracle.approve(self, reconciler.destination, hold.items)
        try:
            reconciler.desk.holds.approve(hold.id, self.world.loop.time())
        except (KeyError, ValueError) as error:
            self.note(f"refused: {error}")
        reconciler.poke()
