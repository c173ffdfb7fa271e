"""What operators decide: one table of decisions, with one rule a kind for what two hosts decided at once."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bridge.override import Override
from bridge.state.files import Fault
from bridge.state.table import Table

EVERY_LINK = "*"
APPROVED = 900.0  # seconds that an approval lasts where nothing else was said
REMEMBERED = 100  # approvals, and sets shown: the newest ones
ENDED = 1000  # decisions that were taken back: the newest ones

Item = tuple[str, str, str]  # link, service, entry id: as in `bridge.guard.holds`


class Kind(enum.StrEnum):
    """What is decided. The key is a link or `*` (freeze), the hash of a set (approval, shown),
    what an operator named (expected), an identity and a scope (ended), a registry or a scope of it (accepted), an item
    of `from` and a link (fresh, added), what it is of and where (override, drain).
    """

    FREEZE = "freeze"  # the writes of a link are stopped
    APPROVAL = "approval"  # these held removals may go, once
    SHOWN = "shown"  # this held set was shown, and may be approved by its hash
    EXPECTED = "expected"  # so many serving instances of a link, a registry or a service may be lost
    FRESH = "fresh"  # the file added a feed: all that it brings waits, but for the services in `items`
    ADDED = "added"  # these services of a feed that the file added still wait
    ENDED = "ended"  # a scope of a registry is gone for good, and what was copied from it stays
    ACCEPTED = "accepted"  # this life of a registry, or of a scope of it, is the true one
    OVERRIDE = "override"  # something else is written of instances than their source says
    DRAIN = "drain"  # instances are to receive no traffic


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision. Times in seconds since the epoch; `until` None: until somebody takes it back.

    `turn` grows with every decision that a host makes; `by` is who decided; `items` is the set that it is about, of an
    approval as far as it is not made use of yet; `count` is how many are left to be lost; `life` is the one that was
    accepted, as `bridge.sources.store.View.life` names it. `said`: the override; `single`: it is of one instance, and
    ends when that has been away.
    """

    kind: Kind
    key: str
    at: float
    by: str = ""
    reason: str = ""
    until: float | None = None
    turn: int = 0
    items: tuple[Item, ...] = ()
    count: int = 0
    life: str = ""
    said: Override | None = None
    single: bool = False

    @property
    def name(self) -> str:
        """What it is called in a table."""
        return name_of(self.kind, self.key)

    def left(self, now: float) -> float:
        """Seconds until it is over."""
        return inf if self.until is None else self.until - now

    def stands(self, now: float) -> bool:
        """Whether its time is not over."""
        return self.until is None or now < self.until


def name_of(kind: Kind, key: str) -> str:
    """What the decision of that kind about that key is called in a table."""
    return f"{kind} {key}"


# -- what two hosts decided ------------------------------------------------------------------------------------------


def stricter(one: Decision | None, other: Decision | None) -> Decision | None:
    """Of two freezes (None: it flows) the one that lasts longer."""
    if one is None or other is None:
        return one or other
    if one.until is None or (other.until is not None and one.until >= other.until):
        return one
    return other


def once(one: Decision | None, other: Decision | None) -> Decision | None:
    """Of two approvals what neither host has made use of; None: nothing is left of it."""
    if one is None or other is None:
        return None
    items = tuple(item for item in one.items if item in other.items)
    return replace(newer(one, other) or one, items=items) if items else None


def newer(one: Decision | None, other: Decision | None) -> Decision | None:
    """The one with the higher number; one that was taken back has none."""
    if one is None or other is None:
        return one or other
    return other if (other.turn, other.at) > (one.turn, one.at) else one


class Rule(NamedTuple):
    """`merge`: what counts where both hosts changed it. `gives_way`: it may be left out of a note that is too long.

    `keep`: so many of the kind are remembered, the newest ones; None: all.
    """

    merge: Callable[[Decision | None, Decision | None], Decision | None]
    gives_way: bool
    keep: int | None = None


RULES: dict[Kind, Rule] = {
    Kind.FREEZE: Rule(stricter, gives_way=False),
    Kind.APPROVAL: Rule(once, gives_way=True, keep=REMEMBERED),
    Kind.SHOWN: Rule(newer, gives_way=True, keep=REMEMBERED),
    Kind.EXPECTED: Rule(newer, gives_way=True, keep=REMEMBERED),
    Kind.FRESH: Rule(newer, gives_way=True),
    Kind.ADDED: Rule(newer, gives_way=True),
    Kind.ENDED: Rule(newer, gives_way=True),
    Kind.ACCEPTED: Rule(newer, gives_way=True, keep=REMEMBERED),
    Kind.OVERRIDE: Rule(newer, gives_way=False),
    Kind.DRAIN: Rule(newer, gives_way=False),
}


def merged(base: Decision | None, ours: Decision | None, theirs: Decision | None) -> Decision | None:
    """What counts of one decision, None: nothing. `base`: what was known to both.

    Whoever changed it decides; where both did, the kind's rule does.
    """
    if ours == base:
        return theirs
    if theirs in (base, ours):
        return ours
    known = ours or theirs or base
    return RULES[known.kind].merge(ours, theirs) if known is not None else None


# -- the table -------------------------------------------------------------------------------------------------------


class Decisions:
    """All decisions of one state folder. They count at once; `bridge.state.folder.State.flush` brings them to disk.

    `over`: which freezes, overrides and drains were taken back, and when (seconds since the epoch). Several notes may
    have one of these: without that, one which no longer has it and one which still does would undo each other for ever.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.table = Table(path, Decision, clock)
        self.over = Table(path.with_name("over.json") if path else None, float, clock, ENDED)
        self._clock = clock

    @property
    def all(self) -> Mapping[str, Decision]:
        """Every decision whose time is not over, by its name."""
        now = self._clock()
        return {name: one for name, one in self.table.entries.items() if one.stands(now)}

    def of(self, kind: Kind) -> dict[str, Decision]:
        """The decisions of one kind whose time is not over, by key, the oldest first."""
        now = self._clock()
        return {one.key: one for one in self.table.entries.values() if one.kind is kind and one.stands(now)}

    def put(self, decision: Decision) -> None:
        """Takes a decision over as it is, e.g. from another host."""
        before = self.table.entries.get(decision.name)
        if before is not None and before.at != decision.at:
            self._end(before)
        self.over.drop(_this_one(decision))
        self.table.put(decision.name, decision)

    def drop(self, name: str) -> None:
        """A decision is taken back, or used up."""
        if (before := self.table.entries.get(name)) is not None:
            self._end(before)
            self.table.drop(name)

    def _end(self, decision: Decision) -> None:
        if not RULES[decision.kind].gives_way:
            self.over.put(_this_one(decision), self._clock())

    def is_over(self, decision: Decision) -> bool:
        """Whether exactly that decision was taken back: who has it still has not heard of that."""
        return _this_one(decision) in self.over.entries

    def decide(
        self,
        kind: Kind,
        key: str,
        *,
        by: str = "",
        reason: str = "",
        until: float | None = None,
        items: tuple[Item, ...] = (),
        count: int = 0,
        life: str = "",
        said: Override | None = None,
        single: bool = False,
    ) -> Decision:
        """Somebody decides something here and now."""
        turn = 1 + max((one.turn for one in self.table.entries.values()), default=0)
        made = Decision(kind=kind, key=key, at=self._clock(), by=by, reason=reason, until=until, turn=turn, items=items)
        made = replace(made, count=count, life=life, said=said, single=single)
        self.put(made)
        return made

    def tidy(self) -> None:
        """Forgets what is over, and the oldest of what is kept in a limited number."""
        now = self._clock()
        for name, one in list(self.table.entries.items()):
            if not one.stands(now):
                self.table.drop(name)
        for kind, rule in RULES.items():
            if rule.keep is not None:
                for key in list(self.of(kind))[: -rule.keep]:
                    self.drop(name_of(kind, key))

    # -- freezes

    def frozen(self, link: str) -> Decision | None:
        """The freeze in force for a link. A table that was never readable freezes everything."""
        now = self._clock()
        for key in (link, EVERY_LINK):
            freeze = self.table.entries.get(name_of(Kind.FREEZE, key))
            if freeze is not None and freeze.stands(now):
                return freeze
        return self.unreadable

    @property
    def unreadable(self) -> Decision | None:
        """The freeze of every link while nobody can read what was decided, None: it can be read."""
        fault = self.table.fault
        if fault is None or not self.table.unread:
            return None
        reason = f"{fault.reason}; put {self.table.path} right, or `isthmus unfreeze --all` begins it anew"
        return Decision(kind=Kind.FREEZE, key=EVERY_LINK, at=fault.since, by="isthmus", reason=reason)

    @property
    def fault(self) -> Fault | None:
        """What the disk refuses."""
        return self.table.fault

    def freeze(self, link: str, reason: str, by: str, lasting: float | None = None) -> Decision:
        """Stops the writes of a link, or of all (`*`); for so many seconds where `lasting` is given."""
        if (unreadable := self.unreadable) is not None:  # beginning the table anew must not thaw anything
            self.decide(Kind.FREEZE, EVERY_LINK, by=unreadable.by, reason="what was frozen before could not be read")
        self.table.begin_anew()
        until = None if lasting is None else self._clock() + lasting
        return self.decide(Kind.FREEZE, link, by=by, reason=reason, until=until)

    def unfreeze(self, link: str) -> Decision | None:
        """Lets the writes of a link go on; returns the freeze that it ended. `*` does not end those of single links."""
        ended = self.of(Kind.FREEZE).get(link) or (self.unreadable if link == EVERY_LINK else None)
        if link == EVERY_LINK:
            self.table.begin_anew()
        self.drop(name_of(Kind.FREEZE, link))
        return ended

    # -- sets of removals

    def show(self, digest: str, items: tuple[Item, ...]) -> None:
        """An operator is shown this set, and may approve it by its hash from now on, also after a restart."""
        if digest not in self.of(Kind.SHOWN):
            self.decide(Kind.SHOWN, digest, items=items)

    def approve(self, digest: str, items: tuple[Item, ...], reason: str, by: str, lasting: float = APPROVED) -> None:
        """An operator let exactly this set go, once, within so many seconds."""
        self.decide(Kind.APPROVAL, digest, by=by, reason=reason, until=self._clock() + lasting, items=items)

    def use_up(self, items: Collection[Item]) -> None:
        """These are used, or no longer asked for: no approval lets them go from now on."""
        for approval in self.of(Kind.APPROVAL).values():
            left = tuple(item for item in approval.items if item not in items)
            if not left:
                self.drop(approval.name)
            elif len(left) < len(approval.items):
                self.put(replace(approval, items=left, turn=approval.turn + 1))


def _this_one(decision: Decision) -> str:
    """What tells a decision from an earlier or later one of the same name."""
    return f"{decision.name} {decision.turn} {decision.at!r}"


def about(decisions: Iterable[Decision], links: Collection[str], destination: str) -> dict[str, Decision]:
    """By name, the decisions that concern a destination and these links into it."""
    return {one.name: one for one in decisions if _concerns(one, links, destination)}


def link_of(key: str) -> str:
    """The link in the key of a decision about a feed."""
    return key.partition(" ")[2]


def _concerns(one: Decision, links: Collection[str], destination: str) -> bool:
    if one.said is not None:
        return one.said.at in ("", destination)
    if one.kind in (Kind.FRESH, Kind.ADDED):
        return link_of(one.key) in links
    if one.kind in (Kind.EXPECTED, Kind.ENDED, Kind.ACCEPTED):
        return True
    return one.key in links or one.key == EVERY_LINK if one.kind is Kind.FREEZE else _any_of(one.items, links)


def _any_of(items: Iterable[Item], links: Collection[str]) -> bool:
    return any(item[0] in links for item in items)
