"""Which instances each override is of, and what it orders for them at one destination; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from bridge.adapter import Cause, Entry
from bridge.model import Health, ServiceName
from bridge.override import Override
from bridge.plan.orders import NONE, Order, Orders, Origin, over
from bridge.plan.route import Supply


class Said(NamedTuple):
    """An override as it counts. `cause`: of what it takes away. `rule`: for people, who says it."""

    override: Override
    cause: Cause
    rule: str


class _Of(NamedTuple):
    """One reading of an override. `rank`: the narrower one counts where two say the same thing."""

    registry: str
    instance: str | None
    at: str
    rank: tuple[bool, bool, bool]
    order: Order


class Overrides:
    """Overrides of one rank, as an ordering. The narrower one counts: of an instance, at a place, of a registry."""

    def __init__(self, said: Iterable[Said] = ()) -> None:
        self._by_service: dict[str, list[_Of]] = {}
        self.take(said)

    def take(self, said: Iterable[Said]) -> None:
        """These are in force from now on, and no others."""
        found: dict[str, list[_Of]] = {}
        for one in said:
            order = _order(one)
            for service, registry, instance in one.override.readings():
                rank = (instance is not None, bool(one.override.at), bool(registry))
                found.setdefault(service, []).append(_Of(registry, instance, one.override.at, rank, order))
        for ones in found.values():
            ones.sort(key=lambda each: each.rank, reverse=True)
        self._by_service = found

    def any_of(self, registry: str, name: ServiceName) -> bool:
        """Whether one is of a service of that registry, or of instances of it."""
        return any(one.registry in ("", registry) for one in self._by_service.get(str(name), ()))

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        """See `Ordering`."""
        if not self._by_service:
            return NONE
        found: dict[Origin, list[Order]] = {}
        for supply in supplies:
            service = supply.service
            for one in self._by_service.get(str(service.name), ()):
                if one.registry not in ("", supply.registry) or one.at not in ("", destination):
                    continue
                keys = service.instances.keys() if one.instance is None else service.instances.keys() & {one.instance}
                for key in keys:
                    found.setdefault((supply.registry, supply.scope, service.name, key), []).append(one.order)
        return {origin: reduce(over, orders) for origin, orders in found.items()}


def _order(one: Said) -> Order:
    said = one.override
    return Order(
        cause=one.cause,
        rule=one.rule,
        weight=said.weight,
        zone=said.zone,
        health=None if said.health is None else Health(said.health),
        metadata=said.metadata,
        including_last=said.including_last,
    )
