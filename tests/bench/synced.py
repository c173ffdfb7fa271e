"""`python -m tests.bench.synced KIND HOST:PORT PREFIX STATE COUNT`: how long feed and store take to be synced."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from pathlib import Path

import msgspec

from bridge.config import kinds
from bridge.sources.feed import Feed
from bridge.sources.store import Store
from bridge.state import folder as state
from tests.bench.sides import kind


async def main(name: str, address: str, prefix: str, folder: str, count: str) -> None:
    """Says `done SECONDS` once the store has everything; last known good is recorded beside it, as in the daemon."""
    gc.freeze()  # as in the daemon
    gc.set_threshold(50_000, 20, 100)
    block = kind(name).block(address, prefix)
    module = kinds.adapter(block.pop("kind"))
    registry = module.create("source", msgspec.convert(block, module.Config), None)
    with state.opened(Path(folder), "bench") as kept:
        store = Store(time.monotonic, recorder=kept.known)
        async with registry:
            await registry.reach()  # a raw arm has connected, too, before its time begins
            began = time.perf_counter()
            async for source in registry.scopes():  # some kinds read before they know their scopes
                view = store.view("source", source.scope)
                following = asyncio.create_task(Feed(source, view, time.monotonic, random.Random(1)).run())
                while not view.synced:
                    await store.newer(store.version)
                seconds = time.perf_counter() - began
                found = sum(len(service.instances) for service in view.services.values())
                assert found == int(count), found
                print(f"done {seconds}", flush=True)
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                return


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
