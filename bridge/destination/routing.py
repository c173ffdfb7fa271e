"""Which services of which registries feed a name at a destination. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from bridge.adapter import Entry
from bridge.link import Item, Link, Policy
from bridge.model import Mark, ServiceName, Traits
from bridge.plan.echo import Written
from bridge.plan.route import Supply, target_of
from bridge.sources.store import Seen, Store
from bridge.sources.view import View

NOTHING: Mapping[str, str] = MappingProxyType({})


class Routing:
    """All links into one destination.

    `beyond`: entries that may come back as echoes, by the registry that they would come from.
    """

    def __init__(self, store: Store, traits: Traits, clock: Callable[[], float]) -> None:
        self.links: dict[str, Link] = {}
        self.beyond: dict[str, tuple[Written, ...]] = {}
        self._store = store
        self._traits = traits
        self._clock = clock
        self._feeds: dict[ServiceName, dict[tuple[str, Item, ServiceName], None]] = {}
        self._views: tuple[View, ...] = ()
        self._made = -1  # `Store.made` when `_views` were looked up

    def route(self, links: Sequence[Link]) -> None:
        """Takes other links."""
        self.links = {link.name: link for link in links}
        self._feeds.clear()
        self._made = -1

    @property
    def writes(self) -> bool:
        """Whether any link may write."""
        return any(link.policy is not Policy.OBSERVE for link in self.links.values())

    @property
    def observes(self) -> bool:
        """Whether any link observes."""
        return any(link.policy is Policy.OBSERVE for link in self.links.values())

    def names(self) -> Collection[ServiceName]:
        """Every name that is fed."""
        return self._feeds.keys()

    def services(self, name: ServiceName) -> Iterator[ServiceName]:
        """The services that feed a name, or recently did."""
        return (service for _, _, service in self._feeds.get(name, ()))

    def fed(self, link: str, item: Item) -> set[ServiceName]:
        """The names that an item of `from` feeds over a link."""
        return {name for name, feeds in self._feeds.items() if any(feed[:2] == (link, item) for feed in feeds)}

    def views(self) -> tuple[View, ...]:
        """The views of every scope that a link reads."""
        if self._made != self._store.made:
            items = {item for link in self.links.values() for item in link.items}
            self._views = tuple(dict.fromkeys(view for item in items for view in self._read(item)))
            self._made = self._store.made
        return self._views

    def _read(self, item: Item) -> Iterator[View]:
        return (view for view in self._store.views(item.registry) if item.means(view.scope))

    def item_of(self, mark: Mark) -> Item | None:
        """The item of `from` that an entry came from over its link; None where its link reads no such store."""
        link = self.links.get(mark.link)
        for item in link.items if link is not None else ():
            if any(view.is_of(mark) for view in self._read(item)):
                return item
        return None

    def elsewhere(self, registry: str, entry: Entry, name: ServiceName) -> str:
        """Where an address and port of an entry of a registry serve another service now, "": nowhere."""
        claims = self._store.claims
        return claims.elsewhere(claims.pairs(registry, entry.instance, entry.mark), name, entry.mark)

    def is_synced(self, item: Item) -> bool:
        """Whether every scope that an item means has listed everything in this process."""
        views = list(self._read(item))
        return bool(views) and all(view.synced for view in views)

    def affected(self, version: int, known: Callable[[], Iterable[ServiceName]]) -> Iterator[tuple[ServiceName, Seen]]:
        """The names here that are fed by services which changed after that version.

        `known()`: all names under which an entry is held or desired; called only where needed, because there are many.
        """
        if version < self._store.forgotten:
            seen = Seen(self._clock(), self._store.version)
            yield from ((name, seen) for name in [*known()])
        for registry, service, seen in self._store.since(version):
            for link in self.links.values():
                items = [item for item in link.items if item.registry == registry]
                if not items:
                    continue
                target, _ = target_of(link, registry, service, self._traits)
                if target is not None:
                    feeds = self._feeds.setdefault(target, {})
                    feeds.update(((link.name, item, service), None) for item in items)
                    yield target, seen

    def links_to(self, name: ServiceName) -> set[str]:
        """The links that feed a name, as its last plan found: for counts over all names, which must cost little."""
        return {link for link, _, _ in self._feeds.get(name, ())}

    def supplies(self, name: ServiceName) -> list[Supply]:
        """Everything that feeds a name here, in the order of each link's `from` list."""
        found = []
        feeds = self._feeds.get(name, {})
        for link_name, item, service in list(feeds):
            link, registry = self.links[link_name], item.registry
            there = False
            for view in self._store.views_with(registry, service):
                held = view.services.get(service)
                if held is not None and item.means(view.scope):
                    there = True
                    one = Supply(
                        link,
                        registry,
                        view.scope,
                        view.identity,
                        held,
                        follows=registry in self._store.follows,
                        written=self.beyond.get(registry, ()),
                        taken=self._store.claims.taken.get((view, service), NOTHING),
                        part=view.part,
                        former=view.former.get(service, NOTHING),
                    )
                    found.append(one)
            if not there:
                del feeds[link_name, item, service]
        if not feeds:
            self._feeds.pop(name, None)
        if len(found) > 1:
            found.sort(key=lambda one: (one.link.name, one.link.from_.index(one.item), one.scope))
        return found
