"""What users of other tools for moving traffic complain of, each as a promise of this one."""

from __future__ import annotations

from msgspec.structs import replace

from bridge.adapter import Sample
from bridge.migration.block import Migration
from bridge.migration.gates import Asked, Gate, Gates, Prometheus, Query, Result, Sides, Timing, Verdict, judge, verdict
from bridge.migration.phases import Facts, Phase, State, Waits, look, nothing_to_do, rolled_back
from bridge.migration.shares import Means, Side, fit

QUERY = Query(name="errors", query='e{side="{{side}}"}', fail_above=0.01)
BLOCK = Migration(
    name="pay",
    services=("*",),
    from_=("vm",),
    to=("pods",),
    at=("mesh",),
    steps=(1.0, 25.0, 50.0, 100.0),
    gates=Gates(
        hold_for=60.0,
        approve=(),
        prometheus=Prometheus(url="http://127.0.0.1:1", sides=Sides(from_="a", to="b"), queries=(QUERY,)),
    ),
)
GOOD = Verdict(Result.PASS, by_itself=True)
WELL = Facts(now=1000.0, serves=4, gates=GOOD, settle=30.0)


def at(phase: Phase, step: int, **said: object) -> State:
    share = BLOCK.steps[step - 1] if step else 0.0
    made = State(phase=phase, step=step, share=share, since=0.0, settled=0.0, serves=4, stood=4)
    return replace(made, **said)


def test_1_a_way_back_settles_at_each_step_before_anything_is_taken_away() -> None:
    state = rolled_back(at(Phase.SHIFT, 3), BLOCK, 1000.0, reason="r", by="me")
    settling = look(replace(state, settled=1000.0), BLOCK, WELL._replace(now=1010.0))
    assert settling.state.share == 25.0 and "20 s more" in settling.why


def test_2_the_old_side_is_not_sent_everything_at_once() -> None:
    assert rolled_back(at(Phase.DRAIN, 4), BLOCK, 0.0, reason="r", by="me").share == 50.0


def test_3_nothing_goes_back_to_a_side_that_is_broken() -> None:
    found = look(at(Phase.SHIFT, 3), BLOCK, WELL._replace(gates=Verdict(Result.FAIL, "e"), old_serves=False))
    assert found.state.share == 50.0 and found.state.paused


def test_4_no_traffic_is_no_failure() -> None:
    found = look(at(Phase.SHIFT, 3), BLOCK, WELL._replace(gates=Verdict(Result.NO_DATA, "0 requests")))
    assert found.state.phase is Phase.SHIFT and found.waits is Waits.DATA


def test_5_no_traffic_and_a_name_that_is_misspelt_are_no_success() -> None:
    never = verdict(BLOCK.gates.queries, {}, 1000.0)
    assert never.result is Result.NO_DATA and not never.by_itself
    found = look(at(Phase.SHIFT, 3), BLOCK, WELL._replace(gates=replace_verdict(never)))
    assert found.state.step == 3


def replace_verdict(one: Verdict) -> Verdict:
    """As if a person went on without the gate's data in this step: it has still never returned any."""
    return one._replace(result=Result.PASS)


def test_6_what_a_step_rounds_to_is_said_beside_what_was_asked() -> None:
    made = fit(0.05, Side(10.0, ()), Side(0.0, (1.0,)), Means.COUNTS)
    assert (made.asked, made.said) == (0.05, 0.0)


def test_7_a_command_where_nothing_is_under_way_changes_nothing() -> None:
    for command in ("abort", "rollback", "next", "finish", "back"):
        assert nothing_to_do(None, command) and nothing_to_do(at(Phase.DONE, 4), command)


def test_8_a_move_may_be_paused_while_it_goes_back() -> None:
    paused = at(Phase.ROLLING_BACK, 2, paused="lunch")
    for _ in range(3):
        assert look(paused, BLOCK, WELL).state == paused
    assert look(replace(paused, paused=""), BLOCK, WELL).state.share == 1.0


def test_9_a_gate_that_concludes_nothing_can_be_done_without() -> None:
    known = {"errors": Gate(seen=True)}
    assert verdict(BLOCK.gates.queries, known, 1000.0).result is Result.NO_DATA
    assert verdict(BLOCK.gates.queries, known, 1000.0, without=("errors",)).result is Result.PASS


def test_10_what_was_aborted_or_rolled_back_does_not_begin_by_itself() -> None:
    for phase in (Phase.ABORTED, Phase.ROLLED_BACK):
        state = at(phase, 0, approved=True)
        assert look(state, BLOCK, WELL).state == state


def test_11_a_way_back_is_open_in_every_phase_and_no_wait_lasts_for_ever() -> None:
    for phase in (Phase.OBSERVE, Phase.SHIFT, Phase.DRAIN, Phase.RETIRE):
        assert nothing_to_do(at(phase, 3), "rollback") == ""
    found = look(at(Phase.DRAIN, 4), BLOCK, WELL._replace(now=100_000.0, natives=1))
    assert "waited for more than" in found.state.paused


def test_12_what_is_done_can_be_taken_up_again() -> None:
    assert nothing_to_do(at(Phase.DONE, 4), "reopen") == ""


def test_13_a_failed_gate_may_hold_and_not_roll_back() -> None:
    found = look(at(Phase.SHIFT, 3), replace(BLOCK, on_fail="hold"), WELL._replace(gates=Verdict(Result.FAIL, "e")))
    assert (found.state.phase, found.state.share) == (Phase.SHIFT, 50.0)


def test_14_a_look_keeps_its_query_with_arguments_values_and_limit() -> None:
    timing = Timing(begun=0.0, settled=10.0, settle=1.0, scrape=1.0)
    made = judge(QUERY, {"to": Asked(Sample(0.5, 100.0))}, 'e{side="b"}', timing, 100.0, 20.0)
    assert (made.query, dict(made.values), made.limit) == ('e{side="b"}', {"to": 0.5}, "fail_above 0.01")


def test_15_steps_may_be_finer_than_one_percent() -> None:
    made = fit(0.0005, Side(0.0, (1.0,) * 20), Side(0.0, (1.0,) * 2), Means.BOTH)
    assert 0.0004 < made.said <= 0.0005
