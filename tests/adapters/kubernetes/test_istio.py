"""`layout: istio` on a real apiserver, and what a real istiod serves of it, asked as a sidecar asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster as EnvoyCluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from msgspec.structs import replace

from bridge.adapter import Registry
from bridge.errors import Rejected
from bridge.model import Health, Instance, Locality, Port, ServiceName
from tests.adapters.kubernetes.lab import BRIDGE, PAY, Cluster, cluster, create_of, writing
from tests.adapters.kubernetes.test_roles import account
from tests.conformance.lab import change, create, refusals, shown, write
from tests.dataplanes.estate import SERVICE
from tests.kit.ads import CLUSTER, ENDPOINTS, Ads, Conversation
from tests.kit.running import Bridge, isthmus
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, reaches
from tests.servers.istio import Istiod
from tests.servers.kubernetes import Kubernetes

GROUP = "apis/networking.istio.io/v1"


def vm(number: int, weight: float = 1.0, zone: str = "", **more: Any) -> Instance:
    said = {"weight": weight, "locality": Locality("eu", zone) if zone else Locality(), "health": Health.HEALTHY}
    return Instance(f"i{number}", f"192.0.2.{number}", (Port(9000, "http", "http"),), **{**said, **more})


class Mesh(Cluster):
    """A namespace, its ServiceEntries and their kin."""

    def registry(self, **more: Any) -> Registry:
        given = {"layout": "istio", "namespaces": [], "host": f"{{name}}.{self.namespace}"}  # all look at one cluster
        return super().registry(**given | more)

    @property
    def host(self) -> str:
        return f"pay.{self.namespace}"

    async def objects(self, plural: str) -> list[Any]:
        return list((await self.server.call("GET", self.path(GROUP, plural)))["items"])

    async def put(self, plural: str, name: str, spec: Mapping[str, Any]) -> None:
        await self.server.call("POST", self.path(GROUP, plural), self.body(plural, name, spec))

    def body(self, plural: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        kind = {"serviceentries": "ServiceEntry", "destinationrules": "DestinationRule"}[plural]
        return {"apiVersion": GROUP[5:], "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


@pytest.fixture
async def there(mesh: Kubernetes) -> Mesh:
    made = await cluster(mesh)
    return Mesh(mesh, made.namespace)


async def addresses(there: Mesh) -> dict[str, int]:
    (entry,) = await there.objects("serviceentries")
    return {each["address"]: each["weight"] for each in entry["spec"]["endpoints"]}


async def test_what_is_unhealthy_is_left_out_and_the_last_ones_stay(there: Mesh) -> None:
    async with writing(there.registry()) as sink:
        one, two = await write(sink, create(PAY, vm(1, 3.0)), create(PAY, vm(2)))
        assert await addresses(there) == {"192.0.2.1": 300, "192.0.2.2": 100}
        (two,) = await write(sink, change(PAY, two, vm(2, health=Health.UNHEALTHY)))
        assert await addresses(there) == {"192.0.2.1": 300}
        (one,) = await write(sink, change(PAY, one, vm(1, 3.0, health=Health.DRAINING)))
        assert await addresses(there) == {"192.0.2.1": 300}  # what was there last: without it nobody answers
        assert await shown(sink, PAY) == {"i1": one, "i2": two}
        await write(sink, change(PAY, two, vm(2, weight=0.0, health=Health.HEALTHY)))
        assert await addresses(there) == {"192.0.2.1": 300}
        for each in (await shown(sink, PAY)).values():
            await write(sink, change(PAY, each, None))
        assert await there.objects("serviceentries") == []


async def test_what_its_readers_would_refuse_is_parked_alone(there: Mesh) -> None:
    again = replace(vm(3), id="again", address="192.0.2.1")
    other = replace(vm(4), ports=(Port(9000, "grpc", "grpc"),))
    async with writing(there.registry()) as sink:
        changes = [create(PAY, each) for each in (vm(1), again, vm(2))]
        assert await refusals(sink, *changes) == [None, Rejected, None]
        assert await refusals(sink, create(PAY, other)) == [Rejected]
        assert await addresses(there) == {"192.0.2.1": 100, "192.0.2.2": 100}
        for wrong in (replace(vm(5), address="vm5.example"), vm(5, weight=1e9), replace(vm(5), ports=())):
            with pytest.raises(Rejected):
                sink.canonical(PAY, wrong)
        with pytest.raises(Rejected, match="no host name"):
            sink.canonical(ServiceName("Pay_API"), vm(5))


async def test_a_host_that_somebody_else_has_is_left_to_them(there: Mesh, mesh: Kubernetes) -> None:
    elsewhere = Mesh(mesh, (await cluster(mesh)).namespace)
    host = f"{there.namespace}.example"
    spec = {"hosts": [host], "resolution": "STATIC", "ports": [{"number": 80, "name": "http"}]}
    await elsewhere.put("serviceentries", "theirs", spec)
    registry = there.registry(host="{name}.example")
    name = ServiceName(there.namespace)
    async with writing(registry) as sink:
        (outcome,) = await sink.apply([create_of(vm(1), name)])
        assert isinstance(outcome.error, Rejected)
        assert f"{elsewhere.namespace}/theirs" in str(outcome.error)
        await mesh.call("DELETE", elsewhere.path(GROUP, "serviceentries", "theirs"))
        await write(sink, create(name, vm(1)))


async def test_an_entry_that_somebody_edited_is_not_written_over(there: Mesh) -> None:
    async with writing(there.registry()) as sink:
        (entry,) = await write(sink, create(PAY, vm(1)))
        edit = {"spec": {"endpoints": [{"address": "192.0.2.99", "ports": {"http": 9000}}]}}
        path = there.path(GROUP, "serviceentries", there.host)
        await there.server.call("PATCH", path, edit, content="application/merge-patch+json")
        assert (await shown(sink, PAY))["i1"].mark is None
        assert None not in await refusals(sink, change(PAY, entry, None), create(PAY, vm(2)))
        assert [*await addresses_of(there)] == ["192.0.2.99"]


async def addresses_of(there: Mesh) -> list[str]:
    (entry,) = await there.objects("serviceentries")
    return [each["address"] for each in entry["spec"]["endpoints"]]


async def test_a_full_entry_takes_no_more_and_is_kept_whole(there: Mesh) -> None:
    many = [replace(vm(1), id=f"vm-{n}", address=f"198.18.{n // 256}.{n % 256}") for n in range(4097)]
    async with writing(there.registry()) as sink:
        outcomes = await sink.apply([create(PAY, each) for each in many])
        assert [type(each.error) for each in outcomes] == [type(None)] * 4096 + [Rejected]
        assert len(await addresses_of(there)) == 4096
        assert len(await shown(sink, PAY)) == 4096


async def test_shares_get_their_rule_or_plan_prints_it(there: Mesh) -> None:
    uneven = {PAY: [create_of(vm(1, 3.0)), create_of(vm(2))]}
    async with there.registry() as registry:
        (said,) = await Seated(registry, BRIDGE).sink.advise(uneven)
        assert '"simple":"ROUND_ROBIN","localityLbSetting":{"enabled":false}' in said.text
        assert not await Seated(registry, BRIDGE).sink.advise({PAY: [create_of(vm(1)), create_of(vm(2))]})
    async with writing(there.registry(destination_rules=True)) as sink:
        one, two = await write(sink, *uneven[PAY])
        (rule,) = await there.objects("destinationrules")
        balancer = {"simple": "ROUND_ROBIN", "localityLbSetting": {"enabled": False}}
        assert rule["spec"] == {"host": there.host, "trafficPolicy": {"loadBalancer": balancer}}
        outlier = {"outlierDetection": {"consecutive5xxErrors": 3}}
        await there.put("destinationrules", "theirs", {"host": f"*.{there.namespace}", "trafficPolicy": outlier})
        async with there.registry(namespaces=[there.namespace]) as registry:
            (note,) = (await registry.reach()).notes
        assert "theirs" in note and "LEAST_REQUEST" in note and "locality failover" in note
        await write(sink, change(PAY, one, None), change(PAY, two, None))
        assert [each["metadata"]["name"] for each in await there.objects("destinationrules")] == ["theirs"]


async def test_the_shipped_roles_are_enough_to_write_a_mesh(mesh: Kubernetes) -> None:
    made = await account(
        mesh, ("isthmus-identity", "isthmus-mesh", "isthmus-mesh-reader", "isthmus-reader", "isthmus-lock")
    )
    there = Mesh(mesh, made.there.namespace)
    said = {"kubeconfig": str(made.kubeconfig), "namespaces": [there.namespace], "attach": True}
    registry = there.registry(**said, destination_rules=True)

    async def may_write() -> bool:
        return bool((await registry.reach()).may_write)

    async with registry:
        await until(may_write)
        assert not (await registry.reach()).notes
    async with writing(there.registry(**said, destination_rules=True)) as sink:
        async with aclosing(cast(Any, sink.drift())) as drift:
            assert await anext(drift) == frozenset()
            (entry,) = await write(sink, create(PAY, vm(1)))
            edit = {"metadata": {"labels": {"touched": "yes"}}}
            path = there.path(GROUP, "serviceentries", there.host)
            await mesh.call("PATCH", path, edit, content="application/merge-patch+json")
            assert await anext(drift) == {PAY}
        await write(sink, change(PAY, entry, None))
        await sink.leave()


async def test_a_daemon_keeps_a_mesh_in_step_and_plan_prints_the_rule(there: Mesh, folder: Path) -> None:
    inventory = folder / "inventory"
    inventory.mkdir()

    def say(**weights: float) -> None:
        records = [
            {"id": id, "address": f"192.0.2.{id[1:]}", "port": 9000, "weight": weight} for id, weight in weights.items()
        ]
        (inventory / "pay.yaml").write_text(json.dumps({"instances": records}))

    say(i1=1.0, i2=1.0)
    kubeconfig = str(there.server.kubeconfig)
    mesh = {"kind": "kubernetes", "kubeconfig": kubeconfig, "layout": "istio", "namespace": there.namespace}
    registries = {"inventory": {"kind": "file", "path": str(inventory)}, "mesh": {**mesh, "host": "{name}.daemon"}}
    link = {"from": "inventory", "to": "mesh", "policy": "sync", "services": {"include": ["*"]}}

    async def served() -> dict[str, int]:
        return await addresses(there) if await there.objects("serviceentries") else {}

    bridge = Bridge(folder, registries, [link])
    async with bridge:
        await until_equal(served, {"192.0.2.1": 100, "192.0.2.2": 100})
        say(i1=1.0, i2=1.0, i3=3.0)
        await until_equal(served, {"192.0.2.1": 100, "192.0.2.2": 100, "192.0.2.3": 300})
    say(i1=1.0, i2=2.0, i3=3.0)
    planned = await bridge.isthmus("plan")
    assert '"simple":"ROUND_ROBIN"' in planned.out.replace("\n", "").replace(" ", ""), planned


async def until_equal(what: Callable[[], Awaitable[object]], wanted: object) -> None:
    async def equal() -> bool:
        return await what() == wanted

    await until(equal)


@asynccontextmanager
async def sidecar(istiod: Istiod, there: Mesh) -> AsyncIterator[Conversation]:
    """A stream as the sidecar of a pod of this namespace has it."""
    node = f"sidecar~10.9.9.9~app.{there.namespace}~{there.namespace}.svc.cluster.local"
    metadata = {"NAMESPACE": there.namespace, "CLUSTER_ID": "Kubernetes"}
    async with grpc.aio.insecure_channel(istiod.address) as channel, Ads(channel).world(node, metadata) as stream:
        yield stream


async def served(stream: Conversation, name: str, wanted: Mapping[str, int]) -> None:
    """Waits until istiod says these endpoints of a cluster, by address and port, with their weights."""
    await stream.ask(ENDPOINTS, name)
    while True:
        told = await stream.next()
        for each in told.found.values():
            said = ClusterLoadAssignment.FromString(each)
            places = [one for locality in said.endpoints for one in locality.lb_endpoints]
            found = {_at(one): one.load_balancing_weight.value for one in places}
            if said.cluster_name == name and found == wanted:
                return


def _at(endpoint: Any) -> str:
    socket = endpoint.endpoint.address.socket_address
    return f"{socket.address}:{socket.port_value}"


async def moved(there: Mesh, folder: Path, stream: Conversation) -> None:
    """A migration says its share by a locality for each side where the rule is written, else by counts, as planned."""
    kubernetes = {"kind": "kubernetes", "kubeconfig": str(there.server.kubeconfig), "namespace": there.namespace}
    mesh = {**kubernetes, "layout": "istio", "host": f"{{name}}.moved.{there.namespace}"}
    estate = Estate(folder, {**kubernetes, "namespaces": [there.namespace]}, {"mesh": mesh})
    estate.vms.write({"192.0.2.1": {}, "192.0.2.2": {}}, 9000)
    estate.pods.write({"198.51.100.1": {}}, 9000)
    bridge = estate.bridge(steps=[25, 100], settle="1s")  # istiod says it a tenth of a second later

    async def planned() -> Any:
        await until(bridge.rests)
        (found,) = await bridge.ask("migrate-plan", name="pay")
        (place,) = found["places"]
        return place["means"], place["lacks"], place["steps"]["25"], " ".join(found["missing"])

    async def told(wanted: Any) -> None:
        async def so() -> bool:
            return bool(await planned() == wanted)

        await until(so, f"the plan says {wanted}")

    async with bridge:
        await told(("counts", "destination_rules", 0.0, ""))
        assert "without `destination_rules: true`" in (await isthmus("migrate", "plan", "-f", bridge.file, "pay")).out
        bridge.registries["mesh"] |= {"destination_rules": True, "attach": True}
        await bridge.hup()
        assert "always weigh 1" in (await planned())[3]
        del bridge.registries["mesh"]["attach"]
        await bridge.hup()
        await told(("both", "", 25.0, ""))  # once both sides are read again
        await act(bridge, "start")
        (place,) = (await reaches(bridge, "shift", 1))["places"]
        assert place["intended"] == 25.0
        await shared(stream, f"outbound|9000||{SERVICE}.moved.{there.namespace}", {"from": 75.0, "to": 25.0})


async def shared(stream: Conversation, name: str, wanted: Mapping[str, float]) -> None:
    """Waits until istiod says these shares of localities, by zone, in percent."""
    await stream.ask(ENDPOINTS, name)
    while True:
        for each in (await stream.next()).found.values():
            said = ClusterLoadAssignment.FromString(each)
            weights = {one.locality.zone: one.load_balancing_weight.value for one in said.endpoints}
            whole = sum(weights.values()) or 1
            if said.cluster_name == name and {zone: 100 * one / whole for zone, one in weights.items()} == wanted:
                return


async def test_istiod_serves_what_is_written(there: Mesh, tmp_path: Path) -> None:
    async with Istiod(there.server, tmp_path) as istiod, sidecar(istiod, there) as stream:
        async with writing(there.registry(destination_rules=True)) as sink:
            one, two = await write(sink, create(PAY, vm(1, 3.0, "vms")), create(PAY, vm(2, 1.0, "pods")))
            name = f"outbound|9000||{there.host}"
            await served(stream, name, {"192.0.2.1:9000": 300, "192.0.2.2:9000": 100})
            await write(sink, change(PAY, one, vm(1, health=Health.UNHEALTHY)))
            await served(stream, name, {"192.0.2.2:9000": 100})
            await write(sink, change(PAY, two, vm(2, 1.0, "pods", health=Health.UNHEALTHY)), create(PAY, vm(3)))
            await served(stream, name, {"192.0.2.3:9000": 100})
            assert (await clusters(stream))[name].lb_policy == EnvoyCluster.ROUND_ROBIN
        await beside_pods(there, stream)
        await moved(there, tmp_path, stream)


async def beside_pods(there: Mesh, stream: Conversation) -> None:
    """VMs under a Service with pods: each weighs as many pods as its weight says, and no less than one."""
    await there.put_service("pay", selector={"app": "pay"}, ports=[{"port": 80, "name": "http", "targetPort": 8080}])
    await pods(there, "10.1.0.5", "10.1.0.6")
    name = f"outbound|80||pay.{there.namespace}.svc.cluster.local"
    beside = {"10.1.0.5:8080": 1, "10.1.0.6:8080": 1}
    async with writing(there.registry(attach=True, namespaces=[there.namespace]), "bridge-b") as sink:
        one, two = await write(sink, create(PAY, vm(21, 9.0), "bridge-b"), create(PAY, vm(22, 0.2), "bridge-b"))
        await served(stream, name, beside | {"192.0.2.21:9000": 9, "192.0.2.22:9000": 1})
        assert await refusals(sink, create(PAY, vm(23), "bridge-b")) == [Rejected]  # at most as many as there are pods
        await write(sink, change(PAY, one, vm(21, 9.0, health=Health.UNHEALTHY), "bridge-b"))
        await served(stream, name, beside | {"192.0.2.22:9000": 1})
        await write(sink, change(PAY, two, None))
        await served(stream, name, beside)
        assert list(await shown(sink, PAY)) == ["i21", "i1", "i2", "i3"]


async def pods(there: Mesh, *addresses: str) -> None:
    labels = {"kubernetes.io/service-name": "pay", "endpointslice.kubernetes.io/managed-by": "tests"}
    ready = {"ready": True, "serving": True, "terminating": False}
    body = {
        "metadata": {"name": "pay-pods", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [each], "conditions": ready} for each in addresses],
        "ports": [{"name": "http", "port": 8080}],
    }
    await there.server.call("POST", there.path("apis/discovery.k8s.io/v1", "endpointslices"), body)


async def clusters(stream: Conversation) -> dict[str, Any]:
    await stream.ask(CLUSTER)
    while True:
        told = await stream.next()
        if told.type == CLUSTER:
            return {each.name: each for each in map(EnvoyCluster.FromString, told.found.values())}
