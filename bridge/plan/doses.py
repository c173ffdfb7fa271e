"""What the moves of migrations say of each instance at a destination: the share of each side, as orders; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bridge.adapter import Cause, Entry
from bridge.link import named
from bridge.migration.block import Migration, Part
from bridge.migration.intent import Intent, Placed, Record
from bridge.migration.shares import ALL, NONE, STANDING, Dose, Fit, Means, Scale, dealt, in_order
from bridge.migration.sides import Scope, Sides
from bridge.model import Instance, ServiceName
from bridge.plan.orders import NONE as NO_ORDERS
from bridge.plan.orders import Order, Orders, Origin
from bridge.plan.route import Supply

NOT_BEGUN = Fit(0.0, 0.0, Means.COUNTS, old=ALL, new=NONE)
UNATTACHED = Fit(0.0, 1.0, Means.COUNTS, old=STANDING, new=ALL)
ENOUGH = 0.9  # of the new side's copies that a step has there: with fewer nothing is taken from the old side


class Member(NamedTuple):
    """One serving instance of a side, as its source has it."""

    origin: Origin
    instance: Instance


def members(sides: Sides, supplies: Sequence[Supply]) -> dict[Part, list[Member]]:
    """What feeds a name, by side: serving originals alone, each once; what one side has of the other are copies."""
    found: dict[Part, dict[Origin, Member]] = {Part.OLD: {}, Part.NEW: {}}
    for supply in supplies:
        of, marks, name = sides.parts(supply.registry, supply.scope), supply.service.marks, supply.service.name
        for key, instance in supply.service.instances.items():
            part = of(instance)
            if part is not None and instance.serving and (not marks or sides.is_original(marks.get(key))):
                origin = supply.registry, supply.scope, name, key
                found[part][origin] = Member(origin, instance)
    return {part: list(some.values()) for part, some in found.items()}


def sides_of(block: Migration, supplies: Iterable[Supply]) -> Sides:
    """What tells the sides apart by what feeds one name, where nothing else is known."""
    return Sides(block, [Scope(one.identity, one.registry, one.scope) for one in supplies])


def copies(sides: Sides, supplies: Sequence[Supply]) -> Iterator[Origin]:
    """What feeds a name a second time: the registry of one side has a copy of it, and the other side the original."""
    for supply in supplies:
        for key, mark in supply.service.marks.items():
            if sides.is_copy(mark):
                yield supply.registry, supply.scope, supply.service.name, key


def ranked(move: str, some: Sequence[Member]) -> list[Member]:
    """The members in the order in which a share takes them."""
    heads = {of: "\t".join(map(str, of)) for of in {one.origin[:3] for one in some}}  # a few, of many members
    by_key = {f"{heads[one.origin[:3]]}\t{one.origin[3]}": one for one in some}
    return [by_key[key] for key in in_order(move, by_key)]


def shared_out(ranks: str, dose: Dose, some: Sequence[Member], scale: Scale) -> Iterator[tuple[Member, float]]:
    """The weight of each member by a dose, 0: it is left out. Only where some are does their order matter."""
    deals = dealt(dose, [one.instance.weight for one in some], scale)
    if any(deals) and not all(deals):
        some = ranked(ranks, some)
        deals = dealt(dose, [one.instance.weight for one in some], scale)
    return zip(some, deals, strict=True)


class Doses:
    """Every move that concerns this process: the ordering at rank `SHARE`.

    `follow` takes a newer record over, and returns the names to be planned again, by destination. `heard`: whether all
    that the old side of a migration has is known now; where it is not it is taken to be there. `sides`: what tells the
    sides of one apart: by all that is read, since what feeds a name says nothing of a side that has nothing there now.
    """

    def __init__(self, blocks: Sequence[Migration] = ()) -> None:
        self.heard: Callable[[Migration], bool] = lambda _: False
        self.sides: Callable[[Migration, Sequence[Supply]], Sides] = sides_of
        self._blocks = tuple(blocks)
        self._record = Record()
        self._placed: dict[tuple[str, ServiceName], tuple[Intent, Migration, Placed]] = {}

    @property
    def record(self) -> Record:
        """What is followed."""
        return self._record

    def move_of(self, destination: str, name: ServiceName) -> str:
        """The move that says the share of a name there, "" where none does."""
        found = self._placed.get((destination, name))
        return found[0].name if found is not None and not found[0].state.ended else ""

    def regard(self, blocks: Sequence[Migration]) -> None:
        """The file changed: what was not begun is dosed by its blocks."""
        self._blocks = tuple(blocks)

    def follow(self, record: Record) -> dict[str, set[ServiceName]]:
        """Takes a record over; the names whose doses differ from before, by destination."""
        before, self._record = self._placed, record
        self._placed = {
            (place, placed.name): (one, record.blocks[one.migration], placed)
            for one in record.moves.values()
            for place, placed in one.places.items()
        }
        found: dict[str, set[ServiceName]] = {}
        for key in before.keys() | self._placed.keys():
            if _dose_of(before.get(key)) != _dose_of(self._placed.get(key)):
                found.setdefault(key[0], set()).add(key[1])
        return found

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        """The share of each side under a name: what is left out, and what each of the others weighs."""
        if not (self._placed or self._blocks):
            return NO_ORDERS
        found = self._placed.get((destination, name))
        if found is not None:
            intent, block, placed = found
            rule = f"migration {intent.name} at {intent.state.share:g} %"
            at = _at(destination, supplies, entries, self.sides(block, supplies))
            return dict(_orders(intent.name, block, placed.fit, rule, at, Cause.SHARE))
        coming = next((one for one in self._blocks if _concerns(one, destination, supplies)), None)
        if coming is None:
            return NO_ORDERS
        at = _at(destination, supplies, entries, self.sides(coming, supplies))
        if not self._moves(coming, at):
            return NO_ORDERS
        rule = f"migration {coming.name} has not begun"
        fit = UNATTACHED if destination in coming.attach_at else NOT_BEGUN
        return dict(_orders(coming.name, coming, fit, rule, at, Cause.CONFIG))

    def _moves(self, block: Migration, at: _At) -> bool:
        """Whether anything but the new side is, or may be, under a name: else there is nothing to move. Where the new
        side is native: whether it serves there, for beside nothing there is nothing to attach."""
        if at.place in block.attach_at:
            return natives_of(block, at.place, at.entries, Part.NEW) > 0
        if at.members[Part.OLD]:
            return True
        stands = any(at.sides.side(at.place, one.instance, one.mark) is Part.OLD for one in at.entries.values())
        return stands or not self.heard(block)


def _has(block: Migration, supply: Supply, part: Part) -> bool:
    return any(block.part(supply.registry, supply.scope, one) is part for one in supply.service.instances.values())


def _concerns(block: Migration, destination: str, supplies: Sequence[Supply]) -> bool:
    """Whether a block that was not begun says something of what feeds a name at a destination."""
    comes = Part.OLD if destination in block.attach_at else Part.NEW
    return destination in block.places and any(
        any(named(pattern, supply.service.name) for pattern in block.services) and _has(block, supply, comes)
        for supply in supplies
    )


def _dose_of(found: tuple[Intent, Migration, Placed] | None) -> Fit | None:
    return found[2].fit if found is not None else None


class _At(NamedTuple):
    """One name at a destination: what feeds it, what stands there, and what tells the sides apart.

    `there`: what of the supplies stands there, `serves`: and serves.
    """

    place: str
    supplies: Sequence[Supply]
    entries: Mapping[str, Entry]
    sides: Sides
    members: Mapping[Part, Sequence[Member]]
    there: Mapping[Origin, Entry]
    serves: Mapping[Origin, Entry]


def _at(place: str, supplies: Sequence[Supply], entries: Mapping[str, Entry], sides: Sides) -> _At:
    there = standing(supplies, entries)
    return _At(place, supplies, entries, sides, members(sides, supplies), there, only_serving(there))


def _orders(move: str, block: Migration, fit: Fit, rule: str, at: _At, cause: Cause) -> Iterator[tuple[Origin, Order]]:
    for origin in copies(at.sides, at.supplies):
        yield origin, Order(cause=cause, rule=f"{rule}; it is a copy of what a side has itself", away=True)
    yield from _as_it_stands(rule, at, cause)
    for part, dose in ((Part.NEW, fit.new), (Part.OLD, fit.old)):
        if dose.standing:
            come = _come(part, at)
            yield from ((origin, Order(cause=cause, rule=rule, away=True)) for origin in come)
            continue
        is_spared = at.sides.unknown or not _stands(fit, block, at, instead_of=part)
        for member, weight in shared_out(f"{move} {part}", dose, at.members[part], fit.scale):
            if not weight:
                entry = at.serves.get(member.origin) if is_spared else None
                yield member.origin, _kept(cause, rule, entry) if entry else Order(cause=cause, rule=rule, away=True)
            elif weight != member.instance.weight or fit.means is Means.BOTH:
                yield member.origin, Order(cause=cause, rule=rule, weight=weight, zone=_zone(fit, member, part))


def _as_it_stands(rule: str, at: _At, cause: Cause) -> Iterator[tuple[Origin, Order]]:
    """What is written of copies while a side is unknown, of which they may be: what stands stays, nothing comes."""
    if not at.sides.unknown:
        return
    rule = f"{rule}; {at.sides.unknown[0]} is not known yet"
    for supply in at.supplies:
        for key, mark in supply.service.marks.items():
            origin = supply.registry, supply.scope, supply.service.name, key
            if at.sides.is_original(mark) or at.sides.is_copy(mark):
                continue
            if (entry := at.there.get(origin)) is None:
                yield origin, Order(cause=cause, rule=rule, away=True)
            else:
                yield origin, _kept(cause, rule, entry)


def _kept(cause: Cause, rule: str, entry: Entry) -> Order:
    """What is to go stays as it stands until then: it weighs neither more nor less."""
    one = entry.instance
    return Order(cause=cause, rule=rule, weight=one.weight, zone=one.locality.zone or None, waits=True)


def _zone(fit: Fit, member: Member, part: Part) -> str | None:
    """Where sides are told apart by locality each has zones of its own: the share applies within a zone, and nothing
    crosses one that did not before."""
    if fit.means is not Means.BOTH or fit.asked in (0.0, 1.0):
        return None
    zone = member.instance.locality.zone
    return f"{zone}.{part}" if zone else str(part)


def _stands(fit: Fit, block: Migration, at: _At, *, instead_of: Part) -> bool:
    """Whether what the other side should have there is there and serves: before that nothing of this side goes.

    That holds on the way back as well: a copy of the old side may be refused. Natives of a side count, too: they are
    nobody's to write, and a step may have been fitted beside some.
    """
    part, dose, least = (Part.NEW, fit.new, fit.stands) if instead_of is Part.OLD else (Part.OLD, fit.old, 0)
    side = at.members[part]
    deals = dealt(dose, [one.instance.weight for one in side], fit.scale)
    expected = max(sum(1 for weight in deals if weight), least)
    there = len({one.origin for one in side} & at.serves.keys())
    return there + natives_of(block, at.place, at.entries, part) >= ENOUGH * expected


def _come(part: Part, at: _At) -> Iterator[Origin]:
    """What of a side does not stand at a place, in whatever health, and would."""
    for supply in at.supplies:
        of = at.sides.parts(supply.registry, supply.scope)
        for key, instance in supply.service.instances.items():
            origin = supply.registry, supply.scope, supply.service.name, key
            if of(instance) is part and origin not in at.there:
                yield origin


def natives_of(block: Migration, place: str, entries: Mapping[str, Entry], part: Part) -> int:
    """How many natives of a side serve under a name at a place."""
    return sum(
        1
        for entry in entries.values()
        if entry.mark is None and entry.instance.serving and block.native(place, entry.instance) is part
    )


def only_serving(there: Mapping[Origin, Entry]) -> dict[Origin, Entry]:
    """What serves of what stands at the destination."""
    return {origin: entry for origin, entry in there.items() if entry.instance.serving}


def standing(supplies: Sequence[Supply], entries: Mapping[str, Entry]) -> dict[Origin, Entry]:
    """What of the supplies stands at the destination, each with its entry."""
    marked = {
        (entry.mark.path[-1], entry.mark.scope, entry.mark.service, entry.mark.instance): entry
        for entry in entries.values()
        if entry.mark is not None
    }
    found: dict[Origin, Entry] = {}
    for supply in supplies:
        part, name = supply.scope if supply.part is None else supply.part, supply.service.name
        for key in supply.service.instances:
            if (entry := marked.get((supply.told_by(key), part, name, key))) is not None:
                found[supply.registry, supply.scope, name, key] = entry
    return found
