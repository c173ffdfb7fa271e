"""Deliberate breakages of the core, each of which some history must find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest import mock

import msgspec

import bridge.desk
import bridge.guard
import bridge.holds
import bridge.plan
import bridge.reconcile
import bridge.route
import bridge.store
from adapters import memory
from bridge.adapter import Cause, Change, Observed, Synced
from bridge.guard import GO


class Mutant(NamedTuple):
    """What is broken, and how: `target.name` becomes `make(the real one)`."""

    breaks: str
    target: Any
    name: str
    make: Callable[[Any], Any]

    def at_work(self) -> AbstractContextManager[object]:
        """While inside, the core is broken."""
        return mock.patch.object(self.target, self.name, self.make(getattr(self.target, self.name)))


def _instead(value: Any) -> Callable[[Any], Any]:
    return lambda _: lambda *args, **kwargs: value


def _judging(change: Callable[..., dict[str, Any]]) -> Callable[[Any], Any]:
    """The guard, asked another question."""

    def make(real: Any) -> Any:
        def judge(limits: Any, cause: Cause, doubt: str, loses: bool, service: Any, scope: Any) -> Any:
            asked = {
                "limits": limits,
                "cause": cause,
                "doubt": doubt,
                "loses": loses,
                "service": service,
                "scope": scope,
            }
            return real(**(asked | change(**asked)))

        return judge

    return make


def _sweep_at_once(real: Any) -> Any:
    def begin(self: Any, listing: Any) -> None:
        real(self, listing)
        self.sync(Synced())
        self._listing = {}

    return begin


def _blind(real: Any) -> Any:
    def observe(self: Any, observed: Observed) -> None:
        real(self, Observed(observed.service, revision=observed.revision))

    return observe


def _no_compare(real: Any) -> Any:
    def commit(self: Any, bridge: str, tenure: Any, change: Change) -> Any:
        record = self._records.get(change.service, {}).get(change.id)
        if not change.forget and change.before is not None and record is not None:
            before = msgspec.structs.replace(change.before, version=record.revision)
            change = msgspec.structs.replace(change, before=before)
            with mock.patch.object(self, "mark", return_value=before.mark):
                return real(self, bridge, tenure, change)
        return real(self, bridge, tenure, change)

    return commit


def _no_lock(real: Any) -> Any:
    def commit(self: Any, bridge: str, tenure: Any, change: Change) -> Any:
        queue = self._locks.get(bridge)
        return real(self, bridge, queue[0] if queue else tenure, change)

    return commit


def _grown(real: Any) -> Any:
    def approve(self: Any, hold: str, now: float) -> Any:
        items = tuple(one.item for held in self._held.values() for one in held.values())
        self.free(items)
        return items

    return approve


def _no_echo(real: Any) -> Any:
    def refusal(supply: Any, service: Any, key: str, instance: Any, identity: str, *more: Any) -> Any:
        return real(supply._replace(identity="elsewhere"), service, key, instance, "nowhere", *more)

    return refusal


def _all_stand(real: Any) -> Any:
    def standing(wanted: Any, entries: Any) -> Any:
        sources = {bridge.plan._source(one.mark) for one in wanted.values()}
        return {socket for one in wanted.values() for socket in one.instance.sockets()}, sources

    return standing


def _deaf(_: Any) -> Any:
    async def follow(self: Any) -> None:
        await asyncio.Event().wait()

    return follow


def _believe_all(real: Any) -> Any:
    def begin(self: Any, listing: Any) -> None:
        real(self, listing)
        if self.doubt:
            self.believe()

    return begin


def _as_events(real: Any) -> Any:
    def judge(limits: Any, cause: Cause, *rest: Any) -> Any:
        return GO if cause is Cause.CONFIG else real(limits, cause, *rest)

    return judge


View, Plan, Reconciler = bridge.store.View, bridge.plan, bridge.reconcile.Reconciler
MUTANTS: dict[str, Mutant] = {
    "guard-off": Mutant("the deletion guard lets everything go", bridge.guard, "judge", _instead(GO)),
    "share-per-plan": Mutant(
        "losses are counted a plan and not over the window",
        bridge.guard.Windows,
        "start",
        lambda _: lambda self, key, serving, *more: serving,
    ),
    "hard-share-off": Mutant(
        "the hard share is no limit",
        bridge.guard,
        "judge",
        _judging(lambda limits, **_: {"limits": msgspec.structs.replace(limits, hard_share=1.0)}),
    ),
    "doubt-ignored": Mutant(
        "what a doubted store says counts", bridge.guard, "judge", _judging(lambda **_: {"doubt": ""})
    ),
    "config-not-held": Mutant("a changed file takes away at once", bridge.guard, "judge", _as_events),
    "sweep-before-synced": Mutant("what a listing has not told yet is swept", View, "begin", _sweep_at_once),
    "incarnation-ignored": Mutant(
        "any store that answers is the one that was known", bridge.store, "_new_life", _instead("")
    ),
    "believed-at-once": Mutant("a new life is believed as soon as it answers", View, "begin", _believe_all),
    "absence-is-an-event": Mutant("what is missing counts as deleted", View, "ended", _instead(True)),
    "unreadable-is-gone": Mutant("a record that cannot be read is gone", View, "observe", _blind),
    "ledger-compare-dropped": Mutant("writes compare nothing", memory.Store, "commit", _no_compare),
    "lock-not-compared": Mutant("writes do not compare the lock", memory.Store, "commit", _no_lock),
    "stale-read-trusted": Mutant("every second opinion agrees", bridge.reconcile, "_agrees", _instead(True)),
    "drift-ignored": Mutant("nobody hears what others write at the target", Reconciler, "_follow_drift", _deaf),
    "removal-before-add": Mutant("a replacement counts before it stands", Plan, "_standing", _all_stand),
    "shadowing-off": Mutant("natives' addresses are written over", Plan, "_foreign", _instead({})),
    "upsert-only-removes": Mutant("upsert-only is no policy", Plan, "_upsert_only", _instead(False)),
    "the-last-for-its-health": Mutant("the last one is withdrawn", Plan, "_spare_the_last", _instead(None)),
    "path-ignored": Mutant("what has been here comes back", bridge.route, "_refusal", _no_echo),
    "grown-set-approved": Mutant("an approval frees whatever is held", bridge.holds.Holds, "approve", _grown),
}
