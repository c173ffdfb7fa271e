"""What links that observe would have done, a day, and the guard figures with which nothing would have been held."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping

from bridge.report.values import Row
from bridge.state.record import Record

COUNTED = ("add", "update", "remove", "hold")


def days(records: Iterable[Record]) -> list[Row]:
    """By local day and link: adds, updates, removals and holds."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in records:
        if one.would and one.kind in COUNTED:
            counts[time.strftime("%Y-%m-%d", time.localtime(one.at)), one.link][one.kind] += 1
    return [
        {"day": day, "link": link, **{kind: found[kind] for kind in COUNTED}}
        for (day, link), found in sorted(counts.items())
    ]


def figures(records: Iterable[Record], windows: Mapping[str, float]) -> list[Row]:
    """By link, the smallest limits with which its guard would have held nothing of what was observed.

    `windows`: by link, in seconds. `source_count` and `hard_count` are the largest net loss of serving instances of one
    scope in a window: both limits of a scope need a number *and* a share to be passed. `service_share` is the largest
    part of a service that was lost in a window, and `last_instance` says `pass` where one lost all.
    """
    scopes: dict[tuple[str, tuple[str, str]], _Window] = {}
    services: dict[tuple[str, str], _Window] = {}
    found: dict[str, Row] = {}
    for one in records:
        if not one.would or one.serving[0] == one.serving[1]:
            continue
        window = windows.get(one.link, 600.0)
        row = found.setdefault(
            one.link,
            {"link": one.link, "source_count": 0, "hard_count": 0, "service_share": 0.0, "last_instance": "hold"},
        )
        lost = scopes.setdefault((one.link, one.scope), _Window(window)).step(one.at, one.serving)
        row["source_count"] = row["hard_count"] = max(row["source_count"], lost)
        service = services.setdefault((one.link, one.service), _Window(window))
        lost = service.step(one.at, one.serving)
        level = one.serving[1] + lost
        if level:
            row["service_share"] = round(max(row["service_share"], lost / level), 3)
        if one.serving[1] == 0:
            row["last_instance"] = "pass"
    return list(found.values())


class _Window:
    """Net gains and losses of the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps: deque[tuple[float, int]] = deque()
        self._net = 0

    def step(self, at: float, serving: tuple[int, int]) -> int:
        """Takes one change in; returns how many were lost since the window began, 0 where none."""
        while self._steps and self._steps[0][0] <= at - self._seconds:
            self._net -= self._steps.popleft()[1]
        self._steps.append((at, serving[1] - serving[0]))
        self._net += serving[1] - serving[0]
        return max(0, -self._net)
