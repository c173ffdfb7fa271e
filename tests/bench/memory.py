"""Row 7: bytes of memory for each source instance, and for the daemon without any."""

from __future__ import annotations

from tests.bench import machine
from tests.bench.figures import line
from tests.bench.stage import Stage, Watcher, populate, settled
from tests.bench.table import Row


async def slope(stage: Stage, sizes: tuple[int, ...]) -> list[Row]:
    """PSS after a cold copy, for every size in a new process."""
    steady: list[tuple[float, float]] = []
    peaks: list[int] = []
    for size in sizes:
        prefix = f"/bench/memory{size}/"
        async with (
            stage.reading(prefix) as source,
            stage.writing(prefix) as target,
            Watcher(target) as watcher,
            stage.bridge(prefix) as ours,
        ):
            await populate(source, size)
            await ours.start()
            await watcher.until(lambda size=size, watcher=watcher: len(watcher.marks) == size)  # type: ignore[misc]
            await settled(watcher, ours.process, 3.0)
            steady.append((size, machine.pss(ours.process.pid)))
            peaks.append(machine.peak(ours.process.pid))
    slope, intercept = line(steady)
    about = {
        "pss": dict(steady),
        "peak": dict(zip(map(str, sizes), peaks, strict=True)),
        "intercept_MB": intercept / 1e6,
    }
    return [
        Row(name="memory per source instance", unit="B", ours=slope, limit=1200.0, about=about),
        Row(name="memory per source instance, stretch", unit="B", ours=slope, limit=800.0, about=about),
    ]
