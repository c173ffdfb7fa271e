"""How often a source is listed: one that flaps seldom, a shard each time that this process asks for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from bridge.adapter import Listing, Observed, Synced
from bridge.errors import Unavailable
from bridge.model import ServiceName
from bridge.shards import part_of
from bridge.sources.feed import Feed
from bridge.sources.store import Store
from tests.kit.waiting import until

TIMES = 8


class Source:
    """Lists nothing, then ends in one way as soon as it is told to."""

    def __init__(self, scope: str, error: Unavailable | None) -> None:
        self.scope = scope
        self.listed = 0
        self.ends = asyncio.Event()
        self._error = error

    @property
    def ignored(self) -> dict[str, str]:
        return {}

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        self.ends.clear()
        yield Listing("one", "", 0)
        yield Synced()
        self.listed += 1
        await self.ends.wait()
        assert self._error is not None
        raise self._error.with_traceback(None)

    async def read(self, name: ServiceName) -> Observed:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("scope", "error", "rests"),
    [
        (part_of("a", 1), None, False),
        (part_of("a", 1), Unavailable("this part is not read now", retry_after=0.0), False),
        (part_of("a", 1), Unavailable("no answer"), True),
        ("a", None, True),
        ("a", Unavailable("throttled", retry_after=0.0), True),
    ],
)
async def test_what_is_listed_again_by_our_own_doing_is_listed_at_once(
    scope: str, error: Unavailable | None, rests: bool
) -> None:
    delays: list[float] = []
    source, view = Source(scope, error), Store(time.monotonic).view("stream", scope)

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        await asyncio.sleep(0)

    feed = Feed(source, view, time.monotonic, random.Random(1), sleep)  # type: ignore[arg-type]
    running = asyncio.create_task(feed.run())
    for number in range(1, TIMES):
        await until(lambda number=number: source.listed == number)
        if error is None:
            feed.relist("it is another's turn")
        else:
            source.ends.set()
    await until(lambda: source.listed == TIMES)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (max(delays) > 1.0) == rests
