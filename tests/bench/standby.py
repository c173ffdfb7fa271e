"""The row of the hot standby: from the death of the writer to the first write of its successor."""

from __future__ import annotations

import time
from statistics import mean

from tests.bench import records
from tests.bench.sides import kind
from tests.bench.stage import Stage, Watcher, populate, settled
from tests.bench.table import Row

PREFIX = "/bench/standby/"
INSTANCES = 1_000
BESIDE = 1.0  # seconds that may be added to the time for which the dead writer keeps its lock


async def take_over(stage: Stage, repetitions: int) -> list[Row]:
    """Two daemons of one bridge: the writer is killed, a native changes, and who died stands by for the next turn."""
    took: list[float] = []
    async with (
        stage.reading(PREFIX) as source,
        stage.writing(PREFIX) as target,
        Watcher(target) as watcher,
        stage.bridge(PREFIX, id="both") as one,
        stage.bridge(PREFIX, id="both") as other,
    ):
        await populate(source, INSTANCES)
        await one.start()
        await watcher.until(lambda: len(watcher.marks) == INSTANCES)
        writer, standby = one, other
        path = records.path(0)
        for mark in range(1, repetitions + 1):
            await standby.start()
            await settled(watcher, standby.process)
            died = time.perf_counter()
            await writer.process.kill()
            await source.register([(path, source.value(0, mark))])
            await watcher.until(lambda mark=mark: watcher.marks[path] == mark)  # type: ignore[misc]
            took.append(time.perf_counter() - died)
            writer, standby = standby, writer
    ttl = kind(stage.pair.target).LOCK_TTL
    about = {"seconds": took, "mean": mean(took), "lock_ttl": ttl}
    return [Row(name="take-over by the standby, longest", unit="s", ours=max(took), limit=ttl + BESIDE, about=about)]
