"""The rows of a group: what a change costs each of several daemons that share a destination, and who replaces one.

Where all daemons share the cores of one machine their changes a second say nothing of several machines. What does: the
CPU time that the busiest daemon spends on a change of the whole. A core of its own makes as many as fit into a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.bench import machine, records
from tests.bench.figures import ratio
from tests.bench.sides import Side, kind
from tests.bench.stage import Bridge, Stage, Watcher, populate, settled
from tests.bench.table import Row
from tests.kit.running import isthmus
from tests.kit.waiting import until

SHARDS = 12
MEMBERS = (1, 2, 4)
RATE = 150.0  # changes a second of the whole
BLOCKS = 8
GAIN = 1.6  # times the changes a second of one daemon, by two
LOST = 10.0  # seconds that a lock outlives its holder
BESIDE = 2.0  # seconds that may be added to that
EVERY = 0.02  # seconds between two changes while a member dies
PATIENCE = 120.0  # seconds


async def shared(stage: Stage, count: int, seconds: float) -> list[Row]:
    """For each number of members a stream and a destination of their own, one after the other."""
    cost: dict[int, list[list[float]]] = {}
    about: dict[str, Any] = {}
    took = 0.0
    for members in MEMBERS:
        async with _group(stage, members, count) as (source, watcher, daemons):
            pids = [one.process.pid for one in daemons]
            idle = await _idle(pids, seconds / 2)
            cost[members] = await _driven(source, count, seconds, pids, idle)
            means = [1e6 * sum(each) / len(each) for each in zip(*cost[members], strict=True)]
            about[str(members)] = {
                "us_per_change": means,
                "idle_cores": idle,
                "changes_per_core_second": 1e6 / max(means),
                "pss_MB": [machine.pss(one.process.pid) / 1e6 for one in daemons],
            }
            if members == MEMBERS[-1]:
                took = await _replaced(source, watcher, daemons)
                about["unwritten_s"] = took
    return [
        *(_gain(cost, members, about) for members in MEMBERS[1:]),
        Row(name="take-over in a group of four, longest", unit="s", ours=took, limit=LOST + BESIDE, about=about),
    ]


def _gain(cost: dict[int, list[list[float]]], members: int, about: dict[str, Any]) -> Row:
    """How many times the changes of one daemon so many make, each on a core of its own: the busiest one counts."""
    one, several = ([max(block) for block in cost[number]] for number in (1, members))
    goal = GAIN * members / 2
    return Row(
        name=f"changes a second of {members} daemons by one",
        unit="changes/s",
        ours=len(several) / sum(several),
        raw=len(one) / sum(one),
        ratio=ratio([([before], [after]) for before, after in zip(one, several, strict=True)]),
        limit=goal,
        at_least=True,
        about=about,
    )


@asynccontextmanager
async def _group(stage: Stage, members: int, count: int) -> AsyncIterator[tuple[Side, Watcher, list[Bridge]]]:
    """So many members write all that natives have registered."""
    prefix, mirror = f"/bench/group{members}/", f"/bench/shared{members}/"
    place = kind(stage.pair.source)
    topic = {**kind(stage.pair.target).block(stage.target.address, prefix), "partitions": SHARDS}
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(stage.reading(prefix))
        target = await stack.enter_async_context(stage.reading(mirror))
        watcher = await stack.enter_async_context(Watcher(target))
        await populate(source, count)
        filling = await stack.enter_async_context(stage.bridge(prefix))
        filling.written["registries"]["target"] = topic
        await filling.start()
        daemons = []
        for _ in range(members):
            one = await stack.enter_async_context(stage.bridge(prefix))
            settings = {key: value for key, value in one.written["bridge"].items() if key != "seat"}
            one.written["bridge"] = {**settings, "id": f"crew{members}", "group": "crew"}
            one.written["registries"] = {"target": topic, "mirror": place.block(stage.source.address, mirror)}
            link = {"from": "target/source", "to": "mirror", "policy": "sync", "services": {"include": ["*"]}}
            one.written["links"] = [{**link, **place.LINK}]
            daemons.append(one)
        await divided(daemons[0])
        for one in daemons:
            await one.start()
        await watcher.until(lambda: len(watcher.marks) == count)
        for one in daemons:
            await settled(watcher, one.process, 3.0)
        await until(lambda: _shared(daemons), "each has its part of the shards", every=0.5)
        yield source, watcher, daemons


async def divided(one: Bridge) -> None:
    """As an operator does, before the first member starts."""
    ran = await isthmus("group", "init", "mirror", "-f", await one.file())
    assert ran.code == 0, ran.err


async def _shared(daemons: Sequence[Bridge]) -> bool:
    shards = [await one.shards() for one in daemons]
    return sum(shards) == SHARDS and max(shards) - min(shards) <= 1


async def _idle(pids: Sequence[int], seconds: float) -> list[float]:
    """The cores that each daemon takes while nothing changes."""
    before = [machine.cpu(pid) for pid in pids]
    await asyncio.sleep(seconds)
    return [(machine.cpu(pid) - was) / seconds for pid, was in zip(pids, before, strict=True)]


async def _driven(
    source: Side, count: int, seconds: float, pids: Sequence[int], idle: Sequence[float]
) -> list[list[float]]:
    """Changes at a steady rate; for each stretch the CPU seconds that each daemon spent on a change of the whole.

    Without what it takes while nothing changes, which is no more however much does.
    """
    mark = 0
    found = []
    for _ in range(BLOCKS):
        before = [machine.cpu(pid) for pid in pids]
        start, turns = time.perf_counter(), int(seconds / BLOCKS * RATE)
        async with asyncio.TaskGroup() as writes:
            for turn in range(turns):
                mark += 1
                await asyncio.sleep(start + turn / RATE - time.perf_counter())
                number = mark * 7919 % count  # a prime: neighbours are not changed one after the other
                writes.create_task(source.register([(records.path(number), source.value(number, mark))]))
        await asyncio.sleep(0.5)
        spent, took = [machine.cpu(pid) for pid in pids], time.perf_counter() - start
        found.append([(now - was - took * still) / turns for now, was, still in zip(spent, before, idle, strict=True)])
    return found


async def _replaced(source: Side, watcher: Watcher, daemons: Sequence[Bridge]) -> float:
    """One is killed: the longest time from a change to its copy, while another change comes every few milliseconds."""
    mark, late = 10_000_000, 0.0  # above those of before
    services = 40  # some of which lie in each shard
    waits: dict[str, tuple[int, float]] = {}  # the first change of a path that is not written yet, and when it was made
    died = time.perf_counter()
    await daemons[0].process.kill()
    while time.perf_counter() - died < LOST + BESIDE or waits:
        now = time.perf_counter()
        if now - died < LOST + BESIDE:
            mark += 1
            number = mark % services * records.SIZE
            path = records.path(number)
            await source.register([(path, source.value(number, mark))])
            waits.setdefault(path, (mark, now))
        await asyncio.sleep(EVERY)
        for path, (number, since) in list(waits.items()):
            if watcher.marks.get(path, 0) >= number:
                late = max(late, time.perf_counter() - since)
                del waits[path]
        assert now - died < PATIENCE, "what changed was never written"
    return late
