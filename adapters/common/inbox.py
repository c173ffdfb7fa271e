"""What tasks and callbacks tell a consumer in its own time: taken together, a failure after all that came before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Inbox(Generic[T]):
    """Items in their order, for one consumer. `room`: so many are read ahead of it, 0: any number.

    Not a TaskGroup's business: that would cancel whoever consumes an asynchronous generator (PEP 789).
    """

    def __init__(self, room: int = 0) -> None:
        self._items: list[T] = []
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Semaphore(room) if room else None
        self._taken = 0  # places that the consumer gives back with its next `take`

    async def put(self, item: T) -> None:
        """Waits for room."""
        if self._room is not None:
            await self._room.acquire()
            self._taken += 1
        self.post(item)

    def post(self, item: T) -> None:
        """Never waits."""
        self._items.append(item)
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """The first failure counts; nothing that arrives after it is taken."""
        self._failure = self._failure or error
        self._arrived.set()

    async def take(self) -> tuple[list[T], Exception | None]:
        """All that has arrived, at least one item or the failure, which is raised once this is dealt with."""
        await self._arrived.wait()
        items, self._items = self._items, []
        if self._room is not None:
            taken, self._taken = self._taken, 0
            for _ in range(taken):
                self._room.release()
        if self._failure is None:
            self._arrived.clear()
        return items, self._failure

    def run(self, make: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """A task whose failure comes by this inbox."""

        async def run() -> None:
            try:
                await make()
            except Exception as error:
                self.fail(error)

        return asyncio.create_task(run())


class Latest(Generic[K, V]):
    """The latest value of each key, for one consumer: what was overtaken before it was taken is never seen."""

    def __init__(self) -> None:
        self._values: dict[K, V] = {}
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, key: K, value: V) -> None:
        """In the place of an earlier value of the key; never waits."""
        self._values.pop(key, None)
        self._values[key] = value
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Raised by `take` when everything that came before it is taken; the first failure counts."""
        self._failure = self._failure or error
        self._arrived.set()

    async def take(self) -> dict[K, V]:
        """The values that arrived since, at least one, the oldest first; raises the failure."""
        await self._arrived.wait()
        if not self._values and self._failure is not None:
            raise self._failure
        values, self._values = self._values, {}
        if self._failure is None:
            self._arrived.clear()
        return values
