"""Keeps one destination as its sources say: reads it, plans what differs, and writes that until nothing is left."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence, Set
from contextlib import aclosing, suppress
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
STILL = 0.05  # seconds between two checks whether a write is under way
SOON = 0.01  # likewise, while a shard waits to be handed over
ANSWERED = 3.0  # seconds that writes under way have to be answered before the lock is given back
YIELDED = 4  # turns of the event loop from a source's report of a change to the request that writes it
AGAIN = 1.0  # seconds before a place in the history is lost once more: once is normal, and begun anew at once
PLAN_SLICE = 200  # services planned before others get their turn on the loop


class Reconciler:
    """One destination: reads what it holds, plans what has to change, and writes what its guard allows.

    `seat`: where the lock of the one writer is; None: there is none, and every process that runs writes.
    `sharing`: how several processes share the writing; None: one process writes all.
    `records`: what is recorded before writes.
    `second_opinion(view, name)` reads a source afresh, `relist(view, reason)` starts its watch over.
    `yields()`: whether others have something to write that goes first.
    `loops`: the tasks of a run, by name; none of them ends while `run` runs. `renewed`: seconds between two checks of
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
        self._trouble = "not reached yet"  # the last error in reading it, in following its drift, or with the lock
        self._version = 0  # of the store, up to which changes are in the backlog already
        self._syncs = 0  # how many scopes had listed everything by then
        self._expired: Counter[str] = Counter()  # by loop: how often since the last read
        self._read_once = False
        self._watched: frozenset[ServiceName] = frozenset()  # known here, even if another member writes them
        self._elsewhere: dict[ServiceName, int] = {}  # names that only others have to know, with their shards
        self._settling: frozenset[object] | None = None  # first copies, done once all is written that was pending
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
        """One process writes the whole destination; the others stand by."""
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
        """Several processes share the writing; this is one of them."""
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
            plan_again=self.poke,
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
            answered=self._is_answered,
            wake=self._store.wake,
        )
        there.divide(sharding, lambda: reserves.counted)
        return group

    async def _is_answered(self, term: Term) -> None:
        """Returns when no write under a term is under way."""
        while self._applier.under_way[term]:
            await asyncio.sleep(SOON)

    def route(self, links: Sequence[Link], networks: Networks = ONE) -> None:
        """Takes other links. What stays is not touched; what they take away has the cause `config`, and is held."""
        self.destination.route(links, networks)
        self._completeness.rerouted()
        self._version = 0
        self.poke()

    def poke(self, names: Iterable[ServiceName] | None = None) -> None:
        """Has some names planned again, or all: after an approval, the end of a freeze, or a timer."""
        self.backlog.plan_again(self.destination.names() if names is None else names)

    def read_again(self, names: Set[ServiceName]) -> None:
        """Has names read again that another process may have written without a notification."""
        self.backlog.read_again(names)
        if names:
            self._store.wake()

    def watch(self, names: frozenset[ServiceName]) -> None:
        """Has the entries of these names known here, even if another member of the group writes them."""
        if names != self._watched and self.lead.share is not None:
            self.read_again(names - self._watched)
            self._watched = names

    async def leave(self, patience: float) -> None:
        """Gives away what others can take over at once, then sends nothing more and waits for what was sent.

        Else that could arrive when the lock is another's, and nobody would say that it was made. The caller ends `run`.
        """
        await self.lead.leave(patience)
        plan = self.loops.get("plan")
        self.loops = {}
        if plan is None:
            return
        plan.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED):
                await asyncio.wait((plan,))
                while any(self._applier.under_way.values()):
                    await asyncio.sleep(SOON)

    async def still(self) -> None:
        """Returns when no write is under way."""
        while self.backlog.is_writing:
            await asyncio.sleep(STILL)

    async def make(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Writes changes that an operator asked for instead of the plan. The caller has frozen the links concerned.

        Raises Unavailable where another process writes there, and Superseded as `Sink.apply` does.
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
        """Whether this process writes everything there that it should, or should write nothing."""
        share = self.lead.share
        if share is None:
            return self.role is not Role.STANDBY
        return bool(share.should) and share.should <= share.writes

    @property
    def idle(self) -> bool:
        """Whether all reported changes are planned, and all that is planned is written, held, parked or kept."""
        return self._read_once and self.backlog.is_empty and self._knows_all

    @property
    def busy(self) -> bool:
        """Whether anything is read, planned or written now, or is about to be: then what is told of it is not final."""
        return not (self._read_once and self.backlog.is_at_rest and self._knows_all)

    @property
    def _knows_all(self) -> bool:
        return (self._version, self._syncs) == (self._store.version, self._store.syncs)

    @property
    def is_read(self) -> bool:
        """Whether this process has read everything that the destination holds, at least once."""
        return self._read_once

    def has_written(self, name: ServiceName) -> bool:
        """Whether everything wanted of a name is planned, and no change of it is under way, fails, or waits for others.

        A parked change does not count, even if it is tried again later: it is reported elsewhere.
        """
        waits = name in self._applier.failing or name in self.destination.planner.waits
        rests = self.backlog.rests(name) and self.destination.is_parked(name)
        return self._read_once and not waits and (rests or not self.backlog.has(name))

    @property
    def reason(self) -> str:
        """What is wrong with the destination, "" if nothing is; a write that fails also while reads succeed."""
        return self._trouble or next(iter(self._applier.failing.values()), "")

    @property
    def lag(self) -> float:
        """Seconds since the oldest change was reported that is not yet written."""
        oldest = self.backlog.oldest
        return self._clock() - oldest.at if oldest is not None else 0.0

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns. Errors of this destination are handled here and delay no other destination (safety rule 9)."""
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
                    self.renewals.begun()  # each member renews the entries that it wrote
                works["lock"] = self._retrying("lock", self.lead.run)
                works["renewals"] = self.renewals.run(self.lead)
                if self.lead.peers is not None:
                    works["peers"] = self.lead.peers.run(lambda: self.lead.term)
            else:
                self.lead.observe()
            self.loops = {what: tasks.create_task(work) for what, work in works.items()}

    async def _retrying(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        def failed(error: Exception, reaction: Reaction) -> None:
            self._expired[what] += isinstance(error, Expired)
            if isinstance(error, Superseded) or (isinstance(error, Expired) and self._expired[what] == 1):
                log.info("again destination=%s what=%s reason=%r", self.name, what, str(error))
                return
            if reaction is BUG:
                log.error("bug destination=%s what=%s", self.name, what, exc_info=error)
            self._note_trouble(what, error)

        def least() -> float:
            return AGAIN if self._expired[what] > 1 else 0.0

        await forever(work, failed, rng=self._rng, clock=self._clock, least=least)

    def _note_trouble(self, what: str, error: Exception) -> None:
        if self._trouble.endswith(f": {error}"):
            return  # several loops meet the same error: it is logged once
        text = f"{what}: {error}"
        log.warning("trouble destination=%s reason=%r", self.name, text)
        self._trouble = text

    def _begin_term(self, another_wrote: bool) -> None:
        """A term begins: nothing that was read before the lock was ours may be a reason to write.

        The previous writer may have acted on newer reports than the watches of this process have brought: a watch that
        looks well may be slow, or silently dead. So all sources are listed anew before anything is written.
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
        """Takes up shards that this process began or ceased to write; as `_begin_term`, for these shards alone."""
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
        """The process was stopped: earlier reports decide nothing until their source has been listed again."""
        for view in self._store.views():
            if view.synced:
                view.mark_stale()
                self._relist(view, "this process was stopped for a while")
        self.poke()

    async def _follow_drift(self) -> None:
        async with aclosing(cast(Any, self.sink.drift())) as changed:
            async for names in changed:
                # Each member is told what all members write. Reading that again would cost it as much as writing it.
                mine = {name for name in names if self.lead.follows(name) or name in self._watched}
                self._elsewhere.update((name, self.lead.shard_of(name)) for name in names - mine)
                if mine or not names:
                    self.backlog.read_again(mine or None)
                    self._store.wake()

    async def _resync_loop(self) -> None:
        while True:
            await asyncio.sleep(self.resync * (0.9 + self._rng.random() / 5))
            follows, watched = self.lead.follows, self._watched
            alone = self.lead.share is None
            names = None if alone else {one for one in self.destination.names() if follows(one) or one in watched}
            self.backlog.read_again(names)
            self._store.wake()

    # -- reading and planning ------------------------------------------------------------------------------------

    async def _plan_loop(self) -> None:
        self.backlog.resume()
        while True:
            self._take_turns()
            if self.backlog.is_unread:
                await self._read()
            self._collect()
            await self._completeness.tell(idle=self.idle)
            names = self.backlog.ready()
            if not names:
                if self.backlog.is_readable:
                    continue  # more was to be read by the time the last read ended
                self._settle()
                await self._store.newer(self._version)
                await self._give_way()
            elif self._applier.is_full:
                # The target is slower than its sources: wait for room, and let changes coalesce.
                await self._applier.room()
                self._applier.no_batch()
            else:
                await self._work(names)

    def _settle(self) -> None:
        """Records first copies as done, once everything is written that was pending when they had been listed."""
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
        """Lets others send first what they were woken for; for a few turns only, as one may be out of reach."""
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
            self._expired.clear()
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
        """The part of what was read that this member has to know; of the rest it keeps the names and their shards."""
        self._forget_others()
        names = held.services.keys() | held.loose.keys()
        apart = self._apart({name: held.services.get(name, {}) for name in names})
        self._elsewhere.update(apart)
        services = {name: entries for name, entries in held.services.items() if name not in apart}
        loose = {name: entries for name, entries in held.loose.items() if name not in apart}
        return Held(held.identity, services, loose)

    def _forget_others(self) -> None:
        """Drops the entries that only other members have to know."""
        inventory = self.destination.inventory
        for name, shard in self._apart(inventory.entries).items():
            inventory.replace(name, {}, {})
            self._elsewhere[name] = shard

    def _apart(self, entries: Mapping[ServiceName, Mapping[str, Entry]]) -> dict[ServiceName, int]:
        """Those names that only other members have to know, each with its shard."""
        shards = ((name, self.lead.elsewhere(name, some)) for name, some in entries.items())
        return {name: shard for name, shard in shards if shard is not None and name not in self._watched}

    def _collect(self) -> None:
        """Adds to the backlog what changed at the sources, and what had to wait until a scope had listed everything."""
        if self._syncs != self._store.syncs:
            self._syncs = self._store.syncs
            self.poke({*self.destination.kept, *self.destination.holds.names()})
        version = self._store.version
        if version != self._version:
            for name, seen in self.destination.affected(self._version):
                self.backlog.add(name, seen)
                if self._elsewhere.pop(name, None) is not None:  # no source had it: taken for another member's
                    self.backlog.read_again({name})
            self._version = version

    async def _work(self, names: list[ServiceName]) -> None:
        """Plans all names that may lose entries before it judges any (a loss is judged as a whole); then sends batches.

        A name without entries at the destination can lose none: it is planned when there is room to write it.
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
        """Sends batches of what is allowed for these names, all of one shard; some of them are planned already."""
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
                await asyncio.sleep(0)  # lets this request leave before the next batch is planned

    def _next_batch(self, shard: int, waiting: deque[ServiceName], plans: dict[ServiceName, Planned]) -> Batch:
        """Takes names from `waiting` until a batch is full; what is planned already is in `plans`."""
        batch = Batch([], {}, self.lead.term_in(shard), shard)
        for _ in range(min(PLAN_SLICE, len(waiting))):
            name = waiting[0]
            planned = plans.pop(name, None)
            since = self.backlog.since(name)
            if since is not None:  # not planned yet, or changed since: the newest state is planned
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
                self.backlog.begin(name, planned.seen)
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
