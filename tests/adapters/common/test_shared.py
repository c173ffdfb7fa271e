"""What adapters share, by itself: who may change what, the order of outcomes, portions, inboxes, files and places."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.common.assembly import REASONS, Ignored, Record, changed, decoded, observed
from adapters.common.changes import Outcomes, judge, portions, turn
from adapters.common.credentials import Pems, Tls
from adapters.common.inbox import Inbox, Latest
from adapters.common.places import Own, is_own
from bridge.adapter import Change, Entry, Outcome
from bridge.errors import Conflict, Rejected, Unavailable, Undecodable
from bridge.model import Instance, Mark, ServiceName

PAY = ServiceName("pay")
ONE = Instance("i1", "192.0.2.1")


def mark(owner: str) -> Mark:
    return Mark(owner, "link", ("a",), "", PAY, "i1")


def held(owner: str | None) -> Entry:
    return Entry(ONE, mark(owner) if owner is not None else None, 7)


def change(**fields: object) -> Change:
    return Change(PAY, "i1", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (change(after=ONE, mark=mark("b1")), None),
        (change(before=held("b1"), after=ONE, mark=mark("b1")), None),
        (change(before=held("b1")), None),
        (change(before=held("b1"), forget=True), None),
        (change(before=held(None), forget=True), None),  # a ledger entry that proves nothing any more
        (change(before=held("b2"), after=ONE, mark=mark("b1"), adopt=True), None),
        (change(before=held("b2"), after=ONE, mark=mark("b1")), Conflict),
        (change(before=held(None), after=ONE, mark=mark("b1")), Conflict),
        (change(before=held("b2")), Conflict),
        (change(before=held(None)), Conflict),
        (change(before=held("b2"), forget=True), Conflict),
        (change(forget=True), Conflict),
        (change(), Conflict),
        (change(after=ONE), Rejected),
        (change(after=ONE, mark=mark("b2")), Rejected),
    ],
)
def test_only_what_is_ours_may_be_changed_and_only_with_our_mark(
    asked: Change, refusal: type[Exception] | None
) -> None:
    if refusal is None:
        judge("b1", asked)
    else:
        with pytest.raises(refusal):
            judge("b1", asked)


def test_adds_come_first_and_outcomes_come_in_the_order_asked() -> None:
    removal, creation = change(before=held("b1")), change(after=ONE, mark=mark("b1"))
    replacement = change(before=held("b1"), after=ONE, mark=mark("b1"))
    asked = [removal, replacement, creation]
    assert sorted(asked, key=turn) == [creation, replacement, removal]
    outcomes = Outcomes(asked)
    outcomes.put(Outcome(creation, 1))
    outcomes.fail(removal, Conflict("gone"))
    with pytest.raises(KeyError):
        outcomes.in_order()
    outcomes.fail_others(Unavailable("no answer"))
    assert [type(each.error) for each in outcomes.in_order()] == [Conflict, Unavailable, type(None)]
    assert [each.change for each in outcomes.in_order()] == asked


@given(st.lists(st.integers(0, 30)), st.integers(1, 5), st.integers(1, 40))
def test_portions_lose_nothing_and_keep_their_limits(sizes: list[int], count: int, size: int) -> None:
    found = list(portions(sizes, lambda each: each, count, size))
    assert [each for portion in found for each in portion] == sizes
    for portion in found:
        assert 0 < len(portion) <= count
        assert sum(portion) <= size or len(portion) == 1


def test_one_bad_record_is_named_and_its_siblings_stand() -> None:
    def bad() -> Instance:
        raise Undecodable("no address")

    def buggy() -> Instance:
        raise KeyError("port")

    records: dict[str, Record | None] = {"i1": decoded(mark("b1"), lambda: ONE), "i2": decoded(None, bad), "i3": None}
    there = observed(PAY, records, 3)
    assert (there.service.instances, there.service.marks) == ({"i1": ONE}, {"i1": mark("b1")})
    assert there.unreadable == {"i2"}
    assert "bug" in decoded(None, buggy).why
    assert changed(there, {"i2": decoded(None, bad)}) is None
    after = changed(there, {"i1": None, "i2": decoded(None, lambda: ONE)})
    assert after is not None
    assert (after.service.instances, after.service.marks) == ({"i2": ONE}, {})
    assert not after.unreadable


def test_the_reasons_that_are_kept_are_bounded_and_the_latest() -> None:
    ignored = Ignored()
    for n in range(REASONS + 10):
        ignored.put(f"k{n}", "bad")
    assert len(ignored) == REASONS
    assert f"k{REASONS + 9}" in ignored
    ignored.drop(f"k{REASONS + 9}")
    ignored.drop("never there")
    assert len(ignored) == REASONS - 1


async def test_a_failure_is_told_after_what_came_before_it() -> None:
    inbox: Inbox[int] = Inbox(2)

    async def tell() -> None:
        for n in range(3):
            await inbox.put(n)
        raise Unavailable("broke")

    task = inbox.run(tell)
    items: list[int] = []
    failure: Exception | None = None
    while failure is None:
        some, failure = await inbox.take()
        assert len(some) <= 2  # what is read ahead is bounded
        items += some
    assert (items, str(failure)) == ([0, 1, 2], "broke")
    await task


async def test_what_was_overtaken_is_never_seen() -> None:
    latest: Latest[str, int] = Latest()
    for key, value in (("a", 1), ("b", 2), ("a", 3)):
        latest.put(key, value)
    latest.fail(Unavailable("broke"))
    assert list((await latest.take()).items()) == [("b", 2), ("a", 3)]
    with pytest.raises(Unavailable):
        await latest.take()
    waiting = asyncio.create_task(Latest[str, int]().take())
    done, _ = await asyncio.wait({waiting}, timeout=0)
    assert not done
    waiting.cancel()


def test_a_certificate_without_its_key_and_missing_files_are_said(tmp_path: Path) -> None:
    assert [fault.key for fault in Tls(cert="c.pem").faults()] == [("tls",)]
    with pytest.raises(Unavailable):
        Pems().read(Tls(ca=str(tmp_path / "no.pem")))


def test_every_destination_has_places_of_its_own_for_every_bridge() -> None:
    destinations = [Own("grpc", root) for root in ("", "/", "a/b", "a%2Fb")]
    bridges = ("b1", "b1/grpc", "b1:")
    assert len({own.lock(bridge) for own in destinations for bridge in bridges}) == 12
    for own in destinations:
        assert [own.bridge_of(own.lock(bridge)) for bridge in bridges] == list(bridges)
        assert own.bridge_of(own.note("b1")) is None
        assert all(is_own(own.note(bridge)) for bridge in bridges)
    assert destinations[0].bridge_of(destinations[1].lock("b1")) is None
    assert not is_own("/isthmus-of-others/x")
