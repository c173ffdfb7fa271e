"""What is held, counted: the losses of a scope, and those that were taken back."""

from __future__ import annotations

import pytest

from bridge.adapter import Cause, Change, Entry
from bridge.guard.holds import HeldRemoval, Holds, item_of
from bridge.guard.limits import Limit, Verdict
from bridge.model import Instance, Mark, ServiceName
from bridge.plan.values import Removal

NAME = ServiceName("pay")
SCOPE = ("origin", "")

HARD = Verdict(Limit.HARD_SHARE, "5 of 5", operator=True)


def removal(number: int) -> Removal:
    """Of an instance that serves."""
    instance = Instance(f"i{number}", "192.0.2.1")
    mark = Mark("b1", "link", ("origin",), "", NAME, instance.id)
    return Removal(Change(NAME, instance.id, Entry(instance, mark)), Cause.EVENT, SCOPE, loses=True)


def test_what_came_back_counts_among_the_losses_until_it_is_forgotten() -> None:
    holds = Holds()
    asked = [removal(number) for number in range(5)]
    holds.ask(NAME, asked)
    assert holds.losses(SCOPE, Cause.EVENT) == 5
    holds.ask(NAME, asked[2:])
    for number, back in enumerate(asked[:2]):
        holds.came_back(HeldRemoval(back, HARD, 100.0, None), 130.0 + number)
    for now, left in ((110.0, 5), (130.0, 4), (131.0, 3)):
        holds.forget(now)
        assert holds.losses(SCOPE, Cause.EVENT) == left
    assert holds.losses(SCOPE, Cause.ABSENCE) == 0


def test_what_came_back_and_goes_again_counts_once() -> None:
    holds = Holds()
    holds.came_back(HeldRemoval(removal(1), HARD, 100.0, None), 130.0)
    holds.ask(NAME, [removal(1)])
    assert holds.losses(SCOPE, Cause.EVENT) == 1


def test_a_loss_that_came_and_shrank_between_two_looks_is_seen_to_shrink() -> None:
    """Else what is left of it would be held for ever by the rule that the whole of it broke."""
    holds = Holds()
    assert holds.asked() == 0
    holds.ask(NAME, [removal(number) for number in range(5)])
    holds.ask(NAME, [removal(1)])
    assert holds.asked() == 5
    assert holds.asked() == 1


def holding(*removals: Removal, holds: Holds | None = None) -> Holds:
    """All of them held, until the operator frees them."""
    holds = holds or Holds()
    held = {one.change.id: HeldRemoval(one, HARD, 100.0, None) for one in removals}
    holds.settle(NAME, held, [*removals])
    return holds


def test_an_approval_ends_when_what_it_lets_go_is_asked_no_more() -> None:
    one, two = removal(1), removal(2)
    holds = holding(one, two)
    (shown,) = holds.show(100.0)
    assert holds.approve(shown.id, 100.0) == shown.items
    holds.settle(NAME, {}, [two])
    assert not holds.is_granted(one, 101.0)
    assert holds.is_granted(two, 101.0)
    holds.settle(NAME, {}, [one, two])
    assert not holds.is_granted(one, 102.0)


def test_an_approval_ends_with_the_change_that_it_lets_go() -> None:
    one, two = removal(1), removal(2)
    holds = holding(one, two)
    (shown,) = holds.show(100.0)
    holds.approve(shown.id, 100.0)
    holds.use(item_of(one.change))
    assert not holds.is_granted(one, 101.0)
    assert holds.is_granted(two, 101.0)


def test_an_approval_ends_after_the_time_that_it_was_given_for() -> None:
    one = removal(1)
    holds = holding(one)
    (shown,) = holds.show(100.0)
    holds.approve(shown.id, 100.0, 60.0)
    assert holds.is_granted(one, 159.0)
    assert not holds.is_granted(one, 160.0)
    assert holds.forget(160.0) == {NAME}
    assert not holds.granted()


def test_an_inherited_approval_waits_only_for_a_source_that_has_not_spoken() -> None:
    one, two, gone = removal(1), removal(2), removal(3)
    holds = Holds()
    holds.grant("digest", [item_of(each.change) for each in (one, two, gone)], 900.0)
    holds.only_standing({NAME: {"i1", "i2"}}, but=())
    assert [item[2] for item in holds.granted()] == ["i1", "i2"]
    holds.settle(NAME, {}, [], {"i1"})
    assert [item[2] for item in holds.granted()] == ["i1"]
    holds.settle(NAME, {}, [one], {})
    assert holds.is_granted(one, 0.0)
    holds.settle(NAME, {}, [], {"i1"})  # once asked, and asked no more: whatever its source does now, it is over
    assert not holds.granted()


def test_what_is_held_no_more_cannot_be_approved() -> None:
    holds = holding(removal(1))
    (shown,) = holds.show(100.0)
    holding(holds=holds)
    with pytest.raises(ValueError, match=r"nothing of .* is held any more"):
        holds.approve(shown.id, 101.0)


def test_what_a_second_opinion_confirmed_is_forgotten_when_it_is_held_anew() -> None:
    one = removal(1)
    holds = holding(one)
    holds.agree(holds.of(NAME)["i1"])
    assert holds.is_agreed(one)
    holding(one, holds=holds)
    assert not holds.is_agreed(one)
