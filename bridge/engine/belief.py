"""When a new life of a store is believed: nothing of its scope is held, or its clients are back (`adapter.Returns`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from bridge.destination.destination import Destination
from bridge.destination.events import Events, Happened
from bridge.destination.reconciler import Reconciler
from bridge.plan.values import Kind, Scope, scope_of
from bridge.sources.store import Store
from bridge.sources.view import View

log = logging.getLogger("isthmus.engine")

EVERY = 1.0  # seconds between two looks
READ = (
    30.0  # seconds between two looks of a standby at what the writer has made of what it holds itself, while it doubts
)
AT_ONCE = 200  # names of a destination that it reads again then


async def believe(
    store: Store, reconcilers: Mapping[str, Reconciler], events: Events, believed: Callable[[View, str], None]
) -> None:
    """Settles the doubt of every view when its time has come; never returns. `believed` is told of each, and why."""
    due = store.now() + READ
    while True:
        await asyncio.sleep(EVERY)
        if store.now() >= due:
            due = store.now() + READ
            if any(view.doubt for view in store.views()):
                _read_again(reconcilers.values(), int(due / READ))
        for view in list(store.views()):
            if view.doubt and view.synced and view.up and (view.has_returned or is_settled(view, reconcilers)):
                doubt = view.doubt
                log.info("believed registry=%r doubt=%r", view, doubt)
                events.tell(Happened("believed", {"registry": repr(view), "doubt": doubt}))
                view.believe()
                believed(view, doubt)


def _read_again(reconcilers: Iterable[Reconciler], turn: int) -> None:
    """What the writer made of a hold is no drift to who stands by, and would be held here for ever."""
    for one in reconcilers:
        names = sorted(one.destination.holds.names()) if one.role == "standby" else []
        parts = max(1, -(-len(names) // AT_ONCE))
        one.read_again(set(names[turn % parts :: parts]))


def is_settled(view: View, reconcilers: Mapping[str, Reconciler]) -> bool:
    """Whether every destination that a scope feeds has done all there is to do, and holds nothing of that scope back.

    What other scopes hold there is none of its business.
    """
    fed = [
        one
        for one in reconcilers.values()
        if any(link.item(view.registry, view.scope) is not None for link in one.destination.links)
    ]
    mine = {(identity, view.part) for identity in view.identities}
    # A standby does not see what the writer wrote: nothing is settled by what it does not hold.
    return all(
        one.idle
        and one.role in ("writer", "observing")
        and (view.shard is None or one.lead.share is None or one.lead.writes_in(view.shard))
        and mine.isdisjoint(one.destination.holds.scopes())
        and not _spares(one.destination, view, mine)
        for one in fed
    )


def _spares(destination: Destination, view: View, scopes: set[Scope]) -> bool:
    """Whether only a link that removes nothing keeps there what this life lacks: the next file may let it remove."""
    return any(
        reason.kind is Kind.UPSERT_ONLY
        and (entry := destination.entries.get(name, {}).get(key)) is not None
        and entry.mark is not None
        and scope_of(entry.mark) in scopes
        and view.lacks(entry.mark.service, entry.mark.instance)
        for name, kept in destination.kept.items()
        for key, reason in kept.items()
    )
