"""What a member does about a shard: each rule of the model (tests/model/group.pml), in every state there is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from bridge.group.steps import Facts, Step, step

EVERY = [Facts(*values) for values in product((False, True), repeat=6)]
ASKS = (Step.CLAIM, Step.TAKE)
KEEPS = (Step.KEEP, Step.CARE)

# By rule: the states that it is about, and what may be done in them.
RULES: dict[str, tuple[Callable[[Facts], bool], tuple[Step, ...]]] = {
    "who is away, or should not write, asks for nothing": (lambda f: not (f.holds or f.wanted), (Step.WITHDRAW,)),
    "a claim ends with the assignment it was put for": (lambda f: not f.holds and f.late, (Step.WITHDRAW,)),
    "who has the whole picture claims": (lambda f: not f.holds and f.wanted and f.whole and not f.late, (Step.CLAIM,)),
    "who has not waits for a free lock": (lambda f: not (f.holds or f.whole or f.late) and f.wanted, (Step.TAKE,)),
    "who should write, and is in touch, ignores claims": (lambda f: f.holds and f.wanted, (Step.KEEP,)),
    "who should not, or is away, yields": (lambda f: f.holds and not f.wanted and f.claimed, (Step.HAND_OVER,)),
    "a holder keeps what nobody claims": (lambda f: f.holds and not f.claimed, KEEPS),
    "what is not held is asked for, or left": (lambda f: not f.holds, (*ASKS, Step.WITHDRAW)),
}


@pytest.mark.parametrize("rule", RULES)
def test_no_state_breaks_a_rule_of_the_model(rule: str) -> None:
    about, allowed = RULES[rule]
    states = [facts for facts in EVERY if about(facts)]
    assert states
    assert [facts for facts in states if step(facts) not in allowed] == []


def test_every_step_is_taken_in_some_state() -> None:
    assert {step(facts) for facts in EVERY} == {*Step}
