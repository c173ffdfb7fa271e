"""The guard's limits, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.adapter import Cause
from bridge.guard.limits import Asked, Level, judge
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
        ("hard_share", True, {"whole": Level(20, 9)}),
        ("", False, {"whole": Level(20, 10)}),
        ("", False, {"whole": Level(8, 3)}),
        ("hard_share", True, {"whole": Level(9, 3)}),
        ("hard_share", True, {"whole": Level(0, 4, stood=10, now=10)}),
        ("", False, {"whole": Level(4, 4, now=10)}),
        ("emptied", True, {"whole": Level(2, 0)}),
        ("emptied", True, {"whole": Level(0, 0, now=2)}),
        ("emptied", True, {"whole": Level(0, 0, stood=2)}),
        ("emptied", True, {"cause": Cause.HEALTH, "withdraws": True, "whole": Level(2, 0)}),
        ("emptied", False, {"cause": Cause.HEALTH, "whole": Level(2, 0)}),
        ("hard_share", True, {"cause": Cause.HEALTH, "withdraws": True, "loses": False, "whole": Level(20, 9)}),
        ("hard_share", False, {"cause": Cause.HEALTH, "whole": Level(20, 9)}),
        ("", False, {"cause": Cause.HEALTH, "withdraws": True, "loses": False, "service": Level(1, 0)}),
        ("", False, {"whole": Level(1, 0, stood=1, now=1)}),
        ("config", True, {"cause": Cause.CONFIG}),
        ("another_life", True, {"doubt": "another store answers"}),
        ("", False, {"cause": Cause.REPLACED, "service": Level(1, 0), "doubt": "another store answers"}),
        ("", False, {"cause": Cause.SHADOWED, "service": Level(1, 0)}),
        ("", False, {"loses": False, "service": Level(1, 0), "scope": Level(100, 0)}),
        ("another_life", True, {"loses": False, "doubt": "another store answers"}),
    ],
)
def test_each_limit_holds_what_it_says(rule: str, operator: bool, asked: dict[str, Any]) -> None:
    levels = [asked.get(level, SAFE) for level in ("service", "scope", "whole")]
    about: dict[str, Any] = {"cause": Cause.EVENT, "loses": True}
    about |= {key: value for key, value in asked.items() if not isinstance(value, Level)}
    verdict = judge(Guard(), Asked(**about), *levels)
    assert (str(verdict.limit or ""), verdict.operator) == (rule, operator)


def test_the_last_instance_goes_where_the_link_lets_it_pass() -> None:
    limits = Guard(last_instance="pass")
    assert judge(limits, Asked(Cause.EVENT, loses=True), Level(1, 0), SAFE, SAFE).limit is None
