"""A program that reads a topic as the CloudEvents SDK's documentation shows: HOST:PORT TOPIC PARTITIONS.

It says each record in both of the SDK's ways, then that it has `read` all, a line of JSON each. A tombstone is no event
for the SDK: of it the raw headers are said.
"""

import asyncio
import json
import sys
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka  # type: ignore[import-not-found]
from cloudevents.core.formats.json import JSONFormat  # type: ignore[import-not-found]
from cloudevents.v1 import kafka as v1  # type: ignore[import-not-found]


async def main(address: str, topic: str, partitions: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=address, isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(int(partitions))]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    tell(record)
    finally:
        await consumer.stop()
    say("read")


def tell(record: Any) -> None:
    headers = dict(record.headers)
    if record.value is None:
        say("tombstone", record.key.decode(), {name: text.decode() for name, text in headers.items()})
        return
    event = from_kafka(KafkaMessage(headers, record.key, record.value), JSONFormat())
    before = v1.from_binary(v1.KafkaMessage(headers, record.key, record.value))
    assert (event.get_id(), event.get_type()) == (before["id"], before["type"])
    said = {name: str(value) for name, value in event.get_attributes().items()}
    say("event", said, event.get_data())
    assert before.get_data() == event.get_data()


def say(*words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
