"""The deletion guard: net loss of serving instances in a rolling window, against three limits; pure (safety rule 4)."""

from __future__ import annotations

import enum
from typing import NamedTuple

from bridge.adapter import Cause
from bridge.link import Guard
from bridge.plan.causes import TREATMENTS, Frees

STOOD = 120.0  # seconds; an instance that stood for so long is a loss when it goes, even if it came within the window


class Level(NamedTuple):
    """Serving instances of one service or one scope.

    `start`: at the start of the window. `after`: with all changes made. `stood`: `STOOD` seconds ago. `now`:
    before anything of it is done.
    """

    start: int
    after: int
    stood: int = 0
    now: int = 0

    @property
    def lost(self) -> int:
        """The net loss over the window."""
        return self.start - self.after

    @property
    def most(self) -> int:
        """The level for the hard limit: growth inside the window must not hide a wipe."""
        return max(self.start, self.stood)

    def plus(self, other: Level) -> Level:
        """With the instances of another part of it."""
        return Level(*(one + more for one, more in zip(self, other, strict=True)))


class Limit(enum.StrEnum):
    """What holds a removal."""

    CONFIG = "config"
    ADDITIONS = "additions"
    INCARNATION = "another_life"
    EMPTIED = "emptied"
    HARD_SHARE = "hard_share"
    SOURCE_SHARE = "source_share"
    LAST_INSTANCE = "last_instance"
    SERVICE_SHARE = "service_share"
    REUSED = "reused"


HARD = (Limit.EMPTIED, Limit.HARD_SHARE)  # so much of a scope would go that all other removals of the scope wait, too
OF_A_SERVICE = (Limit.LAST_INSTANCE, Limit.SERVICE_SHARE)


class Verdict(NamedTuple):
    """What holds a removal, None: it may go; the figures, for people; and whether only the operator releases it."""

    limit: Limit | None = None
    text: str = ""
    operator: bool = False

    @property
    def rule(self) -> str:
        """For people."""
        return f"{self.limit}: {self.text}" if self.limit is not None else ""

    @property
    def hard(self) -> bool:
        """Whether it concerns the scope as a whole."""
        return self.limit in HARD


class Asked(NamedTuple):
    """The properties of one removal that the limits depend on.

    `loses`: a serving instance stops serving. `withdraws`: it goes for its health, and could stand with it. `many`:
    where only the number counts, how many of its scope went for that cause within the window, or are asked to go.
    `including_last`: an operator said that it may be the last of its service.
    """

    cause: Cause
    loses: bool
    doubt: str = ""
    withdraws: bool = False
    many: int = 0
    including_last: bool = False


GO = Verdict()


def judge(limits: Guard, asked: Asked, service: Level, scope: Level, whole: Level) -> Verdict:
    """Whether one removal may go now.

    `scope` counts what is asked of its scope for the same cause, `whole` what is asked for any cause but the file. An
    entry that is only marked unhealthy never waits for the operator: clients must not be sent there.
    """
    frees = TREATMENTS[asked.cause].frees
    if frees is Frees.ITSELF:
        return GO
    if frees is Frees.COUNT:
        return GO if asked.many <= limits.source_count else _many(asked.many)
    if frees is Frees.SERVICE:
        goes = service.after > 0 or not asked.loses or asked.including_last
        return GO if goes else Verdict(Limit.LAST_INSTANCE, "nothing would serve", operator=True)
    if frees is Frees.OPERATOR:
        return Verdict(Limit.CONFIG, "the file takes it away", operator=True)
    if asked.doubt:
        return Verdict(Limit.INCARNATION, asked.doubt, operator=True)
    if not (asked.loses or asked.withdraws):
        return GO
    hard = _hard(limits, whole)
    if hard.limit is not None:
        return hard._replace(operator=asked.cause is not Cause.HEALTH or asked.withdraws)
    return _soft(limits, service, scope) if asked.loses else GO


class Judgement(NamedTuple):
    """A verdict with everything that it was based on."""

    verdict: Verdict
    limits: Guard
    asked: Asked
    service: Level
    scope: Level
    whole: Level

    @property
    def rule(self) -> str:
        """The rule that holds it, or that none does, with figures and limits at that time; for people."""
        limits, service, scope, whole = self.limits, self.service, self.scope, self.whole
        figures = (
            f"{service.after} of {service.start} of its service would serve (service_share {limits.service_share:g}), "
            f"{scope.lost} of {scope.start} of its scope go for this cause (source_count {limits.source_count}, "
            f"source_share {limits.source_share:g}), {max(0, whole.most - whole.after)} of {whole.most} for any "
            f"(hard_count {limits.hard_count}, hard_share {limits.hard_share:g}), in {limits.window:g} s"
        )
        loses = self.asked.loses or self.asked.withdraws
        return f"{self.verdict.rule or 'within the limits'}; {figures if loses else 'no serving instance goes'}"


def _many(count: int) -> Verdict:
    return Verdict(Limit.REUSED, f"{count} addresses of its scope serve elsewhere now", operator=True)


def _hard(limits: Guard, whole: Level) -> Verdict:
    before, lost = max(whole.most, whole.now), whole.most - whole.after
    if whole.after <= 0 and before >= 2:
        return Verdict(Limit.EMPTIED, f"none of {before} of its scope would serve")
    if lost > limits.hard_count and lost > limits.hard_share * whole.most:
        return Verdict(Limit.HARD_SHARE, f"{lost} of {whole.most} of its scope")
    return GO


def _soft(limits: Guard, service: Level, scope: Level) -> Verdict:
    if scope.lost > limits.source_count and scope.lost > limits.source_share * scope.start:
        return Verdict(Limit.SOURCE_SHARE, f"{scope.lost} of {scope.start} of its scope")
    if service.after <= 0 and limits.last_instance == "hold":
        return Verdict(Limit.LAST_INSTANCE, "nothing would serve")
    if service.start > 1 and service.after < limits.service_share * service.start:
        return Verdict(Limit.SERVICE_SHARE, f"{service.after} of {service.start} would serve")
    return GO
