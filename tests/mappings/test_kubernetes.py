"""Slices as natives write them: what their conditions, ports, zones and references mean."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.model import Health
from mappings import kubernetes as layout
from mappings.kubernetes import Surroundings, objects
from mappings.kubernetes.objects import Pod, Service, Slice


def slice_(endpoints: list[dict[str, Any]], ports: Any = ({"name": "grpc", "port": 9000},), **meta: Any) -> Slice:
    metadata = {"name": "pay-1", "labels": {objects.SERVICE_NAME: "pay"}, "resourceVersion": "7", **meta}
    family = "IPv6" if ":" in endpoints[0]["addresses"][0] else "IPv4"
    body = {"metadata": metadata, "addressType": family, "endpoints": endpoints, "ports": ports}
    return msgspec.json.decode(msgspec.json.encode(body), type=Slice)


def pod(name: str, address: str = "192.0.2.1", **more: Any) -> dict[str, Any]:
    return {"addresses": [address], "targetRef": {"kind": "Pod", "name": name}, **more}


def one(found: Slice, around: Surroundings | None = None) -> Any:
    (entry,) = layout.entries(found, around)
    return entry


CONDITIONS = [
    ({}, Health.UNKNOWN),
    ({"ready": True, "serving": True, "terminating": False}, Health.HEALTHY),
    ({"ready": True}, Health.HEALTHY),
    ({"ready": True, "serving": False, "terminating": False}, Health.HEALTHY),  # publishNotReadyAddresses
    ({"ready": False, "serving": False, "terminating": False}, Health.UNHEALTHY),
    ({"ready": False, "serving": True, "terminating": True}, Health.DRAINING),
    ({"ready": False, "serving": False, "terminating": True}, Health.UNHEALTHY),
    ({"ready": True, "serving": True, "terminating": True}, Health.DRAINING),
]


@pytest.mark.parametrize(("conditions", "health"), CONDITIONS)
def test_conditions_mean_what_proxies_make_of_them(conditions: dict[str, bool], health: Health) -> None:
    assert one(slice_([pod("p", conditions=conditions)])).instance.health is health


PORTS = [
    ({"name": "web", "port": 80}, ("web", "", False)),
    ({"name": "grpc", "port": 80}, ("grpc", "grpc", False)),
    ({"name": "http-admin", "port": 80}, ("http-admin", "http", False)),
    ({"name": "", "port": 80, "appProtocol": "kubernetes.io/h2c"}, ("", "h2c", False)),
    ({"name": "x", "port": 80, "appProtocol": "HTTPS"}, ("x", "http", True)),
    ({"name": "x", "port": 80, "appProtocol": "kubernetes.io/wss"}, ("x", "ws", True)),
    ({"name": "dns", "port": 53, "protocol": "UDP"}, ("dns", "udp", False)),
    ({"name": "own", "port": 80, "appProtocol": "example.com/Own"}, ("own", "example.com/own", False)),
]


@pytest.mark.parametrize(("port", "said"), PORTS)
def test_ports_say_their_protocol_by_app_protocol_or_by_name(port: Any, said: tuple[str, str, bool]) -> None:
    (found,) = one(slice_([pod("p")], [port])).instance.ports
    assert (found.name, found.protocol, found.tls) == said


@pytest.mark.parametrize("number", [0, -1, 65536, 2147483647, -2147483648])
def test_a_port_that_nobody_can_dial_makes_its_endpoints_unreadable_by_name(number: int) -> None:
    entry = one(slice_([pod("p")], [{"name": "x", "port": number}]))
    assert (entry.id, entry.instance) == ("p", None)
    assert str(number) in entry.why


def test_slices_without_lists_and_ports_without_numbers_are_read() -> None:
    assert one(slice_([pod("p")], None)).instance.ports == ()
    assert one(slice_([pod("p")], [{"name": ""}])).instance.ports == ()
    empty = msgspec.json.decode(b'{"metadata":{"name":"s"},"endpoints":null,"ports":null}', type=Slice)
    assert not layout.entries(empty)
    assert empty.service == ""


def test_an_endpoint_without_a_pod_is_known_by_its_address_and_port() -> None:
    assert one(slice_([{"addresses": ["192.0.2.1"]}])).id == "192.0.2.1:9000"
    assert one(slice_([{"addresses": ["2001:db8::1"]}])).id == "[2001:db8::1]:9000"
    assert one(slice_([{"addresses": ["192.0.2.1"]}], None)).id == "192.0.2.1"
    vm = {"addresses": ["192.0.2.1"], "targetRef": {"kind": "Node", "name": "n1"}}
    assert one(slice_([vm])).id == "192.0.2.1:9000"


def test_a_pod_in_two_slices_is_one_instance() -> None:
    four, six = slice_([pod("p")]), slice_([pod("p", "2001:db8::1")], name="pay-2")
    both = [(each, layout.entries(each)) for each in (six, four)]
    for family, address in (("IPv4", "192.0.2.1"), ("IPv6", "2001:db8::1")):
        found = layout.merged(both, family)
        assert [entry.instance.address for entry in found.values() if entry.instance] == [address]
    later = slice_([pod("p", conditions={"ready": False})], name="pay-3", resourceVersion="10")
    moved = layout.merged([(each, layout.entries(each)) for each in (later, four)], "IPv4")
    assert [entry.instance.health for entry in moved.values() if entry.instance] == [Health.UNHEALTHY]


def test_of_two_with_one_id_the_one_that_can_be_read_counts() -> None:
    good = slice_([pod("p")])
    later = slice_([pod("p")], [{"name": "x", "port": 0}], name="pay-2", resourceVersion="9")
    for both in ((good, later), (later, good)):
        (found,) = layout.merged((each, layout.entries(each)) for each in both).values()
        assert found.instance is not None


TOOLS = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "argocd.argoproj.io/tracking-id",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "meta.helm.sh/release-name",
    "kustomize.toolkit.fluxcd.io/name",
    "pod-template-hash",
    "service.beta.kubernetes.io/aws-load-balancer-type",
    "isthmus.io/export",
]


@pytest.mark.parametrize("key", TOOLS)
def test_labels_of_tools_are_never_metadata(key: str) -> None:
    assert layout.of_a_tool(key)


@pytest.mark.parametrize("key", ["team", "app", "app.kubernetes.io/name", "app.kubernetes.io/version", "example.com/x"])
def test_labels_of_people_are_metadata(key: str) -> None:
    assert not layout.of_a_tool(key)


def test_what_a_pod_says_goes_before_what_its_service_says() -> None:
    said = msgspec.json.decode(b'{"metadata":{"name":"p","labels":{"team":"a"},"annotations":{"team":"b"}}}', type=Pod)
    around = layout.surroundings({"team": "s", "tier": "core"}, {"p": said})
    found = one(slice_([pod("p", zone="z1", nodeName="n1")]), around).instance
    assert found.metadata == {"team": "a", "tier": "core", "kubernetes.io/hostname": "n1"}
    assert found.locality.zone == "z1"


@pytest.mark.parametrize(("said", "selected", "exported"), [
    ("", False, False), ("", True, True), ("true", False, True), ("false", True, False), ("yes", False, False),
])  # fmt: skip
def test_export_is_opted_into(said: str, selected: bool, exported: bool) -> None:
    body = {"metadata": {"name": "pay", "annotations": {objects.EXPORT: said}}}
    assert msgspec.convert(body, Service).exported(selected) is exported
