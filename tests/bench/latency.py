"""Row 1: how much later a change arrives at the target than through the raw loop, with every safety on."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from msgspec.structs import replace

from tests.bench import records
from tests.bench.figures import P50, P90, P99, ratio
from tests.bench.sides import Side, kind
from tests.bench.stage import Stage, Watcher, populate
from tests.bench.table import Row

ARMS = ("/bench/ours/", "/bench/raw/", "/bench/again/")  # the bridge, the raw loop, and another raw loop for A/A
RATE = 40.0  # changes a second for each arm
INSTANCES = 1_000  # of each arm: one is changed every 25 s, which is no flapping
BLOCK = 2.0  # seconds
REST = 2.0  # seconds after which what was sent has arrived


class Driven:
    """Open loop: changes are due by a schedule, in random order over the arms, and latency counts from when due."""

    def __init__(self, arms: Sequence[str]) -> None:
        self._arms = arms
        self._latencies: list[dict[str, list[float]]] = []
        self._due: dict[tuple[str, str, int], tuple[int, float]] = {}
        self._late: list[float] = []

    def arrived(self, arm: str) -> Callable[[str, int, float], None]:
        """To be called with what arrives at the target of that arm."""

        def told(path: str, mark: int, now: float) -> None:
            block, then = self._due.pop((arm, path, mark), (0, 0.0))
            if then:
                self._latencies[block][arm].append(now - then)

        return told

    async def drive(self, sides: Mapping[str, Side], seconds: float, rng: random.Random) -> None:
        """Changes for so long."""
        start = time.perf_counter() + 0.1
        async with asyncio.TaskGroup() as writes:
            for turn in range(int(seconds * RATE)):
                for place, arm in enumerate(rng.sample(self._arms, len(self._arms))):
                    at = start + (turn + place / len(self._arms)) / RATE
                    await asyncio.sleep(at - time.perf_counter())
                    self._late.append(time.perf_counter() - at)
                    number, mark = turn % INSTANCES, turn + 1
                    block = int((at - start) / BLOCK)
                    while block >= len(self._latencies):
                        self._latencies.append({each: [] for each in self._arms})
                    path = records.path(number)
                    self._due[arm, path, mark] = (block, at)
                    writes.create_task(sides[arm].register([(path, sides[arm].value(number, mark))]))
        await asyncio.sleep(REST)

    def blocks(self) -> list[tuple[list[float], ...]]:
        """The latencies of each arm in one stretch of time after the other, in milliseconds."""
        return [tuple([sample * 1000 for sample in block[arm]] for arm in self._arms) for block in self._latencies]

    def rows(self, name: str, p50: float, p99: float) -> list[Row]:
        """The latency of ours by that of both raw arms, at the median and at the 99th percentile, with these goals."""
        blocks = self.blocks()
        found = [[sample for block in blocks for sample in block[arm]] for arm in range(len(self._arms))]
        return [
            Row(
                name=f"{name} {which}",
                unit="ms",
                ours=statistic(found[0]),
                raw=statistic(found[1] + found[2]),
                ratio=ratio([(block[0], block[1] + block[2]) for block in blocks], statistic),
                aa=ratio([(block[1], block[2]) for block in blocks], statistic),
                limit=limit,
                about=self.about(found),
            )
            for which, statistic, limit in (("p50", P50, p50), ("p99", P99, p99))
        ]

    def about(self, found: Sequence[Sequence[float]]) -> dict[str, Any]:
        """What the file says beside the figures; `found`: all latencies of each arm."""
        return {
            "samples": [len(samples) for samples in found],
            "lost": len(self._due),
            "generator_late_p99_ms": P99(self._late) * 1000,
            "changes_per_second_each": RATE,
            **{
                f"{name}_ms": {"p50": P50(samples), "p90": P90(samples), "p99": P99(samples), "max": max(samples)}
                for name, samples in zip(("ours", "raw", "raw_again"), found, strict=True)
            },
        }


async def measure(stage: Stage, seconds: float, rng: random.Random) -> list[Row]:
    """The bridge beside two raw loops."""
    driven = Driven(ARMS)
    async with AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        for prefix in ARMS:
            sides[prefix] = await stack.enter_async_context(stage.reading(prefix))
            target = await stack.enter_async_context(stage.writing(prefix))
            watcher = await stack.enter_async_context(Watcher(target, driven.arrived(prefix)))
            if prefix == ARMS[0]:
                ours = await stack.enter_async_context(stage.bridge(prefix))
                await populate(sides[prefix], INSTANCES)
                await ours.start()
            else:
                await stack.enter_async_context(stage.raw("loop", prefix))
                await populate(sides[prefix], INSTANCES)
            await watcher.until(lambda watcher=watcher: len(watcher.marks) == INSTANCES)  # type: ignore[misc]
        await asyncio.sleep(REST)
        await driven.drive(sides, seconds, rng)

    note = kind(stage.pair.target).NOTE
    return [replace(row, about={**row.about, "note": note}) for row in driven.rows("added latency", 1.25, 1.5)]
