"""The share of requests by counters of each address: windows, counters that begin anew, and whose address it is."""

from __future__ import annotations

import pytest

from bridge.adapter import Counts
from bridge.migration.counting import measured, reached

OLD, NEW, BOTH = ("192.0.2.1", 80), ("198.51.100.1", 80), ("192.0.2.9", 80)
ENVOY, OTHER = "http://a pay", "http://b pay"


def counts(**said: float) -> Counts:
    at = {"old": (ENVOY, *OLD), "new": (ENVOY, *NEW), "there": (OTHER, *NEW), "both": (ENVOY, *BOTH),
          "nobody": (ENVOY, "203.0.113.1", 80)}  # fmt: skip
    return {at[key]: value for key, value in said.items()}


# What was counted before and after, how many requests each side had, and the share.
WINDOWS = {
    "what grew": (counts(old=100, new=900), counts(old=175, new=925), (75, 25), 0.25),
    "of every proxy": (counts(new=0, there=0, old=0), counts(new=1, there=2, old=1), (1, 3), 0.75),
    "a proxy that began anew": (counts(old=1000, new=1000), counts(old=30, new=10), (30, 10), 0.25),
    "a host that is new": (counts(old=10), counts(old=20, new=10), (10, 10), 0.5),
    "a host that went": (counts(old=10, new=10), counts(old=20), (10, 0), 0.0),
    "no request": (counts(old=10, new=10), counts(old=10, new=10), (0, 0), None),
    "an address of nobody, and of both": (counts(), counts(old=1, new=1, nobody=100, both=100), (1, 1), 0.5),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_share_is_what_the_counters_of_both_sides_grew_by(window: str) -> None:
    before, after, sides, share = WINDOWS[window]
    found = measured(before, after, {OLD, BOTH}, {NEW, BOTH})
    assert (found.from_, found.to) == sides and found.share == share


def test_natives_that_left_are_counted_alone_and_what_is_forgotten_gets_nothing() -> None:
    before, after = counts(old=100, new=900, both=5), counts(old=103, new=950, both=7)
    assert reached(before, after, {OLD}) == 3
    assert reached(before, counts(new=950), {OLD}) == 0
    assert reached(before, counts(old=2), {OLD, BOTH}) == 2  # it began anew
