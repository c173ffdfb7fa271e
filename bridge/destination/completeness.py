"""How complete a destination is: which scopes it holds whole, and of which sources nothing is known."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.adapter import Answering, Sink, Term, Whole, WholeSink
from bridge.destination.destination import Destination
from bridge.destination.writer import Lead
from bridge.link import Link, Policy
from bridge.sources.store import Store
from bridge.sources.view import View


class Completeness:
    """Tells a sink that asks for it (`WholeSink`, `Answering`), and does nothing for any other."""

    def __init__(self, sink: Sink, destination: Destination, store: Store, lead: Lead) -> None:
        self._sink = sink if isinstance(sink, WholeSink) else None
        self._pictures = sink.traits.pictures
        self._destination = destination
        self._store = store
        self._lead = lead
        self._told: frozenset[Whole] | None = None
        self._term: Term | None = None  # in which the sink was last called
        self._again = False
        self._answering = sink if isinstance(sink, Answering) else None
        self._missing: frozenset[str] | None = None

    async def tell(self, *, idle: bool) -> None:
        """Passes on what is whole, where that changed: a loss at once, a gain when all work is done.

        Raises what the sink raises; the next call passes it on again.
        """
        if self._answering is not None and idle and self._lead.writes:
            missing = frozenset(self._unknown())
            if missing != self._missing:
                self._answering.missing(missing)
                self._missing = missing
        if self._sink is None:
            return
        term = self._lead.term
        another = term is not self._term
        now = frozenset(self._whole()) if self._lead.writes else frozenset[Whole]()
        if not idle:
            now = frozenset() if another else now & (self._told or frozenset())
        again = self._again and idle
        if (another or again or now != self._told) and (idle or self._told is not None):
            await self._sink.whole(now, term)
            self._told, self._term = now, term
            self._again = self._again and not again

    def read_anew(self) -> None:
        """All that the destination holds was read: it may be another one by now, made again under the same name.

        What is whole is told again when all work is done; to a sink that has said so there, that is no news.
        """
        self._again = True

    def _whole(self) -> list[Whole]:
        return [
            self._as_told(view, link)
            for link in self._destination.links
            if link.policy is not Policy.OBSERVE
            for view in self._store.views()
            if _is_whole(view) and link.item(view.registry, view.scope) is not None
        ]

    def _as_told(self, view: View, link: Link) -> Whole:
        picture = link.picture if self._pictures else ""
        return Whole(view.registry, view.scope, view.identity, view.incarnation, view.lists, picture)

    def _unknown(self) -> Iterator[str]:
        """The items of `from` of which nothing is known, neither from this process nor from before it; what is frozen.

        A link that is frozen has not brought what it will, so that what is missing may be missing from it alone.
        """
        for link in self._destination.links:
            if link.policy is not Policy.OBSERVE and self._destination.is_frozen(link.name):
                yield f"the link {link.name}, which is frozen,"
        for item in {item for link in self._destination.links for item in link.items}:
            views = [view for view in self._store.views(item.registry) if item.scope in ("", view.scope)]
            if not views or not all(view.known for view in views):
                yield str(item)


def _is_whole(view: View) -> bool:
    return view.synced and view.up and not view.doubt
