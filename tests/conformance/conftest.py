"""Opens the laboratory of every kind of registry for each test of the suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bridge.adapter import Registry, Source
from tests.conformance.lab import BRIDGE, OTHER, Kind, Lab, need, seated, source_of, speaking
from tests.conformance.labs import KINDS
from tests.conftest import provided
from tests.kit.seated import Seated
from tests.servers import etcd, zookeeper
from tests.servers.etcd import Etcd
from tests.servers.zookeeper import ZooKeeper


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Etcd]]:
    with provided():
        async with etcd.cluster(tmp_path_factory.mktemp("cluster")) as members:
            yield members


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_ensemble(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[ZooKeeper]]:
    with provided():
        async with zookeeper.ensemble(tmp_path_factory.mktemp("ensemble")) as nodes:
            yield nodes


@pytest_asyncio.fixture
async def etcd_cluster(shared_cluster: list[Etcd]) -> Etcd:
    """A member of three, emptied."""
    await shared_cluster[0].wipe()
    return shared_cluster[0]


@pytest_asyncio.fixture
async def zookeeper_ensemble(shared_ensemble: list[ZooKeeper]) -> ZooKeeper:
    """A node of three, emptied; whoever leads."""
    await shared_ensemble[0].wipe()
    return shared_ensemble[0]


def _marked(name: str) -> Any:
    """Three servers are for those who have time."""
    return pytest.param(name, marks=pytest.mark.soak) if KINDS[name].server in _OF_THREE else name


_OF_THREE = ("etcd_cluster", "zookeeper_ensemble")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Binds each suite (its module's PART) to the kinds of registry that have that part."""
    if "kind" in metafunc.fixturenames:
        names = [name for name, kind in KINDS.items() if metafunc.module.PART in kind.parts]
        metafunc.parametrize("kind", [_marked(name) for name in names], indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> tuple[Kind, object]:
    """A kind of registry, and its server where it has one."""
    chosen = KINDS[request.param]
    return chosen, request.getfixturevalue(chosen.server) if chosen.server else None


@pytest_asyncio.fixture
async def lab(kind: tuple[Kind, object], tmp_path: Path) -> AsyncIterator[Lab]:
    chosen, server = kind
    async with chosen.open(server, tmp_path) as lab:
        with speaking(lab.form, chosen.patience):
            yield lab


@pytest_asyncio.fixture
async def registry(lab: Lab) -> AsyncIterator[Registry]:
    async with lab.registry() as registry:
        yield registry


@pytest_asyncio.fixture
async def source(kind: tuple[Kind, object], registry: Registry) -> Source:
    if "source" not in kind[0].parts:
        pytest.skip("it has a suite of its own for what it reads")
    return await source_of(registry)


@pytest_asyncio.fixture
async def sink(lab: Lab, registry: Registry) -> AsyncIterator[Seated]:
    """The destination side, and the lock held."""
    need(lab, "write")
    async with seated(lab, registry, BRIDGE) as sink:
        yield sink


@pytest_asyncio.fixture
async def other(lab: Lab) -> AsyncIterator[Seated]:
    """Another bridge at work in the same store."""
    async with lab.registry() as registry, seated(lab, registry, OTHER) as sink:
        yield sink
