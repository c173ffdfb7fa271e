"""Machines beside the pods of a Service: in-cluster consumers call both for the time of a move, by `attach_at`."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.adapters.kubernetes.lab import SLICES, Cluster, cluster
from tests.dataplanes.estate import GUARD, Inventory
from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.migration.estate import act, reaches, row
from tests.servers import ports
from tests.servers.kubernetes import Kubernetes

VMS = [f"192.0.2.{number}" for number in range(1, 7)]
PODS = [f"198.51.100.{number}" for number in range(1, 5)]
SLICE = "pay-pods"
PORT = 9000


def endpoints(*sick: str) -> list[dict[str, Any]]:
    return [{"addresses": [one], "conditions": {"ready": one not in sick}} for one in PODS]


async def pods(there: Cluster) -> None:
    """A Service that may be copied, and what the cluster's own controllers would make of its pods."""
    meta = {"name": "pay", "annotations": {"isthmus.io/export": "true"}}
    spec = {"selector": {"app": "pay"}, "ports": [{"name": "web", "port": 80, "targetPort": PORT}]}
    await there.server.call("POST", there.path("api/v1", "services"), {"metadata": meta, "spec": spec})
    named = {"name": SLICE, "labels": {"kubernetes.io/service-name": "pay"}}
    body: dict[str, Any] = {"metadata": named, "addressType": "IPv4", "endpoints": endpoints()}
    body["ports"] = [{"name": "web", "port": PORT, "appProtocol": "http"}]
    await there.server.call("POST", there.path(SLICES, "endpointslices"), body)


async def attached(there: Cluster) -> int:
    """How many machines stand ready in slices of the Service."""
    found = [one for each in await there.slices() for one in each["endpoints"] or ()]
    return sum(one["addresses"][0] in VMS and one["conditions"]["ready"] for one in found)


async def serve(made: Bridge) -> bool:
    return bool((await row(made))["serves"] == len(PODS))


def bridge(there: Cluster, folder: Path, edge: int, **block: Any) -> Bridge:
    """Both sides to an export, and the machines to the pods' own cluster."""
    vms = Inventory(folder / "vms")
    vms.write({one: {} for one in VMS}, PORT)
    cluster = {
        "kind": "kubernetes",
        "kubeconfig": str(there.server.kubeconfig),
        "namespaces": [there.namespace],
        "namespace": there.namespace,
    }
    registries = {
        "vms": vms.block,
        "prod": {**cluster, "attach": True},
        "edge": {"kind": "traefik", "listen": f"127.0.0.1:{edge}"},
    }
    links = [
        {"from": froms, "to": to, "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
        for froms, to in ((["vms", "prod"], "edge"), (["vms"], "prod"))
    ]
    made = Bridge(folder, registries, links, seat="prod")
    moves = {"name": "pay", "services": ["*"], "from": ["vms"], "to": ["prod"], "at": ["edge"], "attach_at": ["prod"]}
    gates = {"hold_for": "0s", "approve": [], "parity": "warn"}
    made.migrations = [{**moves, "steps": [25, 75, 100], "gates": gates, "settle": 0, **block}]
    made.write()
    return made


async def test_machines_stand_beside_pods_for_the_time_of_a_move(kubernetes: Kubernetes, folder: Path) -> None:
    there = await cluster(kubernetes)
    await pods(there)
    (edge,) = ports.reserve(1)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [edge])
        made = await stack.enter_async_context(bridge(there, folder, edge))

        async def counts(count: int) -> bool:
            return await attached(there) == count

        async def stood(phase: str, step: int, count: int) -> None:
            """Beside four pods there is room for four (`max_attached_share` is a half)."""
            found = await reaches(made, phase, step)
            await until(lambda: counts(count), f"{count} at step {step}")
            (prod,) = [one for one in found["places"] if one["place"] == "prod"]
            assert prod["intended"] == round(100 * len(PODS) / (len(PODS) + count), 2)

        await until(made.rests, "everything is read")
        assert await attached(there) == 0
        said = (await isthmus("migrate", "plan", "pay", "-f", made.file)).out
        assert "attached: at prod the new side has 50 % before the first step" in said, said
        await act(made, "start")
        for step, count in ((1, 4), (2, 2)):
            await stood("shift", step, count)
        await there.patch_slice(SLICE, {"endpoints": endpoints(*PODS[1:])})

        async def is_troubled() -> bool:
            return "of the 4 instances" in (await row(made))["why"]

        await until(is_troubled, "the pods are ill")
        await act(made, "rollback", now=True)
        await reaches(made, "rolled back")
        assert await attached(there) == 2  # there is no room for more, and none goes

        await there.patch_slice(SLICE, {"endpoints": endpoints()})
        await until(lambda: serve(made), "the pods serve")
        await act(made, "start")
        for step, count in ((1, 4), (2, 2), (3, 0)):
            await stood("shift", step, count)
        await reaches(made, "done")
        assert await made.holds() == []
        assert await attached(there) == 0


async def test_a_cluster_that_adds_nothing_to_pods_is_no_place_to_attach_at(folder: Path) -> None:
    blocks: list[tuple[dict[str, Any], str]] = [
        ({"attach_at": ["edge"]}, "edge is no registry of `to` alone"),
        ({"attach_at": ["nowhere"]}, "'nowhere' is no registry of this file"),
        ({"at": ["edge", "prod"], "attach_at": []}, "name it in `attach_at`"),
        ({"attach_at": ["prod"]}, "without `attach: true` in its block"),
    ]
    config = folder / "kubeconfig"
    config.write_text("")
    for block, why in blocks:
        made = _unattached(folder, config, block)
        found = await isthmus("check", "-f", made.file)
        assert found.code == 2 and why in found.err, found
        made.close()


def _unattached(folder: Path, config: Path, block: dict[str, Any]) -> Bridge:
    registries = {
        "vms": Inventory(folder / "vms").block,
        "prod": {"kind": "kubernetes", "kubeconfig": str(config)},
        "edge": {"kind": "traefik", "listen": "127.0.0.1:9999"},
    }
    links = [
        {"from": ["vms", "prod"], "to": "edge", "policy": "sync", "services": {"include": ["*"]}},
        {"from": ["vms"], "to": "prod", "policy": "sync", "services": {"include": ["*"]}},
    ]
    made = Bridge(folder, registries, links, seat="prod")
    made.migrations = [{"name": "pay", "services": ["*"], "from": ["vms"], "to": ["prod"], "at": ["edge"], **block}]
    made.write()
    return made
