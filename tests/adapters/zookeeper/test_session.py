"""What a lost connection, an ended session, a frozen server and a restart do, and what they never do."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.common.shards import Wish
from adapters.zookeeper import client as clients
from adapters.zookeeper.times import Times
from bridge.adapter import Synced
from bridge.errors import Expired, Rejected, Superseded, Unavailable
from bridge.shards import Shards
from tests.adapters.zookeeper.conftest import Open
from tests.adapters.zookeeper.lab import curator, registry_of
from tests.conformance.lab import (
    BRIDGE,
    CART,
    PAY,
    Watching,
    at,
    create,
    instance,
    mark,
    owners,
    shown,
    source_of,
    watching,
    write,
)
from tests.conftest import StartZooKeeper
from tests.kit.natives import Kazoo
from tests.kit.proxy import Proxy
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.zookeeper import ZooKeeper

HOME = Path(__file__).parents[3]


async def test_a_connection_lost_for_less_than_the_session_misses_nothing(
    zookeeper: ZooKeeper, native: Kazoo, open_registry: Open
) -> None:
    """Fault 22: nothing disappears meanwhile, and what happened meanwhile is found, in one and the same watch."""
    for number in (1, 2, 3):
        await native.register(f"/services/pay/i{number}", curator(PAY, instance(number)))
    await native.register("/services/cart/i7", curator(CART, instance(7)))
    async with Proxy(zookeeper.address) as proxy:
        registry = open_registry(hosts=[proxy.address], session_timeout=10)
        async with watching(await source_of(registry)) as watch:
            await watch.until(lambda: watch.synced)
            await proxy.refuse()
            said = len(watch.said)
            await native.register("/services/pay/i4", curator(PAY, instance(4)))
            await native.register("/services/pay/i2", curator(PAY, instance(2, team="pay")))
            await native.delete("/services/pay/i3")
            await native.delete("/services/cart/i7")
            assert len(watch.said) == said
            await proxy.heal()
            await watch.until(lambda: watch.service(PAY).instances.keys() == {"i1", "i2", "i4"})
            assert watch.service(PAY).instances["i2"].metadata == {"team": "pay"}
            await watch.until(lambda: not watch.service(CART).instances)
            # The watch is made again: what happens from now on is told, too.
            await native.register("/services/pay/i6", curator(PAY, instance(6)))
            await watch.until(lambda: "i6" in watch.service(PAY).instances)
            for observed in watch.observations(PAY):
                assert {"i1", "i2"} <= observed.service.instances.keys()
            assert sum(isinstance(word, Synced) for word in watch.said) == 1


async def test_a_connection_that_breaks_over_and_over_is_no_storm_of_lists(
    zookeeper: ZooKeeper, native: Kazoo, open_registry: Open
) -> None:
    """Fault 6: the core decides when a source that flaps is listed again."""
    await native.register("/services/pay/i1", curator(PAY, instance(1)))
    async with Proxy(zookeeper.address) as proxy:
        registry = open_registry(hosts=[proxy.address], session_timeout=20)
        async with watching(await source_of(registry)) as watch:
            await watch.until(lambda: watch.synced)
            for number in range(10):
                connections = proxy.connections
                await proxy.cut()
                await until(lambda c=connections: reconnected(proxy, c))
                await native.register("/services/pay/i1", curator(PAY, instance(1, turn=str(number))))
                turn = str(number)
                await watch.until(
                    lambda t=turn: (
                        watch.error is not None  # type: ignore[misc]
                        or watch.service(PAY).instances["i1"].metadata.get("turn") == t
                    )
                )
                if watch.error is not None:
                    break
            assert isinstance(watch.error, Unavailable)


async def reconnected(proxy: Proxy, before: int) -> bool:
    return proxy.connections > before and proxy.open > 0


async def test_an_expired_session_ends_the_watch_and_removes_nothing(
    zookeeper: ZooKeeper, native: Kazoo, open_registry: Open
) -> None:
    """Fault 23, for a source (bk-cmdb 2828: a lost session was taken for an empty registry)."""
    await native.register("/services/pay/i1", curator(PAY, instance(1)))
    registry = open_registry()
    source = await source_of(registry)
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        await end_session(native, registry._client)
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Expired)
        assert watch.picture(PAY) == at(instance(1))
    async with watching(source) as again:
        await again.until(lambda: again.synced)
        assert again.picture(PAY) == at(instance(1))


async def test_an_expired_session_ends_the_term_and_the_next_one_goes_on(native: Kazoo, open_registry: Open) -> None:
    """Fault 23, for a sink: lasting entries stay, leased ones are told of and written anew."""
    registry = open_registry(session_timeout=10)
    sink = Seated(registry, BRIDGE)
    drifts: list[object] = []

    async def listen() -> None:
        async for names in sink.drift():
            drifts.append(names)

    listening = asyncio.create_task(listen())
    try:
        async with sink.writer() as term:
            await write(sink, create(PAY, instance(1)), create(PAY, instance(2), ttl=10))
            await until(lambda: is_so(drifts == [frozenset()]))
            await end_session(native, sink.sink._client)
            await term.ended()
            with pytest.raises(Superseded):
                await sink.apply([create(PAY, instance(3))])
        await until(lambda: is_so(drifts == [frozenset(), frozenset()]))
        assert owners(await sink.held()) == {"i1": BRIDGE}
        assert not (await sink.held()).loose
        async with sink.writer():
            await write(sink, create(PAY, instance(2), ttl=10))
            assert owners(await sink.held()) == {"i1": BRIDGE, "i2": BRIDGE}
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_entries_of_a_shard_do_not_die_with_one_session(open_registry: Open) -> None:
    registry = open_registry()
    sink, seat = registry.sink(BRIDGE), registry.seat(BRIDGE, registry.name)
    assert isinstance(seat, Shards)
    await seat.divide(2)
    async with seat.take(0, 2, "one", claim=True) as term:
        made = await sink.apply([create(PAY, instance(1)), create(PAY, instance(2), ttl=10)], term)
        assert [type(outcome.error) for outcome in made] == [type(None), Rejected]
    assert owners(await sink.held()) == {"i1": BRIDGE}


async def test_a_queue_is_joined_without_a_claim_by_who_saw_its_last_alone(open_registry: Open) -> None:
    """Whoever joined since and is gone again makes no difference: it is looked at anew."""
    registry = open_registry()
    seat = registry.seat(BRIDGE, registry.name)
    assert isinstance(seat, Shards)
    await seat.divide(2)
    area: Any = seat.area  # type: ignore[attr-defined]
    wish = Wish(0, 2, "one", claims=False)
    async with area.alive() as life:
        await area.look()
        for seen in (0, 1):
            await area.claim(life, wish)
            await area.release(life, 0)
            assert (await area._join(wish, area._divided, seen)).value, "refused"
        assert not (await area._join(wish, area._divided, 2)).value
        await area.release(life, 0)


async def is_so(what: bool) -> bool:
    return what


async def end_session(native: Kazoo, client: clients.Client) -> None:
    connection = client._connection
    assert connection is not None
    await native.expire(connection.session, connection.password)


async def test_a_frozen_server_is_an_error_and_not_a_silence(zookeeper_server: StartZooKeeper) -> None:
    """Faults 3 and 4. Long before the session would end, which is when kazoo notices."""
    server = await zookeeper_server(settings={"maxSessionTimeout": "120000"})
    times = Times(connection=1.0, answer=1.0, quiet=0.5)
    opened = registry_of(times=times, hosts=[server.address], session_timeout=120)
    async with Kazoo(server.address) as native, opened as registry:
        await native.register("/services/pay/i1", curator(PAY, instance(1)))
        async with watching(await source_of(registry)) as watch:
            await watch.until(lambda: watch.synced)
            server.freeze()
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Unavailable)
            assert watch.picture(PAY) == at(instance(1))
        server.thaw()
        await until(lambda: synced(registry))


async def synced(registry: object) -> bool:
    watch = Watching()
    try:
        async with watching(await source_of(registry)) as watch:  # type: ignore[arg-type]
            await watch.until(lambda: watch.synced)
    except (Unavailable, Expired):
        return False
    return True


async def test_a_store_that_was_emptied_is_reached_and_known_by_its_position(zookeeper_server: StartZooKeeper) -> None:
    """A client that says which transaction it has seen is refused by a store that has not: a new session says none."""
    server = await zookeeper_server()
    async with registry_of(times=Times(connection=1.0), hosts=[server.address], session_timeout=2) as registry:
        async with Kazoo(server.address) as native:
            for number in range(1, 40):
                await native.register(f"/services/pay/i{number}", curator(PAY, instance(number)))
        source = await source_of(registry)
        async with watching(source) as watch:
            await watch.until(lambda: watch.synced)
            await server.kill()
            server.forget()
            await server.start()
            await watch.until(lambda: watch.error is not None)
        after = Watching()

        async def answers() -> bool:
            nonlocal after
            async with watching(source) as after:
                try:
                    await after.until(lambda: after.synced)
                except (Unavailable, Expired):
                    return False
            return True

        await until(answers)
        assert after.said[0].revision < watch.said[0].revision
        assert not after.observed


async def test_a_session_is_carried_over_a_restart(native: Kazoo, open_registry: Open, tmp_path: Path) -> None:
    registry = open_registry(tmp_path, session_timeout=10)
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        await write(sink, create(PAY, instance(1), ttl=10))
    kept = await native.do(native.zk.get, "/services/pay/i1")
    await registry.__aexit__()
    assert stat.S_IMODE((tmp_path / "lab.session").stat().st_mode) == 0o600
    assert await native.do(native.zk.get, "/services/pay/i1") == kept
    second = Seated(open_registry(tmp_path, session_timeout=10), BRIDGE)
    async with second.writer():
        assert second.sink._client.session == kept[1].ephemeralOwner
        assert owners(await second.held()) == {"i1": BRIDGE}
        assert await native.do(native.zk.get, "/services/pay/i1") == kept


async def test_a_second_process_leaves_the_carried_session_alone(open_registry: Open, tmp_path: Path) -> None:
    """A command beside the daemon must not take its session from it."""
    sink = Seated(open_registry(tmp_path), BRIDGE)
    async with sink.writer() as term:
        (entry,) = await write(sink, create(PAY, instance(1), ttl=30))
        beside = Seated(open_registry(tmp_path), BRIDGE)
        assert await shown(beside, PAY) == {"i1": entry}
        assert beside.sink._client.session != sink.sink._client.session
        assert not term.over


async def test_a_standby_that_takes_over_keeps_what_was_leased(native: Kazoo, open_registry: Open) -> None:
    """Without a moment in which it is gone."""
    async with watching(await source_of(open_registry())) as watch:
        first = open_registry(session_timeout=2)
        sink = Seated(first, BRIDGE)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(sink.writer())
            await write(sink, *(create(PAY, instance(number), ttl=2) for number in range(1, 100)))
        await first.__aexit__()  # as after a crash, its session ends by itself
        second = Seated(open_registry(session_timeout=10), BRIDGE)
        async with second.writer():
            stats = [
                (await native.do(native.zk.get, f"/services/pay/i{number}"))[1].ephemeralOwner for number in (1, 99)
            ]
            assert stats == [second.sink._client.session] * 2
            held = await shown(second, PAY)
            assert all(entry.version.owner == second.sink._client.session for entry in held.values())
            assert held["i1"].mark == mark(PAY, "i1")
            await watch.until(lambda: len(watch.service(PAY).marks) == 99)
        sizes = [len(observed.service.instances) for observed in watch.observations(PAY)]
        assert sizes.index(99) == len(sizes) - 1 or set(sizes[sizes.index(99) :]) == {99}


async def test_a_writer_that_has_not_heard_of_its_loss_writes_nothing(
    zookeeper: ZooKeeper, native: Kazoo, open_registry: Open
) -> None:
    """The lock is part of every transaction: what the server knows counts, not what we do."""
    async with Proxy(zookeeper.address) as proxy:
        sink = Seated(open_registry(hosts=[proxy.address], session_timeout=20), BRIDGE)
        async with sink.writer() as term:
            await write(sink, create(PAY, instance(1)))
            proxy.freeze("down")
            await native.delete(term.path)
            sent = proxy.pipes["up"].bytes
            writing = asyncio.create_task(sink.apply([create(PAY, instance(2))]))
            await until(lambda: is_so(proxy.pipes["up"].bytes > sent + 100))
            assert not term.over
            await proxy.heal()
            with pytest.raises(Superseded):
                await writing
            assert await native.do(native.zk.get_children, "/services/pay") == ["i1"]


WRITER = """
import asyncio, sys
from tests.adapters.zookeeper.lab import registry_of
from tests.kit.seated import Seated
from tests.conformance.lab import BRIDGE, PAY, create, instance
from bridge.errors import Superseded
from msgspec.structs import replace

async def main():
    async with registry_of(hosts=[sys.argv[1]], session_timeout=2) as registry:
        sink = Seated(registry, BRIDGE)
        async with sink.writer() as term:
            print("writer", flush=True)
            number = 0
            while True:
                number += 1
                try:
                    await sink.apply([create(PAY, replace(instance(1), id=f"frozen{number}"))])
                except Superseded:
                    print("superseded", flush=True)
                    return

asyncio.run(main())
"""


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        cwd=HOME,
        env=os.environ | {"PYTHONPATH": str(HOME)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        await asyncio.to_thread(child.wait, 20)
        assert child.stdout is not None
        child.stdout.close()


async def test_a_frozen_writer_that_wakes_writes_nothing(
    zookeeper: ZooKeeper, native: Kazoo, open_registry: Open
) -> None:
    async with process(zookeeper.address) as child:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "writer\n"
        await until(lambda: written(native))
        child.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        sink = Seated(open_registry(session_timeout=2), BRIDGE)
        async with sink.writer():
            assert time.monotonic() - frozen < 30
            before = await native.do(native.zk.get_children, "/services/pay")
            await write(sink, create(CART, instance(1)))
            child.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(child.stdout.readline) == "superseded\n"
            assert await native.do(native.zk.get_children, "/services/pay") == before
            assert owners(await sink.held(), CART) == {"i1": BRIDGE}


async def written(native: Kazoo) -> bool:
    stat = await native.do(native.zk.exists, "/services/pay")
    return stat is not None and stat.numChildren > 3


async def test_nothing_is_left_of_a_registry_that_was_closed(zookeeper: ZooKeeper, native: Kazoo) -> None:
    before = threading.active_count(), len(asyncio.all_tasks())
    async with registry_of(hosts=[zookeeper.address]) as registry:
        sink = Seated(registry, BRIDGE)
        async with sink.writer():
            await write(sink, create(PAY, instance(1)))
            await (await source_of(registry)).read(PAY)
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")]
    assert len(threads) <= before[0]
    assert len(asyncio.all_tasks()) == before[1]
    assert await native.do(native.zk.get_children, f"/isthmus/lock/{BRIDGE}/curator:%2Fservices") == []


async def test_to_leave_a_dead_server_takes_no_time(zookeeper_server: StartZooKeeper) -> None:
    server = await zookeeper_server()
    async with registry_of(hosts=[server.address]) as registry:
        sink = Seated(registry, BRIDGE)
        async with asyncio.timeout(30), sink.writer():
            await write(sink, create(PAY, instance(1)))
            await (await source_of(registry)).read(PAY)
            server.freeze()
    assert not [thread for thread in threading.enumerate() if "zk_loop" in thread.name]
