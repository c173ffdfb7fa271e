"""Readers that are not ours: the example in deploy/, the CloudEvents SDK, and what compaction leaves of a topic."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

from bridge.adapter import Change, Whole
from mappings import kafka as mapping
from tests.adapters.kafka.test_source import CORE, PAY, publish, say
from tests.adapters.kafka.test_topics import seated
from tests.conformance.lab import write
from tests.kit.builders import instance
from tests.kit.stream import TOPIC, Stream
from tests.kit.waiting import until
from tests.servers.kafka import Kafka

PARTITIONS = 3


def example() -> ModuleType:
    """deploy/examples/consumer.py, as a module."""
    path = Path(__file__).parents[3] / "deploy" / "examples" / "consumer.py"
    spec = importlib.util.spec_from_file_location("consumer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_the_example_knows_the_picture_and_drops_what_went_while_it_was_away(kafka: Kafka) -> None:
    consumer = example()
    async with seated(kafka) as sink:
        one, two = await write(sink, publish("core", instance("i1")), publish("core", instance("i2")))
        # The tombstone of i9 is gone; of legacy nothing is said.
        starved: dict[bytes, dict[str, object]] = {b"core//pay/i9": {}, b"legacy//pay/i1": {}}
        picture = consumer.Picture(PARTITIONS, starved)
        await consumer.follow(kafka.address, TOPIC, picture, PARTITIONS, for_ever=False)
        assert picture.instances.keys() == {*starved, b"core//pay/i1", b"core//pay/i2"}, "not whole: nothing is gone"
        await say(sink, CORE)
        await write(sink, Change(mapping.in_picture("core", PAY), "i2", two, None))
        await consumer.follow(kafka.address, TOPIC, picture, PARTITIONS, for_ever=False)
        assert picture.whole == {"core/dc1"}
        assert picture.instances.keys() == {b"legacy//pay/i1", b"core//pay/i1"}
        assert picture.instances[b"core//pay/i1"]["instance"]["address"] == one.instance.address


async def test_what_compaction_leaves_is_the_picture_and_that_it_is_whole(kafka_server: object) -> None:
    server: Kafka = await kafka_server(settings={"log.cleaner.backoff.ms": "200"})  # type: ignore[operator]
    small = {"segment.ms": "500", "min.cleanable.dirty.ratio": "0.01", "delete.retention.ms": "500"}
    async with Stream.open(server, PARTITIONS) as stream:
        await stream.create(**small, **{"min.compaction.lag.ms": "0"})
        async with seated(server) as sink:
            entries = await write(sink, *(publish("core", instance(f"i{number}")) for number in range(20)))
            await say(sink, CORE)
            name = mapping.in_picture("core", PAY)
            await write(sink, *(Change(name, one.instance.id, one, None) for one in entries[:15]))
            generation = 1
            left = {one.instance.id for one in entries[15:]}

            async def compacted() -> bool:
                nonlocal generation
                generation += 1
                await say(sink, Whole("core", "dc1", "consul:abc", "1", generation, "core"))  # rolls the segments
                records = await stream.records()
                mine = [one for one in records if not mapping.place_of(one.key).complete]
                return len(mine) == len(left)

            await until(compacted, within=120)
            assert (await stream.state())[name].keys() == left
            found = {one.partition: one for one in await stream.completes()}
            assert found.keys() == set(range(PARTITIONS))
            assert sum(one.count for one in found.values()) == len(left)
        async with seated(server) as fresh:
            assert (await fresh.held()).services[name].keys() == left
            await asyncio.sleep(0)
