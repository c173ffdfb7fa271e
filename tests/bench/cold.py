"""Rows 5, 6 and 8: everything for the first time, beside a raw reader, a raw copy and a raw decode."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from tests.bench.figures import ratio
from tests.bench.stage import Stage, Watcher, populate, settled, to_its_end
from tests.bench.table import Row

PREFIX = "/bench/cold/"
ARMS = ("ours", "raw", "again")

Took = Mapping[str, float]  # seconds of each arm in one turn


async def listing(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the begin of a watch to Synced in the store, beside reading and decoding; each in a process of its own."""
    async with stage.reading(PREFIX) as source:
        await populate(source, count)
    words = [stage.pair.source, stage.source.address, PREFIX]
    took: list[Took] = []
    for turn in range(-1, repetitions):
        seconds: dict[str, float] = {}
        for arm in order(turn):
            if arm == "ours":
                command = [sys.executable, "-m", "tests.bench.synced", *words, str(stage.folder / f"state{turn}")]
                said = await to_its_end(stage.child("listing"), [*command, str(count)])
            else:
                said = await stage.raw_to_its_end("listing", PREFIX)
            seconds[arm] = float(said[0])
        took.append(seconds)
    return [row(f"cold list of {count:,} to Synced", took[1:], 1.5)]


async def copying(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the start of the process until the last instance stands at the target."""
    took: list[Took] = []
    for turn in range(-1, repetitions):
        seconds: dict[str, float] = {}
        for arm in order(turn):
            prefix = f"/bench/{arm}{turn}/"
            async with stage.reading(prefix) as source, stage.writing(prefix) as target, Watcher(target) as watcher:
                await populate(source, count)
                began = time.perf_counter()
                if arm == "ours":
                    async with stage.bridge(prefix) as bridge:
                        await bridge.start()
                        await watcher.until(lambda watcher=watcher: len(watcher.marks) == count)  # type: ignore[misc]
                        seconds[arm] = time.perf_counter() - began
                        await settled(watcher, bridge.process)
                else:
                    await stage.raw_to_its_end("copy", prefix)
                    await watcher.until(lambda watcher=watcher: len(watcher.marks) == count)  # type: ignore[misc]
                    seconds[arm] = time.perf_counter() - began
        took.append(seconds)
    return [row(f"cold copy of {count:,}", took[1:], 1.7)]


async def restart(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the start of the process until /readyz, both servers down, beside a process that decodes the same files."""
    took: list[Took] = []
    async with stage.bridge(PREFIX) as bridge:
        async with stage.reading(PREFIX) as source, stage.writing(PREFIX) as target, Watcher(target) as watcher:
            await populate(source, count)
            await bridge.start()
            await watcher.until(lambda: len(watcher.marks) == count)
            await settled(watcher, bridge.process)
        await bridge.process.stop()
        await stage.source.stop()
        await stage.target.stop()
        known = bridge.state / "known"
        size = sum(path.stat().st_size for path in known.iterdir())
        command = [sys.executable, "-m", "tests.bench.raw", "decode", str(known)]
        decoding = []
        for _ in range(repetitions):
            ready = await bridge.start()
            await bridge.process.kill()
            raw = []
            for _ in range(2):
                began = time.perf_counter()
                said = await to_its_end(stage.child("decode"), command)
                raw.append(time.perf_counter() - began)
                decoding.append(float(said[0]))
            took.append({"ours": ready, "raw": raw[0], "again": raw[1]})
    about = {"file_bytes": size, "decode_alone_seconds": min(decoding)}
    return [row(f"restart to ready, {count:,} from disk", took, 2.5, **about)]


def order(turn: int) -> Sequence[str]:
    """The arms take turns in being first. Turn -1 counts for nothing: a server's first answers are its slowest."""
    return (*ARMS[turn % 3 :], *ARMS[: turn % 3]) if turn >= 0 else ("raw",)


def row(name: str, took: Sequence[Took], limit: float, **about: object) -> Row:
    """What was measured of the three arms."""
    ours, raw, again = ([each[arm] for each in took] for arm in ARMS)
    return Row(
        name=name,
        unit="s",
        ours=sum(ours) / len(ours),
        raw=sum(raw + again) / (2 * len(raw)),
        ratio=ratio([([each["ours"]], [each["raw"], each["again"]]) for each in took]),
        aa=ratio([([each["raw"]], [each["again"]]) for each in took]),
        limit=limit,
        about={"seconds": took, **about},
    )
