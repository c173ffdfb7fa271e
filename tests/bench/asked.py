"""What a registry is asked, at rest and under changes, beside a stock client; and when what changes there is seen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast

from tests.bench import machine, records
from tests.bench.counting import Counting, Piped, counted
from tests.bench.figures import P50, P99
from tests.bench.sides import Side, kind
from tests.bench.sides.consul import WAIT, Consul
from tests.bench.stage import Bridge, Pair, Stage, Watcher, populate, settled
from tests.bench.table import Row

RATE = 100.0  # changes a second
REST = 3.0  # seconds
INTERVAL = 10.0  # seconds that an agent of Consul takes together in its telemetry
NO_GOAL = 1e9  # a figure, which nothing is held against


async def requests(stage: Stage, services: int, seconds: float) -> list[Row]:
    """So many services of ten, at rest and at 100 changes a second: what each end is asked. Figures."""
    prefix, count = "/bench/ours/", services * records.SIZE
    async with (
        counted(stage) as (seen, proxies),
        stage.reading(prefix) as source,
        stage.writing(prefix) as target,
        Watcher(target) as watcher,
        seen.bridge(prefix) as ours,
    ):
        await populate(source, count)
        await ours.start()
        await watcher.until(lambda: len(watcher.marks) == count)
        await settled(watcher, ours.process, REST)
        rest = await _over(proxies, ours, seconds, None)
        busy = await _over(proxies, ours, seconds, _changing(source, count, seconds))
    stock = _stock(stage.pair, services)
    return [
        Row(
            name=f"requests a second of {end}, {services} services, {when}",
            unit="/s",
            ours=sum(found[end].values()),
            raw=stock[end],
            limit=NO_GOAL,
            about={"by_method": dict(found[end]), "cores": found["cores"]["daemon"]},
        )
        for when, found in (("at rest", rest), ("at 100 changes/s", busy))
        for end in proxies
    ]


def _stock(pair: Pair, services: int) -> dict[str, float]:
    """What one stock client asks at rest that calls all of these services, and is registered itself, by its defaults.

    Consul: a held query a service, of 5 min and a sixteenth (api.QueryOptions), as consul-api's; Eureka: a delta and a
    heartbeat each 30 s; Kubernetes: two watches, each of 5 to 10 min (client-go's reflector); etcd: its lease is kept
    alive each third of 15 s (kratos); ZooKeeper: a ping each 10 s (the Java client, whatever its session's time).
    """
    a_second = {
        "consul": services / 300.0,
        "eureka": 2 / 30.0,
        "kubernetes": 2 / 450.0,
        "etcd": 1 / 5,
        "zookeeper": 1 / 10,
    }
    return {end: a_second[name] for end, name in pair._asdict().items()}


async def _over(
    proxies: Mapping[str, Counting], ours: Bridge, seconds: float, work: Any
) -> dict[str, dict[str, float]]:
    for each in proxies.values():
        each.requests.clear()
    spent, began = machine.cpu(ours.process.pid), time.perf_counter()
    await (work if work is not None else asyncio.sleep(seconds))
    took = time.perf_counter() - began
    cores = (machine.cpu(ours.process.pid) - spent) / took
    found = {end: {name: n / took for name, n in each.requests.items()} for end, each in proxies.items()}
    return {**found, "cores": {"daemon": cores}}


async def _changing(source: Side, count: int, seconds: float) -> None:
    start = time.perf_counter()
    async with asyncio.TaskGroup() as writes:
        for turn in range(int(seconds * RATE)):
            await asyncio.sleep(start + turn / RATE - time.perf_counter())
            number = turn * 7919 % count
            writes.create_task(source.register([(records.path(number), source.value(number, turn + 1))]))


async def watched(stage: Stage, services: int, seconds: float, *, polls: int = 0, times: int = 30) -> list[Row]:
    """So many services of Consul that nobody changes: CPU beside the raw strategy; then one change to seen.

    `polls`: how many services we poll at most, 0: each, as the raw arm does, with polls that are held as long; a goal
    is held against that alone. `times`: changes.
    """
    arms = {"ours": "/bench/ours/", "raw": "/bench/raw/"}
    cores: dict[str, float] = {}
    late: dict[str, list[float]] = {}
    requests: dict[str, float] = {}
    for arm, prefix in arms.items():
        async with stage.reading(prefix) as source, stage.writing(prefix) as target, Watcher(target) as watcher:
            await _spread(source, services)
            running: Any = stage.bridge(prefix) if arm == "ours" else stage.raw("loop", prefix)
            if arm == "ours":
                running.written["registries"]["source"] |= {"max_polls": polls or services + 50, "wait": WAIT}
            async with running as process:
                if arm == "ours":
                    await process.start()
                    process = process.process
                await watcher.until(lambda watcher=watcher: len(watcher.marks) == services)  # type: ignore[misc]
                await settled(watcher, process, REST)
                await asyncio.sleep(INTERVAL)  # so that the first interval counted begins at rest, too
                spent, counts = machine.cpu(process.pid), []
                for _ in range(round(seconds / INTERVAL)):
                    await asyncio.sleep(INTERVAL)
                    counts.append(await asked_lately(source))
                cores[arm] = (machine.cpu(process.pid) - spent) / (INTERVAL * len(counts))
                requests[arm] = sum(counts) / len(counts)
                late[arm] = await _late(source, watcher, services, times)
    waits = {arm: {"p50": P50(found) * 1000, "p99": P99(found) * 1000} for arm, found in late.items()}
    cpu = cores["ours"] / cores["raw"] if cores["raw"] else 0.0
    name = f"{services:,} services watched{f' with {polls} polls' if polls else ''}"
    about = {"cores": cores, "requests_a_second": requests, "change_to_seen_ms": waits}
    found = [
        ("idle CPU", "cores", cores["ours"], cores["raw"], NO_GOAL),
        ("idle requests a second", "/s", requests["ours"], requests["raw"], NO_GOAL),
        ("idle CPU by raw", "x", cpu, None, NO_GOAL if polls else 1.2),
        ("change to seen p50", "ms", waits["ours"]["p50"], waits["raw"]["p50"], NO_GOAL),
        ("change to seen p99", "ms", waits["ours"]["p99"], waits["raw"]["p99"], NO_GOAL),
    ]
    return [
        Row(name=f"{name}: {what}", unit=unit, ours=ours, raw=raw, limit=limit, about=about)
        for what, unit, ours, raw, limit in found
    ]


async def asked_lately(source: Side) -> float:
    """Requests a second that the agent has answered in its last whole interval of ten seconds, by its own count."""
    return await cast(Consul, source).counted("api.http") / INTERVAL


async def _spread(source: Side, services: int) -> None:
    """One instance of each service."""
    numbers = [service * records.SIZE for service in range(services)]
    for first in range(0, services, 100):
        await source.register([(records.path(n), source.value(n)) for n in numbers[first : first + 100]])


async def _late(source: Side, watcher: Watcher, services: int, times: int) -> list[float]:
    """One change after the other, each of another service."""
    found = []
    for turn in range(1, times + 1):
        number = turn * 7919 % services * records.SIZE
        path, began = records.path(number), time.perf_counter()
        await source.register([(path, source.value(number, turn))])
        await watcher.until(lambda path=path, turn=turn: watcher.marks.get(path) == turn)  # type: ignore[misc]
        found.append(time.perf_counter() - began)
    return found


async def ticks(stage: Stage, changes: int) -> list[Row]:
    """Of Eureka: from the begin of the first answer that can have a change until it has arrived."""
    prefix = "/bench/ours/"
    late, whole = [], []
    async with counted(stage) as (seen, proxies), stage.reading(prefix) as source, stage.writing(prefix) as target:
        arrived: dict[tuple[str, int], float] = {}

        def told(path: str, mark: int, now: float) -> None:
            arrived[path, mark] = now

        async with Watcher(target, told) as watcher:
            await populate(source, 1_000)
            async with seen.bridge(prefix) as ours:
                await ours.start()
                await watcher.until(lambda: len(watcher.marks) == 1_000)
                before = await ours.propagated()
                for turn in range(1, changes + 1):
                    number = turn * 7919 % 1_000
                    path = records.path(number)
                    await source.register([(path, source.value(number, turn))])
                    changed = time.perf_counter()
                    await watcher.until(lambda path=path, turn=turn: (path, turn) in arrived)  # type: ignore[misc]
                    answers = [
                        at for _, at in cast(Piped, proxies["source"]).listens if changed < at < arrived[path, turn]
                    ]
                    late.append((arrived[path, turn] - answers[-1]) * 1000 if answers else 0.0)
                    whole.append((arrived[path, turn] - changed) * 1000)
                after = await ours.propagated()
    own = 1000 * (after.seconds - before.seconds) / (after.changes - before.changes)
    about = {
        "p99_ms": P99(late),
        "change_to_seen_ms": {"p50": P50(whole), "p99": P99(whole)},
        "poll_s": 1.0,
        "of_it_seen_to_written_mean_ms": own,  # by the daemon's own measure: the rest is Eureka's answer and the watch
    }
    return [Row(name="added latency over the poll tick, p50", unit="ms", ours=P50(late), limit=5.0, about=about)]


async def renewing(stage: Stage, count: int, seconds: float) -> list[Row]:
    """The daemon's CPU for the heartbeats of so many copies, and for all else that it does at rest."""
    prefix = "/bench/ours/"
    async with counted(stage) as (seen, proxies), stage.reading(prefix) as source:
        await populate(source, count)
        async with seen.bridge(prefix) as ours:
            await ours.start()
            proxy = proxies["target"]
            while proxy.requests["POST"] < count:
                await asyncio.sleep(0.5)
            await asyncio.sleep(30.0)  # one interval
            found = await _over(proxies, ours, seconds, None)
    cores = found["cores"]["daemon"]
    about = {"heartbeats_a_second": found["target"].get("PUT", 0.0), "by_method": found["target"]}
    name = f"CPU of the daemon with {count:,} heartbeats"
    return [Row(name=name, unit="cores", ours=cores, limit=0.05, about=about)]


async def peers(stage: Stage, seconds: float) -> list[Row]:
    """Change to seen by those who list everything each 30, 5 and 3 s, emulated; and by us, in the same run."""
    arms = {"ours": 0.0, "emulated, 30 s": 30.0, "emulated, 5 s": 5.0, "emulated, 3 s": 3.0}
    prefix = "/bench/ours/"
    due: dict[tuple[str, int], float] = {}
    late: dict[str, list[float]] = {arm: [] for arm in arms}
    async with stage.reading(prefix) as source, stage.writing(prefix) as target:

        def told(path: str, mark: int, now: float) -> None:
            if (path, mark) in due:
                late["ours"].append(now - due[path, mark])

        async def emulate(arm: str, every: float) -> None:
            marks: dict[str, int] = {}
            async with kind(stage.pair.source).open(stage.source.address, prefix) as side:
                while True:
                    await asyncio.sleep(every)
                    async for lot in side.read():
                        now = time.perf_counter()
                        for path, value in lot:
                            mark = records.mark(value)
                            if marks.get(path) != mark and (path, mark) in due:
                                late[arm].append(now - due[path, mark])
                            marks[path] = mark

        async with Watcher(target, told) as watcher, stage.bridge(prefix) as ours:
            await populate(source, 1_000)
            await ours.start()
            await watcher.until(lambda: len(watcher.marks) == 1_000)
            others = [asyncio.create_task(emulate(arm, every)) for arm, every in arms.items() if every]
            start, turn = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                turn += 1
                number = turn % 1_000  # each is changed once: who lists late has missed none
                path = records.path(number)
                due[path, turn] = time.perf_counter()
                await source.register([(path, source.value(number, turn))])
                await asyncio.sleep(max(0.1, seconds / 900))
            await asyncio.sleep(31.0)
            for each in others:
                each.cancel()
    return [
        Row(
            name=f"change to seen, {arm}, {name}",
            unit="ms",
            ours=statistic(late[arm]) * 1000,
            limit=NO_GOAL,
            about={"samples": len(late[arm])},
        )
        for arm in arms
        for name, statistic in (("p50", P50), ("p99", P99))
    ]
