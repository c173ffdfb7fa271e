"""Plans and applies until there is nothing to do, for one destination: the only place that retries a write."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence, Set
from contextlib import aclosing
from typing import Any, Protocol, cast

import msgspec

from bridge.adapter import Cause, Change, Observed, Outcome, Sink
from bridge.desk import Desk, Ear
from bridge.errors import Conflict, Denied, Expired, Rejected, Superseded, Unavailable
from bridge.feed import DENIED_DELAY, LONGEST_DELAY, Backoff
from bridge.holds import HeldRemoval
from bridge.link import Link
from bridge.model import ServiceName
from bridge.plan import Plan
from bridge.store import EVERY_ID, Seen, Store, View

log = logging.getLogger("isthmus.reconcile")

BATCH = 60  # changes in one call of apply; a transaction of etcd holds 128 operations, two a change
IN_FLIGHT = 16  # calls of apply under way at once: bounded, so that a slow target coalesces instead of queueing
PLAN_SLICE = 200  # services planned before others get their turn on the loop
OPINIONS = 8  # second opinions asked for at once
HURRY = 1.0  # seconds between two batches that fail as a whole, for each of those in flight
ASK_AGAIN = 5.0  # seconds until a second opinion that could not be had, or disagreed, is asked for again
STOPPED = 3.0  # seconds more than it asked for: a process that slept so long was stopped, and may have been replaced
FREE = 1.0  # seconds: a lock that takes longer to get was somebody's
LATE = 10.0  # seconds: an answer that comes later says what was made, and not when (a stopped process wakes to it)


class Writer(msgspec.Struct, frozen=True):
    """The process that writes at a destination. `since` in seconds since the epoch; `configuration` is a hash."""

    host: str
    pid: int
    since: float
    configuration: str


class Peers(Protocol):
    """The other daemons of this bridge, at one destination; see `bridge.succession`."""

    @property
    def writer(self) -> Writer | None:
        """Who writes there, as far as is known."""
        ...

    async def inherit(self) -> None:
        """The lock is ours: before anything is written. Raises Unavailable or Denied."""
        ...

    async def run(self, writing: Callable[[], bool]) -> None:
        """Never returns. `writing()`: whether this process is the writer."""
        ...


class Reconciler:
    """One destination: reads what stands there, keeps its `desk`, and writes what the desk allows.

    `second_opinion(view, name)` reads a source afresh, `relist(view)` starts its watch over; `role` is starting,
    observing, standby or writer; `reason` says why the destination cannot be read or written, "" if it can.
    """

    def __init__(
        self,
        *,
        owner: str,
        destination: str,
        sink: Sink,
        links: Sequence[Link],
        store: Store,
        ear: Ear,
        clock: Callable[[], float],
        rng: random.Random,
        second_opinion: Callable[[View, ServiceName], Awaitable[Observed]],
        relist: Callable[[View], None],
        frozen: Callable[[str], bool] = lambda _: False,
        resync: float = 600.0,
        batch: int = BATCH,
        peers: Callable[[Desk], Peers] | None = None,
    ) -> None:
        self.destination = destination
        self.sink = sink
        self.desk = Desk(owner=owner, sink=sink, links=links, store=store, ear=ear, clock=clock, frozen=frozen)
        self.peers = peers(self.desk) if peers is not None else None
        self.role = "starting"
        self._reason = "not reached yet"  # in reading, in its drift, or with the lock
        self._failing: dict[ServiceName, str] = {}  # why the last write of a name failed
        self.loops: dict[str, asyncio.Task[None]] = {}  # none of them ends while `run` runs
        self._store = store
        self._ear = ear
        self._clock = clock
        self._rng = rng
        self._second_opinion = second_opinion
        self._relist = relist
        self._resync = resync
        self._batch = batch
        self._dirty: dict[ServiceName, Seen] = {}  # to be planned
        self._busy: set[ServiceName] = set()  # with a write under way
        self._unread: set[ServiceName] | None = None  # to be read again at the target; None: everything
        self._written: set[ServiceName] = set()  # since the reading under way began
        self._conflicts: dict[ServiceName, int] = {}  # in a row, for what could not be written
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._superseded = asyncio.Event()
        self._timers: dict[ServiceName, asyncio.TimerHandle] = {}
        self._version = 0
        self._syncs = 0
        self._writing = False
        self._read_once = False
        self._following = False  # what changes of ours at the target is another process's doing

    def route(self, links: Sequence[Link]) -> None:
        """New links: what stays is not touched; what they take away is of cause `config`, and held."""
        self.desk.route(links)
        self._version = 0
        self.poke()

    def poke(self, names: Iterable[ServiceName] | None = None) -> None:
        """Plan some names again, or all: an approval, a freeze that ended, a timer."""
        now = Seen(self._clock(), self._store.version)
        for name in self.desk.names() if names is None else names:
            self._dirty.setdefault(name, now)
        self._store.wake()

    def read_again(self, names: Set[ServiceName]) -> None:
        """Somebody may have written there, and need not have told."""
        self._doubt(names)
        if names:
            self._store.wake()

    @property
    def idle(self) -> bool:
        """Everything seen is planned, and everything planned is written, held, parked or kept back."""
        return (
            self._read_once
            and not (self._dirty or self._busy or self._timers or self._unread is None or self._unread)
            and (self._version, self._syncs) == (self._store.version, self._store.syncs)
        )

    @property
    def reason(self) -> str:
        """What is wrong with the destination. What could not be written stays true while reads go well."""
        return self._reason or next(iter(self._failing.values()), "")

    @property
    def lag(self) -> float:
        """Seconds since the oldest change that was seen and is not yet written."""
        return max((self._clock() - seen.at for seen in self._dirty.values()), default=0.0)

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns. Trouble at this destination ends here, so that no destination slows another (rule 9)."""
        self._unread = None
        self._busy.clear()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._superseded = asyncio.Event()
        try:
            await self._run()
        finally:
            self.loops = {}

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            works: dict[str, Coroutine[Any, Any, None]] = {
                "plan": self._retrying("read", self._plan_loop),
                "drift": self._retrying("drift", self._follow_drift),
                "confirm": self._confirm_loop(),
                "resync": self._resync_loop(),
            }
            if self.desk.writes:
                works["lock"] = self._retrying("lock", self._reign)
                if self.peers is not None:
                    works["peers"] = self.peers.run(lambda: self._writing)
            else:
                self.role = "observing"
            self.loops = {what: tasks.create_task(work) for what, work in works.items()}

    async def _retrying(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(self._rng)
        while True:
            began = self._clock()
            delay: float | None = None
            try:
                await work()
                delay = 0.0
            except (Expired, Superseded) as error:
                log.info("again destination=%s what=%s reason=%r", self.destination, what, str(error))
            except Denied as error:
                delay = DENIED_DELAY
                self._trouble(what, error)
            except Unavailable as error:
                delay = error.retry_after
                self._trouble(what, error)
            except Exception as error:
                log.exception("bug destination=%s what=%s", self.destination, what)
                self._trouble(what, error)
            if self._clock() - began > 10.0:
                backoff.reset()
            await asyncio.sleep(backoff.delay() if delay is None else delay)

    def _trouble(self, what: str, error: Exception) -> None:
        if self._reason.endswith(f": {error}"):
            return  # whatever else is tried meets the same: one word of it is enough
        text = f"{what}: {error}"
        log.warning("trouble destination=%s reason=%r", self.destination, text)
        self._reason = text

    def _fails(self, names: Iterable[ServiceName], error: Exception) -> None:
        text = f"apply: {error}"
        if text not in self._failing.values():
            log.warning("trouble destination=%s reason=%r", self.destination, text)
        self._failing.update(dict.fromkeys(names, text))

    async def _reign(self) -> None:
        self.role = "standby"
        self._following = True
        asked = self._clock()
        async with self.sink.writer() as term:
            another_wrote = self._clock() - asked > FREE
            if self.peers is not None:
                await self.peers.inherit()
            for view in self._store.views():
                if not view.up:
                    view.unhear()
                    if view.listing and another_wrote:
                        self._relist(view)  # by newer words, perhaps, than those that this listing began with
            # What was read as a standby may be old by now: an answer from before the lock is no ground to write on.
            self._unread = None
            self._superseded.clear()
            self._writing = True
            self.role = "writer"
            self._ear.event("writer", destination=self.destination)
            self.poke()
            ends = [asyncio.ensure_future(term.ended()), asyncio.ensure_future(self._superseded.wait())]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                self._writing = False
                self._failing.clear()
                self.role = "standby"
                self._ear.event("standby", destination=self.destination)

    async def _follow_drift(self) -> None:
        async with aclosing(cast(Any, self.sink.drift())) as words:
            async for names in words:
                if not names:
                    self._unread = None
                elif self._unread is not None:
                    self._unread |= names
                self._store.wake()

    async def _resync_loop(self) -> None:
        while True:
            await asyncio.sleep(self._resync * (0.9 + self._rng.random() / 5))
            self._unread = None
            self._store.wake()

    # -- reading and planning ------------------------------------------------------------------------------------

    async def _plan_loop(self) -> None:
        while True:
            if self._unread is None or self._unread:
                await self._read()
            self._collect()
            names = [name for name in self._dirty if name not in self._busy]
            if not names:
                if self._unread is None or self._unread - self._busy:
                    continue  # it came while the last of it was read
                if self._writing and not self._busy and self._read_once:
                    self.desk.note_settled()
                await self._store.newer(self._version)
            elif self._slots.locked():
                # The target is slower than its sources: wait for room, and let what comes meanwhile coalesce.
                async with self._slots:
                    pass
            else:
                await self._work(names)

    async def _read(self) -> None:
        names, self._unread = self._unread, set()
        self._written = set(self._busy)  # what is written while we read must be read again afterwards
        wanted = None if names is None else frozenset(names - self._written)
        try:
            if wanted is None or wanted:
                held = await self.sink.held(wanted)
                if self._reason:
                    log.info("reached destination=%s identity=%s", self.destination, held.identity)
                self._reason = ""
                following, self._read_once = self._following and self._read_once, True
                if wanted is None and self._writing:
                    self._following = False  # this was the last word of the writer before us
                self.poke(self.desk.take(held, wanted, self._written, following=following))
        except BaseException:
            self._unread = None if names is None or self._unread is None else self._unread | names
            raise
        if self._unread is not None:
            self._unread |= self._written if names is None else self._written & names

    def _collect(self) -> None:
        """Takes up what changed at the sources, and what waited for a source's first word."""
        if self._syncs != self._store.syncs:
            self._syncs = self._store.syncs
            self.poke({*self.desk.kept, *self.desk.holds.names()})
        version = self._store.version
        if version != self._version:
            for name, seen in self.desk.affected(self._version):
                self._dirty.setdefault(name, seen)
            self._version = version

    async def _work(self, names: list[ServiceName]) -> None:
        """Plans what may lose something before any of it is judged (a loss is judged as a whole), then sends batches.

        Where nothing stands nothing is lost: the other names are planned when there is room to write them.
        """
        plans: dict[ServiceName, tuple[Plan, Seen]] = {}
        for count, name in enumerate([name for name in names if name in self.desk.entries], 1):
            planned = self._planned(name)
            if planned is not None:
                plans[name] = planned
            if count % PLAN_SLICE == 0:
                await asyncio.sleep(0)
        waiting = deque(name for name in names if name in plans or name in self._dirty)
        while waiting:
            await self._slots.acquire()
            self._collect()
            batch: list[Change] = []
            about: dict[ServiceName, tuple[Plan, Seen]] = {}
            for _ in range(min(PLAN_SLICE, len(waiting))):
                name = waiting[0]
                planned = plans.pop(name, None)
                if name in self._dirty:  # not planned, or changed while it waited for a slot: the newest wins
                    seen = planned[1] if planned is not None else self._dirty[name]
                    planned = self._planned(name)
                    planned = None if planned is None else (planned[0], min(seen, planned[1]))
                if planned is not None and batch and len(batch) + len(planned[0].upserts) > self._batch:
                    plans[name] = planned
                    break
                waiting.popleft()
                changes = self._allowed(planned[0]) if planned is not None else []
                if planned is not None and changes:
                    batch += changes
                    about[name] = planned
                    self._busy.add(name)
                else:
                    self._failing.pop(name, None)
            if batch:
                # Not a part of this loop: trouble in reading must not leave it unknown what became of a write.
                self._tasks.create_task(self._apply(batch, about))
            else:
                self._slots.release()
            if waiting:
                await asyncio.sleep(0)  # what was just sent is to leave before the next is planned

    def _planned(self, name: ServiceName) -> tuple[Plan, Seen] | None:
        seen = self._dirty.pop(name)
        plan = self.desk.planned(name)
        if plan is None:
            self._conflicts.pop(name, None)
            return None
        return plan, seen

    def _allowed(self, plan: Plan) -> list[Change]:
        changes, again = self.desk.allowed(plan, self._writing)
        if again:
            loop = asyncio.get_running_loop()
            timer = self._timers.get(plan.name)
            if timer is None or timer.when() > loop.time() + again:
                if timer is not None:
                    timer.cancel()
                self._timers[plan.name] = loop.call_later(again, self._timed_out, plan.name)
        return changes

    def _timed_out(self, name: ServiceName) -> None:
        del self._timers[name]
        self.poke([name])

    # -- writing -------------------------------------------------------------------------------------------------

    async def _apply(self, batch: list[Change], about: dict[ServiceName, tuple[Plan, Seen]]) -> None:
        rests: dict[ServiceName, float] = {}
        made: dict[ServiceName, int] = {}
        sent = self._clock()
        try:
            outcomes = await self.sink.apply(batch)
            late = self._clock() - sent > LATE
            for outcome in outcomes:
                name = outcome.change.service
                rests[name] = max(rests.get(name, 0.0), self._settle(outcome, *about[name], late=late))
                made[name] = made.get(name, 0) + (outcome.error is None)
        except Superseded as error:
            self._writing = False
            self._superseded.set()
            self._unread = None
            log.warning("superseded destination=%s reason=%r", self.destination, str(error))
        except Exception as error:
            # Nothing may be raised here, so this is a bug; what became of the batch is unknown, so it is read again.
            log.exception("bug destination=%s what=apply", self.destination)
            self._fails(about, error)
            self._doubt(about)
            self.desk.unsure |= about.keys()
            rests = dict.fromkeys(about, 1.0)
        finally:
            self._written.update(about)  # |= with keys would copy it
            tired = {name: rest for name, rest in rests.items() if rest}
            over = {name for name, count in made.items() if about[name][0].ends_with(count)}
            self._busy -= over
            self._free(about.keys() - tired.keys() - over)
            if self._failing:
                self._failing = {name: why for name, why in self._failing.items() if name in tired or name not in about}
            for name, rest in tired.items():
                self._tasks.create_task(self._rest(name, rest))
            if len(tired) == len(about):  # nothing went well: the target is in trouble, and is not hurried
                await asyncio.sleep(min(HURRY, *tired.values()))
            self._slots.release()
            self._store.wake()

    async def _rest(self, name: ServiceName, seconds: float) -> None:
        """One name waits, its siblings do not (rule 9)."""
        await asyncio.sleep(seconds)
        self._free({name})

    def _free(self, names: Set[ServiceName]) -> None:
        self._busy -= names
        self.poke(names)

    def _doubt(self, names: Iterable[ServiceName]) -> None:
        if self._unread is not None:
            self._unread |= set(names)

    def _settle(self, outcome: Outcome, plan: Plan, seen: Seen, *, late: bool) -> float:
        """Takes one outcome over; returns the seconds to wait before this name is tried again."""
        change, error = outcome.change, outcome.error
        if error is None:
            self.desk.done(outcome, plan, seen, late=late)
            self._conflicts.pop(change.service, None)
            return 0.0
        self._ear.failed(change, error)
        if isinstance(error, Rejected) and change.after is not None:
            self.desk.park(change, str(error), self._clock())
            return 0.0
        self._doubt((change.service,))
        if isinstance(error, Conflict):
            # Once is a race, and the reading settles it; again and again, somebody fights or reads are stale.
            times = self._conflicts[change.service] = self._conflicts.get(change.service, 0) + 1
            return min(0.05 * 2.0**times, LONGEST_DELAY) if times > 1 else 0.0
        self.desk.unsure.add(change.service)
        self._fails((change.service,), error)
        if isinstance(error, Denied):
            return DENIED_DELAY
        after = error.retry_after if isinstance(error, Unavailable) else None
        return after if after is not None else 0.5 + self._rng.random() / 2

    # -- second opinions -----------------------------------------------------------------------------------------

    async def _confirm_loop(self) -> None:
        limit = asyncio.Semaphore(OPINIONS)
        loop = asyncio.get_running_loop()
        loss = 0
        while True:
            slept = loop.time()
            await asyncio.sleep(1.0)
            if loop.time() - slept > 1.0 + STOPPED:
                self._wake()
            before, loss = loss, self.desk.holds.asked()
            if loss < before:
                self.poke(list(self.desk.holds.names()))  # what is left may be a loss that needs nobody's word
            if not self._writing:
                continue
            asked: dict[tuple[str, str, ServiceName], list[HeldRemoval]] = {}
            for one in self.desk.holds.due(self._clock()):
                mark = one.removal.change.mark
                if mark is not None and not self.desk.is_frozen(mark.link):
                    asked.setdefault((mark.path[-1], mark.scope, mark.service), []).append(one)
            await asyncio.gather(*(self._confirm(*about, ones, limit) for about, ones in asked.items()))

    def _wake(self) -> None:
        """This process was stopped: what it heard before may be older than what another wrote meanwhile."""
        log.warning("stopped destination=%s", self.destination)
        for view in self._store.views():
            if view.synced:
                view.unhear()
                self._relist(view)

    async def _confirm(
        self, identity: str, scope: str, service: ServiceName, ones: list[HeldRemoval], limit: asyncio.Semaphore
    ) -> None:
        """Asks a source afresh, and lets go what it agrees to; where it disagrees, its watch is wrong.

        While its watch is down, whoever answers may be another life of it, and that one's word waits, too (rule 3).
        """
        view = next((v for v in self._store.views() if v.identity == identity and v.scope == scope), None)
        observed: Observed | None = None
        if view is not None and _is_itself(view):
            async with limit:
                try:
                    observed = await self._second_opinion(view, service)
                except Exception as error:
                    log.info("no second opinion service=%s reason=%r", service, str(error))
            if not _is_itself(view):
                observed = None
        wrong = False
        for one in ones:
            if view is not None and observed is not None and _agrees(one, view, observed):
                if one.removal.change.id in self.desk.holds.of(one.removal.change.service):  # it may be asked no more
                    self.desk.holds.free([one.item])
                    self.poke([one.removal.change.service])
            else:
                wrong = wrong or observed is not None
                self.desk.holds.postpone(one, self._clock() + ASK_AGAIN)
        if wrong and view is not None:
            self._ear.event("disagreement", registry=repr(view), service=str(service))
            self._relist(view)


def _is_itself(view: View) -> bool:
    """Whether the store that answers is the one that was known, as far as its watch can tell."""
    return view.synced and view.up and not view.doubt


def _agrees(one: HeldRemoval, view: View, observed: Observed) -> bool:
    """Whether a fresh read says what the watch said: what is there but cannot be read agrees with nothing."""
    mark = one.removal.change.mark
    if mark is None or mark.instance in observed.unreadable or EVERY_ID in observed.unreadable:
        return False
    there = observed.service.instances.get(mark.instance)
    if there is None:
        return True
    known = view.services.get(mark.service)
    said = known.instances.get(mark.instance) if known is not None else None
    if one.removal.cause is Cause.HEALTH:
        return said is not None and not there.serving
    return one.removal.cause is Cause.EVENT and said == there
