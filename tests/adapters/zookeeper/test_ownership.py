"""Whose a node is: ours only while one transaction wrote it and its ledger node, whatever natives do, in any order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext
from typing import Any, cast

import pytest

from adapters.zookeeper.sink import ZooKeeperSink
from adapters.zookeeper.tree import Tree
from bridge.adapter import Change
from bridge.errors import Conflict, Rejected, Unavailable
from bridge.model import Health, Instance, Port, ServiceName
from mappings import ledger
from mappings.common.curator_record import DUBBO
from tests.adapters.zookeeper.conftest import Open
from tests.adapters.zookeeper.lab import curator, provider, record, spring
from tests.conformance.lab import (
    BRIDGE,
    CART,
    OTHER,
    PAY,
    Watching,
    at,
    change,
    create,
    forget,
    instance,
    mark,
    owners,
    refusals,
    shown,
    source_of,
    watching,
    write,
)
from tests.kit.natives import Kazoo
from tests.kit.proxy import Proxy
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.zookeeper import ZooKeeper

NODE = "/services/pay/i1"
LEDGER = "/isthmus/ledger/services/pay/i1"
NATIVE = Instance("i1", "198.51.100.1", (Port(9001, "grpc", "grpc"),))


async def again(native: Kazoo, *, sets: int = 0) -> None:
    """A native registers over whatever is there, as Curator does: two requests, and perhaps updates after them."""
    await native.do(native.zk.delete, NODE)
    await native.do(native.zk.create, NODE, curator(PAY, NATIVE).encode(), ephemeral=True)
    for _ in range(sets):
        await native.do(native.zk.set, NODE, curator(PAY, NATIVE).encode())


@pytest.mark.parametrize("sets", range(4))
async def test_a_native_that_registers_anew_is_neither_changed_nor_removed(
    native: Kazoo, open_registry: Open, sets: int
) -> None:
    """However often it writes: one of these times its node has the very version that ours had."""
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        (entry,) = await write(sink, create(PAY, instance(1)))
        await again(native, sets=sets)
        before = await native.do(native.zk.get, NODE)
        assert await refusals(sink, change(PAY, entry, None), change(PAY, entry, instance(1, turn="2"))) == [
            Conflict,
            Conflict,
        ]
        assert await native.do(native.zk.get, NODE) == before
        held = await sink.held()
        assert owners(held) == {"i1": ""}
        assert await refusals(sink, forget(PAY, "i1", held.loose[PAY]["i1"])) == [None]
        assert await native.do(native.zk.get, NODE) == before
        assert await native.do(native.zk.exists, LEDGER) is None


async def test_a_node_that_was_registered_anew_never_has_our_version(native: Kazoo, open_registry: Open) -> None:
    """What keeps a native safe that registers after the last look, and before the transaction."""
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        (entry,) = await write(sink, create(PAY, instance(1)))
        ours = (await native.do(native.zk.get, NODE))[1]
        await again(native)
        theirs = (await native.do(native.zk.get, NODE))[1]
        assert (ours.version, theirs.version) == (1, 0)
        assert entry.version.entry == ours.version


async def test_a_native_that_comes_between_look_and_transaction_is_spared(
    native: Kazoo, open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        (entry,) = await write(sink, create(PAY, instance(1)))
        look = ZooKeeperSink._stand

        async def look_and_dawdle(self: ZooKeeperSink, steps: Any) -> list[bool]:
            seen = await look(self, steps)
            await again(native)
            return seen

        with monkeypatch.context() as late:
            late.setattr(ZooKeeperSink, "_stand", look_and_dawdle)
            assert await refusals(sink, change(PAY, entry, None)) == [Conflict]
            assert await refusals(sink, change(PAY, entry, instance(1, turn="2"))) == [Conflict]
        assert owners(await sink.held()) == {"i1": ""}


async def test_what_a_native_deletes_is_loose_until_it_is_forgotten_or_written(
    native: Kazoo, open_registry: Open
) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
        await native.delete(NODE)
        await native.delete("/services/pay/i2")
        held = await sink.held()
        assert not held.services.get(PAY)
        assert held.loose[PAY].keys() == {"i1", "i2"}
        assert await refusals(sink, forget(PAY, "i1", held.loose[PAY]["i1"])) == [None]
        await write(sink, create(PAY, instance(2)))
        held = await sink.held()
        assert owners(held) == {"i2": BRIDGE}
        assert not held.loose


async def test_a_native_that_stands_there_first_is_left_alone_until_it_goes(native: Kazoo, open_registry: Open) -> None:
    sink = Seated(open_registry(), BRIDGE)
    await native.register(NODE, curator(PAY, NATIVE))
    async with sink.writer():
        assert await refusals(sink, create(PAY, instance(1))) == [Conflict]
        assert await native.do(native.zk.exists, LEDGER) is None
        await native.delete(NODE)
        await write(sink, create(PAY, instance(1)))
        assert owners(await sink.held()) == {"i1": BRIDGE}


async def test_a_folder_that_vanished_is_made_anew(native: Kazoo, open_registry: Open) -> None:
    """Containers are deleted a minute after their last child."""
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        (entry,) = await write(sink, create(PAY, instance(1)))
        await write(sink, change(PAY, entry, None))
        await native.delete("/services/pay")
        await native.delete("/isthmus/ledger/services/pay")
        await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
        assert owners(await sink.held()) == {"i1": BRIDGE, "i2": BRIDGE}


async def test_only_entries_and_their_parents_are_written_below_the_root(native: Kazoo, open_registry: Open) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))
        assert await native.do(native.zk.get_children, "/services") == ["pay"]
        assert await native.do(native.zk.get_children, "/services/pay") == ["i1"]
        assert await native.do(native.zk.get_children, NODE) == []


async def test_every_layout_of_a_root_sees_the_mark_of_a_copy(native: Kazoo, open_registry: Open) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))
        for layout in ("curator", "spring"):
            other = Seated(open_registry(layout=layout), OTHER)
            assert (await shown(other, PAY))["i1"].mark == mark(PAY, "i1")


@pytest.mark.parametrize(
    ("layout", "theirs", "fits"),
    [
        ("curator", spring(PAY, instance(9)), False),
        ("curator", curator(PAY, instance(9, team="pay")), True),
        ("curator", curator(PAY, instance(9)), True),
        ("spring", spring(PAY, instance(9)), True),
        ("spring", curator(PAY, instance(9, team="pay")), False),
        ("spring", curator(PAY, instance(9)), True),
        (
            "spring",
            f'{{"address":"10.0.0.7","port":1,"payload":{{"@class":"{DUBBO}"}}}}',
            False,
        ),
    ],
)
async def test_nothing_is_written_under_a_name_of_another_payload_class(
    native: Kazoo, open_registry: Open, layout: str, theirs: str, fits: bool
) -> None:
    await native.register("/services/pay/i9", theirs)
    sink = Seated(open_registry(layout=layout), BRIDGE)
    async with sink.writer():
        changes = [create(name, sink.canonical(name, instance(1, team="pay"))) for name in (PAY, CART)]
        await sink.held()
        with nullcontext() if fits else pytest.raises(Rejected, match="holds payload class"):
            sink.canonical(PAY, instance(1, team="pay"))
        if layout == "spring":  # of Curator, what was decided before anything was known has no payload, and fits
            assert await refusals(sink, *changes) == [None if fits else Rejected, None]
        await native.delete("/services/pay/i9")
        await sink.held([PAY])
        if not fits:
            await write(sink, changes[0])


async def test_a_lost_answer_is_no_lost_entry(zookeeper: ZooKeeper, native: Kazoo, open_registry: Open) -> None:
    async with Proxy(zookeeper.address) as proxy:
        sink = Seated(open_registry(hosts=[proxy.address], session_timeout=20), BRIDGE)
        async with sink.writer():
            await write(sink, create(PAY, instance(1)))
            proxy.freeze("down")
            writing = asyncio.create_task(refusals(sink, create(PAY, instance(2))))

            async def arrived() -> bool:
                return await native.do(native.zk.exists, "/services/pay/i2") is not None

            await until(arrived)
            await proxy.cut()
            await proxy.heal()
            (error,) = await writing
            assert error is not None
            assert issubclass(error, Unavailable)
            assert owners(await sink.held()) == {"i1": BRIDGE, "i2": BRIDGE}
            assert await refusals(sink, create(PAY, instance(2))) == [Conflict]


async def test_drift_tells_of_natives_and_of_gaps(zookeeper: ZooKeeper, native: Kazoo, open_registry: Open) -> None:
    async with Proxy(zookeeper.address) as proxy:
        sink = Seated(open_registry(hosts=[proxy.address], session_timeout=20), BRIDGE)
        async with sink.writer():
            told: list[frozenset[ServiceName]] = []

            async def listen() -> None:
                async with aclosing(cast(Any, sink.drift())) as words:
                    async for names in words:
                        told.append(names)

            async def heard(*words: frozenset[ServiceName]) -> bool:
                return told == list(words)

            task = asyncio.create_task(listen())
            try:
                await until(lambda: heard(frozenset()))
                (entry,) = await write(sink, create(PAY, instance(1)))
                await write(sink, change(PAY, entry, instance(1, turn="2")))
                await native.do(native.zk.set, LEDGER, b"meddled")
                await until(lambda: heard(frozenset(), frozenset({PAY})))
                await proxy.cut()
                await until(lambda: heard(frozenset(), frozenset({PAY}), frozenset()))
                await write(sink, create(CART, instance(2)))
                await native.delete("/services/cart/i2")
                await until(lambda: heard(frozenset(), frozenset({PAY}), frozenset(), frozenset({CART})))
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def test_a_source_tells_at_once_when_a_copy_is_a_natives(native: Kazoo, open_registry: Open) -> None:
    registry = open_registry()
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))
        async with watching(await source_of(registry)) as watch:
            await watch.until(lambda: watch.synced)
            assert watch.service(PAY).marks == {"i1": mark(PAY, "i1")}
            await again(native)
            await watch.until(lambda: watch.picture(PAY) == at(NATIVE) and not watch.service(PAY).marks)


async def test_a_ledger_of_a_later_format_hides_a_copy_and_keeps_it(native: Kazoo, open_registry: Open) -> None:
    """Neither a native's, which would be copied in a ring, nor ours."""
    registry = open_registry()
    sink = Seated(registry, BRIDGE)
    source = await source_of(registry)
    async with sink.writer():
        (entry,) = await write(sink, create(PAY, instance(1)))
        both = native.zk.transaction()
        both.set_data(NODE, curator(PAY, instance(1)).encode())
        both.set_data(LEDGER, b'{"v":2}')
        await native.do(both.commit)
        observed = await source.read(PAY)
        assert observed.unreadable == {"i1"}
        assert not observed.service.instances
        (held,) = (await shown(sink, PAY)).values()
        assert held.mark is not None
        assert held.mark.owner == ""
        assert await refusals(sink, change(PAY, entry, None), create(PAY, instance(1))) == [Conflict, Conflict]


async def test_a_record_beyond_a_packet_is_refused_and_its_siblings_flow(open_registry: Open) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        big = create(PAY, instance(1, blob="x" * 1_100_000))
        many = [create(PAY, instance(number, blob="x" * 90_000)) for number in range(2, 32)]
        assert await refusals(sink, big, *many) == [Rejected] + [None] * len(many)
        assert owners(await sink.held()).keys() == {change.id for change in many}


async def test_dubbo_providers_are_nodes_whose_name_is_the_record(native: Kazoo, open_registry: Open) -> None:
    interface = "com.foo.Bar"
    url = provider(interface, "10.0.0.7", timestamp="1795443133856", weight="50")
    consumer = provider(interface, "10.0.0.9").replace("dubbo%3A", "consumer%3A", 1)
    await native.register(f"/dubbo/{interface}/providers/{url}", "10.0.0.1")
    await native.register(f"/dubbo/{interface}/consumers/{consumer}", "10.0.0.1")
    await native.register("/dubbo/metadata/com.foo.Bar/provider/demo", "{}", ephemeral=False)
    registry = open_registry(layout="dubbo2", protocol=None)
    name = ServiceName(interface)
    async with watching(await source_of(registry)) as watch:
        await watch.until(lambda: watch.synced)
        (seen,) = watch.service(name).instances.values()
        assert (seen.address, seen.ports[0].number, seen.weight) == ("10.0.0.7", 20880, 0.5)
        assert set(watch.observed) == {name}
        sink = Seated(registry, BRIDGE)
        async with sink.writer():
            made = sink.canonical(name, Instance("any", "10.0.0.8", (Port(20880, "dubbo", "dubbo"),)))
            (entry,) = await write(sink, Change(name, made.id, None, made, mark(name, made.id)))
            assert await shown(sink, name) == {made.id: entry} | {
                id: each for id, each in (await shown(sink, name)).items() if each.mark is None
            }
            await watch.until(lambda: watch.service(name).marks.keys() == {made.id})
            children = await native.do(native.zk.get_children, f"/dubbo/{interface}/providers")
            assert len(children) == 2
            await write(sink, Change(name, made.id, entry))
            assert await native.do(native.zk.get_children, f"/dubbo/{interface}/providers") == [url]
            assert sorted(await native.do(native.zk.get_children, "/dubbo")) == [interface, "metadata"]
        await native.delete(f"/dubbo/{interface}/providers/{url}")
        await watch.until(lambda: not watch.service(name).instances)


async def test_a_dubbo_3_instance_has_the_ports_that_its_report_names(native: Kazoo, open_registry: Open) -> None:
    """Consumers call those, and see nothing of an instance whose report is not there."""
    report = '{"app":"demo","revision":"r1","services":{"com.foo.Bar:dubbo":{"port":20885,"protocol":"dubbo"}}}'
    metadata = {
        "dubbo.endpoints": '[{"port":20881,"protocol":"dubbo"}]',
        "dubbo.metadata.revision": "r1",
        "dubbo.metadata.storage-type": "remote",
    }
    payload = {"@class": DUBBO, "id": "10.0.0.7:20881", "name": "demo", "metadata": metadata}
    demo = ServiceName("demo")
    what = Instance("10.0.0.7:20881", "10.0.0.7", (Port(20881, "dubbo", "dubbo"),))
    await native.register("/services/demo/10.0.0.7:20881", record(demo, what, payload))
    await native.register("/services/pay/i1", curator(PAY, instance(1)))
    source = await source_of(open_registry(layout="dubbo3", protocol=None))

    def seen(watch: Watching) -> tuple[int, Health]:
        (one,) = watch.service(demo).instances.values()
        return one.ports[0].number, one.health

    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert seen(watch) == (20881, Health.UNHEALTHY)
        assert watch.observed[PAY].unreadable == {"i1"}
        await native.register("/dubbo/metadata/demo/r1", report, ephemeral=False)
        await watch.until(lambda: seen(watch) == (20885, Health.UNKNOWN))
        read = (await source.read(demo)).service
        assert read == watch.service(demo)
        await native.delete("/dubbo/metadata/demo/r1")
        await watch.until(lambda: seen(watch) == (20881, Health.UNHEALTHY))


async def test_a_copy_that_is_made_between_the_list_and_the_reading_has_its_mark(
    native: Kazoo, open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list knows of no ledger node, and the value is no longer that of the native that was listed."""
    await native.register(NODE, curator(PAY, NATIVE))
    await native.do(native.zk.ensure_path, "/isthmus/ledger/services/pay")
    ask = Tree._places_of

    def ask_late(self: Tree, places: Any) -> list[str]:
        if not native.zk.exists(LEDGER):
            both = native.zk.transaction()
            both.delete(NODE)
            both.create(NODE, curator(PAY, instance(1)).encode())
            both.create(LEDGER, ledger.encode(mark(PAY, "i1")))
            both.commit()
        return ask(self, places)

    monkeypatch.setattr(Tree, "_places_of", ask_late)
    async with watching(await source_of(open_registry())) as watch:
        await watch.until(lambda: watch.synced)
        for observed in watch.observations(PAY):
            assert observed.service.marks == {"i1": mark(PAY, "i1")}


async def test_a_copy_whose_ledger_node_goes_is_shown_as_a_natives(native: Kazoo, open_registry: Open) -> None:
    """As when it is released: nothing happens to the entry itself."""
    registry = open_registry()
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1)))
        async with watching(await source_of(registry)) as watch:
            await watch.until(lambda: watch.synced)
            assert watch.service(PAY).marks.keys() == {"i1"}
            await native.delete(LEDGER)
            await watch.until(lambda: not watch.service(PAY).marks)
            assert watch.picture(PAY) == at(instance(1))
