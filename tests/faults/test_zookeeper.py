"""Faults of ZooKeeper (22 to 25): lost connections, ended sessions, herds of them, and answers of any size."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from kazoo.exceptions import NoNodeError

from tests.conftest import StartZooKeeper
from tests.faults.sessions import join_all
from tests.kit import natives, stock
from tests.kit.natives import Kazoo, key, record
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge
from tests.kit.stock import Native as Instance
from tests.kit.waiting import until
from tests.servers.etcd import Etcd
from tests.servers.process import said
from tests.servers.zookeeper import ZooKeeper

ROOT = "/services"
SESSION = 10.0  # seconds
GONE_FOR_GOOD = {"confirm_event": "1s", "confirm_absence": "1s"}  # the second opinions come soon, so that the test does


class World:
    """A fleet in ZooKeeper, its copies in etcd, the daemon between them behind a proxy."""

    def __init__(
        self, native: Kazoo, target: natives.Etcd, up: Proxy, bridge: Bridge, history: natives.History
    ) -> None:
        self.native = native
        self.target = target
        self.up = up
        self.bridge = bridge
        self.history = history
        self.truth: dict[str, tuple[str, str]] = {}  # by the key of the copy: its address, and what it says of itself

    async def put(self, service: str, id: str, turn: str = "1") -> None:
        """Registers an instance, or changes it."""
        path, value = node(service, id, turn)
        await self.native.register(path, value.decode())
        self.truth[key(service, id)] = (address(id), turn)

    async def remove(self, service: str, id: str) -> None:
        """Its owner takes it away."""
        await self.native.delete(f"{ROOT}/{service}/{id}")
        del self.truth[key(service, id)]

    async def equal(self) -> bool:
        """Whether every instance stands at the target as it is, and no other."""
        found = {}
        for where, value in (await self.target.records()).items():
            said = json.loads(value)
            found[where] = (said["endpoints"][0].partition("://")[2], said["metadata"]["turn"])
        return found == self.truth

    async def in_step(self) -> None:
        """Waits until that is so."""
        await until(self.equal, "source and target are equal")

    async def reads(self, state: str) -> bool:
        """What the daemon says of the source."""
        return bool((await self.bridge.scopes())["old"]["state"] == state)

    async def removals(self) -> set[str]:
        """The keys that have been removed at the target by now."""
        return {event.key for event in await self.history.caught_up() if event.value is None}


def address(id: str) -> str:
    """With its port, nobody else's."""
    return f"192.0.2.{int(id[1:]) % 250}:{9000 + int(id[1:])}"


def node(service: str, id: str, turn: str = "1") -> tuple[str, bytes]:
    """What Curator writes, and where."""
    host, _, port = address(id).partition(":")
    where, value = stock.record("curator", service, Instance(id, host, int(port), {"turn": turn}))
    return f"{ROOT}/{where}", value


@asynccontextmanager
async def world(folder: Path, zookeeper: ZooKeeper, etcd: Etcd, **link: Any) -> AsyncIterator[World]:
    """Nothing is there yet, and the daemon is not started."""
    async with AsyncExitStack() as open:
        native = await open.enter_async_context(Kazoo(zookeeper.address))
        target = await open.enter_async_context(natives.Etcd(etcd.address))
        up = await open.enter_async_context(Proxy(zookeeper.address))
        history = await open.enter_async_context(target.history())
        registries = {
            "old": {
                "kind": "zookeeper",
                "hosts": [up.address],
                "layout": "curator",
                "payload": "map",
                "protocol": "grpc",
                "session_timeout": link.pop("session", SESSION),
            },
            "new": {"kind": "etcd", "endpoints": [f"http://{etcd.address}"], "layout": "kratos"},
        }
        blocks = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}, **link}
        made = World(native, target, up, Bridge(folder, registries, [blocks]), history)
        try:
            yield made
        except BaseException as error:
            await made.bridge.__aexit__(error)
            raise
        await made.bridge.__aexit__(None)


async def sessions(zookeeper: ZooKeeper) -> set[bytes]:
    """The sessions that the server knows."""
    answer = await said(int(zookeeper.address.rpartition(":")[2]), b"dump")
    block = answer.partition(b"ephemeral nodes dump")[0]
    return {line.strip() for line in block.splitlines() if line.strip().startswith(b"0x")}


async def test_fault_22_a_connection_lost_within_the_session_loses_nothing(
    folder: Path, zookeeper: ZooKeeper, etcd: Etcd
) -> None:
    async with world(folder, zookeeper, etcd) as made:
        for number in range(20):
            await made.put(f"pay-{number % 5}", f"i{number}")
        await made.bridge.start()
        await made.in_step()
        before = await sessions(zookeeper)
        await made.up.refuse()
        await made.put("pay-0", "i0", turn="2")
        await made.put("pay-0", "i100")
        await made.remove("pay-1", "i1")
        await made.put("pay-9", "i101")
        assert await made.removals() == set()
        await made.up.heal()
        await made.in_step()
        assert await made.removals() == {key("pay-1", "i1")}
        assert before <= await sessions(zookeeper), "it was the same session all the time"
        # The watch is made again: what happens from now on is told, too.
        await made.put("pay-2", "i2", turn="2")
        await made.remove("pay-3", "i3")
        await made.in_step()
        assert await made.removals() == {key("pay-1", "i1"), key("pay-3", "i3")}


async def test_fault_23_a_bridge_whose_session_ended_removes_nothing(
    folder: Path, zookeeper: ZooKeeper, etcd: Etcd
) -> None:
    async with world(folder, zookeeper, etcd, session=2.0, guard=GONE_FOR_GOOD) as made:
        for number in range(20):
            await made.put(f"pay-{number % 5}", f"i{number}")
        others = await sessions(zookeeper)
        await made.bridge.start()
        await made.in_step()

        async def ours() -> set[bytes]:
            return await sessions(zookeeper) - others

        for _ in range(3):
            before: set[bytes] = await until(ours, "it has a session")
            made.bridge.freeze()

            async def ended(before: set[bytes] = before) -> bool:
                return not before & await ours()

            await until(ended, "the server has ended the session")
            made.bridge.thaw()
            await until(lambda: made.reads("synced"), "it has read everything")
        assert await made.removals() == set()
        await made.put("pay-0", "i0", turn="2")
        await made.remove("pay-1", "i1")
        await made.in_step()
        assert await made.removals() == {key("pay-1", "i1")}


async def test_fault_23_leased_entries_are_made_again_and_lasting_ones_are_untouched(
    folder: Path, zookeeper: ZooKeeper, etcd: Etcd
) -> None:
    async with Kazoo(zookeeper.address) as native, natives.Etcd(etcd.address) as source:
        for number in range(20):
            await source.register(f"pay-{number % 5}", f"i{number}", "192.0.2.1", port=9000 + number)
        where = {
            "kind": "zookeeper",
            "hosts": [zookeeper.address],
            "layout": "curator",
            "payload": "map",
            "session_timeout": 2.0,
        }
        registries = {
            "old": {"kind": "etcd", "endpoints": [f"http://{etcd.address}"], "layout": "kratos"},
            "leased": where | {"root": "/leased"},
            "lasting": where | {"root": "/lasting"},
        }
        link: dict[str, Any] = {"from": "old", "policy": "sync", "services": {"include": ["*"]}}
        links = [link | {"to": "leased", "lifetime": "leased", "ttl": "2s"}, link | {"to": "lasting"}]
        async with Bridge(folder, registries, links) as daemon:

            async def nodes(root: str) -> Mapping[str, Any]:
                return await native.do(tree, native, root)

            async def written(not_by: frozenset[int] = frozenset()) -> bool:
                owners = {stat.ephemeralOwner for stat in (await nodes("/leased")).values()}
                return len(await nodes("/leased")) == 20 and not owners & not_by and len(await nodes("/lasting")) == 20

            await until(written, "the first copy")
            leased, lasting = await nodes("/leased"), await nodes("/lasting")
            first = frozenset(stat.ephemeralOwner for stat in leased.values())
            assert 0 not in first
            daemon.freeze()

            async def died() -> bool:
                return not await nodes("/leased")

            await until(died, "the server has ended the session, and what died with it")
            daemon.thaw()
            await until(lambda: written(first), "it is made again")
            await until(daemon.rests, "nothing is left to do")
            assert await nodes("/lasting") == lasting


def tree(native: Kazoo, root: str) -> dict[str, Any]:
    """The state of every entry below a root; what vanishes while it is looked at is not there."""
    found: dict[str, Any] = {}
    with contextlib.suppress(NoNodeError):
        for service in native.zk.get_children(root):
            for id in native.zk.get_children(f"{root}/{service}"):
                with contextlib.suppress(NoNodeError):
                    found[f"{service}/{id}"] = native.zk.get(f"{root}/{service}/{id}")[1]
    return found


async def test_fault_24_of_a_herd_that_expires_and_returns_hardly_any_leave(
    folder: Path, zookeeper_server: StartZooKeeper, etcd: Etcd, seed: int
) -> None:
    """500 sessions at once, under the limits that users have (Slack, 2022-02-22)."""
    rng = random.Random(seed)
    zookeeper = await zookeeper_server(settings={"maxSessionTimeout": "600000"})
    async with world(folder, zookeeper, etcd) as made:
        fleet = [(f"pay-{number % 50}", f"i{number}") for number in range(500)]
        for service in sorted({service for service, _ in fleet}):
            await made.native.do(made.native.zk.ensure_path, f"{ROOT}/{service}")
        herd = await join_all(zookeeper.address, 600.0, [node(*each) for each in fleet])
        made.truth = {key(*each): (address(each[1]), "1") for each in fleet}
        await made.bridge.start()
        await made.in_step()
        await asyncio.gather(*(session.expire() for session in herd))
        # They come back one after the other, within ten seconds.
        rng.shuffle(fleet)
        back = []
        for first in range(0, 500, 50):
            back += await join_all(zookeeper.address, 600.0, [node(*each) for each in fleet[first : first + 50]])
            await asyncio.sleep(rng.random() * 1.5)
        await made.in_step()
        await until(made.bridge.rests, "nothing is held any more")
        left = len(await made.removals())
        assert left < 25, f"{left} of 500 left the target"
        for session in back:
            session.leave()


async def test_fault_25_ten_thousand_children_of_one_node_flow(folder: Path, zookeeper: ZooKeeper, etcd: Etcd) -> None:
    async with world(folder, zookeeper, etcd) as made:
        await made.native.do(fill, made.native, 10_000)
        await made.bridge.start()

        async def count(wanted: int) -> bool:
            return len(await made.target.below()) == wanted

        await until(lambda: count(10_000), "all are copied", within=120.0, every=0.5)
        await made.put("pay-1", "i10001")
        await made.remove("pay-1", "i10001")
        await made.put("pay-1", "i10002")
        await until(lambda: count(10_001), "changes flow")


def fill(native: Kazoo, count: int) -> None:
    """So many children of one node."""
    native.zk.ensure_path(f"{ROOT}/pay-0")
    for first in range(0, count, 500):
        some = native.zk.transaction()
        for number in range(first, first + 500):
            some.create(f"{ROOT}/pay-0/i{number}", node("pay-0", f"i{number}")[1])
        assert not [failed for failed in some.commit() if isinstance(failed, Exception)]


async def test_fault_25_a_record_beyond_a_packet_is_refused_and_its_siblings_flow(
    folder: Path, zookeeper: ZooKeeper, etcd: Etcd
) -> None:
    async with Kazoo(zookeeper.address) as native, natives.Etcd(etcd.address) as source:
        registries = {
            "old": {"kind": "etcd", "endpoints": [f"http://{etcd.address}"], "layout": "kratos"},
            "new": {"kind": "zookeeper", "hosts": [zookeeper.address], "layout": "curator", "payload": "map"},
        }
        link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}}
        await source.register("pay", "i1", "192.0.2.1")
        await source.put(key("pay", "huge"), record("pay", "huge", "192.0.2.2", text="x" * 1_100_000))
        await source.register("pay", "i3", "192.0.2.3")
        async with Bridge(folder, registries, [link]) as daemon:

            async def parked() -> bool:
                return bool((await daemon.link())["parked"])

            await until(parked, "it is refused")

            async def flown() -> bool:
                return await native.do(native.zk.exists, "/services/pay/i3") is not None

            await until(flown, "the others are there")
            assert sorted(await native.do(native.zk.get_children, "/services/pay")) == ["i1", "i3"]
            assert "a packet of ZooKeeper's holds" in (await daemon.isthmus("log")).out
