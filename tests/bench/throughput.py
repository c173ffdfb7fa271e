"""Row 2: how many changes a second are sustained, and how long a burst takes, beside the concurrent raw loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from tests.bench import machine, records
from tests.bench.figures import P99, line, ratio
from tests.bench.sides import Side
from tests.bench.stage import LOT, Stage, Watcher, populate, settled
from tests.bench.table import Row
from tests.servers.process import Process

OURS, RAW, AGAIN = "/bench/ours/", "/bench/raw/", "/bench/again/"
INSTANCES = 10_000  # of each arm
TICK = 0.01  # seconds between two transactions of the generator
FIRST, STEP, FINER = 500.0, 1.5, 1.15  # changes a second: the first rate, then times this, and at last times that
AGE = 1.0  # seconds: what p99 of the ages must stay below
GOOD_ENOUGH = 0.02  # seconds of lag won a second: below this a backlog does not grow


class Arm(NamedTuple):
    """One bridge between two places, its process, and what was seen of it."""

    source: Side
    watcher: Watcher
    process: Process
    arrivals: dict[tuple[str, int], float]


class Marks:
    """Marks that were never used before, so that every arrival is known for what it is."""

    def __init__(self) -> None:
        self._next = 0

    def lot(self, side: Side, count: int) -> list[tuple[str, int, bytes]]:
        """So many changes of instances in their turn: path, mark, record."""
        made = []
        for mark in range(self._next + 1, self._next + 1 + count):
            number = mark % INSTANCES
            made.append((records.path(number), mark, side.value(number, mark)))
        self._next += count
        return made


@asynccontextmanager
async def arms(stage: Stage, prefixes: tuple[str, ...]) -> AsyncIterator[dict[str, Arm]]:
    """The arms with their fleets copied, and at rest."""
    async with AsyncExitStack() as stack:
        found: dict[str, Arm] = {}
        for prefix in prefixes:
            source = await stack.enter_async_context(stage.reading(prefix))
            target = await stack.enter_async_context(stage.writing(prefix))
            arrivals: dict[tuple[str, int], float] = {}

            def arrived(path: str, mark: int, now: float, arrivals: dict[tuple[str, int], float] = arrivals) -> None:
                arrivals[path, mark] = now

            watcher = await stack.enter_async_context(Watcher(target, arrived))
            if prefix == OURS:
                bridge = await stack.enter_async_context(stage.bridge(prefix))
                await bridge.start()
                process = bridge.process
            else:
                process = await stack.enter_async_context(stage.raw("concurrent", prefix))
            await populate(source, INSTANCES)
            await watcher.until(lambda watcher=watcher: len(watcher.marks) == INSTANCES)  # type: ignore[misc]
            await settled(watcher, process)
            found[prefix] = Arm(source, watcher, process, arrivals)
        yield found


async def sustained(stage: Stage, seconds: float) -> list[Row]:
    """Step rates until one is not kept up with, then once more in finer steps; the arms take turns."""
    async with arms(stage, (OURS, RAW)) as found:
        marks = Marks()
        best: dict[str, float] = {}
        steps: dict[str, list[dict[str, float]]] = {}
        for prefix, arm in found.items():
            steps[prefix] = []
            for factor in (STEP, FINER):
                rate = best.get(prefix, FIRST / factor) * factor
                while True:
                    kept_up, told = await _step(arm, marks, rate, seconds)
                    steps[prefix].append(told)
                    if not kept_up:
                        break
                    best[prefix] = rate
                    rate *= factor
            best.setdefault(prefix, math.nan)
    ours, raw = best[OURS], best[RAW]
    return [
        Row(
            name="sustained throughput",
            unit="changes/s",
            ours=ours,
            raw=raw,
            # One step up or down of either arm may be chance.
            ratio=ratio([([ours], [raw]), ([ours], [raw * FINER]), ([ours / FINER], [raw])]),
            limit=0.6,
            at_least=True,
            about={"ours": steps[OURS], "raw": steps[RAW]},
        )
    ]


async def _step(arm: Arm, marks: Marks, rate: float, seconds: float) -> tuple[bool, dict[str, float]]:
    """One rate for so long: whether the backlog stayed flat, and what was seen."""
    arm.arrivals.clear()
    due: dict[tuple[str, int], float] = {}
    own, spent, start = time.process_time(), machine.cpu(arm.process.pid), time.perf_counter()
    async with asyncio.TaskGroup() as writes:
        owed, turn = 0.0, 0
        while turn * TICK < seconds:
            at = start + turn * TICK
            await asyncio.sleep(at - time.perf_counter())
            owed += rate * TICK
            lot = marks.lot(arm.source, int(owed))
            owed -= len(lot)
            turn += 1
            for first in range(0, len(lot), LOT):
                part = lot[first : first + LOT]
                due.update(((path, mark), at) for path, mark, _ in part)
                writes.create_task(arm.source.register([(path, value) for path, _, value in part]))
    lasted = time.perf_counter() - start
    cpu, own = machine.cpu(arm.process.pid) - spent, time.process_time() - own
    last = dict(due.keys())
    await arm.watcher.until(lambda: all(arm.watcher.marks[path] >= mark for path, mark in last.items()))
    ages = [(at - start, arm.arrivals[each] - at) for each, at in due.items() if each in arm.arrivals]
    half = [(at, age) for at, age in ages if at > seconds / 2]
    slope = line(half)[0]
    p99 = P99([age for _, age in half])
    told = {
        "rate": rate,
        "lag_slope": slope,
        "p99_age": p99,
        "coalesced": len(due) - len(ages),
        "cpu_cores": cpu / lasted,
        "generator_cpu_cores": own / lasted,
        "generator_seconds": lasted,
    }
    return slope <= GOOD_ENOUGH and p99 < AGE and lasted < seconds * 1.1, told


async def burst(stage: Stage, repetitions: int, size: int) -> list[Row]:
    """So many changes at once, until the last of them has arrived."""
    async with arms(stage, (OURS, RAW, AGAIN)) as found:
        marks = Marks()
        took: list[dict[str, float]] = []
        for turn in range(repetitions):
            took.append({})
            order = list(found)
            for prefix in order[turn % 3 :] + order[: turn % 3]:
                took[-1][prefix] = await _burst(found[prefix], marks.lot(found[prefix].source, size))
    return [
        Row(
            name=f"burst of {size:,} changes",
            unit="s",
            ours=sum(each[OURS] for each in took) / repetitions,
            raw=sum(each[RAW] + each[AGAIN] for each in took) / (2 * repetitions),
            ratio=ratio([([each[OURS]], [each[RAW], each[AGAIN]]) for each in took]),
            aa=ratio([([each[RAW]], [each[AGAIN]]) for each in took]),
            limit=1.7,
            about={"seconds": took},
        )
    ]


async def _burst(arm: Arm, lot: list[tuple[str, int, bytes]]) -> float:
    arm.arrivals.clear()
    start = time.perf_counter()
    async with asyncio.TaskGroup() as writes:
        for first in range(0, len(lot), LOT):
            part = [(path, value) for path, _, value in lot[first : first + LOT]]
            writes.create_task(arm.source.register(part))
    await arm.watcher.until(lambda: len(arm.arrivals) >= len(lot))
    seconds = max(arm.arrivals.values()) - start
    await settled(arm.watcher, arm.process)
    return seconds
