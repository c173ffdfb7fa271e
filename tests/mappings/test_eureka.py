"""Eureka's instances: what stock clients register is read and written again; what is written is what will be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.errors import Rejected, Undecodable
from bridge.model import NOWHERE, Health, Instance, Locality, Mark, Port, ServiceName
from mappings import eureka
from tests.mappings.layouts import GOLDEN

RECORDS = dict(line.split(" → ", 1) for line in (GOLDEN.parent / "eureka.txt").read_text(encoding="utf-8").splitlines())
PAY = ServiceName("pay")
MARK = Mark("b1", "old-to-new", ("etcd:1",), "", PAY, "i1")
TIMES = ("lastUpdatedTimestamp", "lastDirtyTimestamp")


def read(text: str) -> tuple[ServiceName, Instance]:
    record = eureka.read(json.dumps(json.loads(text)["instance"]).encode())
    (name,) = eureka.names(record)
    return name, eureka.decode(name, record, "ip")


def written(name: ServiceName, instance: Instance, mark: Mark | None = None) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(eureka.body(name, instance, mark, dirty=7, ttl=90))["instance"]
    return said


@pytest.mark.parametrize("client", [client for client in RECORDS if client.startswith("spring")])
def test_what_spring_registers_is_registered_again_as_it_was(client: str) -> None:
    name, instance = read(RECORDS[client])
    assert eureka.canonical(name, instance) is instance or instance.id not in (eureka.written_id(name, instance.id),)
    ours, theirs = written(name, instance), json.loads(RECORDS[client])["instance"]
    assert list(ours) == list(theirs)  # in its order, too
    for key in TIMES:
        assert ours.pop(key) == 7
        theirs.pop(key)
    # Ids are the bridge's own where they could be another application's, too.
    assert ours.pop("instanceId") == eureka.written_id(name, theirs.pop("instanceId"))
    assert ours == theirs


@pytest.mark.parametrize("client", RECORDS)
def test_what_every_stock_client_registers_is_read(client: str) -> None:
    name, instance = read(RECORDS[client])
    assert instance.health is Health.HEALTHY
    assert (instance.address, [port.number for port in instance.ports]) in (
        ("10.0.0.7", [8080]),
        ("10.0.0.8", [8080]),
    )
    assert instance.locality.zone in ("a", "b")
    assert name.name.startswith("stock")


def test_a_mark_is_one_text_in_the_metadata_and_is_not_read_as_metadata() -> None:
    instance = eureka.canonical(PAY, Instance("i1", "192.0.2.1", (Port(80),), metadata={"a": "b"}))
    said = written(PAY, instance, MARK)
    assert {key: type(value) for key, value in said["metadata"].items()} == {"a": str, eureka.MARK: str}
    record = eureka.read(json.dumps(said).encode())
    assert record.mark == MARK
    assert eureka.decode(PAY, record, "ip") == instance
    copied = replace(instance, metadata={**instance.metadata, eureka.MARK: said["metadata"][eureka.MARK]})
    assert eureka.canonical(PAY, copied).metadata == {"a": "b"}


def test_spring_calls_ipv6_by_the_name_of_the_host_in_brackets() -> None:
    said = written(PAY, Instance("i1", "2001:db8::7", (Port(80),)))
    assert (said["hostName"], said["ipAddr"]) == ("[2001:db8::7]", "2001:db8::7")


def test_an_amazon_instance_is_written_as_one_of_ones_own() -> None:
    data = {"@class": "com.netflix.appinfo.AmazonInfo", "name": "Amazon", "metadata": {"availability-zone": "us-1a"}}
    record = eureka.read(
        json.dumps({"instanceId": "i", "app": "PAY", "ipAddr": "192.0.2.1", "dataCenterInfo": data}).encode()
    )
    instance = eureka.decode(PAY, record, "ip")
    assert instance.locality == Locality(zone="us-1a")
    said = written(PAY, eureka.canonical(PAY, instance))
    assert said["dataCenterInfo"]["name"] == "MyOwn"
    assert said["metadata"]["zone"] == "us-1a"


@pytest.mark.parametrize(
    "bad",
    [
        {"metadata": {"": "x"}},
        {"metadata": {"a": "x\0y"}},
        {"metadata": {"a\ud800": "x"}},
        {"id": ""},
        {"ports": ()},
        {"ports": (Port(80), Port(81))},
        {"ports": (Port(70_000),)},
        {"address": "192.0.2.300"},
        {"weight": -1.0},
    ],
    ids=repr,
)
def test_what_would_break_readers_is_refused(bad: dict[str, Any]) -> None:
    one = replace(Instance("i1", "192.0.2.1", (Port(80),)), **bad)
    for write in (eureka.canonical, written):
        with pytest.raises(Rejected):
            write(PAY, one)


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a,b", "", " a", "a\n"])
def test_a_name_that_eureka_cannot_tell_is_refused(name: str) -> None:
    with pytest.raises(Rejected):
        eureka.canonical(ServiceName(name), Instance("i1", "192.0.2.1", (Port(80),)))
    with pytest.raises(Rejected):
        eureka.canonical(ServiceName("pay", "eu"), Instance("i1", "192.0.2.1", (Port(80),)))


texts = st.text(max_size=12) | st.sampled_from(["a", "7", "1", "05", "é", "a/b", "x:pay", "x:pay:80", "\U0001f600"])
keys = texts | st.sampled_from(["weight", "version", "zone", "region", "sub-zone", "@class", eureka.MARK])
instances = st.builds(
    Instance,
    id=texts,
    address=st.sampled_from(["192.0.2.1", "2001:db8::1", "pay.example.org", "[2001:DB8::1]", "x y"]),
    ports=st.lists(
        st.builds(Port, number=st.integers(1, 65536), name=texts, protocol=texts, tls=st.booleans()), max_size=3
    ).map(tuple),
    health=st.sampled_from(Health),
    weight=st.floats(0, 1000) | st.sampled_from([1.0, 0.3, -1.0]),
    locality=st.sampled_from([NOWHERE, Locality("eu", "eu-1", "a"), Locality(zone="z")]),
    version=texts,
    tags=st.just(()) | st.just(("x",)),
    metadata=st.dictionaries(keys, texts, max_size=4),
    native=st.just({})
    | st.dictionaries(st.sampled_from(["eureka", "else"]), st.sampled_from(["{", "{}", '{"host":"h"}'])),
)


@settings(max_examples=300)
@given(name=st.sampled_from([PAY, ServiceName("Pay-Api"), ServiceName("ü")]), instance=instances)
def test_canonical_is_what_will_be_read(name: ServiceName, instance: Instance) -> None:
    try:
        form = eureka.canonical(name, instance)
    except Rejected:
        with pytest.raises(Rejected):
            eureka.body(name, instance, None, dirty=7, ttl=90)
        return
    assert eureka.canonical(name, form) is form
    body = eureka.body(name, instance, MARK, dirty=7, ttl=90)
    assert eureka.body(name, form, MARK, dirty=7, ttl=90) == body
    record = eureka.read(json.dumps(json.loads(body)["instance"]).encode())
    assert eureka.names(record) == [name]
    assert eureka.decode(name, record, "ip") == form
    assert "/" not in form.id and "\\" not in form.id


@given(one=texts, other=texts)
def test_no_two_services_have_one_id(one: str, other: str) -> None:
    names = ServiceName("pay"), ServiceName("cart")
    try:
        ids = [eureka.written_id(name, id) for name, id in zip(names, (one, other), strict=True)]
    except Rejected:
        return
    assert ids[0] != ids[1]


@given(value=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_no_bytes_break_the_decoder(value: bytes) -> None:
    try:
        record = eureka.read(value)
        for name in eureka.names(record):
            eureka.decode(name, record, "ip")
    except Undecodable:
        return
