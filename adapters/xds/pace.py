"""How often clients are told uneven weights anew; pure, but for the clock that it is given.

Every push of an assignment starts the weighted schedule of a client over, with whoever has the largest weight: under 50
pushes a second a share of 1 % gets nothing. What only adds instances, or weighs them otherwise, is told once a second
then; whatever takes something away is told at once, with all that waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bridge.model import Health, Instance, Port, ServiceName

EVERY = 1.0  # seconds between two assignments of one service whose weights are uneven


class Place(NamedTuple):
    """What an instance is told as, but for its weight and what is said of it."""

    address: str
    ports: tuple[Port, ...]
    health: Health


def _places(instances: Mapping[str, Instance]) -> dict[str, Place]:
    return {id: Place(one.address, one.ports, one.health) for id, one in instances.items()}


class Pace:
    """`late`: the services that changed and wait."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.late: set[ServiceName] = set()
        self._clock = clock
        self._told: dict[ServiceName, tuple[float, Mapping[str, Instance]]] = {}

    def waits(self, name: ServiceName, instances: Mapping[str, Instance]) -> bool:
        """Whether a change of a service may wait, and is to wait; else it counts as told now."""
        now = self._clock()
        at, before = self._told.get(name, (float("-inf"), {}))
        is_uneven = len({one.weight for one in instances.values()}) > 1
        if is_uneven and before and now - at < EVERY and _places(before).items() <= _places(instances).items():
            self.late.add(name)
            return True
        self.late.discard(name)
        if instances:
            self._told[name] = now, instances
        else:
            self._told.pop(name, None)
        return False

    @property
    def due(self) -> float | None:
        """Seconds until the first of those that wait may be told; None: none waits."""
        ends = [self._told[name][0] + EVERY for name in self.late if name in self._told]
        return max(0.0, min(ends) - self._clock()) if ends else None
