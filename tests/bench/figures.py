"""Figures from samples: quantiles, ratios with an interval that keeps what the machine did to both arms together."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

RESAMPLES = 400

Samples = Sequence[float]
Statistic = Callable[[Samples], float]


class Ratio(NamedTuple):
    """Ours by raw, with the bounds of a 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def quantile(share: float) -> Statistic:
    """The value below which that share of the samples lies; nan of none."""

    def of(samples: Samples) -> float:
        ordered = sorted(samples)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan

    return of


P50, P90, P99 = quantile(0.5), quantile(0.9), quantile(0.99)


def ratio(
    blocks: Sequence[tuple[Samples, Samples]], statistic: Statistic = median, rng: random.Random | None = None
) -> Ratio:
    """Of a statistic of all first samples by that of all second ones.

    A block holds what both arms did in one stretch of time (or in one repetition). Blocks are drawn with replacement
    and not samples: what disturbs the machine disturbs neighbours alike, and both arms.
    """
    rng = rng or random.Random(1)
    drawn = sorted(_of([rng.choice(blocks) for _ in blocks], statistic) for _ in range(RESAMPLES))
    return Ratio(_of(blocks, statistic), drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1])


def _of(blocks: Sequence[tuple[Samples, Samples]], statistic: Statistic) -> float:
    ours = statistic([sample for block in blocks for sample in block[0]])
    raw = statistic([sample for block in blocks for sample in block[1]])
    return ours / raw if raw else math.nan


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the least squares through (x, y)."""
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    slope = sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)
    return slope, my - slope * mx


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """How y grows with x: 0 not at all, 1 in proportion."""
    return line([(math.log(x), math.log(y)) for x, y in points])[0]
