"""The rows of the stream alone: what it costs the links beside it, and how fast its picture is built anew."""

from __future__ import annotations

import random
import sys
from contextlib import AsyncExitStack

from tests.bench import cold, latency
from tests.bench.sides import Side, kind
from tests.bench.stage import Stage, Watcher, populate, settled, to_its_end
from tests.bench.table import Row

PREFIX = "/bench/rebuild/"
COST = 1.10  # times the latency without a stream
ARMS = ("with", "without", "again")


async def rebuild(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the begin of a watch on the state topic to Synced in the store, beside reading and decoding its records."""
    async with stage.reading(PREFIX) as source, stage.writing(PREFIX) as target, Watcher(target) as watcher:
        await populate(source, count)
        async with stage.bridge(PREFIX) as bridge:
            await bridge.start()
            await watcher.until(lambda: len(watcher.marks) == count)
            await settled(watcher, bridge.process, 3.0)  # it has said that it is whole
    words = [stage.pair.target, stage.target.address, PREFIX]
    took: list[cold.Took] = []
    for turn in range(-1, repetitions):
        seconds: dict[str, float] = {}
        for arm in cold.order(turn):
            if arm == "ours":
                command = [sys.executable, "-m", "tests.bench.synced", *words, str(stage.folder / f"state{turn}")]
                said = await to_its_end(stage.child("rebuild"), [*command, str(count)])
            else:
                said = await stage.raw_to_its_end("rebuild", PREFIX)
            seconds[arm] = float(said[0])
        took.append(seconds)
    return [cold.row(f"rebuild of {count:,} from the state topic", took[1:], 1.5)]


async def beside(stage: Stage, seconds: float, rng: random.Random) -> list[Row]:
    """The latency of a link between two registries, with a stream of the source beside it and without."""
    async with AsyncExitStack() as stack:
        driven = latency.Driven(ARMS)
        sides: dict[str, Side] = {}
        for arm in ARMS:
            prefix, mirror = f"/bench/{arm}/", f"/bench/mirror/{arm}/"
            sides[arm] = await stack.enter_async_context(stage.reading(prefix))
            target = await stack.enter_async_context(stage.reading(mirror))
            watcher = await stack.enter_async_context(Watcher(target, driven.arrived(arm)))
            ours = stage.bridge(prefix)
            place = kind(stage.pair.source)
            ours.written["registries"]["mirror"] = place.block(stage.source.address, mirror)
            ours.written["registries"]["target"]["changes_topic"] = f"bench.{arm}.log"
            ours.written["links"].insert(0, {**ours.written["links"][0], "to": "mirror", **place.LINK})
            if arm != ARMS[0]:
                del ours.written["registries"]["target"], ours.written["links"][1]
            await stack.enter_async_context(ours)
            await populate(sides[arm], latency.INSTANCES)
            await ours.start()
            await watcher.until(lambda watcher=watcher: len(watcher.marks) == latency.INSTANCES)  # type: ignore[misc]
            await settled(watcher, ours.process)
        await driven.drive(sides, seconds, rng)
    return driven.rows("cost of the stream, latency", COST, COST)
