"""The details that byte compatibility and the readers' quirks hang on, one by one."""

from __future__ import annotations

import json

import msgspec
import pytest

from bridge.model import LOST, Health, Instance, Port, ServiceName
from mappings import curator, dubbo2, gomicro, kitex, kratos, spring
from mappings.common import curator_record, hostport
from mappings.pairs import LAYOUTS
from tests.mappings.layouts import read

USER = ServiceName("user")
PLAIN = Instance("i1", "10.0.0.7", (Port(8080, "grpc", "grpc"),))


@pytest.mark.parametrize("layout", ["grpc", "kratos", "curator", "spring"])
def test_ids_with_slashes_are_one_level_of_a_key_and_stay_apart(layout: str) -> None:
    """As all of Consul's have."""
    module = LAYOUTS[layout]
    forms = []
    for id in ("dc1/vm/pay-1", "dc1/vm.pay-1", "dc1.vm.pay-1"):
        form = module.canonical(USER, msgspec.structs.replace(PLAIN, id=id), module.PROTOCOL)
        key, value = module.encode(USER, form)
        assert module.locate(key) == (USER, form.id)
        assert form.id.encode() in value or layout == "grpc"
        forms.append(form.id)
    assert len(set(forms)) == 3
    assert forms[2] == "dc1.vm.pay-1"


HAND_WRITTEN = [
    ("grpc", "user/i1", b'{"Op":1,"Addr":"10.0.0.7:80","Metadata":{}}'),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.7:80","Metadata":[1.0,"x"]}'),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.7:80","Metadata":"x"}'),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.7:80","Metadata":{"a":"b","n":null,"o":{"x":[1e5,"\\u003c"]}}}'),
    ("kratos", "user/i1", b'{"id":"i1","name":"user","version":"","metadata":{},"endpoints":["grpc://a:1"]}'),
    ("kratos", "user/i1", b'{"id":"x","name":"user","version":"","metadata":null,"endpoints":["grpcs://a:1/p?q#f"]}'),
    (
        "kratos",
        "user/i1",
        b'{"id":"i1","name":"user","version":"","metadata":null,"endpoints":["grpc://a:1?isSecure=true"]}',
    ),
    ("kitex", "user/10.0.0.7:80", b'{"network":"tcp4","address":"10.0.0.7:80","weight":0,"tags":{}}'),
    ("kitex", "user/[2001:db8::7]:80", b'{"network":"tcp","address":"[2001:db8::7]:80","weight":-3,"tags":{"a":"b"}}'),
    (
        "go-micro",
        "a-b/i-1",
        b'{"name":"a/b","version":"1","metadata":{"k":"1","protocol":"x","service.protocol":"y"},'
        b'"endpoints":[{"name":"A.B","request":null}],'
        b'"nodes":[{"metadata":{"protocol":"grpc"},"id":"i/1","address":"10.0.0.7:80"}]}',
    ),
    (
        "go-micro",
        "user/i1",
        b'{"name":"user","version":"1","metadata":{},"endpoints":[],'
        b'"nodes":[{"metadata":{},"id":"i1","address":"10.0.0.7:80"}]}',
    ),
    (
        "curator",
        "user/i1",
        b'{"name":"user","id":"i1","address":"10.0.0.7","port":80,"sslPort":null,'
        b'"payload":{"@class":"com.acme.Details","a":{"b":1.0},"c":"d"},'
        b'"registrationTimeUTC":0,"serviceType":"PERMANENT","uriSpec":{"parts":[]},"enabled":true}',
    ),
    *[
        (
            "curator",
            "user/i1",
            b'{"name":"user","id":"i1","address":"%b","port":%b,"sslPort":%b,"payload":null,'
            b'"registrationTimeUTC":1,"serviceType":"DYNAMIC","uriSpec":null}' % parts,
        )
        for parts in (
            (b"10.0.0.7", b"9010", b"9010"),
            (b"10.0.0.7", b"-1", b"8443"),
            (b"10.0.0.7", b"0", b"null"),
            (b"10.0.0.7", b"null", b"null"),
            (b"[2001:DB8::7]", b"80", b"null"),
        )
    ],
    *[
        (
            "spring",
            "user/i1",
            b'{"name":"user","id":"i1","address":"%b","port":%b,"sslPort":%b,"payload":null,'
            b'"registrationTimeUTC":12,"serviceType":"STATIC","uriSpec":null}' % parts,
        )
        for parts in (
            (b"10.0.0.7", b"9010", b"9010"),
            (b"2001:db8::7", b"80", b"null"),
            (b"[2001:db8::7]", b"80", b"null"),
            (b"10.0.0.7", b"0", b"null"),
        )
    ],
    (
        "spring",
        "user/i1",
        b'{"name":"user","id":"i1","address":"10.0.0.7","port":null,"sslPort":443,"payload":null,'
        b'"registrationTimeUTC":12,"serviceType":"STATIC","uriSpec":null,"enabled":false}',
    ),
    (
        "dubbo2",
        "com.foo.Bar/providers/tri%3A%2F%2Fh.example%3A1%2Fctx%3Finterface%3Dcom.foo.Bar%26z%3D%26a%26b%3D~%2A",
        b"",
    ),
    ("dubbo2", "com.foo.Bar/providers/dubbo%3A%2F%2F10.0.0.7%3A1%2Fcom.foo.Bar%3Fa%3D%7E*%C3%A9+x", b""),
    ("dubbo2", "com.foo.Bar/providers/dubbo%3A%2F%2F10.0.0.7%3A1%2Fcom.foo.Bar%3Fa%3D~%2A%C3%A9+x%26weight%3D0", b""),
    ("dubbo2", "com.foo.Bar/providers/dubbo%3A%2F%2F10.0.0.7%3A1%2Fcom.foo.Bar", b""),
]


@pytest.mark.parametrize(("layout", "key", "value"), HAND_WRITTEN)
def test_a_record_that_is_written_by_hand_loses_nothing_either(layout: str, key: str, value: bytes) -> None:
    name, _, instance = read(layout, key, value)
    module = LAYOUTS[layout]
    assert module.encode(name, instance) == (key, value)
    assert module.canonical(name, instance, module.PROTOCOL) is instance


@pytest.mark.parametrize("layout", ["grpc", "kratos", "kitex", "go-micro"])
def test_go_sorts_keys_and_escapes_what_html_would_take(layout: str) -> None:
    instance = msgspec.structs.replace(
        PLAIN, metadata={"z": "<&>\u2028\u2029ü", "B": "1", "a": "2", "protocol": "grpc"}
    )
    text = LAYOUTS[layout].encode(USER, instance)[1].decode()
    assert '{"B":"1","a":"2","protocol":"grpc","z":"\\u003c\\u0026\\u003e\\u2028\\u2029ü"}' in text


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("[FE80::1%eth0]", "fe80::1%eth0"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("Pay_1.example.", "Pay_1.example."),
        ("localhost", "localhost"),
        ("4pay", "4pay"),
    ],
)
def test_an_address_is_bare_and_canonical(text: str, host: str) -> None:
    assert hostport.host(text) == host
    assert hostport.host(host) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "10.0.0",
        "10.0.0.256",
        "010.0.0.1",
        "10.0.0.07",
        "1.2.3.4.5",
        "\u0661\u0660.0.0.1",
        "10.0.0.1\0",
        "-a",
        "a-",
        "a..b",
        "a b",
        "a/b",
        "[::1",
        "é",
        "a" * 254,
        "fe80::1%",
        "fe80::1%a b",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither an IP address nor a host name|has a zone"):
        hostport.host(text)


def test_a_kitex_weight_is_never_the_zero_that_reads_as_ten() -> None:
    form = kitex.canonical(USER, msgspec.structs.replace(PLAIN, weight=0.0), "thrift")
    assert form.weight == 0.1
    assert b'"weight":1,' in kitex.encode(USER, form)[1]


def test_dubbo_knows_a_weight_of_zero() -> None:
    instance = Instance("x", "10.0.0.7", (Port(1, "dubbo", "dubbo"),), weight=0.0)
    assert dubbo2.canonical(ServiceName("com.foo.Bar"), instance, "").weight == 0.0
    assert dubbo2.encode(ServiceName("com.foo.Bar"), instance)[0].endswith("weight%3D0")


def test_a_changed_parameter_changes_the_url_and_nothing_else_in_it() -> None:
    key = "com.foo.Bar/providers/dubbo%3A%2F%2F10.0.0.7%3A1%2Fcom.foo.Bar%3Fz%3D1%26a%3D2%26weight%3D100"
    name, id, instance = read("dubbo2", key, b"")
    changed = msgspec.structs.replace(instance, weight=0.5, metadata={"z": "1", "a": "3", "new": "4"})
    written, _ = dubbo2.encode(name, changed)
    assert written == key.replace("a%3D2%26weight%3D100", "a%3D3%26weight%3D50%26new%3D4")
    assert dubbo2.locate(written) != (name, id)


@pytest.mark.parametrize("metadata", [{"disabled": "true"}, {"enabled": "false"}])
def test_a_disabled_dubbo_provider_does_not_serve(metadata: dict[str, str]) -> None:
    instance = Instance("x", "10.0.0.7", (Port(1, "dubbo", "dubbo"),), metadata=metadata)
    assert not dubbo2.canonical(ServiceName("com.foo.Bar"), instance, "").serving


def test_a_go_micro_name_of_another_service_is_not_carried_over_by_a_rename() -> None:
    record = b'{"name":"a/b","version":"1","endpoints":[],"nodes":[{"id":"i1","address":"10.0.0.7:80"}]}'
    _, _, instance = read("go-micro", "a-b/i1", record)
    assert b'"name":"user"' in gomicro.encode(USER, instance)[1]
    assert b'"name":"a/b"' in gomicro.encode(ServiceName("a-b"), instance)[1]


def test_the_service_metadata_of_go_micro_never_hides_the_nodes() -> None:
    record = (
        b'{"name":"user","version":"1","metadata":{"zone":"service"},"endpoints":[],'
        b'"nodes":[{"metadata":{"zone":"node"},"id":"i1","address":"10.0.0.7:80"}]}'
    )
    assert read("go-micro", "user/i1", record)[2].metadata == {"zone": "node", "service.zone": "service"}


def test_a_users_metadata_never_becomes_the_class_of_a_payload() -> None:
    poison = msgspec.structs.replace(PLAIN, metadata={"@class": "com.acme.Evil", "a": "b"})
    for layout, said in ((curator, curator_record.MAP), (spring, curator_record.SPRING)):
        assert curator_record.payload_class(layout.encode(USER, poison)[1]) == said
    only = msgspec.structs.replace(PLAIN, metadata={"@class": "com.acme.Evil"})
    assert curator_record.payload_class(curator.encode(USER, only)[1]) in (curator_record.MAP, None)


def test_curator_says_disabled_only_of_what_was_read_disabled() -> None:
    draining = msgspec.structs.replace(PLAIN, health=Health.DRAINING)
    assert b"enabled" not in curator.encode(USER, draining)[1]
    record = b'{"name":"user","id":"i1","address":"10.0.0.7","port":80,"enabled":false}'
    _, _, instance = read("curator", "user/i1", record)
    assert instance.health is Health.DRAINING
    assert b'"enabled":false' in curator.encode(USER, instance)[1]
    back = msgspec.structs.replace(instance, health=Health.UNKNOWN)
    assert b"enabled" not in curator.encode(USER, back)[1]


@pytest.mark.parametrize(
    ("health", "status"),
    [
        (Health.UNKNOWN, None),
        (Health.HEALTHY, "UP"),
        (Health.DEGRADED, "UP"),
        (Health.UNHEALTHY, "DOWN"),
        (Health.DRAINING, "OUT_OF_SERVICE"),
    ],
)
def test_the_status_of_a_spring_instance_is_its_health_and_no_users_text(health: Health, status: str | None) -> None:
    instance = msgspec.structs.replace(PLAIN, health=health, metadata={"instance_status": "DOWN", "a": "b"})
    payload = json.loads(spring.encode(USER, instance)[1])["payload"]
    assert payload["metadata"] == ({"a": "b", "instance_status": status} if status else {"a": "b"})
    assert "instance_status" not in spring.canonical(USER, instance, "http").metadata


def test_a_word_for_the_health_stays_while_it_means_the_same() -> None:
    key, value = spring.encode(USER, msgspec.structs.replace(PLAIN, health=Health.HEALTHY))
    _, _, instance = read("spring", key, value.replace(b'"UP"', b'"up"'))
    assert instance.health is Health.HEALTHY
    assert b'"instance_status":"up"' in spring.encode(USER, instance)[1]
    drained = msgspec.structs.replace(instance, health=Health.DRAINING)
    assert b'"instance_status":"OUT_OF_SERVICE"' in spring.encode(USER, drained)[1]


def test_equal_parts_of_instances_are_held_once() -> None:
    value = b'{"id":"i%d","name":"user","version":"v1","metadata":{"zone":"a"},"endpoints":["grpc://10.0.0.%d:80"]}'
    one, other = (kratos.decode(USER, f"i{number}", value % (number, number), "") for number in (1, 2))
    assert one.metadata is other.metadata
    assert one.ports is other.ports


@pytest.mark.parametrize("layout", ["curator", "spring"])
def test_one_number_in_both_fields_is_one_port_with_tls(layout: str) -> None:
    record = b'{"name":"user","id":"i1","address":"10.0.0.7","port":9010,"sslPort":"9010"}'
    instance = read(layout, "user/i1", record)[2]
    assert instance.ports == (Port(9010, "https", "http", True),)
    (endpoint,) = json.loads(kratos.encode(USER, instance)[1])["endpoints"]
    assert endpoint.startswith("https://10.0.0.7:9010")


def test_spring_makes_a_uri_of_a_bracketed_ipv6_address_only() -> None:
    """Seen with spring-cloud-zookeeper 4.3.0."""
    text = spring.encode(USER, msgspec.structs.replace(PLAIN, address="2001:db8::7"))[1]
    assert b'"address":"[2001:db8::7]"' in text
    assert spring.decode(USER, "i1", text, "").address == "2001:db8::7"


@pytest.mark.parametrize(("said", "serves"), [("false", False), ('"False"', False), ("0", False), ('"true"', True)])
def test_curator_reads_enabled_as_jackson_does(said: str, serves: bool) -> None:
    record = f'{{"name":"user","id":"i1","address":"10.0.0.7","port":80,"enabled":{said}}}'
    assert read("curator", "user/i1", record.encode())[2].serving is serves


@pytest.mark.parametrize(
    ("metadata", "weight", "lost"),
    [({"weight": -5}, 0.0, None), ({"weight": "abc"}, 1.0, "weight=abc (no number)"), ({"weight": None}, 1.0, None)],
)
def test_a_dubbo_3_instance_is_read_part_by_part(metadata: dict[str, object], weight: float, lost: str | None) -> None:
    more = {"dubbo.endpoints": "not JSON", "up": True, "dubbo.metadata.revision": "1", **metadata}
    payload = {"@class": curator_record.DUBBO, "metadata": more}
    record = {"address": "10.0.0.7", "port": 20880, "payload": payload}
    instance = read("dubbo3", "user/i1", json.dumps(record).encode())[2]
    assert (instance.weight, instance.native.get(LOST)) == (weight, lost)
    assert instance.metadata["up"] == "true"
    assert [port.number for port in instance.ports] == [20880]


@pytest.mark.parametrize("tls", [False, True])
def test_one_port_of_a_curator_record_keeps_the_rest_of_it(tls: bool) -> None:
    record = (
        b'{"name":"user","id":"i1","address":"10.0.0.7","port":80,"sslPort":443,"payload":{"@class":"com.acme.D","k":"v"},'
        b'"registrationTimeUTC":7,"serviceType":"STATIC","uriSpec":null}'
    )
    instance = read("curator", "user/i1", record)[2]
    one = msgspec.structs.replace(instance, ports=tuple(port for port in instance.ports if port.tls is tls))
    gone = b'"port":80' if tls else b'"sslPort":443'
    assert curator.encode(USER, one)[1] == record.replace(gone, gone.partition(b":")[0] + b":null")
