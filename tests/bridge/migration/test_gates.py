"""What looks at both sides come to: no data holds, too few fails hold, and everything that was seen is kept."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import msgspec
import pytest

from bridge.adapter import Sample
from bridge.errors import ConfigError
from bridge.migration.gates import (
    LARGEST,
    STALE,
    Asked,
    Gate,
    Look,
    Prometheus,
    Query,
    Result,
    Sides,
    Timing,
    filled,
    judge,
    stands,
    verdict,
)
from bridge.migration.intent import Intent
from bridge.migration.phases import Phase, State
from bridge.model import ServiceName

NOW = 1_800_000_000.0
SETTLED = Timing(begun=NOW - 10_000, settled=NOW - 9_000, settle=95.0, scrape=15.0)
NOTHING = Sample(None, NOW, "no series")


def query(**limits: Any) -> Query:
    return Query(name="errors", query='e{side="{{side}}"}', **(limits or {"fail_above": 0.01}))


def seen(
    of: Query, to: float | Sample, from_: float | Sample = NOTHING, *, requests: float | Sample = 1000.0,
    timing: Timing = SETTLED, window: float = 95.0,
) -> Look:  # fmt: skip
    def asked(one: float | Sample) -> Asked:
        made = [said if isinstance(said, Sample) else Sample(said, NOW) for said in (one, requests)]
        return Asked(made[0], made[1])

    return judge(of, {"to": asked(to), "from": asked(from_)}, "e", timing, NOW, window)


@pytest.mark.parametrize(
    ("limits", "to", "from_", "result"),
    [
        ({"fail_above": 0.01}, 0.01, NOTHING, Result.PASS),
        ({"fail_above": 0.01}, 0.011, NOTHING, Result.FAIL),
        ({"fail_above": 0.01}, math.inf, NOTHING, Result.FAIL),
        ({"fail_below": 0.99}, 0.99, NOTHING, Result.PASS),
        ({"fail_below": 0.99}, 0.98, NOTHING, Result.FAIL),
        ({"worse_by": 0.5}, 0.15, 0.1, Result.PASS),
        ({"worse_by": 0.5}, 0.16, 0.1, Result.FAIL),
        ({"worse_by": 0.5}, 0.001, 0.0, Result.FAIL),
        ({"worse_by": 0.5}, 0.0, 0.0, Result.PASS),
        ({"worse_by": 0.5, "fail_above": 0.01}, 0.001, 0.0, Result.PASS),
        ({"worse_by": 0.5, "fail_above": 0.01}, 0.02, 0.02, Result.FAIL),
        ({"worse_by": 0.5, "fail_above": 0.01}, 0.009, NOTHING, Result.PASS),
    ],
)
def test_a_look_compares_with_each_limit_that_the_query_names(
    limits: dict[str, float], to: float, from_: float | Sample, result: Result
) -> None:
    assert seen(query(**limits), to, from_).result is result


@pytest.mark.parametrize(
    ("to", "requests", "reason"),
    [
        (Sample(None, NOW, "no series: nothing has these names"), 1000.0, "no series"),
        (Sample(None, NOW, "Prometheus gave no answer: cannot be connected to"), 1000.0, "gave no answer"),
        (Sample(math.nan, NOW), 1000.0, "NaN"),
        (Sample(0.0, NOW - STALE - 1), 1000.0, "stale"),
        (Sample(0.5, NOW + STALE + 1), 1000.0, "a clock is wrong"),
        (Sample(0.5, NOW), 99.0, "99 requests, and 100 are needed"),
        (Sample(0.5, NOW), Sample(None, NOW, "no series"), "cannot be counted"),
        (Sample(0.5, NOW), Sample(math.nan, NOW), "cannot be counted"),
    ],
)
def test_what_says_nothing_is_no_data_and_neither_pass_nor_fail(
    to: Sample, requests: float | Sample, reason: str
) -> None:
    look = seen(query(fail_above=0.01, min_samples=100), to, requests=requests)
    assert look.result is Result.NO_DATA and reason in look.reason
    of = query(min_samples=100, fail_above=0.01)
    gate = Gate(seen=True).after(look).after(look).after(look).after(look)
    found = verdict([of], {"errors": gate}, NOW)
    assert (found.result, found.gates) == (Result.NO_DATA, ("errors",))


def test_a_comparison_without_anything_to_compare_with_is_no_data() -> None:
    look = seen(query(worse_by=0.5), 0.2, NOTHING)
    assert (look.result, look.reason, look.limit) == (Result.NO_DATA, "`from`: no series", "worse_by 0.5")


def test_a_gate_that_never_returned_data_lets_no_step_advance_by_itself() -> None:
    """A misspelt name of a metric must not pass silently."""
    misspelt = query()
    other = Query(name="other", query="o", fail_above=1)
    passed = Gate().after(seen(other, 0.0))
    gates = {"errors": Gate().after(seen(misspelt, NOTHING)), "other": passed}
    found = verdict([misspelt, other], gates, NOW)
    assert (found.result, found.by_itself, found.waits) == (Result.NO_DATA, False, "never returned data: errors")
    without = verdict([misspelt, other], gates, NOW, without={"errors"})
    assert (without.result, without.by_itself) == (Result.PASS, False)
    once = {"errors": Gate(seen=True).anew().after(seen(misspelt, 0.0)), "other": passed}
    assert verdict([misspelt, other], once, NOW).by_itself


def test_without_any_query_every_step_waits_for_a_person() -> None:
    assert verdict([], {}, NOW)[:4] == (Result.PASS, "", (), False)


def test_so_many_fails_in_a_row_fail_and_fewer_hold() -> None:
    of = query(fail_above=0.01, failures=3)
    bad, good, nothing = seen(of, 0.5), seen(of, 0.0), seen(of, NOTHING)
    gate = Gate().after(bad).after(bad)
    assert stands(of, gate, NOW)[0] is Result.INCONCLUSIVE
    assert stands(of, gate.after(bad), NOW)[0] is Result.FAIL
    assert stands(of, gate.after(good), NOW)[0] is Result.PASS
    assert stands(of, gate.after(good).after(bad), NOW)[0] is Result.INCONCLUSIVE
    assert stands(of, gate.after(nothing), NOW)[0] is Result.NO_DATA
    assert stands(of, gate.after(nothing).after(bad), NOW)[0] is Result.FAIL
    assert gate.anew() == Gate(seen=True)


def test_a_failed_gate_is_passed_by_nobody_and_one_without_data_by_name() -> None:
    of = query(fail_above=0.01, failures=1)
    failed = {"errors": Gate().after(seen(of, 0.5))}
    assert verdict([of], failed, NOW, without={"errors"}).result is Result.FAIL
    assert verdict([of], {}, NOW, without={"errors"}).result is Result.PASS
    assert verdict([of], {}, NOW, without={"another"}).result is Result.NO_DATA


def test_a_look_that_is_old_says_nothing_any_more() -> None:
    of = query(fail_above=0.01, interval=30)
    gate = Gate().after(seen(of, 0.0))
    assert stands(of, gate, NOW + 90)[0] is Result.PASS
    assert stands(of, gate, NOW + 91) == (Result.NO_DATA, "the last look is 91 s old")


def test_a_window_covers_four_scrapes_and_the_settle_time_and_only_the_step() -> None:
    quick, slow = (Timing(NOW, None, settle, 15.0) for settle in (1.0, 95.0))
    assert [quick.window(NOW + after) for after in (59, 60, 61, 1000)] == [None, 60, 60, 60]
    assert [slow.window(NOW + after) for after in (59, 60, 94, 95, 1000)] == [None, 60, 94, 95, 95]


@pytest.mark.parametrize(
    ("settled", "window", "result"),
    [(None, 95.0, "inconclusive"), (189.0, 95.0, "inconclusive"), (190.0, 60.0, "pass"), (190.0, 95.0, "pass")],
)
def test_no_window_of_before_the_last_consumer_followed_lets_a_step_pass(
    settled: float | None, window: float, result: str
) -> None:
    timing = SETTLED._replace(settled=None if settled is None else NOW - settled)
    assert seen(query(), 0.0, timing=timing, window=window).result == result
    assert seen(query(), 0.5, timing=timing, window=window).result is Result.FAIL


def test_each_look_keeps_query_values_limit_and_samples() -> None:
    """Why a step was stopped must be seen afterwards, by somebody who was not there."""
    look = seen(query(worse_by=0.5, min_samples=10), 0.5, 0.1)
    assert look == Look(
        result=Result.FAIL,
        reason="0.5 is above 0.15, 1.5 times the 0.1 of `from`",
        query="e",
        at=NOW,
        window=95.0,
        limit="worse_by 0.5",
        values={"from": 0.1, "to": 0.5},
        requests={"from": 1000.0, "to": 1000.0},
    )
    gate = Gate().after(look)
    assert msgspec.json.decode(msgspec.json.encode(gate), type=Gate) == gate


def test_what_json_cannot_say_can_still_be_kept() -> None:
    look = seen(query(), math.inf, math.nan)
    assert look.values == {"to": LARGEST}
    assert msgspec.json.decode(msgspec.json.encode(look), type=Look) == look


def test_the_worst_gate_decides_and_each_of_its_kind_is_named() -> None:
    ones = [Query(name=name, query="q", fail_above=0.01, failures=1) for name in "abcd"]
    good, bad, nothing = seen(ones[0], 0.0), seen(ones[0], 0.5), seen(ones[0], NOTHING)
    gates = {"a": Gate().after(good), "b": Gate().after(nothing), "c": Gate().after(bad), "d": Gate().after(bad)}
    found = verdict(ones, gates, NOW)
    assert (found.result, found.gates) == (Result.FAIL, ("c", "d"))
    assert found.reason.startswith("c: failed 1 looks in a row: 0.5 is above 0.01; d: ")
    assert verdict(ones[:2], gates, NOW).gates == ("b",)
    assert verdict(ones[:1], gates, NOW) == (Result.PASS, "", (), True, "")


def test_a_name_cannot_end_the_text_that_it_is_put_into() -> None:
    text = 'sum(rate(r{s="{{service}}",n=\'{{ namespace }}\',side="{{side}}"}[{{window}}]))'
    said = filled(text, side="k8s", window=94.2, service=ServiceName("pay", "shop"))
    assert said == 'sum(rate(r{s="pay",n=\'shop\',side="k8s"}[95s]))'
    evil = filled('r{s="{{service}}"}', side="", window=1, service=ServiceName('x"} or vector(0) #\\'))
    assert evil == 'r{s="x\\x22} or vector(0) #\\x5c"}'


def test_where_the_time_of_a_step_begins_anew_failed_looks_count_no_more() -> None:
    """Trouble has ended, or an operator lets it go on: what was seen in it says nothing of the step."""
    failed = Gate().after(seen(query(), 0.5))
    state = State(phase=Phase.SHIFT, step=1, since=NOW)
    move = Intent(migration="pay", service=ServiceName("api"), state=state, gates={"errors": failed})
    assert move.within(msgspec.structs.replace(state, settled=NOW + 1)).gates == {"errors": failed}
    assert move.within(msgspec.structs.replace(state, since=NOW + 9)).gates == {"errors": Gate(seen=True)}


def test_instances_are_a_regular_expression_of_addresses_in_whatever_quotes() -> None:
    text = """reqs{at=~"{{instances}}"}"""
    said = partial(filled, text, side="vm", window=60, service=ServiceName("pay"))
    assert said() == 'reqs{at=~".*"}'
    found = said(addresses={"192.0.2.1", "2001:db8::1", 'a"b'})
    pattern = found.removeprefix('reqs{at=~"').removesuffix('"}')
    assert '"' not in pattern and "\\" not in pattern
    for label in ("192.0.2.1", "192.0.2.1:9100", "2001:db8::1", "[2001:db8::1]:9100"):
        assert re.fullmatch(pattern, label), label
    for label in ("192.0.2.11:9100", "1192.0.2.1", "198.51.100.1", "2001:db8::11"):
        assert not re.fullmatch(pattern, label), label


def test_instances_are_known_in_requests_alone() -> None:
    sides = Sides(from_="vm", to="k8s")
    text = 'r{side="{{side}}",at=~"{{instances}}"}'
    assert Prometheus(url="http://127.0.0.1:1", sides=sides, requests=text).by_instance
    with pytest.raises(ConfigError, match="instances"):
        Query(name="errors", query=text, fail_above=1)


def test_a_window_after_a_batch_never_reaches_back_to_before_its_settle_time() -> None:
    timing = Timing(begun=0.0, settled=100.0, settle=30.0, scrape=15.0)
    assert [timing.after(at) for at in (120.0, 189.9, 190.5, 500.0)] == [None, None, 60, 60]
    assert Timing(0.0, None, 30.0, 15.0).after(500.0) is None
    quick = Timing(0.0, 100.0, 0.0, 0.2)
    assert [quick.after(at) for at in (100.9, 101.4, 110.0)] == [None, 1, 1]
