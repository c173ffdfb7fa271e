"""The stores of the matrix, and new corners in them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from kazoo.client import KazooClient

from tests import natives, stock
from tests.matrix.places import Corner, EtcdStore, Folder, Place, ZooKeeperStore
from tests.servers.etcd import Etcd
from tests.servers.zookeeper import ZooKeeper

NewPlace = Callable[[str], Place]


@pytest_asyncio.fixture
async def etcd_store(etcd: Etcd) -> AsyncIterator[EtcdStore]:
    async with natives.Etcd(etcd.address) as client:
        yield EtcdStore(client, etcd.address)


@pytest_asyncio.fixture
async def zookeeper_store(zookeeper: ZooKeeper) -> AsyncIterator[ZooKeeperStore]:
    client = KazooClient(zookeeper.address, timeout=20.0)
    await asyncio.to_thread(client.start, 20)
    try:
        yield ZooKeeperStore(client, zookeeper.address)
    finally:
        await asyncio.to_thread(client.stop)
        await asyncio.to_thread(client.close)


@pytest.fixture
def place(etcd_store: EtcdStore, zookeeper_store: ZooKeeperStore, folder: Path) -> NewPlace:
    """A new, empty registry of a layout: `place("kratos")`."""
    numbers = itertools.count(1)

    def new(layout: str) -> Place:
        name = f"place{next(numbers)}"
        if layout == "file":
            return Folder(folder / name)
        return Corner(layout, zookeeper_store if layout in stock.IN_ZOOKEEPER else etcd_store, name)

    return new
