"""Which services go where, under which name, merged how: pure, from links and what their sources hold."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from string import Formatter
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from bridge.adapter import Cause
from bridge.errors import Rejected
from bridge.link import Addresses, Link, Metadata, Unhealthy, glob
from bridge.model import Instance, Mark, Place, Port, Service, ServiceName, Traits
from bridge.plan.echo import Written
from bridge.plan.orders import Order
from bridge.sources.dialing import unroutable
from bridge.sources.networks import DEFAULT, Places
from bridge.sources.scrub import as_written, left_out, written_by

Canonical = Callable[[ServiceName, Instance], Instance]


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """One entry that a destination should hold: in its own canonical form, and what the ledger will say of it.

    `source` is the instance as its source has it: while it is the very same object, and `order` says the same of it,
    nothing need be worked out again.
    """

    source: Instance
    instance: Instance
    mark: Mark
    order: Order | None = None


class Refusal(NamedTuple):
    """Why an instance is not wanted at a destination. `parked`: an operator should look at it. `order`: it says so."""

    reason: str
    cause: Cause
    parked: bool = False
    echo: bool = False  # a copy that another tool made of what this bridge wrote
    order: Order | None = None


class Supply(NamedTuple):
    """What one scope holds of one service, as it feeds a target name.

    `follows`: also what other synchronisers wrote. `written`: where this bridge carries on what the target holds.
    `taken`: instances that are out of reach, and whose address serves elsewhere (see `sources.claims`). `orders`: what
    is said of instances in the place of their source, by their id there. `former`: the store that told an instance, by
    its id, where the one that answers now has not.
    """

    link: Link
    registry: str
    scope: str
    identity: str
    service: Service
    follows: bool = False
    written: tuple[Written, ...] = ()
    taken: Mapping[str, str] = MappingProxyType({})
    part: str | None = None
    orders: Mapping[str, Order] = MappingProxyType({})
    former: Mapping[str, str] = MappingProxyType({})

    def told_by(self, key: str) -> str:
        """The identity of the store that told an instance."""
        return self.former.get(key, self.identity)

    @property
    def item(self) -> str:
        """The item of the link's `from` that it comes by."""
        return str(self.link.item(self.registry, self.scope) or self.registry)


class Desired(NamedTuple):
    """What a destination should hold under one name: entries by their id there, and who was refused, and why.

    `refused` is keyed by (registry, scope, service, instance id). `parked`: why nothing may change, "" if it may.
    `ill`: what is no longer wanted for its health, as the destination would show that health. `stopped`: what does not
    serve there because of an order, by service and instance at the source.
    """

    wanted: dict[str, Wanted]
    refused: dict[tuple[str, str, ServiceName, str], Refusal]
    parked: str = ""
    ill: Mapping[str, Wanted] = MappingProxyType({})
    stopped: frozenset[tuple[ServiceName, str]] = frozenset()


def rename(link: Link, registry: str, name: ServiceName) -> str:
    """The name at the target."""
    return link.rename.format(namespace=name.namespace, name=name.name, registry=registry)


def target_of(link: Link, registry: str, name: ServiceName, traits: Traits) -> tuple[ServiceName | None, str]:
    """The name at a target with these traits, None where the link does not take it; and the rule that decided."""
    goes, rule = link.services.rule(name)
    if not goes:
        return None, rule
    namespace = name.namespace if traits.namespaces else ""
    if traits.pictures:
        namespace = f"{link.picture}/{namespace}" if namespace else link.picture
    return ServiceName(rename(link, registry, name), namespace), rule


def may_lead(link: Link, registry: str, name: ServiceName, traits: Traits) -> bool:
    """Whether a link could lead a service of a registry, of which nothing is known, to a name at such a target.

    True where that cannot be told, so that False is certain.
    """
    found = _renamed(link.rename, registry).fullmatch(name.name)
    if found is None:
        return False
    said = found.groupdict()
    if "name" not in said or "namespace" in said:
        return True
    at_source = said["name"]
    if traits.namespaces and not traits.pictures:
        return link.services.rule(ServiceName(at_source, name.namespace))[0]
    # Of any namespace: a glob with a colon excludes some of them, and may include one.
    if ":" in at_source:
        return True
    include, exclude = link.services.include, link.services.exclude
    if any(":" not in pattern and glob(pattern, at_source) for pattern in exclude):
        return False
    return any(glob(pattern.rpartition(":")[2], at_source) for pattern in include)


@lru_cache(maxsize=4096)
def _renamed(template: str, registry: str) -> re.Pattern[str]:
    """What the names look like that a template makes of the services of a registry."""
    parts, seen = [], set[str]()
    for literal, field, _, _ in Formatter().parse(template):
        parts.append(re.escape(literal))
        if field == "registry":
            parts.append(re.escape(registry))
        elif field is not None:
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>.*)")
            seen.add(field)
    return re.compile("".join(parts), re.DOTALL)


def desired(
    name: ServiceName,
    supplies: Sequence[Supply],
    owner: str,
    identity: str,
    places: Places,
    canonical: Canonical,
    known: dict[str, Wanted],
) -> Desired:
    """What the destination with that identity should hold under one name, from all that feeds it.

    `known` is the last answer for the same name: what has not changed since is taken from it.
    The supplies come in the order of each link's `from` list: the first named wins a merge.
    """
    if clash := collision(supplies):
        return Desired({}, {}, clash)
    made = _Gathered(name, owner, identity, places, canonical, known, merges=len(supplies) > 1)
    for supply in supplies:
        service, orders = supply.service, supply.orders
        # Where nothing but the instance and the link decides, the same instance has the same answer as before.
        decides = service.marks or supply.written or supply.taken or supply.former
        alone = len(supplies) == 1 and not decides and supply.identity != identity
        for key, instance in service.instances.items():
            old = known.get(key) if alone else None
            if (
                old is not None
                and old.source is instance
                and old.order == orders.get(key)
                and _is_as_before(old.mark, supply, key, instance)
            ):
                made.wanted[key] = old
            else:
                made.take(supply, key, instance)
    stopped = {(one.service.name, key) for one in supplies for key, order in one.orders.items() if order.stops}
    return Desired(made.wanted, made.refused, ill=made.ill, stopped=frozenset(stopped))


class _Gathered:
    """The answer of `desired`, one instance after the other."""

    def __init__(
        self,
        name: ServiceName,
        owner: str,
        identity: str,
        places: Places,
        canonical: Canonical,
        known: Mapping[str, Wanted],
        *,
        merges: bool,
    ) -> None:
        self.wanted: dict[str, Wanted] = {}
        self.refused: dict[tuple[str, str, ServiceName, str], Refusal] = {}
        self.ill: dict[str, Wanted] = {}
        self._name = name
        self._owner = owner
        self._identity = identity
        self._places = places
        self._traits = traits = places.traits
        self._canonical = canonical
        self._remembered = {id(old.source): old for old in known.values()}
        self._merge = Merge(traits) if merges else None

    def take(self, supply: Supply, key: str, instance: Instance) -> None:
        """Finds what the destination should hold of one instance, or why nothing."""
        service = supply.service
        network = self._places.network(supply.registry, instance, service.marks.get(key))
        order = supply.orders.get(key)
        refusal = _refusal(supply, service, key, instance, self._identity, network, self._places, self._shows)
        if refusal is not None and refusal.cause is Cause.HEALTH:
            self._note_ill(supply, key, instance, network)
        found = refusal or self._merged(supply, key, instance, network, order)
        if isinstance(found, Refusal):
            self.refused[supply.registry, supply.scope, service.name, key] = found
        else:
            self.wanted[found.instance.id] = found

    def _merged(
        self, supply: Supply, key: str, instance: Instance, network: str, order: Order | None
    ) -> Wanted | Refusal:
        entry = self._merge.take(supply.item, instance, network) if self._merge is not None else instance
        return entry if isinstance(entry, Refusal) else self._form(supply, key, entry, network, order)

    def _form(self, supply: Supply, key: str, entry: Instance, network: str, order: Order | None) -> Wanted | Refusal:
        """The entry as the destination holds it: the same object as before where nothing about it has changed."""
        old, identity = self._remembered.get(id(entry)), supply.told_by(key)
        if old is not None and old.order == order and old.mark.instance == key and old.mark.path[-1] == identity:
            if supply.service.marks or old.mark.link != supply.link.name or len(old.mark.path) > 1:
                return Wanted(old.source, old.instance, _mark(supply, self._owner, key, network), order)
            return old
        ordered = entry if order is None else order.applied(entry)
        try:
            form = self._canonical(self._name, as_sent(supply.link, ordered, self._traits))
        except Rejected as error:
            return Refusal(str(error), Cause.CONFIG, parked=True)
        if form.id in self.wanted:
            return Refusal(f"another instance is written as {form.id} already", Cause.EVENT, parked=True)
        return Wanted(entry, form, _mark(supply, self._owner, key, network), order)

    def _note_ill(self, supply: Supply, key: str, instance: Instance, network: str) -> None:
        with contextlib.suppress(Rejected):
            sent = as_written(_one_port(supply.link, instance, self._traits), self._traits)
            form = self._canonical(self._name, sent)
            if not form.serving:
                self.ill[form.id] = Wanted(instance, form, _mark(supply, self._owner, key, network))

    def _shows(self, instance: Instance) -> bool:
        """Whether an entry there would show that this instance does not serve."""
        try:
            return not self._canonical(self._name, as_written(instance, self._traits)).serving
        except Rejected:
            return False


def collision(supplies: Iterable[Supply]) -> str:
    """Why these supplies must not meet under one target name, "" if they may."""
    links = {supply.link.name for supply in supplies}
    if len(links) > 1:
        return f"two links send this name: {', '.join(sorted(links))}; let one of them rename or exclude it"
    names = {supply.service.name for supply in supplies}
    if len(names) > 1:
        return (
            f"collision: {', '.join(sorted(map(str, names)))} meet under one name; "
            'tell them apart by rename, e.g. "{namespace}-{name}"'
        )
    return ""


class Merge:
    """Union of what the items of `from` hold of one service: the item named first wins an instance whole."""

    def __init__(self, traits: Traits) -> None:
        self._traits = traits
        self._places: dict[Place, str] = {}
        self._ids: dict[str, str] = {}
        self._protocols: dict[str, tuple[str, str]] = {}

    def take(self, item: str, instance: Instance, network: str = "") -> Instance | Refusal:
        """The instance under its merged id, or why it is left out. `network`: as a mark at the target says it."""
        places = self._traits.places(instance, network)
        for place in places:
            winner = self._places.get(place, item)
            if winner != item:
                return Refusal(f"merged: {winner} has {place[0]}:{place[1]} and is named first", Cause.REPLACED)
        for port in instance.ports:
            first, protocol = self._protocols.get(port.name, (item, port.protocol))
            if protocol != port.protocol:
                return Refusal(
                    f"port {port.name!r} speaks {port.protocol or 'an unnamed protocol'} here, "
                    f"{protocol or 'an unnamed one'} in {first}",
                    Cause.CONFIG,
                    parked=True,
                )
        for port in instance.ports:
            self._protocols.setdefault(port.name, (item, port.protocol))
        self._places.update(dict.fromkeys(places, item))
        if self._ids.setdefault(instance.id, item) != item:
            return msgspec.structs.replace(instance, id=f"{instance.id}-{item.replace('/', '-')}")
        return instance


def _refusal(
    supply: Supply,
    service: Service,
    key: str,
    instance: Instance,
    identity: str,
    network: str,
    places: Places,
    shows: Callable[[Instance], bool],
) -> Refusal | None:
    """Why an instance does not go, None if it does. `shows`: whether the destination would show that it is ill."""
    traits = places.traits
    return (
        _echo(supply, key, instance, identity, network or places.own)
        or _reused(supply, key)
        or _unreachable(network, places)
        or _unfit(supply.link, instance, traits)
        or _ordered(supply, key, instance, traits, shows)
        or _unhealthy(supply.link, instance, traits, shows)
        or _portless(supply.link, instance, traits)
    )


def _echo(supply: Supply, key: str, instance: Instance, identity: str, network: str) -> Refusal | None:
    """What this bridge or another tool wrote comes back: sent on, it would outlive its original."""
    mark, source = supply.service.marks.get(key), supply.told_by(key)
    if source == identity or (mark is not None and identity in mark.path):
        return Refusal("it came from this registry, where a copy of it would be an echo", Cause.CONFIG)
    if mark is not None:
        return None
    if instance.native and not supply.follows and (tool := written_by(instance)):
        return Refusal(f"{tool} wrote it, and foreign_sync of {supply.registry} is ignore", Cause.CONFIG)
    for written in supply.written:
        if place := written.echo(instance, identity, source, network):
            reason = f"echo: {place}; {supply.registry} has it unmarked"
            return Refusal(reason, Cause.CONFIG, parked=True, echo=True)
    return None


def _reused(supply: Supply, key: str) -> Refusal | None:
    where = supply.taken.get(key)
    return Refusal(f"what is known of it is old, and {where}", Cause.REUSED) if where else None


def _unreachable(network: str, places: Places) -> Refusal | None:
    if places.traits.is_cluster and not network and places.own != DEFAULT:
        return Refusal(f"its address is of the network {places.own}, which the cluster alone gives out", Cause.CONFIG)
    return None


def _unfit(link: Link, instance: Instance, traits: Traits) -> Refusal | None:
    """What the link does not take, and what the destination's readers could not use."""
    if needed := traits.needs.intersection(left_out(instance)):
        said = ", ".join(sorted(needed))
        return Refusal(f"bridge.secrets leaves out {said}, which its readers act on", Cause.CONFIG, parked=True)
    if link.addresses is Addresses.ROUTABLE and (why := unroutable(instance.address)):
        return Refusal(f"addresses: routable, and {why}", Cause.CONFIG, parked=True)
    for field, pattern in link.where.items():
        if not glob(pattern, instance.metadata.get(field, "")):
            return Refusal(f"where {field}: {pattern!r}, it is {instance.metadata.get(field)!r}", Cause.CONFIG)
    return None


def _ordered(
    supply: Supply, key: str, instance: Instance, traits: Traits, shows: Callable[[Instance], bool]
) -> Refusal | None:
    """What an order takes away: not written at all, or withdrawn where what it says of its health cannot be written."""
    order = supply.orders.get(key)
    if order is None or not order.stops:
        return None
    if order.away:
        return Refusal(order.rule, order.cause, order=order)
    if not instance.serving:
        return None
    ill = _unhealthy(supply.link, order.applied(instance), traits, shows)
    return Refusal(f"{order.rule}: {ill.reason}", order.cause, order=order) if ill is not None else None


def _unhealthy(link: Link, instance: Instance, traits: Traits, shows: Callable[[Instance], bool]) -> Refusal | None:
    """Why what may not be called is not written at all, None where it serves or stands there with its health."""
    if instance.serving:
        return None
    withdraws = link.unhealthy is Unhealthy.WITHDRAW or (link.unhealthy is None and traits.calls_unhealthy)
    if not withdraws and (traits.has_health or shows(instance)):
        return None
    why = "the link withdraws" if traits.has_health else "the target cannot say so"
    return Refusal(f"{instance.health}, and {why}", Cause.HEALTH)


def _portless(link: Link, instance: Instance, traits: Traits) -> Refusal | None:
    """Why there is no one port to write, where the destination holds fewer than the instance has."""
    if link.port is None and traits.ports and len(instance.ports) > traits.ports:
        return Refusal(f"ambiguous port: {_names(instance.ports)}; name one by port:", Cause.CONFIG, parked=True)
    if link.port is not None and _chosen(link.port, instance.ports) is None:
        return Refusal(f"no port {link.port!r}: it has {_names(instance.ports)}", Cause.CONFIG, parked=True)
    return None


def _names(ports: tuple[Port, ...]) -> str:
    """For people: `http 8080, 9010`."""
    return ", ".join(f"{port.name} {port.number}".strip() for port in ports) or "none"


def _chosen(port: str | int, ports: tuple[Port, ...]) -> Port | None:
    """The port of that name, else of that number; a number may be said as text."""
    named = next((one for one in ports if port == one.name), None)
    number = int(port) if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) < 6 else port
    return named or next((one for one in ports if number == one.number), None)


def as_sent(link: Link, instance: Instance, traits: Traits) -> Instance:
    """The instance as the link sends it to a place with these traits: one port of several, metadata or none."""
    sent = as_written(_one_port(link, instance, traits), traits)
    if link.metadata is Metadata.KEEP or sent.metadata.keys() <= traits.needs:
        return sent
    metadata = {key: text for key, text in sent.metadata.items() if key in traits.needs}
    return msgspec.structs.replace(sent, metadata=metadata)


def _one_port(link: Link, instance: Instance, traits: Traits) -> Instance:
    if link.port is None or len(instance.ports) == 1:
        return instance
    chosen = _chosen(link.port, instance.ports)
    # A record that speaks of all its ports is no longer the record of this instance.
    native = instance.native if traits.ports_apart else {}
    return msgspec.structs.replace(instance, ports=(chosen,) if chosen else (), native=native)


def _is_as_before(mark: Mark, supply: Supply, key: str, instance: Instance) -> bool:
    return (
        mark.instance == key
        and mark.link == supply.link.name
        and mark.path == (supply.identity,)
        and (not instance.native or supply.follows)
    )


def _mark(supply: Supply, owner: str, key: str, network: str) -> Mark:
    service = supply.service
    before = service.marks.get(key)
    path = _path(before.path if before else (), supply.told_by(key))
    scope = supply.scope if supply.part is None else supply.part
    return Mark(owner, supply.link.name, path, scope, service.name, key, network)


@lru_cache(maxsize=1024)
def _path(before: tuple[str, ...], identity: str) -> tuple[str, ...]:
    """One registry more; one object for all that came the same way."""
    return (*before, identity)
