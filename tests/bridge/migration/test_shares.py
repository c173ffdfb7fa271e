"""The arithmetic of shares, for every way that a place can say one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bridge.migration.shares import (
    ALL,
    LEAST,
    NONE,
    STANDING,
    Dose,
    Fit,
    Means,
    Scale,
    Side,
    attached,
    dealt,
    fit,
    going_back,
    in_order,
)

SIDES = st.builds(
    Side, st.integers(0, 50).map(float), st.lists(st.sampled_from([0.5, 1.0, 1.0, 2.0]), max_size=40).map(tuple)
)
SCALES = st.sampled_from([0.01, 0.1, 1.0]).map(Scale)
SHARES = st.floats(0, 1)


def vms(count: int, natives: float = 0.0) -> Side:
    return Side(natives, (1.0,) * count)


def _made(share: float, old: Side, new: Side, means: Means, scale: Scale) -> Fit:
    if means is Means.BOTH:
        old, new = old._replace(fixed=0.0), new._replace(fixed=0.0)
    return fit(share, old, new, means, scale)


def _counted(side: Side, means: Means) -> Side:
    return side._replace(ours=(1.0,) * len(side.ours)) if means is Means.COUNTS else side


@given(SIDES, SIDES, st.sampled_from(Means), SCALES, SHARES)
def test_the_new_side_never_has_more_than_was_asked(
    old: Side, new: Side, means: Means, scale: Scale, share: float
) -> None:
    made = _made(share, old, new, means, scale)
    if means is Means.BOTH:
        old, new = old._replace(fixed=0.0), new._replace(fixed=0.0)
    old, new = _counted(old, means), _counted(new, means)
    natives = new.fixed / (new.fixed + old.whole) if new.fixed else 0.0  # it has so much before anything is done
    if share < 1 and old.whole:
        assert made.said <= max(share, natives) + 1e-6


@given(SIDES, SIDES, st.sampled_from(Means), SCALES, SHARES)
def test_something_serves_at_every_place_at_every_share(
    old: Side, new: Side, means: Means, scale: Scale, share: float
) -> None:
    made = _made(share, old, new, means, scale)
    if means is Means.BOTH:
        old, new = old._replace(fixed=0.0), new._replace(fixed=0.0)
    if old.whole or (new.whole and share >= LEAST):
        ours = sum(dealt(made.new, new.ours, scale)) + sum(dealt(made.old, old.ours, scale))
        assert ours + old.fixed + new.fixed > 0


@given(SIDES, SIDES, st.sampled_from(Means), SCALES, st.lists(SHARES, min_size=2, max_size=6))
def test_a_greater_share_never_comes_to_less(
    old: Side, new: Side, means: Means, scale: Scale, shares: list[float]
) -> None:
    said = [_made(share, old, new, means, scale).said for share in sorted(shares)]
    rounding = 0.02  # weights of the new side are rounded down, each by less than one unit
    assert all(after >= before - rounding for before, after in pairwise(said))


@given(SIDES, SIDES, st.sampled_from(Means), SCALES)
def test_nothing_and_everything_are_exact(old: Side, new: Side, means: Means, scale: Scale) -> None:
    nothing = _made(0.0, old, new, means, scale)
    assert (nothing.old, nothing.new) == (ALL, NONE)
    free = _made(1.0, old._replace(fixed=0.0), new, means, scale)
    if new.ours:
        assert (free.old, free.new) == (NONE, ALL)


@given(SIDES, SIDES, st.sampled_from(Means), SCALES, SHARES, st.integers(0, 60))
def test_between_two_steps_no_weight_is_raised_and_no_side_gets_more(
    old: Side, new: Side, means: Means, scale: Scale, share: float, there: int
) -> None:
    """What leaves a side is not made up for by it, and what joins shares what the side has."""
    made = _made(share, old, new, means, scale)
    if made.new.weight is None or made.new.count is not None:
        return
    before, after = dealt(made.new, new.ours, scale), dealt(made.new, (1.0,) * there, scale)
    assert max(after, default=0.0) <= max(before, default=0.0) + 1e-9
    assert sum(after) <= sum(before) + 1e-6


def kept(made: Fit, old: Side) -> int:
    return sum(1 for weight in dealt(made.old, (1.0,) * len(old.ours), made.scale) if weight)


@given(SIDES, SIDES, st.lists(SHARES, min_size=2, max_size=6), st.floats(0.05, 1))
def test_beside_natives_of_the_new_side_each_step_leaves_fewer_of_the_old(
    old: Side, new: Side, shares: list[float], most: float
) -> None:
    steps = [attached(share, old, new, 0, most) for share in sorted(shares)]
    if not new.whole:
        assert all(made.old == STANDING for made in steps)
        return
    counts = [kept(made, old) for made in steps]
    assert counts == sorted(counts, reverse=True) and all(made.new == ALL for made in steps)
    whole = new.fixed + len(new.ours)
    assert all(count / (count + whole) <= most + 1e-6 for count in counts)
    for share, made in zip(sorted(shares), steps, strict=True):
        least = whole / (whole + old.fixed + len(old.ours))  # with all of them it has so much
        room = whole / (whole + old.fixed + most / (1 - most) * whole - 1) if most < 1 else 0.0
        assert made.said <= max(share, least, room, 0.0 if old.fixed or old.ours else 1.0) + 1e-6
    assert kept(attached(1.0, old, new, 0, most), old) == 0


def test_nothing_is_attached_before_its_phase_and_what_stands_stays() -> None:
    made = attached(None, vms(6), Side(4.0, (), 4), there=2)
    assert (made.old, made.new, made.said) == (STANDING, ALL, 4 / 6)


def by_counts(share: float, old: Side, new: Side) -> Fit:
    return fit(share, old, new, Means.COUNTS)


def beside(share: float, old: Side, new: Side) -> Fit:
    return attached(share, old, new, 0)


@given(SIDES, SIDES, SIDES, SHARES, SHARES, st.sampled_from((by_counts, beside)))
def test_a_way_back_takes_nothing_of_the_old_side_away(
    old: Side, new: Side, left: Side, share: float, less: float, how: Callable[[float, Side, Side], Fit]
) -> None:
    """Whatever has become of the new side meanwhile."""
    before = how(max(share, less), old, new)
    made = going_back(how(min(share, less), old, left), before, old, left)
    assert kept(made, old) >= kept(before, old) or before.old.standing
    assert made.stands >= before.stands or made.old == ALL


def test_a_way_back_from_before_anything_was_attached_attaches_nothing() -> None:
    old, new = vms(6), Side(4.0, (), 4)
    before = attached(None, old, new, 0)
    assert going_back(attached(0.0, old, new, 0), before, old, new).old == STANDING


def test_a_fit_knows_the_natives_and_the_copies_that_it_counts_on() -> None:
    assert fit(0.5, vms(0, natives=8.0), Side(2.0, (1.0,) * 10, 2), Means.COUNTS).stands == 8
    assert attached(0.5, vms(6), Side(4.0, (), 4), 0) == Fit(
        0.5, 0.5, Means.COUNTS, old=Dose(4, of=6), new=ALL, stands=4
    )


def test_one_percent_of_two_hundred_kratos_instances_is_said_by_weight() -> None:
    made = fit(0.01, vms(0, natives=200.0), vms(2), Means.WEIGHTS)
    assert dealt(made.new, (1.0, 1.0), made.scale) == [1.01, 1.01]
    assert 0.0099 < made.said <= 0.01


def test_a_weight_below_the_smallest_goes_to_fewer_copies() -> None:
    made = fit(0.01, vms(0, natives=2.0), vms(200), Means.WEIGHTS)
    assert dealt(made.new, (1.0,) * 200, made.scale) == [0.01] * 2 + [0.0] * 198


def test_by_counts_one_of_three_is_the_finest_step() -> None:
    assert fit(0.05, vms(0, natives=2.0), vms(4), Means.COUNTS).said == 0.0
    assert fit(0.5, vms(0, natives=2.0), vms(4), Means.COUNTS).new.count == 2


def test_by_counts_the_old_side_gives_way_where_the_new_one_is_small() -> None:
    made = fit(0.75, vms(20), vms(4), Means.COUNTS)
    assert (made.old.count, made.new.count, made.said) == (2, 4, 4 / 6)


def test_natives_keep_a_twentieth_until_they_are_stopped() -> None:
    made = fit(1.0, vms(0, natives=20.0), vms(20), Means.WEIGHTS)
    assert 0.94 < made.said <= 0.95


def test_an_export_says_any_share_exactly() -> None:
    for percent in (1, 5, 25, 50, 99):
        made = fit(percent / 100, vms(200), vms(3), Means.BOTH)
        assert abs(made.said - percent / 100) < 0.001


def test_copies_are_taken_in_an_order_that_is_not_that_of_their_names() -> None:
    ids = [f"i{number}" for number in range(20)]
    assert in_order("pay/api", ids) == in_order("pay/api", reversed(ids)) != ids
    assert in_order("pay/api", ids)[:5] != in_order("pay/web", ids)[:5]
