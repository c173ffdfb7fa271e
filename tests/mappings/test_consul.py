"""What stock clients registered in Consul is read as what it means, and copies say all of it within Consul's limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.errors import Rejected, Undecodable
from bridge.model import Health, Instance, Locality, Mark, Port, ServiceName
from mappings import consul

RECORDS = (Path(__file__).parent / "records" / "consul.jsonl").read_bytes().splitlines()
PAY = ServiceName("pay")
MARK = Mark("vm", "link", ("origin",), "", PAY, "i1")
WHOLE = Instance(
    "i1",
    "192.0.2.1",
    (Port(9001, "grpc", "grpc", True), Port(8080, "web", "http")),
    Health.DEGRADED,
    2.5,
    Locality("eu", "eu-1", "rack 7"),
    "v1",
    ("blue", "no"),
    {"team": "pay", "management.port": "8081", "": "nameless", "long": "x" * 600, "nul": "a\0b"},
)


def named(name: str) -> bytes:
    """What the server of the tests answered for what that client registered."""
    return next(raw for raw in RECORDS if msgspec.json.decode(raw)["Service"]["Service"] == name)


def changed(raw: bytes, part: str, **fields: Any) -> bytes:
    record = msgspec.json.decode(raw)
    record[part] |= fields
    return msgspec.json.encode(record)


def checks(*said: tuple[str, str]) -> bytes:
    """The record of consul-api with these checks of its service: id and status."""
    record = msgspec.json.decode(named("consul-api"))
    record["Checks"] = [{"CheckID": id, "Status": status, "ServiceID": "stockgo-i1"} for id, status in said]
    return msgspec.json.encode(record)


def shown(instance: Instance, mark: Mark | None = MARK, node: str = "isthmus-vm-00") -> bytes:
    """What the health endpoint answers for a copy; a test on the real server holds this equal."""
    written = consul.encode(PAY, instance, mark)
    ids = [consul.CHECK, *([consul.MAINTENANCE] if written.maintenance else [])]
    said = [{"CheckID": f"{id}x", "Status": written.status, "ServiceID": written.service["ID"]} for id in ids]
    return msgspec.json.encode(
        {"Node": {"Node": node, "Datacenter": "dc1"}, "Service": written.service, "Checks": said}
    )


EXPECTED = [
    Instance(
        "dc1/vm7/stockgo-i1",
        "10.0.0.7",
        (Port(8080),),
        Health.HEALTHY,
        3.0,
        Locality("dc1", "z1"),
        metadata={"zone": "z1"},
    ),
    Instance(
        "dc1/vm7/stockgo-i2",
        "127.0.0.1",
        (Port(28081, "grpc", "grpc"), Port(28080, "http", "http")),
        Health.UNHEALTHY,
        locality=Locality("dc1", "z1"),
        version="v1",
        metadata={"zone": "z1"},
    ),
    Instance(
        "dc1/vm7/i1",
        "127.0.0.1",
        (Port(18313, "http", "http"),),
        Health.DRAINING,
        locality=Locality("dc1", "a"),
        metadata={"secure": "false", "zone": "a"},
    ),
    Instance(
        "dc1/k8s-sync/web-24a85f5357f6",
        "10.0.0.7",
        (Port(8080),),
        Health.HEALTHY,
        locality=Locality("dc1", "eu-1a"),
        tags=("k8s",),
        metadata={
            "external-k8s-node-name": "n1",
            "external-k8s-ns": "shop",
            "external-k8s-topology-zone": "eu-1a",
            "external-source": "kubernetes",
            "port-http": "80",
        },
    ),
    Instance("dc1/foo/web1", "192.168.0.1", (Port(8000),), Health.DEGRADED, locality=Locality("dc1"), tags=("v1",)),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [*zip(("consul-api", "kratos", "spring", "consul-k8s", "consul-esm"), EXPECTED, strict=True)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stock_record_is_read_as_what_it_means(name: str, expected: Instance) -> None:
    assert consul.decode(named(name)) == expected


@pytest.mark.parametrize("name", ["sidecar", "consul"])
def test_sidecars_and_consul_itself_are_no_instances(name: str) -> None:
    assert consul.locate(named(name)) is None


def test_a_peers_service_is_no_instance() -> None:
    assert consul.locate(changed(named("consul-api"), "Service", PeerName="other")) is None


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ((), Health.HEALTHY),
        ((("a", "passing"), ("b", "warning")), Health.DEGRADED),
        ((("a", "warning"), ("b", "critical")), Health.UNHEALTHY),
        ((("_service_maintenance:x", "critical"), ("b", "critical")), Health.DRAINING),
        ((("_node_maintenance", "critical"),), Health.DRAINING),
        ((("a", "maintenance"),), Health.DRAINING),
        ((("a", "passing"), ("b", "weird")), Health.UNKNOWN),
        ((("a", "critical"), ("b", "weird")), Health.UNHEALTHY),
    ],
)
def test_checks_are_taken_together_as_consul_does(said: tuple[tuple[str, str], ...], health: Health) -> None:
    assert consul.decode(checks(*said)).health is health


def test_a_check_of_the_node_counts_and_one_of_another_service_does_not() -> None:
    record = msgspec.json.decode(named("consul-api"))
    record["Checks"] = [{"CheckID": "x", "Status": "critical", "ServiceID": "another"}]
    assert consul.decode(msgspec.json.encode(record)).health is Health.HEALTHY
    record["Checks"] = [{"CheckID": "serfHealth", "Status": "critical", "ServiceID": ""}]
    assert consul.decode(msgspec.json.encode(record)).health is Health.UNHEALTHY


def test_the_tagged_address_is_the_services_then_the_nodes() -> None:
    raw = changed(named("consul-api"), "Service", TaggedAddresses={"wan": {"Address": "198.51.100.7", "Port": 80}})
    assert (consul.decode(raw, tag="wan").address, consul.decode(raw, tag="wan").ports) == ("198.51.100.7", (Port(80),))
    assert consul.decode(raw, tag="lan").address == "10.0.0.7"
    assert consul.decode(named("consul-esm"), tag="wan").address == "198.51.100.1"
    assert consul.decode(named("consul-esm")).address == "192.168.0.1"


def test_ports_are_those_of_newer_servers_then_those_in_metadata() -> None:
    several = [{"Name": "metrics", "Port": 9100}, {"Name": "grpc", "Port": 9000, "Default": True}]
    raw = changed(named("consul-api"), "Service", Ports=several, Port=0)
    assert consul.decode(raw).ports == (Port(9000, "grpc", "grpc"), Port(9100, "metrics"))
    raw = changed(named("consul-api"), "Service", Meta={"port-web": "8081", "port-": "1", "port-x": "y"})
    assert consul.decode(raw, "grpc").ports == (Port(8080, "grpc", "grpc"), Port(8081, "web", "grpc"))
    raw = changed(named("consul-api"), "Service", Port=0, Meta=None)
    assert consul.decode(raw).ports == ()


def test_what_spring_calls_secure_speaks_tls() -> None:
    raw = changed(named("spring"), "Service", Meta={"secure": "true"})
    assert consul.decode(raw).ports == (Port(18313, "http", "http", True),)


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b"[",
        changed(named("consul-api"), "Service", Address="no address"),
        changed(named("consul-api"), "Service", Port=70000),
        changed(named("consul-api"), "Service", Meta={"a": 1}),
    ],
)
def test_a_record_that_nobody_could_call_is_undecodable(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        consul.decode(raw)


def test_a_copy_says_everything_that_the_model_says() -> None:
    assert consul.canonical(PAY, WHOLE) is WHOLE
    for health in Health:
        assert consul.decode(shown(replace(WHOLE, health=health))) == replace(WHOLE, health=health)
    where = consul.locate(shown(WHOLE))
    assert where is not None
    assert (where.id, where.copy, where.mark, where.ledgered) == ("i1", True, MARK, True)


def test_a_copy_is_within_what_consul_takes() -> None:
    long = replace(MARK, path=tuple(f"etcd:{number:x}:kratos:/microservices/é" for number in range(60)))
    meta = consul.encode(PAY, WHOLE, long).service["Meta"]
    assert len(meta) <= 64
    assert all(len(text.encode()) <= 512 for text in meta.values())
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz-0123456789") for key in meta)
    where = consul.locate(shown(WHOLE, long))
    assert where is not None
    assert where.mark == long


def test_a_copy_is_what_stock_readers_look_for() -> None:
    service = consul.encode(PAY, WHOLE, MARK).service
    assert (service["Address"], service["Port"], service["Weights"]) == (
        "192.0.2.1",
        9001,
        {"Passing": 2, "Warning": 1},
    )
    assert service["Tags"] == ["version=v1", "blue", "no"]
    assert service["TaggedAddresses"] == {  # kratos
        "grpcs": {"Address": "grpcs://192.0.2.1:9001", "Port": 9001},
        "http": {"Address": "http://192.0.2.1:8080", "Port": 8080},
    }
    meta = service["Meta"]
    assert (meta["team"], meta["zone"], meta["secure"], meta["port-web"]) == ("pay", "eu-1", "true", "8080")


@pytest.mark.parametrize("name", ["consul-api", "kratos", "spring", "consul-esm"])
def test_a_stock_record_loses_nothing_on_its_way_to_another_datacenter(name: str) -> None:
    instance = consul.decode(named(name))
    assert consul.canonical(PAY, instance) is instance
    service = msgspec.json.decode(named(name))["Service"]
    copy = consul.encode(PAY, instance, MARK).service
    assert copy["Tags"] == service["Tags"]
    assert copy["Meta"].items() >= (service["Meta"] or {}).items()
    assert copy["Port"] == service["Port"]


def test_what_an_operator_or_a_tool_carried_elsewhere_is_no_copy_of_ours() -> None:
    raw = shown(WHOLE)
    for node in ("vm7", "isthmus-vm", "isthmus-00"):
        where = consul.locate(changed(raw, "Node", Node=node))
        assert where is not None
        assert (where.copy, where.mark) == (False, None)
    where = consul.locate(changed(raw, "Node", Node="isthmus-other-00"))
    assert where is not None
    assert (where.mark, where.ledgered) == (None, True)


def test_a_mark_that_a_newer_version_wrote_is_one_all_the_same() -> None:
    record = msgspec.json.decode(shown(WHOLE))
    record["Service"]["Meta"]["isthmus-mark"] = '{"v":9}'
    where = consul.locate(msgspec.json.encode(record))
    assert where is not None
    assert (where.mark, where.ledgered) == (None, True)


def test_ids_that_differ_in_case_alone_do_not_meet_in_consul() -> None:
    ids = [consul.service_id(ServiceName(name), id) for name in ("pay", "Pay") for id in ("a", "A")]
    assert len({id.lower() for id in ids}) == 4
    assert consul.service_id(PAY, "dc2/vm7/web1") == "pay:dc2/vm7/web1"


@pytest.mark.parametrize(
    ("name", "instance"),
    [
        (ServiceName("."), WHOLE),
        (ServiceName(".."), WHOLE),
        (ServiceName("Consul"), WHOLE),
        (ServiceName("pay", "eu"), WHOLE),
        (PAY, replace(WHOLE, address="0.0.0.0")),
        (PAY, replace(WHOLE, id="")),
        (PAY, replace(WHOLE, id="x" * 513)),
        (PAY, replace(WHOLE, metadata={f"k{number}": "x" * 500 for number in range(80)})),
        (PAY, replace(WHOLE, ports=(Port(0),))),
    ],
)
def test_what_consul_or_its_readers_could_not_live_with_is_refused(name: ServiceName, instance: Instance) -> None:
    with pytest.raises(Rejected):
        consul.canonical(name, instance)


@given(
    metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=60), max_size=50),
    weight=st.floats(0, 60000),
    tags=st.lists(st.sampled_from(["a", "version=v2", "v", ""]), max_size=3),
    version=st.sampled_from(["", "v1", "v2"]),
)
def test_any_instance_is_read_back_as_canonical_says(
    metadata: dict[str, str], weight: float, tags: list[str], version: str
) -> None:
    instance = replace(WHOLE, metadata=metadata, weight=weight, tags=tuple(tags), version=version)
    form = consul.canonical(PAY, instance)
    assert consul.canonical(PAY, form) is form
    assert consul.decode(shown(form)) == form
