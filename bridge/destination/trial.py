"""The changes that links which observe would make, remembered by name so that each is reported once. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from bridge.adapter import Cause, Change
from bridge.link import Link, Policy
from bridge.model import Instance, ServiceName
from bridge.plan.values import Plan


class Tried(NamedTuple):
    """A change that a link would have made; `serving`: entries before and after, with all that it would have made."""

    change: Change
    kind: str
    cause: Cause | None
    serving: tuple[int, int]


class Trial:
    """The entries that links which observe would have written to one destination.

    Until `begun` nothing is reported: what a process finds at its start is not new, and `plan` shows it.
    """

    def __init__(self) -> None:
        self.begun = False
        self._would: dict[ServiceName, dict[str, Change]] = {}

    def sizes(self) -> int:
        """How many entries are remembered."""
        return sum(map(len, self._would.values()))

    def step(self, plan: Plan, links: Mapping[str, Link], there: Mapping[str, Instance]) -> list[Tried]:
        """The new changes in the plan of one name. `there`: the instances that the destination holds, by id."""
        before = self._would.get(plan.name, {})
        asked = _observed(plan, links)
        if not before and not asked:
            return []
        wanted = {key: change for key, (change, _) in asked.items()}
        if wanted:
            self._would[plan.name] = wanted
        else:
            self._would.pop(plan.name, None)
        if not self.begun:
            return []
        standing = _serving(there, before)
        told = []
        for change, kind, cause in _differences(before, asked, there):
            was = change.before.instance if change.before is not None else _after(before, change.id)
            left = standing + (change.after is not None and change.after.serving) - (was is not None and was.serving)
            told.append(Tried(change, kind, cause, (standing, left)))
            standing = left
        return told


def _observed(plan: Plan, links: Mapping[str, Link]) -> dict[str, tuple[Change, Cause | None]]:
    asked: list[tuple[Change, Cause | None]] = [(change, None) for change in plan.upserts if not change.forget]
    asked += [(removal.change, removal.cause) for removal in plan.removals]
    return {
        change.id: (change, cause)
        for change, cause in asked
        if change.mark is not None
        and (link := links.get(change.mark.link)) is not None
        and link.policy is Policy.OBSERVE
    }


def _differences(
    before: Mapping[str, Change], asked: Mapping[str, tuple[Change, Cause | None]], there: Collection[str]
) -> list[tuple[Change, str, Cause | None]]:
    found: list[tuple[Change, str, Cause | None]] = []
    for key, (change, cause) in asked.items():
        if key in before and before[key].after == change.after:
            continue
        fresh = key not in before and change.before is None
        found.append((change, "remove" if change.after is None else "add" if fresh else "update", cause))
    for key, change in before.items():
        # It would have been written, and is no longer wanted. If an entry is there all the same, it is somebody else's.
        if key not in asked and change.after is not None and key not in there:
            found.append((replace(change, after=None), "remove", None))
    return found


def _after(before: Mapping[str, Change], key: str) -> Instance | None:
    return before[key].after if key in before else None


def _serving(there: Mapping[str, Instance], before: Mapping[str, Change]) -> int:
    """How many entries would serve under the name if all those changes had been made."""
    standing: dict[str, Instance | None] = {**there, **{key: change.after for key, change in before.items()}}
    return sum(one is not None and one.serving for one in standing.values())
