"""A flapping instance and a herd of losses wait; everything else does not."""

from __future__ import annotations

from bridge.guard.pace import FLAP_EVERY, FREE_WRITES, HERD_COUNT, SETTLE, Flaps, Herds
from bridge.model import ServiceName

PAY = ServiceName("pay")


def test_a_flapping_instance_is_written_once_a_second_after_its_free_writes() -> None:
    flaps = Flaps()
    now = written = 0.0
    while now < 20:
        if not flaps.wait("i1", now):
            flaps.wrote("i1", now)
            written += 1
        now += 0.05
    assert FREE_WRITES <= written <= FREE_WRITES + 20 / FLAP_EVERY
    assert not flaps.wait("i2", now)


def test_what_was_quiet_for_long_has_its_free_writes_again() -> None:
    flaps = Flaps()
    for _ in range(FREE_WRITES):
        flaps.wrote("i1", 0.0)
    assert flaps.wait("i1", 0.0) > 0
    assert not flaps.wait("i1", FREE_WRITES * FLAP_EVERY)


def test_of_a_herd_the_first_few_go_and_the_others_wait_to_be_judged_together() -> None:
    herds = Herds()
    went = 0
    for n in range(100):
        if not herds.wait("scope", PAY, f"i{n}", 100, 0.0):
            herds.goes("scope", 0.0)
            went += 1
    assert went == HERD_COUNT
    assert not herds.wait("scope", PAY, "i99", 100, SETTLE)
    assert not herds.wait("another", PAY, "i1", 100, 0.0)


def test_single_losses_far_apart_never_wait() -> None:
    herds = Herds()
    for n in range(100):
        assert not herds.wait("scope", PAY, f"i{n}", 100, n * SETTLE)
        herds.goes("scope", n * SETTLE)
