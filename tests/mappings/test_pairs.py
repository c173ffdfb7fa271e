"""The table of pairs: every pair has one verdict, and places that must be kept apart are."""

from __future__ import annotations

from itertools import combinations

import pytest

from mappings import pairs
from mappings.pairs import LAYOUTS, pair
from tests.mappings.layouts import golden

NAMES = sorted(pairs.TRAITS)


@pytest.mark.parametrize("source", NAMES)
@pytest.mark.parametrize("target", NAMES)
def test_every_pair_has_one_verdict_and_its_reason(source: str, target: str) -> None:
    said = pair(source, target)
    assert (said.verdict == "lossy") is bool(said.lost)
    assert (said.verdict == "full") is (said.why == "")
    if source == target:
        assert said.verdict == ("refused" if target == "dubbo3" else "full")
    if target in ("file", "memory"):
        assert said.verdict == "full"


def test_nothing_but_dubbo_goes_into_dubbo() -> None:
    taken = {source for source in NAMES if pair(source, "dubbo2").verdict != "refused"}
    assert taken == {"dubbo2", "file", "memory"}
    assert all(pair(source, "dubbo3").verdict == "refused" for source in NAMES)


ETCD = ("grpc", "kratos", "kitex", "go-zero", "go-micro")
APART = [*combinations(ETCD, 2), ("curator", "spring")]


@pytest.mark.parametrize(("one", "other"), APART)
def test_layouts_that_poison_each_other_are_refused_in_one_place_only(one: str, other: str) -> None:
    for source, target in ((one, other), (other, one)):
        assert pair(source, target).verdict != "refused"
        assert pair(source, target, same_root=True).verdict == "refused"
        assert pair(source, target, same_root=True).why == pairs.apart(one, other) != ""
    assert pair(one, one, same_root=True).verdict == "full"


@pytest.mark.parametrize("layout", ETCD)
def test_a_record_in_etcd_is_known_by_its_form(layout: str) -> None:
    assert {pairs.recognized(record.value) for record in golden(layout)} == {layout}


@pytest.mark.parametrize("value", [b"", b"{}", b"null", b"text", b"[]", b'{"a":1}', b"\xff", b"{", b"h:99999"])
def test_a_record_of_no_layout_is_not_taken_for_one(value: bytes) -> None:
    assert pairs.recognized(value) == ""


def test_what_is_lost_is_said_in_words() -> None:
    assert pair("kratos", "kitex").lost == ("id", "version", "all ports but one", "protocol", "tls")
    assert pair("kratos", "kitex").why == "kitex cannot say: id, version, all ports but one, protocol, tls"
    assert pair("dubbo2", "kratos").lost == ("namespace",)
    assert pair("file", "spring").lost[-1] == "DEGRADED, which reads as HEALTHY"


def test_traits_without_a_name_are_judged_too() -> None:
    everything = pairs.TRAITS["file"]
    assert pair(everything, "grpc").lost == pair("file", "grpc").lost
    assert pair("grpc", everything).verdict == "full"
    assert pair(LAYOUTS["grpc"].TRAITS, LAYOUTS["kitex"].TRAITS).lost == ("id", "protocol")
