"""`python -m tests.bench.raw WORD SOURCE TARGET PREFIX`: the raw arms, each the smallest honest bridge there is.

No guard, no ownership, no state, no retries. SOURCE and TARGET are `kind=host:port`. It says `ready` on standard output
when it has begun, and `done SECONDS` at the end of what ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from bridge.state import known_lines
from tests.bench.sides import Record, Side, kind

IN_FLIGHT = 64  # writes of the concurrent loop that are under way at once
BATCH = 60  # records in one transaction, as many as the bridge writes in one
FLIGHTS = 16  # such transactions under way at once


def translated(source: Side, target: Side) -> Callable[[str, bytes], bytes]:
    """A record of one kind as one of the other. Stores take any bytes, and get them as they are."""
    if source.takes_bytes and target.takes_bytes:
        return lambda path, value: value
    return lambda path, value: target.encode(source.decode(path, value))


async def loop(source: Side, target: Side) -> None:
    """Copies one change after the other."""
    made = translated(source, target)
    async for changes in source.follow():
        if not changes:
            print("ready", flush=True)
        for path, value in changes:
            if value is None:
                await target.deregister([path])
            else:
                await target.put(path, made(path, value))


async def concurrent(source: Side, target: Side) -> None:
    """Copies changes, many at once and in any order."""
    slots = asyncio.Semaphore(IN_FLIGHT)
    made = translated(source, target)

    async def copy(path: str, value: bytes | None) -> None:
        if value is None:
            await target.deregister([path])
        else:
            await target.put(path, made(path, value))
        slots.release()

    async with asyncio.TaskGroup() as copies:
        async for changes in source.follow():
            if not changes:
                print("ready", flush=True)
            for path, value in changes:
                await slots.acquire()
                copies.create_task(copy(path, value))


async def listing(source: Side, target: Side) -> None:
    """Reads everything and decodes it."""
    decoder: msgspec.json.Decoder[object] = msgspec.json.Decoder(source.shape)
    began = time.perf_counter()
    found = {}
    async for records in source.read():
        for path, value in records:
            found[path] = decoder.decode(value)
    print(f"done {time.perf_counter() - began} {len(found)}", flush=True)


async def rebuild(source: Side, target: Side) -> None:
    """Reads all that the target's place holds, and decodes it."""
    await listing(target, source)


async def copy(source: Side, target: Side) -> None:
    """Reads everything and writes it."""
    began = time.perf_counter()
    slots = asyncio.Semaphore(FLIGHTS)
    made = translated(source, target)

    async def write(batch: list[Record]) -> None:
        await target.put_many([(path, made(path, value)) for path, value in batch])
        slots.release()

    async with asyncio.TaskGroup() as writes:
        async for records in source.read():
            for first in range(0, len(records), BATCH):
                await slots.acquire()
                writes.create_task(write(list(records[first : first + BATCH])))
    print(f"done {time.perf_counter() - began}", flush=True)


def decode(folder: str) -> None:
    """Decodes all files of last known good, whatever they mean."""
    began = time.perf_counter()
    found = []
    for path in Path(folder).iterdir():
        for text in path.read_bytes().splitlines():
            found.append(known_lines.DECODER.decode(memoryview(text)[9:]))
    print(f"done {time.perf_counter() - began}", flush=True)


ARMS: dict[str, Callable[[Side, Side], Awaitable[None]]] = {
    "loop": loop,
    "concurrent": concurrent,
    "listing": listing,
    "rebuild": rebuild,
    "copy": copy,
}


async def run(word: str, source: str, target: str, prefix: str) -> None:
    """One arm between two servers."""
    (source_kind, _, source_address), (target_kind, _, target_address) = source.partition("="), target.partition("=")
    async with (
        kind(source_kind).open(source_address, prefix) as reads,
        kind(target_kind).open(target_address, prefix) as writes,
    ):
        await ARMS[word](reads, writes)


if __name__ == "__main__":
    if sys.argv[1] == "decode":
        decode(sys.argv[2])
    else:
        asyncio.run(run(*sys.argv[1:]))
