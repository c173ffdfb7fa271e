"""The heartbeats of this bridge's entries in a Eureka: one for each entry in each interval, spread over it.

A heartbeat changes no status and removes nothing, so it needs no lock: the last writer sends them until another
process writes, and also under a freeze.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from zlib import crc32

from adapters.eureka.answers import Key
from bridge.adapter import Renewal
from bridge.errors import Denied, Unavailable

TICK = 0.5  # seconds; all heartbeats that are due within one tick are sent together
IN_FLIGHT = 16


class Heartbeats:
    """A timer wheel: the slot of an entry follows from its key. `interval` in seconds.

    `send(key)` returns whether the instance is registered; `missing(key)` is called where it is not.
    """

    def __init__(self, interval: float, send: Callable[[Key], Awaitable[bool]], missing: Callable[[Key], None]) -> None:
        self._interval = interval
        self._send = send
        self._missing = missing
        self._slots: list[dict[Key, None]] = [{} for _ in range(max(1, round(interval / TICK)))]
        self._turning: asyncio.Task[None] | None = None
        self._ended: list[asyncio.Task[None]] = []
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._behind = 0.0  # seconds by which the last tick was late
        self._failed_since: float | None = None  # since when every heartbeat has failed
        self.ends: dict[Key, int] = {}  # seconds that each entry lives without heartbeats

    def keep(self, key: Key, ttl: int) -> None:
        """Adds an entry, to be kept alive."""
        self.ends[key] = ttl
        self._slot(key)[key] = None

    def drop(self, key: Key) -> None:
        """Drops an entry that is gone or not ours."""
        if self.ends.pop(key, None) is not None:
            self._slot(key).pop(key, None)

    def start(self) -> None:
        """Starts sending."""
        if self._turning is None:
            self._turning = asyncio.get_running_loop().create_task(self._turn())

    def halt(self) -> None:
        """Stops sending. Nothing is cancelled at the server: the next writer renews what is there."""
        if self._turning is not None:
            self._turning.cancel()
            self._ended.append(self._turning)
        self._turning = None

    async def stop(self) -> None:
        """Stops sending, and waits for heartbeats in flight."""
        self.halt()
        await asyncio.gather(*self._ended, return_exceptions=True)
        self._ended.clear()

    @property
    def renewal(self) -> Renewal | None:
        """The state of the renewals; None: another process sends them."""
        if self._turning is None:
            return None
        lost = asyncio.get_running_loop().time() - self._failed_since if self._failed_since is not None else 0.0
        return Renewal(len(self.ends), self._interval, max(self._behind, lost), min(self.ends.values(), default=None))

    def _slot(self, key: Key) -> dict[Key, None]:
        return self._slots[crc32("/".join(key).encode()) % len(self._slots)]

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        due, turn = loop.time(), 0
        while True:
            self._behind = max(0.0, loop.time() - due)
            async with asyncio.TaskGroup() as tasks:
                for key in list(self._slots[turn % len(self._slots)]):
                    await self._room.acquire()
                    tasks.create_task(self._beat(key))
            turn += 1
            due += TICK
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _beat(self, key: Key) -> None:
        try:
            with contextlib.suppress(Unavailable, Denied):
                there = await self._send(key)
                self._failed_since = None
                if not there and key in self.ends:
                    self._missing(key)
                return
            if self._failed_since is None:
                self._failed_since = asyncio.get_running_loop().time()
        finally:
            self._room.release()
