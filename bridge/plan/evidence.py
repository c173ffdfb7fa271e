"""Why an entry is no longer wanted, or why that is not known and it stays; pure (safety rules 2 and 3)."""

from __future__ import annotations

from bridge.adapter import Cause
from bridge.link import Link, Policy
from bridge.model import Mark
from bridge.plan.route import Desired
from bridge.plan.values import Gone, Kind, Reason, World, scope_of
from bridge.sources.view import EVERY_ID, View


def evidence(key: str, mark: Mark, goal: Desired, world: World) -> Gone | Reason:
    """What the scope that an entry came from says of it."""
    link = world.links.get(mark.link)
    if link is None:
        return Reason(
            Kind.ORPHAN, f"orphan: no link {mark.link!r} leads here; it goes by `isthmus purge --orphans` only"
        )
    view = world.view(mark)
    if scope_of(mark) in world.ended and not (view is not None and _has(view, mark)):
        return Reason(Kind.ACCEPTED, f"its source {mark.path[-1]} was accepted as ended; `isthmus purge` removes it")
    if view is None:
        return _answers_no_more(mark, link, world)
    refusal = goal.refused.get((view.registry, view.scope, mark.service, mark.instance))
    if refusal is not None and refusal.cause is Cause.REUSED:
        return Gone(Cause.REUSED, scope_of(mark))
    if not view.synced:
        return Reason(Kind.UNHEARD, f"{view!r} has not listed everything in this process: {view.reason}")
    # While its watch is down, what it reported may be over: what went may be back, unreported.
    dark = "" if view.up else f"{view!r} does not answer: {view.reason}"
    scope = scope_of(mark)
    if _has(view, mark):
        if refusal is not None and refusal.parked:
            return Reason(Kind.RULE, f"parked: {refusal.reason}")
        cause = refusal.cause if refusal is not None else Cause.CONFIG
        # It is there, so whatever ended it before is undone; only what the file says is told from what its source says.
        known = world.causes.get(key, cause) if cause is Cause.CONFIG else cause
        last = refusal is not None and refusal.order is not None and refusal.order.including_last
        return Gone(known, scope, view.doubt or dark, last)
    unreadable = view.unreadable.get(mark.service, ())
    if mark.instance in unreadable or EVERY_ID in unreadable:
        return Reason(Kind.UNREADABLE, f"its record in {view!r} cannot be read")
    if view.ended(mark.service, mark.instance):
        return Gone(Cause.EVENT, scope, dark)
    if view.hides(mark.service):
        return Reason(Kind.UNREADABLE, f"{view!r} may be read in part only, and says nothing of it")
    empty = "" if view.services else f"{view!r} answers and lists no service any more; only an operator believes that"
    return Gone(Cause.ABSENCE, scope, view.doubt or dark or empty)


def _has(view: View, mark: Mark) -> bool:
    service = view.services.get(mark.service)
    return service is not None and mark.instance in service.instances


def _answers_no_more(mark: Mark, link: Link, world: World) -> Gone | Reason:
    """Nobody of that identity answers: a scope is only missed when all that the link reads has spoken."""
    mine = [
        view for view in world.views if link.item(view.registry, view.scope) is not None and view.covers(mark.service)
    ]
    if not mine or any(not view.synced for view in mine):
        return Reason(Kind.UNHEARD, f"its source {mark.path[-1]} has not been heard in this process")
    answering = ", ".join(sorted(view.identity for view in mine))
    text = f"its source {mark.path[-1]} answers no more; there is {answering}"
    return Gone(Cause.ABSENCE, scope_of(mark), text)


def observes(link: Link | None) -> bool:
    """Whether a link writes nothing."""
    return link is not None and link.policy is Policy.OBSERVE


def upsert_only(link: Link | None) -> bool:
    """Whether a link removes nothing."""
    return link is not None and link.policy is Policy.UPSERT_ONLY
