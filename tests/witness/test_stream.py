"""Readers of Kafka that are not ours: the CloudEvents SDK for Python, and kcat, read every record of both topics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest_asyncio

from mappings import kafka as mapping
from tests.conftest import provided
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.stream import TOPIC, Stream
from tests.kit.waiting import until
from tests.servers import kcat
from tests.servers.kafka import Kafka
from tests.witness import apart

LOG = "isthmus.changes"
PARTITIONS = 2
NAME = "pay/\N{SNOWMAN} %2F"  # what a key and a header may hold only in other words


class Published(NamedTuple):
    """Both topics, of a bridge that has written, changed and removed; with all that a reader of ours finds there."""

    address: str
    records: dict[str, list[Any]]  # by topic


@pytest_asyncio.fixture
async def published(kafka: Kafka, folder: Path) -> AsyncIterator[Published]:
    inventory = Folder(folder / "inventory")
    inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3={"address": "192.0.2.3", "metadata": {"name": NAME}})
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "stream": {
            "kind": "kafka",
            "bootstrap_servers": [kafka.address],
            "partitions": PARTITIONS,
            "changes_topic": LOG,
        },
    }
    guard = {"confirm_event": "1s", "confirm_absence": "1s"}
    link = {"from": "inventory", "to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": guard}
    async with (
        Stream.open(kafka, PARTITIONS) as state,
        Stream.open(kafka, PARTITIONS, LOG) as log,
        Bridge(folder, registries, [link], seat="inventory") as bridge,
    ):
        await until(lambda: whole(state), "it is whole")
        inventory.set("pay", i1="192.0.2.1", i3="192.0.2.13", **{NAME: "192.0.2.4"})
        await until(lambda: removed(log), "the log has the removal")
        await until(bridge.rests)
        assert await bridge.stop() == 0
        yield Published(kafka.address, {TOPIC: await state.records(), LOG: await log.records()})


async def whole(state: Stream) -> bool:
    return len(await state.completes()) >= PARTITIONS


async def removed(log: Stream) -> bool:
    types = [dict(one.headers)["ce_type"] for one in await log.records()]
    return {b"io.isthmus.entry.removed.v1", b"io.isthmus.instance.changed.v1"} <= set(types)


async def test_the_cloudevents_sdk_makes_an_event_of_every_record(published: Published) -> None:
    with provided():
        await asyncio.to_thread(apart.CLOUDEVENTS.python)
    for topic, records in published.records.items():
        async with apart.client(apart.CLOUDEVENTS, published.address, topic, str(PARTITIONS)) as reader:
            await until(lambda: ["read"] in reader.said, "it has read everything")
        events = [words for kind, *words in reader.said if kind == "event"]
        wanted = [record for record in records if record.value is not None]
        assert sorted(said["id"] for said, _ in events) == sorted(header(one, "ce_id") for one in wanted)
        by_id = {said["id"]: (said, data) for said, data in events}
        for record in wanted:
            said, data = by_id[header(record, "ce_id")]
            assert data == json.loads(record.value)
            assert said.items() >= attributes(record).items()
            assert said["partitionkey"] == record.key.decode()
        stones = [words for kind, *words in reader.said if kind == "tombstone"]
        assert [(key, said["ce_type"]) for key, said in stones] == [
            (record.key.decode(), mapping.REMOVED) for record in records if record.value is None
        ]


async def test_kcat_shows_every_record_with_its_headers(published: Published) -> None:
    with provided():
        await asyncio.to_thread(kcat.program)
    for topic, records in published.records.items():
        shown = await kcat.read(published.address, topic)
        assert sorted((one["partition"], one["offset"], one["key"], one["payload"]) for one in shown) == [
            (one.partition, one.offset, one.key.decode(), one.value.decode() if one.value is not None else None)
            for one in records
        ]
        headers = {(one["partition"], one["offset"]): one["headers"] for one in shown}
        for record in records:
            assert headers[record.partition, record.offset] == {name: text.decode() for name, text in record.headers}


def header(record: Any, name: str) -> str:
    text: bytes = dict(record.headers)[name]
    return text.decode()


def attributes(record: Any) -> dict[str, str]:
    """What an event of it says of itself, but for its time, which the SDK gives in a form of its own."""
    said = {name.removeprefix("ce_"): text.decode() for name, text in record.headers if name.startswith("ce_")}
    del said["time"]
    return {**said, "datacontenttype": "application/json"}
