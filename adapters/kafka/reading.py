"""The state topic, read whole and then followed: one reader for the sink and for every source of a registry.

Partitions are assigned by hand (a group would move them), only what is committed is read, and the end is asked for by
a call that has a time: a fetch of a topic that is gone or forbidden just waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from adapters.common.inbox import Inbox
from adapters.kafka.client import PATIENCE, Client, asked, stopped, translated
from adapters.kafka.topics import Kept
from adapters.kafka.working_copy import Told, WorkingCopy
from bridge.errors import Expired, IsthmusError, Unavailable
from mappings.kafka import Complete

EVERY = 2.0  # seconds between two questions whether the topic is still there, and where it ends
FETCH = 4 * 1024 * 1024  # bytes of one partition in an answer


class Reader:
    """Follows the state topic as long as somebody asks for it; `is_ours(sequence)`: whether this process wrote it."""

    def __init__(self, client: Client, topic: Kept, is_ours: Callable[[int], bool]) -> None:
        self._client = client
        self._topic = topic
        self._is_ours = is_ours
        self._following: Following | None = None
        self._starting = asyncio.Lock()

    async def following(self) -> Following:
        """The topic, read to the end that it had when the reading began. Raises Unavailable or Denied."""
        async with self._starting:
            if self._following is not None and self._following.error is not None:
                await self._following.close()
                self._following = None
            if self._following is None:
                topic = await self._topic.found()
                following = Following(self._client, self._topic.name, topic.partitions, self._is_ours)
                try:
                    await following.start()
                except BaseException:
                    await following.close()
                    raise
                self._following = following
            return self._following

    @property
    def is_following(self) -> bool:
        """Whether the topic is read, and was there a moment ago."""
        return self._following is not None and self._following.error is None

    async def close(self) -> None:
        """Reads no more."""
        if self._following is not None:
            await self._following.close()
            self._following = None


class Following:
    """One reading of the topic. `error`: why it has ended; whoever listens is told as well."""

    def __init__(self, client: Client, topic: str, partitions: int, is_ours: Callable[[int], bool]) -> None:
        self.copy = WorkingCopy(partitions)
        self.error: IsthmusError | None = None
        self._client = client
        self._parts = [TopicPartition(topic, number) for number in range(partitions)]
        self._is_ours = is_ours
        self._listeners: list[Inbox[tuple[Told, bool]]] = []
        self._moved = asyncio.Event()
        self._consumer: Any = None
        self._asking: Any = None  # has a connection of its own: answers wait behind a fetch, which waits for news
        self._live: dict[int, int] = {}  # from this offset on, a partition was followed without a gap
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Reads everything there is."""
        settings = {**self._client.settings(), "auto_offset_reset": "none", "enable_auto_commit": False}
        self._consumer = AIOKafkaConsumer(**settings, isolation_level="read_committed", max_partition_fetch_bytes=FETCH)
        self._asking = AIOKafkaConsumer(**settings, isolation_level="read_uncommitted")
        for one in (self._consumer, self._asking):
            await self._client.reached(one.start)
        self._consumer.assign(self._parts)
        begin = await asked(self._consumer.beginning_offsets(self._parts))
        end = await self._end(self._consumer)
        for part in self._parts:
            self._consumer.seek(part, begin[part])
            self._live[part.partition] = end[part]
        self._tasks = [asyncio.create_task(self._guarded(work)) for work in (self._read, self._look)]
        await self.reach(end)

    async def close(self) -> None:
        """Ends it, and says so to whoever listens."""
        self._fail(Expired("the topic is read anew"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in (self._consumer, self._asking):
            if one is not None:
                await stopped(one)

    def listen(self) -> Inbox[tuple[Told, bool]]:
        """All that changes from now on, each with whether this process wrote it."""
        inbox: Inbox[tuple[Told, bool]] = Inbox()
        self._listeners.append(inbox)
        if self.error is not None:
            inbox.fail(self.error)
        return inbox

    def deafen(self, inbox: Inbox[tuple[Told, bool]]) -> None:
        """Nothing more to that one."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(inbox)

    async def committed(self) -> WorkingCopy:
        """The copy, with all that readers could see when this was called. Raises Unavailable, Denied or Expired.

        Of a transaction that was committed a moment ago they may see nothing yet; and nobody waits for one that a
        writer left open when it died, which ends after its time.
        """
        await self.reach(await self._end(self._consumer))
        return self.copy

    async def caught_up(self) -> WorkingCopy:
        """The copy, with all that was written when this was called and is committed. Raises as `committed`.

        What is under way is waited for: its writer may know already that it is committed.
        """
        end = await self._end(self._asking)
        try:
            async with asyncio.timeout(PATIENCE):
                await self.reach(end)
        except TimeoutError:
            raise Unavailable("somebody's transaction is still open: it is not known what is committed") from None
        return self.copy

    async def reach(self, end: dict[TopicPartition, int]) -> None:
        """Reads on to these offsets; a position moves past markers of transactions, too."""
        for part, offset in end.items():
            while await self._consumer.position(part) < offset:
                if self.error is not None:
                    raise self.error
                self._moved.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):  # a marker alone wakes nobody
                        await self._moved.wait()
        if self.error is not None:
            raise self.error

    def tell(self, told: Told, *, ours: bool) -> None:
        """Tells whoever listens what a record changed."""
        if told.service is not None or told.complete is not None:
            for inbox in self._listeners:
                inbox.post((told, ours))

    async def _end(self, asking: Any) -> dict[TopicPartition, int]:
        """Where each partition ends now, for who reads as that one does."""
        if self.error is not None:
            raise self.error
        try:
            end: dict[TopicPartition, int] = await asked(asking.end_offsets(self._parts))
        except IsthmusError as error:
            self._fail(error)
            raise
        return end

    async def _read(self) -> None:
        while True:
            with translated("read"):
                batches = await self._consumer.getmany(timeout_ms=1000)
            for part, records in batches.items():
                self._take(part.partition, records)
            self._moved.set()
            await asyncio.sleep(0)

    def _take(self, partition: int, records: Iterable[Any]) -> None:
        for record in records:
            told = self.copy.take(partition, record.offset, record.key, record.value, record.headers)
            ours = self._is_ours(self.copy.last)
            if told.complete is not None and not ours and record.offset >= self._live[partition]:
                self._audit(told.complete)
            self.tell(told, ours=ours)

    def _audit(self, complete: Complete) -> None:
        """Whether this reader, which missed nothing in that partition, has what the writer says there is."""
        if complete.audit != (mine := self.copy.audit(complete)):
            raise Expired(
                f"partition {complete.partition}: {complete.scope} has {complete.count} records there, and "
                f"{mine[0]} were read: it is read anew"
            )

    async def _look(self) -> None:
        """Finds a topic that was deleted, also where it was made again, and brokers that answer no more."""
        while True:
            await asyncio.sleep(EVERY)
            end = await self._end(self._asking)
            for part, offset in end.items():
                if offset < await self._consumer.position(part):
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
        for inbox in self._listeners:
            inbox.fail(self.error)
