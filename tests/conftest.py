"""What all tests share: real servers, a seed, and the soak tests' switch."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import hypothesis
import pytest
import pytest_asyncio

from tests.servers import istio
from tests.servers.certificates import Certificates, issue
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.kafka import Kafka
from tests.servers.kubernetes import Kubernetes
from tests.servers.process import RUNNING
from tests.servers.provide import NotProvided
from tests.servers.server import Server
from tests.servers.zookeeper import ZooKeeper

S = TypeVar("S", bound=Server)
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
SOAKED = 7200.0  # seconds that a test may take which takes long


StartEtcd = Callable[..., Awaitable[Etcd]]
StartZooKeeper = Callable[..., Awaitable[ZooKeeper]]
StartConsul = Callable[..., Awaitable[Consul]]
StartEureka = Callable[..., Awaitable[Eureka]]
StartKafka = Callable[..., Awaitable[Kafka]]
StartKubernetes = Callable[..., Awaitable[Kubernetes]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("isthmus")
    soaking = os.environ.get("ISTHMUS_SOAK", "") not in ("", "0")
    group.addoption("--soak", action="store_true", default=soaking, help="run the tests that take long, and only them")
    group.addoption("--seed", type=int, help="the seed of random histories (else 1, or a new one for each soak test)")
    group.addoption("--minutes", type=float, default=10.0, help="how long each soak test sends nonsense to a port (10)")


def pytest_configure(config: pytest.Config) -> None:
    # How long an example takes says nothing. Soak draws new examples, `make test` the same ones at
    # each run, so that what fails is what was changed.
    hypothesis.settings.register_profile("isthmus", deadline=None, derandomize=not config.getoption("--soak"))
    hypothesis.settings.load_profile("isthmus")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    soak = config.getoption("--soak")
    others = [item for item in items if (item.get_closest_marker("soak") is None) == soak]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    for item in items if soak else ():
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SOAKED))


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


def _shared(kind: Callable[..., S], **options: object) -> Any:
    """A server that all tests share, as long as the session lasts."""

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S]:
        with provided():
            async with kind(tmp_path_factory.mktemp("servers"), **options) as server:
                yield server

    return shared


def _started(kind: Callable[..., S]) -> Any:
    """Starts a server for one test alone, to be damaged; called with what the class takes besides its folder."""

    @pytest_asyncio.fixture
    async def started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[..., Awaitable[S]]]:
        async with AsyncExitStack() as servers:

            async def start(**options: object) -> S:
                with provided():
                    server = kind(tmp_path_factory.mktemp("servers"), **options)
                    await servers.enter_async_context(cast(Server, server))
                    return server

            yield start

    return started


shared_etcd = _shared(Etcd, version="3.6")
shared_etcd34 = _shared(Etcd, version="3.4")
shared_zookeeper = _shared(ZooKeeper)
shared_consul = _shared(Consul)
shared_eureka = _shared(Eureka)
shared_kafka = _shared(Kafka)
shared_kubernetes = _shared(Kubernetes)

etcd_server = _started(Etcd)  # await etcd_server(version="3.4", flags=["--..."])
zookeeper_server = _started(ZooKeeper)  # await zookeeper_server(settings={"...": "..."})
consul_server = _started(Consul)  # await consul_server(datacenter="dc2")
eureka_server = _started(Eureka)  # await eureka_server(defaults=True)
kafka_server = _started(Kafka)  # await kafka_server(settings={"...": "..."})
kubernetes_server = _started(Kubernetes)  # with its etcd


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
async def consul(shared_consul: Consul) -> Consul:
    """Consul 1.20, shared and emptied for each test: whoever stops or freezes one takes `consul_server`."""
    await shared_consul.wipe()
    return shared_consul


@pytest_asyncio.fixture
async def eureka(shared_eureka: Eureka) -> Eureka:
    """Eureka, shared and emptied for each test: whoever stops or freezes one takes `eureka_server`."""
    await shared_eureka.wipe()
    return shared_eureka


@pytest_asyncio.fixture
async def kafka(shared_kafka: Kafka) -> Kafka:
    """Kafka 4.1, shared and emptied for each test: whoever stops or freezes one takes `kafka_server`."""
    await shared_kafka.wipe()
    return shared_kafka


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_mesh(shared_kubernetes: Kubernetes) -> Kubernetes:
    with provided():
        await istio.define(shared_kubernetes)
    return shared_kubernetes


@pytest_asyncio.fixture
async def mesh(shared_mesh: Kubernetes) -> Kubernetes:
    """The shared apiserver with Istio's definitions; istiod itself is `tests.servers.istio.Istiod`."""
    return shared_mesh


@pytest_asyncio.fixture
async def kubernetes(shared_kubernetes: Kubernetes) -> Kubernetes:
    """kube-apiserver 1.34, shared: each test makes a namespace of its own; to damage one, take `kubernetes_server`."""
    return shared_kubernetes
