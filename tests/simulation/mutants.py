"""Deliberate breakages of the core and of the registry in memory: every one must be found by some history.

A mutant is applied by replacing functions of the core while a history is played. `found_by` names the scenarios that
are played first; seeds of random histories follow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import msgspec

from adapters.common import changes
from adapters.memory import polled, server, sink
from bridge import retry
from bridge.adapter import Cause, Change, Listing, Observed, Returns
from bridge.daemon import migrating, natives, overriding
from bridge.daemon import moving as daemon_moving
from bridge.destination import apply, awake, confirm, destination, handover, note, planner, standby, writer
from bridge.destination import reconciler as reconcile
from bridge.engine import belief, engine, moves
from bridge.errors import ConfigError, Conflict, Expired, Unavailable
from bridge.guard import additions, gate, holds, losses, windows
from bridge.guard import limits as guard
from bridge.migration import gates, intent, phases, shares
from bridge.migration import natives as migrated
from bridge.migration.block import Part
from bridge.migration.sides import Scope, Sides
from bridge.model import Mark, Service
from bridge.plan import adopt, doses, echo, overrides, purge, route, values
from bridge.plan import diff as plan
from bridge.plan.causes import MOMENTARY
from bridge.plan.evidence import evidence as evidence_of
from bridge.sources import claims, feed, networks, view
from bridge.state import decisions, folder
from bridge.state.decisions import Kind
from tests.kit.mutants import Mutant, Replacements, applied
from tests.simulation.run import Report, play
from tests.simulation.scenarios import SCENARIOS

SEEDS = 3  # of each scenario
HISTORIES = 40  # random ones, where no scenario finds it


def _always(value: object) -> Callable[..., Any]:
    return lambda *_, **__: value


# -- the guard ---------------------------------------------------------------------------------------------------------


def _guard_off() -> Replacements:
    return [(guard, "judge", _always(guard.GO))]


def _question_forgets() -> Replacements:
    real = windows.Windows.net

    def net(self: windows.Windows, key: Any, after: float = float("-inf"), before: float = float("inf")) -> int:
        deltas = self._deltas.get(key, deque())
        while deltas and deltas[0][0] <= after:
            deltas.popleft()
        return real(self, key, after, before)

    return [(windows.Windows, "net", net)]


def _growth_hides() -> Replacements:
    return [(losses, "STOOD", float("inf"))]


def _emptied_by_a_timer() -> Replacements:
    real = guard.judge

    def judge(limits: Any, asked: Any, service: Any, scope: Any, whole: Any) -> Any:
        return real(limits, asked, service, scope, whole._replace(after=whole.after + 1, stood=0))

    return [(guard, "judge", judge)]


def _timer_not_judged_again() -> Replacements:
    real = guard.judge

    def judged(self: gate.Gate, plan: Any, *about: Any) -> Any:
        agreed = {one.change.id for one in plan.removals if self.holds.is_agreed(one)}
        with mock.patch.object(guard, "judge", _always(guard.GO) if agreed else real):
            return before(self, plan, *about)

    before = gate.Gate._judged
    return [(gate.Gate, "_judged", judged), (holds.Holds, "timed", _always(frozenset()))]


def _additions_flow() -> Replacements:
    return [(additions.Additions, "waits", _always(False))]


def _approved_additions_used_up() -> Replacements:
    real = gate.Gate._settle

    def settle(self: gate.Gate, made: Any, judged: Any, granted: Any, now: float) -> Any:
        return real(self, made, judged, [], now)

    return [(gate.Gate, "_settle", settle)]


def _approved_additions_stay_approved() -> Replacements:
    return [(holds.Holds, "use", _always(None))]


def _blank_polls_count() -> Replacements:
    return [(polled, "is_something", _always(True))]


def _refused_by_half() -> Replacements:
    """A file that is refused is in force for the destinations that there are."""
    real = engine.Engine.prepare

    def prepare(self: engine.Engine, configuration: Any) -> Any:
        try:
            return real(self, configuration)
        except ConfigError:
            for name, one in self.reconcilers.items():
                one.route([link for link in configuration.links if link.to == name])
            raise

    return [(engine.Engine, "prepare", prepare)]


def _returned(share: float | None = None, after: float | None = None) -> Replacements:
    """A life is believed by itself by another share, or after another time."""
    real = server.Store.observations

    async def observations(self: server.Store) -> Any:
        before = self.returns
        if before is not None:
            self.returns = Returns(before.share if share is None else share, before.after if after is None else after)
        async for word in real(self):
            self.returns = before
            yield word

    return [(server.Store, "observations", observations)]


def _purges_others() -> Replacements:
    return [(purge, "_meant", _always(True))]


def _adopts_what_differs() -> Replacements:
    return [(adopt, "_differing", _always([]))]


def _adopts_what_is_strange() -> Replacements:
    return [(adopt, "_strange", _always(""))]


def _ill_stands_as_well() -> Replacements:
    return [(gate.Gate, "_marked", _always(None))]


def _doubt_waits_for_all() -> Replacements:
    def is_settled(view: Any, reconcilers: Any) -> bool:
        return not any(one.destination.holds.count() for one in reconcilers.values())

    return [(belief, "is_settled", is_settled)]


def _what_is_spared_is_settled() -> Replacements:
    return [(belief, "_spares", _always(False))]


def _copies_are_clients() -> Replacements:
    def has_returned(self: view.View) -> bool:
        known, returns = self._known, self._came.returns
        if returns is None or not self.doubt or self._store.now() - self._doubted < returns.after:
            return False
        return sum(not self._is_gone(key) for key in known) >= returns.share * len(known)

    return [(view.View, "has_returned", property(has_returned))]


def _freeze_left_nowhere() -> Replacements:
    real = standby.Standby.look

    async def look(self: standby.Standby, term: Any, *, leave: bool = False) -> None:
        await real(self, term)

    async def pass_on(self: standby.Standby) -> note.Shared:
        await self.look(None)
        found = note.decode(await self._seat.recall())
        return found or note.Shared(turn=0, writer=note.NOBODY)

    return [(standby.Standby, "look", look), (standby.Standby, "pass_on", pass_on)]


def _clusters_own_addresses_written() -> Replacements:
    return [(route, "_unreachable", _always(None))]


def _ended_watch_goes_on() -> Replacements:
    real = feed.Feed._follow

    async def follow(self: feed.Feed) -> None:
        await real(self)
        await asyncio.Event().wait()

    return [(feed.Feed, "_follow", follow)]


def _approval_outlives_its_use() -> Replacements:
    async def use(self: apply.Applier, batch: Any) -> bool:
        return True

    return [(apply.Applier, "_use", use), *_waits_for_what_nobody_asks()]


def _waits_for_what_nobody_asks() -> Replacements:
    """An approval of which nothing has been asked yet waits for that, although its source has spoken."""
    real = holds.Holds.settle

    def settle(self: holds.Holds, name: Any, held: Any, removals: Any, unheard: Any = ()) -> Any:
        waits = {item[2] for item, grant in self._granted.get(name, {}).items() if not grant.asked}
        return real(self, name, held, removals, {*unheard, *waits})

    outlives = [(holds.Holds, "only_standing", _always(None)), (holds.Holds, "use", _always(None))]
    return [(holds.Holds, "settle", settle), *outlives]


def _freezes_stay_at_home() -> Replacements:
    real = handover.Handover._take_over

    def take_over(self: handover.Handover, ours: Any, theirs: Any) -> None:
        if theirs is None or theirs.kind is not Kind.FREEZE:
            real(self, ours, theirs)

    return [(handover.Handover, "_take_over", take_over)]


def _freeze_said_at_once() -> Replacements:
    async def pass_on(self: standby.Standby) -> note.Shared:
        return note.Shared(turn=0, writer=note.NOBODY)

    return [(standby.Standby, "pass_on", pass_on), *_freezes_stay_at_home()]


def _approval_without_end() -> Replacements:
    return [(holds.Holds, "forget", _always(set())), (holds.Grant, "until", float("inf"))]


def _share_per_plan() -> Replacements:
    return [(windows.Windows, "start", lambda self, key, serving, now, window: serving)]


def _hard_share_off() -> Replacements:
    real = guard.judge

    def judge(limits: Any, *rest: Any) -> Any:
        return real(msgspec.structs.replace(limits, hard_share=1.0), *rest)

    return [(guard, "judge", judge)]


def _doubt_ignored() -> Replacements:
    real = guard.judge

    def judge(limits: Any, asked: Any, *rest: Any) -> Any:
        return real(limits, asked._replace(doubt=""), *rest)

    return [(guard, "judge", judge)]


def _config_not_held() -> Replacements:
    real = guard.judge

    def judge(limits: Any, asked: Any, *rest: Any) -> Any:
        return guard.GO if asked.cause is Cause.CONFIG else real(limits, asked, *rest)

    return [(guard, "judge", judge)]


def _stale_read_trusted() -> Replacements:
    return [(confirm, "agrees", _always(True))]


def _anyone_agrees() -> Replacements:
    return [(confirm, "is_itself", lambda view: view.synced), *_timer_not_judged_again()]


def _ill_agrees_with_gone() -> Replacements:
    real = confirm.agrees

    def agrees(one: Any, view: Any, observed: Observed) -> bool:
        there = observed.service.instances.get(one.removal.change.mark.instance)
        return real(one, view, observed) or (there is not None and not there.serving)

    return [(confirm, "agrees", agrees)]


def _approves_what_has_grown() -> Replacements:
    def approve(self: holds.Holds, hold: str, now: float) -> tuple[holds.Item, ...]:
        standing = tuple(one.item for held in self._held.values() for one in held.values())
        self.grant(hold, standing, now + holds.APPROVED)
        return standing

    return [(holds.Holds, "approve", approve)]


def _free_for_ever() -> Replacements:
    real = holds.Holds.settle

    def settle(self: holds.Holds, *about: Any) -> Any:
        granted = {name: dict(items) for name, items in self._granted.items()}
        found = real(self, *about)
        self._granted = granted
        return found

    return [(holds.Holds, "settle", settle), (holds.Holds, "use", _always(None))]


def _last_ill_withdrawn() -> Replacements:
    return [(plan, "_spare_the_last", _always(None))]


# -- what is believed --------------------------------------------------------------------------------------------------


def _incarnation_ignored() -> Replacements:
    return [(view, "_new_life", _always(""))]


def _believed_at_once() -> Replacements:
    real = view.View.begin

    def begin(self: view.View, listing: Listing) -> None:
        real(self, listing)
        if self.doubt:
            self.believe()

    return [(view.View, "begin", begin)]


def _believed_as_it_began() -> Replacements:
    """A life that is believed counts from its listing, not from what it told since."""
    real = view.View.believe

    def believe(self: view.View) -> None:
        self._reached = self._came.revision
        real(self)

    return [(view.View, "believe", believe)]


def _swept_before_synced() -> Replacements:
    real = view.View.begin

    def begin(self: view.View, listing: Listing) -> None:
        real(self, listing)
        self.up = True
        for name in list(self.services):
            self._replace(name, Service(name), ended=False)

    return [(view.View, "begin", begin)]


def _dark_trusted() -> Replacements:
    real = evidence_of

    def evidence(*about: Any) -> Any:
        gone = real(*about)
        if isinstance(gone, values.Gone) and " does not answer: " in gone.doubt:
            return gone._replace(doubt="")
        return gone

    return [(plan, "evidence", evidence)]


def _unsynced_trusted() -> Replacements:
    real = view.View.begin

    def begin(self: view.View, listing: Listing) -> None:
        real(self, listing)
        self.synced = self.up = True

    return [(view.View, "begin", begin)]


def _old_words_stand() -> Replacements:
    return [(view.View, "mark_stale", _always(None))]


def _old_listing_stands() -> Replacements:
    return [(writer.Lead, "_may_follow_another", _always(False))]


def _asks_again_as_if_for_the_first_time() -> Replacements:
    def may_follow(self: writer.Lead, term: Any) -> bool:
        return term is not None and term.taken_over

    return [(writer.Lead, "_may_follow_another", may_follow)]


def _lock_tells_nothing() -> Replacements:
    return [(server.Tenure, "taken_over", property(_always(False), _always(None)))]


def _holds_end_in_the_dark() -> Replacements:
    return [(gate.Gate, "_unanswered", _always({}))]


def _live_watch_trusted() -> Replacements:
    def begun(self: reconcile.Reconciler, another_wrote: bool) -> None:
        for each in self._store.views():
            if not each.up:
                each.mark_stale()
                if another_wrote:
                    self._relist(each, "")
        self.backlog.read_again()
        self.poke()

    return [(reconcile.Reconciler, "_begin_term", begun)]


def _sleep_unnoticed() -> Replacements:
    return [(awake, "STOPPED", float("inf"))]


def _unreadable_is_gone() -> Replacements:
    return [
        (view.View, "_kept", lambda self, observed: observed.service),
        (view.View, "_note_unreadable", _always(None)),
    ]


def _old_words_believed() -> Replacements:
    real = view.View.observe

    def observe(self: view.View, observed: Observed) -> None:
        self._newest.clear()
        real(self, observed)

    return [(view.View, "observe", observe)]


def _disk_believed() -> Replacements:
    return [(view.View, "heard", _always(True))]


def _never_listed_anew() -> Replacements:
    return [(feed.Feed, "relist", _always(None))]


# -- what is planned ---------------------------------------------------------------------------------------------------


def _shadowing_off() -> Replacements:
    return [(plan, "_native", _always("")), (plan, "_foreign", _always({}))]


def _owned_by_name() -> Replacements:
    real = plan.make_plan

    def make_plan(name: Any, goal: Any, held: Any, world: Any) -> Any:
        owner, link = held.owner, next(iter(world.links), "")
        taken = {
            id: entry
            if entry.mark is not None and entry.mark.owner == owner
            else msgspec.structs.replace(entry, mark=Mark(owner, link, ("mem:a",), "", name, id))
            for id, entry in held.entries.items()
        }
        return real(name, goal, held._replace(entries=taken), world)

    return [(planner, "make_plan", make_plan)]


def _path_ignored() -> Replacements:
    real = route._refusal

    def refusal(supply: Any, service: Service, *rest: Any) -> Any:
        bare = Service(service.name, service.instances)
        return real(supply._replace(service=bare), bare, *rest)

    return [(route, "_refusal", refusal)]


def _echoes_for_ever() -> Replacements:
    return [(echo.Written, "leave", _always(None))]


def _echoes_of_what_observes_for_ever() -> Replacements:
    return [(planner, "observes", _always(False))]


def _looks_once() -> Replacements:
    return [(reconcile.Reconciler, "read_again", _always(None))]


def _echoes_sent() -> Replacements:
    return [(echo.Written, "_is_over", _always(True))]


def _id_taken_over() -> Replacements:
    return [(plan, "_is_another", _always(False))]


def _replaced_by_what_is_to_come() -> Replacements:
    def standing(wanted: Any, entries: Any, places: Any) -> Any:
        sources = {values.source_of(one.mark) for one in wanted.values()}
        found = {place for one in wanted.values() for place in places.of(one.instance, one.mark)}
        return plan.Standing(found, sources, found, sources)

    return [(plan, "_standing", standing)]


def _orphan_removed() -> Replacements:
    real = evidence_of

    def evidence(key: Any, mark: Any, goal: Any, world: Any) -> Any:
        if mark.link not in world.links:
            return values.Gone(Cause.EVENT, (mark.path[-1], mark.scope))
        return real(key, mark, goal, world)

    def writable(self: gate.Gate, change: Change, now: float) -> bool:
        return True

    return [(plan, "evidence", evidence), (gate.Gate, "is_writable", writable)]


def _upsert_only_removes() -> Replacements:
    return [(plan, "upsert_only", _always(False))]


def _policy_and_freeze_ignored() -> Replacements:
    return [(gate.Gate, "is_writable", _always(True)), (destination.Destination, "writes", True)]


def _momentary_causes_stand() -> Replacements:
    def settled_causes(made: Any, known: Any, causes: Any) -> Any:
        return {one.change.id: causes.get(one.change.id, one.cause) for one in made.removals}

    def with_causes(made: Any, causes: Any) -> Any:
        return made._replace(removals=[_because(one, causes[one.change.id]) for one in made.removals])

    return [(planner, "settled_causes", settled_causes), (planner, "with_causes", with_causes)]


def _because(removal: Any, cause: Cause) -> Any:
    return removal._replace(cause=cause, change=msgspec.structs.replace(removal.change, cause=cause))


def _networks_ignored() -> Replacements:
    return [(networks.Networks, "of", _always(networks.DEFAULT))]


def _strangers_kept() -> Replacements:
    return [(claims.Claims, "elsewhere", _always(""))]


def _strangers_without_number() -> Replacements:
    return [(gate.Gate, "_count", _always(0))]


def _shared_forgotten() -> Replacements:
    return [(claims.Claims, "share", _always(None))]


# -- what is written ---------------------------------------------------------------------------------------------------


def _removal_before_add() -> Replacements:
    real = changes.turn
    return [(sink, "turn", lambda change: -real(change))]


def _lost_answer_taken_for_success() -> Replacements:
    real = apply.Applier._conclude

    def conclude(self: apply.Applier, outcome: Any, *about: Any, **more: Any) -> float:
        if isinstance(outcome.error, Unavailable):
            outcome = msgspec.structs.replace(outcome, error=None)
        return real(self, outcome, *about, **more)

    return [(apply.Applier, "_conclude", conclude)]


def _late_gains_count() -> Replacements:
    return [(apply, "LATE", float("inf"))]


def _drift_ignored() -> Replacements:
    async def follow(self: reconcile.Reconciler) -> None:
        await asyncio.Event().wait()

    return [(reconcile.Reconciler, "_follow_drift", follow)]


def _ledger_not_compared() -> Replacements:
    real = server.Store.check

    def check(self: server.Store, bridge: str, tenure: Any, change: Change) -> None:
        try:
            real(self, bridge, tenure, change)
        except Conflict:
            if change.before is None or change.after is None:
                raise

    return [(server.Store, "check", check)]


def _term_not_looked_at() -> Replacements:
    return [(sink, "in_force", _always(None))]


def _lock_not_compared() -> Replacements:
    return [(server.Store, "compare", _always(None))]


def _another_store_signs() -> Replacements:
    return [(route.Supply, "told_by", lambda self, _: self.identity)]


def _who_told_is_forgotten() -> Replacements:
    real = view.View.restore

    def restore(self: view.View, *about: Any) -> None:
        real(self, *about[:5])

    return [(view.View, "restore", restore)]


def _old_absence_stands() -> Replacements:
    def settled_causes(made: Any, known: Any, causes: Any) -> Any:
        return {
            one.change.id: causes.get(one.change.id, one.cause) for one in made.removals if one.cause not in MOMENTARY
        }

    return [(planner, "settled_causes", settled_causes)]


def _known_by_id() -> Replacements:
    return [(plan, "_was_wanted", lambda removal, wanted: wanted is not None)]


def _listed_once() -> Replacements:
    return [(feed, "LONG_LIST", float("inf"))]


def _hammered() -> Replacements:
    return [(feed.Feed, "_room", _always(0.0)), (retry.Backoff, "delay", _always(0.01))]


# -- what operators say in the place of a source -----------------------------------------------------------------------


def _orders_take_the_last() -> Replacements:
    real = guard.judge

    def judge(limits: Any, asked: Any, *rest: Any) -> Any:
        return real(limits, asked._replace(including_last=True), *rest)

    return [(guard, "judge", judge)]


def _overrides_stay_at_home() -> Replacements:
    real = handover.Handover._take_over

    def take_over(self: handover.Handover, ours: Any, theirs: Any) -> None:
        if theirs is None or theirs.said is None:
            real(self, ours, theirs)

    return [(handover.Handover, "_take_over", take_over)]


def _overrides_without_end() -> Replacements:
    real = decisions.Decision.stands

    def stands(self: decisions.Decision, now: float) -> bool:
        return self.said is not None or real(self, now)

    return [(decisions.Decision, "stands", stands)]


def _overrides_everywhere() -> Replacements:
    real = overrides.Overrides.orders

    def orders(self: overrides.Overrides, destination: str, *rest: Any) -> Any:
        return {**real(self, "b", *rest), **real(self, "c", *rest)}

    return [(overrides.Overrides, "orders", orders)]


def _wider_ones_count() -> Replacements:
    real = overrides.Overrides.take

    def take(self: overrides.Overrides, said: Any) -> None:
        real(self, said)
        for ones in self._by_service.values():
            ones.reverse()

    return [(overrides.Overrides, "take", take)]


def _drains_give_way() -> Replacements:
    return [(overriding, "RANKS", {Kind.DRAIN: 9, Kind.OVERRIDE: 2})]


def _overrides_a_second_late() -> Replacements:
    return [(overriding.Overriding, "_refresh", _always(None))]


def _overrides_outlive_their_instance() -> Replacements:
    return [(overriding, "is_away", _always(False))]


def _given_back_pays() -> Replacements:
    return [(planner.Planner, "returns", _always(False))]


# -- migrations --------------------------------------------------------------------------------------------------------


def _refitted_on_loss() -> Replacements:
    real = shares.dealt

    def dealt(dose: Any, ours: Any, scale: Any) -> Any:
        if dose.weight is not None and dose.of > len(ours) > 0:
            dose = msgspec.structs.replace(dose, weight=dose.weight * dose.of / len(ours))
        return real(dose, ours, scale)

    return [(doses, "dealt", dealt)]


def _more_copies_more_share() -> Replacements:
    real = shares.dealt

    def dealt(dose: Any, ours: Any, scale: Any) -> Any:
        return real(msgspec.structs.replace(dose, of=0), ours, scale)

    return [(doses, "dealt", dealt)]


def _no_data_is(result: gates.Result) -> Replacements:
    real = gates.verdict

    def verdict(*about: Any, **more: Any) -> Any:
        found = real(*about, **more)
        return found._replace(result=result) if found.result is gates.Result.NO_DATA else found

    return [(migrating, "verdict", verdict)]


def _old_side_goes_first() -> Replacements:
    return [(doses, "_stands", _always(True))]


def _nobody_is_waited_for() -> Replacements:
    return [(migrating.Following, "lacking", _always(""))]


def _who_begins_follows() -> Replacements:
    """Who begins to write a place says that it follows, though it has yet to read and write there."""
    real = migrating.Following._written

    def written(self: Any) -> Any:
        for place, reconciler in self._engine.reconcilers.items():
            for post in self._spots(place, reconciler):
                self._terms[post] = reconciler.lead.term_in(post.shard)
        return real(self)

    return [(migrating.Following, "_written", written)]


def _lost_history_is_well() -> Replacements:
    real = reconcile.Reconciler._note_trouble

    def note(self: Any, what: str, error: Exception) -> None:
        if not isinstance(error, Expired):
            real(self, what, error)

    return [(reconcile.Reconciler, "_note_trouble", note)]


def _natives_at_once() -> Replacements:
    return [(natives, "batch", lambda move, keys, out: sorted(keys))]


def _levers_over_others() -> Replacements:
    """What stood there before is put back, whatever others have written meanwhile."""

    def put_back(kept: Any, *_: object) -> Any:
        return migrated.Write(kept.before, None)

    return [(natives, "put_back", put_back)]


def _natives_stay_out() -> Replacements:
    return [(natives, "put_back", lambda kept, stands, _: migrated.Write(stands, None))]


def _attached_before_it_begins() -> Replacements:
    return [(doses, "UNATTACHED", msgspec.structs.replace(doses.UNATTACHED, old=shares.ALL))]


def _detached_on_a_way_back() -> Replacements:
    real = shares.attached

    def attached(share: float | None, *of: Any) -> Any:
        return real(1.0 if share == 0.0 else share, *of)

    return [(moves, "attached", attached), (moves, "going_back", lambda made, *_: made)]


def _all_at_once() -> Replacements:
    real = phases._at

    def at(state: Any, block: Any, facts: Any, phase: Any, step: int) -> Any:
        return real(state, block, facts, phase, len(block.steps) if step == 2 else step)

    return [(phases, "_at", at)]


def _steps_do_not_settle() -> Replacements:
    return [(phases, "RULES", tuple(one for one in phases.RULES if one is not phases._settling))]


def _trouble_ignored() -> Replacements:
    return [(moves, "trouble", _always(""))]


def _second_engine() -> Replacements:
    real = server.Store.lock

    @contextlib.asynccontextmanager
    async def lock(self: server.Store, key: str, *about: Any) -> Any:
        if key.endswith(intent.DESTINATION):
            yield server.Tenure(key)
            return
        async with real(self, key, *about) as tenure:
            yield tenure

    return [(server.Store, "lock", lock)]


def _back_to_the_ill() -> Replacements:
    return [(moves, "old_serves", _always(True))]


def _carried_before_it_begins() -> Replacements:
    return [(doses, "NOT_BEGUN", msgspec.structs.replace(doses.NOT_BEGUN, new=shares.ALL))]


def _anew_is_heard() -> Replacements:
    def is_heard(engine: Any, block: Any) -> bool:
        return all(view.synced for view in moves._views(engine, block, Part.OLD))

    return [(moves, "is_heard", is_heard)]


def _copies_are_machines() -> Replacements:
    """The sides are told apart by what feeds a name now."""

    def sides(engine: Any, block: Any) -> Any:
        views = [view for view in engine.store.views() if view.services]
        return Sides(block, [Scope(view.identity, view.registry, view.scope) for view in views])

    return [(moves, "sides_of", sides)]


def _believed_alone() -> Replacements:
    return [(folder.State, "believe", _always(None))]


def _holds_of_standbys_grow_old() -> Replacements:
    return [(belief, "_read_again", _always(None))]


def _standbys_tell_old_shares() -> Replacements:
    async def nothing(*_: Any) -> None:
        return

    return [(daemon_moving.Moving, "_read_again", nothing)]


def _older_shares() -> Replacements:
    """A daemon goes by the record before the one that it has read last."""
    real = doses.Doses.follow
    read: dict[doses.Doses, list[intent.Record]] = {}

    def follow(self: doses.Doses, record: Any) -> Any:
        known = read.setdefault(self, [self.record, self.record])
        if record.turn != known[-1].turn:
            known[:] = [known[-1], record]
        return real(self, known[0])

    return [(doses.Doses, "follow", follow)]


MUTANTS: dict[str, Mutant[tuple[str, ...]]] = {
    "refitted-on-loss": Mutant(
        "what a side loses within a step is made up for by it", ("moved_and_lost",), _refitted_on_loss
    ),
    "more-copies-more-share": Mutant(
        "copies that come within a step get more than was asked", ("moved_and_lost",), _more_copies_more_share
    ),
    "no-data-passes": Mutant(
        "a step is passed though no gate says so", ("moved_without_data",), partial(_no_data_is, gates.Result.PASS)
    ),
    "no-data-rolls-back": Mutant(
        "a step is rolled back though no gate says so", ("moved_without_data",), partial(_no_data_is, gates.Result.FAIL)
    ),
    "old-side-goes-first": Mutant(
        "the old side goes before the new one stands", ("moved_forward",), _old_side_goes_first
    ),
    "nobody-is-waited-for": Mutant(
        "a step goes on though a place is written by an older one", ("moved_by_who_is_cut_off",), _nobody_is_waited_for
    ),
    "who-begins-follows": Mutant(
        "who has yet to read a place counts as one that follows there",
        ("moved_by_who_begins_to_write",),
        _who_begins_follows,
    ),
    "lost-history-is-well": Mutant(
        "a place that loses its history again and again is not in trouble",
        ("moved_where_history_is_lost",),
        _lost_history_is_well,
    ),
    "natives-at-once": Mutant("every native goes in one batch", ("moved_and_steered",), _natives_at_once),
    "levers-over-others": Mutant(
        "a lever is put back over what others wrote there", ("moved_and_steered",), _levers_over_others
    ),
    "natives-stay-out": Mutant("a rollback leaves natives out of service", ("moved_and_steered",), _natives_stay_out),
    "attached-before-it-begins": Mutant(
        "machines stand beside pods though nothing was started", ("moved_beside_pods",), _attached_before_it_begins
    ),
    "detached-on-a-way-back": Mutant(
        "a way back takes machines away from beside pods", ("moved_beside_pods",), _detached_on_a_way_back
    ),
    "all-at-once": Mutant("a cold side gets everything at once", ("moved_forward",), _all_at_once),
    "steps-do-not-settle": Mutant("a step ends as it begins", ("moved_by_hand",), _steps_do_not_settle),
    "trouble-ignored": Mutant(
        "a step goes on while a side is doubted or a link is frozen", ("moved_in_doubt",), _trouble_ignored
    ),
    "second-engine": Mutant("two daemons move the steps", ("moved_forward",), _second_engine),
    "back-to-the-ill": Mutant(
        "a rollback goes to a side that cannot take it", ("moved_back_to_the_ill",), _back_to_the_ill
    ),
    "carried-before-it-begins": Mutant(
        "the new side has a share before anything was started", ("moved_forward",), _carried_before_it_begins
    ),
    "anew-is-heard": Mutant(
        "an old side that starts anew counts as one that has nothing", ("moved_before_it_began",), _anew_is_heard
    ),
    "copies-are-machines": Mutant(
        "copies of a side that has vanished count for the other", ("moved_and_vanished",), _copies_are_machines
    ),
    "believed-alone": Mutant(
        "a life that the writer believes stays doubted elsewhere", ("moved_by_who_stands_by",), _believed_alone
    ),
    "holds-of-standbys-grow-old": Mutant(
        "who stands by holds for ever what the writer has done", ("moved_by_two_writers",), _holds_of_standbys_grow_old
    ),
    "standbys-tell-old-shares": Mutant(
        "who stands by tells what stood before the writer wrote", ("moved_and_looked_at",), _standbys_tell_old_shares
    ),
    "older-shares": Mutant(
        "a place is written by the share of an older number", ("moved_and_sick", "moved_forward"), _older_shares
    ),
    "orders-take-the-last": Mutant(
        "what an operator says takes the last one", ("drained_to_the_last",), _orders_take_the_last
    ),
    "overrides-stay-at-home": Mutant(
        "who takes over does not know what operators said", ("drained_and_taken_over",), _overrides_stay_at_home
    ),
    "overrides-a-second-late": Mutant(
        "who begins to write knows what operators said only when it looks again",
        ("drained_and_started_anew",),
        _overrides_a_second_late,
    ),
    "overrides-without-end": Mutant(
        "what was said for a while is in force for ever", ("said_for_a_while",), _overrides_without_end
    ),
    "overrides-everywhere": Mutant(
        "what is said of one place counts at others", ("said_of_one_place",), _overrides_everywhere
    ),
    "wider-ones-count": Mutant(
        "what is said of a service counts before what is said of an instance", ("drained_and_said",), _wider_ones_count
    ),
    "drains-give-way": Mutant("an override ends a drain", ("drained_and_said",), _drains_give_way),
    "overrides-outlive-their-instance": Mutant(
        "what was said of an instance counts for the next one of its id",
        ("away_and_back",),
        _overrides_outlive_their_instance,
    ),
    "given-back-pays": Mutant("what an operator gives back pays for what is lost", ("given_back",), _given_back_pays),
    "guard-off": Mutant("every removal goes at once", ("some_is_not_listed",), _guard_off),
    "share-per-plan": Mutant("losses are counted from one plan to the next only", ("erosion",), _share_per_plan),
    "question-forgets": Mutant(
        "who asks with a short window makes the others forget", ("windows_of_two_lengths",), _question_forgets
    ),
    "growth-hides": Mutant("what came within the window may be wiped", ("wiped_after_growth",), _growth_hides),
    "emptied-by-a-timer": Mutant(
        "a young scope is emptied without the operator", ("wiped_while_young",), _emptied_by_a_timer
    ),
    "timer-not-judged-again": Mutant(
        "what a second opinion confirmed goes, whatever else was lost",
        ("wiped_service_by_service",),
        _timer_not_judged_again,
    ),
    "additions-flow": Mutant("what a changed file adds flows", ("added_by_the_file",), _additions_flow),
    "approved-additions-used-up": Mutant(
        "the approval of an addition is over before it is made",
        ("addition_approved_while_frozen",),
        _approved_additions_used_up,
    ),
    "approved-additions-stay-approved": Mutant(
        "the approval of an addition lets it go again",
        ("addition_approved_and_taken_away",),
        _approved_additions_stay_approved,
    ),
    "blank-polls-count": Mutant("what a poll does not show is gone", ("blank_polls",), _blank_polls_count),
    "refused-by-half": Mutant("a file that is refused is in force by half", ("refused_file",), _refused_by_half),
    "returned-by-half": Mutant(
        "a new life is believed when some of its clients are back", ("back_by_half",), partial(_returned, share=0.5)
    ),
    "returned-at-once": Mutant(
        "a new life is believed as soon as most of its clients are back",
        ("back_but_for_one",),
        partial(_returned, after=0.0),
    ),
    "never-returned": Mutant(
        "a new life waits for the operator although its clients are back",
        ("back_but_for_the_dead",),
        partial(_returned, after=float("inf")),
    ),
    "copies-are-clients": Mutant(
        "a new life is believed for the copies that bridges wrote again",
        ("copies_back_and_clients_not",),
        _copies_are_clients,
    ),
    "what-is-spared-is-settled": Mutant(
        "a new life is believed because its link removes nothing yet",
        ("removing_after_another_life",),
        _what_is_spared_is_settled,
    ),
    "freeze-left-nowhere": Mutant(
        "a freeze is in force though no note has it", ("frozen_without_a_note",), _freeze_left_nowhere
    ),
    "clusters-own-addresses-written": Mutant(
        "a cluster is told addresses that it alone gives out",
        ("addresses_of_a_cluster",),
        _clusters_own_addresses_written,
    ),
    "ended-watch-goes-on": Mutant(
        "a watch that ended is taken for one that is quiet", ("watches_that_end",), _ended_watch_goes_on
    ),
    "purges-others": Mutant("purge removes what others own", ("purged",), _purges_others),
    "adopts-what-differs": Mutant("a native that differs is taken over", ("adopted",), _adopts_what_differs),
    "adopts-what-is-strange": Mutant(
        "what the link would never have written is taken over", ("handed_over",), _adopts_what_is_strange
    ),
    "ill-stands-as-well": Mutant(
        "what is kept from withdrawal gets traffic", ("ill_beyond_the_hard_share",), _ill_stands_as_well
    ),
    "doubt-waits-for-all": Mutant(
        "a new life is doubted as long as anything is held", ("doubted_beside_another",), _doubt_waits_for_all
    ),
    "approval-outlives-its-use": Mutant(
        "what was approved and went may go again after a crash", ("approved_and_killed",), _approval_outlives_its_use
    ),
    "approval-waits": Mutant(
        "an approval waits for what nobody asks", ("approved_while_frozen",), _waits_for_what_nobody_asks
    ),
    "freezes-stay-at-home": Mutant(
        "who takes over does not know what was frozen", ("frozen_and_taken_over",), _freezes_stay_at_home
    ),
    "freeze-said-at-once": Mutant(
        "a freeze is said to be in force while another host writes on", ("frozen_elsewhere",), _freeze_said_at_once
    ),
    "approval-without-end": Mutant("an approval lasts for ever", ("approved_long_ago",), _approval_without_end),
    "hard-share-off": Mutant(
        "a second opinion frees what only the operator may", ("little_is_listed",), _hard_share_off
    ),
    "doubt-ignored": Mutant(
        "a doubted life takes away what it lacks", ("restored", "listed_from_a_cache"), _doubt_ignored
    ),
    "config-not-held": Mutant("what the file takes away goes at once", ("excluded",), _config_not_held),
    "stale-read-trusted": Mutant("the second opinion always agrees", ("some_is_not_listed",), _stale_read_trusted),
    "anyone-agrees": Mutant(
        "the second opinion is another life's", ("emptied_before_the_second_opinion",), _anyone_agrees
    ),
    "ill-agrees-with-gone": Mutant(
        "what drains is taken away for a watch that leaves it out", ("draining_and_left_out",), _ill_agrees_with_gone
    ),
    "grown-set-approved": Mutant(
        "approving a set frees what was not shown", ("grown_after_it_was_shown",), _approves_what_has_grown
    ),
    "free-for-ever": Mutant("what was let go once is never held again", ("approved_once",), _free_for_ever),
    "last-ill-withdrawn": Mutant("the last instances are withdrawn for their health", ("ill",), _last_ill_withdrawn),
    "incarnation-ignored": Mutant("another life of a store is believed", ("restored",), _incarnation_ignored),
    "believed-as-it-began": Mutant(
        "a backup of a life that is believed passes for it", ("restored_once_more",), _believed_as_it_began
    ),
    "believed-at-once": Mutant("a new life is believed as soon as it answers", ("restored",), _believed_at_once),
    "swept-before-synced": Mutant(
        "a listing removes what it has not told yet", ("listed_slowly",), _swept_before_synced
    ),
    "dark-trusted": Mutant(
        "what a source said before it went dark takes away what may be back", ("back_in_the_dark",), _dark_trusted
    ),
    "unsynced-trusted": Mutant("half a listing counts as a whole one", ("first_listing_breaks",), _unsynced_trusted),
    "old-words-stand": Mutant(
        "who takes over in the dark goes by what it heard before", ("taken_over_in_the_dark",), _old_words_stand
    ),
    "old-listing-stands": Mutant(
        "who takes over goes by a listing that began before", ("taken_over_while_it_lists",), _old_listing_stands
    ),
    "lock-tells-nothing": Mutant(
        "a writer that ends in a standby's first second is not noticed", ("taken_over_at_once",), _lock_tells_nothing
    ),
    "asked-for-the-first-time": Mutant(
        "who asks for the lock again knows nothing of who had it",
        ("lost_and_got_again", "woken_as_the_writer_again"),
        _asks_again_as_if_for_the_first_time,
    ),
    "holds-end-in-the-dark": Mutant(
        "what is held is forgotten while its source is asked anew", ("held_and_taken_over",), _holds_end_in_the_dark
    ),
    "live-watch-trusted": Mutant(
        "who takes over goes by a watch that is dead without a word",
        ("taken_over_by_who_is_deaf",),
        _live_watch_trusted,
    ),
    "sleep-unnoticed": Mutant(
        "who wakes goes by what it heard before it slept", ("stopped_while_a_removal_waits",), _sleep_unnoticed
    ),
    "unreadable-is-gone": Mutant("what cannot be read is removed", ("unreadable",), _unreadable_is_gone),
    "old-words-believed": Mutant("a watch may go back in time", ("garbled",), _old_words_believed),
    "disk-believed": Mutant("what the disk remembers is written", ("old_memory",), _disk_believed),
    "shadowing-off": Mutant("a native's address is written a second time", ("address_taken",), _shadowing_off),
    "owned-by-name": Mutant("whatever has our names is ours", ("neighbours",), _owned_by_name),
    "networks-ignored": Mutant(
        "the same address of two networks is one", ("the_same_addresses_in_three_networks",), _networks_ignored
    ),
    "strangers-kept": Mutant(
        "a copy stands though its address serves another service", ("taken_in_the_dark",), _strangers_kept
    ),
    "strangers-without-number": Mutant(
        "whatever has an address of others takes it from any number",
        ("many_taken_in_the_dark",),
        _strangers_without_number,
    ),
    "shared-forgotten": Mutant(
        "one of two services that share an address takes it from the other", ("shared_and_dark",), _shared_forgotten
    ),
    "path-ignored": Mutant("what came from a registry goes back to it", ("two_ways",), _path_ignored),
    "echoes-for-ever": Mutant(
        "what nothing may remove keeps others out for ever", ("moved_upstream",), _echoes_for_ever
    ),
    "observed-echoes-for-ever": Mutant(
        "what a link that observes does not remove keeps others out for ever",
        ("moved_upstream_of_what_observes",),
        _echoes_of_what_observes_for_ever,
    ),
    "looks-once": Mutant(
        "an echo waits for what another process took away", ("moved_upstream_of_another_writer",), _looks_once
    ),
    "echoes-sent": Mutant("what other tools carry back is sent at once", ("moved_upstream",), _echoes_sent),
    "id-taken-over": Mutant("who has an id now overwrites who had it", ("merged",), _id_taken_over),
    "replaced-by-what-is-to-come": Mutant(
        "what is replaced goes before its replacement stands", ("renumbered",), _replaced_by_what_is_to_come
    ),
    "orphan-removed": Mutant("what no link accounts for is removed", ("orphaned",), _orphan_removed),
    "upsert-only-removes": Mutant("upsert-only removes", ("upsert_only",), _upsert_only_removes),
    "policy-ignored": Mutant("observe and freeze are ignored", ("paused", "observed"), _policy_and_freeze_ignored),
    "momentary-causes-stand": Mutant(
        "what was shadowed once goes unguarded", ("shadowed_once",), _momentary_causes_stand
    ),
    "removal-before-add": Mutant("removals come before their replacements", ("rolled_over",), _removal_before_add),
    "lost-answer-is-success": Mutant(
        "a write without an answer counts as made", ("failing_target",), _lost_answer_taken_for_success
    ),
    "late-gains-count": Mutant(
        "what was written long ago pays for what is lost now", ("answered_late",), _late_gains_count
    ),
    "drift-ignored": Mutant("what others do at the target is not seen", ("meddling",), _drift_ignored),
    "ledger-not-compared": Mutant(
        "a native's new value is overwritten", ("written_over", "objects_written_over"), _ledger_not_compared
    ),
    "term-not-looked-at": Mutant(
        "two processes write under a lock that nothing compares",
        ("stopped_under_a_borrowed_lock", "stopped_without_a_fence"),
        _term_not_looked_at,
    ),
    "lock-not-compared": Mutant("two processes write", ("stopped_while_it_writes",), _lock_not_compared),
    "another-store-signs": Mutant(
        "what one store told is written in the name of another", ("swapped",), _another_store_signs
    ),
    "who-told-is-forgotten": Mutant(
        "after a restart what another store told counts as the source's own",
        ("swapped_and_purged",),
        _who_told_is_forgotten,
    ),
    "old-absence-stands": Mutant(
        "what another life of a source lacked goes by that, though only the file takes it away",
        ("excluded_and_swapped",),
        _old_absence_stands,
    ),
    "known-by-id": Mutant(
        "what the file takes away goes as if it had left, where another is wanted under its id",
        ("renamed_to_a_name_with_the_same_ids",),
        _known_by_id,
    ),
    "listed-once": Mutant(
        "what was gone when a long listing passed it is removed, though it is back",
        ("back_while_it_lists",),
        _listed_once,
    ),
    "hammered": Mutant("a flapping source is listed over and over", ("flapping",), _hammered),
}


def hunt(name: str) -> tuple[str, Report] | None:
    """The first history that finds a mutant, as the arguments that replay it; None: it survives."""
    mutant = MUTANTS[name]
    tries = [(scenario, seed) for scenario in mutant.found_by for seed in range(SEEDS)]
    for scenario, seed in [*tries, *(("", seed) for seed in range(HISTORIES))]:
        with applied(mutant):
            report = play(seed, SCENARIOS.get(scenario))
        if any(not text.startswith("bug") for text in report.broken):  # a mutant that only crashes proves nothing
            return f"--mutant {name} --seed {seed}" + (f" --scenario {scenario}" if scenario else ""), report
    return None
