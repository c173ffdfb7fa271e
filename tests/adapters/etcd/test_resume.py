"""A watch whose stream broke goes on where it was, without a list, where the store is still the one that it was."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import TXN
from adapters.etcd.source import EtcdSource
from adapters.etcd.times import TIMES, Times
from bridge.adapter import Listing, Observed, Synced
from bridge.errors import Unavailable
from bridge.model import ServiceName
from tests.adapters.etcd.lab import (
    USER,
    Natives,
    Watcher,
    admin,
    create,
    entry,
    key,
    kind,
    mark,
    record,
    registry,
    remove,
)
from tests.conftest import StartEtcd
from tests.kit.proxy import Proxy
from tests.kit.seated import Seated
from tests.kit.waiting import DEADLINE, until
from tests.servers.etcd import Etcd, cluster

OTHER = ServiceName("other")
VERSIONS = pytest.mark.parametrize("version", ["3.6", "3.4"])


class Scene:
    """A store, natives at it, and a bridge that reads it through a proxy."""

    def __init__(self, server: Etcd, proxy: Proxy, natives: Natives, source: EtcdSource) -> None:
        self.server = server
        self.proxy = proxy
        self.natives = natives
        self.source = source

    async def lists(self) -> int:
        """How often it was asked for a page of a list."""
        return await self.server.asked("Range")

    async def open(self, watcher: Watcher, service: str = "stream") -> None:
        """Returns when the stream tells of events, the first of a service among them."""
        await self.natives.put((key("now", service), record("now", service=service)))
        await until(lambda: watcher.addresses(ServiceName(service)))

    async def mute(self, watcher: Watcher) -> None:
        """The bridge hears events, and is not heard any more."""
        await self.open(watcher)
        self.proxy.drop("up")

    async def broken(self, watcher: Watcher) -> None:
        """The connection is lost, and does not come back."""
        await self.proxy.refuse()
        await until(lambda: watcher.error)
        assert kind(watcher.error) is Unavailable


@asynccontextmanager
async def scene(server: Etcd) -> AsyncIterator[Scene]:
    """With three instances of one service and one of another."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(server.address))
        opened = await stack.enter_async_context(registry(server, endpoints=[f"http://{proxy.address}"]))
        natives = await stack.enter_async_context(Natives(server))
        await natives.put(*[(key(id), record(id)) for id in ("i1", "i2", "i3")])
        await natives.put((key("a", "other"), record("a", service="other")))
        yield Scene(server, proxy, natives, opened.source)


@asynccontextmanager
async def watching(source: EtcdSource) -> AsyncIterator[Watcher]:
    """A watch that is synced, tried until it is, as the bridge does."""
    while True:
        async with Watcher(source.watch()) as watcher:
            if watcher.synced:
                yield watcher
                return
            assert kind(watcher.error) is Unavailable
        await asyncio.sleep(0.05)


def told_first(watcher: Watcher) -> dict[ServiceName, set[str]]:
    """What was there when the watch was synced."""
    synced = next(n for n, word in enumerate(watcher.said) if isinstance(word, Synced))
    words = [word for word in watcher.said[:synced] if isinstance(word, Observed)]
    return {word.service.name: set(word.service.instances) for word in words}


def listing(watcher: Watcher) -> Listing:
    word = watcher.said[0]
    assert isinstance(word, Listing)
    return word


@VERSIONS
@pytest.mark.parametrize("damage", ["kill", "cut"])
async def test_fault_19_a_watch_that_broke_goes_on_without_a_list(
    etcd_server: StartEtcd, version: str, damage: str
) -> None:
    server = await etcd_server(version=version)
    async with scene(server) as made:
        async with watching(made.source) as before:
            revision = await made.natives.put((key("i4"), record("i4")))
            await until(lambda: "i4" in before.addresses())
            if damage == "kill":
                await server.kill()
                await until(lambda: before.error)
            else:
                await made.broken(before)
        for _ in range(2):  # it is tried in vain
            async with Watcher(made.source.watch()) as vain:
                assert kind(vain.error) is Unavailable
                assert vain.said == []
        if damage == "kill":
            await server.start()
        async with Natives(server) as natives:
            await natives.delete(key("i1"), key("a", "other"))
            await natives.put((key("i2"), record("i2", "10.0.0.9")))
            await natives.put((key("b", "third"), record("b", service="third")))
        lists = await made.lists()
        await made.proxy.heal()
        async with watching(made.source) as after:
            await until(lambda: after.addresses(ServiceName("third")))
            assert told_first(after) == {USER: {"i1", "i2", "i3", "i4"}, OTHER: {"a"}}
            assert after.addresses() == {"i2": "10.0.0.9", "i3": "10.0.0.7", "i4": "10.0.0.7"}
            assert after.addresses(OTHER) == {}
            assert listing(after).identity == listing(before).identity
            assert listing(after).revision == revision
        assert await made.lists() == lists


async def test_events_that_came_just_before_the_stream_broke_are_told(etcd: Etcd) -> None:
    """Their consumer was busy until both were there."""
    stream = ServiceName("stream")
    async with scene(etcd) as made, Watcher(neighbour(made.source).watch()) as beside:
        async with aclosing(made.source.watch()) as words:  # type: ignore[type-var]
            while not isinstance(await anext(words), Synced):
                pass
            lease = await made.natives.lease()
            await made.natives.put((key("now", "stream"), record("now", service="stream")), lease=lease)
            assert await told(words, until=stream) == {stream}
            await made.natives.put((key("i4"), record("i4")), lease=lease)
            await until(lambda: "i4" in beside.addresses())
            await made.broken(beside)
            assert await told(words) == {USER}
        await made.proxy.heal()
        async with watching(made.source) as after:
            assert told_first(after)[USER] == {"i1", "i2", "i3", "i4"}


async def told(words: AsyncIterator[Listing | Observed | Synced], until: ServiceName | None = None) -> set[ServiceName]:
    """The services that a watch tells of, up to one of them or to its end."""
    services = set()
    try:
        async for word in words:
            if isinstance(word, Observed):
                services.add(word.service.name)
                if word.service.name == until:
                    break
    except Unavailable:
        pass
    return services


def neighbour(source: EtcdSource, times: Times = TIMES) -> EtcdSource:
    """Another one, over the same connection."""
    return EtcdSource(source._client, source._space, times)


async def test_another_member_goes_on_without_a_list(tmp_path: Path) -> None:
    async with (
        cluster(tmp_path) as members,
        registry(members[0], endpoints=[member.url for member in members]) as opened,
        Natives(members[1]) as natives,
    ):
        await natives.put((key("i1"), record("i1")), (key("i2"), record("i2")))
        async with watching(opened.source) as before:
            await members[0].kill()
            await until(lambda: before.error)
        lists = [await member.asked("Range") for member in members[1:]]
        await written(members[1], key("i3"), record("i3"))
        async with watching(opened.source) as after:
            await until(lambda: set(after.addresses()) == {"i1", "i2", "i3"})
        assert [await member.asked("Range") for member in members[1:]] == lists


async def written(server: Etcd, where: str, value: str) -> None:
    """Puts as soon as there is a leader again."""
    while True:
        async with Natives(server) as natives:
            try:
                await natives.put((where, value))
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


@VERSIONS
async def test_history_that_was_compacted_meanwhile_is_made_up_for_by_a_list(
    etcd_server: StartEtcd, version: str
) -> None:
    server = await etcd_server(version=version)
    async with scene(server) as made:
        async with watching(made.source) as before:
            await made.broken(before)
        await made.natives.delete(key("i1"))
        revision = await made.natives.put((key("i4"), record("i4")))
        await admin(server, "kv/compaction", revision=str(revision), physical=True)
        lists = await made.lists()
        await made.proxy.heal()
        async with watching(made.source) as after:
            assert told_first(after) == {USER: {"i2", "i3", "i4"}, OTHER: {"a"}}
        assert await made.lists() > lists


@VERSIONS
async def test_progress_notices_say_how_far_we_are_where_nothing_of_ours_changes(
    etcd_server: StartEtcd, version: str
) -> None:
    """Others write, and the history is compacted past our last event."""
    server = await etcd_server(version=version, flags=["--experimental-watch-progress-notify-interval=100ms"])
    async with scene(server) as made:
        async with watching(made.source) as before:
            revision = await made.natives.put(("/elsewhere", "1"))
            heard = made.proxy.pipes["down"].bytes
            await until(lambda: made.proxy.pipes["down"].bytes > heard + 1_000)  # some ten notices
            await made.broken(before)
        await admin(server, "kv/compaction", revision=str(revision), physical=True)
        lists = await made.lists()
        await made.proxy.heal()
        async with watching(made.source) as after:
            assert told_first(after) == {USER: {"i1", "i2", "i3"}, OTHER: {"a"}}
            assert listing(after).revision == revision
        assert await made.lists() == lists


async def test_a_store_that_went_back_and_was_written_forward_is_listed_again(etcd_server: StartEtcd) -> None:
    """The same cluster id, a revision beyond ours, another history: a backup of the data folder was put back."""
    server = await etcd_server()
    async with scene(server) as made:
        await server.stop()
        shutil.copytree(server.data, server.data.with_suffix(".backup"))
        await server.start()
        async with watching(made.source) as before:
            async with Natives(server) as natives:
                await natives.put((key("lost"), record("lost")))
            await until(lambda: "lost" in before.addresses())
            await server.kill()
            await until(lambda: before.error)
        server.forget()
        shutil.move(server.data.with_suffix(".backup"), server.data)
        await server.start()
        async with Natives(server) as natives:
            while await natives.put((key("i4"), record("i4"))) < before.observed[-1].revision + 10:
                pass
        async with watching(made.source) as after:
            assert told_first(after) == {USER: {"i1", "i2", "i3", "i4"}, OTHER: {"a"}}
            assert listing(after).identity == listing(before).identity
            assert listing(after).revision > before.observed[-1].revision


async def test_another_cluster_is_listed_as_another(etcd_server: StartEtcd) -> None:
    server, other = await etcd_server(), await etcd_server()
    async with scene(server) as made, Natives(other) as strangers:
        async with watching(made.source) as before:
            await made.broken(before)
        while await strangers.put((key("stranger"), record("stranger"))) < listing(before).revision + 10:
            pass
        await made.proxy.lead(other.address)
        await made.proxy.heal()
        async with watching(made.source) as after:
            assert told_first(after) == {USER: {"stranger"}}
            assert listing(after).identity != listing(before).identity


async def test_whoever_ends_a_watch_has_everything_listed_anew(etcd: Etcd) -> None:
    """That is how the bridge asks for a list, where a fresh read disagrees with the watch."""
    async with scene(etcd) as made:
        async with watching(made.source):
            lists = await made.lists()
        async with watching(made.source):
            assert await made.lists() > lists


async def test_streams_that_keep_breaking_put_no_audit_off(etcd: Etcd) -> None:
    async with scene(etcd) as made:
        source = neighbour(made.source, Times(audit=2.0))
        async with watching(source) as watcher:
            lists = await made.lists()
            await made.broken(watcher)
        deadline = time.monotonic() + DEADLINE
        for number in count():
            await made.proxy.heal()
            async with watching(source) as watcher:
                await made.open(watcher, f"s{number}")
                if await made.lists() > lists:
                    break
                assert time.monotonic() < deadline, "it was never audited"
                await made.broken(watcher)


async def test_an_entry_that_nobody_knew_yet_when_the_stream_broke_is_looked_at(etcd: Etcd) -> None:
    async with scene(etcd) as made:
        async with watching(made.source) as before:
            await made.mute(before)
            await made.natives.put((key("i4"), record("i4")))  # under no lease: it may be a bridge's
            await made.natives.put((key("i5"), record("i5")), lease=await made.natives.lease())
            await until(lambda: set(before.addresses()) == {"i1", "i2", "i3", "i5"})
            await made.broken(before)
        lists = await made.lists()
        await made.proxy.heal()
        async with watching(made.source) as after:
            await until(lambda: "i4" in after.addresses())
        assert await made.lists() == lists


async def test_a_service_whose_replacement_nobody_knew_yet_is_listed_again(etcd: Etcd) -> None:
    async with scene(etcd) as made:
        async with watching(made.source) as before:
            await made.mute(before)
            exchange = pb.TxnRequest(
                success=[
                    pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key("a", "other").encode())),
                    pb.RequestOp(
                        request_put=pb.PutRequest(
                            key=key("b", "other").encode(), value=record("b", service="other").encode()
                        )
                    ),
                ]
            )
            await made.natives.client.call(TXN, exchange)
            await made.natives.put((key("i5"), record("i5")), lease=await made.natives.lease())
            await until(lambda: "i5" in before.addresses())
            assert set(before.addresses(OTHER)) == {"a"}, "it would be seen empty"
            await made.broken(before)
        lists = await made.lists()
        await made.proxy.heal()
        async with watching(made.source) as after:
            assert told_first(after)[OTHER] == {"b"}
        assert await made.lists() > lists


async def test_marks_are_known_after_a_stream_broke(etcd: Etcd) -> None:
    """The ledger is followed from where it was, and not from where the entries were."""
    async with scene(etcd) as made, registry(etcd) as opened:
        sink = Seated(opened, "b2")
        async with sink.writer():
            made_first, to_go = await sink.apply([create("c1", "b2"), create("c2", "b2")])
            async with watching(made.source) as before:
                await made.broken(before)
            lists = await made.lists()
            await sink.apply([create("c3", "b2"), remove("c2", entry(to_go))])
            await made.natives.put((key("c1"), record("c1")), lease=await made.natives.lease())  # a native takes it
            await made.proxy.heal()
            async with watching(made.source) as after:
                await until(lambda: set(after.addresses()) == {"i1", "i2", "i3", "c1", "c3"})
                await until(lambda: (now := after.now()) and now.service.marks == {"c3": mark("c3", "b2")})
            assert await made.lists() == lists
        assert made_first.error is None
