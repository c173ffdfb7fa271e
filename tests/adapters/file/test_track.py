"""When a file counts as complete: pure, in invented time."""

from __future__ import annotations

from adapters.file.track import MOMENT, PATIENCE, UNKNOWN, Heard, Track

WALL = 1_000_000.0  # seconds


def state(number: int, age: float = 0.0) -> tuple[int, ...]:
    return (int((WALL - age) * 1e9), number)


def test_a_file_that_is_old_is_read_at_once() -> None:
    assert Track().look({"a": state(1, age=60)}, Heard(), 0, WALL) == {"a"}


def test_a_file_of_just_now_is_read_when_it_has_rested() -> None:
    track = Track()
    assert not track.look({"a": state(1)}, Heard(), 0, WALL)
    assert track.due == MOMENT
    assert not track.look({"a": state(2)}, Heard(), MOMENT, WALL)
    assert track.due == 2 * MOMENT
    assert track.overdue(2 * MOMENT) == {"a"}
    assert track.look({"a": state(2)}, Heard(), 2 * MOMENT, WALL) == {"a"}
    assert track.due is None


def test_a_file_that_was_closed_is_read_at_once_even_in_a_known_state() -> None:
    track = Track()
    heard = Heard(closed={"a"})
    assert track.look({"a": state(1)}, heard, 0, WALL) == {"a"}
    assert not track.look({"a": state(1)}, Heard(), 0, WALL)
    assert track.look({"a": state(1)}, heard, 0, WALL) == {"a"}  # two writes in one tick of the file system's clock


def test_a_clock_that_is_wrong_does_not_stop_a_file() -> None:
    track = Track()
    assert not track.look({"a": state(1, age=-3600)}, Heard(), 0, WALL)
    assert track.look({"a": state(1, age=-3600)}, Heard(), MOMENT, WALL) == {"a"}


def test_a_file_is_gone_when_it_stays_away() -> None:
    track = Track()
    track.look({"a": state(1, age=60)}, Heard(), 0, WALL)
    assert not track.look({"a": None}, Heard(closed={"a"}), 1, WALL)
    assert track.look({"a": None}, Heard(), 1 + MOMENT, WALL) == {"a"}
    assert not track.known


def test_a_file_that_comes_back_was_never_gone() -> None:
    track = Track()
    track.look({"a": state(1, age=60)}, Heard(), 0, WALL)
    track.look({"a": None}, Heard(), 1, WALL)
    assert not track.look({"a": state(1, age=60)}, Heard(), 1 + MOMENT, WALL)
    assert track.due is None


def test_a_writer_that_keeps_the_file_open_has_more_time() -> None:
    track = Track()
    heard = Heard(open={"a"})
    assert not track.look({"a": state(1)}, heard, 0, WALL)
    assert not track.look({"a": state(1)}, heard, 2 * MOMENT, WALL + 2 * MOMENT)
    assert track.look({"a": state(1)}, heard, PATIENCE, WALL + PATIENCE) == {"a"}


def test_a_file_that_is_written_for_ever_is_not_waited_for() -> None:
    track = Track()
    number, now = 0, 0.0
    while not track.look({"a": state(number)}, Heard(open={"a"}), now, WALL):
        assert not track.whole
        number, now = number + 1, now + 1
    assert track.whole
    assert track.known == {"a": UNKNOWN}
    assert PATIENCE < now < 2 * PATIENCE
