"""A daemon over two networks: a pod that registers itself in Consul, and an address that serves another service now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.adapters.consul.lab import register
from tests.adapters.kubernetes.lab import SLICES, Cluster, cluster
from tests.conftest import StartEtcd
from tests.kit.natives import Etcd as Natives
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.consul import Consul
from tests.servers.kubernetes import Kubernetes

EVERYTHING = {"policy": "sync", "services": {"include": ["*"]}}


async def pods(there: Cluster, *numbers: int) -> None:
    """The Service pay of a Deployment with these pods, as its controllers leave them; exported by annotation."""
    meta = {"name": "pay", "annotations": {"isthmus.io/export": "true"}}
    spec = {"selector": {"app": "pay"}, "ports": [{"name": "web", "port": 80, "targetPort": 9000}]}
    await there.server.call("POST", there.path("api/v1", "services"), {"metadata": meta, "spec": spec})
    for number in numbers:
        target = {"kind": "Pod", "name": f"pod-{number}"}
        endpoint = {"addresses": [f"10.244.1.{number}"], "conditions": {"ready": True}, "targetRef": target}
        named = {"name": f"pay-{number}", "labels": {"kubernetes.io/service-name": "pay"}}
        body = {"metadata": named, "addressType": "IPv4", "ports": [{"name": "web", "port": 9000}]}
        await there.server.call("POST", there.path(SLICES, "endpointslices"), {**body, "endpoints": [endpoint]})


async def endpoints(there: Cluster) -> set[str]:
    return {one["addresses"][0] for each in await there.slices() for one in each["endpoints"] or ()}


async def test_a_pod_that_registers_itself_in_consul_is_never_attached(
    consul: Consul, kubernetes: Kubernetes, folder: Path
) -> None:
    there = await cluster(kubernetes)
    await pods(there, 5, 6)
    await register(consul, "pod-5", Address="10.244.1.5")
    await register(consul, "vm-1", Address="192.0.2.1")
    prod = {"kind": "kubernetes", "kubeconfig": str(kubernetes.kubeconfig), "namespaces": [there.namespace]}
    registries: dict[str, Any] = {
        "consul": {"kind": "consul", "address": consul.url, "datacenters": ["dc1"], "network": "vm", "wait": 2.0},
        "prod": {**prod, "namespace": there.namespace, "attach": True, "max_attached_share": 1.0, "network": "pods"},
    }
    links = [
        {"from": "consul", "to": "prod", "network": "crosses", **EVERYTHING},
        {"from": "prod", "to": "consul", "network": "crosses", **EVERYTHING},
    ]
    bridge = Bridge(folder, registries, links)
    bridge.networks = {"pods": {"cidrs": ["10.244.0.0/16"]}}
    bridge.write()

    async def attached(*addresses: str) -> bool:
        return await endpoints(there) == set(addresses)

    async def in_consul(*addresses: str) -> bool:
        found = await consul.call("GET", "/v1/health/service/pay")
        return {one["Service"]["Address"] for one in found} == set(addresses)

    async with bridge:
        await until(lambda: attached("10.244.1.5", "10.244.1.6", "192.0.2.1"))
        await until(lambda: in_consul("10.244.1.5", "10.244.1.6", "192.0.2.1"))
        metas = [one["Service"]["Meta"] or {} for one in await consul.call("GET", "/v1/health/service/pay")]
        marks = [meta["isthmus-mark"] for meta in metas if "isthmus-mark" in meta]
        assert len(marks) == 1, "the pod that registered itself stands for itself"
        assert '"network":"pods"' in marks[0]
        await there.delete_slice("pay-5")  # the pod is dead, and Consul does not know that yet
        await register(consul, "vm-2", Address="192.0.2.2")
        await until(lambda: attached("10.244.1.6", "192.0.2.1", "192.0.2.2"))
        whys = {row["why"] for row in (await bridge.isthmus("explain", "pay", "-o", "json")).json}
        assert "its address is of the network pods, which the cluster alone gives out" in whys


async def test_an_address_that_serves_elsewhere_is_withdrawn_and_told(etcd_server: StartEtcd, folder: Path) -> None:
    server = await etcd_server()
    inventory, out = Folder(folder / "inventory"), Folder(folder / "out")
    registries = {
        "core": {"kind": "etcd", "endpoints": [server.url], "layout": "kratos"},
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "out": {"kind": "file", "path": str(out.path)},
    }
    links = [{"from": ["core", "inventory"], "to": "out", **EVERYTHING}]

    def there() -> str:
        return "".join(path.read_text() for path in out.path.glob("*.isthmus.yaml"))

    async with Natives(server.address) as native, Bridge(folder, registries, links) as bridge:
        await native.register("pay", "i1", "192.0.2.1")
        await native.register("pay", "i2", "192.0.2.2")
        await until(lambda: "192.0.2.1" in there() and "192.0.2.2" in there())
        await server.kill()

        async def dark() -> bool:
            return bool((await bridge.scopes())["core"]["state"] == "stale")

        await until(dark)
        inventory.set("shop", s1="192.0.2.1")
        await until(lambda: "shop" in there() and '"i1"' not in there())
        assert '"i2"' in there()
        rows = (await bridge.isthmus("log", "-o", "json")).json
        assert [row["cause"] for row in rows if row["kind"] == "remove"] == ["reused"]
        told = {row["code"]: row for row in (await bridge.isthmus("status", "-o", "json")).json["attention"]}
        assert told["addresses-reused"]["text"].startswith("1 withdrawn of late")
