"""Which changes of a plan may be made now, by policy, freeze, pace, limits and operators' decisions. No I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterable, Mapping
from math import inf
from typing import NamedTuple

from bridge.adapter import Cause, Change
from bridge.guard import limits as guard
from bridge.guard.additions import Additions
from bridge.guard.expected import Expectations
from bridge.guard.holds import JUDGED, HeldRemoval, Holds, Item, item_of
from bridge.guard.limits import Asked, Judgement, Level, Limit, Verdict
from bridge.guard.losses import Losses, Part, Reused, within
from bridge.guard.pace import Flaps, Herds
from bridge.guard.reserve import ALONE, Elsewhere, Reserve, counts, unknown
from bridge.link import Guard, Link, Policy
from bridge.model import Instance, ServiceName
from bridge.plan.causes import TREATMENTS, Frees
from bridge.plan.values import Kind, Plan, Removal, Scope, scope_of

ADDED = "the file adds it to a name that is served already"
UNSAID = (Kind.UNHEARD, Kind.UNREADABLE)  # their source has not been read again yet


class Freed(enum.StrEnum):
    """What let a removal go."""

    LIMITS = "limits"  # it is within them
    OPINION = "opinion"  # a second read of the source agreed
    APPROVAL = "approval"  # an operator approved the held set
    EXPECTED = "expected"  # an operator stated the loss before


class Ground(NamedTuple):
    """Why a removal goes. `rule`: the limit with its figures; `hold`: the set that an operator approved."""

    rule: str
    freed: Freed
    hold: str = ""


class Refused(NamedTuple):
    """A value that the target refused, and when it last did (monotonic).

    `again`: when the same value is retried, where something at the target is in its way; infinite: never.
    """

    value: Instance
    at: float
    again: float = inf


class Allowed(NamedTuple):
    """The changes of a plan that may be made now, and after how many seconds to judge again, 0: not at all."""

    changes: list[Change]
    again: float


class Going(NamedTuple):
    """How many serving instances of one service a plan removes, and how many of these by an order, by name."""

    all: int
    ordered: int


class Judged(NamedTuple):
    """The decisions on the removals of one plan."""

    held: dict[str, HeldRemoval]
    free: list[Change]
    again: float
    grounds: dict[str, Ground]


class Settled(NamedTuple):
    """What is newly held under a name, and what is no longer held, each with whether it may go now."""

    fresh: list[HeldRemoval]
    gone: list[tuple[HeldRemoval, bool]]


class Gate:
    """One destination's guard.

    `owned(scope)`: serving entries of ours from there. `frozen(link)`: an operator has stopped its writes. `refused`:
    values that the target refused, by name and entry id.
    """

    def __init__(
        self,
        links: Callable[[], dict[str, Link]],
        owned: Callable[[Scope], int],
        losses: Losses,
        holds: Holds,
        additions: Additions,
        frozen: Callable[[str], bool],
    ) -> None:
        self.holds = holds
        self.losses = losses
        self.additions = additions
        self.expected = Expectations()
        self.refused: dict[tuple[ServiceName, str], Refused] = {}
        self.elsewhere = ALONE
        self.is_frozen = frozen
        self._grounds: dict[ServiceName, dict[str, Ground]] = {}  # removals that may go and are not made yet
        self._links = links
        self._owned = owned
        self._flaps = Flaps()
        self._herds = Herds()
        self._tripped: set[Scope] = set()  # scopes held by the hard limit since the last `moved`
        self._most = 0
        self._nets: dict[
            tuple[Hashable, float], int
        ] = {}  # by key and window: the figures by which holds were last judged

    @property
    def longest_window(self) -> float:
        """The longest window of any link here, in seconds."""
        return max((guard.STOOD, *(link.longest_window for link in self._links().values())))

    # -- what may go ---------------------------------------------------------------------------------------------------

    def nothing_asked(self, plan: Plan) -> None:
        """Nothing is asked for under a name any more: its holds, grants and expectations end."""
        self._grounds.pop(plan.name, None)
        self.holds.settle(plan.name, {}, [], _unsaid(plan))
        self._herds.keep(plan.name, ())
        self.expected.keep(plan.name, ())

    def allowed(self, plan: Plan, writing: bool, now: float) -> tuple[Allowed, Judged, Settled]:
        """The changes of a plan that may be made now. `writing`: this process may write."""
        upserts, added, granted = self._added(plan, now)
        judged = self._judged(plan, writing, now)
        judged.held.update(added)
        judged.held.update(self._unanswered(plan))
        if judged.held and writing and any(one.before is None and self.is_writable(one, now) for one in upserts):
            # An addition in flight may be the replacement: judge again after it (safety rule 11).
            before = self.holds.of(plan.name)
            for key in [key for key in judged.held if key not in before and key not in added]:
                del judged.held[key]
        settled = self._settle(plan, judged, granted, now)
        if judged.grounds:
            self._grounds[plan.name] = judged.grounds
        else:
            self._grounds.pop(plan.name, None)
        changes, again = [], judged.again
        for change in (*upserts, *judged.free):
            if self.is_writable(change, now):
                wait = self._flaps.wait((plan.name, change.id), now)
                again = max(again, wait)
                if not wait:
                    changes.append(change)
        if self.refused and not again:
            due = min((self._tried_again(change) for change in upserts), default=inf) - now
            again = due if 0 < due < inf else 0.0
        return Allowed(changes, again), judged, settled

    def _added(self, plan: Plan, now: float) -> tuple[list[Change], dict[str, HeldRemoval], list[Removal]]:
        """The upserts that may be made; those that a changed file adds to what others serve; and the approved of these.

        An approved one is asked until it is made: a frozen link, or a target that fails, does not use it up.
        """
        if not self.additions:
            return plan.upserts, {}, []
        upserts: list[Change] = []
        held: dict[str, HeldRemoval] = {}
        granted: list[Removal] = []
        for change in plan.upserts:
            if change.mark is not None and self.additions.waits(plan.name, change, plan.serving):
                removal = Removal(change, Cause.CONFIG, scope_of(change.mark), loses=False)
                if not self.holds.is_granted(removal, now):
                    verdict = Verdict(Limit.ADDITIONS, ADDED, operator=True)
                    held[change.id] = HeldRemoval(removal, verdict, now, None)
                    continue
                granted.append(removal)
            upserts.append(change)
        return upserts, held, granted

    def _unanswered(self, plan: Plan) -> dict[str, HeldRemoval]:
        """Holds whose source has not been read again yet, after a take-over or after the process was stopped.

        They neither end nor count as asked for until then, so that what an operator was shown can be approved.
        """
        unheard = {key for key, reason in plan.kept.items() if reason.kind is Kind.UNHEARD}
        return {key: one for key, one in self.holds.of(plan.name).items() if key in unheard}

    def _judged(self, plan: Plan, writing: bool, now: float) -> Judged:
        held: dict[str, HeldRemoval] = {}
        free: list[Change] = []
        grounds: dict[str, Ground] = {}
        again = 0.0
        going = _going(plan)
        for removal in plan.removals:
            granted, agreed = self.holds.is_granted(removal, now), self.holds.is_agreed(removal)
            counts = removal.loses and not removal.ordered
            if counts and not (granted or agreed):
                owned = self._owned(removal.scope)
                wait = self._herds.wait(removal.scope, plan.name, removal.change.id, owned, now)
                if wait:
                    again = max(again, wait)
                    continue
            judgement = self._judge(plan, removal, going, now)
            verdict = judgement.verdict
            if verdict.hard:
                self._tripped.add(removal.scope)
            if verdict.limit is not None and removal.reused and not granted:
                other = self._judge(plan, removal.as_reused, going, now).verdict
                removal, verdict = (removal.as_reused, other) if other.limit is None else (removal, verdict)
            approved = granted and not self.holds.follows(removal)
            expected = counts and not approved and self._expects(plan, removal, verdict, going, now)
            # A confirmed removal is judged again when it goes: more may have been lost meanwhile.
            if verdict.limit is None or granted or expected or (agreed and not verdict.operator):
                free.append(removal.change)
                if writing:
                    freed = _freed(verdict, granted=granted, expected=expected)
                    grounds[removal.change.id] = self._ground(removal, judgement, freed)
                if counts and writing:
                    self._herds.goes(removal.scope, now)
                continue
            marked = self._marked(plan, removal, going, agreed, now)
            if marked is not None:
                free.append(marked)
            asks = not verdict.operator or (removal.instead is not None and removal.loses and verdict.hard)
            due = now + self.confirmation(removal) if asks else None
            held[removal.change.id] = HeldRemoval(removal, verdict, now, due)
        return Judged(held, free, again, grounds)

    def _ground(self, removal: Removal, judgement: Judgement, freed: Freed) -> Ground:
        grant = self.holds.grant_of(removal) if freed is Freed.APPROVAL else None
        return Ground(judgement.rule, freed, grant.hold if grant is not None else "")

    def ground(self, change: Change) -> Ground | None:
        """Why a removal may go, None: it is not judged."""
        return self._grounds.get(change.service, {}).get(change.id)

    def _expects(self, plan: Plan, removal: Removal, verdict: Verdict, going: Going, now: float) -> bool:
        """Counts a removal against a stated loss, also one that another daemon has made: each counts its own."""
        key = self.expected.covering(removal, verdict.limit, plan.serving - going.all > 0, now)
        if key is not None:
            self.expected.take(removal, key)
        return key is not None

    def _marked(self, plan: Plan, removal: Removal, going: Going, agreed: bool, now: float) -> Change | None:
        """The change that writes the true health of a held withdrawal, if it may be written now."""
        if removal.instead is None:
            return None
        verdict = self._judge(plan, removal._replace(change=removal.instead), going, now).verdict
        return removal.instead if verdict.limit is None or (agreed and not verdict.operator) else None

    def _judge(self, plan: Plan, removal: Removal, going: Going, now: float) -> Judgement:
        limits, scope = self._limits(removal), removal.scope
        windows, owned = self.losses.windows, self._owned(scope)
        ill = self.holds.ill(scope) if removal.withdraws else 0
        whole = self.losses.whole(scope, owned + ill, owned - self.holds.whole(scope), now, limits.window)
        asked = Asked(
            removal.cause,
            removal.loses,
            removal.doubt,
            removal.withdraws,
            self._count(removal, now),
            removal.including_last,
        )
        start = windows.start(plan.name, plan.serving - going.ordered, now, limits.window)
        of_service = Level(start, plan.serving - going.all)
        of_scope = Level(whole.start - ill, owned - self.holds.losses(scope, removal.cause))
        others = self.elsewhere.of(scope, limits.window, now)
        whole, of_scope = whole.plus(others.level(JUDGED)), of_scope.plus(others.level((removal.cause,)))
        verdict = guard.judge(limits, asked, of_service, of_scope, whole)
        if verdict.limit is None:
            verdict = unknown(removal, self.elsewhere.unread) or verdict
        return Judgement(verdict, limits, asked, of_service, of_scope, whole)

    def _count(self, removal: Removal, now: float) -> int:
        if TREATMENTS[removal.cause].frees is not Frees.COUNT:
            return 0
        window = self._limits(removal).window
        went = self.losses.reused(removal.scope, now - window) + self.holds.losses(removal.scope, removal.cause)
        others = self.elsewhere.of(removal.scope, window, now)
        return went + others.reused + others.asked.get(removal.cause, 0)

    def _limits(self, removal: Removal) -> Guard:
        mark = removal.change.mark
        link = self._links().get(mark.link) if mark else None
        return link.limits(removal.change.service) if link else Guard()

    def confirmation(self, removal: Removal) -> float:
        """Seconds until a second opinion on a removal is requested."""
        return float(getattr(self._limits(removal), TREATMENTS[removal.cause].wait))

    def _settle(self, plan: Plan, judged: Judged, granted: list[Removal], now: float) -> Settled:
        asked = [*plan.removals, *granted, *(one.removal for one in judged.held.values())]
        ids = {removal.change.id for removal in asked}
        self._herds.keep(plan.name, ids)
        self.expected.keep(plan.name, ids)
        fresh, gone = self.holds.settle(plan.name, judged.held, asked, _unsaid(plan))
        going = {change.id for change in judged.free}
        for one in gone:
            if one.removal.change.id not in going:
                self.holds.came_back(one, now + self.confirmation(one.removal))
        return Settled(fresh, [(one, one.removal.change.id in going) for one in gone])

    def is_writable(self, change: Change, now: float) -> bool:
        """Whether policy and freeze allow a write, and the target has not refused the same value lately."""
        if change.forget:
            return not self.is_frozen("*")
        link = self._links().get(change.mark.link) if change.mark else None
        if link is None or link.policy is Policy.OBSERVE or self.is_frozen(link.name):
            return False
        return change.after is None or (refused := self._refusal(change)) is None or now >= refused.again

    def _refusal(self, change: Change) -> Refused | None:
        """The refusal of the same value, if any."""
        refused = self.refused.get((change.service, change.id))
        return refused if refused is not None and refused.value == change.after else None

    def _tried_again(self, change: Change) -> float:
        refused = self._refusal(change)
        return refused.again if refused is not None else inf

    # -- the other members of a group ---------------------------------------------------------------------------

    def reserves(
        self, shard: int, owned: Mapping[Scope, int], shard_of: Callable[[ServiceName], int], now: float, ahead: float
    ) -> dict[Scope, Reserve]:
        """What others have to know of one shard, by scope. `owned`: serving entries of ours there.

        `ahead`: seconds that the wall clock is ahead of `now`.
        """
        windows, since = self.losses.windows, now - self.longest_window
        asked = self.holds.asked_of(lambda name: shard_of(name) == shard)
        lost = {one.key for one in windows.keys() if isinstance(one, Part) and one.shard == shard}  # noqa: SIM118
        scopes = owned.keys() | asked.keys() | {one.scope if isinstance(one, Reused) else one for one in lost}
        return {
            scope: Reserve(
                serving=owned.get(scope, 0),
                won=windows.minutes(within(shard, scope), since, ahead),
                reused=windows.minutes(within(shard, Reused(scope)), since, ahead),
                asked=asked.get(scope, {}),
                settled=(shard, scope) in self.losses.settled_in,
            )
            for scope in scopes
        }

    def hear(self, others: Elsewhere, now: float) -> set[ServiceName]:
        """What other members have and lose, as it is now. Returns the names of holds that may be judged otherwise.

        Holds alone are judged again, and only where others ask for less or have lost less: what goes was judged by what
        it was reserved with.
        """
        before, self.elsewhere = self.elsewhere, others
        fewer = set(before.unread) - set(others.unread)
        eased: dict[tuple[Scope, float], bool] = {}
        found: set[ServiceName] = set()
        for name in self.holds.names():
            for one in self.holds.of(name).values():
                key = (one.removal.scope, self._limits(one.removal).window)
                if key not in eased:
                    eased[key] = others.of(*key, now).eases(before.of(*key, now))
                if fewer or eased[key]:
                    found.add(name)
        return found

    def stands(self, plan: Plan, change: Change, now: float) -> bool:
        """Whether a removal that was let go may still go, now that it is reserved and the others were heard."""
        removal = next((one for one in plan.removals if one.change.id == change.id), None)
        if removal is None or not counts(removal):
            return True
        removal = removal.as_reused if change.cause is Cause.REUSED else removal._replace(change=change)
        ground = self.ground(change)
        if ground is not None and ground.freed in (Freed.APPROVAL, Freed.EXPECTED):
            return True
        verdict = self._judge(plan, removal, _going(plan), now).verdict
        return verdict.limit is None or (self.holds.is_agreed(removal) and not verdict.operator)

    # -- outcomes -----------------------------------------------------------------------------------------------

    def wrote(self, change: Change, now: float) -> None:
        """A change was made: its approval is used up, even where nothing is planned after it."""
        self.holds.use(item_of(change))
        if change.before is not None:
            self._flaps.wrote((change.service, change.id), now)

    def approved(self, changes: Iterable[Change]) -> list[Item]:
        """Those of these changes that only an operator's approval lets go."""
        granted = self.holds.granted()
        return [item for change in changes if (item := item_of(change)) in granted] if granted else []

    def moved(self, now: float) -> set[ServiceName]:
        """The names whose holds may be judged differently now; called once a second.

        Fewer removals are asked for, a hold has ended, losses have left the window, or the hard limit holds a part of a
        scope of which another part waits for a second opinion only.
        """
        self.losses.windows.forget(now - self.longest_window)
        self.expected.forget(now)
        found = self.holds.forget(now)
        for scope in self._tripped:
            found |= self.holds.timed(scope)
        self._tripped.clear()
        before, self._most = self._most, self.holds.asked()
        if self._most < before:
            found |= {*self.holds.names()}
        nets: dict[tuple[Hashable, float], int] = {}
        for name in self.holds.names():
            for one in self.holds.of(name).values():
                window = self._limits(one.removal).window
                for key in ((name, window), (one.removal.scope, window)):
                    if key not in nets:
                        net = self.losses.windows.net if key[0] is name else self.losses.net
                        nets[key] = net(key[0], now - window)
                    if nets[key] > self._nets.get(key, nets[key]):
                        found.add(name)
        self._nets = nets
        return found


def _freed(verdict: Verdict, *, granted: bool, expected: bool) -> Freed:
    if verdict.limit is None:
        return Freed.LIMITS
    return Freed.APPROVAL if granted else Freed.EXPECTED if expected else Freed.OPINION


def _going(plan: Plan) -> Going:
    losing = [removal for removal in plan.removals if removal.loses]
    return Going(len(losing), sum(removal.ordered for removal in losing))


def _unsaid(plan: Plan) -> set[str]:
    return {key for key, reason in plan.kept.items() if reason.kind in UNSAID}
