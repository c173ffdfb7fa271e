"""The records of a stream: what is encoded is read back, keys are printable, headers are those of a CloudEvent."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.errors import Rejected, Undecodable
from bridge.model import Health, Instance, Locality, Mark, Port, ServiceName
from mappings import kafka as mapping

PAY = ServiceName("pay", "core")
RICH = Instance(
    "i1",
    "2001:db8::1",
    (Port(9000, "grpc", "grpc", tls=True),),
    health=Health.DRAINING,
    weight=0.5,
    locality=Locality("eu", "eu-1"),
    version="v1",
    tags=("blue",),
    metadata={"team": "pay", "ключ": "\0"},
    native={"consul": "{}"},
)
MARK = Mark("b1", "core-to-stream", ("legacy", "core"), "dc1", ServiceName("pay", "eu"), "i1", "vm")

names = st.builds(
    lambda name, namespace, picture: mapping.in_picture(picture, ServiceName(name, namespace)),
    st.text(min_size=1, max_size=8),
    st.text(max_size=8),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,6}", fullmatch=True),
)


def test_a_record_is_read_back_as_it_was_written() -> None:
    place = mapping.Place(PAY, "i1")
    for mark in (MARK, None):
        assert mapping.decode(place, mapping.encode(PAY, RICH, mark)) == (RICH, mark)


@given(name=names, id=st.text(min_size=1, max_size=12))
def test_a_key_is_printable_and_says_which_instance_it_is_of(name: ServiceName, id: str) -> None:
    try:
        key = mapping.key_of(name, id)
    except UnicodeEncodeError:
        return
    assert key.decode("ascii").isprintable()
    assert mapping.place_of(key) == mapping.Place(name, id)
    assert mapping.picture_of(name) and mapping.in_picture(mapping.picture_of(name), mapping.own_name(name)) == name


@given(st.binary(max_size=40))
def test_no_key_and_no_value_breaks_a_reader(content: bytes) -> None:
    for read in (
        mapping.place_of,
        lambda value: mapping.decode(mapping.Place(PAY, "i1"), value),
        mapping.decode_complete,
    ):
        try:
            read(content)
        except Undecodable:
            continue


def test_a_service_is_in_one_partition_in_every_picture() -> None:
    for name in (ServiceName("pay"), ServiceName("pay", "eu")):
        found = {mapping.partition_of(mapping.in_picture(picture, name), 12) for picture in ("core", "legacy")}
        assert len(found) == 1


def test_an_instance_that_is_too_large_is_written_without_what_makes_it_so() -> None:
    large = replace(RICH, metadata={"blob": "x" * mapping.LONGEST})
    form = mapping.canonical(PAY, large)
    assert (form.address, form.ports, form.health, form.metadata) == (RICH.address, RICH.ports, RICH.health, {})
    assert mapping.canonical(PAY, form) is form
    value = mapping.encode(PAY, form, MARK)
    assert "bytes, and a record holds" in msgspec.json.decode(value)["reduced"]
    assert mapping.decode(mapping.Place(PAY, "i1"), value) == (form, MARK)
    assert mapping.canonical(PAY, RICH) is RICH


def test_what_no_record_can_hold_is_refused() -> None:
    for bad in (replace(RICH, id=""), replace(RICH, address=""), replace(RICH, version="\ud800")):
        with pytest.raises(Rejected):
            mapping.canonical(PAY, bad)


def test_headers_are_those_of_a_cloud_event_without_control_characters() -> None:
    more = (("cause", "event"),)
    about = mapping.About(mapping.REMOVED, "/isthmus/b1/core", "pay/i\n1", b"core//pay/i1", 7, 0.0, "id", more)
    assert dict(mapping.headers(about)) == {
        "content-type": b"application/json",
        "ce_specversion": b"1.0",
        "ce_id": b"id",
        "ce_source": b"/isthmus/b1/core",
        "ce_type": b"io.isthmus.state.removed.v1",
        "ce_subject": b"pay/i%0A1",
        "ce_time": b"1970-01-01T00:00:00.000000Z",
        "ce_partitionkey": b"core//pay/i1",
        "ce_sequence": b"00000000000000000007",
        "ce_cause": b"event",
    }
    assert mapping.sequence_of(mapping.headers(about)) == 7
