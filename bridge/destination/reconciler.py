"""Plans and applies until there is nothing to do, for one destination."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence, Set
from contextlib import aclosing
from typing import Any, cast

from bridge.adapter import Change, Entry, Held, Observed, Outcome, Seat, Sink, Term
from bridge.destination.apply import Applier, Batch, Planned, Records
from bridge.destination.awake import Awake
from bridge.destination.backlog import Backlog
from bridge.destination.completeness import Completeness
from bridge.destination.confirm import Confirmer
from bridge.destination.destination import Destination
from bridge.destination.events import Events
from bridge.destination.group import Group, Sharing
from bridge.destination.leading import Leading
from bridge.destination.renewals import EVERY, Renewals
from bridge.destination.reserves import Reserves
from bridge.destination.writer import Lead, Peers, Role
from bridge.errors import Expired, Superseded, Unavailable
from bridge.group.sharding import Sharding
from bridge.link import Link
from bridge.model import ServiceName
from bridge.plan.values import Plan
from bridge.retry import BUG, Reaction, forever
from bridge.sources.networks import ONE, Networks
from bridge.sources.store import Seen, Store
from bridge.sources.view import View

log = logging.getLogger("isthmus.reconcile")

BATCH = 60  # changes in one call of apply; a transaction of etcd holds 128 operations, two a change
STILL = 0.05  # seconds between two looks at whether a write is under way
SOON = 0.01  # likewise, where a shard is to be handed over meanwhile
YIELDED = 4  # turns of the loop in which a change goes from a source's report to the request that writes it
PLAN_SLICE = 200  # services planned before others get their turn on the loop


class Reconciler:
    """One destination: reads what it holds, plans it, and writes what its guard allows.

    `seat`: where the one writer's lock is; None: there is none, and whoever runs writes.
    `records`: what is recorded before writes.
    `second_opinion(view, name)` reads a source afresh, `relist(view, reason)` starts its watch over.
    `yields()`: whether others have something to write that goes first. `sharing`: how several processes write there.
    `loops`: the tasks of a run, by name; none of them ends while `run` runs. `renewed`: seconds between two looks at
    who renews the entries there.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        sink: Sink,
        seat: Seat | None,
        store: Store,
        events: Events,
        clock: Callable[[], float],
        rng: random.Random,
        second_opinion: Callable[[View, ServiceName], Awaitable[Observed]],
        relist: Callable[[View, str], None],
        records: Records = Records(),  # noqa: B008  an immutable value
        resync: float = 600.0,
        batch: int = BATCH,
        peers: Peers | None = None,
        renewed: float = EVERY,
        yields: Callable[[], bool] = lambda: False,
        sharing: Sharing | None = None,
    ) -> None:
        self.destination = destination
        self.sink = sink
        self.resync = resync
        self.loops: dict[str, asyncio.Task[None]] = {}
        self._store = store
        self._clock = clock
        self._rng = rng
        self._relist = relist
        self._batch = batch
        self._yields = yields
        self._trouble = "not reached yet"  # in reading, in its drift, or with the lock
        self._version = 0  # of the store, and how often a scope came to count: what is in the backlog already
        self._syncs = 0
        self._read_once = False
        self._watched: frozenset[ServiceName] = frozenset()  # to be known as they are, whoever writes them
        self._elsewhere: dict[ServiceName, int] = {}  # names that other members are to know, by the shard they were in
        self._settling: frozenset[object] | None = None  # what is settled as soon as all is written that was there
        self.backlog = Backlog(lambda: Seen(clock(), store.version), store.wake)
        self.lead: Leading = (
            self._alone(seat, peers, events) if sharing is None else self._group(sharing, peers, events)
        )
        self._awake = awake = Awake(clock, self._ask_anew)
        self._applier = Applier(destination, sink, self.backlog, self.lead, events, clock, rng, awake, records=records)
        self._confirmer = Confirmer(
            destination, self.backlog, store, events, clock, self.lead, ask=second_opinion, relist=relist
        )
        self._completeness = Completeness(sink, destination, store, self.lead, self.backlog)
        self.renewals = Renewals(sink, renewed)

    def _alone(self, seat: Seat | None, peers: Peers | None, events: Events) -> Lead:
        """This process writes all there, or stands by for who does."""
        return Lead(
            self.destination.name,
            seat,
            peers,
            events,
            self._clock,
            begun=self._begin_term,
            ended=lambda: self._applier.failing.clear(),
        )

    def _group(self, sharing: Sharing, peers: Peers | None, events: Events) -> Group:
        """This process is one of several that write there."""
        there = self.destination
        stream = sharing.stream
        sharding = Sharding(
            stream.shard_of, there.inventory.entries, there.routing.services, there.owner, stream.shards
        )
        reserves = Reserves(
            there,
            sharing.seat,
            sharing.who,
            self._clock,
            time.time,
            shard_of=sharding.of,
            terms=lambda: group.terms,
            again=self.poke,
            relist=self._relist,
        )
        group = Group(
            there.name,
            sharing,
            sharding,
            peers,
            events,
            self._clock,
            reserves,
            still=self._is_answered,
            woken=self._store.wake,
        )
        there.divide(sharding, lambda: reserves.counted)
        return group

    async def _is_answered(self, term: Term) -> None:
        """Returns when no write under a term is under way."""
        while self._applier.under_way[term]:
            await asyncio.sleep(SOON)

    def route(self, links: Sequence[Link], networks: Networks = ONE) -> None:
        """New links: what stays is not touched; what they take away is of cause `config`, and held."""
        self.destination.route(links, networks)
        self._completeness.rerouted()
        self._version = 0
        self.poke()

    def poke(self, names: Iterable[ServiceName] | None = None) -> None:
        """Plan some names again, or all: an approval, a freeze that ended, a timer."""
        self.backlog.plan_again(self.destination.names() if names is None else names)

    def read_again(self, names: Set[ServiceName]) -> None:
        """Another process may have written there, without a notification."""
        self.backlog.read_again(names)
        if names:
            self._store.wake()

    def watch(self, names: frozenset[ServiceName]) -> None:
        """What stands under these names is to be known here also where another member of a group writes them."""
        if names != self._watched and self.lead.share is not None:
            self.read_again(names - self._watched)
            self._watched = names

    async def still(self) -> None:
        """Returns when no write is under way that was planned before."""
        while self.backlog.is_writing:
            await asyncio.sleep(STILL)

    async def make(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Writes what an operator asks for in the place of what is planned; the caller has stopped the links of it.

        Raises Unavailable where another process writes, Superseded as `Sink.apply`.
        """
        if not self.lead.writes:
            raise Unavailable(f"this process does not write {self.name}")
        parts = self.lead.parts(list(dict.fromkeys(change.service for change in changes)))
        elsewhere = Unavailable("another member of the group writes this service: undo it there")
        outcomes = [Outcome(one, error=elsewhere) for one in changes if one.service in {*parts.others}]
        for shard, names in parts.mine.items():
            some = [change for change in changes if change.service in {*names}]
            for start in range(0, len(some), self._batch):
                outcomes += await self.sink.apply(some[start : start + self._batch], self.lead.term_in(shard))
        for outcome in outcomes:
            if outcome.error is None:
                plan = Plan(outcome.change.service, [], [], {}, {}, "", 0)
                self.destination.done(outcome, plan, Seen(self._clock(), self._store.version))
        written = {change.service for change in changes}
        self.read_again(written)
        self.poke(written)
        return outcomes

    @property
    def name(self) -> str:
        """The registry that is written."""
        return self.destination.name

    @property
    def seat(self) -> Seat | None:
        """Where the lock of the one writer is."""
        return self.lead.seat

    @property
    def peers(self) -> Peers | None:
        """The other daemons of this bridge."""
        return self.lead.peers

    @property
    def role(self) -> Role:
        """What this process is here."""
        return self.lead.role

    @property
    def is_on_duty(self) -> bool:
        """Whether this process writes there all that it is to write, or is not to write anything."""
        share = self.lead.share
        if share is None:
            return self.role is not Role.STANDBY
        return bool(share.should) and share.should <= share.writes

    @property
    def idle(self) -> bool:
        """Everything seen is planned, and everything planned is written, held, parked or kept back."""
        return (
            self._read_once
            and self.backlog.is_empty
            and (self._version, self._syncs) == (self._store.version, self._store.syncs)
        )

    @property
    def is_read(self) -> bool:
        """Whether all that the destination holds has been read in this process."""
        return self._read_once

    def has_written(self, name: ServiceName) -> bool:
        """Whether what was asked of a name is planned, and no change of it is under way, fails, or waits for others.

        What is parked is none, also where it is tried again later: that is told.
        """
        waits = name in self._applier.failing or name in self.destination.planner.waits
        rests = self.backlog.rests(name) and self.destination.is_parked(name)
        return self._read_once and not waits and (rests or not self.backlog.has(name))

    @property
    def reason(self) -> str:
        """What is wrong with the destination. What could not be written stays true while reads go well."""
        return self._trouble or next(iter(self._applier.failing.values()), "")

    @property
    def lag(self) -> float:
        """Seconds since the oldest change that was seen and is not yet written."""
        oldest = self.backlog.oldest
        return self._clock() - oldest.at if oldest is not None else 0.0

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns. Trouble of this destination ends here, so that none slows another (safety rule 9)."""
        self.backlog.restart()
        try:
            await self._run()
        finally:
            self.loops = {}

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._applier.start(tasks)
            works: dict[str, Coroutine[Any, Any, None]] = {
                "plan": self._retrying("read", self._plan_loop),
                "drift": self._retrying("drift", self._follow_drift),
                "confirm": self._confirmer.run(),
                "awake": self._awake.run(),
                "resync": self._resync_loop(),
            }
            if self.destination.writes:
                if self.lead.share is not None:
                    self.renewals.begun()  # entries live on whoever of the group wrote them
                works["lock"] = self._retrying("lock", self.lead.run)
                works["renewals"] = self.renewals.run(self.lead)
                if self.lead.peers is not None:
                    works["peers"] = self.lead.peers.run(lambda: self.lead.term)
            else:
                self.lead.observe()
            self.loops = {what: tasks.create_task(work) for what, work in works.items()}

    async def _retrying(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        def failed(error: Exception, reaction: Reaction) -> None:
            if isinstance(error, Expired | Superseded):
                log.info("again destination=%s what=%s reason=%r", self.name, what, str(error))
                return
            if reaction is BUG:
                log.error("bug destination=%s what=%s", self.name, what, exc_info=error)
            self._note_trouble(what, error)

        await forever(work, failed, rng=self._rng, clock=self._clock)

    def _note_trouble(self, what: str, error: Exception) -> None:
        if self._trouble.endswith(f": {error}"):
            return  # whatever else is tried meets the same: it is said once
        text = f"{what}: {error}"
        log.warning("trouble destination=%s reason=%r", self.name, text)
        self._trouble = text

    def _begin_term(self, another_wrote: bool) -> None:
        """What was read as a standby may be old by now: an answer from before the lock is no ground to write on.

        The other one may have written by newer reports than the watch of this process has brought, also where that
        seems well: it may be slow, or dead in silence. So everything is listed anew before anything is written.
        """
        for view in self._store.views():
            if another_wrote or not view.up:
                view.mark_stale()
            if another_wrote:
                self._relist(view, "another process wrote until now")
        self.renewals.begun()
        self.backlog.read_again()
        self.poke()

    def _take_turns(self) -> None:
        """Another shard is written here, or one is no more: an answer from before its lock is no ground to write on."""
        turns = self.lead.turns()
        if not (turns.begun or turns.ended):
            return
        for view in list(self._store.views()):
            if view.shard in turns.stale or (view.shard in turns.begun and not view.up):
                view.mark_stale()
                if view.shard in turns.stale:
                    self._relist(view, "another process wrote until now")
        self.renewals.begun()
        if turns.ended:
            self.destination.let_go(self.lead.writes_at)
            self._forget_others()
        known = {*self.destination.names(), *self._elsewhere}
        shards = {name: {self.lead.shard_of(name), self._elsewhere.get(name)} for name in known} if turns.begun else {}
        names = [name for name, some in shards.items() if not turns.begun.isdisjoint(some)]
        for name in names:
            self._elsewhere.pop(name, None)
        self.backlog.read_again(names)
        self.poke(names)
        self.lead.was_read(turns.begun - {self.lead.shard_of(name) for name in names}, whole=False)

    def _ask_anew(self) -> None:
        """What was reported before this process was stopped decides nothing until its source has been listed again."""
        for view in self._store.views():
            if view.synced:
                view.mark_stale()
                self._relist(view, "this process was stopped for a while")
        self.poke()

    async def _follow_drift(self) -> None:
        async with aclosing(cast(Any, self.sink.drift())) as changed:
            async for names in changed:
                # Each member hears what all members write: to read that again would cost each as much as writing it.
                mine = {name for name in names if self.lead.minds(name) or name in self._watched}
                self._elsewhere.update((name, self.lead.shard_of(name)) for name in names - mine)
                if mine or not names:
                    self.backlog.read_again(mine or None)
                    self._store.wake()

    async def _resync_loop(self) -> None:
        while True:
            await asyncio.sleep(self.resync * (0.9 + self._rng.random() / 5))
            minds, watched = self.lead.minds, self._watched
            alone = self.lead.share is None
            names = None if alone else {one for one in self.destination.names() if minds(one) or one in watched}
            self.backlog.read_again(names)
            self._store.wake()

    # -- reading and planning ------------------------------------------------------------------------------------

    async def _plan_loop(self) -> None:
        while True:
            self._take_turns()
            if self.backlog.is_unread:
                await self._read()
            self._collect()
            await self._completeness.tell(idle=self.idle)
            names = self.backlog.ready()
            if not names:
                if self.backlog.is_readable:
                    continue  # it came while the last of it was read
                self._settle()
                await self._store.newer(self._version)
                await self._give_way()
            elif self._applier.is_full:
                # The target is slower than its sources: wait for room, and let what comes meanwhile coalesce.
                await self._applier.room()
                self._applier.no_batch()
            else:
                await self._work(names)

    def _settle(self) -> None:
        """Notes first copies that are done: where nothing is under way, or all is that was as they were listed."""
        if not (self.lead.writes and self._read_once):
            return
        unsettled = self.destination.unsettled()
        if unsettled and self.backlog.is_writing and unsettled != self._settling:
            self._settling = unsettled if self.backlog.owe("settled") else None
        is_done = unsettled == self._settling and not self.backlog.owes("settled")
        if unsettled and (is_done or not self.backlog.is_writing):
            self.destination.note_first_copies()
            self._settling = None

    async def _give_way(self) -> None:
        """Lets others send what they were woken for; for a few turns only, since one of them may be out of reach."""
        for _ in range(YIELDED):
            if not self._yields():
                return
            await asyncio.sleep(0)

    async def _read(self) -> None:
        with self.backlog.reading() as reading:
            if reading.names is not None and not reading.names:
                return
            shards = self.lead.unread()
            if reading.names is None:
                self._elsewhere.clear()
            held = await self.sink.held(reading.names)
            if reading.names is None and self.lead.share is not None:
                held = self._mine(held)
            if self._trouble:
                log.info("reached destination=%s identity=%s", self.name, held.identity)
            self._trouble = ""
            following, self._read_once = self.lead.is_following and self._read_once, True
            if reading.names is None:
                self._completeness.read_anew()
            differ = self.destination.take(
                held,
                reading.names,
                reading.written,
                following=following,
                writing=self.lead.writes,
                notices=self.lead.notices,
            )
            self.lead.was_read(shards, whole=reading.names is None)
            self.poke(differ)

    def _mine(self, held: Held) -> Held:
        """What this member has to know of all that was read; of the rest it keeps the names until their shard comes."""
        self._forget_others()
        names = held.services.keys() | held.loose.keys()
        apart = self._apart({name: held.services.get(name, {}) for name in names})
        self._elsewhere.update(apart)
        services = {name: entries for name, entries in held.services.items() if name not in apart}
        loose = {name: entries for name, entries in held.loose.items() if name not in apart}
        return Held(held.identity, services, loose)

    def _forget_others(self) -> None:
        """What stands in shards of other members is theirs to know."""
        inventory = self.destination.inventory
        for name, shard in self._apart(inventory.entries).items():
            inventory.replace(name, {}, {})
            self._elsewhere[name] = shard

    def _apart(self, entries: Mapping[ServiceName, Mapping[str, Entry]]) -> dict[ServiceName, int]:
        """The names of these that only other members have to know, by shard."""
        shards = ((name, self.lead.elsewhere(name, some)) for name, some in entries.items())
        return {name: shard for name, shard in shards if shard is not None and name not in self._watched}

    def _collect(self) -> None:
        """Takes up what changed at the sources, and what waited until a scope has listed everything."""
        if self._syncs != self._store.syncs:
            self._syncs = self._store.syncs
            self.poke({*self.destination.kept, *self.destination.holds.names()})
        version = self._store.version
        if version != self._version:
            for name, seen in self.destination.affected(self._version):
                self.backlog.add(name, seen)
                if self._elsewhere.pop(name, None) is not None:  # taken for another member's while nothing fed it
                    self.backlog.read_again({name})
            self._version = version

    async def _work(self, names: list[ServiceName]) -> None:
        """Plans what may lose something before any of it is judged (a loss is judged as a whole), then sends batches.

        Where nothing is held nothing is lost: the other names are planned when there is room to write them.
        """
        plans: dict[ServiceName, Planned] = {}
        parts = self.lead.parts(names)
        self.backlog.drop(parts.others)
        for part in parts.mine.values():
            for count, name in enumerate([name for name in part if name in self.destination.entries], 1):
                planned = self._planned(name)
                if planned is not None:
                    plans[name] = planned
                if count % PLAN_SLICE == 0:
                    await asyncio.sleep(0)
        for shard, part in parts.mine.items():
            await self._write(shard, part, plans)
        if self.backlog.is_empty:
            self.destination.round_ended()

    async def _write(self, shard: int, names: Sequence[ServiceName], plans: dict[ServiceName, Planned]) -> None:
        """Sends batches of what may be done under these names, all of one shard; some are planned already."""
        waiting = deque(name for name in names if name in plans or self.backlog.since(name) is not None)
        while waiting:
            await self._applier.room()
            self._collect()
            batch = self._next_batch(shard, waiting, plans)
            if batch.changes:
                self._applier.send(batch)
            else:
                self._applier.no_batch()
            self.destination.tell_holds()
            if waiting:
                await asyncio.sleep(0)  # what was just sent is to leave before the next is planned

    def _next_batch(self, shard: int, waiting: deque[ServiceName], plans: dict[ServiceName, Planned]) -> Batch:
        """Takes names from `waiting` until a batch is full; what is planned already is in `plans`."""
        batch = Batch([], {}, self.lead.term_in(shard), shard)
        for _ in range(min(PLAN_SLICE, len(waiting))):
            name = waiting[0]
            planned = plans.pop(name, None)
            since = self.backlog.since(name)
            if since is not None:  # not planned, or changed while it waited for room: the newest wins
                seen = planned.seen if planned is not None else since
                planned = self._planned(name)
                planned = planned._replace(seen=min(seen, planned.seen)) if planned is not None else None
            if planned is not None and batch.changes and len(batch.changes) + len(planned.plan.upserts) > self._batch:
                plans[name] = planned
                break
            waiting.popleft()
            changes = self._allowed(shard, planned.plan) if planned is not None else []
            if planned is not None and changes:
                batch.changes.extend(changes)
                batch.plans[name] = planned
                self.backlog.begin(name)
            else:
                self.backlog.nothing_to_write(name)
                self._applier.forget_failure(name)
        return batch

    def _planned(self, name: ServiceName) -> Planned | None:
        seen = self.backlog.take(name)
        plan = self.destination.planned(name)
        if plan is None:
            self.backlog.nothing_to_write(name)
            self._applier.forget_conflicts(name)
            return None
        return Planned(plan, seen)

    def _allowed(self, shard: int, plan: Plan) -> list[Change]:
        changes, again = self.destination.allowed(plan, self.lead.writes_in(shard), self.lead.waits_in(shard))
        if again:
            self.backlog.plan_after(plan.name, again)
        return changes
