"""Uneven weights are told once a second, and what goes at once."""

from __future__ import annotations

from adapters.xds.pace import EVERY, Pace
from bridge.model import Health, Instance, Port, ServiceName

PAY = ServiceName("pay")


def some(health: Health = Health.UNKNOWN, **weights: float) -> dict[str, Instance]:
    ports = (Port(80, "web", "http"),)
    return {id: Instance(id, f"192.0.2.{id[1:]}", ports, weight=one, health=health) for id, one in weights.items()}


def test_uneven_weights_wait_their_turn_and_the_newest_is_told() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert not pace.waits(PAY, some(i1=1.0, i2=0.1)), "the first time at once"
    now[0] += EVERY / 4
    assert pace.waits(PAY, some(i1=1.0, i2=0.2))
    assert pace.waits(PAY, some(i1=1.0, i2=0.3, i3=1.0))
    assert (pace.late, pace.due) == ({PAY}, EVERY * 3 / 4)
    now[0] += EVERY
    assert pace.due == 0.0
    assert not pace.waits(PAY, some(i1=1.0, i2=0.3, i3=1.0))
    assert not pace.late and pace.due is None


def test_whatever_takes_something_away_is_told_at_once() -> None:
    before = some(i1=1.0, i2=0.1)
    for after in (
        some(i1=0.5),
        some(i1=1.0, i3=0.1),
        some(Health.DRAINING, i1=1.0, i2=0.1),
        {**before, "i2": Instance("i2", "192.0.2.9", before["i2"].ports, weight=0.1)},
        {},
    ):
        pace = Pace(lambda: 100.0)
        assert not pace.waits(PAY, before)
        assert pace.waits(PAY, some(i1=1.0, i2=0.2))
        assert not pace.waits(PAY, after)
        assert pace.late == set(), "with all that waits"


def test_equal_weights_never_wait() -> None:
    pace = Pace(lambda: 100.0)
    for number in range(1, 5):
        weights = {f"i{each}": 1.0 for each in range(1, number + 1)}
        assert not pace.waits(PAY, some(Health.UNKNOWN, **weights))
