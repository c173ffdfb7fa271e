"""What a bridge writes for one endpoint of a slice: read back as it was, and refused where nobody could use it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bridge.errors import Rejected
from bridge.model import Health, Instance, Locality, Mark, Port, ServiceName
from mappings import kubernetes
from mappings.common import slice_entry
from mappings.common.slice_entry import Written

PAY = ServiceName("pay")
RICH = Instance(
    "pay@host:8080 (blue)\x85",
    "192.0.2.1",
    (Port(9000, "gRPC", "grpc", tls=True), Port(8080, "", "http")),
    Health.DRAINING,
    0.25,
    Locality("eu", "eu-1", "rack 7"),
    "v1.10",
    ("blue", "no"),
    {"ключ": "значение", "": "nameless", "nul": "a\0b", "smile": "\N{GRINNING FACE}"},
    {"consul": '{"a": 1}'},
)
MARK = Mark("bridge-a", "link", ("origin",), "", PAY, "i1")


@pytest.mark.parametrize("mark", [MARK, None])
def test_an_entry_is_read_back_as_it_was_written(mark: Mark | None) -> None:
    written = Written(RICH, mark)
    text = slice_entry.encode({RICH.id: slice_entry.encode_one(written)})
    assert slice_entry.decode(text) == {RICH.id: written}


def test_an_entry_that_makes_no_sense_spoils_no_other() -> None:
    good = slice_entry.encode_one(Written(RICH, MARK))
    found = slice_entry.decode(slice_entry.encode({RICH.id: good, "bad": b'{"instance":{"id":5}}', "other": good}))
    assert found[RICH.id] == Written(RICH, MARK)
    assert isinstance(found["bad"], str)
    assert isinstance(found["other"], str)
    with pytest.raises(ValueError, match="format 2"):
        slice_entry.decode('{"v":2,"entries":{}}')


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "0.0.0.0", "169.254.1.1", "fe80::1%eth0", "224.1.1.1", "ff05::1", "240.0.0.1",
     "255.255.255.255", "pay.example.org", "010.0.0.1", ""],
)  # fmt: skip
def test_an_address_that_no_pod_could_dial_is_refused(address: str) -> None:
    with pytest.raises(Rejected):
        slice_entry.canonical(PAY, replace(RICH, address=address))


@pytest.mark.parametrize("number", [0, -1, 65536, 2**31])
def test_a_port_that_is_none_is_refused_though_the_server_takes_it(number: int) -> None:
    with pytest.raises(Rejected):
        slice_entry.canonical(PAY, replace(RICH, ports=(Port(number),)))


def test_canonical_changes_what_the_server_would_refuse_and_nothing_else() -> None:
    assert slice_entry.canonical(PAY, RICH) is RICH
    assert slice_entry.canonical(PAY, replace(RICH, address="2001:DB8::7")).address == "2001:db8::7"
    assert slice_entry.canonical(PAY, replace(RICH, address="::ffff:192.0.2.7")).address == "192.0.2.7"


@pytest.mark.parametrize(
    "refused",
    [replace(RICH, ports=()), replace(RICH, id=""), replace(RICH, weight=float("nan")), replace(RICH, version="\ud83d"),
     replace(RICH, metadata={"long": "x" * slice_entry.MOST_BYTES})],
    ids=["ports", "id", "weight", "surrogate", "long"],
)  # fmt: skip
def test_what_no_slice_can_hold_is_refused(refused: Instance) -> None:
    with pytest.raises(Rejected):
        slice_entry.canonical(PAY, refused)


def test_names_are_those_of_dns_and_have_a_hash_where_two_would_meet() -> None:
    names = ["pay", "PAY-SERVICE", "com.example.Pay", "1pay", "платёж", "x" * 70, "pay_v2"]
    made = [slice_entry.dns_name(name) for name in names]
    assert made[:4] == ["pay", "pay-service", "com-example-pay", "s-1pay"]
    assert all(slice_entry.dns_name(name) == name for name in made)
    assert len(set(made)) == len(names)
    taken = {slice_entry.dns_name(name, taken=True) for name in ("Pay", "PAY", "pay")}
    assert len(taken) == 3
    assert all(slice_entry.dns_name(name) == name for name in taken)


def test_port_names_are_labels_and_unique_within_a_slice() -> None:
    ports = (Port(1, "Web UI"), Port(2, "web-ui"), Port(3), Port(4, "", "http"), Port(5, "ж"))
    names = {port.port: port.name or "" for port in kubernetes.ports_of(ports)}
    assert names[2] == "web-ui"
    assert names[4] == "http"
    assert len(set(names.values())) == 5
    assert all(0 < len(name) <= 63 and name.replace("-", "").isalnum() for name in names.values())
