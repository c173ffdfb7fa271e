"""Rows 3 and 4: what a change costs at any number of resident instances, and how many writes it makes."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from tests.bench import machine, records
from tests.bench.counting import counted
from tests.bench.figures import exponent, ratio
from tests.bench.sides import Side
from tests.bench.stage import Bridge, Stage, Watcher, populate, settled
from tests.bench.table import Row

RATE = 100.0  # changes a second for each bridge
BLOCKS = 12
NOTED = 12.0  # seconds within which a standby is told what was lost: one note, which is no write of an entry
ADDED, EACH = 50, 5  # instances that are added for the count of writes, of which each so-manieth goes again


async def cpu(stage: Stage, sizes: tuple[int, ...], seconds: float) -> list[Row]:
    """All bridges at once, so that the machine is the same for all; then none, to know what standing still costs."""
    async with AsyncExitStack() as stack:
        bridges: list[Bridge] = []
        sources: list[Side] = []
        for size in sizes:
            prefix = f"/bench/cpu{size}/"
            sources.append(await stack.enter_async_context(stage.reading(prefix)))
            target = await stack.enter_async_context(stage.writing(prefix))
            async with Watcher(target) as watcher:
                await populate(sources[-1], size)
                bridges.append(await stack.enter_async_context(stage.bridge(prefix)))
                await bridges[-1].start()
                await watcher.until(lambda size=size, watcher=watcher: len(watcher.marks) == size)  # type: ignore[misc]
                await settled(watcher, bridges[-1].process)

        mark = 0
        busy: list[list[float]] = []
        for _ in range(BLOCKS):
            before = [machine.cpu(each.process.pid) for each in bridges]
            start, turns = time.perf_counter(), int(seconds / BLOCKS * RATE)
            async with asyncio.TaskGroup() as writes:
                for turn in range(turns):
                    mark += 1
                    await asyncio.sleep(start + turn / RATE - time.perf_counter())
                    for size, source in zip(sizes, sources, strict=True):
                        number = mark * 7919 % size  # a prime: neighbours are not changed one after the other
                        writes.create_task(source.register([(records.path(number), source.value(number, mark))]))
            await asyncio.sleep(0.5)
            busy.append([machine.cpu(each.process.pid) - was for each, was in zip(bridges, before, strict=True)])
        before = [machine.cpu(each.process.pid) for each in bridges]
        await asyncio.sleep(seconds)
        idle = [machine.cpu(each.process.pid) - was for each, was in zip(bridges, before, strict=True)]

    per_change = [
        [(spent - still / BLOCKS) / turns * 1e6 for spent, still in zip(block, idle, strict=True)] for block in busy
    ]
    means = [sum(block[at] for block in per_change) / BLOCKS for at in range(len(sizes))]
    return [
        Row(
            name=f"CPU per change, {sizes[-1]:,} instances by {sizes[0]:,}",
            unit="us",
            ours=means[-1],
            raw=means[0],
            ratio=ratio([([block[-1]], [block[0]]) for block in per_change]),
            limit=1.15,
            about={
                "us_per_change": dict(zip(map(str, sizes), means, strict=True)),
                "idle_cores": dict(zip(map(str, sizes), (still / seconds for still in idle), strict=True)),
                "exponent": exponent(list(zip(sizes, means, strict=True))),
            },
        )
    ]


async def writes(stage: Stage, changes: int, seconds: float) -> list[Row]:
    """Writes that the target counts, for changes one at a time; for reading everything again; for standing still."""
    prefix = "/bench/writes/"
    async with (
        counted(stage, ["target"] if stage.pair.target == "eureka" else []) as (seen, proxies),
        stage.reading(prefix) as source,
        stage.writing(prefix) as target,
        Watcher(target) as watcher,
        seen.bridge(prefix, resync=1.0) as ours,
    ):

        async def written() -> int:
            """By the server, or where it does not count them by what it was asked: heartbeats are none."""
            if stage.pair.target != "eureka":
                return await target.writes()
            return sum(proxies["target"].requests[method] for method in ("POST", "DELETE"))

        count = 10 * records.SIZE
        await populate(source, count)
        await ours.start()
        await watcher.until(lambda: len(watcher.marks) == count)
        await settled(watcher, ours.process, 3.0)  # it has said all that it says of itself when it begins

        before = await written()
        for mark in range(1, changes + 1):
            path = records.path(mark % count)
            await source.register([(path, source.value(mark % count, mark))])
            await watcher.until(lambda path=path, mark=mark: watcher.marks[path] == mark)  # type: ignore[misc]
        for number in range(count, count + ADDED):
            await source.register([(records.path(number), source.value(number))])
            await watcher.until(lambda number=number: len(watcher.marks) == number + 1)  # type: ignore[misc]
        for number in range(count, count + ADDED, EACH):  # few of each service, or the guard would hold them
            path = records.path(number)
            await source.deregister([path])
            await watcher.until(lambda path=path: path not in watcher.marks)  # type: ignore[misc]
        await settled(watcher, ours.process)
        changed = await written() - before
        await settled(watcher, ours.process, NOTED)

        before = await written()
        await stage.source.stop()  # its watch breaks, and it is listed again
        await stage.source.start()
        await asyncio.sleep(seconds)  # in which the target is read again each second
        resynced = await written() - before
        idle = 0.0
        async with seen.bridge("/bench/idle/") as other:
            await other.start()
            await asyncio.sleep(2.0)
            before = await written()
            await asyncio.sleep(seconds)
            idle = await written() - before
    real = changes + ADDED + ADDED // EACH
    return [
        Row(name="atomic writes per change", unit="", ours=changed / real, limit=1.0, about={"changes": real}),
        Row(name="writes in no-op resyncs", unit="", ours=resynced, limit=0.0, about={"seconds": seconds}),
        Row(name="writes while idle", unit="", ours=idle, limit=0.0, about={"seconds": seconds}),
    ]
