"""Plans and applies until there is nothing to do, for one destination: the only place that retries a write."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast

from bridge import guard
from bridge.adapter import Cause, Change, Entry, Held, Outcome, Sink
from bridge.errors import Conflict, Denied, Expired, Rejected, Superseded, Unavailable
from bridge.feed import DENIED_DELAY, Backoff
from bridge.guard import Level, Windows
from bridge.holds import HeldRemoval, Holds
from bridge.link import Guard, Link, Policy
from bridge.model import Instance, ServiceName
from bridge.pace import Flaps, Herds
from bridge.plan import Plan, Removal, make_plan, settled_causes
from bridge.route import Desired, Supply, Wanted, desired, target_of
from bridge.store import Store, View

log = logging.getLogger("isthmus.reconcile")

BATCH = 60  # changes in one call of apply; a transaction of etcd holds 128 operations, two a change
IN_FLIGHT = 16  # calls of apply under way at once: bounded, so that a slow target coalesces instead of queueing
PLAN_SLICE = 200  # services planned before others get their turn on the loop


class Ear(Protocol):
    """Who is told what happens at a destination: the journal, the metrics, the log."""

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: float, serving: tuple[int, int]) -> None:
        """One change was made; `seen` is when its source was heard (monotonic), `serving` before and after."""

    def held(self, one: HeldRemoval) -> None:
        """The guard holds a removal."""

    def released(self, one: HeldRemoval, why: str) -> None:
        """A held removal is held no more."""

    def failed(self, change: Change, error: Exception) -> None:
        """One change failed."""

    def event(self, kind: str, **about: object) -> None:
        """Anything else worth a line."""


class Reconciler:
    """One destination, all links into it, and everything that is owned there.

    `relist(registry, scope)` starts a source's watch over; `frozen(link)` says whether writes are stopped.
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
        second_opinion: Callable[[View, ServiceName], Awaitable[Any]],
        relist: Callable[[View], None],
        frozen: Callable[[str], bool] = lambda _: False,
        resync: float = 600.0,
        batch: int = BATCH,
    ) -> None:
        self.destination = destination
        self.sink = sink
        self.owner = owner
        self.holds = Holds()
        self.windows = Windows()
        self.identity = ""
        self.role = "starting"  # starting, observing, standby, writer
        self.reason = "not reached yet"  # why nothing can be read or written there, "" if it can
        self.parked: dict[tuple[ServiceName, str], str] = {}
        self.shadowed: dict[ServiceName, dict[str, str]] = {}
        self.kept: dict[ServiceName, dict[str, str]] = {}
        self.plans: dict[ServiceName, Plan] = {}  # what would be done, where it may not be done now
        self.entries: dict[ServiceName, dict[str, Entry]] = {}
        self._links: dict[str, Link] = {}
        self._store = store
        self._ear = ear
        self._clock = clock
        self._rng = rng
        self._second_opinion = second_opinion
        self._relist = relist
        self._frozen = frozen
        self._resync = resync
        self._batch = batch
        self._loose: dict[ServiceName, dict[str, Any]] = {}
        self._known: dict[ServiceName, dict[str, Wanted]] = {}
        self._goals: dict[ServiceName, Desired] = {}
        self._causes: dict[ServiceName, dict[str, Cause]] = {}
        self._feeds: dict[ServiceName, dict[tuple[str, str, ServiceName], None]] = {}
        self._rejected: dict[tuple[ServiceName, str], tuple[Instance, str]] = {}
        self._owned: dict[tuple[str, str], int] = {}  # serving entries of ours by scope
        self._settled: set[tuple[str, str]] = set()  # scopes whose first copy is done: from then on growth counts
        self._dirty: dict[ServiceName, float] = {}  # to be planned, with the time when its source was heard
        self._busy: set[ServiceName] = set()
        self._unread: set[ServiceName] | None = None  # to be read again at the target; None: everything
        self._written: set[ServiceName] = set()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._superseded = asyncio.Event()
        self._flaps = Flaps()
        self._herds = Herds()
        self._timers: dict[ServiceName, asyncio.TimerHandle] = {}
        self._version = 0
        self._writing = False
        self._read_once = False
        self.route(links)

    # -- what to do ----------------------------------------------------------------------------------------------

    def route(self, links: Sequence[Link]) -> None:
        """New links: what stays is not touched; what they take away is of cause `config`, and held."""
        self._links = {link.name: link for link in links}
        self._feeds.clear()
        self._known.clear()
        self._causes.clear()
        self._version = 0
        for name in self.entries:
            self._dirty.setdefault(name, self._clock())
        self._store.wake()

    @property
    def links(self) -> Sequence[Link]:
        """The links into this destination."""
        return tuple(self._links.values())

    def is_frozen(self, link: str) -> bool:
        """Whether an operator has stopped the writes of a link."""
        return self._frozen(link)

    def poke(self, names: Iterable[ServiceName] | None = None) -> None:
        """Plan some names again, or all: an approval, a freeze that ended, a timer."""
        now = self._clock()
        for name in list(self.entries.keys() | self._feeds.keys()) if names is None else names:
            self._dirty.setdefault(name, now)
        self._store.wake()

    @property
    def idle(self) -> bool:
        """Everything seen is planned, and everything planned is written, held, parked or kept back."""
        return (
            self._read_once
            and not (self._dirty or self._busy or self._timers or self._unread is None or self._unread)
            and self._version == self._store.version
        )

    @property
    def lag(self) -> float:
        """Seconds since the oldest change that was seen and is not yet written."""
        return max((self._clock() - seen for seen in self._dirty.values()), default=0.0)

    # -- running -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns. Trouble at this destination ends here, so that no destination slows another (rule 9)."""
        self._unread = None
        self._busy.clear()
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._superseded = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._retrying("read", self._plan_loop))
            tasks.create_task(self._retrying("drift", self._follow_drift))
            tasks.create_task(self._confirm_loop())
            tasks.create_task(self._resync_loop())
            if any(link.policy is not Policy.OBSERVE for link in self._links.values()):
                tasks.create_task(self._retrying("lock", self._reign))
            else:
                self.role = "observing"

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
        text = f"{what}: {error}"
        if text != self.reason:
            log.warning("trouble destination=%s reason=%r", self.destination, text)
        self.reason = text

    async def _reign(self) -> None:
        self.role = "standby"
        async with self.sink.writer() as term:
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

    async def _plan_loop(self) -> None:
        writes: set[asyncio.Task[None]] = set()
        try:
            while True:
                if self._unread is None or self._unread:
                    await self._read()
                self._collect()
                names = [name for name in self._dirty if name not in self._busy]
                if not names:
                    if not self._busy and self._read_once:
                        self._note_settled()
                    await self._store.newer(self._version)
                elif self._slots.locked():
                    # The target is slower than its sources: wait for room, and let what comes meanwhile coalesce.
                    async with self._slots:
                        pass
                else:
                    await self._work(names, writes)
        finally:
            for task in writes:
                task.cancel()
            if writes:
                await asyncio.wait(writes)

    async def _read(self) -> None:
        names, self._unread = self._unread, set()
        self._written = set(self._busy)  # what is written while we read must be read again afterwards
        wanted = None if names is None else frozenset(names - self._written)
        try:
            if wanted is None or wanted:
                held = await self.sink.held(wanted)
                if self.reason:
                    log.info("reached destination=%s identity=%s", self.destination, held.identity)
                self.reason = ""
                self._take(held, wanted)
        except BaseException:
            self._unread = None if names is None or self._unread is None else self._unread | names
            raise
        if self._unread is not None:
            self._unread |= self._written if names is None else self._written & names

    def _take(self, held: Held, names: frozenset[ServiceName] | None) -> None:
        self.identity = held.identity
        now = self._clock()
        known = self.entries.keys() | self._loose.keys() | held.services.keys() | held.loose.keys()
        for name in list(known if names is None else names):
            if name in self._written:
                continue
            entries = held.services.get(name, {})
            loose = held.loose.get(name, {})
            if entries != self.entries.get(name, {}) or loose != self._loose.get(name, {}):
                self._put(name, entries)
                if loose:
                    self._loose[name] = loose
                else:
                    self._loose.pop(name, None)
                self._dirty.setdefault(name, now)
        self._read_once = True

    def _put(self, name: ServiceName, entries: dict[str, Entry]) -> None:
        for count, gone in ((-1, self.entries.get(name, {})), (1, entries)):
            for entry in gone.values():
                if entry.mark is not None and entry.mark.owner == self.owner and entry.instance.serving:
                    scope = (entry.mark.path[-1], entry.mark.scope)
                    self._owned[scope] = self._owned.get(scope, 0) + count
        if entries:
            self.entries[name] = entries
        else:
            self.entries.pop(name, None)

    def _collect(self) -> None:
        """Finds out which target names the changed services feed."""
        version = self._store.version
        if version == self._version:
            return
        namespaces = self.sink.traits.namespaces
        for registry, service, seen in self._store.since(self._version):
            for link in self._links.values():
                if registry not in link.from_:
                    continue
                target, _ = target_of(link, registry, service, namespaces)
                if target is not None:
                    self._feeds.setdefault(target, {})[link.name, registry, service] = None
                    self._dirty.setdefault(target, seen)
        self._version = version

    def _note_settled(self) -> None:
        for view in self._store.views():
            if view.synced and (view.identity, view.scope) not in self._settled:
                self._settled.add((view.identity, view.scope))

    # -- planning ------------------------------------------------------------------------------------------------

    def supplies(self, name: ServiceName) -> list[Supply]:
        """All that feeds a target name, in the order of each link's `from` list."""
        found = []
        feeds = self._feeds.get(name, {})
        for link_name, registry, service in list(feeds):
            link = self._links[link_name]
            there = False
            for view in self._store.views(registry):
                held = view.services.get(service)
                if held is not None:
                    there = True
                    found.append(Supply(link, registry, view.scope, view.identity, held))
            if not there:
                del feeds[link_name, registry, service]
        if not feeds:
            self._feeds.pop(name, None)
        if len(found) > 1:
            found.sort(key=lambda one: (one.link.name, one.link.from_.index(one.registry), one.scope))
        return found

    def plan(self, name: ServiceName) -> tuple[Desired, Plan]:
        """What is desired under a name, and what would be done about it."""
        known = self._known.get(name, {})
        supplies = self.supplies(name)
        goal = desired(name, supplies, self.owner, self.identity, self.sink.traits, self.sink.canonical, known)
        links = self._links
        registries = {registry for link in links.values() for registry in link.from_}
        views = (view for registry in registries for view in self._store.views(registry))
        plan = make_plan(
            name,
            goal,
            self.entries.get(name, {}),
            self._loose.get(name, {}),
            self.owner,
            links,
            views,
            self._causes.get(name, {}),
        )
        if plan.removals:
            causes = settled_causes(plan, known, self._causes.get(name, {}))
            self._causes[name] = causes
            plan = plan._replace(
                removals=[one._replace(cause=causes.get(one.change.id, one.cause)) for one in plan.removals]
            )
        else:
            self._causes.pop(name, None)
        return goal, plan

    async def _work(self, names: list[ServiceName], writes: set[asyncio.Task[None]]) -> None:
        """Plans all of it before any of it is judged (a loss is judged as a whole), then sends it in batches."""
        plans: deque[tuple[Plan, float]] = deque()
        for count, name in enumerate(names, 1):
            planned = self._planned(name)
            if planned is not None:
                plans.append(planned)
            if count % PLAN_SLICE == 0:
                await asyncio.sleep(0)
        while plans:
            await self._slots.acquire()
            batch: list[Change] = []
            about: dict[ServiceName, tuple[Plan, float]] = {}
            self._collect()
            while plans and (not batch or len(batch) + len(plans[0][0].upserts) <= self._batch):
                plan, seen = plans.popleft()
                if plan.name in self._dirty:  # it changed while it waited for a slot: the newest wins
                    planned = self._planned(plan.name)
                    if planned is None:
                        continue
                    plan, seen = planned[0], min(seen, planned[1])
                changes = self._allowed(plan)
                if changes:
                    batch += changes
                    about[plan.name] = (plan, seen)
                    self._busy.add(plan.name)
            if batch:
                task = asyncio.create_task(self._apply(batch, about))
                writes.add(task)
                task.add_done_callback(writes.discard)
            else:
                self._slots.release()

    def _planned(self, name: ServiceName) -> tuple[Plan, float] | None:
        seen = self._dirty.pop(name)
        goal, plan = self.plan(name)
        self._remember(name, goal, plan)
        self.holds.ask(name, plan.removals)
        if plan.quiet and not self.holds.of(name):
            self.holds.settle(name, {}, [])  # what is asked no more is neither free nor waited for
            self._herds.keep(name, ())
            self.plans.pop(name, None)
            return None
        return plan, seen

    def _remember(self, name: ServiceName, goal: Desired, plan: Plan) -> None:
        if goal.wanted:
            self._known[name] = goal.wanted
        else:
            self._known.pop(name, None)
        entries = self.entries.get(name)
        if entries is not None and plan.quiet:
            for key, wanted in goal.wanted.items():
                entry = entries.get(key)
                if entry is None or entry.mark is None or entry.mark is wanted.mark or key in plan.shadowed:
                    continue
                if entry.mark.owner == self.owner:
                    # Equal, but read from the target: share one object from now on, in memory and in comparing.
                    entries[key] = Entry(wanted.instance, wanted.mark, entry.version)
        for kind, found in ((self.shadowed, plan.shadowed), (self.kept, plan.kept)):
            if found:
                kind[name] = found
            else:
                kind.pop(name, None)
        parked = {(name, f"{at[3]}"): refusal.reason for at, refusal in goal.refused.items() if refusal.parked}
        if plan.parked:
            parked[name, "*"] = plan.parked
        if parked or self.parked:
            for old in [at for at in self.parked if at[0] == name and at not in parked and at not in self._rejected]:
                del self.parked[old]
            self.parked.update(parked)

    def _allowed(self, plan: Plan) -> list[Change]:
        """The changes that may be made now: by policy, freeze, parking, and the guard."""
        now = self._clock()
        held: dict[str, HeldRemoval] = {}
        free: list[Change] = []
        going = sum(1 for removal in plan.removals if removal.loses)
        for removal in plan.removals:
            if removal.loses and not self.holds.is_free(removal) and self._waits_for_the_herd(removal, now):
                continue
            verdict = self._judge(plan, removal, going, now)
            if verdict.rule and not self.holds.is_free(removal):
                limits = self._limits(removal)
                wait = limits.confirm_absence if removal.cause is Cause.ABSENCE else limits.confirm_event
                held[removal.change.id] = HeldRemoval(removal, verdict, now, None if verdict.operator else now + wait)
            else:
                free.append(removal.change)
                if removal.loses and self._writing:
                    self._herds.goes(removal.scope, now)
        if self._writing and any(self._will_add(change) for change in plan.upserts):
            # What is being added may be the very replacement: judge again when it stands there (rule 11).
            held = {key: one for key, one in held.items() if key in self.holds.of(plan.name)}
        self._herds.keep(plan.name, {removal.change.id for removal in plan.removals})
        fresh, gone = self.holds.settle(plan.name, held, plan.removals)
        for one in fresh:
            self._ear.held(one)
        for one in gone:
            going_now = one.removal.change.id in {change.id for change in free}
            self._ear.released(one, "released" if going_now else "no longer asked")
        changes = [
            change
            for change in (*plan.upserts, *free)
            if self._writable(change) and not self._is_parked(change) and not self._flaps_now(change, now)
        ]
        if not self._writing or len(changes) < len(plan.upserts) + len(free) or held:
            self.plans[plan.name] = plan
        else:
            self.plans.pop(plan.name, None)
        return changes if self._writing else []

    def _waits_for_the_herd(self, removal: Removal, now: float) -> bool:
        name = removal.change.service
        owned = self._owned.get(removal.scope, 0)
        return self._again_in(name, self._herds.wait(removal.scope, name, removal.change.id, owned, now))

    def _flaps_now(self, change: Change, now: float) -> bool:
        return self._again_in(change.service, self._flaps.wait((change.service, change.id), now))

    def _again_in(self, name: ServiceName, delay: float) -> bool:
        """Plans a name again after a delay; whether there is one."""
        if delay > 0 and name not in self._timers:
            self._timers[name] = asyncio.get_running_loop().call_later(delay, self._timed_out, name)
        return delay > 0

    def _timed_out(self, name: ServiceName) -> None:
        del self._timers[name]
        self.poke([name])

    def _will_add(self, change: Change) -> bool:
        return change.before is None and self._writable(change) and not self._is_parked(change)

    def _writable(self, change: Change) -> bool:
        if change.forget:
            return not self._frozen("*")
        link = self._links.get(change.mark.link) if change.mark else None
        return link is not None and link.policy is not Policy.OBSERVE and not self._frozen(link.name)

    def _is_parked(self, change: Change) -> bool:
        parked = self._rejected.get((change.service, change.id))
        if parked is None or change.after is None:
            return False
        if parked[0] == change.after:
            return True
        del self._rejected[change.service, change.id]
        self.parked.pop((change.service, change.id), None)
        return False

    def _limits(self, removal: Removal) -> Guard:
        mark = removal.change.mark
        link = self._links.get(mark.link) if mark else None
        return link.limits(removal.change.service) if link else Guard()

    def _judge(self, plan: Plan, removal: Removal, going: int, now: float) -> guard.Verdict:
        limits = self._limits(removal)
        owned = self._owned.get(removal.scope, 0)
        service = Level(self.windows.start(plan.name, plan.serving, now, limits.window), plan.serving - going)
        scope = Level(
            self.windows.start(removal.scope, owned, now, limits.window),
            owned - self.holds.losses(removal.scope, removal.cause),
        )
        return guard.judge(limits, removal.cause, removal.doubt, removal.loses, service, scope)

    # -- writing -------------------------------------------------------------------------------------------------

    async def _apply(self, batch: list[Change], about: dict[ServiceName, tuple[Plan, float]]) -> None:
        delay = 0.0
        try:
            outcomes = await self.sink.apply(batch)
            for outcome in outcomes:
                delay = max(delay, self._settle(outcome, *about[outcome.change.service]))
        except Superseded as error:
            self._writing = False
            self._superseded.set()
            self._unread = None
            log.warning("superseded destination=%s reason=%r", self.destination, str(error))
        except Exception as error:
            # Nothing may be raised here, so this is a bug; what became of the batch is unknown, so it is read again.
            log.exception("bug destination=%s what=apply", self.destination)
            self._trouble("apply", error)
            self._doubt(about)
            delay = 1.0
        finally:
            if delay:
                await asyncio.sleep(delay)
            now = self._clock()
            self._written |= about.keys()
            for name in about:
                self._busy.discard(name)
                self._dirty.setdefault(name, now)
            self._slots.release()
            self._store.wake()

    def _doubt(self, names: Iterable[ServiceName]) -> None:
        if self._unread is not None:
            self._unread |= set(names)

    def _settle(self, outcome: Outcome, plan: Plan, seen: float) -> float:
        """Takes one outcome over; returns the seconds to wait before this name is tried again."""
        change, error = outcome.change, outcome.error
        name = change.service
        if error is None:
            self._done(outcome, plan, seen)
            return 0.0
        self._ear.failed(change, error)
        if isinstance(error, Rejected) and change.after is not None:
            self._rejected[name, change.id] = (change.after, str(error))
            self.parked[name, change.id] = str(error)
            return 0.0
        self._doubt((name,))
        if isinstance(error, Conflict):
            return 0.0
        self._trouble("apply", error)
        if isinstance(error, Denied):
            return DENIED_DELAY
        after = error.retry_after if isinstance(error, Unavailable) else None
        return after if after is not None else 0.5 + self._rng.random() / 2

    def _done(self, outcome: Outcome, plan: Plan, seen: float) -> None:
        change = outcome.change
        name = change.service
        now = self._clock()
        if change.forget:
            self._forget_loose(name, change.id)
            self._ear.written(outcome, "forget", change.cause, seen, (plan.serving, plan.serving))
            return
        if change.before is not None:
            self._flaps.wrote((name, change.id), now)
        entries = dict(self.entries.get(name, {}))
        before = entries.get(change.id)
        if change.after is None:
            entries.pop(change.id, None)
        else:
            entries[change.id] = Entry(change.after, change.mark, outcome.version)
            self._forget_loose(name, change.id)
        was = sum(1 for entry in self.entries.get(name, {}).values() if entry.instance.serving)
        self._put(name, entries)
        won = int(change.after is not None and change.after.serving) - int(
            before is not None and before.instance.serving
        )
        if won and change.mark is not None and change.cause not in (Cause.REPLACED, Cause.SHADOWED):
            scope = (change.mark.path[-1], change.mark.scope)
            if won < 0 or scope in self._settled:
                self.windows.add(name, now, won)
                self.windows.add(scope, now, won)
        kind = "add" if change.before is None else "remove" if change.after is None else "update"
        self._ear.written(outcome, kind, change.cause, seen, (was, was + won))

    def _forget_loose(self, name: ServiceName, id: str) -> None:
        loose = self._loose.get(name)
        if loose is not None:
            loose.pop(id, None)
            if not loose:
                del self._loose[name]

    # -- second opinions -----------------------------------------------------------------------------------------

    async def _confirm_loop(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if not self._writing:
                continue
            now = self._clock()
            asked: dict[tuple[str, str, ServiceName], list[HeldRemoval]] = {}
            for one in self.holds.due(now):
                mark = one.removal.change.mark
                if mark is not None and not self._frozen(mark.link):
                    asked.setdefault((mark.path[-1], mark.scope, mark.service), []).append(one)
            limit = asyncio.Semaphore(8)
            waiting: deque[Awaitable[None]] = deque()
            for (identity, scope, service), ones in asked.items():
                waiting.append(self._confirm(identity, scope, service, ones, limit))
            if waiting:
                await asyncio.gather(*waiting)

    async def _confirm(
        self, identity: str, scope: str, service: ServiceName, ones: list[HeldRemoval], limit: asyncio.Semaphore
    ) -> None:
        view = next((v for v in self._store.views() if v.identity == identity and v.scope == scope), None)
        again = self._clock() + 5.0
        if view is None or not view.synced:
            for one in ones:
                self.holds.postpone(one, again)
            return
        async with limit:
            try:
                observed = await self._second_opinion(view, service)
            except Exception as error:
                log.info("no second opinion service=%s reason=%r", service, str(error))
                for one in ones:
                    self.holds.postpone(one, again)
                return
        wrong = False
        for one in ones:
            mark = one.removal.change.mark
            there = observed.service.instances.get(mark.instance) if mark else None
            unreadable = mark is not None and (mark.instance in observed.unreadable or "*" in observed.unreadable)
            if one.removal.cause is Cause.HEALTH:
                agrees = there is None or not there.serving
            elif one.removal.cause is Cause.EVENT and there is not None:
                agrees = there == view.services.get(service, observed.service).instances.get(
                    mark.instance if mark else ""
                )
            else:
                agrees = there is None
            if agrees and not unreadable:
                self.holds.free([one.item])
                self.poke([one.removal.change.service])
            else:
                wrong = wrong or (there is not None and not unreadable)
                self.holds.postpone(one, again)
        if wrong:
            self._ear.event("disagreement", registry=repr(view), service=str(service))
            self._relist(view)
