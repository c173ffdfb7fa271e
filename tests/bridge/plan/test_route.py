"""Which instances go where, merged how, and why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.adapter import Cause
from bridge.link import Addresses, Services, Unhealthy
from bridge.model import Health, Instance, Mark, Port, Service, ServiceName, Traits
from bridge.plan.route import Desired, Supply, desired, may_lead, target_of
from bridge.sources.networks import Places
from tests.kit.builders import PAY, instance, link

BARE = Traits(frozenset(Instance.__struct_fields__))
FULL = Traits(frozenset(Instance.__struct_fields__), namespaces=True)
POOR = Traits(frozenset({"id", "address", "ports"}), ports=1)


def supply(*instances: Instance, registry: str = "source", name: ServiceName = PAY, **fields: Any) -> Supply:
    marks = fields.pop("marks", {})
    held = Service(name, {one.id: one for one in instances}, marks)
    return Supply(link("target", "source", "other", **fields), registry, "", f"id-{registry}", held)


def goal(*supplies: Supply, traits: Traits = FULL, identity: str = "id-target") -> Desired:
    def canonical(_: ServiceName, one: Instance) -> Instance:
        return one if traits.has_health else replace(one, health=Health.UNKNOWN)

    return desired(PAY, supplies, "bridge", identity, Places(traits), canonical, {})


def test_what_goes_carries_the_way_it_came() -> None:
    mark = Mark("other", "x", ("id-origin",), "", PAY, "o1")
    found = goal(supply(instance("i1"), instance("i2"), marks={"i2": mark}))
    assert found.wanted["i1"].mark == Mark("bridge", "source-other-to-target", ("id-source",), "", PAY, "i1")
    assert found.wanted["i2"].mark.path == ("id-origin", "id-source")


def test_what_another_store_told_keeps_its_name_where_a_new_one_answers() -> None:
    told = supply(instance("i1"), instance("n1"))._replace(identity="id-new", former={"i1": "id-source"})
    wanted = goal(told).wanted
    assert {key: one.mark.path for key, one in wanted.items()} == {"i1": ("id-source",), "n1": ("id-new",)}
    again = desired(PAY, [told], "bridge", "id-target", Places(FULL), lambda _, one: one, wanted)
    assert again.wanted == wanted
    assert "i1" in goal(told, identity="id-new").wanted, "no echo: it did not come from the store that answers now"


def test_nothing_returns_to_where_it_has_been() -> None:
    mark = Mark("other", "x", ("id-target", "id-between"), "", PAY, "o1")
    found = goal(supply(instance("i1"), marks={"i1": mark}))
    assert not found.wanted
    assert "echo" in next(iter(found.refused.values())).reason


def test_the_registry_named_first_wins_an_instance_whole() -> None:
    found = goal(
        supply(instance("i1", "192.0.2.1", version="v1")),
        supply(instance("x9", "192.0.2.1", version="v2"), registry="other"),
    )
    assert [(key, one.instance.version) for key, one in found.wanted.items()] == [("i1", "v1")]


def test_an_equal_id_with_another_address_gets_the_registrys_name() -> None:
    found = goal(supply(instance("i1", "192.0.2.1")), supply(instance("i1", "192.0.2.2"), registry="other"))
    assert found.wanted.keys() == {"i1", "i1-other"}


def test_unequal_protocols_on_one_port_name_are_parked() -> None:
    grpc = Instance("i2", "192.0.2.2", (Port(9000, "http", "grpc"),))
    found = goal(supply(instance("i1", "192.0.2.1")), supply(grpc, registry="other"))
    assert found.wanted.keys() == {"i1"}
    assert [refusal.parked for refusal in found.refused.values()] == [True]


def test_two_namespaces_under_one_name_are_both_parked_with_the_remedy() -> None:
    found = goal(
        supply(instance("i1"), name=ServiceName("pay", "a")), supply(instance("i2"), name=ServiceName("pay", "b"))
    )
    assert not found.wanted
    assert "collision" in found.parked
    assert "rename" in found.parked


def test_two_links_that_send_one_name_are_both_parked() -> None:
    one, two = supply(instance("i1")), supply(instance("i2"))
    two = two._replace(link=link("target", "elsewhere"))
    assert "two links" in goal(one, two).parked


def test_several_ports_and_a_target_that_holds_one_are_parked_never_the_first() -> None:
    both = Instance("i1", "192.0.2.1", (Port(8080, "http"), Port(9000, "grpc")))
    found = goal(supply(both), traits=POOR)
    assert not found.wanted
    assert "ambiguous port" in next(iter(found.refused.values())).reason
    assert goal(supply(both, port="grpc"), traits=POOR).wanted["i1"].instance.ports == (Port(9000, "grpc"),)
    assert goal(supply(both, port=8080), traits=POOR).wanted["i1"].instance.ports == (Port(8080, "http"),)
    assert next(iter(goal(supply(both, port="none"), traits=POOR).refused.values())).parked


def test_the_unhealthy_are_marked_or_withdrawn() -> None:
    ill = instance("i1", health=Health.UNHEALTHY)
    assert goal(supply(ill)).wanted["i1"].instance.health is Health.UNHEALTHY
    withdrawn = goal(supply(ill, unhealthy=Unhealthy.WITHDRAW))
    assert next(iter(withdrawn.refused.values())).cause is Cause.HEALTH
    assert not goal(supply(ill), traits=POOR).wanted


def test_where_readers_call_the_unhealthy_they_are_withdrawn_by_default() -> None:
    ill, traits = instance("i1", health=Health.UNHEALTHY), replace(FULL, calls_unhealthy=True)
    assert not goal(supply(ill), traits=traits).wanted
    assert goal(supply(ill, unhealthy=Unhealthy.MARK), traits=traits).wanted["i1"].instance.health is Health.UNHEALTHY


def test_where_takes_equality_and_globs() -> None:
    found = goal(supply(instance("i1", metadata={"team": "pay-a"}), instance("i2"), where={"team": "pay-*"}))
    assert found.wanted.keys() == {"i1"}


def test_names_are_taken_by_glob_and_renamed() -> None:
    one = link(
        services=Services(include=("pay-*", "prod:*"), exclude=("*-test",)), rename="{registry}-{namespace}-{name}"
    )
    assert target_of(one, "vm", ServiceName("pay-api"), BARE)[0] == ServiceName("vm--pay-api")
    assert target_of(one, "vm", ServiceName("shop", "prod"), BARE)[0] == ServiceName("vm-prod-shop")
    assert target_of(one, "vm", ServiceName("pay-test"), BARE) == (None, "services.exclude '*-test'")
    assert target_of(one, "vm", ServiceName("shop"), BARE)[0] is None


def test_what_did_not_change_is_not_worked_out_again() -> None:
    calls = []
    one = supply(instance("i1"), instance("i2"))

    def canonical(_: ServiceName, given: Instance) -> Instance:
        calls.append(given.id)
        return given

    first = desired(PAY, [one], "bridge", "t", Places(FULL), canonical, {})
    again = desired(PAY, [one], "bridge", "t", Places(FULL), canonical, first.wanted)
    assert calls == ["i1", "i2"]
    assert all(again.wanted[key] is first.wanted[key] for key in first.wanted)


@pytest.mark.parametrize("port", [9010, "9010", "admin"])
def test_a_port_is_found_by_its_name_or_by_its_number_however_that_is_written(port: str | int) -> None:
    two = Instance("i1", "192.0.2.1", (Port(9000, "http"), Port(9010, "admin")))
    found = goal(supply(two, port=port), traits=POOR)
    assert [one.number for one in found.wanted["i1"].instance.ports] == [9010]


def test_a_ports_name_goes_before_a_number_that_is_written_the_same() -> None:
    two = Instance("i1", "192.0.2.1", (Port(9010, "http"), Port(9000, "9010")))
    found = goal(supply(two, port="9010"), traits=POOR)
    assert [one.number for one in found.wanted["i1"].instance.ports] == [9000]


def test_an_address_that_no_other_host_can_dial_is_parked_on_request() -> None:
    local = instance("i1", "127.0.0.1")
    found = goal(supply(local, instance("i2"), addresses=Addresses.ROUTABLE))
    assert found.wanted.keys() == {"i2"}
    (refusal,) = found.refused.values()
    assert (refusal.parked, refusal.cause) == (True, Cause.CONFIG)
    assert refusal.reason == "addresses: routable, and 127.0.0.1 is the loopback of whoever dials it"
    assert goal(supply(local)).wanted["i1"].instance.address == "127.0.0.1"


PARTS = st.sampled_from(["pay", "pay-api", "p", "", "a:b", "é", "x\ny"])
GLOBS = st.sampled_from(["*", "pay*", "pay", "*api", "eu:pay*", "*:pay", "p*:*", "e?:*"])
RENAMES = st.sampled_from(["{name}", "x-{name}", "{namespace}-{name}", "{registry}.{name}", "{name}-{name}", "one"])


@given(
    name=st.builds(ServiceName, PARTS.filter(bool), st.sampled_from(["", "eu", "e1"])),
    include=st.lists(GLOBS, min_size=1, max_size=2),
    exclude=st.lists(GLOBS, max_size=2),
    rename=RENAMES,
    traits=st.sampled_from([BARE, FULL, replace(FULL, pictures=True)]),
)
def test_no_name_is_ruled_out_that_a_service_could_be_led_to(
    name: ServiceName, include: list[str], exclude: list[str], rename: str, traits: Traits
) -> None:
    one = link(services=Services(include=tuple(include), exclude=tuple(exclude)), rename=rename)
    target, _ = target_of(one, "source", name, traits)
    assert target is None or may_lead(one, "source", target, traits)


@pytest.mark.parametrize(
    ("include", "exclude", "rename", "traits", "name"),
    [
        ("pay*", (), "{name}", BARE, "web"),
        ("*", ("pay*",), "{name}", BARE, "pay-api"),
        ("pay", (), "vm-{name}", BARE, "pay"),
        ("pay", (), "vm-{name}", BARE, "vm-web"),
        ("*", (), "{registry}-{name}", BARE, "other-pay"),
        ("eu:pay", (), "{name}", BARE, "web"),
        ("us:pay", (), "{name}", FULL, "eu/pay"),
    ],
)
def test_a_name_that_a_link_cannot_lead_to_is_ruled_out(
    include: str, exclude: tuple[str, ...], rename: str, traits: Traits, name: str
) -> None:
    one = link(services=Services(include=(include,), exclude=exclude), rename=rename)
    assert not may_lead(one, "source", ServiceName.parse(name), traits)
