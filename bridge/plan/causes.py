"""What each cause of a removal means for the guard: one row a cause."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from bridge.adapter import Cause


class Frees(enum.Enum):
    """Who lets go what the guard holds for a cause."""

    ITSELF = "itself"  # it is never held: nothing is lost by it, as long as it is true
    OPINION = "opinion"  # a fresh read of the source that agrees, after a time
    COUNT = "count"  # it goes, up to `source_count` in a window; beyond that the operator lets it go
    OPERATOR = "operator"
    SERVICE = "service"  # it goes while its service keeps a serving instance; else the operator lets it go


class Treatment(NamedTuple):
    """How the guard treats a cause.

    `loses`: a serving instance that goes is one that its service lacks. `counts`: that is a loss of its scope, too, and
    in the windows of both. `asks`: the source can be asked whether it is true. `wait`: the guard setting that says
    after how many seconds.
    """

    frees: Frees
    loses: bool = True
    counts: bool = True
    asks: bool = False
    wait: str = "confirm_event"


TREATMENTS: Mapping[Cause, Treatment] = {
    Cause.EVENT: Treatment(Frees.OPINION, asks=True),
    Cause.ABSENCE: Treatment(Frees.OPINION, asks=True, wait="confirm_absence"),
    Cause.HEALTH: Treatment(Frees.OPINION, asks=True),
    Cause.CONFIG: Treatment(Frees.OPERATOR),
    Cause.SHADOWED: Treatment(Frees.ITSELF, loses=False, counts=False),
    Cause.REPLACED: Treatment(Frees.ITSELF, loses=False),
    Cause.REUSED: Treatment(Frees.COUNT),
    Cause.OPERATOR: Treatment(Frees.SERVICE, counts=False),
    Cause.SHARE: Treatment(Frees.SERVICE, counts=False),
    Cause.PURGE: Treatment(Frees.ITSELF, loses=False),  # never planned: an operator's command, shown before
}
MOMENTARY = tuple(cause for cause, one in TREATMENTS.items() if one.frees is Frees.ITSELF)
ORDERED = tuple(cause for cause, one in TREATMENTS.items() if one.frees is Frees.SERVICE)  # decided once, by name
EVIDENCE = tuple(cause for cause, one in TREATMENTS.items() if one.asks)  # what a source says
