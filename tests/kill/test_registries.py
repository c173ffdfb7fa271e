"""SIGKILL at random moments while changes flow from Consul to Kubernetes to Eureka; and of servers of every kind."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import pytest
import yaml

from tests.conformance.lab import instance
from tests.conformance.labs.kubernetes import SLICES, Cluster, service, slice_of
from tests.conftest import StartConsul, StartEtcd, StartEureka, StartKubernetes, StartZooKeeper
from tests.kill.fleet import GUARD, Fleet
from tests.kit import eureka as natives
from tests.kit.natives import Event, Folder, Truth, backward, key, wrongful
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.consul import Consul
from tests.servers.eureka import Eureka
from tests.servers.kubernetes import Kubernetes

CHANGES = 40  # for each kill
LIFE = 1.5  # seconds that a daemon which writes lives on, at most
LOOK = 0.03  # seconds from one look at what Eureka has to the next
LEASES = "apis/coordination.k8s.io/v1"
RULES = {"policy": "sync", "services": {"include": ["pay-*"]}, "guard": GUARD}


class Place(NamedTuple):
    """What readers of a registry make of an instance. `n`: the number of its change."""

    address: str
    port: int
    n: str


class InConsul:
    """Natives of a Consul, with their id and the number of the change in metadata. See `tests.kill.fleet.Source`."""

    def __init__(self, server: Consul) -> None:
        self.truth = Truth()
        self._server = server

    @property
    def places(self) -> dict[str, Place]:
        """What stands there."""
        return {where: _place(json.loads(value)) for where, value in self.truth.now.items()}

    async def lease(self, ttl: int) -> int:
        return 0

    async def put(self, where: str, value: str, lease: int = 0) -> None:
        begun = time.monotonic()
        name, id = where.split("/")[-2:]
        address, port, n = _place(json.loads(value))
        own = {"ID": id, "Service": name, "Address": address, "Port": port, "Meta": {"n": n, "native": id}}
        check = {"CheckID": f"service:{id}", "Name": "alive", "Status": "passing", "ServiceID": id}
        body = {"Node": f"vm-{name}", "Address": "192.0.2.254", "Service": own, "Check": check}
        await self._server.call("PUT", "/v1/catalog/register", body)
        self.truth.note(where, begun, value)

    async def delete(self, *places: str) -> None:
        for where in places:
            begun = time.monotonic()
            name, id = where.split("/")[-2:]
            await self._server.call("PUT", "/v1/catalog/deregister", {"Node": f"vm-{name}", "ServiceID": id})
            self.truth.note(where, begun, None)


def _place(record: Mapping[str, Any]) -> Place:
    url = urlsplit(record["endpoints"][0])
    return Place(str(url.hostname), url.port or 0, record["metadata"]["n"])


class InEureka:
    """What a Eureka has, looked at all the time; `events` as `tests.kit.natives.History` has them."""

    def __init__(self, server: Eureka) -> None:
        self.events: list[Event] = []
        self.places: dict[str, Place] = {}
        self._clients = natives.Native(server)

    async def look(self) -> None:
        """Notes what has changed since the last look."""
        found = {}
        for (_, id), one in (await self._clients.all()).items():
            where = key(one["vipAddress"], one["metadata"].get("native", id))
            found[where] = Place(one["ipAddr"], one["port"]["$"], one["metadata"].get("n", "0"))
        now = time.monotonic()
        for where in self.places.keys() - found.keys():
            self.events.append(Event(now, 0, where, None))
        for where, place in found.items():
            if self.places.get(where) != place:
                self.events.append(Event(now, 0, where, json.dumps({"metadata": {"n": place.n}})))
        self.places = found

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        async def run() -> None:
            while True:
                await self.look()
                await asyncio.sleep(LOOK)

        task = asyncio.create_task(run())
        try:
            yield
            await self.look()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_a_daemon_killed_from_consul_to_eureka_removes_nothing_that_lives(
    folder: Path, consul: Consul, kubernetes: Kubernetes, eureka: Eureka, seed: int, kills: int
) -> None:
    rng = random.Random(seed)
    between = Cluster(kubernetes, await kubernetes.namespace(f"killed-{kills}"))
    # A native of the registry between stands among the copies, and is copied on.
    await between.put("api/v1", "services", service("pay-0"))
    await between.put(SLICES, "endpointslices", slice_of("pay-0", instance(250)))
    foreign = await between.listed(SLICES, "endpointslices")
    source, target = InConsul(consul), InEureka(eureka)
    fleet = Fleet(source, rng)
    await fleet.found()
    async with target.watched(), chain(folder, consul, between, eureka) as daemon:
        await until(lambda: len(target.places) > len(source.places), "the first copy")
        for _ in range(kills):
            changing = asyncio.create_task(fleet.change(CHANGES, LIFE))
            await asyncio.sleep(rng.random() * LIFE)
            await daemon.kill()
            await changing
            await free(between)
            await daemon.start()
            await until(daemon.writes, "it is the writer again")

        def equal() -> bool:
            return {where: place for where, place in target.places.items() if place.n != "0"} == source.places

        await until(equal, "all is equal in the end", within=60.0)
        await until(daemon.rests, "nothing is left to do")
        assert await daemon.stop() == 0
    assert wrongful(target.events, source.truth) == []
    assert backward([event for event in target.events if not event.key.endswith("/i250")]) == []
    assert len(target.places) == len(source.places) + 1
    now = await between.listed(SLICES, "endpointslices")
    assert [each for each in now if each["metadata"]["name"] == "pay-0-i250"] == foreign


def chain(folder: Path, consul: Consul, between: Cluster, eureka: Eureka) -> Bridge:
    """Both links in one daemon; Eureka's lock is a Lease beside the other one."""
    registries = {
        "old": {"kind": "consul", "address": consul.url, "datacenters": [consul.datacenter], "protocol": "grpc"},
        "between": in_cluster(between),
        "new": {"kind": "eureka", "urls": [eureka.url], "poll": 0.2},
    }
    links = [{"from": "old", "to": "between", **RULES}, {"from": "between", "to": "new", **RULES}]
    return Bridge(folder, registries, links, seat="between")


def in_cluster(there: Cluster) -> dict[str, Any]:
    given = {"kind": "kubernetes", "kubeconfig": str(there.server.kubeconfig)}
    return given | {"namespaces": [there.namespace], "namespace": there.namespace}


async def free(there: Cluster) -> None:
    """What time does by itself when a writer has been silent for ten seconds."""
    for lease in await there.listed(LEASES, "leases"):
        path = there.path(LEASES, "leases", lease["metadata"]["name"])
        body = {"spec": {"holderIdentity": ""}}
        await there.server.call("PATCH", path, body, content="application/merge-patch+json")


class Server(Protocol):
    """Any of them."""

    async def kill(self) -> None: ...

    async def start(self) -> None: ...


@pytest.mark.timeout(600)
async def test_servers_of_every_kind_killed_in_mid_flow_cost_nothing_that_lives(
    etcd_server: StartEtcd,
    zookeeper_server: StartZooKeeper,
    consul_server: StartConsul,
    eureka_server: StartEureka,
    kubernetes_server: StartKubernetes,
    folder: Path,
) -> None:
    """All five side by side in one daemon: a folder is copied into each, and from each into a folder of its own."""
    etcd, zookeeper, consul, eureka, kubernetes = await asyncio.gather(
        etcd_server(), zookeeper_server(), consul_server(), eureka_server(), kubernetes_server()
    )
    there = Cluster(kubernetes, await kubernetes.namespace("killed"))
    servers: dict[str, Server] = {
        "etcd": etcd,
        "zookeeper": zookeeper,
        "consul": consul,
        "eureka": eureka,
        "kubernetes": kubernetes,
    }
    curator = {"layout": "curator", "payload": "map", "protocol": "grpc"}
    blocks: dict[str, dict[str, Any]] = {
        "etcd": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
        "zookeeper": {"kind": "zookeeper", "hosts": [zookeeper.address], **curator},
        "consul": {"kind": "consul", "address": consul.url, "datacenters": ["dc1"]},
        "eureka": {"kind": "eureka", "urls": [eureka.url], "poll": 0.2},
        "kubernetes": in_cluster(there),
    }
    inventory = Folder(folder / "inventory")
    for name in range(4):
        inventory.set(f"pay-{name}", **{f"i{n}": f"192.0.2.{10 * name + n}" for n in range(1, 6)})
    registries = {"inventory": {"kind": "file", "path": str(inventory.path)}, **blocks}
    links = []
    for kind in servers:
        (folder / kind).mkdir()
        registries[f"from-{kind}"] = {"kind": "file", "path": str(folder / kind)}
        links += [{"from": "inventory", "to": kind, **RULES}, {"from": kind, "to": f"from-{kind}", **RULES}]

    def equal(kind: str) -> bool:
        ones = [one for service in inventory.services.values() for one in service.values()]
        return addresses(folder / kind) == {one["address"] for one in ones}

    async with Bridge(folder, registries, links, seat="inventory"):
        for kind in servers:
            await until(lambda kind=kind: equal(kind), f"all that is in {kind} is copied on")
        inventory.unset("pay-0", "i5")
        for kind in servers:
            await until(lambda kind=kind: equal(kind), f"what ends is gone from {kind}")
        lasting = {one["address"] for one in inventory.services["pay-1"].values()}
        missing: set[tuple[str, str]] = set()

        async def look() -> None:
            while True:
                for kind in servers:
                    missing.update((kind, address) for address in lasting - addresses(folder / kind))
                await asyncio.sleep(LOOK)

        async def flow() -> None:
            for turn in range(30):
                inventory.set("pay-2", **{f"i{n}": f"198.51.100.{10 + 6 * (turn % 20) + n}" for n in range(1, 6)})
                inventory.set("pay-3", **{f"i{n}": f"192.0.2.{30 + n}" for n in range(1, 7 + turn)})
                await asyncio.sleep(0.2)

        looking, flowing = asyncio.create_task(look()), asyncio.create_task(flow())
        await asyncio.gather(*(server.kill() for server in servers.values()))
        await asyncio.gather(*(server.start() for server in servers.values()))
        await flowing
        for kind in servers:
            await until(lambda kind=kind: equal(kind), f"{kind} is in step again", within=180.0)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert missing == set()


def addresses(folder: Path) -> set[str]:
    """What the bridge has written there."""
    texts = [path.read_text() for path in folder.glob("*.isthmus.yaml")]
    return {one["address"] for text in texts for one in yaml.safe_load(text)["instances"]}
