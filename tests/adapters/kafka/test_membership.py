"""What a group says of its members on a real broker: what is to be waited for is waited for side by side."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from aiokafka.admin import NewTopic

from adapters.kafka.client import PATIENCE, Client
from adapters.kafka.grouping import Ended, Given, Grouping, News
from adapters.kafka.membership import TIMES, KafkaMembership, Protocol
from bridge.errors import Unavailable
from tests.adapters.kafka.members import SHARDS, Group, Here, Spoken, group, whole
from tests.conftest import StartKafka, provided
from tests.kit.proxy import Proxy
from tests.kit.running import ended
from tests.kit.stream import TOPIC, Stream
from tests.kit.waiting import until
from tests.servers.kafka import Kafka, cluster
from tests.servers.server import together

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

SESSION = 6.0
SLACK = 4.0  # seconds that a busy machine may add
CUTS = 5


PROTOCOLS: tuple[Protocol, ...] = ("classic", "consumer")


def told(of: Group, event: str, **seconds: float) -> None:
    """The figures, for who wants them: `pytest -s`."""
    print(f"{of.name} {event}: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))


async def joins_and_leaves(of: Group) -> None:
    """The fewest that can move do, and who keeps a shard keeps its assignment."""
    one, two = of.here("one"), of.here("two")
    await whole(one, two)
    before = {member: member.now for member in (one, two)}
    began = time.monotonic()
    three = of.here("three")
    told(of, "join", whole=await whole(one, two, three) - began)
    assert len(three.should) == SHARDS // 3
    for member in (one, two):
        assert member.should < set(before[member].should)
        for shard in member.should:
            assert member.now.assignments[shard] == before[member].assignments[shard]
    await until(lambda: agreed((one, two, three)))
    began = time.monotonic()
    kept = two.should
    await three.leave()
    assert (three.should, three.now.fault) == (set(), "it has left the group")
    told(of, "leave", gone=time.monotonic() - began, whole=await whole(one, two) - began)
    assert kept < two.should


async def is_killed(of: Group) -> None:
    stays, dies = of.here("stays"), await of.apart("dies")
    await whole(stays, dies)
    began = time.monotonic()
    await dies.process.kill()
    told(of, "kill", whole=await whole(stays) - began)


async def is_frozen(of: Group) -> None:
    """Who wakes knows at once that it has heard nothing for long, before it hears that others have its shards."""
    stays, sleeps = of.here("stays"), await of.apart("sleeps")
    await whole(stays, sleeps)
    began = time.monotonic()
    sleeps.process.freeze()
    taken = await whole(stays) - began
    woke = time.monotonic()
    sleeps.process.thaw()
    back = await whole(stays, sleeps) - woke
    told(of, "freeze", taken=taken, back=back)
    _never_sure(sleeps, woke)


async def stands_still(of: Group) -> None:
    """Its connection lives, and nobody acts on what it hears: it is put out."""
    stays, hangs = of.here("stays"), await of.apart("hangs", TIMES._replace(poll=7.0, still=1.0))
    await whole(stays, hangs)
    began = time.monotonic()
    hangs.hang()
    told(of, "hang", whole=await whole(stays) - began)


async def is_cut_off(of: Group, proxy: Proxy, meet: asyncio.Barrier) -> None:
    """It is away before others have its shards, or has lost them; and is not sure of any until it was given it anew."""
    stays, cut = of.here("stays"), of.here("cut", by=proxy.address)
    await whole(stays, cut)
    await meet.wait()
    began = time.monotonic()
    proxy.drop()
    away = await _when(cut, began, lambda: cut.now.away)
    given = await whole(stays)
    assert away < SESSION + SLACK
    assert [one for one in cut.since(given) if one.should and not one.away] == []
    await meet.wait()
    healed = time.monotonic()
    await proxy.heal()
    await proxy.cut()
    told(of, "cut off", away=away, taken=given - began, back=await whole(stays, cut) - healed)
    _never_sure(cut, given)


def _never_sure(member: Spoken, since: float) -> None:
    """From then on it is sure of no shard under the assignment that it had."""
    old = max(one.assignments for one in member.seen if one.at < since)
    for one in member.since(since):
        assert one.away or all(one.assignments[shard] > old[shard] for shard in one.should), one


async def _when(member: Spoken, began: float, condition: Callable[[], bool]) -> float:
    await until(condition)
    return member.now.at - began


Scene = Callable[[Group], Awaitable[None]]


async def _play(kafka: Kafka, folder: Path, scenes: Iterable[tuple[Protocol, str, Scene]]) -> None:
    """Side by side, each in a group of its own, over the same topic."""

    async def play(protocol: Protocol, name: str, scene: Scene) -> None:
        own = folder / f"{protocol}-{name}"
        own.mkdir()
        addresses = [node.address for node in kafka.nodes]
        async with group(addresses, f"isthmus.{protocol}.{name}", protocol, own) as of:
            await scene(of)

    async with Stream.open(kafka, SHARDS) as stream:
        await stream.create()
    async with asyncio.TaskGroup() as playing:
        for each in scenes:
            playing.create_task(play(*each))


async def test_shards_follow_members_that_join_leave_die_freeze_and_are_cut_off(kafka: Kafka, tmp_path: Path) -> None:
    async with kafka.behind_a_proxy() as proxy:
        scenes: dict[str, Scene] = {
            "join": joins_and_leaves,
            "kill": is_killed,
            "freeze": is_frozen,
            "hang": stands_still,
        }
        cut = asyncio.Barrier(len(PROTOCOLS))
        scenes["cut"] = lambda of: is_cut_off(of, proxy, cut)
        await _play(kafka, tmp_path, [(each, name, scenes[name]) for each in PROTOCOLS for name in scenes])
    async with kafka.admin() as admin:
        for each in PROTOCOLS:
            assert await admin.list_consumer_group_offsets(f"isthmus.{each}.join") == {}, "no data goes that way"


class Late(NamedTuple):
    """A consumer whose thread is held up before it pauses anything, as on a busy machine, for `late` seconds."""

    real: Consumer
    late: float

    def incremental_assign(self, parts: list[TopicPartition]) -> None:
        self.real.incremental_assign(parts)

    def pause(self, parts: list[TopicPartition]) -> None:
        time.sleep(self.late)
        self.real.pause(parts)


class Counting(Grouping):
    """Knows how many records its client has received. `late`: seconds from what it is given to the pause of it."""

    received: list[int]
    late: float

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        super()._given(cast(Any, Late(consumer, self.late)), partitions)

    def _heard(self, statistics: str) -> None:
        self.received.append(json.loads(statistics)["rxmsgs"])


@pytest.mark.parametrize("late", [0.0, 1.5])
async def test_a_member_receives_no_data(kafka: Kafka, late: float) -> None:
    given, ended = threading.Event(), threading.Event()

    def tell(news: News) -> None:
        if isinstance(news, Given):
            given.set()
        elif isinstance(news, Ended):
            ended.set()

    async def write(stream: Stream) -> None:
        for shard in range(SHARDS):
            await stream.raw(b"key", shard, b"value")

    settings = {
        "bootstrap.servers": kafka.address,
        "group.id": "isthmus.counting",
        "partition.assignment.strategy": "cooperative-sticky",
        "statistics.interval.ms": 500,
    }
    grouping = Counting(settings, TOPIC, tell, lambda: True)
    grouping.received, grouping.late = [], late
    async with Stream.open(kafka, SHARDS) as stream:
        await stream.create()
        await write(stream)
        grouping.start()
        try:
            await until(given.is_set)
            for _ in range(2):  # what was asked for before the pause is answered half a second later at the latest
                before = len(grouping.received)
                await until(lambda before=before: len(grouping.received) >= before + 3)
                await write(stream)
            before = len(grouping.received)
            await until(lambda: len(grouping.received) >= before + 3)
        finally:
            grouping.leave()
            await until(ended.is_set)
    assert set(grouping.received) == {0}


ASKS = """
import asyncio, sys, time
from adapters.kafka import groups
from adapters.kafka.client import Client

async def main():
    asking = asyncio.create_task(groups.session(Client([sys.argv[1]], None), "isthmus.asked"))
    assert not (await asyncio.wait((asking,), timeout=0.5))[0]

began = time.monotonic()
asyncio.run(main())
print(time.monotonic() - began)
"""


async def test_a_question_without_an_answer_holds_no_process_up(kafka: Kafka) -> None:
    with kafka.frozen():
        done = await ended(sys.executable, "-c", ASKS, kafka.address)
    assert (done.code, done.err) == (0, "")
    assert float(done.out) < PATIENCE - 1, "it waited for the thread that asks"


async def outlives_its_broker(of: Group, server: Kafka, meet: asyncio.Barrier) -> None:
    """While it is down all are away, and one can leave all the same; when it is back everybody has a share."""
    stays, waits, leaves = members = [of.here(who) for who in ("stays", "waits", "leaves")]
    await whole(*members)
    await until(lambda: agreed(members))  # a broker that dies in a rebalance has members wait for its end
    began = time.monotonic()
    if await meet.wait() == 0:
        await server.kill()
    await meet.wait()
    for one in members:
        await until(lambda one=one: one.now.away)
    away = time.monotonic() - began
    assert all(one.now.fault for one in members)
    leaving = time.monotonic()
    await leaves.leave()
    left = time.monotonic() - leaving
    assert left < TIMES.leaving + SLACK
    if await meet.wait() == 0:
        await server.start()
    await meet.wait()
    back = time.monotonic()
    told(of, "broker down", away=away, left=left, back=await whole(stays, waits) - back)


async def agreed(members: Sequence[Here]) -> bool:
    """Whether the broker says the same as they do."""
    with suppress(Unavailable):
        found = await members[0].membership.members()
        return {one.who: set(one.shards) for one in found} == {one.who: one.should for one in members}
    return False


async def test_members_outlive_their_broker(kafka_server: StartKafka, tmp_path: Path) -> None:
    server = await kafka_server()
    meet = asyncio.Barrier(len(PROTOCOLS))
    scene: Scene = lambda of: outlives_its_broker(of, server, meet)  # noqa: E731
    await _play(server, tmp_path, [(each, "down", scene) for each in PROTOCOLS])


async def outlives_each_broker(of: Group, brokers: Sequence[Kafka], meet: asyncio.Barrier) -> None:
    """One of them is its coordinator, and another takes its place."""
    members = [of.here("one"), of.here("two")]
    for broker in brokers:
        await whole(*members)
        await until(lambda: agreed(members))
        if await meet.wait() == 0:
            await broker.kill()
        await meet.wait()
        began = time.monotonic()
        await until(lambda: agreed(members))
        told(of, f"broker {broker.node} killed", whole=max(0.0, await whole(*members) - began))
        if await meet.wait() == 0:
            await broker.start()
        await meet.wait()
    await whole(*members)


@pytest.mark.soak
async def test_members_outlive_each_broker_of_a_cluster(tmp_path: Path) -> None:
    with provided():
        brokers = cluster(tmp_path)
        async with together(brokers):
            async with brokers[0].admin() as admin:
                await admin.create_topics([NewTopic(TOPIC, SHARDS, len(brokers))])
            meet = asyncio.Barrier(len(PROTOCOLS))
            scene: Scene = lambda of: outlives_each_broker(of, brokers, meet)  # noqa: E731
            await _play(brokers[0], tmp_path, [(each, "rolling", scene) for each in PROTOCOLS])


async def test_a_connection_that_breaks_ends_a_question_about_the_group_alone(
    kafka_server: StartKafka,
) -> None:
    server = await kafka_server(behind=1)
    async with server.behind_a_proxy() as proxy:
        membership = KafkaMembership(Client([proxy.address], None), TOPIC, SHARDS, "crew", "one")
        for _ in range(CUTS):
            asking = asyncio.ensure_future(membership.members())
            for _ in range(CUTS):
                await proxy.cut()
                await asyncio.wait((asking,), timeout=0.1)
            with suppress(Unavailable):
                assert await asking == []
        await until(lambda: is_empty(membership), "it answers when nothing breaks")


async def is_empty(membership: KafkaMembership) -> bool:
    with suppress(Unavailable):
        return await membership.members() == []
    return False
