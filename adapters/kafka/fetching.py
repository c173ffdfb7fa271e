"""One connection to the state topic, by which those who follow its partitions read them, each from its beginning.

All partitions are assigned by hand (a group would move them), and those that nobody follows are paused: so one more, or
one less, is nothing to the others. Only what is committed is read, and the end is asked for by a call that has a time:
a fetch of a topic that is gone or forbidden just waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from adapters.kafka.client import Client, asked, stopped, translated
from bridge.errors import Expired, IsthmusError, Unavailable

EVERY = 2.0  # seconds between two questions whether the topic is still there, and where it ends
FETCH = 4 * 1024 * 1024  # bytes of one partition in an answer

Offsets = dict[TopicPartition, int]


class Follower(Protocol):
    """Who reads some partitions. `error`: why it reads no more."""

    @property
    def error(self) -> IsthmusError | None: ...

    def take(self, partition: int, records: Iterable[Any]) -> None:
        """Records of one of them, in their order. May raise what `fail` is then told."""
        ...

    def fail(self, error: IsthmusError) -> None:
        """Nothing more comes, and why."""
        ...


class Fetching:
    """The connection. `partitions`: how many the topic has. `error`: why it has ended; its followers are told, too."""

    def __init__(self, client: Client, topic: str, partitions: int) -> None:
        self.partitions = partitions
        self.error: IsthmusError | None = None
        self._client = client
        self._parts = [TopicPartition(topic, number) for number in range(partitions)]
        self._followers: dict[int, Follower] = {}
        self._moved = asyncio.Event()
        self._consumer: Any = None
        self._asking: Any = None  # has a connection of its own: answers wait behind a fetch, which waits for news
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connects, and reads nothing yet. Raises Unavailable or Denied."""
        settings = {**self._client.settings(), "auto_offset_reset": "none", "enable_auto_commit": False}
        self._consumer = AIOKafkaConsumer(**settings, isolation_level="read_committed", max_partition_fetch_bytes=FETCH)
        self._asking = AIOKafkaConsumer(**settings, isolation_level="read_uncommitted")
        for one in (self._consumer, self._asking):
            await self._client.reached(one.start)
        self._consumer.assign(self._parts)
        self._rest(self._parts)
        self._tasks = [asyncio.create_task(self._guarded(work)) for work in (self._read, self._look)]

    async def close(self) -> None:
        """Ends it."""
        self._fail(Expired("the topic is read anew"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(stopped(one) for one in (self._consumer, self._asking) if one is not None))

    async def follow(self, follower: Follower, partitions: Collection[int]) -> Offsets:
        """Reads these from their beginning; where they ended when it began. Raises Unavailable or Denied."""
        parts = [self._parts[number] for number in partitions]
        begin = await asked(self._consumer.beginning_offsets(parts))
        end = await self.committed_end(partitions)
        if follower.error is not None:
            raise follower.error
        for part in parts:
            self._followers[part.partition] = follower
            self._consumer.seek(part, begin[part])
        self._consumer.resume(*parts)
        return end

    def forget(self, follower: Follower) -> None:
        """Reads nothing more for that one."""
        parts = [part for part in self._parts if self._followers.get(part.partition) is follower]
        for part in parts:
            del self._followers[part.partition]
        if self.error is None:
            self._rest(parts)

    async def committed_end(self, partitions: Collection[int]) -> Offsets:
        """Where these end now for readers; of a transaction that was committed a moment ago they may see nothing yet.

        Raises Unavailable, Denied, or what ended the connection.
        """
        return await self._end(self._consumer, partitions)

    async def written_end(self, partitions: Collection[int]) -> Offsets:
        """Where these end now, with what is not committed yet. Raises as `committed_end`."""
        return await self._end(self._asking, partitions)

    async def reached(self, end: Offsets, follower: Follower) -> None:
        """Returns when everything before these offsets is read; a position moves past markers of transactions, too.

        Raises what ends the follower in the meantime.
        """
        for part, offset in end.items():
            while await self._consumer.position(part) < offset:
                if follower.error is not None:
                    raise follower.error
                self._moved.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):  # a marker alone wakes nobody
                        await self._moved.wait()
        if follower.error is not None:
            raise follower.error

    def _rest(self, parts: Collection[TopicPartition]) -> None:
        """Has nothing of them fetched; what an answer under way brings is passed over, for it is of another place."""
        self._consumer.pause(*parts)
        for part in parts:
            self._consumer.seek(part, 0)

    async def _end(self, asking: Any, partitions: Collection[int]) -> Offsets:
        if self.error is not None:
            raise self.error
        try:
            end: Offsets = await asked(asking.end_offsets([self._parts[number] for number in partitions]))
        except IsthmusError as error:
            self._fail(error)
            raise
        return end

    async def _read(self) -> None:
        while True:
            with translated("read"):
                batches = await self._consumer.getmany(timeout_ms=1000)
            for part, records in batches.items():
                if (follower := self._followers.get(part.partition)) is None:
                    continue
                try:
                    follower.take(part.partition, records)
                except IsthmusError as error:
                    follower.fail(error)
            self._moved.set()
            await asyncio.sleep(0)

    async def _look(self) -> None:
        """Finds a topic that was deleted, also where it was made again, and brokers that answer no more."""
        while True:
            await asyncio.sleep(EVERY)
            end = await self.written_end(list(self._followers) or [0])
            for part, offset in end.items():
                if part.partition in self._followers and offset < await self._consumer.position(part):
                    raise Expired("the topic ends before what was read of it: it was deleted and made again")

    async def _guarded(self, work: Callable[[], Any]) -> None:
        try:
            await work()
        except IsthmusError as error:
            self._fail(error)
        except Exception as bug:
            self._fail(Unavailable(f"the reading of the topic failed: {bug!r}"))
            raise

    def _fail(self, error: IsthmusError) -> None:
        self.error = self.error or error
        self._moved.set()
        for follower in set(self._followers.values()):
            follower.fail(self.error)
