"""What puts back what a link changed: only what stands as it was written, never a native's place, never the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from bridge.adapter import Entry
from bridge.model import Health, Instance
from bridge.plan.undo import Step, plan_undo, spared
from tests.bridge.plan.test_diff import of, ours
from tests.kit.builders import PAY, instance

ONE, TWO, MOVED = instance("i1"), instance("i2"), instance("i1", "198.51.100.1")
ILL = replace(ONE, health=Health.UNHEALTHY)


def step(id: str, before: Instance | None, after: Instance | None, owner: str = "me") -> Step:
    return Step(PAY, id, before, after, of(id, owner=owner))


class Row(NamedTuple):
    """`back`: what would be written of each id, None: it is removed; `unnamed`: what asks for a probe."""

    steps: tuple[Step, ...]
    held: Mapping[str, Entry] = {}
    named: bool = True
    back: Mapping[str, Instance | None] = {}
    unnamed: Mapping[str, Instance | None] = {}
    left: tuple[str, ...] = ()


ROWS = {
    "what was added goes": Row((step("i1", None, ONE),), ours(ONE, TWO), back={"i1": None}),
    "what was changed is as it was": Row((step("i1", ONE, MOVED),), ours(MOVED), back={"i1": ONE}),
    "what was removed is there again": Row((step("i1", ONE, None),), ours(TWO), back={"i1": ONE}),
    "of several changes the first counts": Row(
        (step("i1", ONE, ILL), step("i1", ILL, MOVED)), ours(MOVED), back={"i1": ONE}
    ),
    "what came and went is nothing": Row((step("i1", None, ONE), step("i1", ONE, None)), ours(TWO)),
    "what its source names no more is to be probed": Row(
        (step("i1", ONE, None),), ours(TWO), named=False, unnamed={"i1": ONE}
    ),
    "what was added goes without a probe": Row(
        (step("i1", None, ONE),), ours(ONE, TWO), named=False, back={"i1": None}
    ),
    "what was changed since is left": Row((step("i1", ONE, MOVED),), ours(ILL), left=("i1",)),
    "what somebody removed is left": Row((step("i1", ONE, MOVED),), ours(TWO), left=("i1",)),
    "what came back since is left": Row((step("i1", ONE, None),), ours(MOVED), left=("i1",)),
    "what a native has now is left": Row((step("i1", ONE, MOVED),), {"i1": Entry(MOVED)}, left=("i1",)),
    "an address that a native has now is left to it": Row(
        (step("i1", ONE, None),), {"n": Entry(instance("n", ONE.address))}, left=("i1",)
    ),
    "what another bridge wrote is left": Row(
        (step("i1", ONE, MOVED, "they"),), {"i1": Entry(MOVED, of("i1", owner="they"))}, left=("i1",)
    ),
    "the last that serves is not taken": Row((step("i1", None, ONE),), ours(ONE), left=("i1",)),
    "nor made ill": Row((step("i1", ILL, ONE),), ours(ONE), left=("i1",)),
    "one that is replaced by what comes back goes": Row(
        (step("i1", None, ONE), step("i2", TWO, None)), ours(ONE), back={"i1": None, "i2": TWO}
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_is_put_back_is_as_the_table_says(name: str) -> None:
    row = ROWS[name]
    entries = {PAY: row.held}
    undo = spared(plan_undo(row.steps, entries, "me", lambda _: row.named), entries)
    assert {change.id: change.after for change in undo.changes} == row.back
    assert {change.id: change.after for change in undo.unnamed} == row.unnamed
    assert tuple(one.id for one in undo.left) == row.left
    assert all(change.before == row.held.get(change.id) for change in undo.changes)
