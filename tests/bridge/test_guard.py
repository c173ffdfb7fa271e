"""The guard's limits, one by one."""

from __future__ import annotations

import pytest

from bridge.adapter import Cause
from bridge.guard import Level, Windows, judge
from bridge.link import Guard

SAFE = Level(100, 99)


@pytest.mark.parametrize(
    ("rule", "operator", "asked"),
    [
        ("", False, {}),
        ("last_instance", False, {"service": Level(1, 0)}),
        ("service_share", False, {"service": Level(10, 4)}),
        ("", False, {"service": Level(10, 5)}),
        ("source_share", False, {"scope": Level(100, 89)}),
        ("", False, {"scope": Level(100, 90)}),
        ("", False, {"scope": Level(20, 10)}),
        ("hard_share", True, {"scope": Level(20, 9)}),
        ("hard_share", True, {"scope": Level(2, 0)}),
        ("", False, {"scope": Level(1, 0)}),
        ("config", True, {"cause": Cause.CONFIG}),
        ("incarnation", True, {"doubt": "another store answers"}),
        ("", False, {"cause": Cause.REPLACED, "service": Level(1, 0), "doubt": "another store answers"}),
        ("", False, {"cause": Cause.SHADOWED, "service": Level(1, 0)}),
        ("", False, {"loses": False, "service": Level(1, 0), "scope": Level(100, 0)}),
        ("incarnation", True, {"loses": False, "doubt": "another store answers"}),
    ],
)
def test_each_limit_holds_what_it_says(rule: str, operator: bool, asked: dict[str, object]) -> None:
    given = {"cause": Cause.EVENT, "doubt": "", "loses": True, "service": SAFE, "scope": SAFE} | asked
    verdict = judge(Guard(), **given)  # type: ignore[arg-type]
    assert (verdict.rule.partition(":")[0], verdict.operator) == (rule, operator)


def test_the_last_instance_goes_where_the_link_lets_it_pass() -> None:
    limits = Guard(last_instance="pass")
    assert not judge(limits, Cause.EVENT, "", True, Level(1, 0), SAFE).rule


def test_a_replacement_cancels_a_loss_and_an_old_loss_is_forgotten() -> None:
    windows = Windows()
    windows.add("pay", 0.0, -3)
    windows.add("pay", 100.0, 2)
    assert windows.start("pay", 9, 200.0, 600.0) == 10
    assert windows.start("pay", 9, 650.0, 600.0) == 7
    assert windows.start("pay", 9, 800.0, 600.0) == 9
    assert windows.start("pay", 9, 0.0, 600.0) == 9


def test_what_is_told_late_stands_where_it_belongs() -> None:
    windows = Windows()
    windows.add("pay", 100.0, -1)
    windows.add("pay", 20.0, -2)
    assert windows.won("pay", 0.0, 50.0) == -2
    assert windows.lost(0.0) == {"pay": [(20.0, -2), (100.0, -1)]}
    assert windows.start("pay", 9, 625.0, 600.0) == 10


def test_many_changes_of_one_second_are_remembered_as_one() -> None:
    windows = Windows()
    for step in range(1000):
        windows.add("pay", step / 1000, -1)
    assert windows.start("pay", 0, 1.0, 600.0) == 1000
    assert len(windows._deltas["pay"]) == 1
