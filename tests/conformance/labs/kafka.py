"""The laboratories of a stream, as a destination and as a source; others write and read with plain clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from adapters.kafka import Config, create
from adapters.kafka.client import stopped
from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Registry
from bridge.model import Instance, Mark, ServiceName
from mappings import kafka as mapping
from tests.conformance.lab import Can, Form, Kind, Lab, as_it_is
from tests.kit.proxy import Proxy
from tests.kit.stream import TOPIC, Stream
from tests.servers.kafka import Kafka

PARTITIONS = 3
PICTURE, PUBLISHED, PUBLISHER = "core", "etcd:1/grpc", "bridge-p"


class KafkaLab:
    """The bridge comes through a proxy. The seat is lent by a registry in memory."""

    can: frozenset[Can] = frozenset({"change", "write", "spoil", "cut", "adopt"})

    def __init__(self, stream: Stream, server: str, proxy: Proxy) -> None:
        self.form: Form = as_it_is
        self._stream = stream
        self._server = server
        self._proxy = proxy
        self._seats = Store("lender")

    def lender(self) -> Registry | None:
        return Memory("lender", self._seats)

    def registry(self) -> Registry:
        return create("lab", Config(bootstrap_servers=[self._server], partitions=PARTITIONS), None)

    async def register(self, service: ServiceName, instance: Instance) -> None:
        await self._stream.put(service, instance.id, mapping.encode(service, instance, None))

    async def deregister(self, service: ServiceName, id: str) -> None:
        await self._stream.put(service, id, None)

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._stream.put(service, id, b"no JSON")

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        found = (await self._stream.state()).get(service, {})
        return {id: (one.address, one.ports[0].number) for id, one in found.items()}

    async def place(self) -> object:
        return await self._stream.ends()

    async def erase(self, service: ServiceName, id: str) -> None:
        await self.deregister(service, id)

    async def cut(self) -> None:
        await self._proxy.refuse()

    async def heal(self) -> None:
        await self._proxy.heal()

    async def steal(self, bridge: str) -> None:
        raise NotImplementedError  # it has no lock

    async def expire(self, bridge: str) -> None:
        raise NotImplementedError  # nothing in it ends with its writer


class PublishedLab(KafkaLab):
    """What a registry `core` holds, published by another bridge: a native there has a record that is marked so here."""

    can: frozenset[Can] = frozenset({"change", "spoil", "cut"})

    async def begin(self, consumer: Any) -> None:
        """The picture is whole, and empty; the consumer is a plain one, by which the truth is read."""
        await self._stream.create()
        self._values: dict[bytes, bytes | None] = {}
        self._consumer = consumer
        self._parts = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        consumer.assign(self._parts)
        await consumer.seek_to_beginning(*self._parts)
        for partition in range(PARTITIONS):
            complete = mapping.Complete(
                scope=PICTURE,
                picture=PICTURE,
                registry=PICTURE,
                part="",
                identity=PUBLISHED,
                incarnation="1",
                generation=1,
                partition=partition,
                partitions=PARTITIONS,
                count=0,
                digest="0" * 16,
                sequence=1,
                owner=PUBLISHER,
            )
            key = mapping.complete_key(PICTURE, partition)
            await self._stream.raw(key, partition, mapping.encode_complete(complete))

    async def register(self, service: ServiceName, instance: Instance) -> None:
        mark = Mark(PUBLISHER, "published", (PUBLISHED,), "", service, instance.id)
        name = mapping.in_picture(PICTURE, service)
        await self._write(name, instance.id, mapping.encode(name, instance, mark))

    async def deregister(self, service: ServiceName, id: str) -> None:
        await self._write(mapping.in_picture(PICTURE, service), id, None)

    async def spoil(self, service: ServiceName, id: str) -> None:
        await self._write(mapping.in_picture(PICTURE, service), id, b"no JSON")

    async def _write(self, name: ServiceName, id: str, value: bytes | None) -> None:
        await self._stream.raw(mapping.key_of(name, id), mapping.partition_of(name, PARTITIONS), value)

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        ends = await self._consumer.end_offsets(self._parts)
        while any([await self._consumer.position(part) < end for part, end in ends.items()]):
            for records in (await self._consumer.getmany(timeout_ms=50)).values():
                self._values.update((record.key, record.value) for record in records)
        prefix = mapping.key_of(mapping.in_picture(PICTURE, service), "")
        found = [json.loads(one)["instance"] for key, one in self._values.items() if key.startswith(prefix) and one]
        return {one["id"]: (one["address"], one["ports"][0]["number"]) for one in found}


@asynccontextmanager
async def _open_published(server: Kafka, folder: Path) -> AsyncIterator[Lab]:
    async with server.behind_a_proxy() as proxy, Stream.open(server, PARTITIONS) as stream:
        lab = PublishedLab(stream, proxy.address, proxy)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=server.address,
            isolation_level="read_committed",
            fetch_max_wait_ms=5,  # it is asked for the end behind each fetch
        )
        await consumer.start()
        try:
            await lab.begin(consumer)
            yield lab
        finally:
            await stopped(consumer)


@asynccontextmanager
async def _open(server: Kafka, folder: Path) -> AsyncIterator[Lab]:
    async with server.behind_a_proxy() as proxy, Stream.open(server, PARTITIONS) as stream:
        await stream.create()
        yield KafkaLab(stream, proxy.address, proxy)


KINDS = {
    "kafka": Kind("kafka", _open, frozenset({"sink", "natives"})),
    "stream": Kind("kafka", _open_published, frozenset({"source"})),
}
