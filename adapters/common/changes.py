"""Changes at a destination: who may make which, in which order, in which portions, and what became of each; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from bridge.adapter import Change, Outcome
from bridge.errors import Conflict, Rejected
from bridge.model import Mark

S = TypeVar("S")

LOOK_AGAIN = 30.0  # seconds until a value is tried again that something else at the destination stands in the way of


def judge(bridge: str, change: Change) -> None:
    """Refuses what the bridge with this id must not even ask of a store (safety rule 5).

    Raises Conflict: the change says itself that what it is about is not ours. Rejected: it would be written without
    our mark.
    """
    what, before = f"{change.service}/{change.id}", change.before
    ours = before is not None and before.mark is not None and before.mark.owner == bridge
    if before is None and (change.forget or change.after is None):
        raise Conflict(f"{what}: {'release' if change.forget else 'remove'} what? the change has no `before`")
    if change.forget:
        if before is not None and before.mark is not None and not ours:
            raise Conflict(f"{what}: not ours to release")
        return
    if before is not None and not ours and not change.adopt:
        raise Conflict(f"{what}: not ours to change")
    if change.after is not None and (change.mark is None or change.mark.owner != bridge):
        raise Rejected(f"{what}: nothing is written without the mark of its bridge")


def compare(change: Change, stands: tuple[Any, Mark | None] | None, place: str = "") -> None:
    """Raises Conflict unless what stands there, by its version and mark, is what the change was planned on.

    `place`: what a version of this store is called, for people, with a blank behind it.
    """
    what, before = f"{change.service}/{change.id}", change.before
    if before is None:
        if stands is not None:
            raise Conflict(f"{what}: something stands there")
        return
    if stands is None:
        raise Conflict(f"{what}: it is gone")
    version, mark = stands
    if version != before.version:
        raise Conflict(f"{what}: written over since {place}{before.version}")
    if mark != before.mark:
        raise Conflict(f"{what}: somebody else's now")


def turn(change: Change) -> int:
    """0 creates, 1 replaces, 2 removes: in this order nobody finds a service empty on the way (Slack, 2020-05-12)."""
    return 2 if change.after is None else 1 if change.before is not None else 0


class Outcomes:
    """What became of each of some changes, given in any order and returned in theirs."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self._by_change: dict[int, Outcome] = {}

    def put(self, *outcomes: Outcome) -> None:
        """These are decided."""
        for outcome in outcomes:
            self._by_change[id(outcome.change)] = outcome

    def fail(self, change: Change, error: Exception) -> None:
        """This one was not made."""
        self.put(Outcome(change, error=error))

    def fail_others(self, error: Exception) -> None:
        """Those of which nothing is known yet were not made, as far as we know."""
        for change in self._changes:
            if id(change) not in self._by_change:
                self.fail(change, error)

    def in_order(self) -> list[Outcome]:
        """One outcome for each change; KeyError where one has none."""
        return [self._by_change[id(change)] for change in self._changes]


def portions(steps: Iterable[S], size_of: Callable[[S], int], count: int, size: int) -> Iterator[list[S]]:
    """Steps by request, in their order: at most `count` and, but for a single larger one, `size` bytes in each."""
    portion: list[S] = []
    used = 0
    for each in steps:
        more = size_of(each)
        if portion and (len(portion) == count or used + more > size):
            yield portion
            portion, used = [], 0
        portion.append(each)
        used += more
    if portion:
        yield portion
