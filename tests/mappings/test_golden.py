"""What stock clients wrote is read, and written again byte for byte."""

from __future__ import annotations

import json

import msgspec
import pytest

from bridge.model import Health, Instance, Port, ServiceName
from mappings import dubbo2, dubbo3
from mappings.common import curator_record
from mappings.pairs import LAYOUTS
from tests.mappings.layouts import GOLDEN, WRITABLE, Golden, golden, read

RECORDS = [record for layout in WRITABLE for record in golden(layout)]


def _title(record: Golden) -> str:
    return f"{record.layout}:{record.key[:40]}"


@pytest.mark.parametrize("record", RECORDS, ids=_title)
def test_a_stock_record_is_written_again_byte_for_byte(record: Golden) -> None:
    name, id, instance = read(*record)
    key, value = LAYOUTS[record.layout].encode(name, instance)
    assert instance.id == id
    assert value == record.value
    if record.layout != "go-zero":  # its keys are never written again
        assert key == record.key


@pytest.mark.parametrize("record", [one for one in RECORDS if one.layout != "go-zero"], ids=_title)
def test_a_stock_record_loses_nothing_on_its_way_to_the_same_layout(record: Golden) -> None:
    name, _, instance = read(*record)
    layout = LAYOUTS[record.layout]
    assert layout.canonical(name, instance, layout.PROTOCOL) is instance


@pytest.mark.parametrize("record", RECORDS, ids=_title)
def test_native_has_no_copy_of_metadata(record: Golden) -> None:
    _, _, instance = read(*record)
    kept = "".join(instance.native.values())
    assert not [text for text in instance.metadata.values() if text and f'"{text}"' in kept]


def test_every_layout_has_golden_records() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {layout.replace("-", "") for layout in LAYOUTS}


EXPECTED = [
    (
        Golden("grpc", "user/i1", b'{"Op":0,"Addr":"[2001:DB8::7]:80","Metadata":{"z":{"b":[1.0]},"a":"x"}}'),
        Instance(
            "i1",
            "2001:db8::7",
            (Port(80, "grpc", "grpc"),),
            metadata={"z": '{"b":[1.0]}', "a": "x"},
            native={"grpc": '{"json":["z"]}'},
        ),
    ),
    (
        Golden(
            "kratos",
            "user/i1",
            b'{"id":"i1","name":"user","version":"v1","endpoints":["grpcs://h.example:1","http://h.example:2"]}',
        ),
        Instance(
            "i1",
            "h.example",
            (Port(1, "grpcs", "grpc", True), Port(2, "http", "http")),
            version="v1",
        ),
    ),
    (
        Golden("kitex", "user/10.0.0.7:80", b'{"network":"tcp","address":"10.0.0.7:80","weight":25,"tags":{"a":"b"}}'),
        Instance("10.0.0.7:80", "10.0.0.7", (Port(80, "thrift", "thrift"),), weight=2.5, metadata={"a": "b"}),
    ),
    (
        Golden("go-zero", "user/7", b"[fe80::1%eth0]:80"),
        Instance("7", "fe80::1%eth0", (Port(80, "grpc", "grpc"),)),
    ),
    (
        golden("go-micro")[0],
        Instance(
            "stockgo-user-i1",
            "10.0.0.7",
            (Port(8080, "mucp", "mucp"),),
            version="latest",
            metadata={
                "broker": "http",
                "protocol": "mucp",
                "registry": "etcd",
                "server": "mucp",
                "transport": "http",
            },
        ),
    ),
    (
        golden("spring")[2],
        Instance(
            "i2",
            "10.0.0.7",
            (Port(8080, "http", "http"),),
            health=Health.DRAINING,
            native={"spring": "1795442519776"},
        ),
    ),
    (
        Golden("curator", "user/i1", b'{"name":"user","id":"i1","address":"10.0.0.7","port":"80","sslPort":443}'),
        Instance(
            "i1",
            "10.0.0.7",
            (Port(80, "http", "http"), Port(443, "https", "http", True)),
            native={},
        ),
    ),
]


@pytest.mark.parametrize(("record", "expected"), EXPECTED, ids=[one.layout for one, _ in EXPECTED])
def test_a_record_is_read_as_what_it_means(record: Golden, expected: Instance) -> None:
    assert read(*record)[2] == expected


def test_the_versions_and_groups_of_a_dubbo_interface_are_told_apart() -> None:
    java, generic = golden("dubbo2")[1:3]
    assert read(*java)[0] == ServiceName("com.stockjava.UserService")
    name, id, instance = read(*generic)
    assert name == ServiceName("com.stockjava.Generic", "g1")
    assert (instance.version, instance.weight) == ("1.0.0", 0.5)
    other = generic._replace(key=generic.key.replace("1.0.0", "2.0.0"))
    assert read(*other)[0] == name
    assert read(*other)[1] != id
    assert instance.metadata["timestamp"] == "1795443134054"


def test_a_secret_that_was_taken_out_of_metadata_is_not_in_a_dubbo_url() -> None:
    url = "dubbo%3A%2F%2F10.0.0.7%3A20880%2Fcom.foo.Bar%3Fside%3Dprovider%26password%3Dhush%26z%3D1"
    name, id, instance = read("dubbo2", f"com.foo.Bar/providers/{url}", b"")
    assert "hush" not in id + "".join(instance.native.values())
    scrubbed = msgspec.structs.replace(instance, metadata={"side": "provider", "z": "1"})
    assert dubbo2.encode(name, scrubbed)[0].endswith("%3Fside%3Dprovider%26z%3D1")


@pytest.mark.parametrize("key", ["token", "default.token"])
def test_the_token_of_a_dubbo_provider_is_copied_and_shown_nowhere(key: str) -> None:
    url = f"dubbo%3A%2F%2F10.0.0.7%3A20880%2Fcom.foo.Bar%3Fside%3Dprovider%26{key}%3Dhush%26z%3D1"
    name, id, instance = read("dubbo2", f"com.foo.Bar/providers/{url}", b"")
    shown = {**instance.native, dubbo2.TRAITS.confidential: ""}
    assert "hush" not in f"{id}{shown}{instance.metadata}"
    assert dubbo2.encode(name, instance)[0] == f"com.foo.Bar/providers/{url}"


def test_dubbo_children_that_are_no_providers_are_no_instances() -> None:
    consumer = "consumer%3A%2F%2F192.0.2.2%2Fcom.foo.Bar%3Fside%3Dconsumer"
    for folder in ("consumers", "routers", "configurators"):
        assert dubbo2.locate(f"com.foo.Bar/{folder}/{consumer}") is None
    assert dubbo2.locate("metadata/com.foo.Bar/provider/app") is None


def test_a_dubbo_3_application_is_read_with_its_endpoints() -> None:
    java, go = golden("dubbo3")
    _, id, instance = read(*java)
    assert (id, instance.address) == ("10.0.0.7:20881", "10.0.0.7")
    assert instance.ports == (Port(20881, "dubbo", "dubbo"),)
    assert (instance.health, instance.weight) == (Health.UNKNOWN, 1.0)
    assert read(*go)[2].weight == 0.5


def test_a_dubbo_3_instance_has_the_ports_of_its_metadata_report() -> None:
    name = ServiceName("app")
    payload = {
        "@class": curator_record.DUBBO,
        "metadata": {"dubbo.metadata.revision": "r1", "dubbo.metadata.storage-type": "remote"},
    }
    value = json.dumps({"address": "10.0.0.7", "port": 21099, "payload": payload}).encode()
    instance = dubbo3.decode(name, "x", value, "")
    assert dubbo3.report(name, instance) == "metadata/app/r1"
    report = b'{"app":"app","revision":"r1","services":{"com.foo.Bar:dubbo":{"port":21001,"protocol":"dubbo"}}}'
    assert dubbo3.reported(instance, report).ports == (Port(21001, "dubbo", "dubbo"),)


def test_a_dubbo_3_instance_without_a_revision_serves_nobody() -> None:
    record = golden("dubbo3")[0]
    value = record.value.replace(b"b4f27b558981f49620aa66425ccfa688", b"0")
    assert not read("dubbo3", record.key, value)[2].serving


def test_the_class_of_a_payload_is_told() -> None:
    classes = {
        layout: curator_record.payload_class(golden(layout)[0].value) for layout in ("curator", "spring", "dubbo3")
    }
    assert classes == {"curator": curator_record.MAP, "spring": curator_record.SPRING, "dubbo3": curator_record.DUBBO}
    assert curator_record.payload_class(golden("curator")[1].value) is None
    assert curator_record.payload_class(golden("curator")[2].value) == curator_record.TEXT
