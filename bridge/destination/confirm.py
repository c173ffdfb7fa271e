"""Second opinions: held removals are checked by a fresh read of their source, and released if it agrees."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from bridge.adapter import Cause, Observed
from bridge.destination.backlog import Backlog
from bridge.destination.destination import Destination
from bridge.destination.events import Events, Happened
from bridge.destination.leading import Leading
from bridge.guard.holds import HeldRemoval
from bridge.model import Mark, ServiceName
from bridge.sources.store import Store
from bridge.sources.view import EVERY_ID, View

log = logging.getLogger("isthmus.reconcile")

EVERY = 1.0  # seconds between two checks for holds that are due
OPINIONS = 8  # concurrent reads for second opinions
ASK_AGAIN = 5.0  # seconds until the next read, after one that failed or disagreed


class Confirmer:
    """The second opinions of one destination.

    `ask(view, name)` reads a service at its source, `relist(view, reason)` starts its watch over; `lead` knows what
    this process writes.
    """

    def __init__(
        self,
        destination: Destination,
        backlog: Backlog,
        store: Store,
        events: Events,
        clock: Callable[[], float],
        lead: Leading,
        *,
        ask: Callable[[View, ServiceName], Awaitable[Observed]],
        relist: Callable[[View, str], None],
    ) -> None:
        self._destination = destination
        self._backlog = backlog
        self._store = store
        self._events = events
        self._clock = clock
        self._ask = ask
        self._relist = relist
        self._lead = lead

    async def run(self) -> None:
        """Never returns."""
        limit = asyncio.Semaphore(OPINIONS)
        while True:
            await asyncio.sleep(EVERY)
            if moved := self._destination.moved():
                self._backlog.plan_again(moved)
            await asyncio.gather(*(self._confirm(mark, ones, limit) for mark, ones in self._due()))

    def _due(self) -> Collection[tuple[Mark, list[HeldRemoval]]]:
        """The holds that are due, in groups of one link, source (identity and scope) and service there.

        Each group comes with the mark of one of its removals.
        """
        found: dict[tuple[str, str, str, ServiceName], tuple[Mark, list[HeldRemoval]]] = {}
        for one in self._destination.holds.due(self._clock()):
            change = one.removal.change
            mark = change.mark
            if mark is None or not self._lead.writes_at(change.service):
                continue
            if self._destination.gate.is_writable(change, self._clock()):
                key = (mark.link, mark.path[-1], mark.scope, mark.service)
                found.setdefault(key, (mark, []))[1].append(one)
        return found.values()

    async def _confirm(self, mark: Mark, ones: list[HeldRemoval], limit: asyncio.Semaphore) -> None:
        """Reads a source, and releases what it agrees with. Where it disagrees its watch is wrong, and starts over.

        While the watch is down another incarnation may answer, so the answer releases nothing (safety rule 3).
        """
        view = self._view(mark)
        observed: Observed | None = None
        if view is not None and is_itself(view):
            async with limit:
                try:
                    observed = await self._ask(view, mark.service)
                except Exception as error:
                    log.info("no second opinion service=%s reason=%r", mark.service, str(error))
            if not is_itself(view):
                observed = None
        wrong = False
        for one in ones:
            if view is not None and observed is not None and agrees(one, view, observed):
                change = one.removal.change
                if change.id in self._destination.holds.of(change.service):  # else it is no longer planned
                    self._destination.holds.agree(one)
                    self._backlog.plan_again([change.service])
            else:
                wrong = wrong or observed is not None
                self._destination.holds.postpone(one, self._clock() + ASK_AGAIN)
        if wrong and view is not None:
            self._events.tell(Happened("disagreement", {"registry": repr(view), "service": str(mark.service)}))
            self._relist(view, "a fresh read disagrees with the watch")

    def _view(self, mark: Mark) -> View | None:
        """The view of the scope that a mark names, among those that its link reads."""
        links = [link for link in self._destination.links if link.name == mark.link]
        found = (
            view
            for link in links
            for view in self._store.views()
            if view.is_of(mark) and link.item(view.registry, view.scope) is not None
        )
        return next(found, None)


def is_itself(view: View) -> bool:
    """Whether the view is synced, its watch runs, and the store that answers is not doubted."""
    return view.synced and view.up and not view.doubt


def agrees(one: HeldRemoval, view: View, observed: Observed) -> bool:
    """Whether a fresh read confirms a removal. A record that exists and cannot be read confirms nothing."""
    mark = one.removal.change.mark
    if mark is None or mark.instance in observed.unreadable or EVERY_ID in observed.unreadable:
        return False
    there = observed.service.instances.get(mark.instance)
    if there is None:
        return True
    known = view.services.get(mark.service)
    said = known.instances.get(mark.instance) if known is not None else None
    if one.removal.cause is Cause.HEALTH:
        return said is not None and not there.serving
    return one.removal.cause is Cause.EVENT and said == there
