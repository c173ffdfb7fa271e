"""Stock clients of both sides find each other through the bridge, each with its own API: etcd3 and kazoo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from tests.conftest import provided
from tests.kit import stock
from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.kit.waiting import until
from tests.servers.etcd import Etcd
from tests.servers.zookeeper import ZooKeeper
from tests.witness import apart

PREFIX, ROOT = "/microservices/", "/services"


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    """Where etcd3 is; skips, and fails in CI, where it cannot be had."""
    with provided():
        yield apart.ETCD3.python()


def providers(first: int) -> list[Native]:
    """Enough of them that one may go."""
    return [
        Native(f"i{number}", f"192.0.2.{number}", 9000 + number, {"n": str(number)})
        for number in range(first, first + 3)
    ]


@asynccontextmanager
async def joined(folder: Path, etcd: Etcd, zookeeper: ZooKeeper) -> AsyncIterator[Bridge]:
    """The daemon between both, both ways."""
    registries = {
        "etcd": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
        "zookeeper": {
            "kind": "zookeeper",
            "hosts": [zookeeper.address],
            "layout": "curator",
            "payload": "map",
            "protocol": "grpc",
        },
    }
    link = {"policy": "sync", "services": {"include": ["*"]}}
    links = [link | {"from": "etcd", "to": "zookeeper"}, link | {"from": "zookeeper", "to": "etcd"}]
    async with Bridge(folder, registries, links) as daemon:
        yield daemon


@asynccontextmanager
async def kazoo(zookeeper: ZooKeeper) -> AsyncIterator[KazooClient]:
    """A client of its own."""
    client = KazooClient(zookeeper.address, timeout=10.0)
    await asyncio.to_thread(client.start)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.stop)
        await asyncio.to_thread(client.close)


async def test_what_etcd3_registers_kazoo_discovers(
    folder: Path, etcd: Etcd, zookeeper: ZooKeeper, environment: Path
) -> None:
    fleet = providers(1)
    words = [[f"{PREFIX}{record.key}", record.value.decode()] for record in records("kratos", fleet)]
    children: list[set[str]] = []
    async with joined(folder, etcd, zookeeper), kazoo(zookeeper) as consumer:
        await asyncio.to_thread(consumer.ensure_path, f"{ROOT}/pay")
        await asyncio.to_thread(consumer.ChildrenWatch, f"{ROOT}/pay", lambda ids: children.append(set(ids)))
        async with apart.client(apart.ETCD3, etcd.address, "register", *words[0], *words[1]):
            async with apart.client(apart.ETCD3, etcd.address, "register", *words[2]):
                await until(lambda: children[-1] == {"i1", "i2", "i3"}, "all three are there")
                for native in fleet:
                    value, _ = await asyncio.to_thread(consumer.get, f"{ROOT}/pay/{native.id}")
                    said = json.loads(value)
                    assert (said["id"], said["name"]) == (native.id, "pay")
                    assert (said["address"], said["port"]) == (native.address, native.port)
                    assert said["payload"] == {"@class": stock.MAP, **native.metadata}
            await until(lambda: children[-1] == {"i1", "i2"}, "the one that revoked its lease is gone")


async def test_what_kazoo_registers_etcd3_discovers(
    folder: Path, etcd: Etcd, zookeeper: ZooKeeper, environment: Path
) -> None:
    fleet = providers(1)
    paths = [(f"{ROOT}/{record.key}", record.value) for record in records("curator", fleet)]
    async with joined(folder, etcd, zookeeper), kazoo(zookeeper) as staying, kazoo(zookeeper) as leaving:
        for path, value in paths[:2]:
            await asyncio.to_thread(staying.create, path, value, ephemeral=True, makepath=True)
        async with apart.client(apart.ETCD3, etcd.address, "discover", f"{PREFIX}pay/") as consumer:
            await until(lambda: ["listed"] in consumer.said, "it looks")
            await asyncio.to_thread(leaving.create, paths[2][0], paths[2][1], ephemeral=True)
            await until(lambda: found(consumer.said).keys() == {"i1", "i2", "i3"}, "all three are there")
            for native in fleet:
                said = found(consumer.said)[native.id]
                assert said["endpoints"] == [f"grpc://{native.address}:{native.port}"]
                assert (said["id"], said["name"], said["metadata"]) == (native.id, "pay", native.metadata)
            await asyncio.to_thread(leaving.stop)
            await until(lambda: found(consumer.said).keys() == {"i1", "i2"}, "the one whose session ended is gone")


def records(layout: str, fleet: list[Native]) -> list[stock.Record]:
    """Of the service `pay`."""
    return [stock.record(layout, "pay", native) for native in fleet]


def found(said: list[Any]) -> dict[str, Any]:
    """What a consumer knows after all that it has heard."""
    known: dict[str, Any] = {}
    for kind, *about in said:
        if kind == "put":
            known[about[0].rpartition("/")[2]] = json.loads(about[1])
        elif kind == "delete":
            known.pop(about[0].rpartition("/")[2], None)
    return known
