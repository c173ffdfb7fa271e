"""The table of consumers: one place for who reads a registry, and how long each takes to follow a change."""

from __future__ import annotations

from bridge.consumers import CONSUMERS, consumers_of, leaving, settled
from mappings import pairs


def test_every_layout_of_the_table_is_one_that_a_file_can_name() -> None:
    assert CONSUMERS.keys() <= pairs.TRAITS.keys()
    assert consumers_of("file") == ()


def test_a_client_that_never_follows_is_told_from_one_that_is_slow() -> None:
    times = {one.name: one.settles for ones in CONSUMERS.values() for one in ones}
    assert [name for name, seconds in times.items() if seconds is None] == ["gRPC-Go without a service config"]
    assert max(one.settles or 0.0 for one in consumers_of("eureka")) == 95.0
    assert [one.name for one in consumers_of("kitex") if one.keeps_last] == ["Kitex"]


def test_all_follow_when_the_slowest_does_and_its_longest_request_is_over() -> None:
    found = settled([*consumers_of("eureka"), *consumers_of("kratos")], removed=True, last=False)
    assert (round(found.seconds, 1), found.slowest, found.restart) == (137.5, "Spring Cloud LoadBalancer", ())
    assert settled((), removed=True, last=False, longest=10.0).seconds == 11.0


def test_who_never_follows_is_to_be_restarted_and_no_time() -> None:
    grpc = consumers_of("grpc")
    assert settled(grpc, removed=False, last=False).restart == ("gRPC-Go without a service config",)
    assert settled(grpc, removed=True, last=False).restart == ()
    assert settled(consumers_of("kitex"), removed=True, last=True).restart == ("Kitex",)


def test_a_native_leaves_its_registry_before_its_process_ends_where_it_can() -> None:
    consul = leaving("consul", 38.5, keeps_last=True)
    assert [one.split()[0] for one in consul] == ["consul", "sleep", "systemctl", "#"]
    assert [one.split()[0] for one in leaving("kitex", 5.5, keeps_last=False)] == ["systemctl", "sleep"]
