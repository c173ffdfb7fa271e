"""A bridge over all registries ends: `footprint` names what it left, `leave` takes that away to an exact zero."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.kit.waiting import until
from tests.matrix.conftest import Stores
from tests.servers.kubernetes import Kubernetes

LEASES = "/apis/coordination.k8s.io/v1/leases"
ME = "leaver"
# What is left last: it lends Eureka its lock.
ORDER = ("eureka", "curator", "consul", "kubernetes", "file", "kratos")


async def left(stores: Stores) -> dict[str, Any]:
    """All that bridges have anywhere, as the stores say it themselves."""
    consul, cluster = stores.consul, stores.kubernetes
    nodes = [one["Node"] for one in await consul.call("GET", "/v1/catalog/nodes")]
    found = {
        "kratos": dict(await stores.etcd.stands("/isthmus/")),
        "curator": dict(await stores.zookeeper.stands("/isthmus")),
        "consul": [*await keys(stores), *(node for node in nodes if node.startswith("isthmus-"))],
        "kubernetes": await leases(cluster) + await ours(cluster),
        "file": [str(path) for path in stores.folder.rglob("*isthmus*") if "state" not in str(path)],
    }
    return {name: some for name, some in found.items() if some}


async def keys(stores: Stores) -> list[str]:
    listed: list[dict[str, Any]] = await stores.consul.call("GET", "/v1/kv/?recurse=true&keys=true") or []
    return [str(key) for key in listed if str(key).startswith("isthmus/")]


async def leases(cluster: Kubernetes) -> list[str]:
    found = (await cluster.call("GET", LEASES))["items"]
    return [one["metadata"]["name"] for one in found if one["metadata"]["name"].startswith(f"isthmus-{ME}")]


async def ours(cluster: Kubernetes) -> list[str]:
    found = (await cluster.call("GET", "/apis/discovery.k8s.io/v1/endpointslices"))["items"]
    notes = [(one["metadata"]["name"], one["metadata"].get("annotations") or {}) for one in found]
    return [name for name, said in notes if said.get("isthmus.io/bridge") == ME]


@pytest.fixture
async def bridge(stores: Stores) -> Bridge:
    """Natives of pay are everywhere, and one more is copied to all; pay-db is copied to Consul, where nobody has it."""
    places = {name: await stores.place(name) for name in ORDER}
    inventory = await stores.place("file")
    for number, place in enumerate(places.values()):
        for id in (1, 2):
            await place.put("pay", Native(f"n{number}{id}", f"192.0.2.{10 * number + id}", 8080))
    await inventory.put("pay", Native("i1", "192.0.2.101", 8080))
    registries = {"inventory": inventory.block, **{name: dict(place.block) for name, place in places.items()}}
    registries["kubernetes"]["attach"] = True
    link = {"from": "inventory", "policy": "sync"}
    links = [{**link, "to": name, "services": {"include": taken(name)}} for name in ORDER]
    await inventory.put("pay-db", Native("d1", "192.0.2.102", 8080))
    return Bridge(stores.folder, registries, links, id=ME, seat="kratos", additions="flow")


def taken(name: str) -> list[str]:
    return ["pay*"] if name == "consul" else ["pay"]


async def test_a_bridge_ends_over_all_registries_to_an_exact_zero(stores: Stores, bridge: Bridge) -> None:
    try:
        async with bridge:
            await until(bridge.rests, "everything is copied")
            ran = await bridge.isthmus("leave", "kratos", "--yes")
            assert ran.code == 1 and "a daemon writes there" in ran.err
        rows = (await bridge.isthmus("footprint", "-o", "json")).json
        kinds = {name: {row["kind"] for row in rows if row["registry"] == name} for name in ORDER}
        assert kinds["eureka"] == {"entry"} and kinds["kubernetes"] == {"entry", "lock", "note"}
        assert kinds["kratos"] >= {"entry", "ledger entry", "note"} and kinds["curator"] >= {"identity", "lock"}
        assert kinds["consul"] >= {"entry", "node", "note"} and kinds["file"] >= {"entry", "lock", "note", "folder"}
        ran = await bridge.isthmus("leave", "consul", "--yes")
        assert ran.code == 3, ran.err
        assert "nobody else serves pay-db" in ran.out and "purge consul --including-last" in ran.out
        assert "the file still leads there (inventory-to-consul)" in ran.out
        assert [one["Service"]["Service"] for one in await stores.consul.call("GET", "/v1/health/service/pay-db")]
        assert (await bridge.isthmus("purge", "consul", "--including-last", "--yes")).code == 0
        for names in (ORDER[:-1], ORDER[-1:]):
            for ran in await asyncio.gather(*(bridge.isthmus("leave", name, "--yes") for name in names)):
                assert (ran.code, ran.err) == (0, ""), ran.out
        assert await left(stores) == {}
        ran = await bridge.isthmus("footprint", "-o", "json")
        assert ran.code == 0 and [row["kind"] for row in ran.json] == ["state folder"]
    finally:
        await bridge.__aexit__(None)
