"""Names in the keyspace: ranges, ledger and lock keys, leases, and what roles allow; no server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mappings.grpc
import mappings.kratos
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import permissions
from adapters.etcd.keys import FOREIGN, Range, Space, is_ours, lease_of, without
from bridge.model import ServiceName
from mappings.ledger import decode, encode
from tests.adapters.etcd.lab import mark

KEYS = st.binary(min_size=1, max_size=4)
PERMISSION = pb.Permission


def inside(key: bytes, area: Range) -> bool:
    return area.start <= key and (area.end == b"\0" or key < area.end)


@given(KEYS, st.binary(max_size=2))
def test_a_prefixs_range_has_the_keys_that_begin_with_it_and_no_others(key: bytes, prefix: bytes) -> None:
    assert inside(key, Range.below(prefix)) == key.startswith(prefix)


@given(KEYS, st.lists(st.text(min_size=1, max_size=2).map(str.encode), max_size=4))
def test_what_is_excluded_from_a_range_is_in_none_of_its_parts(key: bytes, excluded: list[bytes]) -> None:
    parts = list(without(Range.below(b""), excluded))
    times = sum(inside(key, part) for part in parts)
    assert times == (0 if any(key.startswith(each) for each in excluded) else 1)


def test_an_empty_prefix_reads_all_but_ledger_other_layouts_and_kubernetes() -> None:
    space = Space(mappings.grpc, "", "grpc")
    for foreign in FOREIGN:
        key = f"{foreign}user/i1".encode()
        assert not space.has(key)
        assert not any(inside(key, area) for area in space.entries)
    for own in (b"user/i1", b"/microservice/i1", b"zookeeper/i1", b"/isthmus/"[:-1] + b"2/i1"):
        assert space.has(own)
        assert sum(inside(own, area) for area in space.entries) == 1


def test_a_layout_below_its_own_prefix_reads_that_prefix_alone() -> None:
    space = Space(mappings.kratos, "/microservices/", "")
    assert space.entries == (Range(b"/microservices/", b"/microservices0"),)
    assert space.ledger == Range(b"/isthmus/ledger//microservices/", b"/isthmus/ledger//microservices0")
    assert space.locate(space.key(ServiceName("user"), "i1")) == (ServiceName("user"), "i1")
    assert space.locate(b"/microservices/\xff/i1") is None


def test_every_destination_has_a_lock_of_its_own_for_every_bridge() -> None:
    spaces = [Space(mappings.grpc, prefix, "") for prefix in ("", "/", "a/b", "a%2Fb")]
    locks = {space.own.lock(bridge) for space in spaces for bridge in ("b1", "b1/grpc", "b1:")}
    assert len(locks) == 12


def test_our_leases_are_known_by_their_pattern_and_the_same_after_a_restart() -> None:
    leases = {lease_of(bridge, "etcd:1:grpc:", ttl) for bridge in ("b1", "b2") for ttl in (30, 60)}
    assert len(leases) == 4
    assert all(is_ours(lease) and lease < 1 << 63 for lease in leases)
    assert lease_of("b1", "etcd:1:grpc:", 30) in leases
    assert not is_ours(4590190603490283276)  # one that etcd granted to go-zero


def test_a_mark_survives_the_ledger_and_another_format_is_not_guessed_at() -> None:
    assert decode(encode(mark("i1"))) == mark("i1")
    assert encode(mark("i1")).startswith(b'{"v":1,"owner":"b1"')
    for other in (b"", b"{}", b'{"v":2,' + encode(mark("i1"))[7:], b'{"v":1,"owner":7}'):
        assert decode(other) is None


@pytest.mark.parametrize(
    ("granted", "wanted", "allowed"),
    [
        ([(b"a", b"c")], [(b"a", b"c")], True),
        ([(b"a", b"c")], [(b"a", b"d")], False),
        ([(b"a", b"b"), (b"b", b"d")], [(b"a", b"c")], True),
        ([(b"a", b"b"), (b"c", b"d")], [(b"a", b"d")], False),
        ([(b"\0", b"\0")], [(b"\0", b"\0"), (b"x", b"y")], True),
        ([(b"a", b"\0")], [(b"b", b"\0")], True),
        ([(b"a", b"\0")], [(b"\0", b"\0")], False),
        ([(b"a", b"")], [(b"a", b"b")], False),
        ([], [(b"a", b"b")], False),
        ([(b"a", b"c"), (b"x", b"z")], [(b"a", b"b"), (b"x", b"y")], True),
    ],
)
def test_roles_allow_what_their_ranges_cover_together(
    granted: list[tuple[bytes, bytes]], wanted: list[tuple[bytes, bytes]], allowed: bool
) -> None:
    areas = [Range(*each) for each in wanted]
    reading = [PERMISSION(type=PERMISSION.READ, key=key, range_end=end) for key, end in granted]
    assert permissions.allows(reading, permissions.READ, areas) is allowed
    assert permissions.allows(reading, permissions.WRITE, areas) is False
