"""Which life of a Eureka answers: by the number of its delta and its uptime, each peer by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.eureka.answers import page
from adapters.eureka.life import Lives

ONE, OTHER = "http://192.0.2.1/eureka", "http://192.0.2.2/eureka"
NOON = 1_800_000_000.0


class Clock:
    """Seconds since the epoch, set by hand."""

    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lives(clock: Clock, path: Path | None = None) -> Lives:
    """A peer that was up for ten minutes, whose delta had the number 7."""
    made = Lives(path, clock)
    made.saw(ONE, 7, 10)
    return made


def test_a_peer_whose_delta_counts_from_the_start_has_restarted(clock: Clock) -> None:
    assert not lives(clock).is_same(ONE, 6, None)
    assert lives(clock).is_same(ONE, 7, None)
    assert lives(clock).is_same(ONE, 900, 10)


@pytest.mark.parametrize(
    ("later", "uptime", "same"), [(60, 11, True), (60, 0, False), (3600, 70, True), (3600, 59, False)]
)
def test_a_peer_that_is_up_for_too_short_a_time_has_restarted(
    clock: Clock, later: float, uptime: int, same: bool
) -> None:
    made = lives(clock)
    clock.now += later
    assert made.is_same(ONE, 7, uptime) is same


def test_another_peer_is_another_list_of_the_same_life(clock: Clock) -> None:
    made = lives(clock)
    assert made.is_same(OTHER, 1, 0)
    made.saw(OTHER, 1, 0)
    assert made.life == ""
    assert made.is_same(ONE, 7, 10)


async def test_what_was_seen_of_each_peer_outlives_the_process(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "eureka.old.json"
    before = lives(clock, path)
    before.begin(OTHER, 1, 0)
    await before.close()
    after = Lives(path, clock)
    assert after.life == before.life != ""
    assert not after.is_same(ONE, 6, None)
    path.write_text("{torn")
    assert Lives(path, clock).life == ""


def test_the_uptime_is_read_of_the_page_for_people() -> None:
    html = "<td>Uptime</td>\n        <td>{}</td><td>Lease expiration enabled</td>\n <td>false</td>"
    assert page(html.format("00:15")) == (15, False)
    assert page(html.format("1 day 02:03")) == (26 * 60 + 3, False)
    assert page(html.format("12 days 00:00")).uptime == 12 * 24 * 60
    assert page("<html>somebody else's</html>") == (None, None)
