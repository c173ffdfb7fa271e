"""What a layout keeps of any instance is what its traits say, and what it keeps it keeps for ever."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.errors import Rejected, Undecodable
from bridge.model import NOWHERE, Health, Instance, Locality, Port, ServiceName, Traits
from mappings import pairs
from mappings.pairs import LAYOUTS, pair
from tests.mappings.layouts import WRITABLE, golden, stored

# Metadata that a layout takes for its own, so that a user's text under that key cannot survive.
RESERVED = {
    "curator": {"@class"},
    "spring": {"instance_status"},
    "go-micro": {"protocol"},
    "dubbo2": {"application", "interface", "group", "version", "weight"},
    "kratos": {"weight"},
}
DEFAULT_WEIGHTS = {"kitex": 10, "dubbo2": 100, "kratos": 100}

texts = st.text(max_size=12) | st.sampled_from(
    ["v1", "a b", "<&>", "\u2028", "ü*~", "10", "null", "{}", "[1.0]", '"x"']
)
keys = texts | st.sampled_from(sorted(set().union(*RESERVED.values())))
hosts = (
    st.ip_addresses().map(lambda address: str(getattr(address, "ipv4_mapped", None) or address))
    | st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5}){0,2}", fullmatch=True)
    | st.sampled_from(
        ["10.0.0.7", "2001:db8::7", "2001:DB8::7", "::ffff:10.0.0.7", "fe80::1%eth0", "h.example", "1.2.3"]
    )
)
names = st.builds(
    ServiceName,
    st.sampled_from(["user", "com.foo.Bar", "com.foo.Baz", "user", "a/b", "ü"]),
    st.sampled_from(["", "", "", "g1"]),
)


def ports(layout: str) -> st.SearchStrategy[Port]:
    common = ["dubbo", "tri"] if layout == "dubbo2" else ["grpc", "grpcs", "http", "https", "thrift", "dubbo", "wss"]
    return st.builds(
        Port,
        number=st.integers(1, 65535) | st.sampled_from([80, 8080, 65536]),
        name=st.sampled_from(["", "grpc", "http", "https", "main"]),
        protocol=st.sampled_from([*common, *common, "", "h 2"]),
        tls=st.booleans(),
    )


def instances(layout: str) -> st.SearchStrategy[Instance]:
    most = LAYOUTS[layout].TRAITS.ports or 3
    return st.builds(
        Instance,
        id=texts | st.sampled_from(["i1", "i1", "7", "123456789012345678"]),
        address=hosts,
        ports=st.lists(ports(layout), min_size=1, max_size=most).map(tuple),
        health=st.sampled_from(Health),
        weight=st.floats(0, 1000) | st.sampled_from([1.0, 1.0, 0.0, 0.3, -1.0]),
        locality=st.sampled_from([NOWHERE, Locality("eu", "eu-1", "a")]),
        version=texts,
        tags=st.lists(texts, max_size=2).map(tuple),
        metadata=st.dictionaries(keys, texts, max_size=4),
        native=st.just({}) | st.dictionaries(st.sampled_from([layout, "else"]), st.sampled_from(["", "{", "{}", "12"])),
    )


def _there_and_back(layout: str, name: ServiceName, instance: Instance) -> Instance:
    module = LAYOUTS[layout]
    key, value = module.encode(name, instance)
    place = module.locate(key)
    assert place is not None
    assert place[0] == name
    return module.decode(*place, stored(module, key, value), module.PROTOCOL)


@pytest.mark.parametrize("layout", WRITABLE)
@settings(deadline=None)
@given(data=st.data())
def test_canonical_is_what_will_be_read(layout: str, data: st.DataObject) -> None:
    module = LAYOUTS[layout]
    name, instance = data.draw(names), data.draw(instances(layout))
    try:
        form = module.canonical(name, instance, module.PROTOCOL)
    except Rejected:
        with pytest.raises(Rejected):
            module.encode(name, instance)
        return
    assert _there_and_back(layout, name, instance) == form
    assert _there_and_back(layout, name, form) == form
    assert module.encode(name, form) == module.encode(name, instance)
    assert module.canonical(name, form, module.PROTOCOL) is form


@pytest.mark.parametrize("layout", WRITABLE)
@settings(deadline=None)
@given(data=st.data())
def test_a_layout_keeps_what_its_traits_say_and_nothing_else(layout: str, data: st.DataObject) -> None:
    module = LAYOUTS[layout]
    instance = data.draw(instances(layout))
    name = ServiceName("com.foo.Bar")
    try:
        form = module.canonical(name, instance, module.PROTOCOL)
    except Rejected:
        return
    fields = module.TRAITS.fields
    assert form.id == instance.id or "id" not in fields or "/" in instance.id
    assert form.health is (_health(layout, instance) if "health" in fields else Health.UNKNOWN)
    assert (
        form.weight == pytest.approx(instance.weight, abs=1 / DEFAULT_WEIGHTS.get(layout, 1)) or "weight" not in fields
    )
    assert "weight" in fields or form.weight == 1.0
    assert form.locality == NOWHERE
    assert form.tags == ()
    assert form.version == (instance.version if "version" in fields else "")
    kept = _but(instance.metadata, RESERVED.get(layout, ())) if "metadata" in fields else {}
    assert _but(form.metadata, RESERVED.get(layout, ())) == kept
    assert sorted(port.number for port in form.ports) == sorted(port.number for port in instance.ports)
    assert all(not port.tls for port in form.ports) or module.TRAITS.tls
    assert form.native.keys() <= {layout}


def _health(layout: str, instance: Instance) -> Health:
    return Health.HEALTHY if instance.health is Health.DEGRADED and layout == "spring" else instance.health


def _but(metadata: dict[str, str], without: Collection[str]) -> dict[str, str]:
    return {key: text for key, text in metadata.items() if key not in without}


RICH = Instance(
    id="i1",
    address="10.0.0.7",
    ports=(Port(8443, "main", "other", True),),
    health=Health.DEGRADED,
    weight=3.0,
    locality=Locality("eu", "eu-1", "a"),
    version="v1",
    tags=("blue",),
    metadata={"k": "v"},
)
DUBBO = msgspec.structs.replace(RICH, ports=(Port(1, "main", "dubbo", True),))


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize("source", [*WRITABLE, "file"])
def test_a_pair_loses_exactly_what_the_table_says(source: str, target: str) -> None:
    said = pair(source, target, payload=True)
    name = ServiceName("com.foo.Bar", "g1" if pairs.TRAITS[source].namespaces else "")
    there = name._replace(namespace=name.namespace if pairs.TRAITS[target].namespaces else "")
    rich = DUBBO if "dubbo2" in (source, target) and said.verdict != "refused" else RICH
    before = rich if source == "file" else LAYOUTS[source].canonical(name, rich, LAYOUTS[source].PROTOCOL)
    if said.verdict == "refused":
        with pytest.raises(Rejected):
            LAYOUTS[target].canonical(there, before, LAYOUTS[target].PROTOCOL)
        return
    after = LAYOUTS[target].canonical(there, before, LAYOUTS[target].PROTOCOL)
    lost = _lost(before, after, pairs.TRAITS[source]) | ({"namespace"} if name != there else set())
    assert lost == set(said.lost) - {"all ports but one", "more than 2 ports"}
    assert (said.verdict == "full") is (said.lost == ())


def _lost(before: Instance, after: Instance, source: Traits) -> set[str]:
    fields = source.fields - {"address", "ports", "health", "metadata"}
    lost = {field for field in fields if getattr(before, field) != getattr(after, field)}
    (one,), (other,) = before.ports, after.ports
    differences = {
        "metadata": not before.metadata.items() <= after.metadata.items(),
        "health": before.health != after.health and after.health is Health.UNKNOWN,
        "DEGRADED, which reads as HEALTHY": before.health != after.health and after.health is Health.HEALTHY,
        "port names": source.port_names and one.name != other.name,
        "protocol": one.protocol != other.protocol,
        "tls": one.tls != other.tls,
    }
    return lost | {word for word, differs in differences.items() if differs}


@pytest.mark.parametrize("target", WRITABLE)
@pytest.mark.parametrize("source", ["kratos", "curator", "file"])
def test_ports_that_a_target_cannot_hold_are_never_chosen_for_the_user(source: str, target: str) -> None:
    three = tuple([Port(number, f"p{number}", "dubbo") for number in (1, 2, 3)])
    many = msgspec.structs.replace(RICH, ports=three)
    if "all ports but one" in pair(source, target).lost or "more than 2 ports" in pair(source, target).lost:
        with pytest.raises(Rejected, match="ambiguous port"):
            LAYOUTS[target].canonical(ServiceName("com.foo.Bar"), many, LAYOUTS[target].PROTOCOL)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@settings(deadline=None)
@given(value=st.binary(max_size=60) | texts.map(str.encode))
def test_no_bytes_break_a_decoder(layout: str, value: bytes) -> None:
    module = LAYOUTS[layout]
    try:
        module.decode(ServiceName("user"), "i1", value, module.PROTOCOL)
    except Undecodable:
        return


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@settings(max_examples=200)
@given(data=st.data())
def test_no_damaged_record_breaks_a_decoder(layout: str, data: st.DataObject) -> None:
    module = LAYOUTS[layout]
    record = data.draw(st.sampled_from(golden(layout)))
    value = bytearray(stored(module, record.key, record.value))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(value)))
        value[start : start + data.draw(st.integers(0, 12))] = data.draw(
            st.sampled_from([b"", b"null", b"{}", b"[]", b"1", b'"x"', b"true", b"-1", b'"', b"1e9", b"%26", b"%"])
        )
    place = module.locate(record.key)
    assert place is not None
    try:
        instance = module.decode(*place, bytes(value), module.PROTOCOL)
        form = module.canonical(place[0], instance, module.PROTOCOL)
    except (Undecodable, Rejected):
        return
    assert _there_and_back(layout, place[0], form) == form
