"""The daemon with a cluster as its destination: what others prune is put back, and commands say what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.adapters.kubernetes.lab import SLICES, Cluster, cluster
from tests.conftest import StartKubernetes
from tests.kit.natives import Folder
from tests.kit.running import HASTY, Bridge
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes


def bridge(there: Cluster, folder: Path, **more: Any) -> tuple[Folder, Bridge]:
    """A folder that is copied into one namespace."""
    inventory = Folder(folder / "inventory")
    inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
    block = {"kind": "kubernetes", "kubeconfig": str(there.server.kubeconfig), "namespaces": [there.namespace]}
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "prod": {**block, "namespace": there.namespace, **more},
    }
    link = {"from": "inventory", "to": "prod", "policy": "sync", "services": {"include": ["pay"]}}
    return inventory, Bridge(folder, registries, [link])


async def addresses(there: Cluster) -> set[str]:
    """What a proxy would dial: of slices whose Service is there."""
    services = {each["metadata"]["name"] for each in await there.services()}
    return {
        endpoint["addresses"][0]
        for each in await there.slices()
        if each["metadata"]["labels"]["kubernetes.io/service-name"] in services
        for endpoint in each["endpoints"] or ()
    }


async def test_what_another_tool_prunes_is_put_back_and_journaled(kubernetes: Kubernetes, folder: Path) -> None:
    there = await cluster(kubernetes)
    inventory, daemon = bridge(there, folder)

    async def copied() -> bool:
        wanted = {one["address"] for one in inventory.services["pay"].values()}
        return await addresses(there) == wanted

    async with daemon:
        await until(copied, "it is copied")
        for path in (there.path("api/v1", "services", "pay"), there.path(SLICES, "endpointslices")):
            before = {each["metadata"]["uid"] for each in [*await there.services(), *await there.slices()]}
            await there.server.call("DELETE", path)

            async def back(before: set[str] = before) -> bool:
                now = {each["metadata"]["uid"] for each in [*await there.services(), *await there.slices()]}
                return now != before and await copied()

            await until(back, "it is put back")
        rows = (await daemon.isthmus("log", "-o", "json")).json
        assert sum((row["kind"], row.get("instance")) == ("add", "i1") for row in rows) == 3
        assert sum((row["kind"], row.get("instance")) == ("taken", "i1") for row in rows) == 2
        (told,) = [row for row in (await daemon.ask("status"))["attention"] if row["code"] == "entries-taken"]
        assert "pay/i1, pay/i2" in told["text"]
        inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
        await until(copied, "changes flow on")


async def attachable(there: Cluster, pods: int) -> None:
    """A Service of a Deployment with an autoscaler, as its controllers would leave them."""
    await there.put_service("pay", selector={"app": "pay"}, ports=[{"name": "web", "port": 80, "targetPort": 9000}])
    labels = {"app": "pay", "tier": "api"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {"metadata": {"name": "pay"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}
    await there.server.call("POST", there.path("apis/apps/v1", "deployments"), deployment)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "pay"}
    scaler = {"metadata": {"name": "pay-load"}, "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9}}
    await there.server.call("POST", there.path("apis/autoscaling/v2", "horizontalpodautoscalers"), scaler)
    meta = {"name": "pay-x", "labels": {"kubernetes.io/service-name": "pay"}}
    endpoints = [{"addresses": [f"198.51.100.{number}"], "conditions": {"ready": True}} for number in range(pods)]
    body = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "web", "port": 9000}]}
    await there.server.call("POST", there.path(SLICES, "endpointslices"), body)


async def test_plan_says_the_attached_share_and_warns_of_an_autoscaler(kubernetes: Kubernetes, folder: Path) -> None:
    there = await cluster(kubernetes)
    await attachable(there, pods=3)
    _, daemon = bridge(there, folder, attach=True, max_attached_share=0.25)
    share, warning = (await daemon.isthmus("plan", "-o", "json")).json["advice"]
    assert (share["to"], share["service"], share["warning"], warning["warning"]) == ("prod", "pay", False, True)
    assert "1 attached beside 3 pods: 25 % of what serves; 1 more wait" in share["text"]
    assert "set its minReplicas to 3" in warning["text"] and "all but 2" in warning["text"]
    said = (await daemon.isthmus("plan")).out
    assert "warning: prod pay: each pod of Deployment pay gets less load" in said
    daemon.close()


async def test_check_and_plan_say_what_a_cluster_would_get(kubernetes: Kubernetes, folder: Path) -> None:
    there = await cluster(kubernetes)
    _, daemon = bridge(there, folder)
    check = await daemon.isthmus("check", "-o", "json")
    assert check.code == 0, check.out + check.err
    assert "Kubernetes v1.34" in check.out
    assert "verbs:" not in check.out
    plan = await daemon.isthmus("plan")
    assert plan.code == 3
    assert "i1" in plan.out and "i2" in plan.out
    assert await there.slices() == []
    daemon.close()


async def test_two_clusters_are_joined_in_both_directions_and_one_may_die(
    kubernetes: Kubernetes, kubernetes_server: StartKubernetes, folder: Path
) -> None:
    east, west = await cluster(kubernetes), await cluster(await kubernetes_server())
    blocks = {
        name: {
            "kind": "kubernetes",
            "kubeconfig": str(there.server.kubeconfig),
            "namespaces": [there.namespace],
            "namespace": there.namespace,
        }
        for name, there in (("east", east), ("west", west))
    }
    common = {"policy": "sync", "services": {"include": ["pay-*"]}}
    links = [{"from": "east", "to": "west", **common}, {"from": "west", "to": "east", **common}]
    await native(east, "pay-east", "192.0.2.1")
    await native(west, "pay-west", "192.0.2.2")

    async def has(there: Cluster, *wanted: str) -> bool:
        return await addresses(there) == set(wanted)

    async with Bridge(folder, blocks, links) as daemon:
        for there in (east, west):
            await until(lambda t=there: has(t, "192.0.2.1", "192.0.2.2"), "each has the other's")
        await west.server.kill()

        async def noticed() -> bool:
            states = {name: row["state"] for name, row in (await daemon.scopes()).items()}
            return states == {"east": "synced", "west": "stale"}

        await until(noticed, "the dead one is stale, and the other one is not")
        await native(east, "pay-new", "192.0.2.3")
        assert await has(east, "192.0.2.1", "192.0.2.2", "192.0.2.3")
        await west.server.start()
        await until(lambda: has(west, "192.0.2.1", "192.0.2.2", "192.0.2.3"), "it catches up")
        assert await has(east, "192.0.2.1", "192.0.2.2", "192.0.2.3")


async def test_a_frozen_apiserver_is_named_takes_nothing_away_and_is_followed_on(
    kubernetes: Kubernetes, folder: Path
) -> None:
    """Its connections stay open, and its watch says nothing: that ends by its silence, which is shorter here."""
    there, target = await cluster(kubernetes), folder / "target"
    target.mkdir()
    for number in (1, 2):
        await native(there, f"pay-{number}", f"192.0.2.{number}")
    names = {"namespaces": [there.namespace], "namespace": there.namespace}
    prod = {"kind": "kubernetes", "kubeconfig": str(kubernetes.kubeconfig), **names}
    links = [{"from": "prod", "to": "files", "policy": "sync", "services": {"include": ["pay-*"]}}]
    bridge = Bridge(folder, {"prod": prod, "files": {"kind": "file", "path": str(target)}}, links)
    bridge.program = HASTY

    def copied(*numbers: int) -> bool:
        return {path.name.partition(".")[0] for path in target.glob("*.yaml")} == {f"pay-{n}" for n in numbers}

    async def state() -> str:
        return str((await bridge.scopes())["prod"]["state"])

    async with bridge:
        await until(lambda: copied(1, 2), "both are copied")
        with kubernetes.frozen():

            async def named() -> bool:
                return await state() == "stale"

            await until(named, "the silence is noticed")
            (told,) = [row for row in (await bridge.ask("status"))["attention"] if row["code"] == "source-stale"]
            assert told["subject"].startswith("prod") and "gave no answer within" in told["text"], told
            assert kubernetes.url in told["text"]
            assert copied(1, 2)
        await native(there, "pay-3", "192.0.2.3")
        await until(lambda: copied(1, 2, 3), "it is followed on")
        assert await state() == "synced"
        rows = (await bridge.isthmus("log", "-o", "json")).json
        assert {row["kind"] for row in rows} >= {"add"} and not any(row["kind"] == "remove" for row in rows)


async def native(there: Cluster, name: str, address: str) -> None:
    """A Service that may be copied, with one pod."""
    meta = {"name": name, "annotations": {"isthmus.io/export": "true"}}
    spec = {"selector": {"app": name}, "ports": [{"port": 80}]}
    await there.server.call("POST", there.path("api/v1", "services"), {"metadata": meta, "spec": spec})
    pod = {"addresses": [address], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": f"{name}-1"}}
    labels = {"kubernetes.io/service-name": name}
    body = {"metadata": {"name": f"{name}-x", "labels": labels}, "addressType": "IPv4", "endpoints": [pod]}
    await there.server.call("POST", there.path(SLICES, "endpointslices"), body | {"ports": [{"port": 9000}]})
