"""One destination: what it should hold, what it holds, and which changes may be made. No I/O, and no waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from bridge.adapter import Cause, Change, Entry, Held, Outcome, Placed, Sink
from bridge.destination.events import Events, Happened, HeldBack, Noticed, Released, Taken, Unwritten, Would, Written
from bridge.destination.inventory import Inventory
from bridge.destination.planner import Planner, Sizes
from bridge.destination.routing import Routing
from bridge.destination.trial import Trial
from bridge.destination.went import Went
from bridge.errors import Rejected
from bridge.group.sharding import Sharding, part
from bridge.guard.additions import Additions
from bridge.guard.gate import Allowed, Gate, Refused, Settled
from bridge.guard.holds import HeldRemoval, Holds, Item, item_of
from bridge.guard.losses import Losses, Past
from bridge.link import Link
from bridge.model import Mark, ServiceName
from bridge.plan.causes import TREATMENTS
from bridge.plan.echo import Written as Copied
from bridge.plan.orders import UNORDERED, Ordering
from bridge.plan.route import Desired, Supply
from bridge.plan.values import Plan, Reason, Scope, scope_of
from bridge.shards import WHOLE
from bridge.sources.networks import ONE, Networks, Places
from bridge.sources.store import Seen, Store

TAKEN_TIME = 600.0  # seconds for which `status` shows that others removed entries
TAKEN_KEPT = 10_000


class Destination:
    """All links into one destination, and all entries under the names that they feed: a facade of its parts.

    `frozen(link)`: whether an operator has stopped its writes. `plans`: those of which a part may not be made now.
    `since`: when it was first read (monotonic). `holds_additions`: additions of a changed file wait for the operator.
    """

    def __init__(
        self,
        *,
        name: str,
        owner: str,
        sink: Sink,
        links: Sequence[Link],
        store: Store,
        events: Events,
        clock: Callable[[], float],
        frozen: Callable[[str], bool],
        holds_additions: bool = True,
        networks: Networks = ONE,
        ordering: Ordering = UNORDERED,
    ) -> None:
        self.name = name
        self.owner = owner
        self.since = inf
        self.plans: dict[ServiceName, Plan] = {}
        self.holds_additions = holds_additions
        self.inventory = Inventory(owner, Places(sink.traits, networks, name), clock)
        self.routing = Routing(store, sink.traits, clock)
        self.losses = Losses()
        self.holds = Holds()
        self.additions = Additions(self.routing.item_of)
        self.gate = Gate(
            lambda: self.routing.links, self.inventory.owned, self.losses, self.holds, self.additions, frozen
        )
        self.planner = Planner(sink, self.inventory, self.routing, self.gate.refused, ordering)
        self.trial = Trial()
        self.went = Went()
        self._sink = sink
        self._store = store
        self._events = events
        self._clock = clock
        self._fresh: list[HeldRemoval] = []  # removals newly held since the last `tell_holds`
        self._shard_of: Callable[[ServiceName], int] = lambda name: WHOLE
        self._taken: deque[tuple[float, str, str]] = deque(maxlen=TAKEN_KEPT)  # when, link, entry
        self.routing.route(links)
        self._place(networks)

    def divide(self, sharding: Sharding, mine: Callable[[], Collection[int]]) -> None:
        """Several processes share the writing: this one counts in the shards `mine()` only."""
        self.inventory.shard_of, self.inventory.mine = sharding.shard_of, mine
        self.losses.mine = mine
        self.gate.expected.part = lambda count: part(count, mine(), sharding.count)
        self.planner.clash = sharding.clash
        self._shard_of = sharding.of

    def _place(self, networks: Networks) -> None:
        if isinstance(self._sink, Placed):
            self._sink.place(networks.own(self.name), partial(networks.of, self.name))

    # -- contents and routes -----------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """The identity of the destination, "" until it is read."""
        return self.inventory.identity

    @property
    def entries(self) -> Mapping[ServiceName, dict[str, Entry]]:
        """Everything that the destination holds, by name and id."""
        return self.inventory.entries

    @property
    def loose(self) -> Mapping[ServiceName, dict[str, Any]]:
        """Ledger entries of ours whose data is gone."""
        return self.inventory.loose

    @property
    def links(self) -> Sequence[Link]:
        """The links into this destination."""
        return tuple(self.routing.links.values())

    @property
    def writes(self) -> bool:
        """Whether any link may write."""
        return self.routing.writes

    @property
    def settled(self) -> set[tuple[str, str, str]]:
        """The first copies that are complete; see `Losses`."""
        return self.losses.settled

    def is_parked(self, name: ServiceName) -> bool:
        """Whether all that is left of the last plan of a name is parked."""
        plan = self.plans.get(name)
        return plan is not None and not plan.removals and all((name, one.id) in self.parked for one in plan.upserts)

    @property
    def parked(self) -> Mapping[tuple[ServiceName, str], Reason]:
        """Instances that cannot be written as they are, by name and id, with the reason."""
        return self.planner.parked

    @property
    def shadowed(self) -> Mapping[ServiceName, Mapping[str, str]]:
        """Entries that are not written because a native has their id or address."""
        return self.planner.shadowed

    @property
    def withdrawn(self) -> Mapping[ServiceName, Mapping[str, str]]:
        """Unhealthy instances that are not written, because the target cannot say so or the link withdraws them."""
        return self.planner.withdrawn

    @property
    def kept(self) -> Mapping[ServiceName, Mapping[str, Reason]]:
        """Entries that are no longer wanted and stay, with the reason."""
        return self.planner.kept

    @property
    def refused(self) -> Mapping[tuple[ServiceName, str], Refused]:
        """Values that are parked because the target refused them."""
        return self.gate.refused

    def is_frozen(self, link: str) -> bool:
        """Whether an operator has stopped the writes of a link."""
        return self.gate.is_frozen(link)

    def names(self) -> Iterable[ServiceName]:
        """Every name under which an entry is held or desired."""
        return {*self.entries, *self.loose, *self.routing.names()}

    def route(self, links: Sequence[Link], networks: Networks) -> None:
        """Takes other links. Entries that they no longer want are removed with cause `config`, and held."""
        if self.holds_additions:
            self.additions.changed(self.links, links, self.routing.fed)
        self.routing.route(links)
        self.inventory.regard(self.inventory.places._replace(networks=networks))
        self._place(networks)
        self.planner.start_over()

    def distrust(self, registries: Collection[str] | None = None) -> None:
        """By a new file these registries, or (None) this destination, are another store: their additions are held."""
        if self.holds_additions:
            self.additions.distrust(self.links, registries)

    def affected(self, version: int) -> Iterator[tuple[ServiceName, Seen]]:
        """The names here that are fed by services which changed after that version."""
        return self.routing.affected(version, self.names)

    def supplies(self, name: ServiceName) -> list[Supply]:
        """Everything that feeds a name here."""
        return self.routing.supplies(name)

    def keep_written(self, destination: str, lasts: float) -> Copied:
        """Our entries by address, kept up to date from now on; see `plan.echo`."""
        return self.inventory.keep_written(destination, lasts)

    # -- reading -----------------------------------------------------------------------------------------------------

    def taken(self, link: str) -> list[str]:
        """The entries of a link that others removed lately, each once."""
        since = self._clock() - TAKEN_TIME
        return list(dict.fromkeys(what for at, of, what in self._taken if at >= since and of == link))

    def take(
        self,
        held: Held,
        names: Iterable[ServiceName] | None,
        less: Collection[ServiceName],
        *,
        following: bool = False,
        writing: bool = False,
        notices: Callable[[ServiceName], bool] = lambda name: True,
    ) -> list[ServiceName]:
        """Takes over what was read, for some names (None: all) without `less`; returns the names that differ.

        `following`: another process of this bridge writes, so changes of our entries are its own. `writing`: this one
        does, and reports what others removed. `notices(name)`: whether changes of our entries are counted here.
        """
        here = self.inventory
        here.identity = held.identity
        first = self.since == inf
        if first:
            self.since = self._clock()
        differ = here.differing(held, names, less)
        for name in differ:
            entries, loose = held.services.get(name, {}), held.loose.get(name, {})
            before, serving = here.entries.get(name, {}), here.serving(name)
            here.replace(name, entries, loose)
            if not first and notices(name):
                after = {key: one for key, one in entries.items() if key not in loose}
                tell = following or name in here.unsure
                self._notice(name, before, after, serving, tell=tell, missed=writing and not tell)
        here.unsure -= (here.unsure if names is None else {*names}) - {*less}
        if names is None:
            self.holds.only_standing(here.entries, less)
        return differ

    def _notice(
        self,
        name: ServiceName,
        before: dict[str, Entry],
        after: dict[str, Entry],
        serving: int,
        *,
        tell: bool,
        missed: bool,
    ) -> None:
        """Counts changes of our entries that this process did not make, for the guard, and reports them if asked to.

        Of two changes between two reads only the sum is seen. A process that was stopped believes at first that it
        still writes, so removals and returns by others count for it as well.
        """
        for key in sorted(before.keys() | after.keys()):
            was, now = before.get(key), after.get(key)
            newest = now or was
            if newest is None or newest.mark is None or newest.mark.owner != self.owner:
                continue
            if was is not None and was.mark is not None and now is not None and was.instance == now.instance:
                continue
            won = int(now is not None and now.instance.serving) - int(was is not None and was.instance.serving)
            scope = scope_of(newest.mark)
            cause = self._cause(name, key)
            counted = won if self._counts(name, newest.mark, won, cause) else 0
            if counted:
                self.losses.noticed(name, scope, won, self._clock(), self._shard_of(name))
            if tell:
                kind = "add" if was is None else "remove" if now is None else "update"
                change = Change(name, key, was, now.instance if now is not None else None, newest.mark)
                became = (serving + won - counted, serving + won)
                self._events.tell(Noticed(change, kind, became, self.name, cause if kind == "remove" else None))
            elif missed and now is None and self._lasts(newest.mark):
                became = (serving + won - counted, serving + won)
                self._taken.append((self._clock(), newest.mark.link, f"{name}/{key}"))
                self._events.tell(Taken(Change(name, key, was, None, newest.mark), became, self.name))
            serving += won

    def _counts(self, name: ServiceName, mark: Mark, won: int, cause: Cause | None) -> bool:
        """Whether the guard counts a gain or a loss: not what an order takes or gives back, nor what is shadowed."""
        if (cause is not None and not TREATMENTS[cause].counts) or (won > 0 and self.planner.returns(name, mark)):
            return False
        return self.losses.counts(self.identity, scope_of(mark), won, self._shard_of(name))

    def _lasts(self, mark: Mark) -> bool:
        """Whether an entry never expires: it is of a link that is not leased."""
        link = self.routing.links.get(mark.link)
        return link is not None and link.ttl is None

    def _cause(self, name: ServiceName, key: str) -> Cause | None:
        """The cause of an entry's removal in the last plan of its name, as far as that was not made by this process."""
        plan = self.plans.get(name)
        return next((one.cause for one in plan.removals if one.change.id == key), None) if plan is not None else None

    # -- planning and judging ----------------------------------------------------------------------------------------

    def plan(self, name: ServiceName) -> tuple[Desired, Plan]:
        """What is desired under a name, and the changes that lead there."""
        return self.planner.plan(name)

    def planned(self, name: ServiceName) -> Plan | None:
        """Plans a name, and reports what is newly not written; None where there is nothing to do."""
        plan = self.planner.planned(name)
        for news in self.planner.news:
            self._events.tell(Unwritten(name, news.id, news.kind, news.link, news.reason, self.name))
        self._try(plan)
        self.holds.ask(name, plan.removals)
        if plan.quiet and not self.holds.of(name):
            self.gate.nothing_asked(plan)
            self.plans.pop(name, None)
            return None
        return plan

    def _try(self, plan: Plan) -> None:
        """Reports what links that observe would do by a plan, each change once."""
        if self.routing.observes:
            there = {key: entry.instance for key, entry in self.entries.get(plan.name, {}).items()}
            for one in self.trial.step(plan, self.routing.links, there):
                self._events.tell(Would(*one, self.name))

    def round_ended(self) -> None:
        """Everything known is planned once: from now on `_try` reports, if all watches run."""
        if not self.trial.begun and all(view.up for view in self.routing.views()):
            self.trial.begun = True

    def allowed(self, plan: Plan, writing: bool, waits: str = "") -> Allowed:
        """The changes of a plan that may be made now, by policy, freeze, parking, pace and guard.

        `writing`: whether this process may write. `waits`: why nothing may be removed now, "" if it may.
        """
        allowed, judged, settled = self.gate.allowed(plan, writing and not waits, self._clock())
        self._tell(settled)
        if waits:
            allowed = allowed._replace(changes=[change for change in allowed.changes if change.cause is None])
        # A plan is kept for `status` and `plan` while a part of it is not made.
        if not writing or judged.held or len(allowed.changes) < len(plan.upserts) + len(judged.free):
            self.plans[plan.name] = plan
        else:
            self.plans.pop(plan.name, None)
        return allowed if writing else Allowed([], allowed.again)

    def _tell(self, settled: Settled) -> None:
        self._fresh += settled.fresh
        for one, goes in settled.gone:
            self._events.tell(Released(one, goes, self.name))

    def tell_holds(self) -> None:
        """Reports the removals held since the last call: one event for each link, scope, cause and limit."""
        sets: dict[tuple[object, ...], list[HeldRemoval]] = {}
        for one in self._fresh:
            key = (one.item[0], one.removal.scope, one.removal.cause, one.verdict.limit)
            sets.setdefault(key, []).append(one)
        self._fresh.clear()
        for ones in sets.values():
            self._events.tell(HeldBack(tuple(ones), self.name))

    def let_go(self, is_ours: Callable[[ServiceName], bool]) -> None:
        """Forgets the plans and holds of names that another process plans from now on."""
        planned = self.planner.names() | self.plans.keys() | {*self.holds.names()}
        gone = {name for name in planned if not is_ours(name)}
        for name in gone:
            self.holds.ask(name, [])
            self.gate.nothing_asked(Plan(name, [], [], {}, {}, "", 0))
            self.plans.pop(name, None)
        self.planner.let_go(gone)

    def moved(self) -> set[ServiceName]:
        """The names whose holds may get another verdict than before; to be called once a second."""
        return self.gate.moved(self._clock()) | {name for name in self.holds.names() if self._is_reused(name)}

    def _is_reused(self, name: ServiceName) -> bool:
        """Whether the address of a held entry serves another service by now, and did not before."""
        held = [one.removal for one in self.holds.of(name).values() if not one.removal.reused]
        entries = [one.change.before for one in held if TREATMENTS[one.cause].asks and one.change.before is not None]
        return any(self.routing.elsewhere(self.name, entry, name) for entry in entries)

    def reused(self, scope: Scope, window: float) -> int:
        """How many entries of a scope were withdrawn within so many seconds because their addresses serve elsewhere."""
        return self.losses.reused(scope, self._clock() - window)

    def approved(self, changes: Iterable[Change]) -> list[Item]:
        """The changes that only an operator's approval allows."""
        return self.gate.approved(changes)

    def remember(self, past: Iterable[Past]) -> None:
        """Counts losses and gains from before this process began."""
        self.losses.remember(past)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def park(self, change: Change, error: Rejected, at: float) -> bool:
        """Notes that the target refused a value `at` (monotonic), see `Planner.refuse`. Returns whether that is new."""
        before = self.parked.get((change.service, change.id))
        self.planner.refuse(change, error, at)
        return str(before or "") != str(error)

    def done(self, outcome: Outcome, plan: Plan, seen: Seen, *, late: bool = False, sent: float = 0.0) -> None:
        """Takes over a change that was made; `late`: at an unknown time. `sent`: when it was sent (monotonic)."""
        change = outcome.change
        if change.forget:
            self.inventory.forget_loose(change.service, change.id)
            serving = (plan.serving, plan.serving)
            self._events.tell(Written(outcome, "forget", change.cause, seen, serving, self.name, sent=sent))
            return
        now, ground = self._clock(), self.gate.ground(change)
        self.gate.wrote(change, now)
        self.planner.taken(change)
        was = self.inventory.serving(change.service)
        won = self.inventory.take(outcome)
        counted, cause = 0, change.cause
        if cause is Cause.REUSED and won < 0 and change.mark is not None:
            self.losses.withdrawn(scope_of(change.mark), now, self._shard_of(change.service))
        expected = won < 0 and self.gate.expected.made(change.service, change.id)
        # A shadowed entry is replaced by a native, and an expected loss counts against the stated number: neither here.
        if won and change.mark is not None and not expected and self._counts(change.service, change.mark, won, cause):
            replaces = cause is Cause.REPLACED or self.inventory.replaces(change)
            counted = won
            shard = self._shard_of(change.service)
            self.losses.made(change.service, scope_of(change.mark), won, now, replaces=replaces, late=late, shard=shard)
            cause = Cause.REPLACED if replaces else cause
        kind = "add" if change.before is None else "remove" if change.after is None else "update"
        self.went.made(change, won, now)
        became = (was + won - counted, was + won)
        self._events.tell(Written(outcome, kind, cause, seen, became, self.name, ground, sent))

    def unsettled(self) -> frozenset[object]:
        """The first copies that are not done of what is listed, and what a changed file adds and is listed."""
        views = [view for view in self.routing.views() if view.synced]
        found: set[object] = set()
        if self.losses.mine is None:
            found |= {(self.identity, view.identity, view.part) for view in views} - self.settled
        else:
            mine = self.losses.mine()
            found |= {(view.shard, (view.identity, view.part)) for view in views if view.shard in mine}
            found -= self.losses.settled_in
        if self.additions:
            found |= {feed for feed in self.additions.fresh if self.routing.is_synced(feed[1])}
            found |= {(feed, frozenset(names)) for feed, names in self.additions.pending.items()}
        return frozenset(found)

    def note_first_copies(self) -> None:
        """All of `unsettled` is planned, and written where it may be: what has nothing left to be added is settled."""
        waiting = [
            (plan.name, change)
            for plan in self.plans.values()
            for change in plan.upserts
            if change.mark is not None and (plan.name, change.id) not in self.gate.refused
        ]
        if self.additions:
            granted = self.holds.granted()
            added = [
                (name, change.mark)
                for name, change in waiting
                if change.mark and (change.id in self.holds.of(name) or item_of(change) in granted)
            ]
            self.additions.settled(self.routing.is_synced, added)
        adds = {(name, scope_of(change.mark)) for name, change in waiting if change.before is None and change.mark}
        if self.losses.mine is not None:
            self._note_shards({(self._shard_of(name), scope) for name, scope in adds}, {*self.losses.mine()})
            return
        fresh = {(self.identity, view.identity, view.part) for view in self.routing.views() if view.synced}
        if fresh <= self.settled:
            return
        for first in sorted(fresh - self.settled - {(self.identity, *scope) for _, scope in adds}):
            self.settled.add(first)
            about = {"destination": first[0], "source": first[1], "scope": first[2]}
            self._events.tell(Happened("settled", about))

    def _note_shards(self, adds: set[tuple[int, Scope]], mine: set[int]) -> None:
        """The same for each shard that this process writes; the note of a shard passes it on to its next writer."""
        views = (view for view in self.routing.views() if view.synced and view.shard in mine)
        fresh = {(view.shard, (view.identity, view.part)) for view in views if view.shard is not None}
        self.losses.settled_in |= fresh - adds

    def sizes(self) -> Sizes:
        """How much is remembered beside the entries themselves."""
        return self.planner.sizes()
