"""The phases of a move: what is seen in each of them, and every command in every state."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bridge.migration.block import Migration, Window
from bridge.migration.gates import Gates, Result, Verdict
from bridge.migration.natives import Left
from bridge.migration.phases import (
    COMMANDS,
    ENDED,
    REQUESTS,
    Facts,
    Phase,
    State,
    Waits,
    look,
    nothing_to_do,
    rolled_back,
    started,
)

BLOCK = Migration(
    name="pay",
    services=("pay-*",),
    from_=("vm",),
    to=("pods",),
    at=("mesh",),
    steps=(1.0, 50.0, 100.0),
    gates=Gates(hold_for=60.0),
)
GOOD = Verdict(Result.PASS, by_itself=True)
WELL = Facts(now=1000.0, serves=4, old_serves=True, gates=GOOD, settle=30.0)


def at(phase: Phase, step: int = 0, **said: object) -> State:
    share = BLOCK.steps[step - 1] if step else 0.0
    return replace(State(phase=phase, step=step, share=share, since=900.0, serves=4, stood=4), **said)


def test_a_move_goes_through_every_phase_in_order() -> None:
    state, seen, now = started(BLOCK, 0.0, None, "me", "why"), [], 0.0
    while not state.ended:
        seen.append((state.phase, state.step))
        for _ in range(5):
            now += 100_000.0 if state.phase is Phase.RETIRE else 100.0
            before, facts = state, WELL._replace(now=now, quiet=True)
            state = look(replace(state, approved=True), BLOCK, facts).state
            if state.number != before.number:
                break
    assert seen == [
        (Phase.OBSERVE, 0),
        (Phase.MIRROR, 0),
        (Phase.ATTACH, 0),
        (Phase.SHIFT, 1),
        (Phase.SHIFT, 2),
        (Phase.SHIFT, 3),
        (Phase.DRAIN, 3),
        (Phase.RETIRE, 3),
    ]
    assert state.phase is Phase.DONE and state.share == 100


# What speaks against the next step, the move that it is seen in, and what it then waits for.
AGAINST = {
    "nobody follows": (at(Phase.SHIFT, 2), WELL._replace(lacking="h2 does not follow"), Waits.TIME),
    "a source is dark": (at(Phase.SHIFT, 2), WELL._replace(trouble="vm is dark"), Waits.TROUBLE),
    "no time to settle": (at(Phase.SHIFT, 2, settled=970.0), WELL, Waits.TIME),
    "no data": (at(Phase.SHIFT, 2, settled=0.0), WELL._replace(gates=Verdict(Result.NO_DATA, "none")), Waits.DATA),
    "half an answer": (at(Phase.SHIFT, 2, settled=0.0), WELL._replace(gates=Verdict(Result.INCONCLUSIVE)), Waits.TIME),
    "no gate ever answered": (
        at(Phase.SHIFT, 2, settled=0.0),
        WELL._replace(gates=Verdict(Result.PASS, by_itself=False, waits="never returned data: errors")),
        Waits.PERSON,
    ),
    "the first step": (at(Phase.SHIFT, 1, settled=0.0), WELL, Waits.PERSON),
    "the last step": (at(Phase.SHIFT, 3, settled=0.0), WELL, Waits.PERSON),
    "the new side had nothing from the step's start on": (
        at(Phase.SHIFT, 2, settled=0.0, serves=0),
        WELL._replace(serves=0),
        Waits.TROUBLE,
    ),
    "the new side shrank": (at(Phase.SHIFT, 2, settled=0.0), WELL._replace(serves=3), Waits.TROUBLE),
    "natives serve on": (at(Phase.DRAIN, 3, settled=0.0), WELL._replace(natives=2), Waits.PERSON),
    "nobody measures": (at(Phase.RETIRE, 3, settled=0.0), WELL, Waits.PERSON),
    "requests at the old side": (at(Phase.RETIRE, 3, settled=0.0), WELL._replace(quiet=False), Waits.PERSON),
    "the sides differ": (at(Phase.OBSERVE), WELL._replace(blocks=("ports",)), Waits.PERSON),
    "others are on their way": (at(Phase.OBSERVE), WELL._replace(busy="5 others"), Waits.TIME),
    "a copy is parked": (at(Phase.MIRROR), WELL._replace(refused=("i1 is parked",)), Waits.PERSON),
    "an operator paused it": (at(Phase.SHIFT, 2, settled=0.0, paused="lunch"), WELL, Waits.PERSON),
}


@pytest.mark.parametrize("against", AGAINST)
def test_a_step_waits_where_something_speaks_against_the_next(against: str) -> None:
    state, facts, waits = AGAINST[against]
    found = look(state, BLOCK, facts)
    assert (found.state.phase, found.state.step, found.waits) == (state.phase, state.step, waits)


def test_no_data_never_rolls_back_and_never_passes() -> None:
    state = at(Phase.SHIFT, 2, settled=0.0, approved=True)
    found = look(state, BLOCK, WELL._replace(gates=Verdict(Result.NO_DATA, "Prometheus is away")))
    assert found.state == state and found.waits is Waits.DATA


def test_a_failed_gate_rolls_back_one_step() -> None:
    found = look(at(Phase.SHIFT, 2, settled=0.0), BLOCK, WELL._replace(gates=Verdict(Result.FAIL, "errors")))
    assert (found.state.phase, found.state.share, found.waits) == (Phase.ROLLING_BACK, 1.0, Waits.FAILED)
    assert "errors" in found.state.reason


def test_a_failed_gate_holds_where_the_file_says_so() -> None:
    block = replace(BLOCK, on_fail="hold")
    found = look(at(Phase.SHIFT, 2, settled=0.0), block, WELL._replace(gates=Verdict(Result.FAIL, "errors")))
    assert (found.state.phase, found.state.share) == (Phase.SHIFT, 50.0) and "errors" in found.state.paused


def test_nothing_is_rolled_back_to_a_side_that_is_sick() -> None:
    facts = WELL._replace(gates=Verdict(Result.FAIL, "errors"), old_serves=False)
    found = look(at(Phase.SHIFT, 2, settled=0.0), BLOCK, facts)
    assert found.state.phase is Phase.SHIFT and "old side" in found.state.paused
    waiting = look(at(Phase.ROLLING_BACK, 1, settled=0.0), BLOCK, WELL._replace(old_serves=False))
    assert waiting.state.share == 1.0 and waiting.waits is Waits.TROUBLE
    ended = look(at(Phase.ROLLING_BACK, 0, settled=0.0), BLOCK, WELL._replace(old_serves=False))
    assert ended.state.phase is Phase.ROLLED_BACK  # it has got all that it is to get


def test_a_rollback_goes_down_step_by_step_to_where_it_began() -> None:
    state, shares = rolled_back(at(Phase.DRAIN, 3), BLOCK, 1000.0, reason="r", by="me"), []
    now = 1000.0
    while not state.ended:
        if state.share not in shares:
            shares.append(state.share)
        now += 40.0
        state = look(state, BLOCK, WELL._replace(now=now)).state
    assert shares == [50.0, 1.0, 0.0] and state.phase is Phase.ROLLED_BACK


def test_a_rollback_at_once_skips_the_pace_alone() -> None:
    assert rolled_back(at(Phase.DRAIN, 3), BLOCK, 0.0, reason="r", by="me", at_once=True).share == 0.0


def test_a_way_back_that_begins_where_nothing_may_change_takes_no_step() -> None:
    for at_once in (False, True):
        before = at(Phase.DRAIN, 3, batches=2)
        state = rolled_back(before, BLOCK, 1000.0, reason="r", by="me", at_once=at_once, stopped=True)
        assert (state.phase, state.step, state.share, state.batches) == (Phase.ROLLING_BACK, 3, 100.0, 2)
        seen, now = [], 1000.0
        while not state.ended:
            seen.append((state.batches, state.share))
            now += 40.0
            state = look(state, BLOCK, WELL._replace(now=now)).state
        steps = [(2, 100.0), (0, 100.0), (0, 0.0)] if at_once else [(2, 100.0), (1, 100.0), (0, 100.0), (0, 50.0)]
        assert list(dict.fromkeys(seen))[: len(steps)] == steps


def test_a_move_that_was_aborted_goes_on_from_its_share_any_other_from_nothing() -> None:
    found = started(BLOCK, 5.0, at(Phase.ABORTED, 2, number=7), "me", "why")
    assert (found.phase, found.step, found.share, found.number) == (Phase.SHIFT, 2, 50.0, 8)
    finer = replace(BLOCK, steps=(1.0, 40.0, 60.0, 100.0))
    assert started(finer, 5.0, at(Phase.ABORTED, 2), "me", "why").share == 40.0
    for before in (None, at(Phase.ROLLED_BACK), at(Phase.ABORTED)):
        fresh = started(BLOCK, 5.0, before, "me", "why")
        assert (fresh.phase, fresh.step, fresh.share) == (Phase.OBSERVE, 0, 0.0)


def test_the_time_of_a_step_begins_anew_after_trouble() -> None:
    dark = look(at(Phase.SHIFT, 2, settled=0.0), BLOCK, WELL._replace(trouble="vm is dark"))
    back = look(dark.state, BLOCK, WELL._replace(now=1010.0))
    assert (back.state.since, back.state.settled, back.state.step) == (1010.0, 1010.0, 2)


def test_a_freeze_stops_a_rollback_too() -> None:
    found = look(at(Phase.ROLLING_BACK, 2, settled=0.0), BLOCK, WELL._replace(trouble="the link a is frozen"))
    assert (found.state.share, found.waits) == (50.0, Waits.TROUBLE)


def test_a_window_bounds_steps_and_never_a_way_back() -> None:
    block = replace(BLOCK, window=Window(days="mon-tue", hours="0-1"))  # 1970 began on a Thursday
    assert look(at(Phase.SHIFT, 2, settled=0.0), block, WELL).state.step == 2
    assert look(at(Phase.ROLLING_BACK, 2, settled=0.0), block, WELL).state.step == 1


def test_a_wait_that_is_too_long_becomes_a_pause() -> None:
    found = look(at(Phase.SHIFT, 1, settled=0.0), BLOCK, WELL._replace(now=200_000.0))
    assert "waited for more than 24 h" in found.state.paused


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("phase", [None, *Phase])
def test_every_command_says_in_every_state_whether_it_does_anything(command: str, phase: Phase | None) -> None:
    paused = "by me" if command in ("resume", "apply") else ""
    state = State(phase=phase, paused=paused) if phase is not None else None
    assert (nothing_to_do(state, command) == "") is (phase in COMMANDS[command])


def test_what_has_ended_stays_whatever_is_seen() -> None:
    for phase in ENDED:
        state = at(phase, 3)
        assert look(state, BLOCK, WELL._replace(gates=Verdict(Result.FAIL, "x"), trouble="dark")).state == state


NATIVES = WELL._replace(natives=4, batch=True)


def test_natives_go_batch_by_batch_before_the_old_side_is_left() -> None:
    state, now, left, seen = at(Phase.DRAIN, 3), 1000.0, 3, []
    while state.phase is Phase.DRAIN:
        seen.append(state.batches)
        now += 100.0
        before, facts = state, NATIVES._replace(now=now, natives=left, batch=left > 0)
        state = look(state, BLOCK, facts).state
        state = look(replace(state, settled=None), BLOCK, facts).state if state.number == before.number else state
        left -= state.batches - before.batches
    assert seen[-1] == 3 and (state.phase, state.batches) == (Phase.RETIRE, 3)


AGAINST_A_BATCH = {
    "no time to settle": (at(Phase.DRAIN, 3, settled=990.0), NATIVES, Waits.TIME),
    "another move's batch": (at(Phase.DRAIN, 3, settled=0.0), NATIVES._replace(crowded="one of cart"), Waits.TIME),
    "the one before is not out": (at(Phase.DRAIN, 3), NATIVES._replace(lacking="vm1 is not out yet"), Waits.TIME),
    "a freeze": (at(Phase.DRAIN, 3), NATIVES._replace(trouble="frozen"), Waits.TROUBLE),
    "no data": (
        at(Phase.DRAIN, 3, settled=0.0), NATIVES._replace(gates=Verdict(Result.NO_DATA, "none")), Waits.DATA,
    ),
    "no gate": (
        at(Phase.DRAIN, 3, settled=0.0), NATIVES._replace(gates=Verdict(Result.PASS, waits="none")), Waits.PERSON,
    ),
    "none of them can be": (
        at(Phase.DRAIN, 3, settled=0.0), NATIVES._replace(batch=False, stuck="a rule is broken"), Waits.PERSON,
    ),
}  # fmt: skip


# What is known of the requests at natives that are out, and what the move waits for then.
CALLED = {
    "they have requests": (Left(counted=True, requests=3.0), Waits.PERSON, "3 requests still reach"),
    "too early": (Left(counted=True), Waits.TIME, "are counted"),
    "no data": (Left(counted=True, why="Prometheus gave no answer"), Waits.DATA, "Prometheus gave no answer"),
}


@pytest.mark.parametrize("called", CALLED)
@pytest.mark.parametrize("last", [False, True])
def test_a_batch_is_not_over_before_nobody_calls_what_it_took_out(called: str, last: bool) -> None:
    left, waits, text = CALLED[called]
    state = at(Phase.DRAIN, 3, settled=0.0, batches=2, approved=True)
    facts = (WELL if last else NATIVES)._replace(left=left)
    found = look(state, BLOCK, facts)
    assert (found.state, found.waits) == (state, waits) and text in found.why
    late = look(state, BLOCK, facts._replace(now=200_000.0))
    assert late.waits is Waits.PERSON and "waited for more than 24 h" in late.state.paused
    without = look(replace(state, without=(REQUESTS,)), BLOCK, facts)
    assert (without.state.number > state.number) is (left.requests is None)
    over = look(state, BLOCK, facts._replace(left=Left(counted=True, requests=0.0))).state
    assert (over.phase, over.batches) == ((Phase.RETIRE, 2) if last else (Phase.DRAIN, 3))


def test_where_nobody_counts_a_batch_says_so_and_has_its_settle_time() -> None:
    facts = NATIVES._replace(left=Left(counted=False, why="nobody counts requests"))
    early = look(at(Phase.DRAIN, 3, settled=990.0, batches=1), BLOCK, facts)
    assert (early.state.batches, early.why) == (1, "20 s more at this step; nobody counts requests")
    assert look(at(Phase.DRAIN, 3, settled=960.0, batches=1), BLOCK, facts).state.batches == 2


@pytest.mark.parametrize("against", AGAINST_A_BATCH)
def test_a_batch_of_natives_waits_as_a_step_does(against: str) -> None:
    state, facts, waits = AGAINST_A_BATCH[against]
    found = look(state, BLOCK, facts)
    assert (found.state.batches, found.waits) == (0, waits)


def test_natives_are_back_before_anything_of_the_new_side_goes() -> None:
    state = rolled_back(at(Phase.RETIRE, 3, batches=3), BLOCK, 1000.0, reason="r", by="me")
    now, seen = 1000.0, []
    while not state.ended:
        seen.append((state.batches, state.share))
        now += 40.0
        state = look(state, BLOCK, WELL._replace(now=now)).state
        state = look(state, BLOCK, WELL._replace(now=now + 35.0)).state
        now += 40.0
    assert list(dict.fromkeys(seen)) == [(2, 100.0), (1, 100.0), (0, 100.0), (0, 50.0), (0, 1.0), (0, 0.0)]


def test_at_once_natives_are_back_first_all_the_same() -> None:
    state = rolled_back(at(Phase.DRAIN, 3, batches=3), BLOCK, 1000.0, reason="r", by="me", at_once=True)
    assert (state.batches, state.share) == (0, 100.0)
    waiting = look(state, BLOCK, WELL._replace(lacking="natives are not back yet"))
    assert waiting.state.share == 100.0
    gone = look(state, BLOCK, WELL._replace(now=1001.0))
    assert gone.state.share == 0.0


def test_a_failed_gate_brings_a_batch_back_and_keeps_the_share() -> None:
    facts = NATIVES._replace(gates=Verdict(Result.FAIL, "errors"))
    found = look(at(Phase.DRAIN, 3, settled=0.0, batches=2), BLOCK, facts)
    assert (found.state.phase, found.state.batches, found.state.share) == (Phase.ROLLING_BACK, 1, 100.0)
