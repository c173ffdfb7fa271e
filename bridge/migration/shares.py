"""What a share of one side comes to at one place: how many copies of it, and which weight each of them has; pure.

A side is made of what stands there and is not ours to change (`fixed`), and of our copies. Rules: never beyond what was
asked, nothing at 0 and nothing of the other side's copies at 1, never a place where nothing serves; what a side loses
within a step is not made up for by it, but goes to the other side: weights are lowered between two steps, never raised.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

SLACK = 1e-9  # of what floating point makes of a sum
LEAST = 1e-4  # shares are parts of 10,000
BESIDE_NATIVES = 0.95  # more is not said by weights beside natives that keep theirs: the rest is theirs to leave


class Means(enum.StrEnum):
    """What a share can be said by at a place."""

    WEIGHTS = "weights"  # the weight of our copies, beside natives that keep theirs
    COUNTS = "counts"  # how many of our copies stand there
    BOTH = "both"  # weights, and both sides are ours alone: an export


class Scale(NamedTuple):
    """How a place says a weight. `unit`: the smallest, and the step between two; `most`: the greatest."""

    unit: float = 0.01
    most: float = 1e6


class Side(NamedTuple):
    """One side at one place. `fixed`: the weight (by counts: the number) of what serves there and is not ours.

    `ours`: the weights, by the source, of what serves there or would be written. `natives`: how many serve there that
    no bridge wrote; they are among `fixed`.
    """

    fixed: float
    ours: tuple[float, ...]
    natives: int = 0

    @property
    def whole(self) -> float:
        """What the side weighs if all of it stands as its source says."""
        return self.fixed + sum(self.ours)


class Dose(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of one side's copies stands at a place.

    `count`: so many of them, the first in their order; None: all. `weight`: of each, None: its own, times `scale`.
    `of`: how many there were when this was fitted: where there are more, each weighs less. `standing`: those that stand
    there stay as they are, and no other one comes.
    """

    count: int | None = None
    weight: float | None = None
    scale: float = 1.0
    of: int = 0
    standing: bool = False


class Fit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a share is said at one place. `asked`, `said`: of `to`, 0..1; `said` is what the doses come to.

    `stands`: of `to`, natives and copies, what serves there by this: without it nothing of `from` goes.
    """

    asked: float
    said: float
    means: Means
    scale: Scale = Scale()
    old: Dose = Dose()
    new: Dose = Dose()
    stands: int = 0


NONE = Dose(count=0)
ALL = Dose()
STANDING = Dose(standing=True)


def fit(share: float, old: Side, new: Side, means: Means, scale: Scale = Scale()) -> Fit:  # noqa: B008  a value
    """How `share` (0..1) of the side `new` is said beside the side `old`.

    `old` stands as it is for as long as `new` can reach the share beside it; only then less of `old` does.
    """
    if means is Means.COUNTS:
        old, new = _counted(old), _counted(new)
    return _with_said(_fitted(share, old, new, means, scale), share, old, new)


def attached(share: float | None, old: Side, new: Side, there: int, most: float = 1.0) -> Fit:
    """How `share` of `new` is said where it is native, and copies of `old` stand beside it: by how many of them.

    None: nothing is said yet, and nothing changes; so it is where `new` has nothing there. `there`: how many of `old`
    stand. `most`: the part (0..1) of all that serves that these copies may be. Copies of `new` are left as they are.
    """
    old, new = _counted(old), _counted(new)
    if share is None or not new.whole:
        total = old.fixed + there + new.whole
        said = new.whole / total if total else 0.0
        return Fit(share or 0.0, said, Means.COUNTS, old=STANDING, stands=new.natives + len(new.ours))
    room = len(old.ours) if most >= 1 else math.floor(most / (1 - most) * new.whole + SLACK)
    keep = room if share < LEAST else math.ceil((1 - share) / share * new.whole - old.fixed - SLACK)
    made = Fit(share, 0.0, Means.COUNTS, old=Dose(max(0, min(len(old.ours), room, keep)), of=len(old.ours)))
    return _with_said(made, share, old, new)


def going_back(made: Fit, before: Fit, old: Side, new: Side) -> Fit:
    """The fit of a way back: it takes nothing of `old` away that the one `before` has, whatever has become of `new`."""
    if made.means is not Means.COUNTS or made.old == ALL:
        return made
    if before.old.count is None or made.old.standing:
        kept = before.old
    else:
        kept = max(made.old, before.old, key=lambda dose: dose.count or 0)
    more = msgspec.structs.replace(made, old=kept, stands=max(made.stands, before.stands))
    said = made.said if kept.standing else _said(_counted(old), _counted(new), more, made.scale)
    return msgspec.structs.replace(more, said=said)


def _with_said(made: Fit, share: float, old: Side, new: Side) -> Fit:
    stands = new.natives + sum(1 for weight in dealt(made.new, new.ours, made.scale) if weight)
    return msgspec.structs.replace(made, asked=share, said=_said(old, new, made, made.scale), stands=stands)


def _fitted(share: float, old: Side, new: Side, means: Means, scale: Scale) -> Fit:
    if share < LEAST or not new.whole:
        return Fit(share, 0.0, means, scale, ALL, NONE)
    if means is Means.WEIGHTS and old.fixed and share > BESIDE_NATIVES:
        made = _fitted(BESIDE_NATIVES, old, new, means, scale)
        return made if share < 1 else msgspec.structs.replace(made, old=NONE)
    if share >= 1 or not old.whole:
        return Fit(share, 1.0, means, scale, NONE if share >= 1 else ALL, ALL)
    if means is Means.BOTH and not (old.fixed or new.fixed):
        return _free(share, old, new, scale)
    wanted = share / (1 - share) * old.whole - new.fixed
    dose = _dose(wanted, new.ours, means, scale)
    reached = new.fixed + sum(dealt(dose, new.ours, scale))
    if means is Means.COUNTS and dose.count == len(new.ours) and reached < share / (1 - share) * old.whole:
        least = (1 - share) / share * reached - old.fixed  # less of `old`, or `new` would not reach its share
        keep = min(len(old.ours), max(0, math.ceil(least - SLACK)))
        return Fit(share, 0.0, means, scale, Dose(keep, of=len(old.ours)), dose)
    return Fit(share, 0.0, means, scale, ALL, dose)


def _free(share: float, old: Side, new: Side, scale: Scale) -> Fit:
    """Both sides are ours, and weights are relative: raised together until the smallest is a hundred units."""
    each = share / (1 - share) * old.whole / len(new.ours)
    raised = max(1.0, 100 * scale.unit / each, 100 * scale.unit / (min(old.ours) or 1.0))
    raised = min(raised, scale.most / max(each, *old.ours))
    standing = Dose(scale=raised, of=len(old.ours))
    theirs = sum(dealt(standing, old.ours, scale))
    weight = _down(share / (1 - share) * theirs / len(new.ours), scale.unit)
    return Fit(share, 0.0, Means.BOTH, scale, standing, Dose(weight=weight, of=len(new.ours)))


def _dose(wanted: float, ours: Sequence[float], means: Means, scale: Scale) -> Dose:
    """At most so much of a side's copies: one weight for all of them, or as many as the smallest weight allows."""
    count = len(ours)
    if not count or wanted < (1 if means is Means.COUNTS else scale.unit) - SLACK:
        return NONE
    if means is Means.COUNTS:
        return Dose(min(count, math.floor(wanted + SLACK)), of=count)
    weight = min(scale.most, _down(wanted / count, scale.unit))
    if weight:
        return Dose(weight=weight, of=count)
    return Dose(math.floor(wanted / scale.unit + SLACK), scale.unit, of=count)


def _counted(side: Side) -> Side:
    return side._replace(ours=(1.0,) * len(side.ours))


def _down(weight: float, unit: float) -> float:
    return round(math.floor(weight / unit + SLACK) * unit, 9)


def dealt(dose: Dose, ours: Sequence[float], scale: Scale) -> list[float]:
    """The weight of each of a side's copies, in their order, from the weights of their source; 0: it is left out.

    Where there are more copies than the dose was fitted for each weighs less, so that the side gets no more.
    """
    count, most = len(ours), len(ours) if dose.count is None else dose.count
    less = min(1.0, dose.of / count) if dose.of and dose.count is None and count else 1.0
    if dose.weight is None:
        if dose.scale == less == 1.0:
            return [weight if at < most else 0.0 for at, weight in enumerate(ours)]
        # Most copies of a side have the same weight.
        scaled = {own: max(scale.unit, _down(own * dose.scale * less, scale.unit)) for own in set(ours)}
        return [scaled[own] if at < most else 0.0 for at, own in enumerate(ours)]
    weight = _down(dose.weight * less, scale.unit)
    if not weight:  # less than the smallest for each: the smallest for as many as it is enough for
        weight, most = scale.unit, math.floor(dose.weight * dose.of / scale.unit + SLACK)
    return [weight if at < most else 0.0 for at in range(count)]


def _said(old: Side, new: Side, made: Fit, scale: Scale) -> float:
    """The share of `new` that a fit comes to, as the place rounds it."""
    ours, theirs = sum(dealt(made.new, new.ours, scale)), sum(dealt(made.old, old.ours, scale))
    total = old.fixed + theirs + new.fixed + ours
    return (new.fixed + ours) / total if total else 0.0


def in_order(move: str, ids: Iterable[str]) -> list[str]:
    """The copies of a side in the order in which they are taken: the same in every daemon, and none by its name."""
    return sorted(ids, key=lambda one: hashlib.blake2b(f"{move}\t{one}".encode(), digest_size=8).digest())
