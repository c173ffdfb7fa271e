"""What is left to be done of each name, whatever happens to it meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from bridge.destination.backlog import Backlog
from bridge.model import ServiceName
from bridge.sources.store import Seen

A, B, C = (ServiceName(name) for name in "abc")


class Woken:
    """A backlog that was read once, and how often it woke its consumer."""

    def __init__(self) -> None:
        self.times = 0
        self.now = 0.0
        self.backlog = Backlog(lambda: Seen(self.now, 7), self._wake)
        with self.backlog.reading():
            pass

    def _wake(self) -> None:
        self.times += 1


@pytest.fixture
def woken() -> Woken:
    return Woken()


def test_everything_is_to_be_read_at_first() -> None:
    backlog = Backlog(lambda: Seen(0.0, 0), lambda: None)
    assert backlog.is_unread
    assert not backlog.is_empty
    with backlog.reading() as reading:
        assert reading.names is None
    assert backlog.is_empty


def test_what_changed_twice_keeps_the_older_time(woken: Woken) -> None:
    woken.backlog.add(A, Seen(1.0, 1))
    woken.now = 5.0
    woken.backlog.plan_again([A, B])
    assert woken.backlog.oldest == Seen(1.0, 1)
    assert woken.backlog.take(A) == Seen(1.0, 1)
    assert woken.backlog.take(B) == Seen(5.0, 7)
    woken.backlog.nothing_to_write(A)
    woken.backlog.nothing_to_write(B)
    assert woken.backlog.oldest is None
    assert woken.times == 1


def test_what_is_under_way_is_not_written_yet(woken: Woken) -> None:
    """A write that a store does not answer is not done: a lag of nothing would say that it is."""
    backlog = woken.backlog
    backlog.add(A, Seen(1.0, 1))
    assert not backlog.is_at_rest
    seen = backlog.take(A)
    assert backlog.is_to_do(A) and backlog.oldest == Seen(1.0, 1) and not backlog.is_at_rest
    backlog.begin(A, seen)
    assert backlog.oldest == Seen(1.0, 1) and not backlog.is_at_rest
    backlog.end({A})
    assert backlog.oldest is None and backlog.is_at_rest
    backlog.read_again()
    assert not backlog.is_at_rest


def test_what_an_error_kept_from_being_sent_is_planned_again(woken: Woken) -> None:
    woken.backlog.add(A, Seen(1.0, 1))
    woken.backlog.take(A)
    woken.backlog.resume()
    assert woken.backlog.since(A) == Seen(1.0, 1)


def test_a_name_under_a_write_is_planned_when_that_has_ended(woken: Woken) -> None:
    backlog = woken.backlog
    backlog.begin(A, Seen(1.0, 1))
    backlog.add(A, Seen(1.0, 1))
    backlog.add(B, Seen(2.0, 2))
    assert backlog.ready() == [B]
    backlog.end({A})
    assert backlog.ready() == [A, B]
    backlog.take(A)
    backlog.begin(A, Seen(1.0, 1))
    backlog.end_and_plan({A})
    assert backlog.ready() == [B, A]


def test_what_is_written_while_it_is_read_is_read_again(woken: Woken) -> None:
    backlog = woken.backlog
    backlog.begin(A, Seen(1.0, 1))
    backlog.read_again([A, B])
    with backlog.reading() as reading:
        assert reading.names == frozenset({B})
        backlog.begin(C, Seen(1.0, 1))
        backlog.wrote([B])
        assert reading.written == {A, B}
    assert backlog.is_unread
    backlog.end({A, C})
    with backlog.reading() as reading:
        assert reading.names == frozenset({A, B})
    assert not backlog.is_unread


def fail(backlog: Backlog, *also: ServiceName) -> None:
    """A reading that comes to nothing, while these (none: all) are found to be unread."""
    with backlog.reading():
        backlog.read_again(also or None)
        raise OSError("down")


def test_a_reading_that_failed_is_still_to_be_done(woken: Woken) -> None:
    backlog = woken.backlog
    backlog.read_again([A])
    with pytest.raises(OSError, match="down"):
        fail(backlog, B)
    with backlog.reading() as reading:
        assert reading.names == frozenset({A, B})
    backlog.read_again([A])
    with pytest.raises(OSError, match="down"):
        fail(backlog)
    with backlog.reading() as reading:
        assert reading.names is None


def test_nothing_is_readable_while_all_of_it_is_being_written(woken: Woken) -> None:
    backlog = woken.backlog
    backlog.begin(A, Seen(1.0, 1))
    backlog.read_again([A])
    assert backlog.is_unread
    assert not backlog.is_readable
    backlog.end({A})
    assert backlog.is_readable


async def test_of_two_timers_the_earlier_one_counts(woken: Woken) -> None:
    backlog = woken.backlog
    backlog.plan_after(A, 3600.0)
    backlog.plan_after(A, 0.0)
    backlog.plan_after(A, 3600.0)
    assert not backlog.is_empty
    async with asyncio.timeout(10):
        while not backlog.ready():
            await asyncio.sleep(0)
    assert backlog.sizes() == {"dirty": 1, "busy": 0, "unread": 0, "timers": 0}


def test_what_was_owed_once_is_paid_though_more_has_come(woken: Woken) -> None:
    backlog = woken.backlog
    assert backlog.owes("me")
    backlog.begin(A, Seen(1.0, 1))  # planned before
    backlog.add(B, Seen(1.0, 1))
    backlog.begin(C, Seen(1.0, 1))
    backlog.add(C, Seen(1.0, 1))  # changed while it is written
    assert backlog.owe("me") and backlog.owes("me")
    backlog.end({A, C})
    backlog.add(A, Seen(2.0, 2))
    backlog.take(B)
    backlog.nothing_to_write(B)
    assert backlog.owes("me")  # C is to be planned
    backlog.take(C)
    backlog.begin(C, Seen(1.0, 1))
    backlog.end_and_plan({C})  # which failed
    assert backlog.owes("me")
    backlog.take(C)
    backlog.begin(C, Seen(1.0, 1))
    backlog.add(C, Seen(3.0, 3))
    backlog.end({C})
    assert not backlog.owes("me") and not backlog.is_empty


def test_nothing_is_owed_before_everything_is_read() -> None:
    backlog = Backlog(lambda: Seen(0.0, 0), lambda: None)
    assert not backlog.owe("me") and backlog.owes("me")
    with backlog.reading():
        pass
    assert backlog.owe("me") and not backlog.owes("me")
    backlog.restart()
    assert backlog.owes("me")
