"""The heartbeats of all that this bridge has at a Eureka: one round in each interval, spread over it.

A heartbeat changes no status and takes nothing away, so it needs no lock: whoever wrote last sends them on until
another writes, and under a freeze.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from zlib import crc32

from adapters.eureka.answers import Key
from bridge.adapter import Renewal
from bridge.errors import Denied, Unavailable

TICK = 0.5  # seconds: those that fall due within one are sent together
IN_FLIGHT = 16


class Heartbeats:
    """The wheel: each entry has its place in the interval, by its name. `interval` in seconds.

    `send(key)` says whether somebody of that name is registered; `missing(key)` is called where nobody is.
    """

    def __init__(self, interval: float, send: Callable[[Key], Awaitable[bool]], missing: Callable[[Key], None]) -> None:
        self._interval = interval
        self._send = send
        self._missing = missing
        self._slots: list[dict[Key, None]] = [{} for _ in range(max(1, round(interval / TICK)))]
        self._turning: asyncio.Task[None] | None = None
        self._ended: list[asyncio.Task[None]] = []
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._behind = 0.0  # seconds by which the last tick came late
        self._failed_since: float | None = None  # since when no heartbeat has arrived
        self.ends: dict[Key, int] = {}  # seconds that each entry lives without any

    def keep(self, key: Key, ttl: int) -> None:
        """This entry is to be kept alive, too."""
        self.ends[key] = ttl
        self._slot(key)[key] = None

    def drop(self, key: Key) -> None:
        """This one is no more, or is not ours."""
        if self.ends.pop(key, None) is not None:
            self._slot(key).pop(key, None)

    def start(self) -> None:
        """Turns from now on."""
        if self._turning is None:
            self._turning = asyncio.get_running_loop().create_task(self._turn())

    def halt(self) -> None:
        """Sends no more; nothing is cancelled at the server: whoever comes next renews what is there."""
        if self._turning is not None:
            self._turning.cancel()
            self._ended.append(self._turning)
        self._turning = None

    async def stop(self) -> None:
        """The same, and waits for what is under way."""
        self.halt()
        await asyncio.gather(*self._ended, return_exceptions=True)
        self._ended.clear()

    @property
    def renewal(self) -> Renewal | None:
        """How it goes; None: another process renews."""
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
