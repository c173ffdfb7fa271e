"""What a benchmark found: rows with their goals, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from tests.bench.figures import Ratio


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure beside that of the raw arm, in `unit`; `raw` and `ratio` are None where there is no such arm.

    `judged` is what the goal is held against: the worse bound of the ratio's interval where there is one. `aa`: the
    ratio of two equal raw arms in the same run, which shows what a ratio is worth.
    """

    name: str
    unit: str
    ours: float
    raw: float | None = None
    ratio: Ratio | None = None
    aa: Ratio | None = None
    limit: float
    at_least: bool = False
    about: dict[str, Any] = {}

    @property
    def judged(self) -> float:
        if self.ratio is None:
            return self.ours
        return self.ratio.low if self.at_least else self.ratio.high

    @property
    def passed(self) -> bool:
        return self.judged >= self.limit if self.at_least else self.judged <= self.limit

    def cells(self) -> tuple[str, ...]:
        """One line of the table."""
        return (
            self.name,
            _number(self.raw),
            _number(self.ours),
            self.unit,
            _ratio(self.ratio),
            _ratio(self.aa),
            f"{'>=' if self.at_least else '<='} {_number(self.limit)}",
            "pass" if self.passed else "MISSED",
        )

    def shown(self, pair: str) -> dict[str, Any]:
        """The row as it stands in the file."""
        return {"pair": pair, **msgspec.structs.asdict(self), "judged": self.judged, "passed": self.passed}


HEAD = ("what", "raw", "ours", "unit", "ratio [95 %]", "A/A", "goal", "")


def lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """The table, as wide as its cells."""
    table = [HEAD, *rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _ratio(value: Ratio | None) -> str:
    return f"{value.value:.2f} [{value.low:.2f} {value.high:.2f}]" if value else "-"
