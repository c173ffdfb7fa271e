"""Stock clients of Consul, Eureka and Kubernetes find what a bridge copied from people's files, and are found by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.labs.kubernetes import Cluster
from tests.conftest import provided
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.consul import Consul
from tests.servers.eureka import Eureka
from tests.servers.kubernetes import Kubernetes
from tests.witness import apart
from tests.witness.apart import Witness

META = {"team": "pay", "zone": "a"}


async def exchange(folder: Path, block: dict[str, Any], witness: Witness, address: str, *place: str) -> list[Any]:
    """Both ways through one registry, with additions and removals; what the consumer was told."""
    inventory, mirror = Folder(folder / "inventory"), folder / "mirror"
    mirror.mkdir()
    inventory.set("pay", **{f"i{n}": {"address": f"192.0.2.{n}", "metadata": META} for n in (1, 2, 3)})
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "core": block,
        "mirror": {"kind": "file", "path": str(mirror)},
    }
    rules = {"policy": "sync", "guard": {"confirm_event": "1s", "confirm_absence": "1s"}}
    links = [
        {"from": "inventory", "to": "core", "services": {"include": ["pay"]}, **rules},
        {"from": "core", "to": "mirror", "services": {"include": ["cart"]}, **rules},
    ]
    async with (
        Bridge(folder, registries, links, seat="inventory") as daemon,
        apart.client(witness, address, "discover", *place, "pay") as consumer,
    ):
        await until(lambda: seen(consumer) == {("192.0.2.1", 9000), ("192.0.2.2", 9000), ("192.0.2.3", 9000)})
        inventory.unset("pay", "i3")
        await until(lambda: seen(consumer) == {("192.0.2.1", 9000), ("192.0.2.2", 9000)}, "one is gone")
        inventory.set("pay", i1={"address": "192.0.2.1", "metadata": META}, i4="192.0.2.4")
        await until(lambda: seen(consumer) == {("192.0.2.1", 9000), ("192.0.2.4", 9000)}, "one is another one")
        async with apart.client(witness, address, "register", *place, "cart", fleet(5, 6)):
            async with apart.client(witness, address, "register", *place, "cart", fleet(7)):
                await until(lambda: mirrored(mirror) == {"192.0.2.5", "192.0.2.6", "192.0.2.7"}, "all are copied")
            await until(lambda: mirrored(mirror) == {"192.0.2.5", "192.0.2.6"}, "the one that ended is gone")
            await until(daemon.rests, "nothing is left to do")
        return consumer.said


def fleet(*numbers: int) -> str:
    """What a provider is told to register."""
    return json.dumps([{"id": f"c{n}", "address": f"192.0.2.{n}", "port": 9000, "meta": META} for n in numbers])


def seen(consumer: apart.Client) -> set[tuple[str, int]]:
    """Where it would call."""
    return {(one["address"], one["port"]) for one in (consumer.found or {}).values()}


def mirrored(folder: Path) -> set[str]:
    """The addresses that the bridge has written there."""
    texts = [path.read_text() for path in folder.glob("*.isthmus.yaml")]
    return {one["address"] for text in texts for one in yaml.safe_load(text)["instances"]}


async def test_python_consul2_and_the_bridge_find_each_others_instances(folder: Path, consul: Consul) -> None:
    with provided():
        apart.CONSUL2.python()
    block = {"kind": "consul", "address": consul.url, "datacenters": ["dc1"]}
    said = await exchange(folder, block, apart.CONSUL2, consul.address)
    assert all(META.items() <= one["meta"].items() for one in first_found(said))


async def test_py_eureka_client_and_the_bridge_find_each_others_instances(folder: Path, eureka: Eureka) -> None:
    with provided():
        apart.EUREKA.python()
    said = await exchange(folder, {"kind": "eureka", "urls": [eureka.url], "poll": 0.2}, apart.EUREKA, eureka.url)
    assert all(META.items() <= one["meta"].items() for one in first_found(said))


async def test_the_kubernetes_client_and_the_bridge_find_each_others_instances(
    folder: Path, kubernetes: Kubernetes
) -> None:
    there = Cluster(kubernetes, await kubernetes.namespace("witness"))
    kubeconfig = str(kubernetes.kubeconfig)
    block = {"kind": "kubernetes", "kubeconfig": kubeconfig, "namespaces": ["witness"], "namespace": "witness"}
    said = await exchange(folder, block, apart.KUBERNETES, kubeconfig, there.namespace)
    (address, ports), *_ = [words for kind, *words in said if kind == "service"]
    assert address.startswith("10.0."), "a cluster address, for proxies to balance over"
    assert ports == ["grpc"]


def first_found(said: list[Any]) -> list[Any]:
    """The first instances that a consumer was told."""
    return next(list(found[0].values()) for kind, *found in said if kind == "found" and found[0])
