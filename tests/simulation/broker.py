"""A broker of Kafka in virtual time, as far as the adapter of the stream uses one: what is written, fenced and read.

It stands below aiokafka's clients, so that all of the adapter runs above it. The real brokers are in tests/kill and
tests/adapters/kafka; here are the moments that they cannot be brought to: requests that are late by half a minute.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from aiokafka import TopicPartition, errors

from adapters.kafka import client, fetching, producing
from adapters.kafka.client import Cluster, Topic
from tests.simulation.loop import Loop

TRAVELS = 0.02  # seconds that a request takes at most, on a good day
Headers = tuple[tuple[str, bytes], ...]
Said = tuple[bytes, bytes | None, Headers]  # key, value and headers


class Record:
    """One record of a log. `open`: its transaction is not over; `void`: it was aborted, or is a marker."""

    def __init__(self, offset: int, key: bytes, value: bytes | None, headers: Headers) -> None:
        self.offset = offset
        self.key = key
        self.value = value
        self.headers = headers
        self.open = self.void = False


class Taken(NamedTuple):
    """What the broker says of a record that it has taken."""

    offset: int


class Broker:
    """The topics of one cluster. `committed` is called with each record as readers come to see it."""

    def __init__(self, loop: Loop, rng: random.Random, partitions: int) -> None:
        self.partitions = partitions
        self.topics: dict[str, list[list[Record]]] = {}
        self.late = 0.0  # seconds by which requests of producers are late
        self.committed: Callable[[str, int, Record], None] = lambda topic, partition, record: None
        self._loop = loop
        self._rng = rng
        self._up = asyncio.Event()
        self._up.set()
        self._news = asyncio.Event()
        self._epochs: dict[str, int] = {}
        self._open: dict[tuple[str, int], list[tuple[str, int, Record]]] = {}  # by id and epoch

    def down(self) -> None:
        """Nobody is answered."""
        self._up.clear()

    def back(self) -> None:
        """All who waited are answered."""
        self._up.set()

    def forget(self, topic: str) -> None:
        """It is deleted, and made again."""
        self.topics[topic] = [[] for _ in range(self.partitions)]
        self._stir()

    async def reached(self, late: float = 0.0) -> None:
        """A request travels, and waits while nobody answers."""
        await asyncio.sleep(self._rng.random() * TRAVELS + late)
        await self._up.wait()

    def log(self, part: TopicPartition) -> list[Record]:
        """One partition."""
        if part.topic not in self.topics:
            raise errors.UnknownTopicOrPartitionError
        return self.topics[part.topic][part.partition]

    def end(self, part: TopicPartition) -> int:
        """Up to where readers of what is committed may read."""
        log = self.log(part)
        return next((one.offset for one in log if one.open), len(log))

    def begin(self, id: str) -> int:
        """Who comes with that id from now on; whoever came before is fenced, and what it left open is aborted."""
        self._finish(id, commit=False)
        self._epochs[id] = self._epochs.get(id, 0) + 1
        return self._epochs[id]

    def append(self, part: TopicPartition, id: str | None, epoch: int, said: Said) -> int:
        """One record; its offset. Raises ProducerFenced."""
        if id is not None and epoch != self._epochs[id]:
            raise errors.ProducerFenced
        log = self.log(part)
        record = Record(len(log), *said)
        log.append(record)
        if id is None:
            self.committed(part.topic, part.partition, record)
            self._stir()
        else:
            record.open = True
            self._open.setdefault((id, epoch), []).append((part.topic, part.partition, record))
        return record.offset

    def commit(self, id: str, epoch: int) -> None:
        """The transaction of that producer is over. Raises ProducerFenced."""
        if epoch != self._epochs[id]:
            raise errors.ProducerFenced
        self._finish(id, commit=True)

    def _finish(self, id: str, *, commit: bool) -> None:
        made = self._open.pop((id, self._epochs.get(id, 0)), [])
        for topic, partition, record in made:
            record.open, record.void = False, not commit
            if commit:
                self.committed(topic, partition, record)
        for topic, partition in {(topic, partition): None for topic, partition, _ in made}:
            log = self.topics[topic][partition]
            marker = Record(len(log), b"", None, ())
            marker.void = True
            log.append(marker)
        self._stir()

    def _stir(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self, seconds: float) -> None:
        """Returns when something was written, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass

    def carry(self, work: Any) -> asyncio.Task[Any]:
        """What is on its way arrives, whatever becomes of who sent it."""
        return self._loop.spawn(None, work)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Inside, this is the broker that the adapter reaches."""
        broker = self

        async def describe(_: object, topic: str) -> Cluster:
            await client.asked(broker.reached())
            return Cluster("sim", Topic(broker.partitions, {}) if topic in broker.topics else None)

        async def create(_: object, topic: str, *__: object) -> None:
            await client.asked(broker.reached())
            if topic not in broker.topics:
                broker.forget(topic)

        async def why(_: object) -> None:
            return None

        replaced: list[tuple[Any, str, Any]] = [
            (client.Client, "describe", describe),
            (client.Client, "create", create),
            (client.Client, "_why", why),
            (producing, "AIOKafkaProducer", lambda **options: Producer(broker, options.get("transactional_id"))),
            (fetching, "AIOKafkaConsumer", lambda **how: Consumer(broker, how["isolation_level"] == "read_committed")),
        ]
        with ExitStack() as stack:
            for owner, name, instead in replaced:
                stack.enter_context(mock.patch.object(owner, name, instead))
            yield


class Batch:
    """As one of aiokafka: what is sent at once, each record behind the other."""

    def __init__(self) -> None:
        self.said: list[Said] = []

    def append(
        self, *, timestamp: None, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> bool | None:
        self.said.append((key, value, tuple(headers)))
        return True

    def close(self) -> None:
        return None


class Producer:
    """As AIOKafkaProducer: one request after the other; a plain one tries for ever."""

    def __init__(self, broker: Broker, id: str | None) -> None:
        self.client = self._sender = self  # what is closed where `stop` hangs
        self._txn_manager, self._message_accumulator = None, SimpleNamespace(_batches={})
        self._broker = broker
        self._id = id
        self._epoch = 0
        self._last: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        await self._broker.reached()
        if self._id is not None:
            self._epoch = self._broker.begin(self._id)

    async def send(
        self, topic: str, value: bytes | None, key: bytes, *, partition: int, headers: list[tuple[str, bytes]]
    ) -> asyncio.Future[Taken]:
        return self._send(TopicPartition(topic, partition), [(key, value, tuple(headers))])

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[Taken]:
        return self._send(TopicPartition(topic, partition), batch.said)

    def _send(self, part: TopicPartition, said: list[Said]) -> asyncio.Future[Taken]:
        answer: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._last = self._broker.carry(self._deliver(self._last, part, said, answer))
        return answer

    async def _deliver(self, before: asyncio.Task[Any] | None, part: Any, said: list[Said], answer: Any) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await self._broker.reached(self._broker.late)
        try:
            first, *_ = [self._broker.append(part, self._id, self._epoch, one) for one in said]
            taken = Taken(first)
        except errors.KafkaError as error:
            if not answer.done():
                answer.set_exception(error)
            return
        await self._broker.reached()
        if not answer.done():
            answer.set_result(taken)

    async def begin_transaction(self) -> None:
        return None

    async def commit_transaction(self) -> None:
        assert self._id is not None
        await self._broker.reached()
        self._broker.commit(self._id, self._epoch)

    async def stop(self) -> None:
        if self._last is not None and self._id is None:
            await asyncio.wait((self._last,))

    async def close(self) -> None:
        return None


class Consumer:
    """As AIOKafkaConsumer; `committed`: of what is."""

    def __init__(self, broker: Broker, committed: bool) -> None:
        self._broker = broker
        self._committed = committed
        self._at: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()

    async def start(self) -> None:
        await self._broker.reached()

    async def stop(self) -> None:
        return None

    def assign(self, parts: list[TopicPartition]) -> None:
        self._at = dict.fromkeys(parts, 0)

    def seek(self, part: TopicPartition, offset: int) -> None:
        self._at[part] = offset

    def pause(self, *parts: TopicPartition) -> None:
        self._paused.update(parts)

    def resume(self, *parts: TopicPartition) -> None:
        self._paused.difference_update(parts)

    async def beginning_offsets(self, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
        await self._broker.reached()
        return dict.fromkeys(parts, 0)

    async def end_offsets(self, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
        await self._broker.reached()
        return {part: self._broker.end(part) if self._committed else len(self._broker.log(part)) for part in parts}

    async def position(self, part: TopicPartition) -> int:
        return self._at[part]

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        await self._broker.reached()
        found = self._read()
        if not found:
            await self._broker.news(timeout_ms / 1000)
            await self._broker.reached()
            found = self._read()
        return found

    def _read(self) -> dict[TopicPartition, list[Record]]:
        found = {}
        for part, at in self._at.items():
            if part in self._paused:
                continue
            log, end = self._broker.log(part), self._broker.end(part)
            if at > len(log):
                raise errors.OffsetOutOfRangeError
            if records := [one for one in log[at:end] if not one.void]:
                found[part] = records
            self._at[part] = max(at, end)
        return found
