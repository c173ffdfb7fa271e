"""Row 1: how much later a change arrives at the target than through the raw loop, with every safety on."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack

from tests.bench import records
from tests.bench.figures import P50, P90, P99, ratio
from tests.bench.sides import Side
from tests.bench.stage import Stage, Watcher, populate
from tests.bench.table import Row

ARMS = ("/bench/ours/", "/bench/raw/", "/bench/again/")  # the bridge, the raw loop, and another raw loop for A/A
RATE = 40.0  # changes a second for each arm
INSTANCES = 1_000  # of each arm: one is changed every 25 s, which is no flapping
BLOCK = 2.0  # seconds
REST = 2.0  # seconds after which what was sent has arrived


async def measure(stage: Stage, seconds: float, rng: random.Random) -> list[Row]:
    """Open loop: changes are due by a schedule, in random order over the arms, and latency counts from when due."""
    latencies: list[dict[str, list[float]]] = []
    due: dict[tuple[str, str, int], tuple[int, float]] = {}

    async with AsyncExitStack() as stack:
        sides: dict[str, Side] = {}
        for prefix in ARMS:
            sides[prefix] = await stack.enter_async_context(stage.reading(prefix))
            target = await stack.enter_async_context(stage.writing(prefix))

            def arrived(path: str, mark: int, now: float, prefix: str = prefix) -> None:
                block, then = due.pop((prefix, path, mark), (0, 0.0))
                if then:
                    latencies[block][prefix].append(now - then)

            watcher = await stack.enter_async_context(Watcher(target, arrived))
            if prefix == ARMS[0]:
                ours = await stack.enter_async_context(stage.bridge(prefix))
                await populate(sides[prefix], INSTANCES)
                await ours.start()
            else:
                await stack.enter_async_context(stage.raw("loop", prefix))
                await populate(sides[prefix], INSTANCES)
            await watcher.until(lambda watcher=watcher: len(watcher.marks) == INSTANCES)  # type: ignore[misc]
        await asyncio.sleep(REST)

        late: list[float] = []
        start = time.perf_counter() + 0.1
        async with asyncio.TaskGroup() as writes:
            for turn in range(int(seconds * RATE)):
                for place, prefix in enumerate(rng.sample(ARMS, len(ARMS))):
                    at = start + (turn + place / len(ARMS)) / RATE
                    await asyncio.sleep(at - time.perf_counter())
                    late.append(time.perf_counter() - at)
                    number, mark = turn % INSTANCES, turn + 1
                    block = int((at - start) / BLOCK)
                    while block >= len(latencies):
                        latencies.append({arm: [] for arm in ARMS})
                    path = records.path(number)
                    due[prefix, path, mark] = (block, at)
                    writes.create_task(sides[prefix].register([(path, sides[prefix].value(number, mark))]))
        await asyncio.sleep(REST)

    blocks = [tuple([sample * 1000 for sample in block[arm]] for arm in ARMS) for block in latencies]
    found = [[sample for block in blocks for sample in block[arm]] for arm in range(len(ARMS))]
    about = {
        "samples": [len(samples) for samples in found],
        "lost": len(due),
        "generator_late_p99_ms": P99(late) * 1000,
        "changes_per_second_each": RATE,
        **{
            f"{name}_ms": {"p50": P50(samples), "p90": P90(samples), "p99": P99(samples), "max": max(samples)}
            for name, samples in zip(("ours", "raw", "raw_again"), found, strict=True)
        },
    }
    return [
        Row(
            name=f"added latency {name}",
            unit="ms",
            ours=statistic(found[0]),
            raw=statistic(found[1] + found[2]),
            ratio=ratio([(block[0], block[1] + block[2]) for block in blocks], statistic),
            aa=ratio([(block[1], block[2]) for block in blocks], statistic),
            limit=limit,
            about=about,
        )
        for name, statistic, limit in (("p50", P50, 1.25), ("p99", P99, 1.5))
    ]
