"""Writing: adds and updates by an idempotent producer, and in transactions whatever takes something away.

A broker refuses the transactions of a writer that another one has followed (its id is fenced), not its plain writes; so
a writer that slept may add or repeat, and never remove, nor tell the log anything after its follower has begun. An
idempotent producer tries for ever: a record whose answer does not come in time is neither sent again nor taken back, it
is *pending* until the broker has said what became of it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from adapters.common.seat import in_force
from adapters.kafka.client import PATIENCE, Client, ended, translated
from bridge.adapter import Term
from bridge.errors import IsthmusError, Superseded, Unavailable
from mappings.kafka import Header

BATCH = 256 * 1024  # bytes of one partition in one request of a transaction: it is to take few
LARGEST = 1024 * 1024  # bytes of a value: a broker takes no larger batch unless it was told to
SLICE = 8  # records made or put into a batch in one go: a fraction of a millisecond, in which all else waits


class Outgoing(NamedTuple):
    """One record to be sent. `value` None: a tombstone."""

    topic: str
    partition: int
    key: bytes
    value: bytes | None
    headers: tuple[Header, ...]


class Numbers:
    """Numbers that never go back, for both topics: microseconds since the epoch, or one more than the last."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.last = 0

    def next(self) -> int:
        """One more."""
        self.last = max(self.last + 1, round(self._wall() * 1_000_000))
        return self.last


class Fenced:
    """A transactional producer, term by term: who begins one has the broker refuse all who began with its id before.

    `id`: the transactional id. What is sent is sent whole or not at all, and what the earlier ones left open has ended.
    """

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self._id = id
        self._producer: Any = None
        self._term: Term | None = None
        self._lock = asyncio.Lock()

    def needs(self, term: Term | None) -> bool:
        """Whether a term has not begun yet."""
        return self._producer is None or term is not self._term

    async def begin(self, term: Term | None) -> bool:
        """Begins a term, unless it has begun: whether it did. Raises Unavailable, Denied or Superseded."""
        async with self._lock:
            in_force(term)
            if not self.needs(term):
                return False
            await self._discard()
            self._producer = await started(self._client, transactional_id=self._id, max_batch_size=BATCH)
            self._term = term
            return True

    async def transact(self, records: Sequence[Outgoing], term: Term | None) -> list[int]:
        """Sends these in one transaction: all of them, or none. Their offsets.

        Raises Superseded where another writer has begun, and Unavailable where it is not known what became of it.
        """
        async with self._lock:
            in_force(term)
            if self.needs(term):
                raise Superseded("another term of the writer has begun")
            try:
                with translated("transaction"):
                    async with asyncio.timeout(2 * PATIENCE):
                        return await _transact(self._producer, records)
            except IsthmusError:
                # What became of it is known once its id is initialised anew, which ends what was left open.
                await self._discard()
                raise

    async def close(self) -> None:
        """Ends the producer. What is under way may still be committed."""
        await self._discard()

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        await _stop(producer)


class Producing:
    """The writes of one bridge to one stream, term by term; `acknowledged(record, offset)`: the broker took one."""

    def __init__(self, client: Client, transactional_id: str, acknowledged: Callable[[Outgoing, int], None]) -> None:
        self._client = client
        self._acknowledged = acknowledged
        self._plain: Any = None
        self._fenced = Fenced(client, transactional_id)
        self._pending: dict[bytes, asyncio.Task[int]] = {}
        self._lock = asyncio.Lock()

    def needs(self, term: Term | None) -> bool:
        """Whether a term has not begun yet."""
        return self._plain is None or self._fenced.needs(term)

    async def begin(self, term: Term | None) -> bool:
        """Before the first write of a term: from here on the broker refuses what earlier writers would take away.

        Whether this began a term. Raises Unavailable, Denied or Superseded.
        """
        begun = await self._fenced.begin(term)
        async with self._lock:
            if self._plain is None:
                self._plain = await started(self._client, enable_idempotence=True)
        return begun

    async def put(self, record: Outgoing) -> int:
        """Sends one record; its offset. Raises Unavailable where it, or an earlier one of its key, is pending."""
        before = self._pending.get(record.key)
        if before is not None:
            await asyncio.wait((before,), timeout=PATIENCE)
            if not before.done():
                raise Unavailable("an earlier record of this instance is still on its way to the broker")
        task = self._pending[record.key] = asyncio.create_task(self._send(self._plain, record))
        task.add_done_callback(lambda done: self._settled(record, done))
        await asyncio.wait((task,), timeout=PATIENCE)
        if not task.done():
            raise Unavailable(f"the broker has not acknowledged the record in {PATIENCE:g} s; it may take it later")
        return task.result()

    async def transact(self, records: Sequence[Outgoing], term: Term | None) -> list[int]:
        """See `Fenced.transact`. Raises Unavailable as well where an earlier record of a key is pending."""
        for record in records:
            if record.key in self._pending:
                raise Unavailable("an earlier record of this instance is still on its way to the broker")
        offsets = await self._fenced.transact(records, term)
        for record, offset in zip(records, offsets, strict=True):
            self._acknowledged(record, offset)
        return offsets

    async def close(self) -> None:
        """Ends both producers. What is pending may still have reached the broker."""
        await self._fenced.close()
        plain, self._plain = self._plain, None
        await _stop(plain)
        for task in list(self._pending.values()):
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    def _settled(self, record: Outgoing, task: asyncio.Task[int]) -> None:
        """The broker has said what became of a record, perhaps long after it was sent."""
        if self._pending.get(record.key) is task:
            del self._pending[record.key]
        if not task.cancelled() and task.exception() is None:
            self._acknowledged(record, task.result())

    async def _send(self, producer: Any, record: Outgoing) -> int:
        with translated("send"):
            return int((await (await _sent(producer, record))).offset)


async def started(client: Client, **options: Any) -> Any:
    """A producer of aiokafka that runs. Raises Unavailable or Denied."""
    producer = AIOKafkaProducer(
        **client.settings(), acks="all", linger_ms=0, request_timeout_ms=round(2 * PATIENCE * 1000), **options
    )
    try:
        await client.reached(producer.start)
    except BaseException:
        await _stop(producer)
        raise
    return producer


async def _transact(producer: Any, records: Sequence[Outgoing]) -> list[int]:
    """Partition by partition in batches: to hand records over one by one takes some ten times as long."""
    await producer.begin_transaction()
    sent: list[tuple[list[int], asyncio.Future[Any]]] = []
    for (topic, partition), numbers in _by_partition(records).items():
        rest = deque(numbers)
        while rest:
            batch, taken = await _batch(producer, records, rest)
            answer = await producer.send_batch(batch, topic, partition=partition)
            answer.add_done_callback(_heard)
            sent.append((taken, answer))
    offsets = [0] * len(records)
    for taken, answer in sent:
        first = int((await answer).offset)
        for number, place in enumerate(taken):
            offsets[place] = first + number
    await producer.commit_transaction()
    return offsets


def _by_partition(records: Sequence[Outgoing]) -> dict[tuple[str, int], list[int]]:
    """The places of the records of each partition, in their order."""
    found: dict[tuple[str, int], list[int]] = {}
    for place, record in enumerate(records):
        found.setdefault((record.topic, record.partition), []).append(place)
    return found


async def _batch(producer: Any, records: Sequence[Outgoing], rest: deque[int]) -> tuple[Any, list[int]]:
    """As many of the rest as one batch holds, taken off it; the first always fits. Raises MessageSizeTooLargeError."""
    batch, taken = producer.create_batch(), list[int]()
    while rest:
        record = records[rest[0]]
        if len(record.value or b"") > LARGEST:
            raise MessageSizeTooLargeError(f"its value has {len(record.value or b'')} bytes")
        said = {"key": record.key, "value": record.value, "headers": list(record.headers)}
        if batch.append(timestamp=None, **said) is None:
            break
        taken.append(rest.popleft())
        if len(taken) % SLICE == 0:
            await asyncio.sleep(0)
    batch.close()
    return batch, taken


async def _sent(producer: Any, record: Outgoing) -> asyncio.Future[Any]:
    """Hands one record over; what the broker says of it comes later. Where one of many fails, nobody hears the rest."""
    answer: asyncio.Future[Any] = await producer.send(
        record.topic, record.value, record.key, partition=record.partition, headers=list(record.headers)
    )
    answer.add_done_callback(_heard)
    return answer


def _heard(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()  # else asyncio takes it for an error that was overlooked


async def _stop(producer: Any) -> None:
    """Ends a producer, and does not wait for what it cannot deliver."""
    if producer is None:
        return
    waiters = [batch._drain_waiter for queue in producer._message_accumulator._batches.values() for batch in queue]
    if producer._txn_manager is not None and producer._txn_manager._transaction_waiter is not None:
        waiters.append(producer._txn_manager._transaction_waiter)
    if not await ended(producer.stop()):
        await ended(producer._sender.close())  # it would wait for its batches for ever
        await ended(producer.client.close())
    for waiter in waiters:  # what is fenced fails these too, though nobody waits for them
        if waiter.done():
            _heard(waiter)
