"""Records that are odd are read as the stock Go libraries were seen to read them, part by part.

Seen once with Go 1.26.8 and a real etcd 3.6.5: the gRPC resolver of kratos v2.9.2 over contrib/registry/etcd, etcd
client/v3/naming/endpoints v3.6.5, kitex-contrib/registry-etcd v0.2.5, go-zero core/discov v1.10.3, and go-micro
plugins/v4/registry/etcd v1.2.0.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import Rejected, Stray, Undecodable
from bridge.model import Instance, Port, ServiceName
from mappings import gomicro, grpc, kitex, kratos, pairs
from mappings.common import gojson
from mappings.pairs import LAYOUTS
from tests.mappings.layouts import read

USER = ServiceName("user")


def _kratos(endpoints: str) -> bytes:
    return f'{{"id":"i1","name":"user","version":"","metadata":null,"endpoints":{endpoints}}}'.encode()


# The list, and what the resolvers for grpc:// and for grpcs:// handed to gRPC ("" where they found nothing).
KRATOS = [
    ('["grpc://192.0.2.9:9000","tcp://:47946"]', "192.0.2.9:9000", ""),
    ('["tcp://:47946","grpc://192.0.2.9:9000"]', "192.0.2.9:9000", ""),
    ('["grpc://192.0.2.9:9000","http://192.0.2.10:8000"]', "192.0.2.9:9000", ""),
    ('["grpc://192.0.2.9:1","192.0.2.9:9000"]', "192.0.2.9:1", ""),
    ('["192.0.2.9:9000","grpc://192.0.2.9:1"]', "", ""),
    ('["grpc://192.0.2.9:abc","grpc://192.0.2.9:1"]', "", ""),
    ('["://h:1","grpc://h:2"]', "", ""),
    ('["%zz","grpc://h:2"]', "", ""),
    ('["grpc://a b:1","grpc://h:2"]', "", ""),
    ('["grpc://h%41:1"]', "", ""),
    ('["grpc://[fe80::1%eth0]:1","grpc://h:2"]', "", ""),
    ('["grpc:192.0.2.9:1","grpc://h:2"]', "", ""),
    ('["grpc:/192.0.2.9:1","grpc://h:2"]', "", ""),
    ('["","grpc://192.0.2.9:1"]', "192.0.2.9:1", ""),
    ('[null,"grpc://192.0.2.9:1"]', "192.0.2.9:1", ""),
    ('["grpc://h:2"," grpc://h:3"]', "h:2", ""),
    ('["GRPC://192.0.2.9:1"]', "192.0.2.9:1", ""),
    ('["grpc://u:p@192.0.2.9:1"]', "192.0.2.9:1", ""),
    ('["grpc://:@host:1"]', "host:1", ""),
    ('["grpc://[::]:1"]', "[::]:1", ""),
    ('["grpc://[fe80::1%25eth0]:1"]', "[fe80::1%eth0]:1", ""),
    ('["grpc://h_x:1"]', "h_x:1", ""),
    ('["unix:///tmp/s","grpc://h:2"]', "h:2", ""),
    ('["grpcs://h:2","grpc://h:3"]', "h:3", "h:2"),
    ("null", "", ""),
    ("[]", "", ""),
]


@pytest.mark.parametrize(("endpoints", "plain", "secure"), KRATOS)
def test_kratos_endpoints_are_found_as_its_own_resolver_finds_them(endpoints: str, plain: str, secure: str) -> None:
    try:
        instance = kratos.decode(USER, "i1", _kratos(endpoints), "")
    except Undecodable:
        instance = Instance("i1", "")
    host = f"[{instance.address}]" if ":" in instance.address else instance.address
    for scheme, seen in (("grpc", plain), ("grpcs", secure)):
        found = next((f"{host}:{port.number}" for port in instance.ports if port.name == scheme), "")
        assert found == seen


@pytest.mark.parametrize(
    "endpoints", [one for one, plain, _ in KRATOS if plain and "@" not in one and "null" not in one]
)
def test_a_list_of_kratos_is_written_again_as_it_was_read(endpoints: str) -> None:
    value = _kratos(endpoints)
    instance = kratos.decode(USER, "i1", value, "")
    assert json.loads(kratos.encode(USER, instance)[1])["endpoints"] == json.loads(endpoints.replace("GRPC", "grpc"))
    assert kratos.canonical(USER, instance, "") is instance


def test_a_password_in_a_url_of_kratos_is_not_copied() -> None:
    instance = kratos.decode(USER, "i1", _kratos('["grpc://me:hush@192.0.2.9:1","tcp://me:hush@:3"]'), "")
    assert "hush" not in str(instance)
    assert b"hush" not in kratos.encode(USER, instance)[1]


def test_a_changed_port_is_written_and_not_the_list_that_was_read() -> None:
    instance = kratos.decode(USER, "i1", _kratos('["grpc://192.0.2.9:9000","tcp://:47946"]'), "")
    other = Instance("i1", "192.0.2.8", instance.ports, native=instance.native)
    assert json.loads(kratos.encode(USER, other)[1])["endpoints"] == ["grpc://192.0.2.8:9000"]


def test_the_host_with_most_ports_of_kratos_own_transports_is_the_address() -> None:
    mixed = '["tcp://192.0.2.1:1","ws://192.0.2.1:2","grpc://192.0.2.9:9000","http://192.0.2.9"]'
    instance = kratos.decode(USER, "i1", _kratos(mixed), "")
    assert instance.address == "192.0.2.9"
    assert instance.ports == (Port(9000, "grpc", "grpc"), Port(80, "http", "http"))


@pytest.mark.parametrize(
    ("endpoints", "loses"),
    [
        ('["grpc://192.0.2.9:9000","tcp://:47946"]', True),
        ('["grpc://192.0.2.9:9000","http://192.0.2.8:80"]', True),
        ('["grpc://192.0.2.9:9000","http://192.0.2.9"]', False),
        ('["GRPC://192.0.2.9:9000"]', False),
        ('["grpc://me@192.0.2.9:9000"]', False),
    ],
)
def test_endpoints_that_only_kratos_can_say_are_a_loss_elsewhere(endpoints: str, loses: bool) -> None:
    instance = kratos.decode(USER, "i1", _kratos(endpoints), "")
    assert bool(pairs.beyond("kratos", "grpc", instance)) is loses
    assert not pairs.beyond("kratos", "kratos", instance)
    assert not pairs.beyond("grpc", "file", instance)


# What each library made of the record: None where it skipped it, or failed.
RECORDS = [
    ("grpc", b'{"op":0,"addr":"h:1"}', "h:1"),
    ("grpc", b'{"Addr":"a:1","Addr":"h:1"}', "h:1"),
    ("grpc", b'{"Op":null,"Addr":"h:1"}\n', "h:1"),
    ("grpc", b'{"Op":"0","Addr":"h:1"}', None),
    ("grpc", b'{"Op":256,"Addr":"h:1"}', None),
    ("grpc", b'{"Op":-1,"Addr":"h:1"}', None),
    ("grpc", b'{"Op":1.0,"Addr":"h:1"}', None),
    ("grpc", b'{"Addr":"h:1"}{}', None),
    ("grpc", b'{"Addr":1}', None),
    ("kitex", b'{"network":"tcp","address":"h:1","weight":-1}', "h:1"),
    ("kitex", b'{"network":"tcp","address":"h:1","weight":null}', "h:1"),
    ("kitex", b'{"network":"tcp","address":"h:1","weight":99999999999}', "h:1"),
    ("kitex", b'{"network":"tcp","address":"h:1","tags":{"a":null}}', "h:1"),
    ("kitex", b'{"network":"tcp","address":"h:1","tags":{"a":"\xff"}}', "h:1"),
    ("kitex", b'{"Network":"tcp","Address":"h:1","WEIGHT":3}', "h:1"),
    ("kitex", b'{"network":"tcp","address":"h:1","weight":1.0}', None),
    ("kitex", b'{"network":"tcp","address":"h:1","weight":"10"}', None),
    ("kitex", b'{"network":"tcp","address":"h:1","weight":9223372036854775808}', None),
    ("kitex", b'{"network":"tcp","address":"h:1","tags":{"a":1}}', None),
    ("kratos", b'{"id":null,"name":"user","version":null,"endpoints":["grpc://h:1"]}', "h:1"),
    ("kratos", b'{"ID":"i1","Name":"user","Endpoints":["grpc://h:1"]}', "h:1"),
    ("kratos", b'{"id":"\xff","name":"user","endpoints":["grpc://h:1"]}', "h:1"),
    ("kratos", b'{"id":"\\ud800","name":"user","endpoints":["grpc://h:1"]}', "h:1"),
    ("kratos", b'{"id":"i1","name":"user","metadata":{"a":null},"endpoints":["grpc://h:1"]}', "h:1"),
    ("kratos", b'{"id":"i1","name":"user","endpoints":["grpc://h:1"],"x":1e999}', "h:1"),
    ("kratos", b' {"id":"i1","name":"user","endpoints":["grpc://h:1"]} \n', "h:1"),
    ("kratos", b'{"id":1,"name":"user","endpoints":["grpc://h:1"]}', None),
    ("kratos", b'{"id":"i1","name":"user","metadata":[],"endpoints":["grpc://h:1"]}', None),
    ("kratos", b'{"id":"i1","name":"user","endpoints":"grpc://h:1"}', None),
    ("kratos", b'\xef\xbb\xbf{"id":"i1","name":"user","endpoints":["grpc://h:1"]}', None),
    ("go-micro", b'{"name":"user","nodes":[{"id":"a","address":"h:1","metadata":{"a":1}}]}', "h:1"),
    ("go-micro", b'{"name":"user","nodes":[{"id":1,"address":"h:1"}]}', "h:1"),
    ("go-micro", b'{"name":"user","version":1,"nodes":[{"id":"a","address":"h:1"}]}', "h:1"),
    ("go-micro", b'{"Name":"user","Nodes":[{"Id":"a","Address":"h:1"}]}', "h:1"),
    ("go-micro", b'{"name":"user","metadata":{"a":1},"nodes":[{"id":"a","address":"h:1"}]}', "h:1"),
    ("go-micro", b'{"name":"user","nodes":[null,{"id":"a","address":"h:1"}]}', "h:1"),
    ("go-micro", b'{"name":"user","nodes":[{"id":"a","address":"h:1"},{"id":"b","address":"h:2"}]}', "h:1"),
    ("go-micro", b'{"name":"user","nodes":null}', None),
    ("go-micro", b"null", None),
]


@pytest.mark.parametrize(("layout", "value", "seen"), RECORDS)
def test_an_odd_record_is_read_as_its_stock_library_reads_it(layout: str, value: bytes, seen: str | None) -> None:
    module = LAYOUTS[layout]
    if seen is None:
        with pytest.raises(Undecodable):
            module.decode(USER, "i1", value, module.PROTOCOL)
        return
    instance = module.decode(USER, "i1", value, module.PROTOCOL)
    assert f"{instance.address}:{instance.ports[0].number}" == seen
    form = module.canonical(USER, instance, module.PROTOCOL)
    key, again = module.encode(USER, form)
    assert module.decode(USER, key.partition("/")[2], again, module.PROTOCOL) == form


def test_nodes_that_share_a_key_of_go_micro_are_written_again_together() -> None:
    value = b'{"name":"user","nodes":[{"id":"a","address":"h:1"},{"id":"b","address":"h:2","metadata":{"k":"v"}}]}'
    instance = gomicro.decode(USER, "a", value, "")
    nodes = json.loads(gomicro.encode(USER, instance)[1])["nodes"]
    assert [(node["id"], node["address"]) for node in nodes] == [("a", "h:1"), ("b", "h:2")]


def test_what_is_not_unicode_in_metadata_reads_as_go_reads_it() -> None:
    value = b'{"network":"tcp","address":"h:1","tags":{"a":"\xff","b":"\\ud800","c":"\\ud83d\\ude00","d":"\\\\ud800"}}'
    tags = kitex.decode(USER, "h:1", value, "").metadata
    assert tags == {"a": "\ufffd", "b": "\ufffd", "c": "\U0001f600", "d": "\\ud800"}


def test_an_address_that_kitex_wrote_without_brackets_is_dialed_with_them() -> None:
    value = b'{"network":"tcp","address":"2001:db8::7:8080","weight":10,"tags":null}'
    _, _, instance = read("kitex", "user/2001:db8::7:8080", value)
    assert (instance.address, instance.ports[0].number) == ("2001:db8::7", 8080)
    assert kitex.encode(USER, instance)[0] == "user/[2001:db8::7]:8080"


# go-zero dials every value below `z.rpc/`, whatever the key; its own keys are numbers.
GO_ZERO = [
    ("z.rpc/1", b"h:1", ServiceName("z.rpc")),
    ("z.rpc/abc", b"h:2", ServiceName("z.rpc")),
    ("z.rpc/-5", b"h:7", ServiceName("z.rpc")),
    ("z.rpc/007", b"h:8", ServiceName("z.rpc")),
    ("productService/GoRpc.rpc/758", b"h:3", ServiceName("productService/GoRpc.rpc")),
]


@pytest.mark.parametrize(("key", "value", "name"), GO_ZERO)
def test_whatever_go_zero_dials_is_an_instance_and_can_be_written(key: str, value: bytes, name: ServiceName) -> None:
    found, _, instance = read("go-zero", key, value)
    assert found == name
    module = LAYOUTS["go-zero"]
    form = module.canonical(found, instance, module.PROTOCOL)
    written, again = module.encode(found, form)
    assert (again, written.rpartition("/")[0]) == (value, name.name)


def test_other_keys_of_a_shared_etcd_are_no_go_zero_instances() -> None:
    for value in (b"debug: true", b"", b'{"Op":0,"Addr":"h:6"}', b"\xff"):
        with pytest.raises(Stray):
            read("go-zero", "config/app", value)


@pytest.mark.parametrize("layout", ["grpc", "go-zero", "kratos"])
def test_a_name_of_several_levels_is_written_where_it_was_read(layout: str) -> None:
    record = {
        "grpc": b'{"Op":0,"Addr":"h:1","Metadata":null}',
        "go-zero": b"h:1",
        "kratos": b'{"id":"7","name":"services/user","version":"","metadata":null,"endpoints":["grpc://h:1"]}',
    }[layout]
    module = LAYOUTS[layout]
    name, _, instance = read(layout, "services/user/7", record)
    assert name == ServiceName("services/user")
    form = module.canonical(name, instance, module.PROTOCOL)
    key, value = module.encode(name, form)
    assert key.startswith("services/user/")
    assert value == record


@pytest.mark.parametrize(("layout", "key"), [("kitex", "user/deep/h:1"), ("go-micro", "user/deep/i1")])
def test_what_is_nested_below_a_service_is_found_with_it(layout: str, key: str) -> None:
    place = LAYOUTS[layout].locate(key)
    assert place is not None
    assert place[0] == USER


def test_a_kratos_record_of_another_name_is_named_and_is_no_instance() -> None:
    with pytest.raises(Undecodable, match="kratos drops it: the record says 'pay' under 'ns2/pay'"):
        read("kratos", "ns2/pay/i1", _kratos('["grpc://h:1"]').replace(b'"user"', b'"pay"'))


def test_an_empty_record_says_that_it_is_empty() -> None:
    for layout in ("grpc", "kratos", "kitex", "go-micro"):
        with pytest.raises(Undecodable, match="it is empty"):
            LAYOUTS[layout].decode(USER, "i1", b"", "")


urls = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["grpc://", "http://", "tcp://", "GRPCS://", "grpc:", "//", "", "://", "1x://"]),
    st.sampled_from(["", "u:p@", ":@", "@"]),
    st.sampled_from(["h", "192.0.2.9", "[2001:db8::7]", "[fe80::1%25en0]", "", "a b", "é", "2001:db8::7", "h%41"]),
    st.sampled_from([":1", ":9000", "", ":", ":0", ":x", ":70000"]),
    st.sampled_from(["", "/p", "?isSecure=true", "#f", "/%zz", "?%zz"]),
) | st.text(max_size=8)


@settings(deadline=None, max_examples=400)
@given(st.lists(urls, min_size=1, max_size=4))
@example(["grpc://u:p@h:1?isSecure=true"])  # without its user it is a list that ports and tails say whole
def test_what_is_read_of_any_urls_is_written_so_that_it_reads_the_same(found: list[str]) -> None:
    try:
        instance = kratos.decode(USER, "i1", _kratos(json.dumps(found)), "")
    except Undecodable:
        return
    form = kratos.canonical(USER, instance, "")
    assert (form.address, form.ports) == (instance.address, instance.ports)
    again = kratos.decode(USER, "i1", kratos.encode(USER, form)[1], "")
    assert again == form


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | st.just("h:1"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "Name", "address", "Addr", "nodes", "weight", "id", "x"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("layout", ["grpc", "kratos", "kitex", "go-micro"])
@settings(deadline=None)
@given(
    record=st.dictionaries(
        st.sampled_from(
            ["id", "name", "version", "metadata", "endpoints", "nodes", "Op", "Addr", "Metadata", "network", "address"]
        ),
        json_values,
    )
)
def test_values_of_any_type_break_no_reader(layout: str, record: dict[str, object]) -> None:
    module = LAYOUTS[layout]
    try:
        instance = module.decode(USER, "i1", json.dumps(record).encode(), module.PROTOCOL)
        form = module.canonical(USER, instance, module.PROTOCOL)
    except (Undecodable, Rejected):
        return
    key, value = module.encode(USER, form)
    assert module.decode(USER, key.partition("/")[2], value, module.PROTOCOL) == form


@given(st.binary(max_size=40))
def test_what_is_made_unicode_stays_what_it_was_where_it_was_json(value: bytes) -> None:
    text = value.decode(errors="replace")
    record = json.dumps({"Addr": "h:1", "Metadata": text}).encode()
    assert gojson.unicode(record) == record
    assert grpc.decode(USER, "i1", record, "").address == "h"


URL = st.builds(
    "{}://{}:{}".format,
    st.sampled_from(["grpc", "grpcs", "http", "tcp", "x+y"]),
    st.sampled_from(["192.0.2.9", "192.0.2.9", "198.51.100.300", "01.2.3.4", "localhost"]),
    st.sampled_from(["9000", "47946", "0", "70000", "080", "80/p?isSecure=true"]),
)


@given(urls=st.lists(URL, max_size=4).map(tuple))
def test_the_quick_way_through_a_list_of_kratos_finds_what_the_long_one_finds(urls: tuple[str, ...]) -> None:
    quick = kratos._plain(urls)
    if quick is not None:
        assert quick == kratos._any(urls)
