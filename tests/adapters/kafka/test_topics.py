"""What may be wrong with a topic is found by calls that have a time, said by name, and never read as emptiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import NewTopic

from adapters.kafka import Config, Kafka, create
from adapters.kafka.client import Security
from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Change, Whole
from bridge.errors import Denied, Expired, Rejected, Superseded, Unavailable
from bridge.model import Instance, ServiceName
from tests.conformance.lab import BRIDGE, change, mark, refusals, write
from tests.conformance.lab import create as creation
from tests.conftest import StartKafka
from tests.kit.builders import instance
from tests.kit.seated import Seated
from tests.kit.stream import TOPIC, Stream
from tests.kit.waiting import until
from tests.servers.kafka import Kafka as Server

PARTITIONS = 3
PAY = ServiceName("pay", "core")


def made(server: Server, **config: Any) -> Kafka:
    servers = [config.pop("address", server.address)]
    return create("stream", Config(bootstrap_servers=servers, **{"partitions": PARTITIONS, **config}), None)


@asynccontextmanager
async def seated(server: Server, seats: Store | None = None, **config: Any) -> AsyncIterator[Seated]:
    """The sink, with a lock that a registry in memory lends."""
    async with made(server, **config) as registry:
        sink = Seated(registry, BRIDGE, Memory("lender", seats or Store("lender")).seat(BRIDGE, "stream"))
        async with sink.writer():
            yield sink


async def topic(server: Server, settings: dict[str, str], partitions: int = PARTITIONS) -> None:
    async with server.admin() as admin:
        await admin.create_topics([NewTopic(TOPIC, partitions, 1, topic_configs=settings)])


async def delete(server: Server) -> None:
    async with server.admin() as admin:
        await admin.delete_topics([TOPIC])
        while TOPIC in await admin.list_topics():
            await asyncio.sleep(0.01)


async def ended(words: AsyncIterator[object]) -> None:
    """Takes all that is told until that fails."""
    async with asyncio.timeout(60):
        async for _ in words:
            pass


@pytest.mark.parametrize(
    ("partitions", "policy", "fault"),
    [
        (PARTITIONS, "delete", "cleanup.policy is delete, which drops what is alive"),
        (PARTITIONS, "compact,delete", "cleanup.policy is compact,delete"),
        (5, "compact", "it has 5 partitions, and the file says 3"),
    ],
)
async def test_a_topic_that_is_not_fit_is_neither_read_nor_written(
    kafka: Server, partitions: int, policy: str, fault: str
) -> None:
    await topic(kafka, {"cleanup.policy": policy}, partitions)
    async with seated(kafka) as sink:
        with pytest.raises(Denied, match=fault):
            await sink.held()
        assert await refusals(sink, creation(PAY, instance("i1"))) == [Denied]
        with pytest.raises(Denied, match=fault):
            await made(kafka).reach()


async def test_a_missing_topic_is_created_by_the_first_write_and_by_nothing_else(kafka: Server) -> None:
    async with seated(kafka) as sink:
        assert (await sink.held()).services == {}
        notes = (await made(kafka).reach()).notes
        assert any("missing" in note for note in notes)
        async with kafka.admin() as admin:
            assert TOPIC not in await admin.list_topics()
        await write(sink, creation(PAY, instance("i1")))
        assert (await made(kafka).reach()).may_read
        async with kafka.admin() as admin:
            (found,) = await admin.describe_topics([TOPIC])
        assert len(found["partitions"]) == PARTITIONS


async def test_a_topic_that_was_deleted_and_made_again_is_read_anew(kafka: Server) -> None:
    async with seated(kafka) as sink:
        await write(sink, *(creation(PAY, instance(f"i{number}")) for number in range(5)))
        async with aclosing(sink.drift()) as words:  # type: ignore[type-var]
            assert await anext(words) == frozenset()
            await delete(kafka)
            await topic(kafka, {"cleanup.policy": "compact"})
            with pytest.raises((Expired, Unavailable)):
                await ended(words)
        assert (await sink.held()).services == {}
        await write(sink, creation(PAY, instance("i1")))
        assert [*(await sink.held()).services[PAY]] == ["i1"]


async def test_a_record_that_the_broker_finds_too_large_is_refused_alone(kafka: Server) -> None:
    await topic(kafka, {"cleanup.policy": "compact", "max.message.bytes": "2000"})
    large = Instance("i2", "192.0.2.2", metadata={"blob": "x" * 3000})
    async with seated(kafka) as sink:
        assert await refusals(sink, creation(PAY, large), creation(PAY, instance("i1"))) == [Rejected, None]
        assert [*(await sink.held()).services[PAY]] == ["i1"]


async def test_a_writer_that_slept_adds_and_removes_nothing(kafka: Server) -> None:
    async with seated(kafka, Store("a")) as slept, seated(kafka, Store("b")) as woke:
        old, kept = await write(slept, creation(PAY, instance("i1")), creation(PAY, instance("i2")))
        assert len((await woke.held()).services[PAY]) == 2
        await write(woke, creation(PAY, instance("i3")))
        with pytest.raises(Superseded):
            await slept.apply([change(PAY, old, None)])
        assert await woke.sink.held() == await slept.sink.held()
        assert [*(await woke.held()).services[PAY]] == ["i1", "i2", "i3"]
        await write(woke, change(PAY, kept, None))
        assert [*(await woke.held()).services[PAY]] == ["i1", "i3"]


async def test_what_makes_an_instance_serve_no_more_is_refused_to_a_writer_that_slept(kafka: Server) -> None:
    async with seated(kafka, Store("a")) as slept, seated(kafka, Store("b")) as woke:
        (entry,) = await write(slept, creation(PAY, instance("i1", health="HEALTHY")))
        await write(woke, creation(PAY, instance("i2")))
        ill = Change(PAY, "i1", entry, instance("i1", health="UNHEALTHY"), mark(PAY, "i1"))
        with pytest.raises(Superseded):
            await slept.apply([ill])


async def test_whole_is_said_in_every_partition_once_for_each_listing(kafka: Server) -> None:
    first = Whole("core", "dc1", "origin", "1", 1, "core")
    async with Stream.open(kafka, PARTITIONS) as stream:
        async with seated(kafka, Store("a")) as sink:
            await sink.sink.whole(frozenset({first}), sink.term)
            assert [one.generation for one in await stream.completes()] == [1] * PARTITIONS
            await sink.sink.whole(frozenset(), sink.term)
            await sink.sink.whole(frozenset({first}), sink.term)
            assert len(await stream.completes()) == PARTITIONS
            again = Whole("core", "dc1", "origin", "1", 2, "core")
            await sink.sink.whole(frozenset({again}), sink.term)
            assert sorted(one.generation for one in await stream.completes()) == [1] * PARTITIONS + [2] * PARTITIONS
        async with seated(kafka, Store("b")) as sink:
            await sink.sink.whole(frozenset({first}), sink.term)
            assert len(await stream.completes()) == 2 * PARTITIONS
            other = Whole("core", "dc1", "origin", "2", 2, "core")
            await sink.sink.whole(frozenset({other}), sink.term)
            assert {one.generation for one in (await stream.completes())} == {1, 2, 3}
            assert {one.scope for one in await stream.completes()} == {"core/dc1"}


async def joins(server: Server, folder: Path) -> None:
    """A user may be a member of a group once it may read it; a password is read again where the old one is refused."""
    password = folder / "password"
    password.write_text("right")
    access = Security(
        protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-512", username="isthmus", password_file=str(password)
    )
    membership = made(server, address=server.sasl_address, security=access).membership("isthmus.b1.core", "one")
    with pytest.raises(Denied, match=r"group isthmus\.b1\.core: not authorised to read it"):
        await membership.notes()
    running = asyncio.create_task(membership.run())
    try:
        await until(lambda: "authorization failed" in membership.fault)
        await server.allow("isthmus", "--operation", "Read", "--group", "isthmus.b1.core")
        assert await membership.notes() == []
        await until(lambda: len(membership.should) == PARTITIONS and not membership.fault)
        await _ended(running)
        password.write_text("wrong")
        running = asyncio.create_task(membership.run())
        await until(lambda: "Authentication failed" in membership.fault)
        password.write_text("right")
        await until(lambda: len(membership.should) == PARTITIONS and not membership.fault)
    finally:
        await _ended(running)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_wrong_password_and_missing_rights_are_told_from_a_dead_broker(
    kafka_server: StartKafka, tmp_path: Path
) -> None:
    server = await kafka_server(users={"isthmus": "right"})
    async with seated(server) as sink:
        await write(sink, creation(PAY, instance("i1")))

    def security(password: str) -> Security:
        return Security(protocol="SASL_PLAINTEXT", mechanism="SCRAM-SHA-512", username="isthmus", password=password)

    async def held(password: str) -> None:
        async with seated(server, address=server.sasl_address, security=security(password)) as sink:
            await sink.held()

    with pytest.raises(Denied, match="Authentication failed"):
        await held("wrong")
    with pytest.raises(Denied, match="not authorised to describe"):
        await held("right")
    await server.allow("isthmus", "--operation", "Describe", "--topic", TOPIC)
    with pytest.raises(Denied):
        await held("right")
    await server.allow("isthmus", "--operation", "Read", "--topic", TOPIC)
    await held("right")
    async with seated(server, address=server.sasl_address, security=security("right")) as sink:
        assert await refusals(sink, creation(PAY, instance("i2"))) == [Denied]
    await joins(server, tmp_path)
    await server.kill()
    with pytest.raises(Unavailable):
        await held("right")
