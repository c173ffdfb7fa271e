"""`python -m tests.bench [--quick] [--only ROW] [--pair SOURCE->TARGET]`: a table, and JSON in bench-results/."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import selectors
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import cold, cost, latency, machine, memory, standby, throughput
from tests.bench.sides import KINDS
from tests.bench.stage import Pair, Stage, set_up
from tests.bench.table import Row, lines

RESULTS = Path("bench-results")
PAIRS = tuple(Pair(source, target) for source in KINDS for target in KINDS)

SIZES, SMALL = (1_000, 10_000, 100_000), (1_000, 10_000)  # resident instances

Measure = Callable[[Stage, bool], Awaitable[list[Row]]]


class Part(NamedTuple):
    """What is measured at once, and the seconds that it takes: about so many, and in the small version."""

    measure: Measure
    seconds: float
    quickly: float

    def estimate(self, quick: bool) -> float:
        return self.quickly if quick else self.seconds


ROWS = {
    "latency": Part(lambda stage, quick: latency.measure(stage, 15.0 if quick else 80.0, random.Random(1)), 95, 27),
    "throughput": Part(lambda stage, quick: throughput.sustained(stage, 2.0 if quick else 5.0), 130, 50),
    "burst": Part(lambda stage, quick: throughput.burst(stage, 2 if quick else 5, 2_000 if quick else 10_000), 65, 25),
    "cpu": Part(lambda stage, quick: cost.cpu(stage, SMALL if quick else SIZES, 6.0 if quick else 36.0), 115, 28),
    "writes": Part(lambda stage, quick: cost.writes(stage, 50 if quick else 500, 3.0 if quick else 10.0), 40, 20),
    "list": Part(lambda stage, quick: cold.listing(stage, 10_000 if quick else 100_000, 2 if quick else 6), 45, 10),
    "copy": Part(lambda stage, quick: cold.copying(stage, 10_000 if quick else 100_000, 1 if quick else 3), 180, 20),
    "memory": Part(
        lambda stage, quick: memory.slope(stage, (0, 5_000, 10_000) if quick else (0, 25_000, 50_000, 100_000)), 50, 25
    ),
    "restart": Part(lambda stage, quick: cold.restart(stage, 10_000 if quick else 100_000, 2 if quick else 5), 40, 15),
    "standby": Part(lambda stage, quick: standby.take_over(stage, 1 if quick else 3), 75, 30),
}


async def run(pairs: list[Pair], names: list[str], quick: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows of all pairs, each on two fresh servers; and what broke."""
    found: list[dict[str, Any]] = []
    broken: list[str] = []
    left = len(pairs) * sum(ROWS[name].estimate(quick) for name in names)
    for pair in pairs:
        for name in names:
            folder = Path(tempfile.mkdtemp(prefix=f"isthmus-bench-{name}-"))
            began, before = time.monotonic(), machine.times()
            estimate = ROWS[name].estimate(quick)
            print(f"{pair} {name}: about {estimate:.0f} s, and {left / 60:.0f} min to the end", flush=True)
            left -= estimate
            try:
                async with set_up(pair, folder / "stage") as stage:
                    rows = await ROWS[name].measure(stage, quick)
            except Exception as error:
                broken.append(f"{pair} {name}: {type(error).__name__}: {error}; its logs are in {folder}")
                print(broken[-1], file=sys.stderr, flush=True)
                continue
            shutil.rmtree(folder, ignore_errors=True)
            spent, after = time.monotonic() - began, machine.times()
            about = {
                "seconds": round(spent, 1),
                "estimated_seconds": estimate,
                "load": machine.load(),
                "busy_cores": round((after.busy - before.busy) / spent, 2),
                "stolen_cores": round((after.stolen - before.stolen) / spent, 3),
            }
            for row in rows:
                found.append({**row.shown(str(pair)), "machine": about})
            print("\n".join(lines([(f"{pair} {row.name}", *row.cells()[1:]) for row in rows])), flush=True)
            print(f"  {about}\n", flush=True)
    return found, broken


def main() -> int:
    """Exit status 1 where a row broke; a goal that is missed is printed, and no failure."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small version, for development")
    parser.add_argument("--only", choices=ROWS, action="append", help="one row; may be given again")
    parser.add_argument("--pair", choices=[str(pair) for pair in PAIRS], action="append", help="one pair; likewise")
    given = parser.parse_args()
    pairs = [pair for pair in PAIRS if not given.pair or str(pair) in given.pair]
    # select() keeps time to some tens of microseconds, epoll to a millisecond: the generator is to be on time.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        found, broken = runner.run(run(pairs, given.only or list(ROWS), given.quick))
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y-%m-%dT%H%M%S}.json"
    whole = {
        "at": now.isoformat(),
        "quick": given.quick,
        "machine": machine.described(),
        "rows": found,
        "broken": broken,
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")
    met, minutes = sum(row["passed"] for row in found), (time.monotonic() - began) / 60
    print(f"{met} of {len(found)} goals met in {minutes:.0f} min; see {path}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
