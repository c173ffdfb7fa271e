"""The deletion guard: net loss of serving instances over a rolling window, against three limits; pure (rule 4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple

from bridge.adapter import Cause
from bridge.link import Guard


class Level(NamedTuple):
    """Serving instances of one service or one scope: at the start of the window, and once everything asked is done."""

    start: int
    after: int

    @property
    def lost(self) -> int:
        """The net loss over the window."""
        return self.start - self.after


class Verdict(NamedTuple):
    """Why a removal is held, "" if it may go; and whether only the operator releases it."""

    rule: str = ""
    operator: bool = False


GO = Verdict()


def judge(limits: Guard, cause: Cause, doubt: str, loses: bool, service: Level, scope: Level) -> Verdict:
    """Whether one removal may go now."""
    if cause in (Cause.REPLACED, Cause.SHADOWED):
        return GO
    if cause is Cause.CONFIG:
        return Verdict("config: the file takes it away", operator=True)
    if doubt:
        return Verdict(f"incarnation: {doubt}", operator=True)
    if not loses:
        return GO
    if scope.lost >= 2 and scope.lost > limits.hard_share * scope.start:
        return Verdict(f"hard_share: {scope.lost} of {scope.start} of its scope", operator=True)
    if scope.lost > limits.source_count and scope.lost > limits.source_share * scope.start:
        return Verdict(f"source_share: {scope.lost} of {scope.start} of its scope")
    if service.after <= 0 and limits.last_instance == "hold":
        return Verdict("last_instance: nothing would serve")
    if service.start > 1 and service.after < limits.service_share * service.start:
        return Verdict(f"service_share: {service.after} of {service.start} would serve")
    return GO


class Windows:
    """What was lost and won lately, by whatever it is counted for; times in monotonic seconds, to the second."""

    def __init__(self) -> None:
        self._deltas: dict[Hashable, deque[list[float]]] = {}

    def add(self, key: Hashable, now: float, delta: int) -> None:
        """Serving instances won (> 0) or lost (< 0); what is told late stands where it belongs."""
        deltas = self._deltas.setdefault(key, deque())
        place = len(deltas)
        while place and deltas[place - 1][0] > now:
            place -= 1
        if place and now - deltas[place - 1][0] < 1.0:
            deltas[place - 1][1] += delta
        else:
            deltas.insert(place, [now, delta])

    def won(self, key: Hashable, since: float, until: float) -> int:
        """What was won on balance within that time, < 0: lost."""
        return int(sum(delta for at, delta in self._deltas.get(key, ()) if since < at < until))

    def lost(self, since: float) -> dict[Any, list[tuple[float, int]]]:
        """All that was lost on balance since then, by key: when, and how many were won or lost, the oldest first."""
        found = {}
        for key, deltas in self._deltas.items():
            recent = [(at, int(delta)) for at, delta in deltas if at > since]
            if sum(delta for _, delta in recent) < 0:
                found[key] = recent
        return found

    def start(self, key: Hashable, serving: int, now: float, window: float) -> int:
        """How many served at the start of the window, by how many serve now; what is older is forgotten."""
        deltas = self._deltas.get(key)
        if deltas is None:
            return serving
        while deltas and deltas[0][0] <= now - window:
            deltas.popleft()
        if not deltas:
            del self._deltas[key]
            return serving
        return serving - int(sum(delta for _, delta in deltas))
