"""The running parts of one configuration: open registries, a feed a scope, a reconciler a destination."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bridge import config
from bridge.adapter import Observed, Reach, Registry, Sink, Source
from bridge.blocks import Configuration
from bridge.desk import Desk, Ear
from bridge.echo import ECHO
from bridge.errors import ConfigError, Denied, Unavailable
from bridge.feed import Backoff, Feed
from bridge.link import Link, Policy
from bridge.model import ServiceName
from bridge.reconcile import Peers, Reconciler
from bridge.secrets import Scrub
from bridge.store import Recorder, Store, View

log = logging.getLogger("isthmus.engine")

ECHO_LOOK = 10.0  # seconds between two looks at what is parked as an echo


class Engine:
    """Everything that runs, without a state folder, a socket or a signal: the daemon and the commands share it.

    `observe`: whatever the file says, nothing is written and no lock is taken (the commands that only look).
    An async context manager: inside, it runs.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        ear: Ear,
        recorder: Recorder | None = None,
        frozen: Callable[[str], bool] = lambda _: False,
        peers: Callable[[str, Sink, Desk], Peers] | None = None,
        observe: bool = False,
        state: Path | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.configuration = configuration
        self.store = Store(clock, Scrub(configuration.bridge.secrets, config.FOREIGN), recorder)
        self.registries: dict[str, Registry] = {}
        self.feeds: dict[View, Feed] = {}
        self.reconcilers: dict[str, Reconciler] = {}
        self.clock = clock
        self._ear = ear
        self._frozen = frozen
        self._peers = peers
        self._observe = observe
        self._state = state
        self._rng = rng or random.Random()
        self._opened: dict[str, asyncio.Event] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._watching: dict[View, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Engine:
        self._crash: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._apply(self.configuration)
        self._start("believe", "", self._believe_loop())
        self._start("echo", "", self._echo_loop())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stop(list(self._tasks))
        self._crash.cancel()

    async def crashed(self) -> None:
        """Never returns; raises the first error of the core itself, which ends the process (design 5)."""
        await asyncio.shield(self._crash)

    def _start(self, kind: str, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"{kind} {name}")
        self._tasks[kind, name] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._crash.done():
            self._crash.set_exception(error)

    async def reload(self, configuration: Configuration) -> None:
        """Takes a new file over: what is the same in both is not touched."""
        before, self.configuration = self.configuration, configuration
        self.store.scrub = Scrub(configuration.bridge.secrets, config.FOREIGN)
        changed = {
            name
            for name, registry in before.registries.items()
            if configuration.registries.get(name) != registry
            or self._is_read(before, name) != self._is_read(configuration, name)
        }
        targets = {link.to for link in configuration.links}
        gone = [name for name in self.reconcilers if name in changed or name not in targets]
        rewired = [
            name for name, one in self.reconcilers.items() if _writes(one.desk.links) != _writes(self._links_to(name))
        ]
        await self._stop(
            [("reconciler", name) for name in (*gone, *rewired)] + [("registry", name) for name in changed]
        )
        for name in gone:
            del self.reconcilers[name]
        for name in changed:
            del self.registries[name]
            if name not in configuration.registries:
                self.store.forget(name)
        self._apply(configuration)

    def _is_read(self, configuration: Configuration, name: str) -> bool:
        """Whether a registry is watched: the daemon watches what a link reads, a command that looks all there is."""
        return self._observe or any(name in link.from_ for link in configuration.links)

    def _links_to(self, name: str) -> list[Link]:
        links = [link for link in self.configuration.links if link.to == name]
        if self._observe:
            return [msgspec.structs.replace(link, policy=Policy.OBSERVE) for link in links]
        return links

    def _apply(self, configuration: Configuration) -> None:
        self.store.follows = frozenset(
            name for name, block in configuration.registries.items() if block.foreign_sync == "follow"
        )
        for name, block in configuration.registries.items():
            if name not in self.registries:
                self.registries[name] = config.adapter(block.kind).create(name, block.options, self._state)
                self._opened[name] = asyncio.Event()
            if ("registry", name) not in self._tasks:
                self._start("registry", name, self._run_registry(name))
        for name in dict.fromkeys(link.to for link in configuration.links):
            if name in self.reconcilers:
                self.reconcilers[name].route(self._links_to(name))
            else:
                sink = self.registries[name].sink(configuration.bridge.id)
                self.reconcilers[name] = Reconciler(
                    owner=configuration.bridge.id,
                    destination=name,
                    sink=sink,
                    links=self._links_to(name),
                    store=self.store,
                    ear=self._ear,
                    clock=self.clock,
                    rng=self._rng,
                    second_opinion=self._read,
                    relist=lambda view: self.feeds[view].relist(),
                    frozen=self._frozen,
                    resync=configuration.bridge.resync,
                    peers=partial(self._peers, name, sink) if self._peers is not None else None,
                )
            if ("reconciler", name) not in self._tasks:
                self._start("reconciler", name, self._run_reconciler(name))
        self._watch_echoes()

    def _watch_echoes(self) -> None:
        """Where others might carry what we wrote back to where it came from, by way of a registry that we only read.

        One that we write has our own copies, and a native there is one in its own right.
        """
        kept: set[str] = set()
        for name, one in self.reconcilers.items():
            only_read = {source for link in one.desk.links for source in link.from_} - self.reconcilers.keys()
            beyond = sorted({link.to for link in self.configuration.links if name in link.from_ and only_read})
            kept.update(beyond)
            written = tuple(self.reconcilers[to].desk.keep_written(to) for to in beyond)
            one.desk.beyond = dict.fromkeys(only_read, written) if written else {}
        for name in self.reconcilers.keys() - kept:
            self.reconcilers[name].desk.written = None

    async def _echo_loop(self) -> None:
        """What is parked as an echo is looked at again: whose address is it now?"""
        while True:
            await asyncio.sleep(ECHO_LOOK)
            for one in self.reconcilers.values():
                if (written := one.desk.written) is not None:
                    written.sweep()
                    asked, written.asked = written.asked, set()
                    if one.role == "standby":  # what the writer does there is seen in reading only
                        one.read_again(asked)
                if one.desk.beyond:
                    one.poke([name for (name, _), reason in one.desk.parked.items() if reason.startswith(ECHO)])

    async def _stop(self, keys: list[tuple[str, str]]) -> None:
        # Reconcilers first: what they write goes through registries that must still be open.
        for kind in ("believe", "echo", "reconciler", "registry"):
            tasks = [self._tasks.pop(key) for key in keys if key[0] == kind and key in self._tasks]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _run_registry(self, name: str) -> None:
        backoff = Backoff(self._rng)
        while True:
            try:
                async with self.registries[name] as registry, asyncio.TaskGroup() as feeds:
                    self._opened[name].set()
                    if self._is_read(self.configuration, name):
                        async for source in registry.scopes():
                            view = self.store.view(name, source.scope)
                            self.feeds[view] = Feed(source, view, self.clock, self._rng)
                            self._watching[view] = feeds.create_task(self.feeds[view].run())
                    await asyncio.Event().wait()
            except* (Unavailable, Denied) as errors:
                log.warning("unavailable registry=%s reason=%r", name, str(errors.exceptions[0]))
            except* Exception:
                log.exception("bug registry=%s", name)
            finally:
                self._watching = {view: task for view, task in self._watching.items() if view.registry != name}
            self._opened[name].clear()
            await asyncio.sleep(backoff.delay())

    async def _run_reconciler(self, name: str) -> None:
        await self._opened[name].wait()
        await self.reconcilers[name].run()

    async def _read(self, view: View, name: ServiceName) -> Observed:
        return await self.feeds[view].source.read(name)

    async def _believe_loop(self) -> None:
        """A new life of a store is believed as soon as nothing that it would take away is held any more."""
        while True:
            await asyncio.sleep(1.0)
            for view in list(self.store.views()):
                if view.doubt and view.synced and view.up and self._is_settled(view.registry):
                    log.info("believed registry=%r doubt=%r", view, view.doubt)
                    self._ear.event("believed", registry=repr(view), doubt=view.doubt)
                    view.believe()

    def _is_settled(self, registry: str) -> bool:
        fed = [one for one in self.reconcilers.values() if any(registry in link.from_ for link in one.desk.links)]
        # A standby does not see what the writer wrote: nothing is settled by what it does not hold.
        return all(one.idle and one.role in ("writer", "observing") and not one.desk.holds.count() for one in fed)

    def loops(self) -> dict[str, asyncio.Task[None]]:
        """What must run for as long as this does, by a name for people."""
        return {
            **{" ".join(filter(None, key)): task for key, task in self._tasks.items()},
            **{f"feed {view!r}": task for view, task in self._watching.items()},
            **{f"{loop} {to}": task for to, one in self.reconcilers.items() for loop, task in one.loops.items()},
        }

    # -- looking ---------------------------------------------------------------------------------------------------

    def sources(self, name: str) -> list[Source]:
        """The sources of one registry that are open."""
        return [feed.source for view, feed in self.feeds.items() if view.registry == name]

    def unreached(self) -> dict[str, str]:
        """The registries that have not answered yet, each with the reason."""
        found = {}
        for name in self.configuration.registries:
            if self._is_read(self.configuration, name):
                views = list(self.store.views(name))
                bad = [view for view in views if not view.synced]
                if bad or not views:
                    found[name] = bad[0].reason if bad else "not reached yet"
        for name, one in self.reconcilers.items():
            if one.reason:
                found[name] = one.reason
        return found

    async def settled(self, patience: float, tell: Callable[[str], None] = lambda _: None) -> bool:
        """Waits until everything is read and planned, and written where it may be; False when patience ran out.

        `patience` in seconds, counted from the last thing that changed.
        """
        seen = -1
        deadline = self.clock() + patience
        while True:
            if not self.unreached() and all(one.idle and one.role != "standby" for one in self.reconcilers.values()):
                return True
            if self.store.version != seen:
                seen, deadline = self.store.version, self.clock() + patience
                tell(f"{sum(len(view.services) for view in self.store.views())} services read")
            if self.clock() > deadline:
                return False
            await asyncio.sleep(0.02)

    def owners(self, name: str) -> set[str] | None:
        """The bridges that own something in a registry; None: not all of it is known now."""
        views = list(self.store.views(name))
        writing = self.reconcilers.get(name)
        if (self._is_read(self.configuration, name) and not views) or not all(view.up for view in views):
            return None
        if writing is not None and writing.reason:
            return None
        marks = {mark.owner for view in views for one in view.services.values() for mark in one.marks.values()}
        entries = writing.desk.entries.values() if writing is not None else ()
        return marks | {entry.mark.owner for held in entries for entry in held.values() if entry.mark is not None}

    async def reach(self) -> dict[str, Reach | Exception]:
        """What every registry says of itself, or the error."""

        async def one(name: str) -> tuple[str, Reach | Exception]:
            try:
                async with asyncio.timeout(10.0):
                    return name, await self.registries[name].reach()
            except (Unavailable, Denied, ConfigError, TimeoutError) as error:
                return name, error

        return dict(await asyncio.gather(*(one(name) for name in self.configuration.registries)))


def _writes(links: Iterable[Link]) -> bool:
    return any(link.policy is not Policy.OBSERVE for link in links)
