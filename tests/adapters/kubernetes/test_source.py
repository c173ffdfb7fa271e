"""What is read of a cluster: who opted in, what endpoints, pods and addresses say, and what is nobody's metadata."""

from __future__ import annotations

from msgspec.structs import replace

from bridge.model import Health, ServiceName
from tests.adapters.kubernetes.cluster import CORE, SLICES, fresh, opened, service, slice_of
from tests.conformance.lab import instance, watching
from tests.conftest import StartKubernetes
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes

PAY = ServiceName("pay")


async def test_a_service_is_read_from_its_annotation_on_and_no_longer(kubernetes: Kubernetes) -> None:
    cluster = await fresh(kubernetes)
    closed = service("pay")
    closed["metadata"]["annotations"] = {}
    await cluster.put(CORE, "services", closed)
    await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(1)))
    async with opened(cluster) as source, watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert not watch.observed
        await cluster.put(CORE, "services", service("pay"))
        await watch.until(lambda: watch.service(PAY).instances.keys() == {"i1"})
        await cluster.put(CORE, "services", closed)
        await watch.until(lambda: not watch.service(PAY).instances)


async def test_a_selector_chooses_services_and_an_annotation_may_refuse(kubernetes: Kubernetes) -> None:
    cluster = await fresh(kubernetes)
    for name, label, said in (("pay", "core", ""), ("cart", "core", "false"), ("shop", "edge", "true")):
        made = service(name)
        made["metadata"] |= {"labels": {"tier": label}, "annotations": {"isthmus.io/export": said}}
        await cluster.put(CORE, "services", made)
        await cluster.put(SLICES, "endpointslices", slice_of(name, instance(1)))
    async with opened(cluster, selector="tier in (core)") as source, watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert watch.observed.keys() == {PAY}
        assert (await source.read(PAY)).service == watch.service(PAY)
        assert not (await source.read(ServiceName("cart"))).service.instances


async def test_labels_of_tools_are_no_metadata_and_those_of_pods_are(kubernetes: Kubernetes) -> None:
    cluster = await fresh(kubernetes)
    made = service("pay")
    made["metadata"]["labels"] = {"team": "pay", "app.kubernetes.io/instance": "shop", "argocd.argoproj.io/x": "y"}
    made["metadata"]["annotations"] |= {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "n"}
    await cluster.put(CORE, "services", made)
    labels = {"version": "1.2", "pod-template-hash": "abc", "team": "core"}
    pod = {
        "metadata": {"name": "i1", "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await cluster.put(CORE, "pods", pod)
    await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(1), nodeName="n1"))
    async with opened(cluster, pod_metadata=True) as source, watching(source) as watch:
        await watch.until(lambda: watch.synced)
        (one,) = watch.service(PAY).instances.values()
        assert one.version == "1.2"
        wanted = {"team": "core", "note": "n", "version": "1.2", "kubernetes.io/hostname": "n1"}
        assert one.metadata == wanted
        assert (await source.read(PAY)).service == watch.service(PAY)
        path = cluster.path(CORE, "pods", "i1")
        patch = {"metadata": {"labels": {"team": "new"}}}
        await kubernetes.call("PATCH", path, patch, content="application/merge-patch+json")
        await watch.until(lambda: watch.service(PAY).instances["i1"].metadata["team"] == "new")
    async with opened(cluster) as source:
        (one,) = (await source.read(PAY)).service.instances.values()
        assert one.metadata == {"team": "pay", "note": "n", "kubernetes.io/hostname": "n1"}


async def test_a_cluster_address_weighs_as_many_as_are_ready(kubernetes: Kubernetes) -> None:
    cluster = await fresh(kubernetes)
    ports = [{"name": "grpc", "port": 80, "nodePort": 30000 + int(cluster.namespace.split("-")[1]), "targetPort": 9001}]
    await cluster.put(CORE, "services", service("pay", spec={"type": "NodePort", "ports": ports}))
    for number in (1, 2, 3):
        health = Health.UNHEALTHY if number == 3 else Health.HEALTHY
        await cluster.put(SLICES, "endpointslices", slice_of("pay", replace(instance(number), health=health)))
    async with opened(cluster, address="cluster-ip") as source, watching(source) as watch:
        await watch.until(lambda: watch.synced)
        (one,) = watch.service(PAY).instances.values()
        assert one.address.startswith("10.0.")
        assert [(port.number, port.name, port.protocol) for port in one.ports] == [(80, "grpc", "grpc")]
        assert (one.weight, one.health) == (2.0, Health.HEALTHY)
        for number in (1, 2):
            await cluster.remove(SLICES, "endpointslices", f"pay-i{number}")
        await watch.until(lambda: next(iter(watch.service(PAY).instances.values())).health is Health.UNHEALTHY)


async def test_node_ports_stand_at_ready_nodes_and_share_the_ready_pods(kubernetes: Kubernetes) -> None:
    cluster = await fresh(kubernetes)
    number = 31000 + int(cluster.namespace.split("-")[1])
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": number}]}
    await cluster.put(CORE, "services", service("pay", spec=spec))
    for each in (1, 2, 3):
        await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(each), nodeName="n1"))
    for name, ready in (("n1", "True"), ("n2", "True"), ("n3", "False")):
        await kubernetes.call("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": f"198.51.100.{name[1]}"}],
            "conditions": [{"type": "Ready", "status": ready}],
        }
        await kubernetes.call(
            "PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content="application/merge-patch+json"
        )
    try:
        async with opened(cluster, address="node-port") as source, watching(source) as watch:
            await watch.until(lambda: watch.synced)
            found = watch.service(PAY).instances
            assert watch.picture(PAY) == {"n1": ("198.51.100.1", number), "n2": ("198.51.100.2", number)}
            assert {one.weight for one in found.values()} == {1.5}
            local = {"spec": {"externalTrafficPolicy": "Local"}}
            path = cluster.path(CORE, "services", "pay")
            await kubernetes.call("PATCH", path, local, content="application/merge-patch+json")
            await watch.until(lambda: watch.service(PAY).instances["n2"].health is Health.UNHEALTHY)
            assert watch.service(PAY).instances["n1"].weight == 3.0
            assert (await source.read(PAY)).service == watch.service(PAY)
    finally:
        for name in ("n1", "n2", "n3"):
            await kubernetes.call("DELETE", f"/api/v1/nodes/{name}")


async def test_a_load_balancer_is_read_by_its_address_or_name(kubernetes: Kubernetes) -> None:
    cluster = await fresh(kubernetes)
    await cluster.put(CORE, "services", service("pay", spec={"type": "LoadBalancer", "ports": [{"port": 443}]}))
    await cluster.put(SLICES, "endpointslices", slice_of("pay", instance(1)))
    path = cluster.path(CORE, "services", "pay")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}, {"hostname": "lb.example"}]}}}
    await kubernetes.call("PATCH", f"{path}/status", status, content="application/merge-patch+json")
    async with opened(cluster, address="load-balancer") as source:
        found = (await source.read(PAY)).service.instances
        assert {one.address for one in found.values()} == {"198.51.100.7", "lb.example"}
        assert {one.weight for one in found.values()} == {0.5}


async def test_what_the_endpoints_controller_writes_is_read(kubernetes_server: StartKubernetes) -> None:
    server = await kubernetes_server(controllers=("endpointslice-controller",))
    cluster = await fresh(server)
    spec = {"selector": {"app": "pay"}, "ports": [{"name": "http-web", "port": 80, "targetPort": "web"}]}
    await cluster.put(CORE, "services", service("pay", spec=spec))
    containers = [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 8080}]}]
    pod = {"metadata": {"name": "p1", "labels": {"app": "pay"}}, "spec": {"nodeName": "n1", "containers": containers}}
    await cluster.put(CORE, "pods", pod)

    async def say(ready: str) -> None:
        conditions = [{"type": "Ready", "status": ready}]
        status = {"phase": "Running", "podIP": "192.0.2.9", "podIPs": [{"ip": "192.0.2.9"}], "conditions": conditions}
        path = cluster.path(CORE, "pods", "p1") + "/status"
        await server.call("PATCH", path, {"status": status}, content="application/merge-patch+json")

    await server.call(
        "POST", "/api/v1/nodes", {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}}
    )
    await say("True")
    async with opened(cluster, pod_metadata=True) as source, watching(source) as watch:
        await watch.until(lambda: "p1" in watch.service(PAY).instances)
        one = watch.service(PAY).instances["p1"]
        assert (one.address, one.health, one.locality.zone) == ("192.0.2.9", Health.HEALTHY, "z1")
        assert [(port.number, port.name, port.protocol) for port in one.ports] == [(8080, "http-web", "http")]
        assert one.metadata["app"] == "pay"
        await say("False")
        await watch.until(lambda: watch.service(PAY).instances["p1"].health is Health.UNHEALTHY)
        assert (await source.read(PAY)).service == watch.service(PAY)

        async def is_gone() -> bool:
            return not watch.service(PAY).instances

        await server.call("DELETE", cluster.path(CORE, "pods", "p1") + "?gracePeriodSeconds=0")
        await until(is_gone)
