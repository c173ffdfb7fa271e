"""A process that holds a shard until it is killed, and what begins it (`python -m tests.kit.holding`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from bridge.config import kinds
from bridge.shards import Shards

HELD = b"held\n"


@asynccontextmanager
async def holding(
    kind: str, block: Mapping[str, Any], name: str, bridge: str, shard: int, count: int, who: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Inside, another process holds that shard; it is killed at the end, if it still lives."""
    about = (kind, json.dumps(block), name, bridge, str(shard), str(count), who)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.kit.holding", *about, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == HELD
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _hold(kind: str, block: str, name: str, bridge: str, shard: str, count: str, who: str) -> None:
    options = msgspec.convert(json.loads(block), kinds.adapter(kind).Config)
    async with kinds.make(name, kind, options, None) as registry:
        seat = registry.seat(bridge, name)
        assert isinstance(seat, Shards)
        async with seat.take(int(shard), int(count), who, claim=True):
            sys.stdout.buffer.write(HELD)
            sys.stdout.flush()
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_hold(*sys.argv[1:]))
