"""A state topic as others read and write it: with plain clients, past our adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from adapters.kafka.client import stopped
from bridge.model import Instance, ServiceName
from mappings import kafka as mapping
from tests.servers.kafka import Kafka

TOPIC = "isthmus.state"


class Stream:
    """One topic with so many partitions; made on the first write, where it is missing."""

    def __init__(self, server: Kafka, topic: str, partitions: int, producer: Any) -> None:
        self.server = server
        self.topic = topic
        self.partitions = partitions
        self._producer = producer

    @staticmethod
    @asynccontextmanager
    async def open(server: Kafka, partitions: int, topic: str = TOPIC) -> AsyncIterator[Stream]:
        """With a producer of that server."""
        producer = AIOKafkaProducer(bootstrap_servers=[one.address for one in server.nodes], acks="all")
        await producer.start()
        try:
            yield Stream(server, topic, partitions, producer)
        finally:
            await producer.stop()

    async def create(self, **settings: str) -> None:
        """The topic, where it is missing."""
        async with self.server.admin() as admin:
            if self.topic not in await admin.list_topics():
                config = {"cleanup.policy": "compact", **settings}
                await admin.create_topics([NewTopic(self.topic, self.partitions, 1, topic_configs=config)])

    async def drop(self) -> None:
        """No topic any more; returns when the broker says so."""
        async with self.server.admin() as admin:
            await admin.delete_topics([self.topic])
            while self.topic in await admin.list_topics():
                await asyncio.sleep(0.05)

    async def put(self, service: ServiceName, id: str, value: bytes | None, **headers: str) -> None:
        """A record as anybody may write it; None: a tombstone."""
        await self.create()
        await self._producer.send_and_wait(
            self.topic,
            value,
            mapping.key_of(service, id),
            partition=mapping.partition_of(service, self.partitions),
            headers=[(name, text.encode()) for name, text in headers.items()],
        )

    async def raw(self, key: bytes, partition: int, value: bytes | None) -> None:
        """Any record in any partition."""
        await self._producer.send_and_wait(self.topic, value, key, partition=partition)

    async def records(self) -> list[Any]:
        """Every record that is committed now, partition by partition, as aiokafka gives them."""
        found: list[Any] = []
        async with self._reading() as (consumer, ends):
            while any([await consumer.position(part) < end for part, end in ends.items()]):
                for some in (await consumer.getmany(timeout_ms=50)).values():
                    found += some
        return sorted(found, key=lambda one: (one.partition, one.offset))

    async def ends(self) -> list[tuple[int, int]]:
        """How far each partition was written."""
        async with self._reading() as (_, ends):
            return sorted((part.partition, end) for part, end in ends.items())

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[Any, dict[TopicPartition, int]]]:
        """A consumer at the beginning of the topic, and where it ends; a missing topic has no partitions."""
        async with self.server.admin() as admin:
            there = self.topic in await admin.list_topics()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=[one.address for one in self.server.nodes],
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            parts = [TopicPartition(self.topic, number) for number in range(self.partitions if there else 0)]
            consumer.assign(parts)
            if parts:
                await consumer.seek_to_beginning(*parts)
            yield consumer, await consumer.end_offsets(parts) if parts else {}
        finally:
            await stopped(consumer)

    async def state(self) -> dict[ServiceName, dict[str, Instance]]:
        """What a reader makes of the topic: the latest of every instance."""
        found: dict[ServiceName, dict[str, Instance]] = {}
        for record in await self.records():
            place = mapping.place_of(record.key)
            if place.complete:
                continue
            if record.value is None:
                found.get(place.service, {}).pop(place.id, None)
            elif record.value != b"no JSON":
                found.setdefault(place.service, {})[place.id] = mapping.decode(place, record.value)[0]
        return {name: instances for name, instances in found.items() if instances}

    async def completes(self) -> list[mapping.Complete]:
        """The `complete` records, in the order of partition and offset."""
        return [
            mapping.decode_complete(record.value)
            for record in await self.records()
            if record.value is not None and mapping.place_of(record.key).complete
        ]
