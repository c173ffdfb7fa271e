"""What a stream publishes is read as if its registry were: by its scopes, with its identity and its own marks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from adapters.kafka.source import KafkaSource
from bridge.adapter import Change, Listing, Whole
from bridge.errors import Expired, Unavailable
from bridge.model import Instance, Mark, ServiceName
from mappings import kafka as mapping
from tests.adapters.kafka.test_topics import made, seated
from tests.conformance.lab import BRIDGE, watching, write
from tests.kit.builders import instance
from tests.kit.seated import Seated
from tests.kit.stream import Stream
from tests.servers.kafka import Kafka

CORE = Whole("core", "dc1", "consul:abc", "1", 1, "core")
PAY = ServiceName("pay")


def publish(picture: str, one: Instance, path: tuple[str, ...] = ("consul:abc",), part: str = "dc1") -> Change:
    service = mapping.in_picture(picture, PAY)
    return Change(service, one.id, None, one, Mark(BRIDGE, f"{picture}-to-stream", path, part, PAY, one.id))


@asynccontextmanager
async def reading(kafka: Kafka, *scopes: str) -> AsyncIterator[list[KafkaSource]]:
    """The sources of these scopes, by a client of its own."""
    async with made(kafka) as registry, aclosing(cast(Any, registry.scopes())) as found:
        sources: dict[str, KafkaSource] = {}
        while not sources.keys() >= set(scopes):
            source = await anext(found)
            sources[source.scope] = source
        yield [sources[name] for name in scopes]


async def say(sink: Seated, *scopes: Whole) -> None:
    await sink.sink.whole(frozenset(scopes), sink.term)


async def test_a_scope_is_read_with_the_identity_and_the_marks_of_its_registry(kafka: Kafka) -> None:
    one, two = instance("i1", metadata={"team": "pay"}), instance("i2")
    async with seated(kafka) as sink:
        await write(sink, publish("core", one), publish("core", two, ("etcd:old", "consul:abc")))
        await write(sink, publish("legacy", instance("i9"), ("zk:1",), ""))
        await say(sink, CORE, Whole("legacy", "", "zk:1", "7", 1, "legacy"))
        async with reading(kafka, "core/dc1", "legacy") as (core, legacy):
            async with watching(core) as watch:
                await watch.until(lambda: watch.synced)
                assert watch.said[0] == Listing("consul:abc", "1", part="dc1")
                assert watch.service(PAY).instances == {"i1": one, "i2": two}
                assert {id: mark.path for id, mark in watch.service(PAY).marks.items()} == {"i2": ("etcd:old",)}
                await write(sink, publish("core", instance("i3")))
                await watch.until(lambda: "i3" in watch.service(PAY).instances)
            assert (await legacy.read(PAY)).service.instances.keys() == {"i9"}


async def test_a_removal_is_told_and_a_second_opinion_has_seen_it(kafka: Kafka) -> None:
    async with seated(kafka) as sink:
        (entry,) = await write(sink, publish("core", instance("i1")))
        await say(sink, CORE)
        async with reading(kafka, "core/dc1") as (source,), watching(source) as watch:
            await watch.until(lambda: watch.synced)
            await write(sink, Change(mapping.in_picture("core", PAY), "i1", entry, None))
            assert (await source.read(PAY)).service.instances == {}
            await watch.until(lambda: watch.service(PAY).instances == {})


async def test_what_is_not_whole_is_no_listing(kafka: Kafka) -> None:
    async with seated(kafka) as sink, Stream.open(kafka, 3) as stream:
        await write(sink, publish("core", instance("i1")))
        await say(sink, CORE)
        async with reading(kafka, "core/dc1") as (source,):
            await stream.raw(mapping.complete_key("core/dc1", 1), 1, None)
            with pytest.raises(Unavailable, match="is not whole in the topic"):
                await source.read(PAY)
            async with watching(source) as watch:
                await watch.until(lambda: watch.error is not None)
            assert not watch.said


async def test_another_life_of_the_registry_is_another_listing(kafka: Kafka) -> None:
    async with seated(kafka) as sink:
        await say(sink, CORE)
        async with reading(kafka, "core/dc1") as (source,):
            async with watching(source) as watch:
                await watch.until(lambda: watch.synced)
                await say(sink, Whole("core", "dc1", "consul:abc", "2", 2, "core"))
                await watch.until(lambda: watch.error is not None)
                assert isinstance(watch.error, Expired)
            async with watching(source) as watch:
                await watch.until(lambda: watch.synced)
                assert watch.said[0] == Listing("consul:abc", "2", part="dc1")


async def test_what_was_too_large_for_a_record_is_there_and_cannot_be_read(kafka: Kafka) -> None:
    large = Instance("i1", "192.0.2.1", metadata={"blob": "x" * mapping.LONGEST})
    async with seated(kafka) as sink:
        form = sink.canonical(mapping.in_picture("core", PAY), large)
        await write(sink, publish("core", form), publish("core", instance("i2")))
        await say(sink, CORE)
        async with reading(kafka, "core/dc1") as (source,):
            found = await source.read(PAY)
    assert found.unreadable == {"i1"}
    assert found.service.instances.keys() == {"i2"}


async def test_who_missed_something_finds_out_by_count_and_digest(kafka: Kafka) -> None:
    async with seated(kafka) as sink, Stream.open(kafka, 3) as stream:
        await say(sink, CORE)
        async with reading(kafka, "core/dc1") as (source,), watching(source) as watch:
            await watch.until(lambda: watch.synced)
            (one, *_) = [one for one in await stream.completes() if one.partition == 0]
            wrong = mapping.encode_complete(mapping.Complete(**{**_fields(one), "count": one.count + 1}))
            await stream.raw(mapping.complete_key("core/dc1", 0), 0, wrong)
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Expired)


def _fields(complete: mapping.Complete) -> dict[str, Any]:
    return {name: getattr(complete, name) for name in complete.__struct_fields__}
