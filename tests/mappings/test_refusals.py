"""What would break a stock reader is never written, and what nobody could use is not read."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from bridge.errors import Rejected, Undecodable
from bridge.model import Instance, Port, ServiceName
from mappings.common import curator_record
from mappings.pairs import LAYOUTS
from tests.mappings.layouts import WRITABLE, read

USER = ServiceName("user")
PLAIN = Instance("i1", "10.0.0.7", (Port(8080, "grpc", "grpc"),))
DUBBO = Instance("i1", "10.0.0.7", (Port(20880, "dubbo", "dubbo"),))


def _curator(**fields: object) -> bytes:
    record = {"name": "user", "id": "i1", "address": "10.0.0.7", "port": 80, "payload": None, **fields}
    return json.dumps(record).encode()


def _spring(**fields: object) -> bytes:
    return _curator(**{"payload": {"@class": curator_record.SPRING, "metadata": {}}, **fields})


def _url(text: str) -> str:
    return f"com.foo.Bar/providers/{text.replace('/', '%2F').replace('?', '%3F')}"


UNDECODABLE = [
    ("grpc", "user/i1", b"not json", "not a record"),
    ("grpc", "user/i1", b"null", "not a record"),
    ("grpc", "user/i1", b"{}", "it names no address"),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.7","Metadata":null}', "no port"),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.7:0","Metadata":null}', "'0' is no port"),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.700:80","Metadata":null}', "neither an IP address nor a host name"),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"unix:///tmp/s","Metadata":null}', "Unix socket"),
    ("grpc", "user/i1", b'{"Op":0,"Addr":"10.0.0.7:80","Metadata":' + b"[" * 100_000, "not a record"),
    ("kratos", "user/i1", b"null", "not a kratos record: it is null; should be an object"),
    ("kratos", "user/i1", b'{"name":"user","id":"i1","endpoints":[]}', "no endpoints"),
    ("kratos", "user/i1", b'{"name":"user","id":"i1","endpoints":["10.0.0.7:80"]}', "no URL"),
    ("kratos", "user/i1", b'{"name":"user","id":"i1","endpoints":["grpc://10.0.0.7"]}', "no port"),
    ("kratos", "user/i1", b'{"name":"user-v2","id":"i1","endpoints":["grpc://a:1"]}', "drops it"),
    ("kratos", "user/i1", b'{"name":"user","id":"i1","metadata":{"a":1},"endpoints":["grpc://a:1"]}', "kratos record"),
    ("kitex", "user/a:1", b'{"network":"unix","address":"/tmp/s","weight":10,"tags":null}', "network 'unix'"),
    ("kitex", "user/2001:db8::7", b'{"network":"tcp","address":"2001:db8:0:0:0:0:7"}', "neither an IP"),
    ("go-zero", "user/1", b"not json", "no port"),
    ("go-zero", "user/1", b'{"Op":0,"Addr":"10.0.0.7:80"}', "not a go-zero address"),
    ("go-zero", "user/1", b"10.0.0.7:80\n", "is no port"),
    ("go-micro", "user/i1", b'{"name":"user","nodes":[]}', "it lists no node"),
    ("go-micro", "user/i1", b'{"name":"user","nodes":[{"id":"i1","address":"unix:///tmp/s"}]}', "Unix socket"),
    ("curator", "user/i1", b"{}", "no address"),
    ("curator", "user/i1", b"", "not a Curator record: the node is empty"),
    ("curator", "user/i1", b"{", "it is no JSON"),
    ("curator", "user/i1", _curator(port="http"), "port is 'http'; should be a whole number"),
    ("curator", "user/i1", _curator(enabled="off"), "neither true nor false"),
    ("curator", "user/i1", _curator(serviceType="FOO"), "serviceType"),
    ("curator", "user/i1", _spring(), curator_record.SPRING),
    ("spring", "user/i1", _curator(payload={}), "names no class"),
    ("spring", "user/i1", b"", "the node is empty"),
    ("spring", "user/i1", _curator(payload="hello"), "its payload: it is text; should be an object"),
    ("spring", "user/i1", _spring(port=None), "neither port"),
    ("spring", "user/i1", _spring(payload={"@class": curator_record.SPRING, "metadata": {"a": {"b": "c"}}}), "nested"),
    ("dubbo2", "com.foo.Bar/providers/garbage", b"", "no scheme"),
    ("dubbo2", "com.foo.Bar/providers/dubbo%3A%2F%2Fa%3A1%2Fcom.foo.Bar%3Fa%3D%zz", b"", "begins no escape"),
    ("dubbo2", _url("dubbo:///com.foo.Bar?a=b"), b"", "neither an IP address nor a host name"),
    ("dubbo2", _url("dubbo://[2001:db8::7]/com.foo.Bar?a=b"), b"", "no port behind the last colon"),
    ("dubbo2", _url("dubbo://10.0.0.7:/com.foo.Bar?a=b"), b"", "no port behind the last colon"),
    ("dubbo2", _url("dubbo://10.0.0.7:1/com.foo.Other?a=b"), b"", "another interface"),
    ("dubbo2", _url("dubbo://10.0.0.7:1/com.foo.Bar?category=configurators"), b"", "category"),
    ("dubbo2", _url("dubbo://10.0.0.7:1/com.foo.Bar?default.category=configurators"), b"", "category"),
    ("dubbo2", _url("consumer://10.0.0.7:1/com.foo.Bar"), b"", "no provider"),
    ("dubbo3", "user/i1", _spring(), "class"),
    ("dubbo3", "user/i1", _curator(), "no payload"),
    ("dubbo3", "user/i1", b"", "the node is empty"),
]


@pytest.mark.parametrize(("layout", "key", "value", "why"), UNDECODABLE)
def test_what_nobody_could_use_is_undecodable(layout: str, key: str, value: bytes, why: str) -> None:
    with pytest.raises(Undecodable, match=why):
        read(layout, key, value)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("value", [b"", b"\xff\xfe", b"[]", b'"text"', b"0", b'{"', b"\x00"])
def test_garbage_is_undecodable_in_every_layout(layout: str, value: bytes) -> None:
    with pytest.raises(Undecodable):
        LAYOUTS[layout].decode(USER, "i1", value, "")


@pytest.mark.parametrize(
    ("layout", "key"),
    [
        ("kratos", "user"),
        ("kratos", "user/"),
        ("kratos", "/i1"),
        ("go-zero", "user/"),
        ("go-zero", "/1"),
        ("go-micro", "user"),
        ("grpc", "user"),
        ("curator", "user/i1/deep"),
        ("dubbo2", "com.foo.Bar/providers"),
        ("dubbo2", "com.foo.Bar/providers/a/b"),
    ],
)
def test_a_key_of_another_form_is_not_of_the_layout(layout: str, key: str) -> None:
    assert LAYOUTS[layout].locate(key) is None


def _with(**fields: object) -> Instance:
    return msgspec.structs.replace(PLAIN, **fields)


TWO = (Port(8080, "grpc", "grpc"), Port(8081, "http", "http"))
SINGLE = ("grpc", "kitex", "go-zero", "go-micro")
REJECTED = [
    *[(layout, USER, _with(ports=TWO), "ambiguous port: grpc 8080, http 8081") for layout in SINGLE],
    *[(layout, USER, _with(ports=()), "no port") for layout in WRITABLE],
    *[(layout, USER, _with(ports=(Port(0, "grpc", "grpc"),)), "0 is no port") for layout in WRITABLE],
    *[(layout, USER, _with(address="not a host"), "neither an IP") for layout in WRITABLE if layout != "dubbo2"],
    *[(layout, ServiceName("a/b"), PLAIN, "another level") for layout in ("kitex", "go-micro", "curator", "spring")],
    *[(layout, ServiceName(""), PLAIN, "empty service name") for layout in WRITABLE if layout != "dubbo2"],
    *[(layout, ServiceName("user", "ns"), PLAIN, "no namespaces") for layout in WRITABLE if layout != "dubbo2"],
    *[(layout, USER, _with(id=""), "empty id") for layout in ("grpc", "kratos", "go-micro", "curator", "spring")],
    *[("kitex", USER, _with(weight=weight), "weight") for weight in (-1.0, math.nan, math.inf, 1e300)],
    ("kratos", USER, _with(ports=(Port(80),)), "protocol of port 80 is not known"),
    ("kratos", USER, _with(ports=(Port(80, "x", "h 2"),)), "scheme of a URL"),
    ("curator", ServiceName("a\x00b"), PLAIN, "ZooKeeper takes no"),
    ("curator", ServiceName(".."), PLAIN, "ZooKeeper takes no"),
    ("spring", USER, _with(id="."), "ZooKeeper takes no"),
    ("spring", USER, _with(ports=TWO), "ambiguous port"),
    ("dubbo2", ServiceName("com.foo.Bar"), PLAIN, "not a Dubbo provider"),
    ("dubbo2", ServiceName("com/foo"), DUBBO, "no interface"),
    ("dubbo2", ServiceName(""), DUBBO, "no interface"),
    (
        "dubbo2",
        ServiceName("com.foo.Bar"),
        msgspec.structs.replace(DUBBO, metadata={"a": "b&category=configurators"}),
        "would break the URL",
    ),
    *[
        ("dubbo2", ServiceName("com.foo.Bar"), msgspec.structs.replace(DUBBO, metadata=metadata), why)
        for metadata, why in (
            ({"note": "first;group=other;weight=0"}, "would break the URL"),
            ({"a;group": "other"}, "would break the URL"),
            ({"a=b": ""}, "would break the URL"),
            ({"category": "configurators"}, "category=configurators"),
            ({"default.category": "routers"}, "category=routers"),
            ({"default.interface": "com.foo.Bar", "timeout": "5s"}, "no number"),
            ({"sayHello.retries": "two"}, "no number"),
        )
    ],
    ("dubbo2", ServiceName("com.foo.Bar"), msgspec.structs.replace(DUBBO, version="1;group=x"), "would break the URL"),
    ("dubbo2", ServiceName("com.foo.Bar"), msgspec.structs.replace(DUBBO, version="1.0 "), "a blank at its end"),
    ("dubbo2", ServiceName("com.foo.Bar"), msgspec.structs.replace(DUBBO, weight=-1.0), "no weight"),
    ("dubbo3", USER, DUBBO, "read only"),
]


@pytest.mark.parametrize(("layout", "name", "instance", "why"), REJECTED)
def test_what_would_break_readers_is_rejected(layout: str, name: ServiceName, instance: Instance, why: str) -> None:
    module = LAYOUTS[layout]
    with pytest.raises(Rejected, match=why):
        module.encode(name, instance)
    with pytest.raises(Rejected, match=why):
        module.canonical(name, instance, module.PROTOCOL)


def test_a_dubbo_provider_is_never_written_under_another_name() -> None:
    name, _, instance = read("dubbo2", _url("dubbo://10.0.0.7:1/com.foo.Bar?group=g1&side=provider"), b"")
    assert name == ServiceName("com.foo.Bar", "g1")
    for other in (ServiceName("com.foo.Bar"), ServiceName("com.foo.Other", "g1")):
        with pytest.raises(Rejected, match="its own interface and group"):
            LAYOUTS["dubbo2"].encode(other, instance)


def test_a_go_zero_key_is_never_written_with_another_address() -> None:
    layout = LAYOUTS["go-zero"]
    before = layout.canonical(USER, PLAIN, "grpc")
    after = layout.canonical(USER, msgspec.structs.replace(before, address="10.0.0.8"), "grpc")
    assert before.id != after.id
    assert layout.encode(USER, before)[0] == f"user/{before.id}"
    assert 0 < int(before.id) < 2**63
