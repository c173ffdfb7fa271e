"""Additions of a changed file to names that are served already: they wait for the operator, as its removals do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from bridge.adapter import Change
from bridge.link import Item, Link
from bridge.model import Mark, ServiceName

Feed = tuple[str, Item]  # link, and item of its `from`


class Additions:
    """The feeds that a file added or changed, until all of their first additions are written or approved.

    `item_of(mark)`: the item of its link's `from` that an entry came from.
    """

    def __init__(self, item_of: Callable[[Mark], Item | None]) -> None:
        self._item_of = item_of
        self._fresh: dict[Feed, set[ServiceName]] = {}  # with the names that did not change, or are settled
        self._pending: dict[Feed, set[ServiceName]] = {}  # names that still wait, after everything else is settled

    def changed(
        self, before: Iterable[Link], after: Iterable[Link], fed: Callable[[str, Item], Collection[ServiceName]]
    ) -> None:
        """The file changed. `fed(link, item)`: the names that a feed led to before."""
        old = {link.name: link for link in before}
        for link in after:
            known = old.get(link.name)
            for item in link.items:
                if known is not None and item in known.items:
                    if _alike(known, link):
                        continue
                    same = fed(link.name, item) if _shape(known) == _shape(link) else ()
                    self._fresh[link.name, item] = set(same)
                else:
                    self._fresh[link.name, item] = set()
        names = {link.name for link in after}
        for feeds in (self._fresh, self._pending):
            for feed in [feed for feed in feeds if feed[0] not in names]:
                del feeds[feed]

    def distrust(self, links: Iterable[Link], registries: Collection[str] | None = None) -> None:
        """The file gave a name to another registry, or (None) changed the destination: all its feeds count as new."""
        for link in links:
            for item in link.items:
                if registries is None or item.registry in registries:
                    self._fresh[link.name, item] = set()

    @property
    def fresh(self) -> Mapping[Feed, Collection[ServiceName]]:
        """The feeds whose additions all wait, except under these names."""
        return self._fresh

    @property
    def pending(self) -> Mapping[Feed, Collection[ServiceName]]:
        """The feeds of which only these names still wait."""
        return self._pending

    def restore_fresh(self, feed: Feed, names: Collection[ServiceName]) -> None:
        """Restores a feed that an earlier process had not settled."""
        self._fresh.setdefault(feed, set(names))

    def restore_pending(self, feed: Feed, names: Collection[ServiceName]) -> None:
        """Restores names that waited in an earlier process."""
        self._pending.setdefault(feed, set()).update(names)

    def waits(self, name: ServiceName, change: Change, serving: int) -> bool:
        """Whether the file caused this addition, to a name that is served already."""
        if not (self._fresh or self._pending) or change.mark is None or change.after is None:
            return False
        item = self._item_of(change.mark)
        if item is None:
            return False
        feed = (change.mark.link, item)
        if not self._is_fresh(feed, name):
            return False
        if change.before is not None:
            return change.before.instance.sockets() != change.after.sockets()
        if not serving:
            self._settle(feed, name)
        return bool(serving)

    def _is_fresh(self, feed: Feed, name: ServiceName) -> bool:
        done = self._fresh.get(feed)
        return (done is not None and name not in done) or name in self._pending.get(feed, ())

    def _settle(self, feed: Feed, name: ServiceName) -> None:
        if feed in self._fresh:
            self._fresh[feed].add(name)
        if name in self._pending.get(feed, ()):
            self._pending[feed].discard(name)
            if not self._pending[feed]:
                del self._pending[feed]

    def settled(self, is_synced: Callable[[Item], bool], waiting: Iterable[tuple[ServiceName, Mark]]) -> None:
        """Everything seen so far is planned: later additions are not the file's, except for names that still wait."""
        if not (self._fresh or self._pending):
            return
        left: dict[Feed, set[ServiceName]] = {}
        for name, mark in waiting:
            if (item := self._item_of(mark)) is not None:
                left.setdefault((mark.link, item), set()).add(name)
        for feed in [feed for feed in self._fresh if is_synced(feed[1])]:
            del self._fresh[feed]
            if feed in left:
                self._pending[feed] = left[feed]
        for feed in [feed for feed in self._pending if is_synced(feed[1])]:
            self._pending[feed] &= left.get(feed, set())
            if not self._pending[feed]:
                del self._pending[feed]

    def __len__(self) -> int:
        return len(self._fresh) + len(self._pending)


def _alike(one: Link, other: Link) -> bool:
    """Whether two links send the same of a registry that both read."""
    same = ("services", "rename", "where", "port", "unhealthy")
    return all(getattr(one, field) == getattr(other, field) for field in same)


def _shape(link: Link) -> tuple[object, ...]:
    """The keys of a link that decide which instances and ports are sent."""
    return link.rename, tuple(sorted(link.where.items())), link.port
