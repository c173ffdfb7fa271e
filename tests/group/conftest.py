"""A fleet between servers of its own, none of whose members runs yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import StartConsul, StartEtcd, StartKafka, StartZooKeeper
from tests.group.fleet import MEMBERS, Fleet, fleet
from tests.servers.server import Server


@pytest.fixture
def kind() -> str:
    """The kind of store that the group writes; a test may have another one: `parametrize("kind", ["consul"])`."""
    return "etcd"


@pytest_asyncio.fixture
async def target(
    kind: str, etcd_server: StartEtcd, zookeeper_server: StartZooKeeper, consul_server: StartConsul
) -> Server:
    """The store that the group writes."""
    start: Callable[[], Awaitable[Server]] = {
        "etcd": etcd_server,
        "zookeeper": zookeeper_server,
        "consul": consul_server,
    }[kind]
    return await start()


@pytest_asyncio.fixture
async def there(
    folder: Path, target: Server, etcd_server: StartEtcd, kafka_server: StartKafka, seed: int
) -> AsyncIterator[Fleet]:
    """Members that write `target` from a stream that changes all the time."""
    source, kafka = await asyncio.gather(etcd_server(), kafka_server(behind=MEMBERS))
    async with fleet(folder, kafka, source, target, seed) as there:
        yield there
