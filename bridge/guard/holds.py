"""The removals held at one destination: sets that an operator approves or a second opinion releases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause, Change
from bridge.guard.limits import OF_A_SERVICE, Verdict
from bridge.model import ServiceName
from bridge.plan.causes import TREATMENTS, Frees
from bridge.plan.values import Removal, Scope

Item = tuple[str, str, str]  # link, service, entry id
JUDGED = tuple(cause for cause, one in TREATMENTS.items() if one.frees is Frees.OPINION)
COUNTED = (*JUDGED, Cause.REUSED)  # of which it matters how many of their scope go
APPROVED = 900.0  # seconds; how long an approval lasts by default
FOLLOWED = "another daemon let it go"  # the hold of a grant that no operator gave


class HeldRemoval(NamedTuple):
    """One held removal. `since` and `due` in monotonic seconds; `due` None: only the operator releases it."""

    removal: Removal
    verdict: Verdict
    since: float
    due: float | None

    @property
    def item(self) -> Item:
        """The item that names it in a set."""
        return item_of(self.removal.change)


class Hold(msgspec.Struct, frozen=True):
    """A set of removals held for one reason; `id` is the hash of exactly this set. Ages in seconds.

    `limit`: which limit holds it, and of which service where it is one of a service. `items` may be left out where
    another process tells of more than there is room for.
    """

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
    limit: str = ""

    @property
    def why(self) -> tuple[str, ...]:
        """The same for all parts of one set, whoever holds them."""
        return self.link, self.scope, str(self.cause), self.limit


def item_of(change: Change) -> Item:
    """The item that names a change in a set."""
    return change.mark.link if change.mark else "", str(change.service), change.id


def united(holds: Iterable[Hold], apart: Collection[str] = ()) -> list[Hold]:
    """One set of all parts that are held for one reason by several processes.

    A part stays by itself whose items are not told, and (`apart`: their ids) one whose items others are not told.
    """
    parts: dict[tuple[str, ...], list[Hold]] = {}
    for hold in holds:
        alone = not hold.items or hold.id in apart
        parts.setdefault((*hold.why, hold.id) if alone else hold.why, []).append(hold)
    found = [ones[0] if len(ones) == 1 else _united(ones) for ones in parts.values()]
    return sorted(found, key=lambda hold: (hold.link, hold.scope, hold.rule))


def _united(parts: Sequence[Hold]) -> Hold:
    items = tuple(sorted({item for part in parts for item in part.items}))
    dues = [part.due_in for part in parts]
    return msgspec.structs.replace(
        max(parts, key=lambda part: part.instances),
        id=set_hash(items),
        services=len({item[1] for item in items}),
        instances=len(items),
        age=max(part.age for part in parts),
        due_in=None if None in dues else max(due for due in dues if due is not None),
        items=items,
    )


def set_hash(items: Iterable[Item]) -> str:
    """The id of a set of removals, the same in every process."""
    text = "\n".join(sorted("\t".join(item) for item in items))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Grant(NamedTuple):
    """One removal of a set that an operator approved: once, and until `until` (monotonic seconds).

    `asked`: some plan has asked for it since.
    """

    hold: str
    until: float
    asked: bool


class Sizes(NamedTuple):
    """How much is remembered, for tests of unbounded growth."""

    held: int
    agreed: int
    granted: int
    losses: int
    shown: int


class Holds:
    """All holds at one destination, by service and entry id, and what releases them."""

    def __init__(self) -> None:
        self._held: dict[ServiceName, dict[str, HeldRemoval]] = {}
        self._agreed: dict[ServiceName, set[str]] = {}  # confirmed by a second opinion
        self._granted: dict[ServiceName, dict[Item, Grant]] = {}
        self._shown: dict[str, frozenset[Item]] = {}
        self._asked: dict[ServiceName, dict[tuple[Scope, Cause], int]] = {}
        self._losses: dict[tuple[Scope, Cause], int] = {}
        self._ill: dict[Scope, int] = {}  # held withdrawals that no longer serve
        self._asked_ill: dict[ServiceName, dict[Scope, int]] = {}
        self._most = 0  # the most held since the last query: holds that come and go between two samples count
        # Ended holds, and until when they still count as losses.
        self._returned: dict[tuple[Scope, Cause], dict[tuple[ServiceName, str], float]] = {}

    def ask(self, name: ServiceName, removals: list[Removal]) -> None:
        """Counts the removals of a plan before any of them is judged: a loss is judged as a whole."""
        for key, count in self._asked.pop(name, {}).items():
            self._losses[key] -= count
            if not self._losses[key]:
                del self._losses[key]
        for scope, count in self._asked_ill.pop(name, {}).items():
            self._ill[scope] -= count
            if not self._ill[scope]:
                del self._ill[scope]
        asked: dict[tuple[Scope, Cause], int] = {}
        for removal in removals:
            if removal.withdraws and not removal.loses:
                ill = self._asked_ill.setdefault(name, {})
                ill[removal.scope] = ill.get(removal.scope, 0) + 1
                self._ill[removal.scope] = self._ill.get(removal.scope, 0) + 1
            if removal.loses:
                for cause in {removal.cause, Cause.REUSED} if removal.reused else {removal.cause}:
                    key = (removal.scope, cause)
                    asked[key] = asked.get(key, 0) + 1
                    self._returned.get(key, {}).pop((name, removal.change.id), None)
                    self._losses[key] = self._losses.get(key, 0) + 1
        if asked:
            self._asked[name] = asked
            self._most = max(self._most, sum(self._losses.values()))

    def came_back(self, one: HeldRemoval, until: float) -> None:
        """A held removal is no longer asked for: its siblings may come back, too, and are judged with it for a while.

        Else the last few of a returning herd would pass the limits (safety fault 24).
        """
        if one.removal.loses:
            returned = self._returned.setdefault((one.removal.scope, one.removal.cause), {})
            returned[one.removal.change.service, one.removal.change.id] = until

    def losses(self, scope: Scope, cause: Cause) -> int:
        """How many serving instances of a scope are asked to go for a cause, including held and returned ones."""
        key = (scope, cause)
        return self._losses.get(key, 0) + len(self._returned.get(key, ()))

    def asked_of(self, which: Callable[[ServiceName], bool]) -> dict[Scope, dict[str, int]]:
        """How many are asked to go under some names, by scope and cause, as `losses` counts them."""
        found: dict[Scope, dict[str, int]] = {}

        def count(scope: Scope, cause: Cause, count: int) -> None:
            if cause in COUNTED:
                causes = found.setdefault(scope, {})
                causes[str(cause)] = causes.get(str(cause), 0) + count

        for name in filter(which, self._asked):
            for (scope, cause), number in self._asked[name].items():
                count(scope, cause, number)
        for (scope, cause), returned in self._returned.items():
            if number := sum(which(name) for name, _ in returned):
                count(scope, cause, number)
        return found

    def whole(self, scope: Scope) -> int:
        """How many are asked to go for any cause except the file, whose removals wait for the operator anyway."""
        return sum(self.losses(scope, cause) for cause in JUDGED)

    def ill(self, scope: Scope) -> int:
        """How many held withdrawals of a scope no longer serve: they are written with their true health."""
        return self._ill.get(scope, 0)

    def forget(self, now: float) -> set[ServiceName]:
        """Drops holds that came back long ago and expired approvals. Returns the names to be judged again."""
        found: set[ServiceName] = set()
        for key, returned in list(self._returned.items()):
            left = {one: until for one, until in returned.items() if until > now}
            if len(left) < len(returned):
                found |= {name for name, held in self._held.items() if _any_of(held, key[0])}
                self._returned[key] = left
            if not left:
                del self._returned[key]
        for name, grants in list(self._granted.items()):
            if any(grant.until <= now for grant in grants.values()):
                found.add(name)
                self._keep_grants(name, {item: grant for item, grant in grants.items() if grant.until > now})
        return found

    def grant_of(self, removal: Removal) -> Grant | None:
        """The grant of a removal, if any."""
        return self._granted.get(removal.change.service, {}).get(item_of(removal.change))

    def is_granted(self, removal: Removal, now: float) -> bool:
        """Whether an operator has approved a removal."""
        grant = self.grant_of(removal)
        return grant is not None and grant.until > now

    def follows(self, removal: Removal) -> bool:
        """Whether a removal is granted only because another daemon has made it."""
        grant = self.grant_of(removal)
        return grant is not None and grant.hold == FOLLOWED

    def is_agreed(self, removal: Removal) -> bool:
        """Whether a second opinion has confirmed a removal."""
        return removal.change.id in self._agreed.get(removal.change.service, ())

    def agree(self, one: HeldRemoval) -> None:
        """Notes that a second opinion confirms a removal."""
        self._agreed.setdefault(one.removal.change.service, set()).add(one.removal.change.id)

    def settle(
        self, name: ServiceName, held: dict[str, HeldRemoval], removals: list[Removal], unheard: Collection[str] = ()
    ) -> tuple[list[HeldRemoval], list[HeldRemoval]]:
        """Sets the holds of a name. Returns those that are new, and those that have ended.

        Known holds keep their times. A removal that is no longer asked for loses its release; `unheard`: entries
        that stand because their source has not said yet what became of them, so that an approval waits for it.
        """
        before = self._held.pop(name, {})
        now = {key: one._replace(since=before[key].since) if key in before else one for key, one in held.items()}
        for key, one in now.items():
            if key in before and one.due is not None and before[key].due is not None:
                now[key] = one._replace(due=before[key].due)
        if now:
            self._held[name] = now
        asked = {removal.change.id for removal in removals}
        if name in self._agreed:
            self._agreed[name] &= asked - now.keys()
            if not self._agreed[name]:
                del self._agreed[name]
        if name in self._granted:
            left = {
                item: grant._replace(asked=grant.asked or item[2] in asked)
                for item, grant in self._granted[name].items()
                if item[2] in asked or (item[2] in unheard and not grant.asked)
            }
            self._keep_grants(name, left)
        fresh = [one for key, one in now.items() if key not in before]
        return fresh, [one for key, one in before.items() if key not in now]

    def _keep_grants(self, name: ServiceName, grants: dict[Item, Grant]) -> None:
        if grants:
            self._granted[name] = grants
        else:
            del self._granted[name]

    def only_standing(self, entries: Mapping[ServiceName, Collection[str]], but: Collection[ServiceName]) -> None:
        """Everything was read at the destination, but for some names: an approval for what has gone is over.

        What a plan asks for may be an addition, which does not stand there yet; the next plan drops it if it is not.
        """
        for name in [name for name in self._granted if name not in but]:
            stands, grants = entries.get(name, ()), self._granted[name]
            self._keep_grants(name, {item: one for item, one in grants.items() if one.asked or item[2] in stands})

    def due(self, now: float) -> list[HeldRemoval]:
        """The holds that are due for a second opinion."""
        return [
            one
            for held in self._held.values()
            for one in held.values()
            if one.due is not None and one.due <= now and not self.is_agreed(one.removal)
        ]

    def next_due(self) -> float | None:
        """When the next second opinion is due, None: there is none."""
        return min(
            (one.due for held in self._held.values() for one in held.values() if one.due is not None), default=None
        )

    def postpone(self, one: HeldRemoval, due: float) -> None:
        """Puts a second opinion off, which disagreed or failed."""
        held = self._held.get(one.removal.change.service, {})
        if one.removal.change.id in held:
            held[one.removal.change.id] = one._replace(due=due)

    def grant(self, hold: str, items: Iterable[Item], until: float) -> None:
        """Takes an operator's approval of these, valid `until` (monotonic seconds)."""
        for item in items:
            name = ServiceName.parse(item[1])
            asked = item[2] in self._held.get(name, {})
            self._granted.setdefault(name, {})[item] = Grant(hold, until, asked)

    def granted(self) -> dict[Item, Grant]:
        """The approved removals that are neither made, nor given up, nor expired."""
        return {item: grant for grants in self._granted.values() for item, grant in grants.items()}

    def use(self, item: Item) -> None:
        """Ends the grant of a removal that was made: it covers no later removal of the same entry."""
        name = ServiceName.parse(item[1])
        if item in self._granted.get(name, ()):
            self._keep_grants(name, {other: one for other, one in self._granted[name].items() if other != item})

    def remember(self, hold: str, items: Iterable[Item]) -> None:
        """Takes a set that another process showed, so that it can be approved here, too."""
        self._shown[hold] = frozenset(items)

    def count(self, link: str | None = None) -> int:
        """How many removals are held, of one link or of all."""
        return sum(1 for held in self._held.values() for one in held.values() if link is None or one.item[0] == link)

    def sizes(self) -> Sizes:
        """How much is remembered."""
        granted = sum(map(len, self._granted.values()))
        return Sizes(self.count(), len(self._agreed), granted, len(self._losses), len(self._shown))

    def asked(self) -> int:
        """The largest number of serving instances asked to go since the last call, including held ones."""
        most, self._most = self._most, sum(self._losses.values())
        return most

    def names(self) -> Collection[ServiceName]:
        """The names with holds."""
        return self._held.keys()

    def of(self, name: ServiceName) -> dict[str, HeldRemoval]:
        """The holds of one name."""
        return self._held.get(name, {})

    def timed(self, scope: Scope) -> set[ServiceName]:
        """The names with holds of a scope that wait for a second opinion."""
        return {
            name
            for name, held in self._held.items()
            if any(one.due is not None and one.removal.scope == scope for one in held.values())
        }

    def scopes(self) -> set[Scope]:
        """The scopes with holds."""
        return {one.removal.scope for held in self._held.values() for one in held.values()}

    def show(self, now: float) -> list[Hold]:
        """The holds as sets to approve: one for each link, scope, cause and kind of rule."""
        sets: dict[tuple[str, Scope, Cause, str], list[HeldRemoval]] = {}
        for held in self._held.values():
            for one in held.values():
                by_service = str(one.removal.change.service) if one.verdict.limit in OF_A_SERVICE else ""
                key = (one.item[0], one.removal.scope, one.removal.cause, f"{one.verdict.limit} {by_service}")
                sets.setdefault(key, []).append(one)
        shown = []
        for (link, scope, cause, limit), ones in sets.items():
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
                limit=limit.strip(),
            )
            self._shown[hold.id] = frozenset(items)
            shown.append(hold)
        return sorted(shown, key=lambda hold: (hold.link, hold.scope, hold.rule))

    def shown(self, hold: str) -> frozenset[Item] | None:
        """The set that was shown with that id, None: there was none."""
        return self._shown.get(hold)

    def approve(self, hold: str, now: float, lasting: float = APPROVED) -> tuple[Item, ...]:
        """Approves exactly the set that was shown with that id, for `lasting` seconds.

        Raises KeyError where nothing of it is held, ValueError where it has grown.
        """
        current = {one.id: frozenset(one.items) for one in self.show(now)}
        known = self.shown(hold)
        if known is None:
            raise KeyError(hold)
        standing = {one.item for held in self._held.values() for one in held.values()}
        for other, items in current.items():
            if items > known:
                raise ValueError(f"the set has grown since it was shown: it is {other} now; look again")
        if not known & standing:
            raise ValueError(f"nothing of {hold} is held any more")
        self.grant(hold, known & standing, now + lasting)
        return tuple(sorted(known & standing))


def _any_of(held: Mapping[str, HeldRemoval], scope: Scope) -> bool:
    return any(one.removal.scope == scope for one in held.values())
