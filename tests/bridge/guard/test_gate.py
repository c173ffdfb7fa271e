"""The gate as a table: what is asked, what stands and what was lost before, against what may go and what is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from bridge.adapter import Cause, Change, Entry
from bridge.guard.additions import Additions
from bridge.guard.expected import Expectation
from bridge.guard.gate import Gate
from bridge.guard.holds import Holds
from bridge.guard.limits import Limit
from bridge.guard.losses import Losses
from bridge.link import Guard, Link, Policy
from bridge.model import Health, ServiceName
from bridge.plan.values import Plan, Removal
from tests.kit.builders import PAY, instance, mark
from tests.kit.builders import link as linked

NOW = 10_000.0
SCOPE = ("origin", "")
E, A, H, C = Cause.EVENT, Cause.ABSENCE, Cause.HEALTH, Cause.CONFIG
SET, SHARE = Cause.OPERATOR, Cause.SHARE
LIMITS = Guard(source_count=4, source_share=0.1, hard_count=5)


def entry(id: str, health: Health = Health.HEALTHY) -> Entry:
    return Entry(instance(id, health=health), mark(id), 1)


def ask(
    id: str, cause: Cause = E, doubt: str = "", ill: bool = False, instead: bool = False, last: bool = False
) -> Removal:
    """A removal; `ill`: it serves no more already; `instead`: it can be marked in its place; `last`: it may be that."""
    stands = entry(id, Health.UNHEALTHY if ill else Health.HEALTHY)
    marked = Change(PAY, id, stands, instance(id, health=Health.UNHEALTHY), mark(id), cause) if instead else None
    change = Change(PAY, id, stands, None, mark(id), cause)
    loses = not ill and cause not in (Cause.REPLACED, Cause.SHADOWED)
    return Removal(change, cause, SCOPE, loses, doubt, marked, including_last=last)


def marking(id: str) -> Removal:
    """An entry is written as unhealthy."""
    return Removal(Change(PAY, id, entry(id), instance(id, health=Health.UNHEALTHY), mark(id)), H, SCOPE, loses=True)


def asks(count: int, cause: Cause = E, **about: Any) -> tuple[Removal, ...]:
    return tuple(ask(f"i{number}", cause, **about) for number in range(count))


def add(id: str) -> Change:
    return Change(PAY, id, None, instance(id), mark(id))


class Row(NamedTuple):
    """`serving`: of the service; `owned`: of the scope; `lost`: before, how many and how long ago; `late`: seconds that
    pass before it is judged again, so that a herd is seen as a whole; `goes`, `holds`: by how many, and by which limit.
    """

    removals: tuple[Removal, ...] = ()
    upserts: tuple[Change, ...] = ()
    serving: int = 10
    owned: int = 100
    lost: tuple[int, float] = (0, 0.0)
    link: Link = linked("target", name="link", guard=LIMITS)
    writing: bool = True
    frozen: bool = False
    expect: Expectation | None = None
    agreed: bool = False
    approved: bool = False
    goes: int = 0
    holds: Mapping[Limit, int] = {}
    operator: bool = False


def guarded(**limits: Any) -> Link:
    return linked("target", name="link", guard=Guard(**{"source_count": 4, "hard_count": 5} | limits))


def stated(left: int, **what: Any) -> Expectation:
    return Expectation(subject="s", left=left, until=NOW + 100.0, **what or {"link": "link"})


ROWS = {
    "nothing": Row(),
    "an add flows": Row(upserts=(add("n"),), goes=1),
    "an add waits while writes are frozen": Row(upserts=(add("n"),), frozen=True),
    "an add of a link that observes waits": Row(
        upserts=(add("n"),), link=linked("target", name="link", policy=Policy.OBSERVE)
    ),
    "one of ten goes": Row(asks(1), goes=1),
    "none goes where another process writes": Row(asks(1), writing=False),
    "half of the service goes": Row(asks(5), owned=1000, goes=5),
    "more than half of it waits": Row(asks(6), owned=1000, holds={Limit.SERVICE_SHARE: 6}),
    "two of three are more than half": Row(asks(2), serving=3, owned=100, holds={Limit.SERVICE_SHARE: 2}),
    "the last waits": Row(asks(1), serving=1, holds={Limit.LAST_INSTANCE: 1}),
    "the last passes where the link says so": Row(asks(1), serving=1, link=guarded(last_instance="pass"), goes=1),
    "four of a scope go": Row(asks(4), owned=20, goes=4),
    "five of twenty are too many": Row(asks(5), owned=20, holds={Limit.SOURCE_SHARE: 5}),
    "five of a hundred are not": Row(asks(5), owned=100, goes=5),
    "what was lost before counts": Row(asks(1), owned=16, lost=(4, 300.0), holds={Limit.SOURCE_SHARE: 1}),
    "what was lost before the window does not": Row(asks(1), owned=16, lost=(4, 700.0), goes=1),
    "more than half of a scope is the operator's": Row(
        asks(6), serving=20, owned=11, holds={Limit.HARD_SHARE: 6}, operator=True
    ),
    "of a small scope, half may go by a timer": Row(asks(2), serving=3, owned=3, holds={Limit.SERVICE_SHARE: 2}),
    "all of a small scope may not": Row(asks(2), serving=2, owned=2, holds={Limit.EMPTIED: 2}, operator=True),
    "growth of the last minutes hides no wipe": Row(
        asks(8), serving=20, owned=12, lost=(-10, 300.0), holds={Limit.HARD_SHARE: 8}, operator=True
    ),
    "an autoscaler's up and down passes": Row(asks(4), serving=14, owned=14, lost=(-4, 60.0), goes=4),
    "what the file takes away is the operator's": Row(asks(1, C), holds={Limit.CONFIG: 1}, operator=True),
    "what is doubted is the operator's": Row(
        asks(1, A, doubt="another store"), holds={Limit.INCARNATION: 1}, operator=True
    ),
    "what is replaced goes, doubt or not": Row(asks(3, Cause.REPLACED, doubt="another store"), serving=3, goes=3),
    "what is shadowed goes": Row(asks(3, Cause.SHADOWED), serving=3, goes=3),
    "an approval lets go what the operator holds": Row(asks(1, C), approved=True, goes=1),
    "a second opinion lets go what a timer holds": Row(asks(1), serving=1, agreed=True, goes=1),
    "but not what is the operator's by now": Row(
        asks(2), serving=2, owned=2, agreed=True, holds={Limit.EMPTIED: 2}, operator=True
    ),
    "a replacement that comes with it is waited for": Row(asks(1), (add("n"),), serving=1, goes=1),
    "what turns ill beyond the hard share is a timer's": Row(
        tuple(marking(f"i{number}") for number in range(6)), serving=20, owned=10, holds={Limit.HARD_SHARE: 6}
    ),
    "what is withdrawn beyond it is the operator's": Row(
        asks(6, H, instead=True), serving=20, owned=10, holds={Limit.HARD_SHARE: 6}, operator=True
    ),
    "and is marked meanwhile, once a fresh read agrees": Row(
        asks(6, H, instead=True),
        serving=20,
        owned=10,
        agreed=True,
        goes=6,
        holds={Limit.HARD_SHARE: 6},
        operator=True,
    ),
    "what is marked waits to be withdrawn": Row(
        asks(6, H, ill=True), serving=14, owned=4, holds={Limit.HARD_SHARE: 6}, operator=True
    ),
    "one that is marked is withdrawn": Row(asks(1, H, ill=True), goes=1),
    "an expected loss goes": Row(asks(6), serving=20, owned=10, expect=stated(6), goes=6),
    "no more than was expected goes": Row(
        asks(6), serving=20, owned=10, expect=stated(4), goes=4, holds={Limit.HARD_SHARE: 2}, operator=True
    ),
    "the last is never expected": Row(asks(1), serving=1, expect=stated(9), holds={Limit.LAST_INSTANCE: 1}),
    "what is doubted is never expected": Row(
        asks(1, A, doubt="another store"), expect=stated(9), holds={Limit.INCARNATION: 1}, operator=True
    ),
    "the loss of another link is not expected": Row(
        asks(6), serving=20, owned=10, expect=stated(6, link="x"), holds={Limit.HARD_SHARE: 6}, operator=True
    ),
    "a registry's loss is expected": Row(
        asks(6), serving=20, owned=10, expect=stated(6, origin=("origin", "*")), goes=6
    ),
    "a service's loss is expected": Row(asks(6), owned=1000, expect=stated(6, service=PAY), goes=6),
    "an operator's order goes beyond every limit": Row(asks(9, SET), owned=9, goes=9),
    "so does a migration's, doubt or not": Row(asks(9, SHARE, doubt="another store"), owned=9, goes=9),
    "an order on all waits for the operator": Row(
        asks(3, SHARE), serving=3, holds={Limit.LAST_INSTANCE: 3}, operator=True
    ),
    "an order is held though the link lets the last go": Row(
        asks(1, SET), serving=1, link=guarded(last_instance="pass"), holds={Limit.LAST_INSTANCE: 1}, operator=True
    ),
    "one that may take the last goes": Row(asks(3, SET, last=True), serving=3, owned=3, goes=3),
    "what does not serve any more goes by an order": Row(asks(1, SET, ill=True), serving=0, goes=1),
    "what an order takes is no loss beside an event": Row((*asks(6, SET), ask("e1")), serving=12, owned=12, goes=7),
    "what an order takes uses up no expectation": Row(
        (*asks(6, SET), ask("e1"), ask("e2"), ask("e3"), ask("e4")), serving=12, owned=12, expect=stated(4), goes=10
    ),
}


def gate(row: Row) -> Gate:
    losses, holds = Losses(), Holds()
    if row.lost[0]:
        losses.windows.add(SCOPE, NOW - row.lost[1], -row.lost[0])
        losses.windows.add(PAY, NOW - row.lost[1], -row.lost[0])
    frozen: Callable[[str], bool] = lambda _: row.frozen  # noqa: E731
    made = Gate(
        lambda: {row.link.name: row.link}, lambda _: row.owned, losses, holds, Additions(lambda _: None), frozen
    )
    if row.expect is not None:
        made.expected.state("s", "s 0", 0.0, row.expect)
    return made


@pytest.mark.parametrize("name", ROWS)
def test_what_may_go_is_as_the_table_says(name: str) -> None:
    row = ROWS[name]
    made = gate(row)
    plan = Plan(PAY, [*row.upserts], [*row.removals], {}, {}, "", row.serving)
    made.holds.ask(PAY, plan.removals)
    made.allowed(plan, row.writing, NOW - 3.0)  # the first few of a herd would go now, the others wait to be seen
    held = made.holds.of(PAY)
    if row.agreed:
        for one in held.values():
            made.holds.agree(one)
    if row.approved:
        (shown,) = made.holds.show(NOW)
        made.holds.approve(shown.id, NOW)
    allowed, judged, _ = made.allowed(plan, row.writing, NOW)
    assert len(allowed.changes if row.writing else []) == row.goes
    limits = [one.verdict.limit for one in judged.held.values()]
    assert {limit: limits.count(limit) for limit in limits if limit} == row.holds
    assert all(one.verdict.operator == row.operator for one in judged.held.values())


def test_an_event_and_an_order_on_the_last_two_are_both_held() -> None:
    made = gate(Row())
    plan = Plan(PAY, [], [ask("i0", SET), ask("i1")], {}, {}, "", 2)
    made.holds.ask(PAY, plan.removals)
    allowed, judged, _ = made.allowed(plan, True, NOW)
    assert not allowed.changes
    found = {id: (one.verdict.limit, one.due is None) for id, one in judged.held.items()}
    assert found == {"i0": (Limit.LAST_INSTANCE, True), "i1": (Limit.LAST_INSTANCE, False)}


def test_what_is_held_by_a_window_is_judged_again_when_that_has_moved() -> None:
    row = ROWS["what was lost before counts"]
    made = gate(row)
    plan = Plan(PAY, [], [*row.removals], {}, {}, "", row.serving)
    made.holds.ask(PAY, plan.removals)
    made.allowed(plan, True, NOW)
    assert made.holds.count() == 1
    made.moved(NOW)
    assert made.moved(NOW + 200.0) == set()
    assert made.moved(NOW + 301.0) == {PAY}
    allowed, judged, _ = made.allowed(plan, True, NOW + 301.0)
    assert len(allowed.changes) == 1 and not judged.held


def test_a_set_that_a_timer_holds_joins_what_trips_the_hard_limit() -> None:
    made = gate(Row(owned=8))
    other = ServiceName("other")
    first = Plan(PAY, [], [ask("i0")], {}, {}, "", 1)
    made.holds.ask(PAY, first.removals)
    made.allowed(first, True, NOW)
    assert made.holds.of(PAY)["i0"].due is not None
    rest = [one._replace(change=replace(one.change, service=other)) for one in asks(6)]
    second = Plan(other, [], rest, {}, {}, "", 6)
    made.holds.ask(other, rest)
    made.allowed(second, True, NOW + 5.0)
    assert made.moved(NOW + 6.0) >= {PAY}
    made.allowed(first, True, NOW + 6.0)
    assert made.holds.of(PAY)["i0"].due is None
