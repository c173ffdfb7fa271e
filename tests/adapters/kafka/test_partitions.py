"""A stream that is read a partition at a time: each is a source of its own, and moves without the others."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from adapters.kafka import Config, create
from adapters.kafka import Kafka as Registry
from adapters.kafka.source import KafkaSource
from bridge.adapter import Change, Entry, Listing, Whole
from bridge.errors import Expired, Unavailable
from bridge.model import Mark, ServiceName
from bridge.shards import Divided
from mappings import kafka as mapping
from tests.adapters.kafka.test_source import CORE, say
from tests.adapters.kafka.test_topics import PARTITIONS, delete, made, seated, topic
from tests.conformance.lab import BRIDGE, Watching, watching, write
from tests.kit.builders import instance
from tests.kit.seated import Seated
from tests.kit.stream import Stream
from tests.kit.waiting import until
from tests.servers.kafka import Kafka

ALL = frozenset(range(PARTITIONS))


def service(shard: int) -> ServiceName:
    """One whose records are in that partition."""
    return next(
        name
        for name in (ServiceName(f"s{number}") for number in range(100))
        if mapping.shard_of(name, PARTITIONS) == shard
    )


def publish(shard: int, id: str) -> Change:
    name = service(shard)
    mark = Mark(BRIDGE, "core-to-stream", ("consul:abc",), "dc1", name, id)
    return Change(mapping.in_picture("core", name), id, None, instance(id), mark)


def remove(shard: int, entry: Entry) -> Change:
    return Change(mapping.in_picture("core", service(shard)), entry.instance.id, entry, None)


class Reading:
    """A registry that is read by shards, with all sources that it has told of."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.sources: dict[str, KafkaSource] = {}

    async def source(self, shard: int, scope: str = "core/dc1") -> KafkaSource:
        name = f"{scope}/#{shard}"
        await until(lambda: name in self.sources)
        return self.sources[name]

    async def hear(self) -> None:
        async with aclosing(cast(Any, self.registry.scopes())) as found:
            async for source in found:
                assert source.scope not in self.sources
                self.sources[source.scope] = source


@asynccontextmanager
async def reading(kafka: Kafka, *shards: int, **config: Any) -> AsyncIterator[Reading]:
    async with made(kafka, **config) as registry:
        registry.read(frozenset(shards))
        one = Reading(registry)
        task = asyncio.create_task(one.hear())
        try:
            yield one
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def published(kafka: Kafka) -> AsyncIterator[tuple[Seated, list[Entry]]]:
    """A scope with an instance in each partition, whole."""
    async with seated(kafka) as sink:
        entries = await write(sink, *(publish(shard, f"i{shard}") for shard in ALL))
        await say(sink, CORE)
        yield sink, list(entries)


def ids(watch: Watching, shard: int) -> set[str]:
    return set(watch.service(service(shard)).instances)


async def failed(watch: Watching) -> None:
    await watch.until(lambda: watch.error is not None)


async def synced(watch: Watching) -> None:
    await watch.until(lambda: watch.synced)


def test_a_service_is_in_the_shard_whose_partition_has_its_records() -> None:
    registry: Divided = create("stream", Config(bootstrap_servers=["127.0.0.1:1"], partitions=PARTITIONS), None)
    for number in range(50):
        own = ServiceName(f"s{number}", "ns" if number % 2 else "")
        assert registry.shard_of(own) == mapping.partition_of(mapping.in_picture("core", own), registry.shards)


async def test_each_shard_of_a_scope_is_a_source_that_has_its_services_alone(kafka: Kafka) -> None:
    async with published(kafka) as (_, _), reading(kafka, 0, 2) as found, AsyncExitStack() as stack:
        for shard in (0, 2):
            watch = await stack.enter_async_context(watching(await found.source(shard)))
            await synced(watch)
            assert watch.said[0] == Listing("consul:abc", "1", 1, part="dc1")
            assert {one: ids(watch, one) for one in ALL} == {one: {f"i{one}"} if one == shard else set() for one in ALL}
        assert found.sources.keys() == {"core/dc1/#0", "core/dc1/#2"}
        found.registry.read(ALL)
        observed = await (await found.source(1)).read(service(1))
        assert observed.service.instances.keys() == {"i1"}


async def test_a_shard_comes_and_goes_and_the_others_are_not_read_anew(kafka: Kafka) -> None:
    async with published(kafka) as (sink, _), reading(kafka, 0, 1) as found:
        async with watching(await found.source(0)) as stays, watching(await found.source(1)) as goes:
            await synced(stays)
            await synced(goes)
            copy = weakref.ref((await found.registry._reader.following(1)).copy)
            found.registry.read(frozenset((0, 2)))
            await failed(goes)
            assert isinstance(goes.error, Unavailable)
            goes.error = None  # its traceback knows what the watch knew
            with pytest.raises(Unavailable):
                await found.sources["core/dc1/#1"].read(service(1))
            await found.source(2)
            await write(sink, publish(0, "new"))
            await stays.until(lambda: ids(stays, 0) == {"i0", "new"})
            assert sum(isinstance(word, Listing) for word in stays.said) == 1
        gc.collect()
        assert copy() is None, "what was read of it has left memory"


async def test_what_went_while_a_shard_was_not_read_is_not_listed_on_its_return(kafka: Kafka) -> None:
    async with published(kafka) as (sink, entries), reading(kafka, 0, 1) as found:
        source = await found.source(1)
        async with watching(source) as watch:
            await synced(watch)
            await write(sink, publish(1, "kept"))
            await watch.until(lambda: ids(watch, 1) == {"i1", "kept"})
            found.registry.read(frozenset((0,)))
            await failed(watch)
        await write(sink, remove(1, entries[1]))
        async with watching(source) as watch:  # it waits until the shard is read again
            found.registry.read(frozenset((0, 1)))
            await synced(watch)
            assert ids(watch, 1) == {"kept"}
        assert len(found.sources) == 2, "it is the same source"


async def test_a_scope_that_is_not_whole_in_a_partition_is_no_source_there(kafka: Kafka) -> None:
    async with published(kafka) as (_, _), Stream.open(kafka, PARTITIONS) as stream:
        (said,) = [one for one in await stream.completes() if one.partition == 1]
        key = mapping.complete_key("core/dc1", 1)
        await stream.raw(key, 1, None)
        async with reading(kafka, 0, 1) as found:
            await found.source(0)
            await found.registry._reader.following(1)  # it is read to its end
            assert found.sources.keys() == {"core/dc1/#0"}
            await stream.raw(key, 1, mapping.encode_complete(said))
            await found.source(1)


async def test_who_missed_something_in_one_partition_lists_that_one_anew(kafka: Kafka) -> None:
    async with (
        published(kafka) as (_, _),
        Stream.open(kafka, PARTITIONS) as stream,
        reading(kafka, 0, 1) as found,
        watching(await found.source(0)) as whole,
        watching(await found.source(1)) as missed,
    ):
        await synced(whole)
        await synced(missed)
        (said,) = [one for one in await stream.completes() if one.partition == 1]
        fields = {name: getattr(said, name) for name in said.__struct_fields__}
        wrong = mapping.Complete(**{**fields, "count": said.count + 1})
        await stream.raw(mapping.complete_key("core/dc1", 1), 1, mapping.encode_complete(wrong))
        await failed(missed)
        assert isinstance(missed.error, Expired)
        async with watching(found.sources["core/dc1/#1"]) as again:
            await synced(again)
        assert whole.error is None


async def test_another_life_of_the_registry_is_another_listing_of_each_shard(kafka: Kafka) -> None:
    async with published(kafka) as (sink, _), reading(kafka, 1) as found:
        source = await found.source(1)
        async with watching(source) as watch:
            await synced(watch)
            await say(sink, Whole("core", "dc1", "consul:abc", "2", 2, "core"))
            await failed(watch)
            assert isinstance(watch.error, Expired)
        async with watching(source) as watch:
            await synced(watch)
            assert watch.said[0] == Listing("consul:abc", "2", 2, part="dc1")


async def test_a_topic_that_was_made_again_is_no_emptiness_of_a_shard(kafka: Kafka) -> None:
    async with published(kafka) as (_, _), reading(kafka, 1) as found:
        source = await found.source(1)
        async with watching(source) as watch:
            await synced(watch)
            await delete(kafka)
            await topic(kafka, {"cleanup.policy": "compact"})
            await failed(watch)
            assert ids(watch, 1) == {"i1"}
        async with watching(source) as watch:
            await failed(watch)
            assert not watch.said


async def test_shards_are_read_on_when_a_lost_connection_is_back(kafka: Kafka) -> None:
    async with (
        published(kafka) as (sink, _),
        kafka.behind_a_proxy() as proxy,
        reading(kafka, 0, 1, address=proxy.address) as found,
    ):
        sources = [await found.source(shard) for shard in (0, 1)]
        async with AsyncExitStack() as stack:
            lost = [await stack.enter_async_context(watching(source)) for source in sources]
            for watch in lost:
                await synced(watch)
            await proxy.refuse()
            for watch in lost:
                await failed(watch)
                assert isinstance(watch.error, Unavailable)
        await write(sink, publish(1, "new"))
        with pytest.raises(Unavailable):
            await sources[1].read(service(1))
        await proxy.heal()
        async with watching(sources[0]) as zero, watching(sources[1]) as one:
            await synced(zero)
            await synced(one)
            assert ids(one, 1) == {"i1", "new"}
        found.registry.read(ALL)
        await found.source(2)


async def test_the_whole_is_read_again_where_shards_were_and_the_other_way(kafka: Kafka) -> None:
    async with published(kafka) as (sink, _), reading(kafka, 1) as found:
        shard = await found.source(1)
        found.registry.read(None)
        await until(lambda: "core/dc1" in found.sources)
        whole = found.sources["core/dc1"]
        with pytest.raises(Unavailable):
            await shard.read(service(1))
        async with watching(whole) as watch:
            await synced(watch)
            assert [ids(watch, one) for one in sorted(ALL)] == [{f"i{one}"} for one in sorted(ALL)]
            found.registry.read(ALL)
            await failed(watch)
        await write(sink, publish(1, "new"))
        assert (await shard.read(service(1))).service.instances.keys() == {"i1", "new"}
