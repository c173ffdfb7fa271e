"""What a changed file adds to a name that is served waits for the operator; everything else flows."""

from __future__ import annotations

from msgspec.structs import replace

from bridge.adapter import Change, Entry
from bridge.guard.additions import Additions
from bridge.link import Item, Services
from bridge.model import ServiceName
from tests.kit.builders import PAY, instance, link, mark

OLD = link("target", "source", name="link")
OTHER = ServiceName("other")


def additions() -> Additions:
    return Additions(lambda _: Item("source"))


def add(id: str = "i1") -> Change:
    return Change(PAY, id, None, instance(id), mark(id))


def test_nothing_waits_before_the_file_changes() -> None:
    assert not additions().waits(PAY, add(), 3)


def test_a_new_link_adds_to_what_is_served_by_approval_alone() -> None:
    made = additions()
    made.changed([], [OLD], lambda *_: ())
    assert made.waits(PAY, add(), 3)
    assert made.waits(PAY, add("i2"), 3)


def test_a_new_link_flows_where_nothing_serves_yet_and_goes_on_to() -> None:
    made = additions()
    made.changed([], [OLD], lambda *_: ())
    assert not made.waits(PAY, add(), 0)
    assert not made.waits(PAY, add("i2"), 1)


def test_an_unchanged_link_flows() -> None:
    made = additions()
    made.changed([OLD], [replace(OLD, guard=replace(OLD.guard, window=5.0))], lambda *_: ())
    assert not made.waits(PAY, add(), 3)


def test_more_services_of_a_link_wait_and_those_it_had_flow() -> None:
    made = additions()
    before = replace(OLD, services=Services(include=("other",)))
    made.changed([before], [OLD], lambda *_: {OTHER})
    assert made.waits(PAY, add(), 3)
    assert not made.waits(OTHER, add(), 3)


def test_other_ports_wait_and_other_metadata_flows() -> None:
    made = additions()
    made.changed([OLD], [replace(OLD, port="grpc")], lambda *_: {PAY})
    stands = Entry(instance("i1"), mark("i1"), 1)
    assert made.waits(PAY, Change(PAY, "i1", stands, instance("i1", port=9090), mark("i1")), 3)
    assert not made.waits(PAY, Change(PAY, "i1", stands, instance("i1", version="2"), mark("i1")), 3)


def test_another_registry_under_the_same_name_is_a_new_origin() -> None:
    made = additions()
    made.distrust([OLD], ["another"])
    assert not made.waits(PAY, add(), 3)
    made.distrust([OLD], ["source"])
    assert made.waits(PAY, add(), 3)


def test_once_all_is_settled_only_what_still_waits_is_the_files_doing() -> None:
    made = additions()
    made.changed([], [OLD], lambda *_: ())
    made.settled(lambda _: False, [(PAY, mark("i1"))])
    assert made.waits(OTHER, add(), 3)  # its source has not listed everything yet
    made.settled(lambda _: True, [(PAY, mark("i1"))])
    assert not made.waits(OTHER, add(), 3)
    assert made.waits(PAY, add("i2"), 3)
    made.settled(lambda _: True, [])  # approved, and written
    assert not made.waits(PAY, add("i3"), 3)
    assert not made
