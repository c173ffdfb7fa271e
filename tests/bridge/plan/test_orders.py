"""What is said of an instance in the place of its source: what it changes, which of several counts, what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from bridge.adapter import Cause, Entry
from bridge.link import Link, Unhealthy
from bridge.model import Health, Instance, Locality, Mark, Service, Traits
from bridge.plan.diff import make_plan
from bridge.plan.orders import Order, Orders, Rank, Ranked, over, with_orders
from bridge.plan.route import Desired, Supply, Wanted, desired
from bridge.plan.values import Held, Plan, World
from bridge.sources.networks import Places
from tests.bridge.plan.test_diff import ours, view
from tests.kit.builders import PAY, instance, link

FULL = Traits(frozenset(Instance.__struct_fields__))
POOR = Traits(frozenset({"id", "address", "ports"}))  # it cannot show health
ONE, TWO = instance("i1", weight=2.0, metadata={"env": "prod", "team": "pay"}), instance("i2")
LINK = link("target", name="l")
ZONED = Locality("eu", "eu-1", "rack-3")
DRAINS, AWAY = "drain by ann", "migration pay"


def said(cause: Cause = Cause.OPERATOR, rule: str = "set by ann", **fields: Any) -> Order:
    return Order(cause=cause, rule=rule, **fields)


def supply(*instances: Instance, to: Link = LINK, **orders: Order) -> Supply:
    held = Service(PAY, {one.id: one for one in instances})
    return Supply(to, "source", "", "a", held, orders=orders)


def goal(one: Supply, traits: Traits = FULL, known: dict[str, Wanted] | None = None) -> Desired:
    def canonical(_: object, sent: Instance) -> Instance:
        return sent if traits.has_health else replace(sent, health=Health.UNKNOWN)

    return desired(PAY, [one], "me", "id-target", Places(traits), canonical, known if known is not None else {})


def plan(one: Supply, held: dict[str, Entry], traits: Traits = FULL) -> Plan:
    source = view(*one.service.instances.values())
    return make_plan(PAY, goal(one, traits), Held(held, {}, "me"), World({"l": one.link}, (source,), {}))


@pytest.mark.parametrize(
    ("order", "becomes"),
    [
        (said(), ONE),
        (said(weight=0.5), replace(ONE, weight=0.5)),
        (said(weight=0.0), replace(ONE, health=Health.DRAINING)),
        (said(weight=0.0, health=Health.UNHEALTHY), replace(ONE, health=Health.UNHEALTHY)),
        (said(health=Health.DRAINING), replace(ONE, health=Health.DRAINING)),
        (said(metadata={"env": "canary"}), replace(ONE, metadata={"env": "canary", "team": "pay"})),
        (said(zone="eu-2"), replace(ONE, locality=Locality(zone="eu-2"))),
    ],
)
def test_an_order_changes_what_it_says_and_nothing_else(order: Order, becomes: Instance) -> None:
    assert order.applied(ONE) == becomes
    found = goal(supply(ONE, TWO, i1=order))
    assert {key: one.instance for key, one in found.wanted.items()} == {"i1": becomes, "i2": TWO}


def test_a_zone_leaves_the_region_as_it_is() -> None:
    assert said(zone="eu-2").applied(replace(ONE, locality=ZONED)).locality == replace(ZONED, zone="eu-2")


def test_unhealthy_at_the_source_stays_so_under_every_order() -> None:
    ill = replace(ONE, health=Health.UNHEALTHY)
    for order in (said(health=Health.DRAINING), said(weight=0.0), said(weight=3.0)):
        assert order.applied(ill).health is Health.UNHEALTHY


def test_of_two_orders_the_higher_rank_is_in_force_thing_by_thing() -> None:
    command = said(weight=0.5, zone="eu-2", metadata={"env": "canary"})
    file = said(Cause.CONFIG, "overrides[0]", weight=4.0, metadata={"env": "test", "lane": "b"})
    both = over(command, file)
    assert (both.weight, both.zone, both.cause) == (0.5, "eu-2", Cause.OPERATOR)
    assert both.metadata == {"env": "canary", "lane": "b"}
    assert both.rule == "set by ann; overrides[0]"


def test_what_stops_an_instance_names_the_cause_whatever_its_rank() -> None:
    weighed, drained = said(weight=0.5), said(Cause.SHARE, AWAY, away=True)
    assert over(weighed, drained).cause is over(drained, weighed).cause is Cause.SHARE
    assert over(weighed, drained).away


def test_orderings_are_asked_by_rank_and_their_orders_composed() -> None:
    class Fixed:
        def __init__(self, order: Order) -> None:
            self._order = order

        def orders(self, *_: object) -> Orders:
            return {("source", "", PAY, "i1"): self._order}

    ranked = Ranked(
        {Rank.FILE: Fixed(said(rule="file", weight=1.0)), Rank.DRAIN: Fixed(said(rule="drain", weight=2.0))}
    )
    found = with_orders([supply(ONE)], ranked.orders("target", PAY, [supply(ONE)], {}))
    assert found[0].orders["i1"].weight == 2.0
    assert found[0].orders["i1"].rule == "drain; file"


def test_an_order_of_another_scope_or_instance_changes_nothing() -> None:
    orders = {("source", "dc2", PAY, "i1"): said(weight=9.0), ("source", "", PAY, "i9"): said(weight=9.0)}
    assert goal(with_orders([supply(ONE)], orders)[0]).wanted["i1"].instance == ONE


def test_what_an_order_drains_is_written_so_where_that_can_be_shown() -> None:
    made = plan(supply(ONE, TWO, i1=said(health=Health.DRAINING)), ours(ONE, TWO))
    (one,) = made.removals
    assert one.change.after is not None and one.change.after.health is Health.DRAINING
    assert (one.cause, one.change.cause, one.loses, one.doubt) == (Cause.OPERATOR, Cause.OPERATOR, True, "")


@pytest.mark.parametrize("traits", [POOR, replace(FULL, calls_unhealthy=True)])
def test_what_an_order_drains_is_withdrawn_where_that_cannot_be_shown(traits: Traits) -> None:
    made = plan(supply(ONE, TWO, i1=said(weight=0.0, including_last=True)), ours(ONE, TWO), traits)
    (one,) = made.removals
    assert one.change.after is None
    assert (one.cause, one.change.cause, one.loses, one.including_last) == (Cause.OPERATOR, Cause.OPERATOR, True, True)


def test_a_link_that_withdraws_does_so_with_what_is_drained() -> None:
    withdraws = link("target", name="l", unhealthy=Unhealthy.WITHDRAW)
    (one,) = plan(supply(ONE, TWO, to=withdraws, i1=said(health=Health.DRAINING)), ours(ONE, TWO)).removals
    assert one.change.after is None and one.cause is Cause.OPERATOR


def test_what_is_away_is_not_written_and_goes_for_the_cause_of_its_order() -> None:
    ordered = supply(ONE, TWO, i1=said(Cause.SHARE, AWAY, away=True))
    assert [change.id for change in plan(ordered, ours()).upserts] == ["i2"]
    (one,) = plan(ordered, ours(ONE, TWO)).removals
    assert (one.cause, one.loses, one.including_last) == (Cause.SHARE, True, False)
    assert goal(ordered).stopped == {(PAY, "i1")}


def test_what_its_source_says_is_ill_goes_by_its_source_under_an_order() -> None:
    ill = replace(ONE, health=Health.UNHEALTHY)
    (one,) = plan(supply(ill, TWO, i1=said(health=Health.DRAINING)), ours(ONE, TWO)).removals
    assert one.cause is Cause.HEALTH


def test_a_where_of_the_link_goes_by_the_source_and_not_by_an_order() -> None:
    chosen = link("target", name="l", where={"env": "prod"})
    found = goal(supply(ONE, to=chosen, i1=said(metadata={"env": "canary"})))
    assert found.wanted["i1"].instance.metadata["env"] == "canary"


def test_an_answer_is_kept_while_its_order_is_the_same() -> None:
    first = goal(supply(ONE, TWO, i1=said(weight=3.0)))
    again = goal(supply(ONE, TWO, i1=said(weight=3.0)), known=first.wanted)
    assert again.wanted["i1"] is first.wanted["i1"] and again.wanted["i2"] is first.wanted["i2"]
    assert goal(supply(ONE, TWO, i1=said(weight=4.0)), known=first.wanted).wanted["i1"].instance.weight == 4.0
    plain = goal(supply(ONE, TWO), known=first.wanted)
    assert plain.wanted["i1"].instance == ONE and plain.wanted["i2"] is first.wanted["i2"]
    assert goal(supply(ONE, i1=said(weight=3.0)), known=plain.wanted).wanted["i1"].instance.weight == 3.0


def test_what_is_known_from_another_way_in_has_its_order_too() -> None:
    """Marks switch the short way off: the answer is found by the instance itself."""
    marks = {"i1": Mark("other", "x", ("id-origin",), "", PAY, "o1")}
    plain = supply(ONE)._replace(service=Service(PAY, {"i1": ONE}, marks))
    first = goal(plain._replace(orders={"i1": said(weight=3.0)}))
    assert first.wanted["i1"].instance.weight == 3.0
    assert goal(plain, known=first.wanted).wanted["i1"].instance.weight == 2.0
