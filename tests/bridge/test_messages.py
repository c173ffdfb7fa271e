"""Reasons that somebody reads at night: what is wrong, and what would be right; no decoder's words, no class's name."""

from __future__ import annotations

import json
import re

import pytest
from aiokafka.errors import NodeNotReadyError, RequestTimedOutError
from kazoo.exceptions import InvalidACLError, NoAuthError, SessionExpiredError

from adapters.zookeeper.replies import error_of
from bridge.adapter import Listing, Synced
from bridge.errors import Unavailable, Undecodable, reason
from bridge.model import Instance, Port, ServiceName
from bridge.sources.store import Store
from mappings.pairs import LAYOUTS
from tests.bridge.plan.test_route import POOR, goal, supply

# Words of decoders, of Python and of client libraries, none of which means anything to who reads a reason.
JARGON = re.compile(
    r"Expected `|, got `|Traceback|codec can't|invalid literal|malformed|\b[A-Z]\w+(Error|Exception)\b|None"
)


def record(**fields: object) -> bytes:
    return json.dumps({"name": "pay", "address": "192.0.2.1", "port": 80, **fields}).encode()


RECORDS = [
    *(b"", b"null", b"[]", b"{", b"\xff", b'"text"', b"{}", b'{"name":5,"nodes":7}', b"[" * 100_000),
    *(record(port="http"), record(sslPort="https"), record(payload=None), record(payload="text"), record(payload={})),
    *(record(payload={"@class": "com.x.Y"}), record(payload={"@class": None}), record(enabled="perhaps")),
    *(record(address=7), record(registrationTimeUTC="yesterday")),
]


def why(layout: str, value: bytes) -> str:
    """Why a record is unreadable, "" if it can be read."""
    try:
        LAYOUTS[layout].decode(ServiceName("pay"), "i1", value, "http")
    except Undecodable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_no_reason_for_an_unreadable_record_is_in_a_decoders_words(layout: str) -> None:
    reasons = {value: why(layout, value) for value in RECORDS}
    assert sum(map(bool, reasons.values())) > 8
    assert [said for said in reasons.values() if JARGON.search(said)] == []
    assert [said for value, said in reasons.items() if len(value) < 200 and len(said) > 400] == []


@pytest.mark.parametrize(
    ("layout", "value", "said"),
    [
        ("curator", b"", "not a Curator record: the node is empty"),
        ("kratos", b"", "not a kratos record: it is empty"),
        ("grpc", b"{}", "not a record of etcd's endpoints manager: it names no address"),
        ("spring", b'{"payload":"x","port":1}', "not a Spring Cloud ZooKeeper record: no address"),
        ("dubbo3", b'{"address":"h","payload":{}}', "not a Dubbo 3 instance: its payload: it has no @class"),
        ("curator", b'{"address":"h","port":"a"}', "not a Curator record: port is 'a'; should be a whole number"),
        ("kitex", b'{"weight":"ten"}', "not a kitex record: weight: it is text; should be a whole number"),
        ("go-zero", b"\xff", "'i1' is no number as go-zero makes them, and the value no address: it is not UTF-8"),
    ],
)  # fmt: skip
def test_an_unreadable_record_says_what_is_wrong_where(layout: str, value: bytes, said: str) -> None:
    assert why(layout, value) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectionResetError(), "connection reset"),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (NodeNotReadyError(), "node not ready"),
        (RequestTimedOutError("to 1"), "request timed out: to 1"),
        (error_of(SessionExpiredError()), "session expired"),
        (error_of(InvalidACLError(), "/pay"), "invalid acl"),
        (error_of(NoAuthError(), "/pay"), "/pay: our user may not do this there: grant it r, w, c and d, or r to read"),
        (Unavailable("etcdserver: no leader"), "etcdserver: no leader"),
    ],
)
def test_an_error_without_a_text_has_one_and_one_with_a_text_keeps_it(error: Exception, said: str) -> None:
    assert reason(error) == said


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (Listing("other", "1", 9), "another store answers: it is other, and was store"),
        (
            Listing("store", "2", 9),
            "the store was restored, swapped or started anew: its life is 2, and was 1",
        ),
        (Listing("store", "1", 3), "the store went back, as after a restore: it is at revision 3, and was at 9"),
    ],
)
def test_a_life_that_is_not_believed_says_what_is_different(after: Listing, said: str) -> None:
    view = Store(lambda: 0.0).view("source", "")
    view.begin(Listing("store", "1", 9))
    view.sync(Synced(9))
    view.begin(after)
    assert view.doubt == said


@pytest.mark.parametrize(
    ("port", "said"),
    [
        ("9010", ""),
        (9010, ""),
        ("admin", ""),
        ("9011", "no port '9011': it has http 9000, admin 9010"),
        (None, "ambiguous port: http 9000, admin 9010; name one by port:"),
    ],
)
def test_a_port_is_found_by_its_number_however_written_or_named(port: str | int | None, said: str) -> None:
    two = Instance("i1", "192.0.2.1", (Port(9000, "http"), Port(9010, "admin")))
    found = goal(supply(two, port=port), traits=POOR)
    assert [refusal.reason for refusal in found.refused.values()] == [said] * bool(said)
    assert not said or not found.wanted.get("i1")
    assert said or [one.number for one in found.wanted["i1"].instance.ports] == [9010]


def test_a_dubbo_url_is_told_by_its_host_and_port() -> None:
    url = "dubbo%3A%2F%2F192.0.2.1%3A20880%2Fcom.foo.Bar%3Fapplication%3Dpay%26side%3Dprovider%26timestamp%3D1"
    place = LAYOUTS["dubbo2"].locate(f"com.foo.Bar/providers/{url}")
    assert place is not None and place[0] == ServiceName("com.foo.Bar")
    assert re.fullmatch(r"192\.0\.2\.1:20880-[0-9a-f]{12}", place[1])
