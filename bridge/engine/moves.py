"""What is seen of a migration's moves: both sides at each place, and what speaks against the next step; only looks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bridge.adapter import Entry, Levers, Steerer
from bridge.config.links import layout_of
from bridge.consumers import GREATEST, ONLY_WITH, UNITS, Consumer, consumers_of
from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.engine.forms import Forms
from bridge.link import Item, Link, named
from bridge.migration import parity
from bridge.migration.block import End, Migration, Part
from bridge.migration.intent import Intent, Placed
from bridge.migration.natives import Gone
from bridge.migration.phases import Phase, State
from bridge.migration.shares import Fit, Means, Scale, Side, attached, fit, going_back
from bridge.migration.sides import Scope, Sides
from bridge.model import Health, Instance, Service, ServiceName
from bridge.plan.causes import TREATMENTS, Frees
from bridge.plan.doses import Member, members, natives_of, only_serving, ranked, standing
from bridge.plan.route import target_of
from bridge.sources.view import View

ALONE = frozenset({"xds", "traefik", "nginx", "istio"})  # layouts where all that stands is written by bridges
UNATTACHED = frozenset({Phase.OBSERVE, Phase.MIRROR})
LONGER = 1.1  # times what consumers are known to need
STOOD = 0.9  # of what served at the old side at the start: with fewer nothing is moved back to it


class Spot(NamedTuple):
    """One place of a move: the name there, both sides, and what can be said there to whom.

    `sides`: what links bring there or would, `links` by registry and scope; `fixed`: what serves there and is not ours.
    `stated`: seconds that consumers need, where the file says so. `lacks`: the key of the place's block without which
    nobody obeys weights there, "" where none is missing. `out`: the ids of natives that are out by a migration; they
    are among `fixed`, for that is what a share is fitted to: they come back with a way back. `attached`: how many
    copies of the old side stand beside the new one that is native there, None: no `attach_at`; `most`: the part that
    they may be of all that serves.
    """

    place: str
    name: ServiceName
    old: Side
    new: Side
    means: Means
    scale: Scale
    layout: str
    consumers: tuple[Consumer, ...]
    sides: Mapping[Part, Sequence[Member]]
    fixed: Mapping[Part, Sequence[Instance]]
    links: Mapping[tuple[str, str], Link]
    stated: float | None = None
    lacks: str = ""
    out: frozenset[str] = frozenset()
    attached: int | None = None
    most: float = 1.0

    @property
    def settle(self) -> float:
        """Seconds until the slowest consumer that follows at all has followed."""
        if self.stated is not None:
            return self.stated
        return LONGER * max((one.settles or 0.0 for one in self.consumers), default=0.0)

    @property
    def restarts(self) -> list[str]:
        """The kinds of consumers that never follow, and must be restarted."""
        return [one.name for one in self.consumers if one.settles is None]

    def fit(self, share: float | None) -> Fit:
        """How a share (0..1) is said here; None: of a move that has not come so far as to attach anything."""
        if self.attached is not None:
            return attached(share, self.old, self.new, self.attached, self.most)
        return fit(share or 0.0, self.old, self.new, self.means, self.scale)

    def fit_in(self, state: State, before: Placed | None) -> Fit:
        """How the share of a state is said here. `before`: how it was said in the one before."""
        made = self.fit(None if state.phase in UNATTACHED else state.share / 100)
        is_back = state.phase in (Phase.ROLLING_BACK, Phase.ROLLED_BACK)
        return going_back(made, before.fit, self.old, self.new) if is_back and before is not None else made


def services(engine: Engine, block: Migration) -> list[ServiceName]:
    """The services that it moves: those at `from` whose names match, each a move of its own."""
    sides = sides_of(engine, block)
    found = {
        name
        for view in _views(engine, block, Part.OLD)
        for of in (block.parts(view.registry, view.scope),)
        for name, service in view.services.items()
        if any(named(pattern, name) for pattern in block.services)
        and any(of(one) is Part.OLD for _, one in _originals(sides, service))
    }
    return sorted(found)


def sides_of(engine: Engine, block: Migration) -> Sides:
    """What tells the sides of a migration apart by all that is read."""
    kept = engine.sides.get(block.name)
    if kept is not None and kept[0] == engine.store.lives and (kept[1] is block or kept[1] == block):
        return kept[2]
    views = engine.store.views()
    scopes = [Scope(one, view.registry, view.scope) for view in views for one in view.identities or {""}]
    made = Sides(block, [*scopes, *_unread(block, scopes)])
    engine.sides[block.name] = engine.store.lives, block, made
    return made


def _unread(block: Migration, scopes: Sequence[Scope]) -> Iterator[Scope]:
    """What of the sides nothing has been made known of, not even that it is there."""
    for end in (*block.old, *block.new):
        if not any(end.reads(one.registry, one.scope) for one in scopes):
            yield Scope("", Item.parse(end.item).registry, "")


def unknown(engine: Engine, block: Migration) -> str:
    """Why the sides cannot be told apart by what stands at places, "" if they can."""
    for name in sides_of(engine, block).unknown:
        return f"{name} has not answered since this daemon began, and nothing of it is kept on its disk"
    return ""


def _originals(sides: Sides, service: Service) -> Iterable[tuple[str, Instance]]:
    """The instances of a service that are no copies of what a side has, by id."""
    if not service.marks:
        return service.instances.items()
    return [(key, one) for key, one in service.instances.items() if sides.is_original(service.marks.get(key))]


def is_heard(engine: Engine, block: Migration) -> bool:
    """Whether every scope of the old side has listed everything in this process, and can be believed: a store that was
    started anew has nothing yet."""
    views = list(_views(engine, block, Part.OLD))
    return bool(views) and all(view.synced and not view.doubt for view in views)


def _views(engine: Engine, block: Migration, part: Part) -> Iterator[View]:
    ends = block.new if part is Part.NEW else block.old
    for view in engine.store.views():
        if any(item.registry == view.registry and item.means(view.scope) for item in _items(ends)):
            yield view


def _items(ends: Sequence[End]) -> list[Item]:
    return [Item.parse(end.item) for end in ends]


def name_at(engine: Engine, block: Migration, service: ServiceName, place: str) -> ServiceName | None:
    """The name of a service at a place: as links bring it there, or its own where it is native; None: it is not there.

    A place that holds a side natively has it under the name that it has there.
    """
    reconciler = engine.reconcilers[place]
    for view in (*_views(engine, block, Part.OLD), *_views(engine, block, Part.NEW)):
        for link in reconciler.destination.links:
            if link.item(view.registry, view.scope) is not None:
                target, _ = target_of(link, view.registry, service, reconciler.sink.traits)
                if target is not None:
                    return target
    return None


def spot(engine: Engine, block: Migration, move: str, service: ServiceName, place: str) -> Spot | None:
    """One place of a move; None where no link brings the service there."""
    reconciler = engine.reconcilers.get(place)
    name = name_at(engine, block, service, place) if reconciler is not None else None
    if reconciler is None or name is None:
        return None
    supplies, held = reconciler.destination.supplies(name), reconciler.destination.entries.get(name, {})
    sides = members(sides_of(engine, block), supplies)
    fixed = _fixed(engine, block, reconciler, name)
    registry = engine.configuration.registries[place]
    layout = layout_of(registry)
    consumers = _consumers(block, layout, engine.observed.get((place, name), frozenset()))
    key = ONLY_WITH.get(layout, "")
    lacks = key if key and not getattr(registry.options, key) else ""
    is_attached = place in block.attach_at
    is_free = layout in ALONE and not any(fixed[part] for part in Part)
    means = Means.COUNTS if lacks or is_attached else _means(consumers, is_free=is_free)

    links = {(one.registry, one.scope): one.link for one in supplies}
    scale = Scale(UNITS.get(layout, 1.0), GREATEST.get(layout, Scale().most))
    old, new = (
        _whole(f"{move} {part}", sides[part], fixed[part], means)._replace(natives=natives_of(block, place, held, part))
        for part in (Part.OLD, Part.NEW)
    )
    is_out = steered(engine, place, name)
    out = frozenset(key for key, entry in held.items() if is_out(entry))
    serves = only_serving(standing(supplies, held)) if is_attached else {}
    there = len({one.origin for one in sides[Part.OLD]} & serves.keys()) if is_attached else None
    most, stated = getattr(registry.options, "max_attached_share", 1.0), block.settle
    more = (sides, fixed, links, stated, lacks, out, there, most)
    return Spot(place, name, old, new, means, scale, layout, consumers, *more)


def _whole(ranks: str, ours: Sequence[Member], fixed: Sequence[Instance], means: Means) -> Side:
    if len({one.instance.weight for one in ours}) > 1:  # else all orders say the same
        ours = ranked(ranks, ours)
    weights = tuple(one.instance.weight for one in ours)
    return Side(float(len(fixed)) if means is Means.COUNTS else sum(one.weight for one in fixed), weights)


def _means(consumers: Sequence[Consumer], *, is_free: bool) -> Means:
    """What says a share at a place. `is_free`: all that stands there is ours."""
    if is_free:
        return Means.BOTH
    return Means.WEIGHTS if consumers and all(one.weighs for one in consumers) else Means.COUNTS


def _fixed(engine: Engine, block: Migration, reconciler: Reconciler, name: ServiceName) -> dict[Part, list[Instance]]:
    """What serves under a name and is not this bridge's, by side: whatever is not known to be new is old."""
    destination, sides = reconciler.destination, sides_of(engine, block)
    found: dict[Part, list[Instance]] = {Part.OLD: [], Part.NEW: []}
    is_out = steered(engine, reconciler.name, name)
    for entry in destination.entries.get(name, {}).values():
        is_ours = entry.mark is not None and entry.mark.owner == destination.owner
        if (entry.instance.serving or is_out(entry)) and not is_ours:
            found[_side(engine, sides, reconciler.name, entry)].append(entry.instance)
    return found


def _side(engine: Engine, sides: Sides, place: str, entry: Entry) -> Part:
    """The side of what stands at a place: by its original where that is read, which may say more than the copy."""
    mark = entry.mark
    if mark is None:
        return sides.side(place, entry.instance, None)
    services = (view.services.get(mark.service) for view in engine.store.views() if view.identity == mark.path[-1])
    read = (of.instances[mark.instance] for of in services if of is not None and mark.instance in of.instances)
    return sides.side(place, next(read, entry.instance), mark)


def _consumers(block: Migration, layout: str, observed: Collection[str]) -> tuple[Consumer, ...]:
    """Who reads a place: of the kinds that can, those that the file names, and those that were seen there; where it
    names none of them, all."""
    known = consumers_of(layout)
    if not any(one.key in block.consumers for one in known):
        return known
    return tuple(one for one in known if one.key in block.consumers or one.key in observed)


def spots(engine: Engine, block: Migration, move: str, service: ServiceName) -> list[Spot]:
    """Every place of a move that a link leads to."""
    found = (spot(engine, block, move, service, place) for place in block.places)
    return [one for one in found if one is not None]


def placed(found: Sequence[Spot], state: State, before: Mapping[str, Placed]) -> dict[str, Placed]:
    """How the share of a state is said at every place of a move. `before`: how it was in the state before that."""
    if state.phase is Phase.ABORTED:  # it stays as it is, whatever has become of its sides
        return dict(before)
    return {one.place: Placed(one.name, one.fit_in(state, before.get(one.place))) for one in found}


def missing(engine: Engine, block: Migration, service: ServiceName) -> list[str]:
    """What keeps it from beginning, in words: links that carry one side only, and places that were forgotten."""
    found = []
    for place in block.at:
        reconciler = engine.reconcilers[place]
        registry = engine.configuration.registries[place]
        if layout_of(registry) == "istio" and getattr(registry.options, "attach", False):
            found.append(
                f"{place} attaches to Services that have pods, which always weigh 1 and are not counted: no share can "
                "be said there; leave `attach` out, or move the service at the Service itself"
            )
        for ends in (block.old, block.new):
            for item in _items(ends):
                if item.registry != place and not any(
                    _carries(link, item, service) for link in reconciler.destination.links
                ):
                    found.append(f"no link brings {service} from {item} to {place}")
    found += _unattached(engine, block, service)
    native = {item.registry for item in _items(block.new)}
    for place, reconciler in engine.reconcilers.items():
        layout = layout_of(engine.configuration.registries[place])
        if place in (*block.places, *block.elsewhere) or layout == "prometheus":
            continue
        key = "attach_at" if place in native else "at"
        for item in _items(block.old):
            if any(_carries(link, item, service) for link in reconciler.destination.links):
                found.append(f"{place} gets {service} from {item} and is in neither `{key}` nor `elsewhere`")
    return found


def _unattached(engine: Engine, block: Migration, service: ServiceName) -> Iterator[str]:
    """What keeps the old side from standing beside the natives of the new one, in words."""
    for place in block.attach_at:
        destination = engine.reconcilers[place].destination
        for item in _items(block.old):
            if not any(_carries(link, item, service) for link in destination.links):
                yield f"no link brings {service} from {item} to {place}"
        name = name_at(engine, block, service, place)
        if name is not None and not natives_of(block, place, destination.entries.get(name, {}), Part.NEW):
            yield f"{place} has nothing of {service} that serves: there is nothing to attach to"


def _carries(link: Link, item: Item, service: ServiceName) -> bool:
    return any(one.registry == item.registry for one in link.items) and link.services.rule(service)[0]


def side(engine: Engine, block: Migration, service: ServiceName, part: Part) -> Iterator[tuple[str, Instance]]:
    """The instances of a side that may have calls, by their ids at their sources: what serves, and what drains."""
    sides = sides_of(engine, block)
    for view in _views(engine, block, part):
        of = block.parts(view.registry, view.scope)
        for key, one in _originals(sides, view.services[service]) if service in view.services else ():
            if (one.serving or one.health is Health.DRAINING) and of(one) is part:
                yield key, one


def serving(engine: Engine, block: Migration, service: ServiceName, part: Part) -> int:
    """How many instances of a side serve at their sources."""
    return sum(1 for _, one in side(engine, block, service, part) if one.serving)


def addresses(engine: Engine, block: Migration, service: ServiceName, part: Part) -> set[tuple[str, int]]:
    """The addresses and ports of a side that a connection may be made to."""
    return {
        (one.address, port.number)
        for _, one in side(engine, block, service, part)
        for port in one.ports
        if port.connects
    }


def old_serves(engine: Engine, block: Migration, intent: Intent) -> bool:
    """Whether the old side can take its traffic back: nine tenths of what stood there at the start serve."""
    return serving(engine, block, intent.service, Part.OLD) >= STOOD * intent.state.stood


def settle(found: Sequence[Spot]) -> float:
    """Seconds until the slowest consumer at any place has followed."""
    return max((one.settle for one in found), default=0.0)


def differences(
    engine: Engine, block: Migration, found: Sequence[Spot], now: float, probed: Sequence[parity.Report] = ()
) -> list[parity.Row]:
    """What consumers at any place would notice, each difference once. `probed`: what they reached, as they reported."""
    shares = tuple(step / 100 for step in block.steps)
    rows: dict[parity.Row, None] = {}
    for one in found:
        reconciler = engine.reconcilers[one.place]
        there = {part: {each.id: each for each in one.fixed[part]} for part in Part}
        carried: dict[str, str] = {}
        forms = Forms(reconciler.sink, one.name)
        for part in Part:
            for member in one.sides[part]:
                link, key = one.links[member.origin[:2]], member.origin[3]
                there[part][key] = forms.of(link, member.instance)
                carried[key] = link.name
        old, new = there[Part.OLD], there[Part.NEW]
        steps = shares if one.attached is None else ()  # there the new side bears all of it today
        asked = parity.Move(one.place, one.layout, old, new, now, steps, carried, tuple(probed))
        rows.update(dict.fromkeys(parity.parity(asked)))
    return list(rows)


def natives(found: Sequence[Spot]) -> int:
    """How many of the old side serve at a place where no share can take them away: the most at one place."""
    return max((sum(each.id not in one.out for each in one.fixed[Part.OLD]) for one in found), default=0)


def gone(found: Sequence[Spot]) -> Gone:
    """The natives that are out of service at a place, and serve at no other one of the move."""
    out: set[tuple[str, int]] = set()
    serve: set[tuple[str, int]] = set()
    for one in found:
        for each in one.fixed[Part.OLD]:
            some = out if each.id in one.out else serve
            some |= {(each.address, port.number) for port in each.ports if port.connects}
    return Gone(frozenset(out - serve), alone=not serve)


def levers_of(engine: Engine, place: str) -> Levers | None:
    """What takes natives of a place out of service; None: people do."""
    registry = engine.registries.get(place)
    return registry.levers(engine.configuration.bridge.id) if isinstance(registry, Steerer) else None


def steered(engine: Engine, place: str, name: ServiceName) -> Callable[[Entry], bool]:
    """What tells whether an entry there is a native that is out by a migration."""
    out = engine.store.steered.out
    levers = levers_of(engine, place) if out else None  # what a registry can is a slow question
    if levers is None:
        return lambda _: False
    identity = engine.reconcilers[place].destination.identity
    return lambda entry: entry.mark is None and (identity, name, levers.key_of(entry.instance)) in out


def movable(engine: Engine, block: Migration, one: Spot) -> list[Instance]:
    """The natives of the old side that serve at a place, and that could be taken out of service there."""
    if block.natives != "steer" or levers_of(engine, one.place) is None:
        return []
    held = engine.reconcilers[one.place].destination.entries.get(one.name, {})
    old = {
        key for key, entry in held.items() if entry.mark is None and block.native(one.place, entry.instance) is Part.OLD
    }
    return [each for each in one.fixed[Part.OLD] if each.id in old and each.id not in one.out]


def unheard(engine: Engine, block: Migration) -> str:
    """What is not known of the sides now: a scope that is doubted or does not answer; "" if all is known."""
    if why := unknown(engine, block):
        return why
    for part in Part:
        if not list(_views(engine, block, part)):
            return f"nothing of the side `{part}` is heard yet"
        for view in _views(engine, block, part):
            if view.doubt:
                return f"{view!r} is doubted: {view.doubt}"
            if not view.up or not view.synced:
                return f"{view!r} is not heard: {view.reason or 'not reached yet'}"
    return ""


def unread(engine: Engine, block: Migration) -> str:
    """What of the sides and the places is not known now, so that a plan may say less than there is; "" if all is."""
    if why := unheard(engine, block):
        return why
    return next((why for place in block.places if (why := _unknown_at(place, engine.reconcilers[place]))), "")


def _unknown_at(place: str, reconciler: Reconciler) -> str:
    """Why it is not known what stands at a place, "" if it is."""
    return f"{place}: {reconciler.reason or 'not read yet'}" if reconciler.reason or not reconciler.is_read else ""


def trouble(engine: Engine, block: Migration, intent: Intent) -> str:
    """Why nothing may be concluded of a move now, "" if it may: what is not heard, doubted, frozen or held."""
    if block.name not in {one.name for one in engine.configuration.migrations}:
        return "its block is not in the file any more: put it back, or abort and forget it"
    if why := unheard(engine, block):
        return why
    for place, at in intent.places.items():
        reconciler = engine.reconcilers.get(place)
        if reconciler is None:
            return f"{place} is no destination of the file that runs"
        if why := _unknown_at(place, reconciler) or frozen(engine, place):
            return why
        if reconciler.lead.writes_at(at.name) and is_held(reconciler, at.name):
            return f"{place} holds removals of {at.name}"
    return ""


def frozen(engine: Engine, place: str) -> str:
    """Why nothing may change at a place, "" if it may."""
    reconciler = engine.reconcilers.get(place)
    if reconciler is None:
        return ""
    links = [one.name for one in reconciler.destination.links if reconciler.destination.is_frozen(one.name)]
    return f"the link {links[0]} is frozen" if links else ""


def is_held(reconciler: Reconciler, name: ServiceName) -> bool:
    """Whether removals under a name wait. Who does not write there sees nothing of what this bridge wrote."""
    held = reconciler.destination.holds.of(name).values()
    return any(TREATMENTS[one.removal.cause].frees is not Frees.ITSELF for one in held)


def refused(engine: Engine, found: Sequence[Spot]) -> list[str]:
    """What of the side that comes to a place would not be written there, in words."""
    said = []
    for one in found:
        destination = engine.reconcilers[one.place].destination
        parked, shadowed = destination.parked, destination.shadowed.get(one.name, {})
        comes = one.sides[Part.NEW if one.attached is None else Part.OLD]
        for key in [member.origin[3] for member in comes] if parked or shadowed else ():
            if (reason := parked.get((one.name, key))) is not None:
                said.append(f"{one.place}: {key} is parked: {reason}")
            if (owner := shadowed.get(key)) is not None:
                said.append(f"{one.place}: {key} is shadowed: {owner}")
    return said


def by_links(found: Sequence[Spot]) -> dict[str, float]:
    """The share of the new side at each place, 0..1, once links alone say what is there; what is out stays out."""
    shares = {}
    for one in found:
        serve = {
            part: [
                *(each for each in one.fixed[part] if each.id not in one.out),
                *(member.instance for member in one.sides[part]),
            ]
            for part in Part
        }
        weights = {
            part: float(len(some)) if one.means is Means.COUNTS else sum(each.weight for each in some)
            for part, some in serve.items()
        }
        whole = sum(weights.values())
        shares[one.place] = weights[Part.NEW] / whole if whole else 0.0
    return shares


def measured(found: Sequence[Spot], engine: Engine, block: Migration) -> dict[str, float]:
    """The share of the new side that stands at each place now, 0..1: by instances and weights."""
    shares, sides = {}, sides_of(engine, block)
    for one in found:
        mine = whole = 0.0
        is_out = steered(engine, one.place, one.name)
        for entry in engine.reconcilers[one.place].destination.entries.get(one.name, {}).values():
            if entry.instance.serving and not is_out(entry):
                weight = 1.0 if one.means is Means.COUNTS else entry.instance.weight
                whole += weight
                mine += weight if _side(engine, sides, one.place, entry) is Part.NEW else 0.0
        shares[one.place] = mine / whole if whole else 0.0
    return shares
