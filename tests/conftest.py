"""What all tests share: real servers, a seed, and the soak tests' switch."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.servers.certificates import Certificates, issue
from tests.servers.etcd import Etcd
from tests.servers.process import RUNNING
from tests.servers.provide import NotProvided
from tests.servers.zookeeper import ZooKeeper

IN_CI = os.environ.get("CI", "") not in ("", "0", "false")

StartEtcd = Callable[..., Awaitable[Etcd]]
StartZooKeeper = Callable[..., Awaitable[ZooKeeper]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("isthmus")
    soaking = os.environ.get("ISTHMUS_SOAK", "") not in ("", "0")
    group.addoption("--soak", action="store_true", default=soaking, help="run the tests that take long, and only them")
    group.addoption("--seed", type=int, help="the seed of random histories (else 1, or a new one for each soak test)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    soak = config.getoption("--soak")
    others = [item for item in items if (item.get_closest_marker("soak") is None) == soak]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing test shows the logs of the servers that were running."""
    report = yield
    if report.failed:
        for process in sorted(RUNNING, key=lambda process: process.name):
            report.sections.append((f"the end of {process.log}", process.tail()))
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> int:
    """The seed of this test's random history; shown when it fails, to be given to `--seed`."""
    given: int | None = request.config.getoption("--seed")
    number = given if given is not None else random.getrandbits(32) if request.config.getoption("--soak") else 1
    record_property("seed", number)
    print(f"replay with --seed {number}")
    return number


@contextmanager
def provided() -> Iterator[None]:
    """Skips where a server cannot be had on this machine; in CI that is a failure, for a skipped promise is unkept."""
    try:
        yield
    except NotProvided as reason:
        if IN_CI:
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: the kernel takes 107 bytes for a socket's address, and pytest's names are long."""
    with tempfile.TemporaryDirectory(prefix="isthmus-", ignore_cleanup_errors=True) as path:
        yield Path(path)
        RUNNING.difference_update([ended for ended in RUNNING if Path(path) in ended.log.parents])


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a server's and a client's certificate, as files."""
    return issue(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Etcd]:
    with provided():
        async with Etcd(tmp_path_factory.mktemp("etcd"), version="3.6") as server:
            yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_etcd34(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Etcd]:
    with provided():
        async with Etcd(tmp_path_factory.mktemp("etcd34"), version="3.4") as server:
            yield server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ZooKeeper]:
    with provided():
        async with ZooKeeper(tmp_path_factory.mktemp("zookeeper")) as server:
            yield server


@pytest_asyncio.fixture
async def etcd(shared_etcd: Etcd) -> Etcd:
    """etcd 3.6, shared and emptied for each test: whoever stops or freezes one takes `etcd_server`."""
    await shared_etcd.wipe()
    return shared_etcd


@pytest_asyncio.fixture
async def etcd34(shared_etcd34: Etcd) -> Etcd:
    """etcd 3.4, shared and emptied for each test."""
    await shared_etcd34.wipe()
    return shared_etcd34


@pytest_asyncio.fixture
async def zookeeper(shared_zookeeper: ZooKeeper) -> ZooKeeper:
    """ZooKeeper 3.9, shared and emptied for each test: whoever stops or freezes one takes `zookeeper_server`."""
    await shared_zookeeper.wipe()
    return shared_zookeeper


@pytest_asyncio.fixture
async def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StartEtcd]:
    """Starts an etcd for this test alone, to be damaged: `await etcd_server(version="3.4", flags=["--..."])`."""
    async with AsyncExitStack() as servers:

        async def start(**options: object) -> Etcd:
            with provided():
                server = Etcd(tmp_path_factory.mktemp("etcd"), **options)  # type: ignore[arg-type]
                return await servers.enter_async_context(server)

        yield start


@pytest_asyncio.fixture
async def zookeeper_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StartZooKeeper]:
    """Starts a ZooKeeper for this test alone, to be damaged: `await zookeeper_server(settings={"...": "..."})`."""
    async with AsyncExitStack() as servers:

        async def start(**options: object) -> ZooKeeper:
            with provided():
                server = ZooKeeper(tmp_path_factory.mktemp("zookeeper"), **options)  # type: ignore[arg-type]
                return await servers.enter_async_context(server)

        yield start
