"""Deliberate breakages of the core and of the registry in memory: every one must be found by some history.

A mutant is applied by replacing functions of the core while a history is played. `found_by` names the scenarios that
are played first; seeds of random histories follow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from adapters.memory import server, sink
from bridge import desk, echo, feed, guard, holds, plan, reconcile, route, store
from bridge.adapter import Cause, Change, Listing, Observed
from bridge.errors import Conflict, Unavailable
from bridge.model import Mark, Service
from tests.simulation.run import Report, play
from tests.simulation.scenarios import SCENARIOS

SEEDS = 3  # of each scenario
HISTORIES = 40  # random ones, where no scenario finds it

Replacements = Sequence[tuple[Any, str, Any]]


class Mutant(NamedTuple):
    """What is replaced (owner, attribute, by what), what that breaks, and which scenarios should find it."""

    breaks: str
    found_by: tuple[str, ...]
    replaced: Callable[[], Replacements]


def _always(value: object) -> Callable[..., Any]:
    return lambda *_, **__: value


# -- the guard ---------------------------------------------------------------------------------------------------------


def _guard_off() -> Replacements:
    return [(guard, "judge", _always(guard.GO))]


def _share_per_plan() -> Replacements:
    return [(guard.Windows, "start", lambda self, key, serving, now, window: serving)]


def _hard_share_off() -> Replacements:
    real = guard.judge

    def judge(limits: Any, cause: Cause, doubt: str, loses: bool, service: Any, scope: Any) -> Any:
        return real(msgspec.structs.replace(limits, hard_share=1.0), cause, doubt, loses, service, scope)

    return [(guard, "judge", judge)]


def _doubt_ignored() -> Replacements:
    real = guard.judge

    def judge(limits: Any, cause: Cause, doubt: str, *rest: Any) -> Any:
        return real(limits, cause, "", *rest)

    return [(guard, "judge", judge)]


def _config_not_held() -> Replacements:
    real = guard.judge

    def judge(limits: Any, cause: Cause, *rest: Any) -> Any:
        return real(limits, Cause.REPLACED if cause is Cause.CONFIG else cause, *rest)

    return [(guard, "judge", judge)]


def _stale_read_trusted() -> Replacements:
    return [(reconcile, "_agrees", _always(True))]


def _anyone_agrees() -> Replacements:
    return [(reconcile, "_is_itself", lambda view: view.synced)]


def _ill_agrees_with_gone() -> Replacements:
    real = reconcile._agrees

    def agrees(one: Any, view: Any, observed: Observed) -> bool:
        mark = one.removal.change.mark
        there = observed.service.instances.get(mark.instance)
        return real(one, view, observed) or (
            one.removal.cause is Cause.HEALTH and there is not None and not there.serving
        )

    return [(reconcile, "_agrees", agrees)]


def _approves_what_has_grown() -> Replacements:
    def approve(self: holds.Holds, hold: str, now: float) -> tuple[holds.Item, ...]:
        standing = tuple(one.item for held in self._held.values() for one in held.values())
        self.free(standing)
        return standing

    return [(holds.Holds, "approve", approve)]


def _free_for_ever() -> Replacements:
    real = holds.Holds.settle

    def settle(self: holds.Holds, *about: Any) -> Any:
        freed = {name: dict(items) for name, items in self._freed.items()}
        found = real(self, *about)
        self._freed = freed
        return found

    return [(holds.Holds, "settle", settle)]


def _last_ill_withdrawn() -> Replacements:
    return [(plan, "_spare_the_last", _always(None))]


# -- what is believed --------------------------------------------------------------------------------------------------


def _incarnation_ignored() -> Replacements:
    return [(store, "_new_life", _always(""))]


def _believed_at_once() -> Replacements:
    real = store.View.begin

    def begin(self: store.View, listing: Listing) -> None:
        real(self, listing)
        if self.doubt:
            self.believe()

    return [(store.View, "begin", begin)]


def _swept_before_synced() -> Replacements:
    real = store.View.begin

    def begin(self: store.View, listing: Listing) -> None:
        real(self, listing)
        self.up = True
        for name in list(self.services):
            self._replace(name, Service(name), ended=False)

    return [(store.View, "begin", begin)]


def _dark_trusted() -> Replacements:
    real = plan._evidence

    def evidence(*about: Any) -> Any:
        gone = real(*about)
        if isinstance(gone, plan.Gone) and " does not answer: " in gone.doubt:
            return gone._replace(doubt="")
        return gone

    return [(plan, "_evidence", evidence)]


def _unsynced_trusted() -> Replacements:
    real = store.View.begin

    def begin(self: store.View, listing: Listing) -> None:
        real(self, listing)
        self.synced = self.up = True

    return [(store.View, "begin", begin)]


def _old_words_stand() -> Replacements:
    return [(store.View, "unhear", _always(None))]


def _old_listing_stands() -> Replacements:
    return [(reconcile, "FREE", float("inf"))]


def _sleep_unnoticed() -> Replacements:
    return [(reconcile, "STOPPED", float("inf"))]


def _unreadable_is_gone() -> Replacements:
    return [
        (store.View, "_kept", lambda self, observed: observed.service),
        (store.View, "_note_unreadable", _always(None)),
    ]


def _old_words_believed() -> Replacements:
    real = store.View.observe

    def observe(self: store.View, observed: Observed) -> None:
        self._newest.clear()
        real(self, observed)

    return [(store.View, "observe", observe)]


def _disk_believed() -> Replacements:
    return [(store.View, "heard", _always(True))]


def _never_listed_anew() -> Replacements:
    return [(feed.Feed, "relist", _always(None))]


# -- what is planned ---------------------------------------------------------------------------------------------------


def _shadowing_off() -> Replacements:
    return [(plan, "_native", _always("")), (plan, "_foreign", _always({}))]


def _owned_by_name() -> Replacements:
    real = plan.make_plan

    def make_plan(name: Any, goal: Any, entries: Any, loose: Any, owner: str, links: Any, *rest: Any) -> Any:
        link = next(iter(links), "")
        taken = {
            id: entry
            if entry.mark is not None and entry.mark.owner == owner
            else msgspec.structs.replace(entry, mark=Mark(owner, link, ("mem:a",), "", name, id))
            for id, entry in entries.items()
        }
        return real(name, goal, taken, loose, owner, links, *rest)

    return [(desk, "make_plan", make_plan)]


def _path_ignored() -> Replacements:
    real = route._refusal

    def refusal(supply: Any, service: Service, *rest: Any) -> Any:
        return real(supply, Service(service.name, service.instances), *rest)

    return [(route, "_refusal", refusal)]


def _echoes_for_ever() -> Replacements:
    return [(echo.Written, "leave", _always(None))]


def _looks_once() -> Replacements:
    return [(reconcile.Reconciler, "read_again", _always(None))]


def _echoes_sent() -> Replacements:
    return [(echo, "LASTS", 0.0)]


def _id_taken_over() -> Replacements:
    return [(plan, "_is_another", _always(False))]


def _replaced_by_what_is_to_come() -> Replacements:
    def standing(wanted: Any, entries: Any) -> Any:
        sources = {plan.source_of(one.mark) for one in wanted.values()}
        return {socket for one in wanted.values() for socket in one.instance.sockets()}, sources

    return [(plan, "_standing", standing)]


def _orphan_removed() -> Replacements:
    real = plan._evidence

    def evidence(name: Any, key: Any, mark: Any, goal: Any, links: Any, *rest: Any) -> Any:
        if mark.link not in links:
            return plan.Gone(Cause.EVENT, (mark.path[-1], mark.scope))
        return real(name, key, mark, goal, links, *rest)

    def writable(self: desk.Desk, change: Change) -> bool:
        return True

    return [(plan, "_evidence", evidence), (desk.Desk, "_writable", writable)]


def _upsert_only_removes() -> Replacements:
    return [(plan, "_upsert_only", _always(False))]


def _policy_and_freeze_ignored() -> Replacements:
    return [(desk.Desk, "_writable", _always(True)), (desk.Desk, "writes", True)]


def _momentary_causes_stand() -> Replacements:
    return [(plan, "MOMENTARY", ())]


# -- what is written ---------------------------------------------------------------------------------------------------


def _removal_before_add() -> Replacements:
    real = sink._turn
    return [(sink, "_turn", lambda change: -real(change))]


def _lost_answer_taken_for_success() -> Replacements:
    real = reconcile.Reconciler._settle

    def settle(self: reconcile.Reconciler, outcome: Any, *about: Any, **more: Any) -> float:
        if isinstance(outcome.error, Unavailable):
            outcome = msgspec.structs.replace(outcome, error=None)
        return real(self, outcome, *about, **more)

    return [(reconcile.Reconciler, "_settle", settle)]


def _late_gains_count() -> Replacements:
    return [(reconcile, "LATE", float("inf"))]


def _drift_ignored() -> Replacements:
    async def follow(self: reconcile.Reconciler) -> None:
        await asyncio.Event().wait()

    return [(reconcile.Reconciler, "_follow_drift", follow)]


def _ledger_not_compared() -> Replacements:
    real = server.Store.commit

    def commit(self: server.Store, bridge: str, tenure: Any, change: Change) -> int | None:
        try:
            return real(self, bridge, tenure, change)
        except Conflict:
            if change.before is None or change.after is None:
                raise
            self.writes += 1
            return self._put(change.service, change.id, change.after, change.mark, bridge)

    return [(server.Store, "commit", commit)]


def _lock_not_compared() -> Replacements:
    real = server.Store.commit

    def commit(self: server.Store, bridge: str, tenure: Any, change: Change) -> int | None:
        queue = self._locks.get(bridge)
        return real(self, bridge, queue[0] if queue else tenure, change)

    return [(server.Store, "commit", commit)]


def _hammered() -> Replacements:
    return [(feed.Feed, "_room", _always(0.0)), (feed.Backoff, "delay", _always(0.01))]


MUTANTS: dict[str, Mutant] = {
    "guard-off": Mutant("every removal goes at once", ("some_is_not_listed",), _guard_off),
    "share-per-plan": Mutant("losses are counted from one plan to the next only", ("erosion",), _share_per_plan),
    "hard-share-off": Mutant(
        "a second opinion frees what only the operator may", ("little_is_listed",), _hard_share_off
    ),
    "doubt-ignored": Mutant("a doubted life takes away what it lacks", ("restored",), _doubt_ignored),
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
    "sleep-unnoticed": Mutant(
        "who wakes goes by what it heard before it slept", ("woken_in_silence",), _sleep_unnoticed
    ),
    "unreadable-is-gone": Mutant("what cannot be read is removed", ("unreadable",), _unreadable_is_gone),
    "old-words-believed": Mutant("a watch may go back in time", ("garbled",), _old_words_believed),
    "disk-believed": Mutant("what the disk remembers is written", ("old_memory",), _disk_believed),
    "shadowing-off": Mutant("a native's address is written a second time", ("address_taken",), _shadowing_off),
    "owned-by-name": Mutant("whatever has our names is ours", ("neighbours",), _owned_by_name),
    "path-ignored": Mutant("what came from a registry goes back to it", ("two_ways",), _path_ignored),
    "echoes-for-ever": Mutant(
        "what nothing may remove keeps others out for ever", ("moved_upstream",), _echoes_for_ever
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
    "ledger-not-compared": Mutant("a native's new value is overwritten", ("written_over",), _ledger_not_compared),
    "lock-not-compared": Mutant("two processes write", ("stopped_while_it_writes",), _lock_not_compared),
    "hammered": Mutant("a flapping source is listed over and over", ("flapping",), _hammered),
}


@contextlib.contextmanager
def applied(name: str) -> Iterator[None]:
    """The core is broken in this way, inside."""
    with ExitStack() as stack:
        for owner, attribute, value in MUTANTS[name].replaced():
            stack.enter_context(mock.patch.object(owner, attribute, value))
        yield


def hunt(name: str) -> tuple[str, Report] | None:
    """The first history that finds a mutant, as the arguments that replay it; None: it survives."""
    mutant = MUTANTS[name]
    tries = [(scenario, seed) for scenario in mutant.found_by for seed in range(SEEDS)]
    for scenario, seed in [*tries, *(("", seed) for seed in range(HISTORIES))]:
        with applied(name):
            report = play(seed, SCENARIOS.get(scenario))
        if any(not text.startswith("bug") for text in report.broken):  # a mutant that only crashes proves nothing
            return f"--mutant {name} --seed {seed}" + (f" --scenario {scenario}" if scenario else ""), report
    return None
