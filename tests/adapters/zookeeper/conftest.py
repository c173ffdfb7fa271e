"""A native, and registries on the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from adapters.zookeeper import ZooKeeper as Registry
from adapters.zookeeper.times import TIMES, Times
from tests.adapters.zookeeper.lab import registry_of
from tests.kit.natives import Kazoo
from tests.servers.zookeeper import ZooKeeper

Open = Callable[..., Registry]


@pytest_asyncio.fixture
async def native(zookeeper: ZooKeeper) -> AsyncIterator[Kazoo]:
    """A stock client of the shared server."""
    async with Kazoo(zookeeper.address) as native:
        yield native


@pytest_asyncio.fixture
async def open_registry(zookeeper: ZooKeeper) -> AsyncIterator[Open]:
    """Registries on the shared server, or on the hosts given: `open_registry(layout="spring")`."""
    async with AsyncExitStack() as opened:

        def open(state: Any = None, times: Times = TIMES, **config: Any) -> Registry:
            registry = registry_of(**({"hosts": [zookeeper.address]} | config), state=state, times=times)
            opened.push_async_exit(registry)
            return registry

        yield open
