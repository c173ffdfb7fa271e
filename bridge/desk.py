"""What one destination should hold, holds, and may do about it: plans, judged; no I/O, and no waiting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from math import inf
from typing import Any, NamedTuple, Protocol

from bridge import guard
from bridge.adapter import Cause, Change, Entry, Held, Outcome, Sink
from bridge.echo import Written
from bridge.guard import Level, Windows
from bridge.holds import HeldRemoval, Holds
from bridge.link import Guard, Link, Policy
from bridge.model import Instance, Mark, ServiceName
from bridge.pace import Flaps, Herds
from bridge.plan import LEFT, Plan, Removal, Scope, make_plan, settled_causes, source_of, with_causes
from bridge.route import Desired, Supply, Wanted, desired, target_of
from bridge.store import Seen, Store

log = logging.getLogger("isthmus.desk")


class Ear(Protocol):
    """Who is told what happens at a destination: the journal, the metrics, the log."""

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: Seen, serving: tuple[int, int]) -> None:
        """One change was made; `seen` is when its source was heard (monotonic).

        `serving`: entries of the service before and after; equal where the guard counts no loss or gain.
        """

    def noticed(self, change: Change, kind: str, serving: tuple[int, int]) -> None:
        """While this process stands by, the writer made a change; `serving` as for `written`."""

    def held(self, one: HeldRemoval) -> None:
        """The guard holds a removal."""

    def released(self, one: HeldRemoval, why: str) -> None:
        """A held removal is held no more."""

    def failed(self, change: Change, error: Exception) -> None:
        """One change failed."""

    def event(self, kind: str, **about: object) -> None:
        """Anything else worth a line."""


class Allowed(NamedTuple):
    """The changes of a plan that may be made now; and in how many seconds to look again, 0: no need."""

    changes: list[Change]
    again: float


class Refused(NamedTuple):
    """A value that the target did not take, and when that was last said (monotonic)."""

    value: Instance
    at: float


class Desk:
    """One destination: all links into it, and everything that is held under the names that they lead to.

    `frozen(link)`: an operator has stopped its writes. `parked`, `shadowed`, `kept`: what is not written, or left
    standing, with the reason. `refused`: what is parked because the target did not take it. `plans`: what would be
    done, where it may not be done now. `settled`: identity of the destination, identity and name of a scope whose first
    copy there is done: from then on growth counts.
    """

    def __init__(
        self,
        *,
        owner: str,
        sink: Sink,
        links: Sequence[Link],
        store: Store,
        ear: Ear,
        clock: Callable[[], float],
        frozen: Callable[[str], bool],
    ) -> None:
        self.owner = owner
        self.identity = ""
        self.since = inf
        self.holds = Holds()
        self.windows = Windows()
        self.entries: dict[ServiceName, dict[str, Entry]] = {}
        self.loose: dict[ServiceName, dict[str, Any]] = {}
        self.unsure: set[ServiceName] = set()  # what became of a write is seen when it is read again
        self.parked: dict[tuple[ServiceName, str], str] = {}
        self.refused: dict[tuple[ServiceName, str], Refused] = {}
        self.shadowed: dict[ServiceName, dict[str, str]] = {}
        self.kept: dict[ServiceName, dict[str, str]] = {}
        self.plans: dict[ServiceName, Plan] = {}
        self.settled: set[tuple[str, str, str]] = set()
        self.written: Written | None = None  # kept where it may come back as an echo
        self.beyond: dict[str, tuple[Written, ...]] = {}  # what may come back as an echo, by the registry it comes from
        self.is_frozen = frozen
        self._sink = sink
        self._store = store
        self._ear = ear
        self._clock = clock
        self._flaps = Flaps()
        self._herds = Herds()
        self._known: dict[ServiceName, dict[str, Wanted]] = {}
        self._causes: dict[ServiceName, dict[str, Cause]] = {}
        self._feeds: dict[ServiceName, dict[tuple[str, str, ServiceName], None]] = {}
        self._owned: dict[Scope, int] = {}  # serving entries of ours
        self._serving: dict[ServiceName, int] = {}  # serving entries, whoever owns them
        self._links: dict[str, Link] = {}
        self.route(links)

    def route(self, links: Sequence[Link]) -> None:
        """New links: what stays is not touched; what they take away is of cause `config`, and held."""
        self._links = {link.name: link for link in links}
        self._feeds.clear()
        self._known.clear()
        self._causes.clear()

    @property
    def links(self) -> Sequence[Link]:
        """The links into this destination."""
        return tuple(self._links.values())

    def keep_written(self, destination: str) -> Written:
        """What is ours here, from now on to be asked by address."""
        if self.written is None:
            self.written = Written(destination, self._clock)
            for name, entries in self.entries.items():
                for entry in entries.values():
                    if entry.mark is not None and entry.mark.owner == self.owner:
                        self.written.note(name, entry, gone=False)
        return self.written

    @property
    def writes(self) -> bool:
        """Whether any link may write."""
        return any(link.policy is not Policy.OBSERVE for link in self._links.values())

    def names(self) -> Iterable[ServiceName]:
        """Every name under which something is held or desired."""
        return self.entries.keys() | self.loose.keys() | self._feeds.keys()

    # -- what is desired, and what is held -----------------------------------------------------------------------

    def affected(self, version: int) -> Iterator[tuple[ServiceName, Seen]]:
        """The target names that the services which changed after that version feed."""
        if version < self._store.forgotten:
            seen = Seen(self._clock(), self._store.version)
            yield from ((name, seen) for name in [*self.names()])
        namespaces = self._sink.traits.namespaces
        for registry, service, seen in self._store.since(version):
            for link in self._links.values():
                if registry not in link.from_:
                    continue
                target, _ = target_of(link, registry, service, namespaces)
                if target is not None:
                    self._feeds.setdefault(target, {})[link.name, registry, service] = None
                    yield target, seen

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
                    follows = registry in self._store.follows
                    written = self.beyond.get(registry, ())
                    found.append(Supply(link, registry, view.scope, view.identity, held, follows, written))
            if not there:
                del feeds[link_name, registry, service]
        if not feeds:
            self._feeds.pop(name, None)
        if len(found) > 1:
            found.sort(key=lambda one: (one.link.name, one.link.from_.index(one.registry), one.scope))
        return found

    def take(
        self,
        held: Held,
        names: Iterable[ServiceName] | None,
        less: Iterable[ServiceName],
        *,
        following: bool = False,
    ) -> list[ServiceName]:
        """What was read at the target, for some names or for all, less some; returns the names that differ.

        `following`: another process of this bridge is the writer, and what changed of ours is its doing.
        """
        self.identity = held.identity
        first = self.since == inf
        if first:
            self.since = self._clock()
        known = self.entries.keys() | self.loose.keys() | held.services.keys() | held.loose.keys()
        differ = []
        for name in set(known if names is None else names) - set(less):
            entries = held.services.get(name, {})
            loose = held.loose.get(name, {})
            if entries != self.entries.get(name, {}) or loose != self.loose.get(name, {}):
                before, serving = self.entries.get(name, {}), self._serving.get(name, 0)
                self._put(name, entries)
                if not first:
                    after = {key: one for key, one in entries.items() if key not in loose}
                    self._notice(name, before, after, serving, tell=following or name in self.unsure)
                if loose:
                    self.loose[name] = loose
                else:
                    self.loose.pop(name, None)
                differ.append(name)
            self.unsure.discard(name)
        return differ

    def _put(self, name: ServiceName, entries: dict[str, Entry]) -> None:
        for entry in self.entries.get(name, {}).values():
            self._count(name, entry, -1)
        for entry in entries.values():
            self._count(name, entry, 1)
        if entries:
            self.entries[name] = entries
        else:
            self.entries.pop(name, None)

    def _count(self, name: ServiceName, entry: Entry, by: int) -> None:
        """One entry is held from now on, or no more."""
        if self.written is not None and entry.mark is not None and entry.mark.owner == self.owner:
            self.written.note(name, entry, gone=by < 0)
        if not entry.instance.serving:
            return
        self._serving[name] = self._serving.get(name, 0) + by
        if not self._serving[name]:
            del self._serving[name]
        if entry.mark is not None and entry.mark.owner == self.owner:
            scope = (entry.mark.path[-1], entry.mark.scope)
            self._owned[scope] = self._owned.get(scope, 0) + by

    def _notice(
        self, name: ServiceName, before: dict[str, Entry], after: dict[str, Entry], serving: int, *, tell: bool
    ) -> None:
        """Counts for the guard what became of ours under a name, and may tell; the later of two changes is seen alone.

        Who wakes takes itself for the writer at first; what others take off, or put back, is ours all the same.
        """
        for key in sorted(before.keys() | after.keys()):
            was, now = before.get(key), after.get(key)
            newest = now or was
            if newest is None or newest.mark is None or newest.mark.owner != self.owner:
                continue
            if was is not None and was.mark is not None and now is not None and was.instance == now.instance:
                continue
            won = int(now is not None and now.instance.serving) - int(was is not None and was.instance.serving)
            scope = (newest.mark.path[-1], newest.mark.scope)
            counted = won if won < 0 or (self.identity, *scope) in self.settled else 0
            if counted:
                self._count_noticed(name, newest.mark, won)
                self._count_noticed(scope, newest.mark, won)
            if tell:
                kind = "add" if was is None else "remove" if now is None else "update"
                change = Change(name, key, was, now.instance if now is not None else None, newest.mark)
                self._ear.noticed(change, kind, (serving + won - counted, serving + won))
            serving += won

    def _count_noticed(self, key: Hashable, mark: Mark, won: int) -> None:
        """What was won unknown to this process may have stood for long: it cancels losses, and pays for no more."""
        now = self._clock()
        if won > 0:
            link = self._links.get(mark.link)
            lost = self.windows.start(key, 0, now, (link.guard if link else Guard()).window)
            won = min(won, max(0, lost))
        if won:
            self.windows.add(key, now, won)

    def note_settled(self) -> None:
        """Everything that was seen is planned: what has no instance left to be added has had its first copy."""
        fresh = {(self.identity, view.identity, view.scope) for view in self._store.views() if view.synced}
        if fresh <= self.settled:
            return
        waiting = {
            (self.identity, change.mark.path[-1], change.mark.scope)
            for plan in self.plans.values()
            for change in plan.upserts
            if change.mark is not None and change.before is None and (plan.name, change.id) not in self.refused
        }
        for first in sorted(fresh - self.settled - waiting):
            self.settled.add(first)
            self._ear.event("settled", destination=first[0], source=first[1], scope=first[2])

    # -- planning ------------------------------------------------------------------------------------------------

    def plan(self, name: ServiceName) -> tuple[Desired, Plan]:
        """What is desired under a name, and what would be done about it."""
        known = self._known.get(name, {})
        supplies = self.supplies(name)
        goal = desired(name, supplies, self.owner, self.identity, self._sink.traits, self._sink.canonical, known)
        links = self._links
        registries = {registry for link in links.values() for registry in link.from_}
        views = (view for registry in registries for view in self._store.views(registry))
        plan = make_plan(
            name,
            goal,
            self.entries.get(name, {}),
            self.loose.get(name, {}),
            self.owner,
            links,
            views,
            self._causes.get(name, {}),
        )
        if plan.removals:
            causes = settled_causes(plan, known, self._causes.get(name, {}))
            self._causes[name] = causes
            plan = with_causes(plan, causes)
        else:
            self._causes.pop(name, None)
        return goal, plan

    def planned(self, name: ServiceName) -> Plan | None:
        """Plans a name and counts what it would take away; None where there is nothing to do."""
        goal, plan = self.plan(name)
        self._remember(name, goal, plan)
        self.holds.ask(name, plan.removals)
        if plan.quiet and not self.holds.of(name):
            self.holds.settle(name, {}, [])  # what is asked no more is neither free nor waited for
            self._herds.keep(name, ())
            self.plans.pop(name, None)
            return None
        return plan

    def _remember(self, name: ServiceName, goal: Desired, plan: Plan) -> None:
        if goal.wanted:
            self._known[name] = goal.wanted
        else:
            self._known.pop(name, None)
        entries = self.entries.get(name)
        if entries is not None and plan.quiet:
            for key, wanted in goal.wanted.items():
                entry = entries.get(key)
                if entry is None or entry.mark is None or entry.mark is wanted.mark:
                    continue
                if entry.mark.owner == self.owner and key not in plan.shadowed and key not in plan.kept:
                    # Equal, but read from the target: share one object from now on, in memory and in comparing.
                    entries[key] = Entry(wanted.instance, wanted.mark, entry.version)
        for kind, found in ((self.shadowed, plan.shadowed), (self.kept, plan.kept)):
            if found:
                kind[name] = found
            else:
                kind.pop(name, None)
        if self.written is not None:
            self.written.leave(name, [key for key, reason in plan.kept.items() if reason.startswith(LEFT)])
        parked = {(name, at[3]): refusal.reason for at, refusal in goal.refused.items() if refusal.parked}
        if plan.parked:
            parked[name, "*"] = plan.parked
        if parked or self.parked:
            for at in [at for at in self.parked if at[0] == name and at not in parked]:
                if not self._still_refused(at, goal):
                    del self.parked[at]
            self.parked.update(parked)

    def _still_refused(self, at: tuple[ServiceName, str], goal: Desired) -> bool:
        refused, wanted = self.refused.get(at), goal.wanted.get(at[1])
        if refused is not None and (wanted is None or wanted.instance != refused.value):
            del self.refused[at]
            return False
        return refused is not None

    # -- judging -------------------------------------------------------------------------------------------------

    def allowed(self, plan: Plan, writing: bool) -> Allowed:
        """What may be done of a plan now: by policy, freeze, parking, pace, and the guard. `writing`: we may write."""
        now = self._clock()
        held: dict[str, HeldRemoval] = {}
        free: list[Change] = []
        again = 0.0
        going = sum(1 for removal in plan.removals if removal.loses)
        for removal in plan.removals:
            is_free = self.holds.is_free(removal)
            if removal.loses and not is_free:
                owned = self._owned.get(removal.scope, 0)
                wait = self._herds.wait(removal.scope, plan.name, removal.change.id, owned, now)
                if wait:
                    again = max(again, wait)
                    continue
            verdict, forgotten = self._judge(plan, removal, going, now)
            if verdict.rule and not is_free:
                due = None if verdict.operator else now + self._confirmation(removal)
                held[removal.change.id] = HeldRemoval(removal, verdict, now, due)
                again = max(again, forgotten)
            else:
                free.append(removal.change)
                if removal.loses and writing:
                    self._herds.goes(removal.scope, now)
        if held and writing and any(change.before is None and self._writable(change) for change in plan.upserts):
            # What is being added may be the very replacement: judge again when it stands there (rule 11).
            held = {key: one for key, one in held.items() if key in self.holds.of(plan.name)}
        self._settle_holds(plan, held, free)
        changes = []
        for change in (*plan.upserts, *free):
            if self._writable(change):
                wait = self._flaps.wait((plan.name, change.id), now)
                again = max(again, wait)
                if not wait:
                    changes.append(change)
        if not writing or len(changes) < len(plan.upserts) + len(free) or held:
            self.plans[plan.name] = plan
        else:
            self.plans.pop(plan.name, None)
        return Allowed(changes if writing else [], again)

    def _settle_holds(self, plan: Plan, held: dict[str, HeldRemoval], free: list[Change]) -> None:
        self._herds.keep(plan.name, {removal.change.id for removal in plan.removals})
        fresh, gone = self.holds.settle(plan.name, held, plan.removals)
        for one in fresh:
            self._ear.held(one)
        going = {change.id for change in free}
        now = self._clock()
        for one in gone:
            goes = one.removal.change.id in going
            if not goes:
                self.holds.came_back(one, now + self._confirmation(one.removal))
            self._ear.released(one, "released" if goes else "no longer asked")

    def _writable(self, change: Change) -> bool:
        """By policy and freeze, and not parked with this very value."""
        if change.forget:
            return not self.is_frozen("*")
        link = self._links.get(change.mark.link) if change.mark else None
        if link is None or link.policy is Policy.OBSERVE or self.is_frozen(link.name):
            return False
        refused = self.refused.get((change.service, change.id))
        return refused is None or change.after is None or refused.value != change.after

    def _limits(self, removal: Removal) -> Guard:
        mark = removal.change.mark
        link = self._links.get(mark.link) if mark else None
        return link.limits(removal.change.service) if link else Guard()

    def _confirmation(self, removal: Removal) -> float:
        """Seconds until a second opinion on a removal is asked for."""
        limits = self._limits(removal)
        return limits.confirm_absence if removal.cause is Cause.ABSENCE else limits.confirm_event

    def _judge(self, plan: Plan, removal: Removal, going: int, now: float) -> tuple[guard.Verdict, float]:
        """The verdict, and in how many seconds what it rests on is less by itself, 0: never."""
        limits = self._limits(removal)
        owned = self._owned.get(removal.scope, 0)
        service = Level(self.windows.start(plan.name, plan.serving, now, limits.window), plan.serving - going)
        losses, forgotten = self.holds.losses(removal.scope, removal.cause, now)
        scope = Level(self.windows.start(removal.scope, owned, now, limits.window), owned - losses)
        return guard.judge(limits, removal.cause, removal.doubt, removal.loses, service, scope), forgotten

    # -- what came of it -----------------------------------------------------------------------------------------

    def park(self, change: Change, reason: str, at: float) -> None:
        """The target refused this value `at` (monotonic): not again until it changes; its siblings flow."""
        if change.after is not None:
            self.refused[change.service, change.id] = Refused(change.after, at)
            self.parked[change.service, change.id] = reason

    def done(self, outcome: Outcome, plan: Plan, seen: Seen, *, late: bool = False) -> None:
        """One change was made; `late`: perhaps long ago."""
        change = outcome.change
        name = change.service
        now = self._clock()
        if change.forget:
            self._forget_loose(name, change.id)
            self._ear.written(outcome, "forget", change.cause, seen, (plan.serving, plan.serving))
            return
        if change.before is not None:
            self._flaps.wrote((name, change.id), now)
        was = self._serving.get(name, 0)
        entries = self.entries.setdefault(name, {})
        before = entries.get(change.id)
        if before is not None:
            self._count(name, before, -1)
        if change.after is not None:
            entries[change.id] = Entry(change.after, change.mark, outcome.version)
            self._count(name, entries[change.id], 1)
            self._forget_loose(name, change.id)
        else:
            entries.pop(change.id, None)
            if not entries:
                del self.entries[name]
        won = self._serving.get(name, 0) - was
        counted = 0
        # A replacement is counted on both sides, or its gain would pay for losses to come; a native's place is taken.
        if won and change.mark is not None and change.cause is not Cause.SHADOWED:
            scope = (change.mark.path[-1], change.mark.scope)
            if won < 0 or (self.identity, *scope) in self.settled:
                counted = won
                # What replaces may come from another scope: the one that is left has lost nothing by it.
                counts = change.cause is not Cause.REPLACED and not self._replaces(change)
                for key in (name, scope) if counts else (name,):
                    if late:
                        self._count_noticed(key, change.mark, won)
                    else:
                        self.windows.add(key, now, won)
        kind = "add" if change.before is None else "remove" if change.after is None else "update"
        self._ear.written(outcome, kind, change.cause, seen, (was + won - counted, was + won))

    def _replaces(self, change: Change) -> bool:
        """Whether a new entry stands beside another of ours for the same running copy, which goes next."""
        if change.before is not None or change.after is None or change.mark is None:
            return False
        sockets, source = change.after.sockets(), source_of(change.mark)
        return any(
            (source_of(entry.mark) == source or not sockets.isdisjoint(entry.instance.sockets()))
            for key, entry in self.entries[change.service].items()
            if key != change.id and entry.mark is not None and entry.mark.owner == self.owner
        )

    def _forget_loose(self, name: ServiceName, id: str) -> None:
        loose = self.loose.get(name)
        if loose is not None:
            loose.pop(id, None)
            if not loose:
                del self.loose[name]
