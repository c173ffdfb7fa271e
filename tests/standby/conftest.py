"""A folder that is copied into a real server by two daemons of one bridge, each with a state folder of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kazoo.exceptions import NoNodeError

from adapters.etcd.times import TIMES
from adapters.kubernetes import lease as lease_lock
from tests.conftest import StartEtcd
from tests.kit.natives import Etcd, Folder, Kazoo
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes
from tests.servers.zookeeper import ZooKeeper

SESSION = 4.0  # seconds

_NUMBERS = count()

Entries = dict[str, tuple[int, bytes]]  # by place: the transaction that wrote an entry, and what it wrote


class Target(NamedTuple):
    """Where the copies go, seen by a native. `ttl`: seconds for which a dead writer keeps its lock."""

    block: dict[str, Any]
    ttl: float
    entries: Callable[[], Awaitable[Entries]]
    note: Callable[[], Awaitable[bytes]]
    old_note: Callable[[], Awaitable[bytes | None]]  # where older versions kept it


class Site(NamedTuple):
    """The source, the target, and the two daemons, which do not run yet."""

    inventory: Folder
    target: Target
    one: Bridge
    two: Bridge

    async def copied(self) -> bool:
        """Whether all that the inventory has stands at the target as it is there, and nothing else."""
        wanted = {
            f"{service}/{id}": one["address"].encode()
            for service, ones in self.inventory.services.items()
            for id, one in ones.items()
        }
        found = await self.target.entries()
        return found.keys() == wanted.keys() and all(wanted[place] in content for place, (_, content) in found.items())

    @contextlib.asynccontextmanager
    async def both(self) -> AsyncIterator[None]:
        """The first one writes, the second stands by and knows it."""
        async with self.one:
            await until(self.one.writes, "the first one writes")
            await until(self.copied, "everything is copied")
            async with self.two:
                await until(lambda: knows(self.two, self.one), "the second one knows who writes")
                yield

    @contextlib.asynccontextmanager
    async def nothing_goes(self) -> AsyncIterator[None]:
        """Fails if anything that stands at the target is missing at any time."""
        before = (await self.target.entries()).keys()
        missing: set[str] = set()

        async def look() -> None:
            while True:
                missing.update(before - (await self.target.entries()).keys())
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait((looking,))
        assert looking.cancelled(), looking.exception()
        assert missing == set()


async def knows(standby: Bridge, writer: Bridge) -> bool:
    """Whether a standby tells the writer's process."""
    row = await standby.link()
    return bool(row["role"] == "standby" and row["writer"] and row["writer"]["pid"] == writer.process.pid)


@pytest.fixture
async def etcd_target(etcd_server: StartEtcd) -> AsyncIterator[Target]:
    server = await etcd_server()
    async with Etcd(server.address) as native:

        async def entries() -> Entries:
            return {
                kv.key.decode().removeprefix("/microservices/"): (kv.mod_revision, bytes(kv.value))
                for kv in await native.below()
            }

        async def note() -> bytes:
            (kv,) = await native.below("/isthmus/note/")
            return bytes(kv.value)

        async def old_note() -> bytes | None:
            found = await native.below("/isthmus/desk/")
            return bytes(found[0].value) if found else None

        block = {"kind": "etcd", "endpoints": [f"http://{server.address}"], "layout": "kratos"}
        yield Target(block, float(TIMES.lock), entries, note, old_note)


@pytest.fixture
async def zookeeper_target(zookeeper: ZooKeeper) -> AsyncIterator[Target]:
    async with Kazoo(zookeeper.address) as native:

        def looked() -> Entries:
            found = {}
            zk = native.zk
            for service in zk.get_children("/services") if zk.exists("/services") else ():
                for id in zk.get_children(f"/services/{service}"):
                    with contextlib.suppress(NoNodeError):
                        value, stat = zk.get(f"/services/{service}/{id}")
                        found[f"{service}/{id}"] = stat.mzxid, bytes(value)
            return found

        async def entries() -> Entries:
            return await native.do(looked)

        async def note() -> bytes:
            (place,) = await native.do(native.zk.get_children, "/isthmus/note/b1")
            value, _ = await native.do(native.zk.get, f"/isthmus/note/b1/{place}")
            return bytes(value)

        async def old_note() -> bytes | None:
            place = "/isthmus/desk/b1/curator:%2Fservices"
            there = await native.do(native.zk.exists, place)
            return bytes((await native.do(native.zk.get, place))[0]) if there else None

        block = {
            "kind": "zookeeper",
            "hosts": [zookeeper.address],
            "layout": "curator",
            "payload": "map",
            "session_timeout": SESSION,
        }
        yield Target(block, SESSION, entries, note, old_note)


@pytest.fixture
async def kubernetes_target(kubernetes: Kubernetes) -> Target:
    """Versions are of whole slices there, so that an entry is told by what it says."""
    namespace = await kubernetes.namespace(f"standby-{next(_NUMBERS)}")
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/isthmus-b1"

    async def entries() -> Entries:
        found = {}
        for each in (await kubernetes.call("GET", slices))["items"]:
            said = json.loads(each["metadata"]["annotations"]["isthmus.io/entries"])["entries"]
            for endpoint in each["endpoints"] or ():
                id = endpoint["targetRef"]["name"]
                text = json.dumps([endpoint, said[id]]).encode()
                found[f"{each['metadata']['labels']['kubernetes.io/service-name']}/{id}"] = 0, text
        return found

    async def note() -> bytes:
        text = (await kubernetes.call("GET", lease))["metadata"]["annotations"]["isthmus.io/note"]
        return base64.b64decode(text.partition(":")[2])

    async def old_note() -> bytes | None:
        return None

    block = {"kind": "kubernetes", "kubeconfig": str(kubernetes.kubeconfig), "namespaces": [namespace]}
    return Target({**block, "namespace": namespace}, lease_lock.LOCK_TTL + 2 * lease_lock.POLL, entries, note, old_note)


@pytest.fixture(params=["etcd", "zookeeper", "kubernetes"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each of them; older versions knew no Kubernetes."""
    if request.param == "kubernetes" and request.node.path.stem == "test_upgrade":
        pytest.skip("older versions knew no Kubernetes")
    found: Target = request.getfixturevalue(f"{request.param}_target")
    return found


@pytest.fixture
def site(target: Target, folder: Path) -> Iterator[Site]:
    """pay-api with three instances and pay-db with one."""
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
    inventory.set("pay-db", d1="192.0.2.21")
    registries = {"inventory": {"kind": "file", "path": str(inventory.path)}, "core": target.block}
    link = {"from": "inventory", "to": "core", "policy": "sync", "services": {"include": ["pay-*"]}}
    one, two = (Bridge(folder, registries, [link], name=name) for name in ("one", "two"))
    yield Site(inventory, target, one, two)
    one.close()
    two.close()
