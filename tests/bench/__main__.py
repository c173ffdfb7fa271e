"""`python -m tests.bench [--quick] [--only ROW] [--pair SOURCE->TARGET]`: a table, and JSON in bench-results/."""

from __future__ import annotations

import argparse
import asyncio
import compileall
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

import adapters
import bridge
import mappings
import tests
from tests.bench import asked, cold, cost, exports, group, latency, machine, memory, moving, standby, stream, throughput
from tests.bench.sides import KINDS
from tests.bench.stage import Pair, Stage, set_up
from tests.bench.table import Row, lines

RESULTS = Path("bench-results")
STORES = ("etcd", "zookeeper")
STREAM = Pair("etcd", "kafka")
EXPORT = Pair("etcd", "xds")
PAIRS = (*(Pair(source, target) for source in KINDS for target in KINDS), STREAM, EXPORT)

SIZES, SMALL = (1_000, 10_000, 100_000), (1_000, 10_000)  # resident instances

Measure = Callable[[Stage, bool], Awaitable[list[Row]]]


class Part(NamedTuple):
    """What is measured at once, and the seconds that it takes: about so many, and in the small version."""

    measure: Measure
    seconds: float
    quickly: float
    arms: int = 3  # that have a server each where a registry has no places within it

    def estimate(self, quick: bool) -> float:
        return self.quickly if quick else self.seconds


ROWS = {
    "latency": Part(lambda stage, quick: latency.measure(stage, 15.0 if quick else 80.0, random.Random(1)), 95, 27),
    "throughput": Part(lambda stage, quick: throughput.sustained(stage, 2.0 if quick else 5.0), 130, 50),
    "burst": Part(lambda stage, quick: throughput.burst(stage, 2 if quick else 5, 2_000 if quick else 10_000), 65, 25),
    "cpu": Part(lambda stage, quick: cost.cpu(stage, SMALL if quick else SIZES, 6.0 if quick else 36.0), 115, 28),
    "writes": Part(lambda stage, quick: cost.writes(stage, 50 if quick else 500, 3.0 if quick else 10.0), 40, 20, 1),
    "list": Part(lambda stage, quick: cold.listing(stage, _listed(stage, quick), 2 if quick else 6), 45, 10, 1),
    "copy": Part(lambda stage, quick: cold.copying(stage, 10_000 if quick else 100_000, 1 if quick else 3), 180, 20),
    "memory": Part(
        lambda stage, quick: memory.slope(stage, (0, 5_000, 10_000) if quick else (0, 25_000, 50_000, 100_000)), 50, 25
    ),
    "restart": Part(lambda stage, quick: cold.restart(stage, 10_000 if quick else 100_000, 2 if quick else 5), 40, 15),
    "standby": Part(lambda stage, quick: standby.take_over(stage, 1 if quick else 3), 75, 30),
    "rebuild": Part(
        lambda stage, quick: stream.rebuild(stage, 10_000 if quick else 100_000, 2 if quick else 6), 90, 20
    ),
    "group": Part(
        lambda stage, quick: group.shared(stage, 2_000 if quick else 20_000, 8.0 if quick else 80.0), 420, 150
    ),
    "exports": Part(exports.measure, 300, 40),
    "beside": Part(lambda stage, quick: stream.beside(stage, 15.0 if quick else 80.0, random.Random(1)), 110, 40),
    "requests": Part(
        lambda stage, quick: asked.requests(stage, 20 if quick else 100, 5.0 if quick else 60.0), 170, 40, 1
    ),
    "watched": Part(
        lambda stage, quick: asked.watched(stage, 200 if quick else 1_000, 10.0 if quick else 60.0), 180, 60, 2
    ),
    "watched10k": Part(
        lambda stage, quick: asked.watched(stage, 500 if quick else 10_000, 10.0 if quick else 60.0), 300, 80, 2
    ),
    "mixed": Part(
        lambda stage, quick: asked.watched(
            stage, 200 if quick else 1_000, 10.0 if quick else 60.0, polls=100, times=2 if quick else 10
        ),
        300,
        90,
        2,
    ),
    "ticks": Part(lambda stage, quick: asked.ticks(stage, 20 if quick else 150), 150, 50, 1),
    "renewing": Part(
        lambda stage, quick: asked.renewing(stage, 500 if quick else 10_000, 10.0 if quick else 90.0), 180, 60, 1
    ),
    "step": Part(lambda stage, quick: moving.step(stage, 2 if quick else 10), 90, 30),
    "moving": Part(lambda stage, quick: moving.beside(stage, 15.0 if quick else 80.0, random.Random(1)), 110, 45),
    "plan": Part(lambda stage, quick: moving.plan(stage, 100 if quick else 1_000, 3 if quick else 5), 150, 30),
    "peers": Part(lambda stage, quick: asked.peers(stage, 20.0 if quick else 90.0), 140, 70, 1),
}


def _listed(stage: Stage, quick: bool) -> int:
    """Instances of a cold list: of Kubernetes 2,000 slices of ten, which is a large cluster."""
    return 10_000 if quick else 20_000 if stage.pair.source == "kubernetes" else 100_000


# What is measured of which pair where none is named.
OF_REGISTRIES = ("requests", "watched", "watched10k", "mixed", "ticks", "renewing", "peers")
OF_STREAMS = ("latency", "throughput", "writes", "rebuild", "beside", "group")
OF_EXPORTS = ("exports", "step", "plan")
OF_STORES = tuple(
    name for name in ROWS if name not in (*OF_REGISTRIES, *OF_EXPORTS, "rebuild", "beside", "group", "moving")
)
MEASURED: dict[Pair, tuple[str, ...]] = {
    **{Pair(source, target): OF_STORES for source in STORES for target in STORES},
    Pair("etcd", "etcd"): (*OF_STORES, "moving"),
    Pair("etcd", "zookeeper"): (*OF_STORES, "requests"),
    Pair("zookeeper", "etcd"): (*OF_STORES, "requests"),
    Pair("consul", "consul"): ("latency", "writes", "requests"),
    Pair("consul", "kubernetes"): ("latency", "writes", "requests"),
    Pair("consul", "etcd"): ("watched", "watched10k", "mixed", "peers"),
    Pair("kubernetes", "etcd"): ("latency", "writes", "list", "requests"),
    Pair("etcd", "eureka"): ("latency", "writes", "requests", "renewing"),
    Pair("eureka", "etcd"): ("ticks", "requests"),
    STREAM: OF_STREAMS,
    EXPORT: ("latency", *OF_EXPORTS),
}


async def run(wanted: list[tuple[Pair, list[str]]], quick: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """All rows of all pairs, each on two fresh servers; and what broke."""
    found: list[dict[str, Any]] = []
    broken: list[str] = []
    left = sum(ROWS[name].estimate(quick) for _, names in wanted for name in names)
    for pair, names in wanted:
        for name in names:
            folder = Path(tempfile.mkdtemp(prefix=f"isthmus-bench-{name}-"))
            began, before = time.monotonic(), machine.times()
            estimate = ROWS[name].estimate(quick)
            print(f"{pair} {name}: about {estimate:.0f} s, and {left / 60:.0f} min to the end", flush=True)
            left -= estimate
            try:
                async with set_up(pair, folder / "stage", ROWS[name].arms) as stage:
                    rows = await ROWS[name].measure(stage, quick)
            except Exception as error:
                broken.append(f"{pair} {name}: {_why(error)}; its logs are in {folder}")
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


def _why(error: BaseException) -> str:
    """What broke; of several at once each."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_why, error.exceptions))
    return f"{type(error).__name__}: {error}"


def _rows(pair: Pair, only: list[str] | None) -> list[str]:
    """What is measured of a pair; what is asked for by name, also of one that has it not by itself."""
    measured = MEASURED.get(pair, ())
    if only is None:
        return list(measured)
    return [name for name in only if name in measured or pair not in MEASURED] or only


def compiled() -> None:
    """Compiles what the arms import, as an installation does.

    Where nothing may be written (`PYTHONDONTWRITEBYTECODE`), each process would compile it anew, and ours is larger.
    """
    for package in (bridge, adapters, mappings, tests):
        compileall.compile_dir(package.__path__[0], quiet=2)


def main() -> int:
    """Exit status 1 where a row broke; a goal that is missed is printed, and no failure."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small version, for development")
    parser.add_argument("--only", choices=ROWS, action="append", help="one row; may be given again")
    parser.add_argument("--pair", choices=[str(pair) for pair in PAIRS], action="append", help="one pair; likewise")
    given = parser.parse_args()
    pairs = [pair for pair in PAIRS if str(pair) in given.pair] if given.pair else list(MEASURED)
    wanted = [(pair, _rows(pair, given.only)) for pair in pairs]
    compiled()
    # select() keeps time to some tens of microseconds, epoll to a millisecond: the generator is to be on time.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        found, broken = runner.run(run(wanted, given.quick))
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
