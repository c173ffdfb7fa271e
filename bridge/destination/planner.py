"""Plans one name by `bridge.plan`, with the results of the plans before. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import partial
from math import inf
from typing import NamedTuple

from bridge.adapter import Cause, Change, Entry, Sink
from bridge.destination.inventory import Inventory
from bridge.destination.routing import Routing
from bridge.errors import Rejected
from bridge.guard.gate import Refused
from bridge.model import Mark, ServiceName
from bridge.plan.diff import make_plan, settled_causes, with_causes
from bridge.plan.evidence import observes
from bridge.plan.orders import Ordering, with_orders
from bridge.plan.route import Desired, Refusal, Supply, Wanted, desired
from bridge.plan.values import FOR_EVER, Held, Kind, Plan, Reason, Scope, World


class Sizes(NamedTuple):
    """How much is remembered, so that tests find what grows without bound."""

    known: int
    causes: int


class News(NamedTuple):
    """An instance that is newly not written; see `bridge.destination.events.Unwritten`."""

    id: str
    kind: str
    link: str
    reason: str


class Planner:
    """`parked`, `shadowed`, `withdrawn`, `kept`: what is not written or not removed, with the reason.

    `withdrawn`: instances that are not written because they are unhealthy or ordered away, by id at the source.
    `refused`: values that the target refused. `ended`: scopes that an operator accepted as gone for good.
    """

    def __init__(
        self,
        sink: Sink,
        inventory: Inventory,
        routing: Routing,
        refused: dict[tuple[ServiceName, str], Refused],
        ordering: Ordering,
    ) -> None:
        self.parked: dict[tuple[ServiceName, str], Reason] = {}
        self.shadowed: dict[ServiceName, dict[str, str]] = {}
        self.withdrawn: dict[ServiceName, dict[str, str]] = {}
        self.kept: dict[ServiceName, dict[str, Reason]] = {}
        self.ended: frozenset[Scope] = frozenset()
        self.waits: set[ServiceName] = set()  # names with removals that wait until others are written
        self.news: list[News] = []  # of the last planned name
        self.clash: Callable[[ServiceName], str] | None = None  # why shards may not meet under a name
        self._refused = refused
        self._sink = sink
        self._inventory = inventory
        self._routing = routing
        self._ordering = ordering
        self._known: dict[ServiceName, dict[str, Wanted]] = {}
        self._causes: dict[ServiceName, dict[str, Cause]] = {}
        self._stopped: dict[
            ServiceName, frozenset[tuple[ServiceName, str]]
        ] = {}  # instances that orders stopped, until they are written again

    def start_over(self) -> None:
        """Forgets earlier results: the file changed."""
        self._known.clear()
        self._causes.clear()

    def names(self) -> set[ServiceName]:
        """Every name with something remembered."""
        said = (self.shadowed, self.withdrawn, self.kept, self._known, self._causes, self._stopped)
        return {name for about in said for name in about} | {name for name, _ in self.parked} | self.waits

    def let_go(self, names: Set[ServiceName]) -> None:
        """Forgets names that another process plans."""
        said = (self.shadowed, self.withdrawn, self.kept, self._known, self._causes, self._stopped)
        for name in names:
            for about in said:
                about.pop(name, None)
        self.waits -= names
        for at in [at for at in self.parked if at[0] in names]:
            del self.parked[at]
            self._refused.pop(at, None)

    def sizes(self) -> Sizes:
        """How much is remembered."""
        return Sizes(len(self._known), len(self._causes))

    def plan(self, name: ServiceName) -> tuple[Desired, Plan]:
        """What is desired under a name, and the changes that lead there."""
        here, known, causes = self._inventory, self._known.get(name, {}), self._causes.get(name, {})
        supplies = self._supplies(name)
        if self.clash is not None and (clash := self.clash(name)):
            goal = Desired({}, {}, clash)
        else:
            goal = desired(name, supplies, here.owner, here.identity, here.places, self._sink.canonical, known)
        held = Held(here.entries.get(name, {}), here.loose.get(name, {}), here.owner, here.places)
        routing, elsewhere = self._routing, partial(self._routing.elsewhere, here.places.registry)
        plan = make_plan(name, goal, held, World(routing.links, routing.views(), causes, self.ended, elsewhere))
        if settled := settled_causes(plan, known, causes):
            self._causes[name] = settled
            plan = with_causes(plan, settled)
        else:
            self._causes.pop(name, None)
        return goal, plan

    def _supplies(self, name: ServiceName) -> list[Supply]:
        """Everything that feeds a name, with the orders that override its sources."""
        here, supplies = self._inventory, self._routing.supplies(name)
        orders = self._ordering.orders(here.places.registry, name, supplies, here.entries.get(name, {}))
        if any(order.waits for order in orders.values()):
            self.waits.add(name)
        else:
            self.waits.discard(name)
        return with_orders(supplies, orders)

    def planned(self, name: ServiceName) -> Plan:
        """Plans a name, and remembers what `status` and `explain` show of it."""
        goal, plan = self.plan(name)
        if goal.wanted:
            self._known[name] = goal.wanted
        else:
            self._known.pop(name, None)
        self._note_stopped(name, goal, plan)
        entries = self._inventory.entries.get(name)
        if entries is not None and plan.quiet:
            self._share(entries, goal, plan)
        self.news = self._news(name, goal, plan)
        withdrawn = {at[3]: one.reason for at, one in goal.refused.items() if _withdrawn(one)}
        said = ((self.shadowed, plan.shadowed), (self.withdrawn, withdrawn), (self.kept, plan.kept))
        for kind, found in said:
            if found:
                kind[name] = found  # type: ignore[assignment]
            else:
                kind.pop(name, None)
        if self._inventory.written is not None:
            self._inventory.written.leave(name, self._left(plan))
        self._park(name, goal, plan)
        return plan

    def _note_stopped(self, name: ServiceName, goal: Desired, plan: Plan) -> None:
        """Remembers instances that orders stopped: their return is not counted as a gain."""
        stopped = goal.stopped
        if before := self._stopped.pop(name, None):
            stopped |= before & {(one.mark.service, one.mark.instance) for one in plan.upserts if one.mark is not None}
        if stopped:
            self._stopped[name] = stopped

    def returns(self, name: ServiceName, mark: Mark) -> bool:
        """Whether an order stops the instance that a mark names, or did until it is written again."""
        return (mark.service, mark.instance) in self._stopped.get(name, ())

    def _left(self, plan: Plan) -> list[str]:
        """Entries whose instance has ended and that stay: nothing may remove them, or their link only observes."""
        ended = [key for key, reason in plan.kept.items() if reason.kind in FOR_EVER]
        for removal in plan.removals:
            mark, links = removal.change.mark, self._routing.links
            if removal.change.after is None and mark is not None and observes(links.get(mark.link)):
                ended.append(removal.change.id)
        return ended

    def _share(self, entries: dict[str, Entry], goal: Desired, plan: Plan) -> None:
        """Replaces entries by equal objects of the plan: saves memory, and makes later comparisons fast."""
        for key, wanted in goal.wanted.items():
            entry = entries.get(key)
            if entry is None or entry.mark is None or entry.mark is wanted.mark:
                continue
            if entry.mark.owner == self._inventory.owner and key not in plan.shadowed and key not in plan.kept:
                entries[key] = Entry(wanted.instance, wanted.mark, entry.version)

    def _news(self, name: ServiceName, goal: Desired, plan: Plan) -> list[News]:
        """What this plan shadows or parks and the one before did not. Echoes are shown, and not reported."""
        found: list[News] = []
        if plan.shadowed:
            before = self.shadowed.get(name, {})
            for key, native in plan.shadowed.items():
                if native != before.get(key):
                    found.append(News(key, "shadow", goal.wanted[key].mark.link, native))
        for at, refusal in goal.refused.items():
            if refusal.parked and not refusal.echo and str(self.parked.get((name, at[3]), "")) != refusal.reason:
                found.append(News(at[3], "park", "", refusal.reason))
        if plan.parked and str(self.parked.get((name, "*"), "")) != plan.parked:
            found.append(News("*", "park", "", plan.parked))
        return found

    def _park(self, name: ServiceName, goal: Desired, plan: Plan) -> None:
        parked = {
            (name, at[3]): Reason(Kind.ECHO if refusal.echo else Kind.RULE, refusal.reason)
            for at, refusal in goal.refused.items()
            if refusal.parked
        }
        if plan.parked:
            parked[name, "*"] = Reason(Kind.COLLISION, plan.parked)
        if parked or self.parked:
            for at in [at for at in self.parked if at[0] == name and at not in parked]:
                if not self._still_refused(at, goal):
                    del self.parked[at]
            self.parked.update(parked)

    def _still_refused(self, at: tuple[ServiceName, str], goal: Desired) -> bool:
        refused, wanted = self._refused.get(at), goal.wanted.get(at[1])
        if refused is not None and (wanted is None or wanted.instance != refused.value):
            del self._refused[at]
            return False
        return refused is not None

    def refuse(self, change: Change, error: Rejected, at: float) -> None:
        """Parks a value that the target refused `at` (monotonic), until it changes or its retry is due."""
        if change.after is not None:
            again = inf if error.again is None else at + error.again
            self._refused[change.service, change.id] = Refused(change.after, at, again)
            self.parked[change.service, change.id] = Reason(Kind.REFUSED, str(error))

    def taken(self, change: Change) -> None:
        """Forgets a refusal: the target accepted the change."""
        if self._refused.pop((change.service, change.id), None) is not None:
            self.parked.pop((change.service, change.id), None)


def _withdrawn(refusal: Refusal) -> bool:
    return refusal.cause is Cause.HEALTH or refusal.order is not None
