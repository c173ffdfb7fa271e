"""What is written into a cluster: how it looks to stock readers, what is refused, and what belongs to others."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from msgspec.structs import replace

from adapters.kubernetes import attach, client, left
from adapters.kubernetes.writing import Pen
from bridge.adapter import Change, Entry, Tracer
from bridge.errors import Conflict, Rejected
from bridge.model import Health, Instance, Mark, Port, ServiceName
from mappings.kubernetes.objects import Meta
from tests.adapters.kubernetes.lab import BRIDGE, MERGE, PAY, SLICES, Cluster, cluster, create_of, instance, writing
from tests.conftest import StartKubernetes
from tests.kit.clocks import Ahead
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.kubernetes import Kubernetes

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"


@pytest_asyncio.fixture
async def there(kubernetes: Kubernetes) -> Cluster:
    return await cluster(kubernetes)


async def put(sink: Seated, *changes: Change) -> list[Entry]:
    outcomes = await sink.apply(changes)
    assert [one.error for one in outcomes] == [None] * len(changes)
    return [Entry(one.change.after, one.change.mark, one.version) for one in outcomes if one.change.after]


def replaced(before: Entry, after: object, service: ServiceName = PAY) -> Change:
    return Change(service, before.instance.id, before, after, before.mark if after else None)  # type: ignore[arg-type]


async def test_kubectl_shows_the_service_and_its_ready_endpoints(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await put(sink, create_of(instance(1)), create_of(replace(instance(2), health=Health.UNHEALTHY)))
        shown = await there.server.kubectl("-n", there.namespace, "get", "service", "pay", "-o", "json")
        spec = json.loads(shown)["spec"]
        assert "selector" not in spec
        assert [(port["name"], port["port"], port["appProtocol"]) for port in spec["ports"]] == [("grpc", 9000, "grpc")]
        described = await there.server.kubectl("-n", there.namespace, "describe", "service", "pay")
        assert "192.0.2.1:9000" in described
        assert "192.0.2.2:9000" not in described
        slices = await there.server.kubectl("-n", there.namespace, "get", "endpointslices")
        assert "192.0.2.1,192.0.2.2" in slices


async def test_two_hundred_entries_are_two_slices_and_a_change_is_one_write(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        entries = await put(sink, *(create_of(instance(number)) for number in range(1, 201)))
        before = {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in await there.slices()}
        assert len(before) == 2
        await put(
            sink, replaced(entries[150], instance(151, turn="2")), replaced(entries[149], instance(150, turn="2"))
        )
        after = {each["metadata"]["name"]: each["metadata"]["resourceVersion"] for each in await there.slices()}
        changed = [name for name in before if before[name] != after[name]]
        assert after.keys() == before.keys()
        assert len(changed) == 1
        assert {each["metadata"]["generation"] for each in await there.slices()} <= {1, 2}


@pytest.mark.parametrize(
    "text", ["\x85", "a\x7fb", "\x90\x9f", "\ufffe\uffff", "\0\x01\x1f", "\N{GRINNING FACE}", "\u2028\ufeff", "a/b\\/c"]
)
async def test_no_character_of_an_id_or_of_metadata_is_changed_or_refused(there: Cluster, text: str) -> None:
    one = replace(instance(1), metadata={"key": text, text: "key"}, id=f"id{text}", tags=(text,))
    async with writing(there.registry()) as sink:
        (entry,) = await put(sink, create_of(one))
        held = await sink.held()
        assert held.services[PAY] == {one.id: entry}
        (found,) = await there.slices()
        assert found["endpoints"][0]["targetRef"]["name"] == one.id


async def test_one_instance_that_the_server_refuses_costs_no_sibling(there: Cluster) -> None:
    """A zone of 2 MB: a 500 that names no end, for the store takes no such object."""
    async with writing(there.registry()) as sink:
        (kept,) = await put(sink, create_of(instance(9)))
        huge = replace(instance(1), locality=replace(instance(1).locality, zone="x" * 90_000))
        many = [create_of(replace(huge, id=f"i{number}", address=f"192.0.2.{number}")) for number in range(10, 30)]
        outcomes = await sink.apply([*many, create_of(instance(2))])
        assert {type(one.error) for one in outcomes} <= {type(None), Rejected}
        assert outcomes[-1].error is None
        held = await sink.held()
        assert {kept.instance.id, "i2"} <= held.services[PAY].keys()


async def test_a_permanent_error_that_comes_as_500_is_rejected(there: Cluster) -> None:
    registry = there.registry()
    async with registry:
        api = registry._client  # type: ignore[attr-defined]
        body = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "x"}, "foo": 1}
        body |= {"addressType": "IPv4", "endpoints": []}
        with pytest.raises(Rejected, match="500"):
            await api.call(
                "PATCH",
                there.path(SLICES, "endpointslices", "x"),
                query={"fieldManager": "isthmus"},
                body=json.dumps(body).encode(),
                content="application/apply-patch+yaml",
            )


async def test_a_slice_that_somebody_edited_is_not_forced_and_not_ours(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        (one, two) = await put(sink, create_of(instance(1)), create_of(instance(2)))
        (found,) = await there.slices()
        endpoints = found["endpoints"]
        endpoints[0]["addresses"] = ["192.0.2.77"]
        await there.patch_slice(found["metadata"]["name"], {"endpoints": endpoints})
        held = await sink.held()
        assert held.services[PAY]["i1"].mark is None
        assert held.services[PAY]["i1"].instance.address == "192.0.2.77"
        assert held.services[PAY]["i2"] == two
        outcomes = await sink.apply([replaced(one, instance(1, turn="2")), replaced(two, instance(2, turn="2"))])
        assert [type(each.error) for each in outcomes] == [Conflict, Conflict]
        assert "edited" in str(outcomes[1].error)
        (after,) = await there.slices()
        assert after["endpoints"][0]["addresses"] == ["192.0.2.77"]
        await there.delete_slice(found["metadata"]["name"])
        assert not (await sink.held()).services
        await put(sink, create_of(instance(1)), create_of(instance(2)))


async def test_a_label_or_annotation_that_others_add_stays(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        (one,) = await put(sink, create_of(instance(1)))
        (found,) = await there.slices()
        mine = {"metadata": {"labels": {"team": "pay"}, "annotations": {"note": "by hand"}}}
        await there.patch_slice(found["metadata"]["name"], mine)
        held = await sink.held()
        assert held.services[PAY] == {"i1": one}
        await put(sink, replaced(one, instance(1, turn="2")))
        (after,) = await there.slices()
        assert after["metadata"]["labels"]["team"] == "pay"
        assert after["metadata"]["annotations"]["note"] == "by hand"


async def test_a_pruned_service_is_missing_and_written_again(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await put(sink, create_of(instance(1)))
        await there.server.call("DELETE", there.path("api/v1", "services", "pay"))
        assert not (await sink.held()).services
        (again,) = await put(sink, create_of(instance(1)))
        assert [each["metadata"]["name"] for each in await there.services()] == ["pay"]
        assert (await sink.held()).services[PAY] == {"i1": again}


async def test_the_service_goes_with_the_last_entry_though_somebody_noted_something(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        (one, two) = await put(sink, create_of(instance(1)), create_of(instance(2)))
        await put(sink, replaced(one, None))
        assert len(await there.services()) == 1
        note = {"metadata": {"annotations": {"note": "by hand"}}}
        await there.server.call("PATCH", there.path("api/v1", "services", "pay"), note, content=MERGE)
        await put(sink, replaced(two, None))
        assert await there.services() == []
        assert await there.slices() == []


async def test_a_service_with_a_selector_is_added_to_only_where_the_file_says_so(there: Cluster) -> None:
    await there.put_service("pay", selector={"app": "pay"}, ports=[{"name": "web", "port": 80, "targetPort": 9000}])
    (before,) = await there.services()
    async with writing(there.registry()) as sink:
        (outcome,) = await sink.apply([create_of(instance(1))])
        assert isinstance(outcome.error, Rejected)
        assert "attach" in str(outcome.error)
        assert await there.slices() == []
    async with writing(there.registry(attach=True, max_attached_share=1.0)) as sink:
        (entry,) = await put(sink, create_of(instance(1)))
        (found,) = await there.slices()
        assert [port["name"] for port in found["ports"]] == ["web"]  # the Service's name, by which proxies join them
        assert (await sink.held()).services[PAY] == {"i1": entry}
        await put(sink, replaced(entry, None))
    assert await there.slices() == []
    assert await there.services() == [before]


async def test_a_name_that_is_none_in_dns_gets_one_and_is_read_back(there: Cluster) -> None:
    upper, other = ServiceName("PAY"), ServiceName("Pay")
    async with writing(there.registry()) as sink:
        (first,) = await put(sink, create_of(instance(1), upper))
        (second,) = await put(sink, create_of(instance(2), other))
        names = sorted(each["metadata"]["name"] for each in await there.services())
        assert names[0] == "pay"
        assert len(names) == 2
        (refused,) = await sink.apply([create_of(instance(3))])
        assert isinstance(refused.error, Rejected)
        assert "stands for PAY" in str(refused.error)
        for held in (await sink.held(), await sink.held([upper, other])):
            assert held.services == {upper: {"i1": first}, other: {"i2": second}}
        await put(sink, replaced(first, None, upper), replaced(second, None, other))
    assert await there.services() == []


async def test_a_namespace_is_created_only_where_the_file_says_so(there: Cluster) -> None:
    new = f"{there.namespace}-new"
    name = ServiceName("pay", new)
    async with writing(there.registry(namespaces=[])) as sink:
        (outcome,) = await sink.apply([create_of(instance(1), name)])
        assert isinstance(outcome.error, Rejected)
        assert "create_namespaces" in str(outcome.error)
        assert outcome.error.again  # the namespace may come
    registry = there.registry(namespaces=[], create_namespaces=True)
    async with writing(registry) as sink:
        (entry,) = await put(sink, create_of(instance(1), name))
        assert (await sink.held([name])).services[name] == {"i1": entry}
        assert isinstance(registry, Tracer)
        (trace,) = [one for one in await registry.traces(BRIDGE) if (one.kind, one.place) == ("namespace", new)]
        assert "kubectl delete namespace" in trace.needed  # for it would take along all that is in it


async def test_further_ports_join_the_service_and_known_ones_keep_their_numbers(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await put(sink, create_of(instance(1)))
        (before,) = await there.services()
        more = replace(instance(2, 9001), ports=(Port(9001, "grpc", "grpc"), Port(9000, "web", "http", tls=True)))
        await put(sink, create_of(more))
        (after,) = await there.services()
        assert after["spec"]["clusterIP"] == before["spec"]["clusterIP"]
        assert {port["name"]: port["port"] for port in after["spec"]["ports"]} == {"grpc": 9000, "web": 9001}


async def test_two_families_have_slices_of_their_own(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await put(sink, create_of(instance(1)), create_of(replace(instance(2), address="2001:db8::2")))
        assert sorted(each["addressType"] for each in await there.slices()) == ["IPv4", "IPv6"]


@pytest.mark.parametrize("controller", ["", "endpointslice-controller", "endpointslicemirroring-controller"])
async def test_a_copied_slice_proves_nothing(there: Cluster, controller: str) -> None:
    """Our annotation in a slice that is a controller's, or nobody's, makes nothing ours."""
    async with writing(there.registry()) as sink:
        await put(sink, create_of(instance(1)))
        (found,) = await there.slices()
        meta = found["metadata"]
        copied = {"name": "copied", "annotations": meta["annotations"]}
        copied["labels"] = {"kubernetes.io/service-name": "cart"} | (
            {MANAGED_BY: f"{controller}.k8s.io"} if controller else {}
        )
        await there.put_service("cart")
        body = {"metadata": copied, "addressType": "IPv4", "endpoints": found["endpoints"], "ports": found["ports"]}
        await there.server.call("POST", there.path(SLICES, "endpointslices"), body)
        held = await sink.held()
        assert held.services[ServiceName("cart")]["i1"].mark is None
        assert held.services[PAY]["i1"].mark == Mark(BRIDGE, "link", ("origin",), "", PAY, "i1")
        (outcome,) = await sink.apply([replaced(held.services[PAY]["i1"], None, ServiceName("cart"))])
        assert isinstance(outcome.error, Conflict)


async def test_controllers_leave_our_slices_alone(kubernetes_server: StartKubernetes) -> None:
    """With and without a selector, beside the real controllers, which take over or delete what has their name."""
    names = ("endpointslice-controller", "endpointslice-mirroring-controller", "endpoints-controller")
    server = await kubernetes_server(controllers=(*names, "garbage-collector-controller"))
    there = await cluster(server)
    await there.put_service("pay", selector={"app": "pay"}, ports=[{"name": "web", "port": 80, "targetPort": 9000}])
    cart, witness = ServiceName("cart"), ServiceName("witness")
    async with writing(there.registry(attach=True, max_attached_share=1.0)) as sink:
        await put(sink, create_of(instance(1)), create_of(instance(2), cart))

        async def at_work() -> bool:
            """A later Service with a selector has its slice from the controller."""
            return any(each["metadata"]["labels"].get(MANAGED_BY, "").startswith("endpointslice-controller")
                       for each in await there.slices()
                       if each["metadata"]["labels"]["kubernetes.io/service-name"] == witness.name)  # fmt: skip

        await there.put_service(witness.name, selector={"app": "witness"})
        await until(at_work)
        held = await sink.held()
        assert held.services[PAY]["i1"].mark is not None
        assert held.services[cart]["i2"].mark is not None


async def pods(there: Cluster, *numbers: int) -> None:
    """The slice of a Service's own pods, as its controller writes it."""
    endpoints = [
        {
            "addresses": [f"198.51.100.{number}"],
            "conditions": {"ready": True},
            "targetRef": {"kind": "Pod", "name": f"pod-{number}"},
        }
        for number in numbers
    ]
    labels = {"kubernetes.io/service-name": "pay", MANAGED_BY: "endpointslice-controller.k8s.io"}
    meta = {"name": f"pay-{numbers[0]}", "labels": labels}
    body: dict[str, Any] = {"metadata": meta, "addressType": "IPv4"}
    body |= {"endpoints": endpoints, "ports": [{"name": "web", "port": 9000}]}
    await there.server.call("POST", there.path(SLICES, "endpointslices"), body)


async def test_the_attached_share_bounds_what_is_added_and_takes_nothing_away(there: Cluster) -> None:
    clock = Ahead()
    await there.put_service("pay", selector={"app": "pay"}, ports=[{"name": "web", "port": 80, "targetPort": 9000}])
    await pods(there, 1, 2)
    async with writing(there.registry(attach=True, clock=clock)) as sink:
        outcomes = await sink.apply([create_of(instance(number)) for number in (1, 2, 3)])
        assert [type(one.error) for one in outcomes] == [type(None), type(None), Rejected]
        assert "2 serving pods" in str(outcomes[2].error)
        await pods(there, 3, 4)
        (outcome,) = await sink.apply([create_of(instance(3))])
        assert isinstance(outcome.error, Rejected)  # twice the pods, for a moment only
        clock.by += attach.STEADY
        await put(sink, create_of(instance(3)))
        for name in ("pay-1", "pay-3"):
            await there.delete_slice(name)
        held = (await sink.held()).services[PAY]
        assert held.keys() == {"i1", "i2", "i3"}
        await put(sink, replaced(held["i1"], instance(1, turn="2")))
        (outcome,) = await sink.apply([create_of(instance(4))])
        assert isinstance(outcome.error, Rejected)
        assert outcome.error.again
        assert (await sink.held()).services[PAY].keys() == {"i1", "i2", "i3"}


async def test_an_address_that_its_own_slices_have_just_left_waits(there: Cluster, tmp_path: Path) -> None:
    wall = Ahead(time.time)
    await there.put_service("pay", selector={"app": "pay"}, ports=[{"name": "web", "port": 80, "targetPort": 9000}])
    await pods(there, 1, 2)
    async with writing(there.keeping(tmp_path, attach=True, max_attached_share=1.0)) as sink:
        (pod, _) = (await sink.held()).services[PAY].values()
        itself = replace(instance(7), address=pod.instance.address)
    await there.delete_slice("pay-1")  # while none runs
    async with writing(there.keeping(tmp_path, wall=wall, attach=True, max_attached_share=1.0)) as sink:
        await sink.held([PAY])  # as the watch has it read
        (outcome,) = await sink.apply([create_of(itself)])
        assert isinstance(outcome.error, Rejected) and outcome.error.again
        assert "has just left the slices of" in str(outcome.error)
        (ill,) = await put(sink, create_of(replace(itself, health=Health.UNHEALTHY)))
        await put(sink, replaced(ill, itself))  # it has passed a check since
        await put(sink, replaced(Entry(itself, ill.mark, (await sink.held()).services[PAY]["i7"].version), None))
        wall.by += left.WAIT
        await put(sink, create_of(itself))


async def test_a_delete_that_failed_hides_no_later_one(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await put(sink, create_of(instance(1)))
        (found,) = await there.slices()
        inner = sink.sink
        assert sink.term is not None
        pen = Pen(inner._client, inner._leases, BRIDGE, sink.term, inner._echoes, itertools.count(1000))
        meta = found["metadata"]
        with pytest.raises(Conflict):
            await pen.delete(client.SLICES, Meta(meta["name"], meta["namespace"], meta["uid"], "1"))
        async with aclosing(cast(Any, sink.drift())) as drift:
            assert await anext(drift) == frozenset()
            await there.delete_slice(meta["name"])
            assert await anext(drift) == {PAY}


async def test_what_a_killed_writer_left_in_another_slice_is_told_and_taken_out(there: Cluster) -> None:
    """An entry with another port moves to another slice: in between it stands in both, and proxies call both."""
    async with writing(there.registry()) as sink:
        (entry,) = await put(sink, create_of(instance(1)))
        (old,) = await there.slices()
        for key in ("resourceVersion", "uid", "managedFields"):
            del old["metadata"][key]
        await put(sink, replaced(entry, instance(1, 9001)))
        path = there.path(SLICES, "endpointslices")
        await there.server.call("POST", path, old)
        held = await sink.held()
        assert len(await there.slices()) == 2
        ((id, version),) = held.loose[PAY].items()
        await put(sink, Change(PAY, id, Entry(Instance(id, ""), None, version), forget=True))
        held = await sink.held()
        assert held.loose == {}
        assert held.services[PAY].keys() == {"i1"}
        assert len(await there.slices()) == 1
        await there.server.call("POST", path, {**old, "metadata": {**old["metadata"], "name": "pay-again"}})
        await put(sink, replaced((await sink.held()).services[PAY]["i1"], None))
        assert await there.slices() == []
