"""What a plan consists of: changes, removals with their causes, and what is left as it is, with the reasons."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from bridge.adapter import Cause, Change, Entry
from bridge.link import Link
from bridge.model import Mark, ServiceName, Traits
from bridge.plan.causes import ORDERED
from bridge.sources.networks import Places
from bridge.sources.view import View

Scope = tuple[str, str]  # (identity, scope): the part of the world that an entry came from
Source = tuple[str, str, ServiceName, str]  # that, with the service and the instance there


class Kind(enum.StrEnum):
    """Of reasons: what the program goes by; the text is for people alone."""

    ORPHAN = "orphan"  # no link accounts for it
    UPSERT_ONLY = "upsert-only"  # its link removes nothing
    ACCEPTED = "accepted"  # an operator accepted that its source has ended
    UNHEARD = "unheard"  # its source has not said in this process what became of it
    COMING = "coming"  # it stays until what replaces it is written
    UNREADABLE = "unreadable"  # its source has a record that nobody can read
    LAST = "last"  # unhealthy, and nothing else serves
    ECHO = "echo"  # a copy that another tool made of what this bridge wrote
    COLLISION = "collision"  # two origins meet under one name
    REFUSED = "refused"  # the target does not take this value
    RULE = "rule"  # what a link, a layout or a merge says


ADDRESSES = Traits(frozenset())  # instances are told apart by address and port
FOR_EVER = frozenset({Kind.ORPHAN, Kind.UPSERT_ONLY, Kind.ACCEPTED})  # what has ended is left where it is


class Reason(NamedTuple):
    """Why something is not written, or not removed."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


class Removal(NamedTuple):
    """One change that takes something away, for the guard to judge. `loses`: a serving instance stops serving.

    `doubt`: why its cause is not believed without the operator, "" if it is. `instead`: the change that leaves the
    entry with its true health, where it would be withdrawn for that and the target can say it. `reused`: where its
    address and port serve now, "" if nowhere. `including_last`: an operator said that it may take the last one.
    """

    change: Change
    cause: Cause
    scope: Scope
    loses: bool
    doubt: str = ""
    instead: Change | None = None
    reused: str = ""
    including_last: bool = False

    @property
    def ordered(self) -> bool:
        """Whether an operator or a migration decided it, by name."""
        return self.cause in ORDERED

    @property
    def as_reused(self) -> Removal:
        """The same, for the reason that its address and port serve elsewhere."""
        change = replace(self.change, cause=Cause.REUSED, after=None)
        return self._replace(change=change, cause=Cause.REUSED, doubt="", instead=None)

    @property
    def withdraws(self) -> bool:
        """Whether an entry goes for its health that could stand with it."""
        return self.cause is Cause.HEALTH and self.change.after is None


class Plan(NamedTuple):
    """What to do under one name. `kept`: ours, no longer wanted, and left there, each with the reason."""

    name: ServiceName
    upserts: list[Change]
    removals: list[Removal]
    shadowed: dict[str, str]
    kept: dict[str, Reason]
    parked: str
    serving: int  # entries that serve there now, whoever owns them

    @property
    def quiet(self) -> bool:
        """Nothing to do."""
        return not (self.upserts or self.removals)

    def ends_with(self, upserts: int) -> bool:
        """Whether there is nothing left to do, and nothing to say, once so many upserts are made."""
        return upserts == len(self.upserts) and not (self.removals or self.shadowed or self.kept)


class Gone(NamedTuple):
    """Why an entry of ours is no longer wanted. `including_last`: as in `Removal`."""

    cause: Cause
    scope: Scope
    doubt: str = ""
    including_last: bool = False


class Held(NamedTuple):
    """What a destination holds under one name: its entries, and ledger entries of ours without data (`loose`).

    `places`: those of the destination, which say when two entries are the same running copy.
    """

    entries: Mapping[str, Entry]
    loose: Mapping[str, object]
    owner: str
    places: Places = Places(ADDRESSES)


class World(NamedTuple):
    """Who may say what became of an entry.

    `causes`: what was found before to be the cause of an entry's removal, by entry id. `ended`: scopes of which an
    operator accepted that they have ended. `elsewhere(entry, name)`: where the address and port of an entry under that
    name serve now, "" if nowhere.
    """

    links: Mapping[str, Link]
    views: tuple[View, ...]
    causes: Mapping[str, Cause]
    ended: frozenset[Scope] = frozenset()
    elsewhere: Callable[[Entry, ServiceName], str] = lambda entry, name: ""

    def view(self, mark: Mark) -> View | None:
        """The view of the scope that an entry came from, among those that its link reads."""
        link = self.links[mark.link]
        for view in self.views:
            if view.is_of(mark) and link.item(view.registry, view.scope) is not None:
                return view
        return None


def scope_of(mark: Mark) -> Scope:
    """The part of the world that an entry came from."""
    return mark.path[-1], mark.scope


def source_of(mark: Mark) -> Source:
    """Which instance of which registry an entry is a copy of."""
    return mark.path[-1], mark.scope, mark.service, mark.instance
