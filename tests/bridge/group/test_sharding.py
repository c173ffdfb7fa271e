"""The shard of a name at a destination, and names that are made of services of several shards."""

from __future__ import annotations

from msgspec.structs import replace

from bridge.adapter import Entry
from bridge.group.sharding import Sharding, part
from bridge.model import ServiceName
from tests.kit.builders import instance, mark

ONE, TWO, NAME = ServiceName("b-c", "a"), ServiceName("c", "a-b"), ServiceName("a-b-c")
SHARDS = {ONE: 1, TWO: 2, NAME: 7}


def entry(service: ServiceName, owner: str = "us") -> Entry:
    return Entry(instance("i"), replace(mark("i"), service=service, owner=owner), 1)


def sharding(entries: dict[str, Entry], *feeding: ServiceName) -> Sharding:
    return Sharding(SHARDS.__getitem__, {NAME: entries}, lambda name: feeding, "us", 8)


def test_a_name_is_in_the_shard_of_the_services_that_it_is_made_of() -> None:
    assert sharding({}, ONE).of(NAME) == 1
    assert sharding({"i": entry(TWO)}).of(NAME) == 2
    assert sharding({"i": entry(ONE)}, ONE).clash(NAME) == ""


def test_a_name_under_which_nothing_is_ours_is_in_one_shard_all_the_same() -> None:
    there = sharding({"i": entry(TWO, owner="another"), "n": Entry(instance("n"))})
    assert (there.of(NAME), there.clash(NAME)) == (7, "")


def test_services_of_two_shards_under_one_name_are_parked_and_named() -> None:
    for there in (sharding({"i": entry(ONE), "j": entry(TWO)}), sharding({"i": entry(TWO)}, ONE)):
        said = there.clash(NAME)
        assert "a:b-c (shard 1)" in said and "a-b:c (shard 2)" in said


def test_a_stated_number_is_dealt_out_over_the_shards_to_the_last() -> None:
    for count in range(30):
        for shards in range(1, 9):
            assert sum(part(count, [shard], shards) for shard in range(shards)) == count
            assert part(count, range(shards), shards) == count
            assert all(
                part(count, [shard], shards) in (count // shards, count // shards + 1) for shard in range(shards)
            )
