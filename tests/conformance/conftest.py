"""Opens the laboratory of every kind of registry for each test of the suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from bridge.adapter import Registry, Sink, Source
from tests.conformance.lab import BRIDGE, OTHER, Kind, Lab, source_of
from tests.conformance.labs import KINDS


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[Kind, object]:
    """A kind of registry, and its server where it has one."""
    chosen = KINDS[request.param]
    return chosen, request.getfixturevalue(chosen.server) if chosen.server else None


@pytest_asyncio.fixture
async def lab(kind: tuple[Kind, object], tmp_path: Path) -> AsyncIterator[Lab]:
    chosen, server = kind
    async with chosen.open(server, tmp_path) as lab:
        yield lab


@pytest_asyncio.fixture
async def registry(lab: Lab) -> AsyncIterator[Registry]:
    async with lab.registry() as registry:
        yield registry


@pytest_asyncio.fixture
async def source(registry: Registry) -> Source:
    return await source_of(registry)


@pytest_asyncio.fixture
async def sink(registry: Registry) -> AsyncIterator[Sink]:
    """The destination side, and the lock held."""
    sink = registry.sink(BRIDGE)
    async with sink.writer():
        yield sink


@pytest_asyncio.fixture
async def other(lab: Lab) -> AsyncIterator[Sink]:
    """Another bridge at work in the same store."""
    async with lab.registry() as registry:
        sink = registry.sink(OTHER)
        async with sink.writer():
            yield sink
