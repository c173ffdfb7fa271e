"""Additions of a changed file that wait for the operator: kept as decisions over restarts and take-overs."""

from __future__ import annotations

from collections.abc import Collection

from bridge.guard.additions import Additions, Feed
from bridge.link import Item as From
from bridge.link import Link
from bridge.model import ServiceName
from bridge.state.decisions import Decisions, Item, Kind, link_of


def remember(additions: Additions, links: Collection[str], decisions: Decisions) -> None:
    """Updates the decisions about these links to what waits now. Only the writer calls it; other daemons copy them."""
    for kind, feeds in ((Kind.FRESH, additions.fresh), (Kind.ADDED, additions.pending)):
        wanted = {_key(feed): _items(feed, names) for feed, names in feeds.items()}
        standing = decisions.of(kind)
        for key, one in standing.items():
            if link_of(key) in links and key not in wanted:
                decisions.drop(one.name)
        for key, items in wanted.items():
            if key not in standing or standing[key].items != items:
                decisions.decide(kind, key, by="isthmus", items=items)


def restore(additions: Additions, links: Collection[Link], decisions: Decisions) -> None:
    """Restores what waited in an earlier process, or at the previous writer."""
    feeds = {_key((link.name, item)): (link.name, item) for link in links for item in link.items}
    for kind, take in ((Kind.FRESH, additions.restore_fresh), (Kind.ADDED, additions.restore_pending)):
        for key, one in decisions.of(kind).items():
            if key in feeds:
                take(feeds[key], {ServiceName.parse(name) for _, name, _ in one.items})


def _key(feed: Feed) -> str:
    link, item = feed
    return f"{item} {link}"  # a registry has no space in its name


def _items(feed: tuple[str, From], names: Collection[ServiceName]) -> tuple[Item, ...]:
    return tuple((feed[0], name, "") for name in sorted(map(str, names)))
