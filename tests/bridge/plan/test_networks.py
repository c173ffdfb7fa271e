"""Addresses are compared, merged and shadowed within one network; a cluster's own are written there by nobody else."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bridge.adapter import Cause, Entry
from bridge.link import Link, Policy, Services
from bridge.model import Instance, Mark, Service, Traits
from bridge.plan.diff import make_plan
from bridge.plan.echo import Written
from bridge.plan.route import Desired, Supply, Wanted, desired
from bridge.plan.values import Held, Plan, World
from bridge.sources.networks import ONE, Networks, Places
from tests.kit.builders import PAY, instance

FULL = Traits(frozenset(Instance.__struct_fields__))
CLUSTER = replace(FULL, is_cluster=True)
LINK = Link(name="l", from_=("a", "b"), to="t", policy=Policy.SYNC, services=Services(include=("*",)))
APART = Networks({"a": "a-pods", "b": "b-pods", "t": "vm"})
RANGED = Networks({"a": "vm", "b": "vm", "t": "pods"}, (("192.0.2.0/24", "pods"),))
I1, SAME = instance("i1"), instance("i2", "192.0.2.1")


def mark(id: str, registry: str = "a", network: str = "", owner: str = "me") -> Mark:
    return Mark(owner, "l", (f"mem:{registry}",), "", PAY, id, network)


def supply(registry: str, *instances: Instance, marks: dict[str, Mark] | None = None) -> Supply:
    return Supply(LINK, registry, "", f"mem:{registry}", Service(PAY, {one.id: one for one in instances}, marks or {}))


def goal(*supplies: Supply, networks: Networks = APART, traits: Traits = FULL) -> Desired:
    return desired(PAY, supplies, "me", "mem:t", Places(traits, networks, "t"), lambda _, one: one, {})


def plan(wanted: Wanted, held: dict[str, Entry], networks: Networks = APART) -> Plan:
    here = Held(held, {}, "me", Places(FULL, networks, "t"))
    return make_plan(PAY, Desired({wanted.instance.id: wanted}, {}), here, World({"l": LINK}, (), {}))


def test_two_clusters_may_use_the_same_addresses() -> None:
    found = goal(supply("a", I1), supply("b", SAME))
    assert {key: one.mark.network for key, one in found.wanted.items()} == {"i1": "a-pods", "i2": "b-pods"}
    assert found.refused == {}


def test_the_same_address_of_one_network_is_merged() -> None:
    found = goal(supply("a", I1), supply("b", SAME), networks=ONE)
    assert found.wanted.keys() == {"i1"}
    assert next(iter(found.refused.values())).cause is Cause.REPLACED


def test_a_copy_keeps_the_network_that_its_mark_says() -> None:
    copied = supply("a", I1, marks={"i1": Mark("other", "x", ("mem:c",), "", PAY, "i1", "b-pods")})
    found = goal(copied, supply("b", SAME))
    assert {key: one.mark.network for key, one in found.wanted.items()} == {"i1": "b-pods"}


def test_networks_that_a_file_begins_to_name_rewrite_nothing() -> None:
    named = Networks({"a": "vm", "b": "vm", "t": "vm"}, (("192.0.2.0/24", "vm"),))
    before, after = (goal(supply("a", I1), networks=networks).wanted for networks in (ONE, named))
    assert before == after
    assert after["i1"].mark.network == ""


@pytest.mark.parametrize(
    ("network", "native", "networks", "shadowed"),
    [
        ("", None, APART, True),
        ("a-pods", None, APART, False),
        ("a-pods", mark("n", network="a-pods", owner="other"), APART, True),
        ("a-pods", mark("n", network="b-pods", owner="other"), APART, False),
        ("", mark("n", network="a-pods", owner="other"), RANGED, True),
    ],
    ids=["own", "another", "both another", "two others", "a range, whatever marks say"],
)
def test_who_holds_an_address_in_another_network_shadows_nothing(
    network: str, native: Mark | None, networks: Networks, shadowed: bool
) -> None:
    wanted = Wanted(I1, I1, mark("i1", network=network))
    found = plan(wanted, {"n": Entry(instance("n", I1.address), native)}, networks)
    assert (found.shadowed.keys() == {"i1"}, not found.upserts) == (shadowed, shadowed)


@pytest.mark.parametrize(("network", "replaces"), [("a-pods", True), ("b-pods", False)])
def test_an_entry_is_replaced_only_by_one_of_its_network(network: str, replaces: bool) -> None:
    wanted = Wanted(SAME, SAME, mark("i2", network="a-pods"))
    held = {"i2": Entry(SAME, wanted.mark), "i1": Entry(I1, mark("i1", network=network))}
    causes = [removal.cause for removal in plan(wanted, held).removals]
    assert causes == ([Cause.REPLACED] if replaces else [])


@pytest.mark.parametrize(
    ("address", "traits", "networks", "written"),
    [
        ("192.0.2.7", CLUSTER, RANGED, False),
        ("198.51.100.7", CLUSTER, RANGED, True),
        ("192.0.2.7", FULL, RANGED, True),
        ("192.0.2.7", CLUSTER, ONE, True),
    ],
    ids=["a pod", "a host", "no cluster", "nothing stated"],
)
def test_a_cluster_alone_writes_addresses_of_its_own_network(
    address: str, traits: Traits, networks: Networks, written: bool
) -> None:
    found = goal(supply("a", instance("i7", address)), networks=networks, traits=traits)
    assert bool(found.wanted) is written
    reasons = [
        (one.cause, one.parked, "which the cluster alone gives out" in one.reason) for one in found.refused.values()
    ]
    assert reasons == ([] if written else [(Cause.CONFIG, False, True)])


@pytest.mark.parametrize(("network", "is_echo"), [("a-pods", True), ("vm", True), ("b-pods", False)])
def test_an_echo_is_of_the_copys_network_or_of_that_where_it_stood(network: str, is_echo: bool) -> None:
    written = Written("mesh", lambda: 0.0)
    written.note(PAY, Entry(I1, mark("i1", network="a-pods")), {"a-pods", "vm"}, gone=False)
    assert bool(written.echo(instance("k1", I1.address), "mem:a", "mem:cluster", network)) is is_echo
