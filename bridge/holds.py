"""What the guard keeps back at one destination: the sets that an operator approves or a second opinion frees."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause
from bridge.guard import Verdict
from bridge.model import ServiceName
from bridge.plan import Removal, Scope

Item = tuple[str, str, str]  # link, service, entry id


class HeldRemoval(NamedTuple):
    """One removal that is kept back. `since` and `due` in monotonic seconds; `due` None: only the operator frees it."""

    removal: Removal
    verdict: Verdict
    since: float
    due: float | None

    @property
    def item(self) -> Item:
        """What it is called in a set to be approved."""
        change = self.removal.change
        return change.mark.link if change.mark else "", str(change.service), change.id


class Hold(msgspec.Struct, frozen=True):
    """A set of removals held for one reason; `id` is the hash of exactly this set. Ages in seconds."""

    id: str
    link: str
    scope: str
    cause: Cause
    rule: str
    services: int
    instances: int
    age: float
    due_in: float | None
    items: tuple[Item, ...]


def set_hash(items: Iterable[Item]) -> str:
    """The name of a set of removals: the same set has the same one in every process."""
    text = "\n".join(sorted("\t".join(item) for item in items))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Holds:
    """All that is held at one destination, by service and entry id, and what may go all the same."""

    def __init__(self) -> None:
        self._held: dict[ServiceName, dict[str, HeldRemoval]] = {}
        # By service: let go by the operator or a second opinion, and whether it has been asked for since.
        self._freed: dict[str, dict[Item, bool]] = {}
        self._shown: dict[str, frozenset[Item]] = {}
        self._asked: dict[ServiceName, dict[tuple[Scope, Cause], int]] = {}
        self._losses: dict[tuple[Scope, Cause], int] = {}
        self._most = 0  # of them in all, since somebody asked: what comes and goes between two looks counts
        # What was held and is asked no more, and until when it counts as lost all the same; the oldest comes first.
        self._returned: dict[tuple[Scope, Cause], dict[tuple[ServiceName, str], float]] = {}

    def ask(self, name: ServiceName, removals: list[Removal]) -> None:
        """Counts what a plan would take away, before any of it is judged: a loss is judged as a whole."""
        for key, count in self._asked.pop(name, {}).items():
            self._losses[key] -= count
            if not self._losses[key]:
                del self._losses[key]
        asked: dict[tuple[Scope, Cause], int] = {}
        for removal in removals:
            if removal.loses:
                key = (removal.scope, removal.cause)
                asked[key] = asked.get(key, 0) + 1
                self._returned.get(key, {}).pop((name, removal.change.id), None)
                self._losses[key] = self._losses.get(key, 0) + 1
        if asked:
            self._asked[name] = asked
            self._most = max(self._most, sum(self._losses.values()))

    def came_back(self, one: HeldRemoval, until: float) -> None:
        """A held removal is asked no more: its siblings may come back as well, so for a while they are judged with it.

        Otherwise the last of a herd that comes back would be so few that the limits let them go (fault 24).
        """
        if one.removal.loses:
            returned = self._returned.setdefault((one.removal.scope, one.removal.cause), {})
            returned[one.removal.change.service, one.removal.change.id] = until

    def losses(self, scope: Scope, cause: Cause, now: float) -> tuple[int, float]:
        """How many serving instances of a scope are asked to go for that cause, held ones and returned ones included.

        And in how many seconds the next of the returned ones is forgotten, 0: there are none.
        """
        asked = self._losses.get((scope, cause), 0)
        returned = self._returned.get((scope, cause))
        if returned is None:
            return asked, 0.0
        while returned and (first := next(iter(returned.items())))[1] <= now:
            del returned[first[0]]
        if not returned:
            del self._returned[scope, cause]
            return asked, 0.0
        return asked + len(returned), next(iter(returned.values())) - now

    def is_free(self, removal: Removal) -> bool:
        """Whether the operator or a second opinion has let this one go."""
        change = removal.change
        service = str(change.service)
        return (change.mark.link if change.mark else "", service, change.id) in self._freed.get(service, ())

    def settle(
        self, name: ServiceName, held: dict[str, HeldRemoval], removals: list[Removal]
    ) -> tuple[list[HeldRemoval], list[HeldRemoval]]:
        """What is held under a name from now on; returns what is newly held, and what is not any more.

        Times of what was held before stand. What is asked no more is no longer free either.
        """
        before = self._held.pop(name, {})
        now = {key: one._replace(since=before[key].since) if key in before else one for key, one in held.items()}
        for key, one in now.items():
            if key in before and one.due is not None and before[key].due is not None:
                now[key] = one._replace(due=before[key].due)
        if now:
            self._held[name] = now
        text = str(name)
        if text in self._freed:
            asked = {removal.change.id for removal in removals}
            # What an operator let go before a restart has not been asked for yet.
            freed = {item: item[2] in asked for item, was in self._freed[text].items() if item[2] in asked or not was}
            if freed:
                self._freed[text] = freed
            else:
                del self._freed[text]
        fresh = [one for key, one in now.items() if key not in before]
        return fresh, [one for key, one in before.items() if key not in now]

    def due(self, now: float) -> list[HeldRemoval]:
        """What waits for a second opinion only, and whose time has come."""
        return [
            one
            for held in self._held.values()
            for one in held.values()
            if one.due is not None and one.due <= now and one.item not in self._freed.get(one.item[1], ())
        ]

    def next_due(self) -> float | None:
        """When the next second opinion is due."""
        return min(
            (one.due for held in self._held.values() for one in held.values() if one.due is not None), default=None
        )

    def postpone(self, one: HeldRemoval, due: float) -> None:
        """The second opinion disagreed, or could not be had: ask again then."""
        held = self._held.get(one.removal.change.service, {})
        if one.removal.change.id in held:
            held[one.removal.change.id] = one._replace(due=due)

    def free(self, items: Iterable[Item]) -> None:
        """These may go."""
        for item in items:
            asked = item[2] in self._held.get(ServiceName.parse(item[1]), {})
            self._freed.setdefault(item[1], {})[item] = asked

    def remember(self, hold: str, items: Iterable[Item]) -> None:
        """An operator was shown this set by another process: it can be approved here, too."""
        self._shown[hold] = frozenset(items)

    def waits_for(self, items: Iterable[Item]) -> bool:
        """Whether any of these is let go and has not gone yet."""
        return any(item in self._freed.get(item[1], ()) for item in items)

    def count(self, link: str | None = None) -> int:
        """How many removals are held, of one link or of all."""
        return sum(1 for held in self._held.values() for one in held.values() if link is None or one.item[0] == link)

    def asked(self) -> int:
        """How many serving instances were asked to go at most since the last call, held ones included."""
        most, self._most = self._most, sum(self._losses.values())
        return most

    def names(self) -> Collection[ServiceName]:
        """The names under which something is held."""
        return self._held.keys()

    def of(self, name: ServiceName) -> dict[str, HeldRemoval]:
        """What is held under one name."""
        return self._held.get(name, {})

    def scopes(self) -> set[Scope]:
        """The scopes that something held came from."""
        return {one.removal.scope for held in self._held.values() for one in held.values()}

    def show(self, now: float) -> list[Hold]:
        """What is held, as sets to approve: one for each link, scope, cause and kind of rule."""
        sets: dict[tuple[str, Scope, Cause, str], list[HeldRemoval]] = {}
        for held in self._held.values():
            for one in held.values():
                kind = one.verdict.rule.partition(":")[0]
                by_service = str(one.removal.change.service) if kind in ("service_share", "last_instance") else ""
                key = (one.item[0], one.removal.scope, one.removal.cause, kind + by_service)
                sets.setdefault(key, []).append(one)
        shown = []
        for (link, scope, cause, _), ones in sets.items():
            items = tuple(sorted(one.item for one in ones))
            dues = [one.due for one in ones if one.due is not None]
            hold = Hold(
                id=set_hash(items),
                link=link,
                scope=f"{scope[0]}/{scope[1]}" if scope[1] else scope[0],
                cause=cause,
                rule=max(ones, key=lambda one: one.since).verdict.rule,
                services=len({item[1] for item in items}),
                instances=len(items),
                age=now - min(one.since for one in ones),
                due_in=max(0.0, max(dues) - now) if dues else None,
                items=items,
            )
            self._shown[hold.id] = frozenset(items)
            shown.append(hold)
        return sorted(shown, key=lambda hold: (hold.link, hold.scope, hold.rule))

    def approve(self, hold: str, now: float) -> tuple[Item, ...]:
        """Frees exactly the set that was shown under that name; raises KeyError, ValueError where it has grown."""
        current = {one.id: frozenset(one.items) for one in self.show(now)}
        known = current.get(hold) or self._shown.get(hold)
        if known is None:
            raise KeyError(hold)
        standing = {one.item for held in self._held.values() for one in held.values()}
        for other, items in current.items():
            if items > known:
                raise ValueError(f"the set has grown since it was shown: it is {other} now; look again")
        self.free(known & standing)
        return tuple(sorted(known & standing))
