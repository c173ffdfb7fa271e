"""What a migration says of each instance at a place, as orders."""

from __future__ import annotations

from msgspec.structs import replace

from bridge.adapter import Cause, Entry
from bridge.migration.block import End, Migration, Part
from bridge.migration.intent import Intent, Placed, Record
from bridge.migration.phases import Phase, State
from bridge.migration.shares import Fit, Means, Side, fit
from bridge.migration.sides import Scope, Sides
from bridge.model import Health, Instance, Mark, Service, ServiceName
from bridge.plan.doses import Doses, members, sides_of
from bridge.plan.orders import Orders
from bridge.plan.route import Supply
from tests.kit.builders import PAY, instance, link

LINK = link("mesh", name="l")
BLOCK = Migration(name="pay", services=("*",), from_=("vms",), to=("pods",), at=("mesh",))


def supply(registry: str, *names: str, weight: float = 1.0) -> Supply:
    return Supply(LINK, registry, "", registry, Service(PAY, {name: instance(name, weight=weight) for name in names}))


VMS, PODS = supply("vms", "v1", "v2", "v3", "v4"), supply("pods", "p1", "p2", "p3", "p4")


def entries(*some: Supply) -> dict[str, Entry]:
    return {
        key: Entry(one, Mark("me", "l", (each.identity,), "", PAY, key), 1)
        for each in some
        for key, one in each.service.instances.items()
    }


def doses(percent: float, means: Means = Means.COUNTS, old: Side | None = None) -> Doses:
    side = Side(0.0, (1.0,) * 4)
    return following(fit(percent / 100, old or side, side, means), percent)


def following(made: Fit, percent: float, block: Migration = BLOCK) -> Doses:
    state = State(phase=Phase.SHIFT, share=percent)
    move = Intent(migration="pay", service=PAY, state=state, places={"mesh": Placed(PAY, made)})
    found = Doses([block])
    found.heard = lambda _: True
    found.follow(Record().with_moves({move.name: move}, {"pay": block}))
    return found


def asked(one: Doses, *supplies: Supply, there: dict[str, Entry] | None = None) -> Orders:
    return one.orders("mesh", PAY, supplies, there if there is not None else {})


def away(orders: Orders) -> set[str]:
    return {origin[3] for origin, order in orders.items() if order.away}


def test_before_it_begins_nothing_of_the_new_side_is_written() -> None:
    found = Doses([BLOCK])
    found.heard = lambda _: True
    orders = asked(found, PODS, VMS)
    assert away(orders) == {"p1", "p2", "p3", "p4"}
    assert {order.cause for order in orders.values()} == {Cause.CONFIG}


def test_an_old_side_that_has_not_been_heard_counts_as_there() -> None:
    found = Doses([BLOCK])
    assert away(asked(found, PODS)) == {"p1", "p2", "p3", "p4"}
    found.heard = lambda _: True
    assert asked(found, PODS) == {}


def test_a_service_that_the_old_side_still_holds_there_counts_as_moving() -> None:
    found = Doses([BLOCK])
    found.heard = lambda _: True
    assert away(asked(found, PODS, there=entries(VMS))) == {"p1", "p2", "p3", "p4"}


def test_by_counts_a_share_is_some_of_the_copies_and_all_of_the_old_side() -> None:
    orders = asked(doses(25), PODS, VMS)
    assert len(away(orders)) == 3 and away(orders) < {"p1", "p2", "p3", "p4"}
    assert {order.cause for order in orders.values()} == {Cause.SHARE}


def test_a_greater_share_takes_the_same_copies_and_more() -> None:
    few, many = away(asked(doses(25), PODS, VMS)), away(asked(doses(45), PODS, VMS))
    assert many < few


def test_nothing_of_the_old_side_goes_before_the_new_one_is_there() -> None:
    last = doses(100)
    waiting = asked(last, PODS, VMS, there=entries(VMS))
    assert away(waiting) == set()
    assert {origin[3] for origin, order in waiting.items() if order.waits} == {"v1", "v2", "v3", "v4"}
    sick = {key: replace(one, instance=replace(one.instance, health="UNHEALTHY")) for key, one in entries(PODS).items()}
    assert away(asked(last, PODS, VMS, there={**entries(VMS), **sick})) == set()
    assert away(asked(last, PODS, VMS, there=entries(VMS, PODS))) == {"v1", "v2", "v3", "v4"}


def test_on_the_way_back_the_new_side_waits_for_the_old_one() -> None:
    """A copy of the old side that is refused for a while is missed at once."""
    nothing, three = doses(0), supply("vms", "v1", "v2", "v3")
    waiting = asked(nothing, PODS, VMS, there=entries(PODS, three))
    assert away(waiting) == set()
    assert {origin[3] for origin, order in waiting.items() if order.waits} == {"p1", "p2", "p3", "p4"}
    light = supply("pods", *PODS.service.instances, weight=0.25)  # as the step before had them written
    waiting = asked(nothing, PODS, VMS, there=entries(light, three))
    assert {order.weight for order in waiting.values() if order.waits} == {0.25}
    assert away(asked(nothing, PODS, VMS, there=entries(PODS, VMS))) == {"p1", "p2", "p3", "p4"}


def test_what_has_left_does_not_come_back_where_the_new_side_shrinks() -> None:
    """What a side loses within a step is for an operator to see, and not for weights to hide."""
    few = supply("pods", "p1")
    assert away(asked(doses(100), few, VMS, there=entries(few))) == {"v1", "v2", "v3", "v4"}


def test_by_weights_each_side_has_a_zone_of_its_own_where_both_are_ours() -> None:
    orders = asked(doses(20, Means.BOTH), PODS, VMS)
    weights = {origin[3]: order.weight or 0.0 for origin, order in orders.items()}
    zones = {origin[3]: order.zone for origin, order in orders.items()}
    assert zones["v1"] == "from" and zones["p1"] == "to"
    assert weights["p1"] == weights["p4"] and abs(weights["v1"] / weights["p1"] - 4) < 0.05


def test_a_pod_more_makes_each_of_them_weigh_less() -> None:
    made = doses(10, Means.WEIGHTS, old=Side(20.0, ()))
    five = supply("pods", "p1", "p2", "p3", "p4", "p5")
    before = sum(order.weight or 0 for order in asked(made, PODS).values())
    after = sum(order.weight or 0 for order in asked(made, five).values())
    assert len(asked(made, five)) == 5 and after <= before


def test_instances_that_do_not_serve_are_left_to_what_their_source_says() -> None:
    ill = Supply(LINK, "pods", "", "pods", Service(PAY, {"p1": Instance("p1", "192.0.2.1", health=Health.DRAINING)}))
    assert asked(doses(0), ill, VMS) == {}


def unknown(side: str, percent: float) -> Doses:
    """Nobody has told yet who answers for that side."""
    scopes = [Scope("" if name == side else name, name, "") for name in ("vms", "pods")]
    found = doses(percent)
    found.sides = lambda block, _: Sides(block, scopes)
    return found


def test_nothing_leaves_while_a_side_is_unknown() -> None:
    for some, side, percent in ((VMS, "pods", 100), (PODS, "vms", 25), (PODS, "vms", 0)):
        orders = asked(unknown(side, percent), some, there=entries(some))
        assert away(orders) == set() and orders and all(order.waits for order in orders.values())
    assert len(away(asked(doses(25), PODS, there=entries(PODS)))) == 3  # what a side that is known says


def test_what_may_be_a_copy_of_an_unknown_side_stays_as_it_stands() -> None:
    mark = Mark("me", "l", ("pods",), "", PAY, "p1")
    copied = {"c1": mark, "c2": mark}
    service = replace(VMS.service, instances={**VMS.service.instances, **dict.fromkeys(copied, instance("c1"))})
    both = VMS._replace(service=replace(service, marks=copied))
    entry = Entry(instance("c1", weight=0.25), Mark("me", "l", ("vms",), "", PAY, "c1"), 1)
    orders = asked(unknown("pods", 25), both, there={**entries(VMS), "c1": entry})
    stays, comes = (orders["vms", "", PAY, key] for key in ("c1", "c2"))
    assert (stays.weight, stays.away, stays.waits) == (0.25, False, True) and comes.away
    known = asked(doses(25), both, PODS, there=entries(VMS))
    assert {"c1", "c2"} <= away(known)


def test_what_changed_is_planned_again_and_nothing_else() -> None:
    found = Doses([BLOCK])
    record = doses(25).record
    assert found.follow(record) == {"mesh": {PAY}}
    assert found.follow(record) == {}
    assert found.follow(record.without(frozenset(record.moves))) == {"mesh": {PAY}}


def test_only_so_many_moves_of_a_migration_are_under_way_at_once() -> None:
    block = replace(BLOCK, at_once=2)

    def move(name: str, phase: Phase, paused: str = "") -> Intent:
        return Intent(migration="pay", service=ServiceName(name), state=State(phase=phase, paused=paused))

    moves = [
        move("a", Phase.OBSERVE),
        move("b", Phase.SHIFT),
        move("c", Phase.DONE),
        move("d", Phase.OBSERVE),
        move("e", Phase.SHIFT, paused="by an operator"),
    ]
    record = Record().with_moves({one.name: one for one in moves}, {"pay": block})
    assert record.first("pay", 0.0) == {"pay/a", "pay/b"}


def test_after_two_moves_that_went_back_no_further_one_begins_for_an_hour() -> None:
    def move(name: str, phase: Phase) -> Intent:
        return Intent(migration="pay", service=ServiceName(name), state=State(phase=phase, since=1000.0))

    moves = [move("a", Phase.ROLLED_BACK), move("b", Phase.ROLLING_BACK), move("c", Phase.OBSERVE)]
    record = Record().with_moves({one.name: one for one in moves}, {"pay": BLOCK})
    assert record.first("pay", 4000.0) == {"pay/b"}
    assert record.first("pay", 4700.0) == {"pay/b", "pay/c"}


def carried(some: Supply) -> dict[str, Mark]:
    """The marks of a side's instances where the other side has copies of them."""
    return {key: Mark("me", "l", (some.identity,), "", PAY, key) for key in some.service.instances}


def test_what_a_side_has_of_the_other_one_is_no_instance_of_it() -> None:
    """Where the old side is native the new one is copied to it, and comes from there once more."""
    both = {**VMS.service.instances, **PODS.service.instances}
    machines = VMS._replace(service=Service(PAY, both, carried(PODS)))
    sides = members(sides_of(BLOCK, [machines, PODS]), [machines, PODS])
    assert {part: sorted(one.origin[3] for one in some) for part, some in sides.items()} == {
        Part.OLD: ["v1", "v2", "v3", "v4"],
        Part.NEW: ["p1", "p2", "p3", "p4"],
    }
    orders = asked(doses(25), machines, PODS)
    assert {origin[0] for origin, order in orders.items() if order.away and origin[3] == "p1"} >= {"vms"}
    assert len([origin for origin, order in orders.items() if order.away and origin[0] == "pods"]) == 3
    assert not [origin for origin, order in orders.items() if origin[3].startswith("v")]


def test_a_service_of_the_new_side_alone_is_not_moving_where_its_copies_stand() -> None:
    copies = VMS._replace(service=Service(PAY, PODS.service.instances, carried(PODS)))
    found = Doses([BLOCK])
    found.heard = lambda _: True
    assert asked(found, copies, PODS, there=entries(PODS)) == {}


def test_pods_that_register_themselves_beside_machines_are_a_side() -> None:
    """One root of ZooKeeper has both, told apart by what they say; at a place behind it each side has its share."""
    block = replace(BLOCK, from_=("zk",), to=(End(item="zk", where={"env": "pod"}),))
    machines = {name: instance(name) for name in ("v1", "v2", "v3", "v4")}
    pods = {name: instance(name, metadata={"env": "pod"}) for name in ("p5", "p6")}
    root = Supply(LINK, "zk", "", "zk", Service(PAY, {**machines, **pods}))
    made = fit(0.2, Side(0.0, (1.0,) * 4), Side(0.0, (1.0,) * 2), Means.BOTH)
    found = following(made, 20, block)
    orders = asked(found, root, there=entries(root))
    weights = {
        side: sum(order.weight or 0 for origin, order in orders.items() if origin[3][0] == side) for side in "vp"
    }
    assert len(orders) == 6 and not away(orders)
    assert 0.19 < weights["p"] / (weights["v"] + weights["p"]) <= 0.2
