"""The running parts of one configuration: registries that are open, a feed a scope, a reconciler a destination."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from bridge.adapter import Cause, Change, Export, Follower, Interest, Notes, Reach, Registry, Seat, Sink, Source
from bridge.config import groups, kinds
from bridge.config.registries import FOREIGN
from bridge.config.schema import Configuration
from bridge.destination.apply import Records
from bridge.destination.destination import Destination
from bridge.destination.events import Events
from bridge.destination.group import Sharing
from bridge.destination.reconciler import Reconciler
from bridge.destination.writer import Peers
from bridge.engine import belief, decoders, echoes
from bridge.engine.registries import Registries
from bridge.errors import ConfigError
from bridge.guard.holds import Item
from bridge.link import Link, Policy
from bridge.migration.block import Migration
from bridge.migration.sides import Sides
from bridge.model import ServiceName
from bridge.plan.orders import Ordering, Rank, Ranked
from bridge.plan.overrides import Overrides, Said
from bridge.shards import Divided, Shards
from bridge.sources.feed import Feed
from bridge.sources.scrub import Scrub
from bridge.sources.store import Seen, Store
from bridge.sources.view import Recorder, View

LEAVE = 5.0  # seconds that other members of a group have to take over what this one writes


class Side(NamedTuple):
    """A destination as it is written. `lender`: the registry that the seat is in, "" where there is no seat.

    `notes`: where all daemons of an export, or of a group, keep theirs, in the lender's store. `stream`: what the
    members of a group read, "" where one daemon writes.
    """

    sink: Sink
    seat: Seat | None
    lender: str
    notes: Notes | None = None
    stream: str = ""


class Prepared(NamedTuple):
    """All that a configuration needs beside what runs, made and not yet used; see `Engine.prepare`.

    `registries`: those that are new or differ. `sides`: of destinations that are new, or have another sink or seat.
    """

    configuration: Configuration
    registries: dict[str, Registry]
    sides: dict[str, Side]


class Engine:
    """Everything that runs, without a state folder, a socket or a signal: the daemon and the commands share it.

    `peers`, `joint`: the other daemons of this bridge at a destination with a seat, and at an export or in a group.
    `observe`: whatever the file says, nothing is written and no lock is taken (the commands that only look).
    `orderings`: what is said of instances in the place of their sources, beside the file's own overrides.
    `overridden`: whether that is so of a service of a registry by command; whoever changes it calls `ask_again`.
    `believed`: told of a new life of a store that counts from now on, and of the doubt that it was under.
    An async context manager: inside, it runs.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        events: Events,
        recorder: Recorder | None = None,
        frozen: Callable[[str], bool] = lambda _: False,
        spend: Callable[[Sequence[Item]], Awaitable[bool]] | None = None,
        begins: Callable[[Destination, str], Awaitable[None]] | None = None,
        traced: Callable[[Change, str, Seen], str] | None = None,
        peers: Callable[[Seat, Destination], Peers] | None = None,
        joint: Callable[[Notes, Destination, str], Peers] | None = None,
        observe: bool = False,
        state: Path | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        make: Callable[[str, str, Any, Path | None], Registry] = kinds.make,
        echo_pace: echoes.Pace = echoes.Pace(),  # noqa: B008  an immutable value
        orderings: Mapping[Rank, Ordering] = MappingProxyType({}),
        overridden: Callable[[str, ServiceName], bool] = lambda registry, name: False,
        believed: Callable[[View, str], None] = lambda view, doubt: None,
    ) -> None:
        self.configuration = configuration
        self.store = Store(clock, _scrub(configuration), recorder)
        self.reconcilers: dict[str, Reconciler] = {}
        self.clock = clock
        self.sides: dict[str, tuple[int, Migration, Sides]] = {}  # of migrations, as `Store.lives` was
        self.observed: dict[tuple[str, ServiceName], frozenset[str]] = {}  # kinds of clients, by place and name there
        self._events = events
        self._frozen = frozen
        self._spend = spend
        self._begins = begins
        self._traced = traced
        self._peers = peers
        self._joint = joint
        self._observe = observe
        self._state = state
        self._make = make
        self._echo_pace = echo_pace
        self._of_file = Overrides()
        self._overridden = overridden
        self._believed = believed
        self._ordering = Ranked({**orderings, Rank.FILE: self._of_file})
        self._rng = rng or random.Random()
        self._lenders: dict[str, str] = {}  # by destination: the registry that its seat is in
        self._shared: dict[str, str] = {}  # by destination that a group writes: the stream
        self._needed: dict[str, frozenset[int]] = {}  # by such a destination: the shards that are read for it
        self._registries = Registries(self.store, clock, self._rng)
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def __aenter__(self) -> Engine:
        self._crash: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._run(self.prepare(self.configuration))
        self._start("believe", "", belief.believe(self.store, self.reconcilers, self._events, self._believed))
        self._start("echo", "", echoes.look_again(self.reconcilers, self._echo_pace))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stop(list(self._tasks))
        self._crash.cancel()

    async def crashed(self) -> None:
        """Never returns; raises the first error of the core itself, which ends the process."""
        await asyncio.shield(self._crash)

    # -- taking a file over ------------------------------------------------------------------------------------------

    def prepare(self, configuration: Configuration) -> Prepared:
        """Makes all that this configuration needs beside what runs, and touches nothing of that.

        Raises ConfigError with every fault that only an adapter can find: after this nothing can fail any more.
        """
        faults: list[str] = []
        kept = self.registries.keys() - self._changed(configuration)
        made: dict[str, Registry] = {}
        for name, block in configuration.registries.items():
            if name not in kept:
                try:
                    made[name] = self._make(name, block.kind, block.options, self._state)
                except ConfigError as error:
                    faults += (f"registries.{name}: {fault}" for fault in error.faults)
        registries = {name: one for name, one in self.registries.items() if name in kept} | made
        sides: dict[str, Side] = {}
        for name in {link.to for link in configuration.links} & registries.keys():
            try:
                shares = configuration.bridge.group is not None and not self._observe
                side = _side(registries, configuration, name, shares=shares)
                known = (self._lenders.get(name), self._shared.get(name, ""))
                keeper = configuration.bridge.seat if side.stream else None
                needed = {name, side.lender, side.stream, keeper or ""} - {""}
                is_as_before = needed <= kept and (side.lender, side.stream) == known
                if not (is_as_before and name in self.reconcilers):
                    sides[name] = side
            except ConfigError as error:
                faults += (f"registries.{name}: {fault}" for fault in error.faults)
        if faults:
            raise ConfigError(*faults)
        decoders.prepare()  # of the adapters that were imported
        return Prepared(configuration, made, sides)

    async def switch(self, prepared: Prepared) -> None:
        """Takes over what was prepared last; what is the same in both is not touched. Cannot fail."""
        before, configuration = self.configuration, prepared.configuration
        changed = self._changed(configuration)
        targets = {link.to for link in configuration.links}
        gone = [name for name in self.reconcilers if name in prepared.sides or name not in targets]
        rewired = [
            name
            for name, one in self.reconcilers.items()
            if _writes(one.destination.links) != _writes(self._links_to(configuration, name))
        ]
        ending = {*gone, *rewired}
        await self._leave(ending)
        await self._stop([("reconciler", name) for name in ending] + [("registry", name) for name in changed])
        for name in gone:
            del self.reconcilers[name]
            self._needed.pop(name, None)
        for name in changed:
            self._registries.drop(name)
            if not self._is_read(configuration, name) or self._is_divided(configuration, name) != self._is_divided(
                before, name
            ):
                self.store.forget(name)
        self.configuration = configuration
        if configuration.bridge.secrets != before.bridge.secrets:
            self.store.scrub = _scrub(configuration)
            self.store.scrub_again()  # what is secret now goes at once, also where the source is out of reach
            self._registries.relist("bridge.secrets changed")  # what is no longer secret is known to the registry alone
        for one in self.reconcilers.values():
            one.destination.holds_additions = configuration.bridge.additions == "hold"
        self._run(prepared)
        for name, one in self.reconcilers.items():
            one.destination.distrust(None if name in prepared.sides else changed)

    def _changed(self, configuration: Configuration) -> set[str]:
        """The registries that run and are not, or not in the same way, in that configuration."""
        running = self.configuration
        return {
            name
            for name in self.registries
            if configuration.registries.get(name) != running.registries.get(name)
            or self._is_read(configuration, name) != self._is_read(running, name)
            or self._is_divided(configuration, name) != self._is_divided(running, name)
        }

    async def leave(self) -> None:
        """Has others take over what this process writes as one of several, and waits for what it has sent."""
        await self._leave(self.reconcilers)

    async def _leave(self, names: Iterable[str]) -> None:
        await asyncio.gather(*(self.reconcilers[name].leave(LEAVE) for name in names))

    def is_divided(self, name: str) -> bool:
        """Whether a registry is read by shards, of which this process may have none."""
        return name in self._shared.values()

    def _is_divided(self, configuration: Configuration, name: str) -> bool:
        """Whether a registry is read by shards, because the members of a group share what is written from it."""
        return name in self._streams(configuration).values()

    def _streams(self, configuration: Configuration) -> dict[str, str]:
        """Each destination that a group writes, with its stream."""
        if self._observe or configuration.bridge.group is None:
            return {}
        targets = dict.fromkeys(link.to for link in configuration.links)
        found = {name: groups.stream_of(name, configuration.links, self.registries) for name in targets}
        return {name: stream for name, stream in found.items() if stream}

    def _need(self, name: str, shards: frozenset[int]) -> None:
        """A member of a group needs these shards of its stream from now on; all are read where others read it too."""
        self._needed[name] = shards
        self._share(self._shared[name])

    def _share(self, stream: str) -> None:
        registry = self.registries.get(stream)
        if not isinstance(registry, Divided):
            return
        needed = [self._needed.get(name, frozenset()) for name, of in self._shared.items() if of == stream]
        links, moves = self.configuration.links, self.configuration.migrations
        others = any(stream in link.registries for link in links if link.to not in self._shared)
        if others or any(stream in one.registries for one in moves):
            needed.append(frozenset(range(registry.shards)))
        self._registries.share(stream, frozenset[int]().union(*needed))

    def _is_read(self, configuration: Configuration, name: str) -> bool:
        """Whether a registry is watched: the daemon watches what a link reads, a command that looks all there is.

        But for an export, which nobody reads, and a stream: all that it holds was read from another registry.
        """
        registry = self.registries.get(name)
        if name not in configuration.registries or isinstance(registry, Export):
            return False
        looks = self._observe and not (registry is not None and registry.traits.pictures)
        moves = any(name in one.registries for one in configuration.migrations)
        return looks or moves or any(name in link.registries for link in configuration.links)

    def _follow(self, configuration: Configuration, name: str, registry: Registry) -> None:
        """Tells a registry which of its services are asked for: what a link or a migration takes; to look at it, all.

        First comes what an operator is at work with: it is migrated, or an override is of it. A function of this
        configuration and of overrides alone, so that a registry that keeps it sees no file half taken over.
        """
        links = [link for link in configuration.links if name in link.registries]
        migrations = [one for one in configuration.migrations if name in one.registries]

        def asked(scope: str, service: ServiceName) -> Interest:
            if any(one.moves(name, scope, service) for one in migrations):
                return Interest.FIRST
            if not any(link.item(name, scope) is not None and link.services.rule(service)[0] for link in links):
                return Interest.NONE
            is_first = self._of_file.any_of(name, service) or self._overridden(name, service)
            return Interest.FIRST if is_first else Interest.SOME

        if isinstance(registry, Follower):
            registry.follow((lambda scope, service: Interest.SOME) if self._observe else asked)

    def ask_again(self) -> None:
        """Other services come first: see `overridden`."""
        for name, registry in self.registries.items():
            self._follow(self.configuration, name, registry)

    def _links_to(self, configuration: Configuration, name: str) -> list[Link]:
        links = [link for link in configuration.links if link.to == name]
        if self._observe:
            return [msgspec.structs.replace(link, policy=Policy.OBSERVE) for link in links]
        return links

    def _run(self, prepared: Prepared) -> None:
        configuration = prepared.configuration
        self.store.follows = frozenset(
            name for name, block in configuration.registries.items() if block.foreign_sync == "follow"
        )
        self.store.regard(configuration.networks)
        self._of_file.take(
            Said(one, Cause.CONFIG, f"override {one.of} of the file{f': {one.reason}' if one.reason else ''}")
            for one in configuration.overrides
        )
        for name, registry in prepared.registries.items():
            self._registries.add(name, registry)
        for name, registry in self.registries.items():
            self._follow(configuration, name, registry)
        self._shared = self._streams(configuration)
        for stream in dict.fromkeys(self._shared.values()):
            self._share(stream)
        for name in configuration.registries:
            if ("registry", name) not in self._tasks:
                read = self._is_read(configuration, name)
                serve = not self._observe
                self._start("registry", name, self._registries.run(name, read=read, serve=serve))
        for name in dict.fromkeys(link.to for link in configuration.links):
            links = self._links_to(configuration, name)
            if name in prepared.sides:
                self._lenders[name] = prepared.sides[name].lender
                self.reconcilers[name] = self._reconciler(configuration, name, prepared.sides[name], links)
            else:
                self.reconcilers[name].resync = configuration.bridge.resync
                self.reconcilers[name].route(links, configuration.networks)
            if ("reconciler", name) not in self._tasks:
                self._start("reconciler", name, self._run_reconciler(name))
        echoes.watch(self.reconcilers, configuration.links, self._echo_pace)

    def _peers_of(self, side: Side, destination: Destination) -> Peers | None:
        """The other daemons of this bridge there: those that take turns as its writer, or all that serve an export."""
        if side.notes is not None:
            kind = "group" if side.stream else "export"
            return self._joint(side.notes, destination, kind) if self._joint is not None else None
        return self._peers(side.seat, destination) if side.seat is not None and self._peers is not None else None

    def _reconciler(self, configuration: Configuration, name: str, side: Side, links: list[Link]) -> Reconciler:
        destination = Destination(
            name=name,
            owner=configuration.bridge.id,
            sink=side.sink,
            links=links,
            store=self.store,
            events=self._events,
            clock=self.clock,
            frozen=self._frozen,
            holds_additions=configuration.bridge.additions == "hold",
            networks=configuration.networks,
            ordering=self._ordering,
        )
        return Reconciler(
            destination,
            sink=side.sink,
            seat=side.seat,
            store=self.store,
            events=self._events,
            clock=self.clock,
            rng=self._rng,
            second_opinion=self._registries.read,
            relist=self._registries.relist_one,
            records=self._records(destination),
            resync=configuration.bridge.resync,
            peers=self._peers_of(side, destination),
            yields=self._is_called_for if side.sink.traits.pictures else lambda: False,
            sharing=self._sharing(configuration, name, side),
        )

    def _sharing(self, configuration: Configuration, name: str, side: Side) -> Sharing | None:
        stream = self.registries.get(side.stream)
        if not (isinstance(stream, Divided) and isinstance(side.seat, Shards)):
            return None
        bridge = configuration.bridge
        return Sharing(
            side.seat,
            stream,
            groups.group_of(bridge, name),
            f"{socket.gethostname()}:{os.getpid()}",
            read=partial(self._need, name),
            listed=lambda scope: self._is_listed(name, side.stream, scope),
            fenced=side.lender == name,
        )

    def _is_listed(self, destination: str, stream: str, scope: str) -> bool:
        """Whether a scope of the stream is listed and followed, or no link to that destination reads it."""
        view = self.store.known(stream, scope)
        links = self.reconcilers[destination].destination.links
        if all(link.item(stream, scope) is None for link in links):
            return True
        return view is not None and view.synced and view.up

    def _records(self, destination: Destination) -> Records:
        records = Records() if self._spend is None else Records(spend=self._spend)
        records = records if self._traced is None else records._replace(traced=self._traced)
        return records if self._begins is None else records._replace(begins=partial(self._begins, destination))

    def _is_called_for(self) -> bool:
        """Whether anything is to be written that callers of services go by: a stream, which only tells, comes after."""
        return any(not one.idle for one in self.reconcilers.values() if not one.sink.traits.pictures)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _start(self, kind: str, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"{kind} {name}")
        self._tasks[kind, name] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._crash.done():
            self._crash.set_exception(error)

    async def _stop(self, keys: Collection[tuple[str, str]]) -> None:
        # Reconcilers first: what they write goes through registries that must still be open.
        for kind in ("believe", "echo", "reconciler", "registry"):
            tasks = [self._tasks.pop(key) for key in keys if key[0] == kind and key in self._tasks]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _run_reconciler(self, name: str) -> None:
        keeper = self.configuration.bridge.seat if name in self._shared else None
        for needed in filter(None, (name, self._lenders[name], self._shared.get(name), keeper)):
            await self._registries.opened(needed)
        await self.reconcilers[name].run()

    def loops(self) -> dict[str, asyncio.Task[None]]:
        """What must run for as long as this does, by a name for people; what a reload is ending is not among it."""
        watching, running = self._registries.watching, self._tasks
        return {
            **{" ".join(filter(None, key)): task for key, task in running.items()},
            **{f"feed {view!r}": task for view, task in watching.items() if ("registry", view.registry) in running},
            **{
                f"{loop} {to}": task
                for to, one in self.reconcilers.items()
                if ("reconciler", to) in running
                for loop, task in one.loops.items()
            },
        }

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def registries(self) -> dict[str, Registry]:
        """Every registry of the configuration, by name."""
        return self._registries.made

    @property
    def feeds(self) -> dict[View, Feed]:
        """What watches each scope."""
        return self._registries.feeds

    def seat(self, name: str, bridge: str) -> Seat | None:
        """Where that bridge has the lock of its one writer for a destination; None: there is none."""
        return _seat(self.registries, self.configuration, name, bridge)[1]

    @property
    def notes(self) -> Notes | None:
        """Where the daemons of this bridge keep notes by key; None: nowhere.

        That is in the store of `bridge.seat`, else in that of the locks of what a group shares, which is one store.
        """
        bridge = self.configuration.bridge
        keeper = bridge.seat or next((self._lenders[name] for name in self._shared if name in self._lenders), "")
        registry = self.registries.get(keeper)
        return kinds.notes(registry, bridge.id) if registry is not None else None

    def sources(self, name: str) -> list[Source]:
        """The sources of one registry that are open."""
        return self._registries.sources(name)

    def unreached(self) -> dict[str, str]:
        """The registries that have not answered yet, each with the reason."""
        found = {}
        for name in self.configuration.registries:
            if self._is_read(self.configuration, name):
                views = list(self.store.views(name))
                bad = [view for view in views if not view.synced]
                if bad or not (views or self.is_divided(name)):
                    found[name] = bad[0].reason if bad else "not reached yet"
        seen = {(view.registry, view.scope) for view in self.store.views()}
        for item in {item for link in self.configuration.links for item in link.items if item.scope}:
            if not self.is_divided(item.registry) and not any(
                registry == item.registry and item.means(scope) for registry, scope in seen
            ):
                found[str(item)] = "there is no such scope, or it has not been reached yet"
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
            if not self.unreached() and all(one.idle and one.is_on_duty for one in self.reconcilers.values()):
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
        entries = writing.destination.entries.values() if writing is not None else ()
        return marks | {entry.mark.owner for held in entries for entry in held.values() if entry.mark is not None}

    async def reach(self) -> dict[str, Reach | Exception]:
        """What every registry says of itself, or the error."""
        return await self._registries.reach()


def _scrub(configuration: Configuration) -> Scrub:
    return Scrub(configuration.bridge.secrets, FOREIGN)


def _seat(
    registries: Mapping[str, Registry], configuration: Configuration, name: str, bridge: str
) -> tuple[str, Seat | None]:
    """The registry that the seat of a destination is in, and the seat: its own, else the one that it borrows.

    An export has none: each daemon serves a picture of its own.
    """
    own = kinds.seat(registries[name], bridge, name)
    lender = configuration.bridge.seat if not isinstance(registries[name], Export) else None
    if own is not None or lender is None:
        return name if own is not None else "", own
    return lender, kinds.seat(registries[lender], bridge, name)


def _side(registries: Mapping[str, Registry], configuration: Configuration, name: str, *, shares: bool) -> Side:
    """A destination as this configuration has it written; `shares`: by a group, where it may be. Raises ConfigError."""
    bridge = configuration.bridge
    lender, seat = _seat(registries, configuration, name, bridge.id)
    notes, stream = None, ""
    if isinstance(registries[name], Export) and bridge.seat is not None:
        lender, notes = bridge.seat, kinds.notes(registries[bridge.seat], bridge.id)
    elif shares:
        stream = groups.stream_of(name, configuration.links, registries)
        notes = kinds.notes(registries[bridge.seat or lender], bridge.id) if stream else None
    return Side(kinds.sink(registries[name], bridge.id), seat, lender, notes, stream)


def _writes(links: Iterable[Link]) -> bool:
    return any(link.policy is not Policy.OBSERVE for link in links)
