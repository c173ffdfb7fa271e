"""What a migration asks of a meter: one look at a gate, and the share of requests that was measured."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from typing import NamedTuple

from bridge.adapter import Meter, Sample
from bridge.errors import Denied, IsthmusError, Rejected, Unavailable
from bridge.migration.gates import STALE, Asked, Look, Prometheus, Query, Timing, filled, judge
from bridge.model import ServiceName

WHY: dict[type[IsthmusError], str] = {
    Unavailable: "Prometheus gave no answer: ",
    Denied: "Prometheus does not let us: ",
    Rejected: "Prometheus refuses the query: ",
}


class Measured(NamedTuple):
    """How many requests each side had in a window; None, where `why` says what is missing."""

    from_: float | None
    to: float | None
    why: str = ""

    @property
    def share(self) -> float | None:
        """Of `to`, 0 to 1; None where nothing was measured, or there was no request at all."""
        if self.from_ is None or self.to is None or not (whole := self.from_ + self.to) > 0:
            return None
        return self.to / whole


async def look(
    meter: Meter, block: Prometheus, query: Query, service: ServiceName, timing: Timing, at: float
) -> Look | None:
    """One look at a gate, at that time in seconds since the epoch; None: it is too early in the step. Never raises."""
    if (window := timing.window(at)) is None:
        return None
    asked = filled(query.query, side=block.sides.to, window=window, service=service)
    counts = block.requests if query.min_samples else None
    to = await _ask(meter, asked, None, at)
    then = to.at if to.value is not None else None  # both sides in the same window, by the clock of who answers
    sides = {"to": Asked(to, await _counted(meter, counts, block.sides.to, window, service, then, at))}
    if query.worse_by is not None:
        text = filled(query.query, side=block.sides.from_, window=window, service=service)
        sample, requests = await asyncio.gather(
            _ask(meter, text, then, at), _counted(meter, counts, block.sides.from_, window, service, then, at)
        )
        sides["from"] = Asked(sample, requests)
    return judge(query, sides, asked, timing, at, window)


async def measure(meter: Meter, block: Prometheus, service: ServiceName, window: float, at: float) -> Measured:
    """The requests of both sides in the window that ends at that time. Never raises."""
    to = await _counted(meter, block.requests, block.sides.to, window, service, None, at)
    if to is None:
        return Measured(None, None, "no query counts the requests: gates.prometheus.requests")
    then = to.at if to.value is not None else None
    from_ = await _counted(meter, block.requests, block.sides.from_, window, service, then, at)
    assert from_ is not None
    why = next((f"`{side}`: {said}" for side, one in (("from", from_), ("to", to)) if (said := _unusable(one, at))), "")
    return Measured(None, None, why) if why else Measured(from_.value, to.value)


async def left(
    meter: Meter, block: Prometheus, service: ServiceName, window: float, at: float, addresses: Collection[str]
) -> tuple[float | None, str]:
    """The requests of the old side at these addresses, none: at all of it; None, and why that is not known.

    Never raises.
    """
    assert block.requests is not None
    asked = filled(block.requests, side=block.sides.from_, window=window, service=service, addresses=addresses)
    found = await _ask(meter, asked, None, at)
    if found.value is not None and math.isnan(found.value):
        return None, "the value is NaN"
    why = _unusable(found, at)
    return (None, why) if why else (found.value, "")


def _unusable(sample: Sample, at: float) -> str:
    if sample.value is None:
        return sample.why
    return "the answer is stale" if abs(at - sample.at) > STALE else ""


async def _counted(
    meter: Meter, query: str | None, side: str, window: float, service: ServiceName, then: float | None, at: float
) -> Sample | None:
    if query is None:
        return None
    return await _ask(meter, filled(query, side=side, window=window, service=service), then, at)


async def _ask(meter: Meter, query: str, then: float | None, at: float) -> Sample:
    """The answer, or why there is none: an error of who is asked is no data, and nobody's failure."""
    try:
        return await meter.ask(query, then)
    except (Unavailable, Denied, Rejected) as error:
        return Sample(None, at, f"{WHY[type(error)]}{error}")
