"""How complete a destination is: which scopes it holds completely, and which sources are unknown so far."""

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

WHO = "whole"  # asks the backlog


class Gap(NamedTuple):
    """A registry from which more may come over a link, and its name for people."""

    link: Link
    registry: str
    said: str


class Completeness:
    """Informs a sink that asks for it (`WholeSink`, `Answering`), and does nothing for any other."""

    def __init__(self, sink: Sink, destination: Destination, store: Store, lead: Leading, backlog: Backlog) -> None:
        self._sink = sink if isinstance(sink, WholeSink) else None
        self._traits = sink.traits
        self._destination = destination
        self._store = store
        self._lead = lead
        self._backlog = backlog
        self._awaited: object = None  # the state that is passed on once all work that existed at its begin is done
        self._told: frozenset[Whole] | None = None
        self._term: Term | None = None  # the term in which the sink was called last
        self._again = False
        self._answering = sink if isinstance(sink, Answering) else None
        self._gaps: list[Gap] | None = None  # as passed to the sink last

    async def tell(self, *, idle: bool) -> None:
        """Passes on changes of what is whole: a loss at once, a gain after everything known at that time is written.

        `idle`: no work is left. Raises what the sink raises; the next call passes it on again.
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
        """Whether all work that existed when this state began is done; None: there is no new state.

        Waiting for an empty backlog instead would never end where something always changes.
        """
        if what != self._awaited:
            self._awaited = what if what is not None and self._backlog.owe(WHO) else None
        return self._awaited is not None and not self._backlog.owes(WHO)

    def read_anew(self) -> None:
        """The whole destination was read: it may have been made anew under the same name, without what was said there.

        What is whole is passed on once more when all differences are written; a sink ignores what it has said already.
        """
        self._again, self._awaited = True, None

    def rerouted(self) -> None:
        """The file changed: unknown sources that it adds count at once, those that it removes until all is applied."""
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
        """The items of `from` that neither this process nor an earlier one has listed, and the links that are frozen.

        A frozen link is a gap because a name may be missing only since that link has not written it yet. A link that
        observes writes nothing, and is none.
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
    """A function that tells whether any gap could feed a name at a destination with these traits."""
    return lambda name: any(may_lead(gap.link, gap.registry, name, traits) for gap in gaps)


def _is_whole(view: View) -> bool:
    return view.synced and view.up and not view.doubt
