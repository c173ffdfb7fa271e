"""The judge of a group finds what it is there for: histories with two writers, and with none."""

from __future__ import annotations

import pytest

from tests.group.judge import NOBODY, Holders, Turn, Written, gaps, one_writer
from tests.kit.natives import Event, key, record

ONE, TWO = "one", "two"
PAY, CART = key("pay", "i1"), key("cart", "i1")


def shard_of(where: str) -> int:
    return int("cart" in where)


def wrote(revision: int, where: str, number: int | None) -> Event:
    """A record with that number was put under a key, None: it was removed; a second a revision."""
    value = record("s", "i1", "192.0.2.1", n=str(number)) if number is not None else None
    return Event(float(revision), revision, where, value)


TURNS = (Turn(2, 0, ONE), Turn(3, 1, TWO), Turn(10, 0, TWO), Turn(20, 1, NOBODY), Turn(25, 1, ONE))
HISTORY = (wrote(4, PAY, 1), wrote(5, CART, 2), wrote(11, PAY, 3), wrote(12, PAY, None), wrote(26, CART, 4))
SAID = {
    ONE: (Written(PAY, 1), Written(CART, 4)),
    TWO: (Written(CART, 2), Written(PAY, 3), Written(PAY, None)),
}


def test_a_history_with_one_writer_a_shard_is_in_order() -> None:
    verdict = one_writer(HISTORY, Holders(TURNS), SAID, shard_of)
    assert verdict == ([], {ONE: 2, TWO: 3}, 0)
    assert Holders(TURNS).terms(0) == [ONE, TWO]


@pytest.mark.parametrize(
    ("event", "process", "fault"),
    [
        (wrote(13, PAY, 9), ONE, "was written by one while two held its shard"),
        (wrote(13, CART, 9), ONE, "was written by one while two held its shard"),
        (wrote(9, PAY, None), TWO, "was written by two while one held its shard"),
        (wrote(10, PAY, 9), TWO, "was written by two while one held its shard"),
        (wrote(1, PAY, 9), ONE, "was written while nobody held its shard"),
        (wrote(22, CART, 9), TWO, "was written while nobody held its shard"),
        (wrote(13, PAY, 9), None, "who held its shard, does not say so"),
        (None, ONE, "the destination has no such write"),
    ],
)
def test_a_write_of_another_than_the_holder_is_found(event: Event | None, process: str | None, fault: str) -> None:
    history = sorted([*HISTORY, *([event] if event else [])], key=lambda one: one.revision)
    line = Written(event.key, 9 if event.value else None) if event else Written(PAY, 9)
    journals = {name: (*lines, line) if name == process else lines for name, lines in SAID.items()}
    found = one_writer(history, Holders(TURNS), journals, shard_of).faults
    assert any(fault in each for each in found), found


def test_two_that_wrote_the_same_are_told_apart_by_who_held_the_shard() -> None:
    again = wrote(13, PAY, 1)
    journals = {**SAID, TWO: (*SAID[TWO], Written(PAY, 1))}
    assert one_writer([*HISTORY, again], Holders(TURNS), journals, shard_of).faults == []


def test_who_was_killed_may_not_have_said_its_last_writes() -> None:
    journals = {**SAID, TWO: SAID[TWO][:-1]}
    assert one_writer(HISTORY, Holders(TURNS), journals, shard_of).faults
    verdict = one_writer(HISTORY, Holders(TURNS), journals, shard_of, killed=[TWO])
    assert (verdict.faults, verdict.unsaid) == ([], 1)


def test_a_shard_that_nobody_wrote_for_long_is_found() -> None:
    found = gaps(HISTORY, 2, shard_of, 0.0, 30.0)
    assert [(one.shard, one.seconds, one.since) for one in found] == [(0, 18.0, 12.0), (1, 21.0, 5.0)]
    assert gaps(HISTORY, 3, shard_of, 0.0, 8.0)[2].seconds == 8.0
