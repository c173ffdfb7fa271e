"""The source on a real etcd: everything is seen, nothing is invented, and what cannot be trusted is an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
import pytest_asyncio

from adapters.etcd.keys import Range
from adapters.etcd.source import BACKLOG, EtcdSource
from adapters.etcd.times import Times
from bridge.adapter import Entry, Listing, Observed, Outcome, Synced
from bridge.errors import Denied, Expired, Unavailable
from bridge.model import Mark, ServiceName
from tests.adapters.etcd.lab import (
    USER,
    Natives,
    Watcher,
    admin,
    below,
    create,
    entry,
    key,
    kind,
    mark,
    narrow,
    record,
    registry,
    remove,
    replace,
)
from tests.conftest import StartEtcd
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.etcd import Etcd


@pytest_asyncio.fixture
async def source(etcd: Etcd) -> AsyncIterator[EtcdSource]:
    async with registry(etcd) as opened:
        yield opened.source


async def test_everything_is_listed_then_followed(natives: Natives, source: EtcdSource) -> None:
    await natives.put((key("i1"), record("i1")), (key("a", "other"), record("a", service="other")))
    async with Watcher(source.watch()) as watcher:
        assert isinstance(watcher.said[0], Listing)
        assert watcher.said[0].identity.endswith(":kratos:/microservices/")
        assert {each.service.name.name for each in watcher.observed} == {"user", "other"}
        assert isinstance(watcher.said[-1], Synced)
        assert watcher.said[-1].revision == watcher.said[0].revision
        await natives.put((key("i2"), record("i2")), lease=await natives.lease())
        await until(lambda: set(watcher.addresses()) == {"i1", "i2"})
        await natives.delete(key("i1"))
        await until(lambda: set(watcher.addresses()) == {"i2"})
        lease = await natives.lease()
        revision = await natives.put((key("i2"), record("i2", "10.0.0.8")), lease=lease)
        await until(lambda: watcher.addresses() == {"i2": "10.0.0.8"})
        assert watcher.observed[-1].revision == revision
        await natives.revoke(lease)
        await until(lambda: watcher.addresses() == {})


async def test_changes_of_one_transaction_are_seen_together(natives: Natives, source: EtcdSource) -> None:
    async with Watcher(source.watch()) as watcher:
        lease = await natives.lease()
        await natives.put(*[(key(f"i{n}"), record(f"i{n}")) for n in range(50)], lease=lease)
        await until(lambda: watcher.addresses())
        assert len(watcher.addresses()) == 50


async def test_a_natives_entry_without_a_lease_is_seen_too(natives: Natives, source: EtcdSource) -> None:
    async with Watcher(source.watch()) as watcher:
        await natives.put(*[(key(f"i{n}"), record(f"i{n}")) for n in range(100)])
        await until(lambda: len(watcher.addresses()) == 100)


async def test_read_is_one_service_with_its_marks_and_what_is_unreadable(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd) as opened:
        sink = Seated(opened, "b1")
        async with sink.writer():
            await sink.apply([create("i1")])
        await natives.put(
            (key("i2"), record("i2")), (key("i3"), "null"), (key("i1", "user-v2"), record("i1", service="user-v2"))
        )
        observed = await opened.source.read(USER)
        assert {id: each.address for id, each in observed.service.instances.items()} == {
            "i1": "10.0.0.1",
            "i2": "10.0.0.7",
        }
        assert observed.service.marks == {"i1": mark("i1")}
        assert observed.unreadable == {"i3"}
        assert (await opened.source.read(ServiceName("none"))).service.instances == {}
        raw = {one.place: one for one in await opened.raw(USER)}
        assert set(raw) == {key("i1"), key("i2"), key("i3"), f"/isthmus/ledger/{key('i1')}"}
        assert [(one.id, bool(one.fault)) for one in raw.values()] == [
            ("i1", False),
            ("i2", False),
            ("i3", True),
            ("", False),
        ]


async def test_an_undecodable_record_is_named_counted_and_holds_up_nobody(natives: Natives, source: EtcdSource) -> None:
    await natives.put((key("i1"), record("i1")), (key("i2"), "not json"))
    async with Watcher(source.watch()) as watcher:
        now = watcher.now()
        assert now is not None
        assert set(now.service.instances) == {"i1"}
        assert now.unreadable == {"i2"}
        assert list(source.ignored) == [key("i2")]


async def test_what_other_software_keeps_beside_go_zero_is_counted_and_no_instance(
    etcd: Etcd, natives: Natives
) -> None:
    await natives.put(("u.rpc/7", "10.0.0.7:80"), ("u.rpc/by-hand", "10.0.0.8:80"), ("u.rpc/9", "what?"))
    await natives.put(("config/app", "debug: true"), ("u.rpc/note", "not an address"))
    async with registry(etcd, layout="go-zero") as opened, Watcher(opened.source.watch()) as watcher:
        name = ServiceName("u.rpc")
        await until(lambda: watcher.now(name) is not None)
        now = watcher.now(name)
        assert now is not None
        assert {id: each.address for id, each in now.service.instances.items()} == {
            "7": "10.0.0.7",
            "by-hand": "10.0.0.8",
        }
        assert now.unreadable == {"9"}
        assert set(opened.source.ignored) == {"config/app", "u.rpc/note", "u.rpc/9"}
        await natives.put(("u.rpc/note", "10.0.0.9:80"))
        await until(lambda: "note" in (watcher.now(name) or now).service.instances)
        assert set(opened.source.ignored) == {"config/app", "u.rpc/9"}


async def test_the_whole_keyspace_is_grpcs_but_for_what_others_keep_there(etcd: Etcd, natives: Natives) -> None:
    value = '{"Op":0,"Addr":"10.0.0.7:8080","Metadata":null}'
    others = [f"{prefix}x/i1" for prefix in ("/registry/", "/services/", "/micro/registry/", "kitex/registry-etcd/")]
    await natives.put((key("i1"), record("i1")), *[(other, value) for other in others], ("user/i1", value))
    async with registry(etcd, layout="grpc") as opened, Watcher(opened.source.watch()) as watcher:
        assert {each.service.name for each in watcher.observed} == {USER}
        await natives.put(*[(other + "2", value) for other in others], ("zebra/i1", value))
        await until(lambda: watcher.addresses(ServiceName("zebra")))
        assert {each.service.name.name for each in watcher.observed} == {"user", "zebra"}


async def test_compacted_history_is_expired_and_a_new_watch_has_everything(
    etcd: Etcd, natives: Natives, source: EtcdSource
) -> None:
    await natives.put((key("gone"), record("gone")), (key("stays"), record("stays")))
    async with aclosing(source.watch()) as watch:  # type: ignore[type-var]
        assert isinstance(await anext(watch), Listing)  # the list is made, and the stream is not open yet
        await natives.delete(key("gone"))
        revision = await natives.put((key("new"), record("new")))
        await admin(etcd, "kv/compaction", revision=str(revision), physical=True)
        with pytest.raises(Expired, match="compacted"):
            async for _ in watch:
                pass
    async with Watcher(source.watch()) as watcher:
        assert set(watcher.addresses()) == {"stays", "new"}


async def test_more_than_grpcs_own_limit_of_a_message_arrives_whole(natives: Natives, source: EtcdSource) -> None:
    async with aclosing(source.watch()) as watch:  # type: ignore[type-var]
        assert isinstance(await anext(watch), Listing)
        lease = await natives.lease()
        for group in range(40):  # 5 MB that the watch finds in the history when it begins
            pairs = [(key(f"i{group}-{n}", f"s{group}"), large(f"i{group}-{n}", f"s{group}")) for n in range(100)]
            await natives.put(*pairs, lease=lease)
        seen: dict[ServiceName, int] = {}
        async for word in watch:
            if isinstance(word, Observed):
                seen[word.service.name] = len(word.service.instances)
                if len(seen) == 40:
                    break
    assert set(seen.values()) == {100}, "a transaction was shown in part"


async def test_a_delete_of_very_many_keys_is_one_message(etcd: Etcd, natives: Natives) -> None:
    """etcd 3.6 takes quadratic time to split one: 47 s for 100,000 keys."""
    lease = await natives.lease()
    name = "i" * 200
    for group in range(200):  # 5 MB of keys alone: etcd would split at 1.5 MiB
        await natives.put(*[(key(f"{name}{n}", f"s{group}"), record("i")) for n in range(100)], lease=lease)
    async with registry(etcd) as opened:
        # An answer to a probe is a message, too.
        source = EtcdSource(opened._client, opened._space, Times(probe=3600.0))
        before = await etcd.sent("Watch")

        async def begun() -> float:
            """What etcd has sent once it has said of each range that it is watched."""
            sent = await etcd.sent("Watch")
            return sent if sent > before + len(opened._space.entries) else 0

        async with Watcher(source.watch()) as watcher:
            sent = await until(begun)
            await natives.delete_below("/microservices/")
            await until(lambda: not any(watcher.addresses(ServiceName(f"s{group}")) for group in range(200)))
            assert await etcd.sent("Watch") == sent + 1


async def test_a_watch_that_is_behind_says_how_far(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd) as opened:
        source = EtcdSource(opened._client, opened._space, Times(probe=0.05))
        assert source.behind is None
        async with aclosing(source.watch()) as watch:  # type: ignore[type-var]
            while not isinstance(await anext(watch), Synced):
                pass
            for n in range(4 * BACKLOG):  # more than is read ahead of a consumer that asks for nothing
                await natives.put((key(f"i{n}"), record(f"i{n}")), lease=await natives.lease())
            await until(lambda: source.behind and source.behind.revisions >= 2 * BACKLOG)
            behind = source.behind
            assert behind is not None
            await until(lambda: source.behind and source.behind.seconds > behind.seconds)
            going_on = asyncio.create_task(consumed(watch))
            await until(lambda: source.behind is None)
            going_on.cancel()
            await asyncio.gather(going_on, return_exceptions=True)
        assert source.behind is None


async def consumed(watch: AsyncIterator[object]) -> None:
    async for _ in watch:
        pass


def large(id: str, service: str) -> str:
    return record(id, service=service).replace('"metadata":null', '"metadata":{"text":"' + "x" * 1000 + '"}')


async def test_pages_are_of_one_revision_while_writes_go_on(natives: Natives) -> None:
    ids = [f"i{n:03}" for n in range(200)]

    async def write() -> None:
        """Every transaction moves the first and the last key on together."""
        for n in range(2, 250):
            await natives.put((key(ids[0]), str(n)), (key(ids[-1]), str(n)))

    await natives.put(*[(key(id), "1") for id in ids[:100]])
    await natives.put(*[(key(id), "1") for id in ids[100:]])
    writing = asyncio.create_task(write())
    try:
        await until(lambda: not writing.done())
        moved = set()
        for _ in range(10):
            pages = natives.client.pages([Range.below(b"/microservices/")], limit=7)
            found = {kv.key.decode(): kv.value async for _, page in pages for kv in page.kvs}
            assert len(found) == 200
            assert found[key(ids[0])] == found[key(ids[-1])]
            moved.add(found[key(ids[0])])
        assert len(moved) > 1, "nothing was written meanwhile"
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def test_a_page_larger_than_a_message_may_be_is_asked_for_in_smaller_ones(etcd: Etcd, natives: Natives) -> None:
    for n in range(20):
        await natives.put(*[(key(f"i{n}-{m}"), "x" * 2000) for m in range(50)])
    async with narrow(etcd) as opened:
        pages = opened._client.pages([Range.below(b"/microservices/")])
        assert len([kv async for _, page in pages for kv in page.kvs]) == 1000


@pytest.mark.parametrize("version", ["3.6", "3.4"])
async def test_what_a_bridge_writes_is_never_seen_without_its_mark(version: str, etcd_server: StartEtcd) -> None:
    """A storm of writes, with our leases and without, natives among them: data and ledger come in either order."""
    server = await etcd_server(version=version)
    async with registry(server) as opened, registry(server) as writing, Natives(server) as natives:
        sink = Seated(writing, "b1")
        async with Watcher(opened.source.watch()) as watcher, sink.writer():

            async def storm(service: ServiceName) -> None:
                made: dict[str, Outcome] = {}
                for turn in range(12):
                    for id, ttl in (("i1", None), ("i2", 60)):
                        if id not in made:
                            change = create(id, service=service, ttl=ttl)
                        elif turn % 4 == 3:
                            change = remove(id, before(made.pop(id)), service)
                        else:
                            change = replace(id, before(made[id]), service, ttl, address=f"10.0.1.{turn}")
                        (outcome,) = await sink.apply([change])
                        assert outcome.error is None
                        if change.after is not None:
                            made[id] = outcome
                    await natives.put(
                        (key(f"native{turn}", service.name), record(f"native{turn}", service=service.name))
                    )

            async with asyncio.TaskGroup() as group:
                for n in range(20):
                    group.create_task(storm(ServiceName(f"s{n}")))
            held = await sink.held()
            await until(lambda: all(agree(watcher, name, entries) for name, entries in held.services.items()))
        for observed in watcher.observed:
            for id in observed.service.instances:
                assert (id in observed.service.marks) == (not id.startswith("native")), observed


def before(outcome: Outcome) -> Entry:
    return entry(outcome)


def agree(watcher: Watcher, name: ServiceName, entries: dict[str, Entry]) -> bool:
    now = watcher.now(name)
    if now is None or now.service.instances != {id: each.instance for id, each in entries.items()}:
        return False
    marks: dict[str, Mark] = {id: each.mark for id, each in entries.items() if each.mark}
    return now.service.marks == marks


async def test_an_audit_finds_nothing_wrong_with_a_watch_that_tells_the_truth(etcd: Etcd, natives: Natives) -> None:
    async with registry(etcd) as opened:
        source = EtcdSource(opened._client, opened._space, Times(audit=0.01))
        async with Watcher(source.watch()) as watcher:
            lease = await natives.lease()
            for n in range(300):
                await natives.put((key(f"i{n % 40}"), record(f"i{n % 40}", f"10.0.0.{n % 200}")), lease=lease)
                if n % 3 == 0:
                    await natives.delete(key(f"i{(n + 20) % 40}"))
            truth = set(await natives.get("/microservices/"))
            await until(lambda: {key(id) for id in watcher.addresses()} == truth)
            assert watcher.error is None


@pytest.mark.parametrize("damage", ["kill", "freeze"])
async def test_a_server_that_dies_or_freezes_ends_the_watch(etcd_server: StartEtcd, damage: str) -> None:
    """With the pings of every day it takes 15 s to find a frozen one: here they are quicker, and etcd allows it."""
    server = await etcd_server(flags=["--grpc-keepalive-min-time=1s"])
    async with registry(server, Times(ping=2.0, pong=1.0)) as opened, Watcher(opened.source.watch()) as watcher:
        if damage == "kill":
            await server.kill()
        else:
            server.freeze()
        await until(lambda: watcher.error)
        assert kind(watcher.error) is Unavailable
        if damage == "kill":
            await server.start()
        else:
            server.thaw()
        async with Watcher(opened.source.watch()) as again:
            assert again.synced


async def test_a_store_that_begins_anew_is_another_incarnation(etcd_server: StartEtcd) -> None:
    """The same member with its data lost has the same cluster id: the revision tells."""
    server = await etcd_server()
    async with registry(server) as opened, Natives(server) as natives:
        await natives.put((key("i1"), record("i1")))
        async with Watcher(opened.source.watch()) as watcher:
            first = watcher.said[0]
            await server.kill()
            server.forget()
            await server.start()
            await until(lambda: watcher.error)
        async with Watcher(opened.source.watch()) as watcher:
            second = watcher.said[0]
        assert isinstance(first, Listing)
        assert isinstance(second, Listing)
        assert first.identity == second.identity
        assert second.revision < first.revision


@pytest.mark.parametrize("version", ["3.6", "3.4"])
async def test_a_watch_that_is_refused_says_so(etcd_server: StartEtcd, version: str) -> None:
    server = await etcd_server(version=version)
    await admin(server, "auth/user/add", name="root", password="secret")
    await admin(server, "auth/user/grant", user="root", role="root")
    await admin(server, "auth/role/add", name="reader")
    for area in (below("/microservices/"), below("/isthmus/")):
        await admin(server, "auth/role/grant", name="reader", perm={"permType": "READ", **area})
    await admin(server, "auth/user/add", name="isthmus", password="secret")
    await admin(server, "auth/user/grant", user="isthmus", role="reader")
    await admin(server, "auth/enable")
    async with registry(server, user="isthmus", password="secret") as opened:
        async with Watcher(opened.source.watch()) as watcher:
            assert watcher.error is None
        async with aclosing(opened.source.watch()) as watch:  # type: ignore[type-var]
            assert isinstance(await anext(watch), Listing)
            token = (await admin(server, "auth/authenticate", name="root", password="secret"))["token"]
            area = below("/microservices/")
            revoked = {"key": area["key"], "range_end": area["range_end"]}
            await admin(server, "auth/role/revoke", token=token, role="reader", **revoked)
            with pytest.raises(Denied):
                async for _ in watch:
                    pass
        with pytest.raises(Denied):
            await anext(opened.source.watch())


async def test_closing_the_registry_ends_a_watch_that_runs(etcd: Etcd) -> None:
    opened = registry(etcd)
    async with opened, Watcher(opened.source.watch()) as watcher:
        await opened.__aexit__()
        await until(lambda: watcher.error)
        assert kind(watcher.error) is Unavailable


async def test_a_watch_that_is_closed_leaves_nothing_behind(natives: Natives, source: EtcdSource) -> None:
    await natives.put((key("i1"), record("i1")))
    tasks = asyncio.all_tasks()
    watch = source.watch()
    async for word in watch:
        if isinstance(word, Synced):
            break
    assert asyncio.all_tasks() - tasks
    await watch.aclose()  # type: ignore[attr-defined]
    await until(settled(tasks))


def settled(tasks: set[asyncio.Task[None]]) -> Callable[[], bool]:
    return lambda: not {task for task in asyncio.all_tasks() - tasks if not task.done()}
