"""Rows 5, 6 and 8: everything for the first time, beside a raw reader, a raw copy and a raw decode."""

from __future__ import annotations

import sys
import time

from tests.bench.figures import ratio
from tests.bench.stage import Stage, Watcher, populate, settled, to_its_end
from tests.bench.table import Row

PREFIX = "/bench/cold/"


async def listing(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the begin of a watch to Synced in the store, beside reading and decoding; each in a process of its own."""
    async with stage.reading(PREFIX) as source:
        await populate(source, count)
    words = [stage.pair.source, stage.source.address, PREFIX]
    took: list[tuple[float, float, float]] = []
    for turn in range(repetitions):
        state = stage.folder / f"state{turn}"
        ours = await to_its_end(
            stage.child("listing"), [sys.executable, "-m", "tests.bench.synced", *words, str(state), str(count)]
        )
        raw, again = [await stage.raw_to_its_end("listing", PREFIX) for _ in range(2)]
        took.append((float(ours[0]), float(raw[0]), float(again[0])))
    return [_row(f"cold list of {count:,} to Synced", took, 1.5)]


async def copying(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the start of the process until the last instance stands at the target."""
    took: list[tuple[float, float, float]] = []
    for turn in range(repetitions):
        seconds = []
        for arm in ("ours", "raw", "again"):
            prefix = f"/bench/{arm}{turn}/"
            async with stage.reading(prefix) as source, stage.writing(prefix) as target, Watcher(target) as watcher:
                await populate(source, count)
                began = time.perf_counter()
                if arm == "ours":
                    async with stage.bridge(prefix) as bridge:
                        await bridge.start()
                        await watcher.until(lambda watcher=watcher: len(watcher.marks) == count)  # type: ignore[misc]
                        seconds.append(time.perf_counter() - began)
                        await settled(watcher, bridge.process)
                else:
                    await stage.raw_to_its_end("copy", prefix)
                    await watcher.until(lambda watcher=watcher: len(watcher.marks) == count)  # type: ignore[misc]
                    seconds.append(time.perf_counter() - began)
        took.append((seconds[0], seconds[1], seconds[2]))
    return [_row(f"cold copy of {count:,}", took, 1.7)]


async def restart(stage: Stage, count: int, repetitions: int) -> list[Row]:
    """From the start of the process until /readyz, both servers down, beside a process that decodes the same files."""
    took: list[tuple[float, float, float]] = []
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
            took.append((ready, raw[0], raw[1]))
    about = {"file_bytes": size, "decode_alone_seconds": min(decoding)}
    return [_row(f"restart to ready, {count:,} from disk", took, 2.5, **about)]


def _row(name: str, took: list[tuple[float, float, float]], limit: float, **about: object) -> Row:
    ours, raw, again = zip(*took, strict=True)
    return Row(
        name=name,
        unit="s",
        ours=sum(ours) / len(ours),
        raw=sum(raw + again) / (2 * len(raw)),
        ratio=ratio([([each[0]], [each[1], each[2]]) for each in took]),
        aa=ratio([([each[1]], [each[2]]) for each in took]),
        limit=limit,
        about={"seconds": took, **about},
    )
