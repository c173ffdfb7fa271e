"""What is held, counted: the losses of a scope, and those that were taken back."""

from __future__ import annotations

from bridge.adapter import Cause, Change, Entry
from bridge.guard import Verdict
from bridge.holds import HeldRemoval, Holds
from bridge.model import Instance, Mark, ServiceName
from bridge.plan import Removal

NAME = ServiceName("pay")
SCOPE = ("origin", "")


def removal(number: int) -> Removal:
    """Of an instance that serves."""
    instance = Instance(f"i{number}", "192.0.2.1")
    mark = Mark("b1", "link", ("origin",), "", NAME, instance.id)
    return Removal(Change(NAME, instance.id, Entry(instance, mark)), Cause.EVENT, SCOPE, loses=True)


def test_what_came_back_counts_among_the_losses_until_it_is_forgotten() -> None:
    holds = Holds()
    asked = [removal(number) for number in range(5)]
    holds.ask(NAME, asked)
    assert holds.losses(SCOPE, Cause.EVENT, 100.0) == (5, 0.0)
    holds.ask(NAME, asked[2:])
    for number, back in enumerate(asked[:2]):
        holds.came_back(HeldRemoval(back, Verdict("hard_share: 5 of 5", operator=True), 100.0, None), 130.0 + number)
    assert holds.losses(SCOPE, Cause.EVENT, 110.0) == (5, 20.0)
    assert holds.losses(SCOPE, Cause.EVENT, 130.0) == (4, 1.0)
    assert holds.losses(SCOPE, Cause.EVENT, 131.0) == (3, 0.0)
    assert holds.losses(SCOPE, Cause.ABSENCE, 110.0) == (0, 0.0)


def test_what_came_back_and_goes_again_counts_once() -> None:
    holds = Holds()
    holds.came_back(HeldRemoval(removal(1), Verdict("hard_share: 5 of 5", operator=True), 100.0, None), 130.0)
    holds.ask(NAME, [removal(1)])
    assert holds.losses(SCOPE, Cause.EVENT, 110.0) == (1, 0.0)


def test_a_loss_that_came_and_shrank_between_two_looks_is_seen_to_shrink() -> None:
    """Else what is left of it would be held for ever by the rule that the whole of it broke."""
    holds = Holds()
    assert holds.asked() == 0
    holds.ask(NAME, [removal(number) for number in range(5)])
    holds.ask(NAME, [removal(1)])
    assert holds.asked() == 5
    assert holds.asked() == 1
