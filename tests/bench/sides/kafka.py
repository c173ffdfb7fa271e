"""Kafka as a target: the state topic of a stream, by bare clients of aiokafka with the same settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError

from bridge.model import ServiceName
from mappings import kafka as mapping
from tests.bench.sides import Record
from tests.servers.kafka import Kafka as Server

PARTITIONS = 3
LINK: dict[str, Any] = {}
LOCK_TTL = 0.0  # it has no lock
NOTE = ""


def server(folder: Path, name: str, arms: int = 1) -> Server:
    return Server(folder, name=name)


def open(address: str, prefix: str) -> Kafka:
    return Kafka(address, prefix)


def block(address: str, prefix: str) -> dict[str, Any]:
    return {"kind": "kafka", "bootstrap_servers": [address], "state_topic": topic(prefix), "partitions": PARTITIONS}


def topic(prefix: str) -> str:
    """The topic that stands for what is below a prefix elsewhere."""
    return prefix.strip("/").replace("/", ".")


class Kafka:
    """See `tests.bench.sides.Side`. Natives write nothing there."""

    shape = mapping.State
    takes_bytes = True

    def __init__(self, address: str, prefix: str) -> None:
        self._address = address
        self._topic = topic(prefix)
        self._producer: Any = None

    async def __aenter__(self) -> Self:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._address)
        await admin.start()
        try:
            with suppress(TopicAlreadyExistsError):
                wanted = NewTopic(self._topic, PARTITIONS, 1, topic_configs={"cleanup.policy": "compact"})
                await admin.create_topics([wanted])
        finally:
            await admin.close()
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._address, acks="all", linger_ms=0, enable_idempotence=True
        )
        await self._producer.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._producer.stop()

    def value(self, number: int, mark: int = 0) -> bytes:
        raise NotImplementedError

    async def register(self, lot: Sequence[Record]) -> None:
        raise NotImplementedError

    async def deregister(self, paths: Sequence[str]) -> None:
        for path in paths:
            await self._send(path, None)

    async def put(self, path: str, value: bytes) -> None:
        await self._send(path, value)

    async def put_many(self, lot: Sequence[Record]) -> None:
        for path, value in lot:
            await self._send(path, value)

    async def _send(self, path: str, value: bytes | None) -> None:
        service, _, id = path.partition("/")
        name = ServiceName(service, "source")
        where = mapping.partition_of(name, PARTITIONS)
        await self._producer.send_and_wait(self._topic, value, mapping.key_of(name, id), partition=where)

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        async for lot in self._records():
            yield [(path, value) for path, value in lot if value is not None]

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        async for lot in self._records(ever=True):
            yield lot

    async def writes(self) -> int:
        return sum([len(lot) async for lot in self._records()])

    async def _records(self, *, ever: bool = False) -> AsyncIterator[list[tuple[str, bytes | None]]]:
        """Paths and values in lots, all that there are, but what says that a scope is whole; `ever`: from now on."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._address,
            isolation_level="read_committed",
            enable_auto_commit=False,
            max_partition_fetch_bytes=4 << 20,
        )
        await consumer.start()
        try:
            parts = [TopicPartition(self._topic, number) for number in range(PARTITIONS)]
            consumer.assign(parts)
            ends = await consumer.end_offsets(parts)
            begin = ends if ever else await consumer.beginning_offsets(parts)
            for part in parts:
                consumer.seek(part, begin[part])
            if ever:
                yield []
            while ever or any([await consumer.position(part) < end for part, end in ends.items()]):
                found = await consumer.getmany(timeout_ms=200)
                if lot := [one for records in found.values() for record in records if (one := _read(record))]:
                    yield lot
        finally:
            await consumer.stop()


def _read(record: Any) -> tuple[str, bytes | None] | None:
    if record.key.startswith(b".complete/"):
        return None
    _, _, service, id = record.key.decode().split("/")
    return f"{service}/{id}", record.value
