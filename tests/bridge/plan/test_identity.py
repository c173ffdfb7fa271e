"""Two instances are the same running copy where their convention says so, and a loss is no replacement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from bridge.adapter import Cause, Entry
from bridge.link import Link, Policy, Services
from bridge.model import Health, Instance, Mark, Port, Service, ServiceName, Traits
from bridge.plan.diff import make_plan
from bridge.plan.route import Desired, Merge, Refusal, Supply, Wanted, desired
from bridge.plan.values import Held, Plan, World
from bridge.sources.networks import Places

PAY = ServiceName("com.foo.Pay")
FINE = Traits(frozenset({"version"}), identity=("protocol", "version"))
COARSE = Traits(frozenset({"version"}))
LINK = Link(name="l", from_=("a", "b"), to="t", policy=Policy.SYNC, services=Services(include=("*",)))


def provider(id: str, version: str = "1.0.0", protocol: str = "dubbo", **fields: Any) -> Instance:
    return Instance(id, "192.0.2.1", (Port(20880, protocol, protocol),), version=version, **fields)


def mark(id: str) -> Mark:
    return Mark("me", "l", ("a",), "", PAY, id)


def planned(wanted: Mapping[str, Instance], held: Mapping[str, Entry], traits: Traits) -> Plan:
    goal = Desired({id: Wanted(one, one, mark(id)) for id, one in wanted.items()}, {})
    return make_plan(PAY, goal, Held(held, {}, "me", Places(traits)), World({"l": LINK}, (), {}))


@pytest.mark.parametrize(
    "native", [provider("n", version="2.0.0"), provider("n", protocol="tri")], ids=["version", "protocol"]
)
def test_a_native_shadows_only_what_its_layout_takes_for_the_same(native: Instance) -> None:
    held = {"n": Entry(native)}
    assert not planned({"i1": provider("i1")}, held, FINE).shadowed
    assert [change.id for change in planned({"i1": provider("i1")}, held, FINE).upserts] == ["i1"]
    assert planned({"i1": provider("i1")}, held, COARSE).shadowed == {"i1": "192.0.2.1:20880 belongs to a native, n"}
    same = planned({"i1": provider("i1")}, {"n": Entry(provider("n"))}, FINE)
    assert same.shadowed == {"i1": "192.0.2.1:20880 (dubbo, 1.0.0) belongs to a native, n"}


def test_registries_are_merged_by_what_the_target_tells_apart() -> None:
    one, other = provider("i1"), provider("i2", version="2.0.0")
    for traits, expected in ((FINE, Instance), (COARSE, Refusal)):
        merge = Merge(traits)
        merge.take("a", one)
        assert isinstance(merge.take("b", other), expected)


def test_an_entry_that_serves_is_not_replaced_by_one_that_does_not() -> None:
    off = provider("off", health=Health.DRAINING)
    held = {"on": Entry(provider("on"), mark("on")), "off": Entry(off, mark("off"))}
    plan = planned({"off": off}, held, FINE)
    assert [removal.change.id for removal in plan.removals if removal.cause is Cause.REPLACED] == []
    ill = replace(held["on"], instance=replace(held["on"].instance, health=Health.DRAINING))
    (removal,) = planned({"off": off}, {**held, "on": ill}, FINE).removals
    assert (removal.change.id, removal.cause, removal.loses) == ("on", Cause.REPLACED, False)


@pytest.mark.parametrize(("keeps", "written"), [(True, True), (False, False)])
def test_a_disabled_instance_is_copied_where_the_target_can_say_so(keeps: bool, written: bool) -> None:
    instance = provider("i1", health=Health.DRAINING)
    supply = Supply(LINK, "a", "", "mem:a", Service(PAY, {"i1": instance}))

    def canonical(name: ServiceName, one: Instance) -> Instance:
        return one if keeps else replace(one, health=Health.UNKNOWN)

    goal = desired(PAY, [supply], "me", "mem:t", Places(COARSE), canonical, {})
    assert list(goal.wanted) == (["i1"] if written else [])
    assert [refusal.reason for refusal in goal.refused.values()] == (
        [] if written else ["DRAINING, and the target cannot say so"]
    )
