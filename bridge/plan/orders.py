"""What is said of one instance at one destination in the place of its source, by operators or migrations; pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec.structs import replace

from bridge.adapter import Cause, Entry
from bridge.model import SERVING, Health, Instance, ServiceName

if TYPE_CHECKING:  # a supply carries orders
    from bridge.plan.route import Supply

Origin = tuple[str, str, ServiceName, str]  # registry, scope, and the service and the instance as named there
Orders = Mapping[Origin, "Order"]
NONE: Orders = MappingProxyType({})


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is said of one instance, None and empty where its source is left to say it.

    `cause`: of a removal by this order (OPERATOR, SHARE, CONFIG). `rule`: for people, who says it. `away`: it is not
    written there. `weight` 0 counts as not serving and is written as DRAINING: conventions disagree on what a weight of
    0 means (none, the default, an error). `health`: one that does not serve. `including_last`: it may take the last
    serving instance of its service, too. `waits`: it is to be away as soon as others stand there that do not yet, so
    the name is to be planned again after each write.
    """

    cause: Cause
    rule: str
    away: bool = False
    weight: float | None = None
    zone: str | None = None
    health: Health | None = None
    metadata: Mapping[str, str] = {}
    including_last: bool = False
    waits: bool = False

    def applied(self, instance: Instance) -> Instance:
        """The instance as the order has it; what its source says of an instance that is unhealthy stays true."""
        health = self.health or (Health.DRAINING if self.weight == 0 else None)
        return replace(
            instance,
            health=instance.health if health is None or instance.health is Health.UNHEALTHY else health,
            weight=self.weight or instance.weight,
            locality=instance.locality if self.zone is None else replace(instance.locality, zone=self.zone),
            metadata={**instance.metadata, **self.metadata} if self.metadata else instance.metadata,
        )

    @property
    def stops(self) -> bool:
        """Whether an instance does not serve there because of it."""
        return self.away or self.weight == 0 or (self.health is not None and self.health not in SERVING)

    def stops_serving(self, instance: Instance) -> bool:
        """Whether this order, and not its source, ends that an instance serves."""
        return instance.serving and self.stops


class Ordering(Protocol):
    """Who has something to say of instances. Whoever changes it calls `Reconciler.poke` with the names concerned."""

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        """The orders under one name at a destination, from what feeds it and what stands there; asked at every plan."""
        ...


class Rank(enum.IntEnum):
    """The table of precedence: of what two orders say of the same thing, the lower number is in force."""

    DRAIN = 0
    SHARE = 1
    COMMAND = 2
    FILE = 3


class Ranked:
    """The orderings of a process, each at its rank, as one. Without any nothing is ordered."""

    def __init__(self, parts: Mapping[Rank, Ordering] = MappingProxyType({})) -> None:
        self._parts = tuple(part for _, part in sorted(parts.items()))

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        """The orders under one name, where several speak of one instance composed by rank."""
        found: dict[Origin, Order] = {}
        for part in self._parts:
            for origin, order in part.orders(destination, name, supplies, entries).items():
                found[origin] = over(found[origin], order) if origin in found else order
        return found or NONE


UNORDERED = Ranked()


def over(first: Order, second: Order) -> Order:
    """Two orders on one instance as one: what `first` says of a thing is in force, the rest is what `second` says.

    It is away where either says so, and then for the cause of that one: what takes an instance away is what the guard
    goes by.
    """
    stopping = next((one for one in (first, second) if one.stops), first)
    return Order(
        cause=stopping.cause,
        rule=first.rule if first.rule == second.rule else f"{first.rule}; {second.rule}",
        away=first.away or second.away,
        weight=_first(first.weight, second.weight),
        zone=_first(first.zone, second.zone),
        health=_first(first.health, second.health),
        metadata={**second.metadata, **first.metadata},
        including_last=stopping.including_last,
        waits=first.waits or second.waits,
    )


def _first(one: Any, other: Any) -> Any:
    return other if one is None else one


def with_orders(supplies: list[Supply], orders: Orders) -> list[Supply]:
    """The supplies, each with the orders on its instances by their id."""
    if not orders:
        return supplies
    mine: dict[tuple[str, str, ServiceName], dict[str, Order]] = {}
    for (registry, scope, service, key), order in orders.items():
        mine.setdefault((registry, scope, service), {})[key] = order
    return [one._replace(orders=mine.get((one.registry, one.scope, one.service.name), one.orders)) for one in supplies]
