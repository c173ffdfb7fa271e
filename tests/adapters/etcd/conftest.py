"""Natives of the shared server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.adapters.etcd.lab import Natives
from tests.servers.etcd import Etcd


@pytest_asyncio.fixture
async def natives(etcd: Etcd) -> AsyncIterator[Natives]:
    """A client that writes as natives do."""
    async with Natives(etcd) as natives:
        yield natives
