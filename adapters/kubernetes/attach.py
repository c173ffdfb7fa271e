"""How much may be added to a Service that has pods of its own, and what that does to it; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from adapters.kubernetes.place import Place, owner_of
from bridge.adapter import Change, Outcome
from bridge.errors import Rejected

LOOK_AGAIN = 5.0  # seconds until what found no room is tried again: pods may have been added
OFF = 0.2  # of the pods that the room was last fitted to: what changes by less is not followed,
STEADY = 120.0  # nor what has lasted for less than these seconds: pods restart, and autoscalers swing


class Fit(NamedTuple):
    """The number of serving pods that the room beside them is made for. `off`: since when they are others."""

    pods: int
    off: float | None = None


def fitted(fit: Fit | None, pods: int, now: float) -> Fit:
    """The fit after a look at `now`."""
    if fit is None or not fit.pods:
        return Fit(pods)
    if abs(pods - fit.pods) <= OFF * fit.pods:
        return Fit(fit.pods)
    since = now if fit.off is None else fit.off
    return Fit(pods) if now - since >= STEADY else Fit(fit.pods, since)


class Share(NamedTuple):
    """The serving endpoints of a Service: its own pods, and what bridges attached."""

    pods: int
    attached: frozenset[str]

    @property
    def text(self) -> str:
        """For people: `2 attached beside 6 pods: 25 % of what serves`."""
        count = len(self.attached)
        return (
            f"{count} attached beside {self.pods} pods: {100 * count / max(1, count + self.pods):.0f} % of what serves"
        )


def share_of(place: Place) -> Share | None:
    """None: it has no pods of its own, for it has no selector."""
    if place.service is None or not place.service.spec.selector:
        return None
    serving = {id: one.slice for id, one in place.shown.items() if one.instance is not None and one.instance.serving}
    attached = frozenset(id for id, name in serving.items() if owner_of(place.slices[name]))
    return Share(len(serving) - len(attached), attached)


def after(share: Share, changes: Sequence[Change]) -> Share:
    """The same once these are made."""
    gone = {change.id for change in changes if change.after is None or not change.after.serving}
    come = {change.id for change in changes if change.after is not None and change.after.serving}
    return Share(share.pods, (share.attached - gone) | come)


def too_much(place: Place, share: Share | None, pods: int, changes: Sequence[Change], most: float) -> list[Outcome]:
    """The creates that would make the attached share of the serving endpoints larger than `most`, not made.

    `pods`: those beside which there is room. It bounds what is added and takes nothing away, so a replacement or a
    removal is never among them. They are tried again, for the number of pods changes without us.
    """
    if share is None or most >= 1:
        return []
    allowed = math.floor(pods * most / (1 - most) + 1e-9)
    removed = {change.id for change in changes if change.after is None and not change.forget}
    count, refused = len(share.attached - removed), []
    for change in changes:
        if change.before is not None or change.after is None or not change.after.serving:
            continue
        if count < allowed:
            count += 1
            continue
        reason = (
            f"{place.namespace}/{place.target} has {pods} serving pods of its own: with {count} attached "
            f"there is no room for {change.id} below `max_attached_share: {most:g}`"
        )
        refused.append(Outcome(change, error=Rejected(reason, LOOK_AGAIN)))
    return refused
