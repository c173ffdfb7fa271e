"""What hinders a bridge that writes into a cluster, on real servers: one that is hindered hinders no other."""

from __future__ import annotations

import asyncio
import urllib.error
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.adapters.kubernetes.lab import SLICES, Cluster, cluster
from tests.conftest import StartKubernetes
from tests.kit.natives import Folder
from tests.kit.proxy import Proxy
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes

ROLE_BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
POLICIES = "/apis/admissionregistration.k8s.io/v1"


class World:
    """People's folder, and the namespace that it is copied into."""

    def __init__(self, inventory: Folder, there: Cluster, bridge: Bridge) -> None:
        self.inventory = inventory
        self.there = there
        self.bridge = bridge

    async def endpoints(self, service: str) -> dict[str, int]:
        """Address and port of each endpoint that a proxy would call."""
        found = {}
        for each in await self.there.slices():
            if each["metadata"]["labels"]["kubernetes.io/service-name"] == service:
                for one in each["endpoints"] or ():
                    found[one["addresses"][0]] = each["ports"][0]["port"]
        return found

    async def equal(self, *services: str, but: frozenset[str] = frozenset()) -> bool:
        """Whether these services, or all, stand there as in the folder, without the addresses `but`."""
        for service in services or self.inventory.services:
            ones = self.inventory.services[service].values()
            wanted = {one["address"]: one["ports"][0]["number"] for one in ones if one["address"] not in but}
            if await self.endpoints(service) != wanted:
                return False
        return True


@asynccontextmanager
async def world(folder: Path, there: Cluster, **block: Any) -> AsyncIterator[World]:
    inventory = Folder(folder / "inventory")
    given = {"kubeconfig": str(there.server.kubeconfig), "namespaces": [there.namespace], "namespace": there.namespace}
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "prod": {"kind": "kubernetes", **given, **block},
    }
    link = {"from": "inventory", "to": "prod", "policy": "sync", "services": {"include": ["*"]}}
    daemon = Bridge(folder, registries, [{**link, "guard": {"confirm_event": "1s", "confirm_absence": "1s"}}])
    made = World(inventory, there, daemon)
    try:
        yield made
    except BaseException as error:
        await daemon.__aexit__(error)
        raise
    await daemon.__aexit__(None)


def ports(first: int, *addresses: str) -> dict[str, dict[str, Any]]:
    """Instances by id."""
    return {
        f"i{number}": {"address": address, "ports": [{"number": first, "name": "main", "protocol": "grpc"}]}
        for number, address in enumerate(addresses)
    }


async def refusals(server: Kubernetes, code: int) -> int:
    """How many requests the server has answered with that status."""
    lines = str(await server.call("GET", "/metrics")).splitlines()
    counted = [line for line in lines if line.startswith("apiserver_request_total") and f'code="{code}"' in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in counted)


async def test_fault_35_throttling_and_conflicts_hold_up_no_other_service(
    kubernetes_server: StartKubernetes, folder: Path
) -> None:
    flags = ("--enable-priority-and-fairness=false", "--max-requests-inflight=2", "--max-mutating-requests-inflight=1")
    server = await kubernetes_server(users={"writer-token": ("writer", "")}, flags=flags)
    subject = {"kind": "User", "name": "writer", "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "ClusterRole", "name": "cluster-admin", "apiGroup": "rbac.authorization.k8s.io"}
    # Not a member of system:masters, whom no limit holds.
    await server.call("POST", ROLE_BINDINGS, {"metadata": {"name": "w"}, "roleRef": role, "subjects": [subject]})
    there = await cluster(server)
    services = [f"pay-{number}" for number in range(6)]
    async with world(folder, there, kubeconfig=str(server.configure("writer-token", name="writer"))) as made:
        for service in services:
            made.inventory.set(service, **ports(9000, "192.0.2.1", "192.0.2.2"))
        await made.bridge.start(ready=False)
        await until(made.equal, "what was throttled is written in the end")
        assert await refusals(server, 429) > 0

        async def fight() -> None:
            """Somebody changes one of our slices all the time."""
            for turn in range(10_000):
                for each in await there.slices():
                    if each["metadata"]["labels"]["kubernetes.io/service-name"] == "pay-0":
                        label = {"metadata": {"labels": {"turn": str(turn)}}}
                        await there.patch_slice(each["metadata"]["name"], label)

        fighting = asyncio.create_task(fight())
        for turn in range(1, 3):
            for service in services:
                made.inventory.set(service, **ports(9000 + turn, "192.0.2.1", "192.0.2.2"))
            await until(lambda: made.equal(*services[1:]), "the others flow")
        fighting.cancel()
        await asyncio.gather(fighting, return_exceptions=True)
        await until(made.equal, "and the one that was fought over, in the end")
        await until(made.bridge.rests, "nothing is left to do")


async def test_fault_35_a_cluster_that_fails_for_a_while_is_written_when_it_is_back(
    kubernetes_server: StartKubernetes, folder: Path
) -> None:
    """Its store is down: every request is answered with 500, or not at all."""
    server = await kubernetes_server()
    async with world(folder, await cluster(server)) as made:
        for number in range(10):
            made.inventory.set(f"pay-{number}", **ports(9000, "192.0.2.1", "192.0.2.2"))
        await made.bridge.start()
        await until(made.equal, "all is copied")
        await server.etcd.kill()
        for number in range(10):
            made.inventory.set(f"pay-{number}", **ports(9001, "192.0.2.1", "192.0.2.2"))

        async def failing() -> bool:
            return bool((await made.bridge.link())["reason"])

        await until(failing, "it is told")
        await server.etcd.start()
        await until(made.equal, "what could not be written is")
        await until(made.bridge.rests, "nothing is left to do")


async def test_fault_35_what_a_quota_has_no_room_for_waits_alone_until_there_is_some(
    kubernetes: Kubernetes, folder: Path
) -> None:
    """A 403 as that of missing rights; also where nobody has counted yet."""
    there = await cluster(kubernetes)
    quota = f"/api/v1/namespaces/{there.namespace}/resourcequotas"
    few = await kubernetes.call("POST", quota, {"metadata": {"name": "few"}, "spec": {"hard": {"services": "1"}}})

    async def counted(**used: str) -> None:
        now = await kubernetes.call("GET", f"{quota}/few")
        await kubernetes.call("PUT", f"{quota}/few/status", {**now, "status": {**few["spec"], "used": used}})

    await counted()
    async with world(folder, there) as made:
        made.inventory.set("pay", i1="192.0.2.1")
        await made.bridge.start()
        await until(lambda: _waits(made, "status unknown for quota"))
        await counted(services="0")
        await until(lambda: made.equal("pay"), "there is room for one")
        made.inventory.set("cart", i1="192.0.2.3")
        await until(lambda: _waits(made, "exceeded quota"))
        made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
        await until(lambda: made.equal("pay"), "what stands there already is changed meanwhile")
        link = await made.bridge.link()
        assert not link["parked"]
        await kubernetes.call("DELETE", f"{quota}/few")
        await until(made.equal, "without anybody's doing it is written")


async def _waits(made: World, why: str) -> bool:
    """Whether the daemon says of that link why something is not written yet."""
    return why in (await made.bridge.isthmus("status", "-o", "json")).out


async def test_fault_36_what_a_cluster_denies_or_cannot_hold_is_parked_alone(
    kubernetes: Kubernetes, folder: Path
) -> None:
    there = await cluster(kubernetes)
    denied, huge = "192.0.2.66", "192.0.2.77"
    many = {f"i{number}": f"198.51.100.{number}" for number in range(1, 151)}
    async with denying(there, denied), world(folder, there) as made:
        made.inventory.set(
            "pay",
            good="192.0.2.1",
            denied=denied,
            huge={"address": huge, "metadata": {"x": "x" * 1_500_000}},
            other="192.0.2.2",
        )
        made.inventory.set("big", **many)
        await made.bridge.start()
        but = frozenset({denied, huge})
        await until(lambda: made.equal(but=but), "its siblings and the other service flow")
        assert sorted(len(each["endpoints"]) for each in await there.slices())[-1] == 100
        assert (await made.bridge.link())["parked"] == 2
        explained = (await made.bridge.isthmus("explain", "pay", "-o", "json")).out
        assert "no such address" in explained
        made.inventory.set("pay", good="192.0.2.1", denied="192.0.2.3", other="192.0.2.4")
        await until(made.equal, "with another value it is taken, and its siblings changed meanwhile")


@asynccontextmanager
async def denying(there: Cluster, address: str) -> AsyncIterator[None]:
    """The namespace's admission refuses an address, as a webhook does: with 403."""
    name = f"deny-{there.namespace}"
    rule = {"apiGroups": ["discovery.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"]}
    own = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": there.namespace}}}
    expression = f"object.endpoints == null || object.endpoints.all(e, !('{address}' in e.addresses))"
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {**own, "resourceRules": [{**rule, "resources": ["endpointslices"]}]},
        "validations": [{"expression": expression, "message": "no such address", "reason": "Forbidden"}],
    }
    call = there.server.call
    await call("POST", f"{POLICIES}/validatingadmissionpolicies", {"metadata": {"name": name}, "spec": spec})
    binding = {"policyName": name, "validationActions": ["Deny"]}
    await call("POST", f"{POLICIES}/validatingadmissionpolicybindings", {"metadata": {"name": name}, "spec": binding})
    probe = {
        "metadata": {"name": "probe", "labels": {"kubernetes.io/service-name": "probe"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
    }

    async def in_force() -> bool:
        try:
            await call("POST", there.path(SLICES, "endpointslices"), probe)
        except urllib.error.HTTPError as error:
            return error.code == 403
        await there.delete_slice("probe")
        return False

    await until(in_force, "the policy is in force")
    try:
        yield
    finally:
        for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            await call("DELETE", f"{POLICIES}/{plural}/{name}")


async def test_fault_37_what_somebody_put_back_under_a_late_watch_is_repaired(
    kubernetes: Kubernetes, folder: Path
) -> None:
    """The old slice again, whole, as a restored backup has it, while the watch tells everything late."""
    there = await cluster(kubernetes)
    async with Proxy(kubernetes.address) as proxy:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(kubernetes.kubeconfig.read_text().replace(kubernetes.address, proxy.address))
        async with world(folder, there, kubeconfig=str(kubeconfig)) as made:
            made.inventory.set("pay", **ports(9000, "192.0.2.1", "192.0.2.2"))
            await made.bridge.start()
            await until(made.equal)
            (old,) = await there.slices()
            proxy.delay(1.0, "down")
            made.inventory.set("pay", **ports(9000, "192.0.2.1", "192.0.2.3"))
            await until(made.equal, "the change is written")
            del old["metadata"]["resourceVersion"], old["metadata"]["managedFields"]
            path = there.path(SLICES, "endpointslices", old["metadata"]["name"])
            await kubernetes.call("PUT", path, old)
            assert not await made.equal()
            await until(made.equal, "it is written again")
            await proxy.heal()
            made.inventory.set("pay", **ports(9000, "192.0.2.1", "192.0.2.4"))
            await until(made.equal, "and changes flow on")
            await until(made.bridge.rests, "nothing is left to do")
