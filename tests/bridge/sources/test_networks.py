"""An address is in the network of its range, else in the one that its mark says, else in its registry's."""

from __future__ import annotations

import pytest

from bridge.model import Instance, Mark, Port, ServiceName, Traits
from bridge.sources.networks import Networks, Places, overlaps

NETWORKS = Networks(
    {"consul": "vm", "prod": "prod-pods"},
    (("10.0.0.0/8", "vm"), ("10.244.0.0/16", "prod-pods"), ("2001:db8:1::/48", "prod-pods")),
)


def at(address: str) -> Instance:
    return Instance("i1", address, (Port(80),))


def mark(network: str) -> Mark:
    return Mark("b", "l", ("a",), "", ServiceName("pay"), "i1", network)


@pytest.mark.parametrize(
    ("registry", "address", "said", "network"),
    [
        ("consul", "192.0.2.1", None, "vm"),
        ("prod", "192.0.2.1", None, "prod-pods"),
        ("etcd", "192.0.2.1", None, "default"),
        ("consul", "192.0.2.1", "", "vm"),
        ("consul", "192.0.2.1", "prod-pods", "prod-pods"),
        ("etcd", "10.1.2.3", None, "vm"),
        ("consul", "10.244.1.5", None, "prod-pods"),
        ("consul", "10.244.1.5", "vm", "prod-pods"),
        ("consul", "2001:db8:1::5", None, "prod-pods"),
        ("consul", "2001:db8:2::5", None, "vm"),
        ("consul", "pay.example", None, "vm"),
    ],
)
def test_a_range_wins_over_a_mark_and_a_mark_over_the_registry(
    registry: str, address: str, said: str | None, network: str
) -> None:
    assert NETWORKS.of(registry, at(address), None if said is None else mark(said)) == network


def test_a_mark_does_not_say_the_own_network_of_where_it_stands() -> None:
    assert NETWORKS.said("consul", "vm") == ""
    assert NETWORKS.said("prod", "vm") == "vm"
    assert Networks().said("consul", "default") == ""


def test_places_of_two_networks_differ_and_those_of_the_own_one_are_as_ever() -> None:
    traits = Traits(frozenset(), identity=("protocol", "version"))
    for one, own in ((traits, ("192.0.2.1", 80, "", "")), (Traits(frozenset()), ("192.0.2.1", 80))):
        places = Places(one, NETWORKS, "consul")
        assert places.of(at("192.0.2.1")) == {own}
        assert places.of(at("192.0.2.1"), mark("")) == {own}
        assert places.of(at("192.0.2.1"), mark("prod-pods")) == {(*own, "prod-pods")}


def test_a_range_of_two_networks_is_found_and_one_inside_another_is_not() -> None:
    ranges = {"a": ("10.0.0.0/8", "10.1.0.0/16"), "b": ("10.2.0.0/16", "10.1.0.0/16"), "c": ("2001:db8::/32",)}
    assert list(overlaps(ranges)) == [("10.1.0.0/16", "b", "a")]
