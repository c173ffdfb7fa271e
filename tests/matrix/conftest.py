"""The servers of the matrix, one of a kind, and new places in them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from kazoo.client import KazooClient

from tests.conformance.labs.kubernetes import Cluster
from tests.kit import natives, stock
from tests.matrix.places import Corner, EtcdStore, Folder, Place, ZooKeeperStore
from tests.matrix.registries import Applications, Datacenter, Namespace
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.kubernetes import Kubernetes
from tests.servers.zookeeper import ZooKeeper

_NUMBERS = itertools.count(1)


class Stores(NamedTuple):
    """One server of each kind."""

    folder: Path
    etcd: EtcdStore
    zookeeper: ZooKeeperStore
    consul: Consul
    eureka: Eureka
    kubernetes: Kubernetes

    async def place(self, layout: str) -> Place:
        """A new, empty registry of a layout; of Consul and Eureka there is one."""
        name = f"place{next(_NUMBERS)}"
        match layout:
            case "file":
                return Folder(self.folder / name)
            case "consul":
                return Datacenter(self.consul)
            case "eureka":
                return Applications(self.eureka)
            case "kubernetes":
                return Namespace(Cluster(self.kubernetes, await self.kubernetes.namespace(name)))
            case _:
                return Corner(layout, self.zookeeper if layout in stock.IN_ZOOKEEPER else self.etcd, name)


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
def stores(
    folder: Path,
    etcd_store: EtcdStore,
    zookeeper_store: ZooKeeperStore,
    consul: Consul,
    eureka: Eureka,
    kubernetes: Kubernetes,
) -> Stores:
    return Stores(folder, etcd_store, zookeeper_store, consul, eureka, kubernetes)
