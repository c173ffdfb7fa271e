"""The log topic, read back: what happened since a time, and what comes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from aiokafka import AIOKafkaConsumer, TopicPartition

from adapters.kafka.client import Client, asked, stopped, translated
from adapters.kafka.topics import Kept
from bridge.adapter import Event
from bridge.errors import Expired
from bridge.model import ServiceName
from mappings import kafka as mapping


async def events(client: Client, topic: Kept, since: float, *, follow: bool) -> AsyncIterator[list[Event]]:
    """See `bridge.adapter.Logged`."""
    found = await topic.found()
    parts = [TopicPartition(topic.name, number) for number in range(found.partitions)]
    consumer = AIOKafkaConsumer(
        **client.settings(), isolation_level="read_committed", auto_offset_reset="none", enable_auto_commit=False
    )
    try:
        await client.reached(consumer.start)
        consumer.assign(parts)
        ends = await _begin(consumer, parts, since)
        first: list[Any] = []
        while any([await consumer.position(part) < end for part, end in ends.items()]):
            first += await _some(consumer, parts)
        yield _in_order(first)
        while follow:
            if records := await _some(consumer, parts):
                yield _in_order(records)
    finally:
        await stopped(consumer)


async def _begin(consumer: Any, parts: list[TopicPartition], since: float) -> dict[TopicPartition, int]:
    """Where each partition ends now; reading begins at the first record of that time or later."""
    ends: dict[TopicPartition, int] = await asked(consumer.end_offsets(parts))
    begins = await asked(consumer.offsets_for_times({part: max(0, round(since * 1000)) for part in parts}))
    for part in parts:
        begin = begins.get(part)
        consumer.seek(part, begin.offset if begin is not None else ends[part])
    return ends


async def _some(consumer: Any, parts: list[TopicPartition]) -> list[Any]:
    """What comes within a second; where nothing does, whether the topic is still there: a fetch would wait for ever."""
    with translated("read"):
        batches = await consumer.getmany(timeout_ms=1000)
    if not batches:
        ends = await asked(consumer.end_offsets(parts))
        if any([await consumer.position(part) > end for part, end in ends.items()]):
            raise Expired("the log ends before what was read of it: its topic was deleted and made again")
    return [record for records in batches.values() for record in records]


def _in_order(records: Iterable[Any]) -> list[Event]:
    """By the numbers that their writers gave."""
    ordered = sorted(records, key=lambda record: mapping.sequence_of(record.headers))
    return [event_of(record.key, record.value, record.headers) for record in ordered]


def event_of(key: bytes | None, value: bytes | None, headers: Iterable[mapping.Header]) -> Event:
    """What a record of the log says; what it lacks is empty."""
    said = {name.removeprefix("ce_"): text.decode(errors="replace") for name, text in headers}
    service = unquote((key or b"-").decode(errors="replace"))
    return Event(
        type=said.get("type", ""),
        about=unquote(said.get("source", "").rpartition("/")[2]),
        subject=said.get("subject", ""),
        service=ServiceName.parse(service) if service != "-" else None,
        seconds=datetime.fromisoformat(said["time"]).timestamp() if "time" in said else 0.0,
        id=said.get("id", ""),
        data=value or b"{}",
        trace=said.get("traceparent", ""),
    )
