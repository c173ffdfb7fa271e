"""SIGKILL at random moments while changes flow through two hops: etcd to ZooKeeper to another etcd."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import StartEtcd
from tests.kill.fleet import GUARD, Fleet
from tests.kit import stock
from tests.kit.natives import Etcd, Kazoo, backward, wrongful
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.zookeeper import ZooKeeper

CHANGES = 40  # for each kill
LIFE = 1.5  # seconds that a daemon which writes lives on, at most
FOREIGN = "/services/pay-0/native"


def chain(folder: Path, source: str, between: str, target: str) -> Bridge:
    """Both links in one daemon; the session of ZooKeeper is a short one, so that the lock of a dead daemon is free."""
    etcd = {"kind": "etcd", "layout": "kratos"}
    registries = {
        "old": etcd | {"endpoints": [f"http://{source}"]},
        "between": {
            "kind": "zookeeper",
            "hosts": [between],
            "layout": "curator",
            "payload": "map",
            "protocol": "grpc",
            "session_timeout": 2.0,
        },
        "new": etcd | {"endpoints": [f"http://{target}"]},
    }
    link = {"policy": "sync", "services": {"include": ["pay-*"]}, "guard": GUARD}
    return Bridge(
        folder, registries, [link | {"from": "old", "to": "between"}, link | {"from": "between", "to": "new"}]
    )


@pytest.mark.parametrize("kills", [5, pytest.param(25, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_a_daemon_that_is_killed_between_two_hops_removes_nothing_that_lives(
    folder: Path, etcd_server: StartEtcd, zookeeper: ZooKeeper, seed: int, kills: int
) -> None:
    rng = random.Random(seed)
    old, new = await etcd_server(), await etcd_server()
    async with AsyncExitStack() as open:
        source = await open.enter_async_context(Etcd(old.address))
        target = await open.enter_async_context(Etcd(new.address))
        native = await open.enter_async_context(Kazoo(zookeeper.address))
        # A native of the registry between stands among the copies, and is copied on.
        _, value = stock.record("curator", "pay-0", stock.Native("native", "192.0.2.250", 9000))
        await native.register(FOREIGN, value.decode())
        before = await native.do(native.zk.get, FOREIGN)
        fleet = Fleet(source, rng)
        await fleet.found()
        history = await open.enter_async_context(target.history())
        daemon = await open.enter_async_context(chain(folder, old.address, zookeeper.address, new.address))
        await until(lambda: len(history) > len(source.truth.now), "the first copy")
        for _ in range(kills):
            changing = asyncio.create_task(fleet.change(CHANGES, LIFE))
            await asyncio.sleep(rng.random() * LIFE)
            await daemon.kill()
            await changing
            await target.expire_lock()
            await daemon.start()
            await until(daemon.writes, "it is the writer again")

        async def equal() -> bool:
            now = await target.records()
            there = {where: value for where, value in now.items() if not where.endswith("/native")}
            return len(now) == len(there) + 1 and plain(there) == plain(source.truth.now)

        await until(equal, "all is equal in the end", within=60.0)
        await until(daemon.rests, "nothing is left to do")
        assert plain(await source.records()) == plain(source.truth.now)
        assert wrongful(await history.caught_up(), source.truth) == []
        assert backward([event for event in history if not event.key.endswith("/native")]) == []
        assert await target.halves() == []
        assert await native.do(halves, native) == []
        assert await native.do(native.zk.get, FOREIGN) == before
        assert await daemon.stop() == 0


def plain(records: dict[str, str]) -> dict[str, dict[str, object]]:
    """Records without the version, which Curator cannot say."""
    return {where: json.loads(value) | {"version": ""} for where, value in records.items()}


def halves(native: Kazoo) -> list[str]:
    """Ledger nodes without the data that they speak of: what a torn write would leave."""
    found = []
    for service in native.zk.get_children("/isthmus/ledger/services"):
        for id in native.zk.get_children(f"/isthmus/ledger/services/{service}"):
            where = f"/services/{service}/{id}"
            entry = native.zk.exists(where)
            if entry is None or entry.mzxid != native.zk.exists(f"/isthmus/ledger{where}").mzxid:
                found.append(where)
    return found
