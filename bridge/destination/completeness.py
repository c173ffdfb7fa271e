"""How complete a destination is: which scopes it holds whole, and of which sources nothing is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bridge.adapter import Answering, Sink, Term, Whole, WholeSink
from bridge.destination.backlog import Backlog
from bridge.destination.destination import Destination
from bridge.destination.leading import Leading
from bridge.link import Link, Policy
from bridge.model import ServiceName, Traits
from bridge.plan.route import may_lead
from bridge.sources.store import Store
from bridge.sources.view import View


class Gap(NamedTuple):
    """A registry of which something may yet come over a link, and what is said of it."""

    link: Link
    registry: str
    said: str


class Completeness:
    """Tells a sink that asks for it (`WholeSink`, `Answering`), and does nothing for any other."""

    def __init__(self, sink: Sink, destination: Destination, store: Store, lead: Leading, backlog: Backlog) -> None:
        self._sink = sink if isinstance(sink, WholeSink) else None
        self._traits = sink.traits
        self._destination = destination
        self._store = store
        self._lead = lead
        self._backlog = backlog
        self._awaited: object = None  # what all is to be written for that was there when it came true
        self._told: frozenset[Whole] | None = None
        self._term: Term | None = None  # in which the sink was last called
        self._again = False
        self._answering = sink if isinstance(sink, Answering) else None
        self._gaps: list[Gap] | None = None  # as the sink was told

    async def tell(self, *, idle: bool) -> None:
        """Passes on what is whole, where that changed: a loss at once, a gain when all is written that was known then.

        `idle`: there is nothing left to do. Raises what the sink raises; the next call passes it on again.
        """
        if self._sink is None and self._answering is None:
            return
        term = self._lead.term
        gaps = self._gaps
        if self._answering is not None and self._lead.writes and (idle or gaps != []):
            gaps = list(self._unknown())
        now = frozenset(self._whole()) if self._lead.writes and self._sink is not None else frozenset[Whole]()
        another = term is not self._term and self._sink is not None
        news = another or self._again or now != (self._told or frozenset()) or gaps != self._gaps
        done = idle or self._is_done((now, term, gaps) if news else None)
        if done and gaps is not None:
            self._tell_gaps(gaps)
        if self._sink is None:
            return
        if not done:
            now = frozenset() if another else now & (self._told or frozenset())
        again = self._again and done
        if (another or again or now != self._told) and (done or self._told is not None):
            await self._sink.whole(now, term)
            self._told, self._term = now, term
            self._again = self._again and not again

    def _is_done(self, what: object) -> bool:
        """Whether all that was there when this came true is written, held or parked; None: nothing came true.

        Where something changes all the time there is always more to do, and a stream would never say that it is whole.
        """
        if what != self._awaited:
            self._awaited = what if what is not None and self._backlog.owe() else None
        return self._awaited is not None and not self._backlog.owes

    def read_anew(self) -> None:
        """All that the destination holds was read: it may be another one by now, made again under the same name.

        What is whole is told again when what differs is written; to a sink that has said so there, that is no news.
        """
        self._again, self._awaited = True, None

    def rerouted(self) -> None:
        """The file changed: what it adds may feed a name from now on, and what it takes away is not applied yet."""
        self._awaited = None
        if self._gaps is not None:
            self._tell_gaps([*self._gaps, *(gap for gap in self._unknown() if gap not in self._gaps)])

    def _tell_gaps(self, gaps: list[Gap]) -> None:
        if self._answering is not None and gaps != self._gaps:
            self._answering.missing(frozenset(gap.said for gap in gaps), feeds(gaps, self._traits))
            self._gaps = gaps

    def _whole(self) -> list[Whole]:
        return [
            self._as_told(view, link)
            for link in self._destination.links
            if link.policy is not Policy.OBSERVE
            for view in self._store.views()
            if _is_whole(view) and link.item(view.registry, view.scope) is not None
        ]

    def _as_told(self, view: View, link: Link) -> Whole:
        picture = link.picture if self._traits.pictures else ""
        return Whole(view.registry, view.scope, view.identity, view.incarnation, view.lists, picture)

    def _unknown(self) -> Iterator[Gap]:
        """The items of `from` of which nothing is known, neither from this process nor from before it; what is frozen.

        A link that is frozen has not brought what it will, so that what is missing may be missing from it alone. One
        that observes brings nothing.
        """
        for link in self._destination.links:
            if link.policy is Policy.OBSERVE:
                continue
            if self._destination.is_frozen(link.name):
                said = f"the link {link.name}, which is frozen,"
                yield from (Gap(link, registry, said) for registry in sorted(link.registries))
            for item in link.items:
                views = [view for view in self._store.views(item.registry) if item.means(view.scope)]
                if not views or not all(view.known for view in views):
                    yield Gap(link, item.registry, str(item))


def feeds(gaps: Sequence[Gap], traits: Traits) -> Callable[[ServiceName], bool]:
    """Whether anything that is not known may be led to a name at a destination with these traits."""
    return lambda name: any(may_lead(gap.link, gap.registry, name, traits) for gap in gaps)


def _is_whole(view: View) -> bool:
    return view.synced and view.up and not view.doubt
