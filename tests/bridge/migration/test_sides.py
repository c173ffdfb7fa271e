"""Which side an instance at a place is of: natives by the file, copies by the first side on their way."""

from __future__ import annotations

import pytest

from bridge.migration.block import End, Migration, Part
from bridge.migration.sides import Scope, Sides
from bridge.model import Mark
from tests.kit.builders import PAY, instance

OLD, NEW = Part.OLD, Part.NEW
MOVE = Migration(name="pay", services=("*",), from_=("legacy/dc1",), to=("prod",), at=("mesh", "legacy"))
READ = [Scope("C", "legacy", "dc1"), Scope("C2", "legacy", "dc2"), Scope("K", "prod", "pay"), Scope("E", "hub", "")]
PODS, MACHINES = {"env": "pod"}, {"env": "vm"}
ROOT = Migration(name="pay", services=("*",), from_=("zk",), to=(End(item="zk", where=PODS),), at=("zk",))
AWAY = Migration(name="pay", services=("*",), from_=(End(item="zk", where=MACHINES),), to=("zk",), at=("zk",))


def mark(*path: str, scope: str = "") -> Mark:
    return Mark("other", "l", path, scope, PAY, "one")


@pytest.mark.parametrize(
    ("place", "came", "side"),
    [
        ("legacy", None, OLD),  # a native of the old side
        ("prod", None, NEW),
        ("mesh", None, OLD),  # of nobody that is known
        ("mesh", mark("C", scope="dc1"), OLD),
        ("mesh", mark("K", scope="pay"), NEW),
        ("mesh", mark("K", "C", scope="dc1"), NEW),  # a pod, by way of the registry of the machines
        ("mesh", mark("C", "K", scope="pay"), OLD),  # and a machine by way of the cluster
        ("mesh", mark("K", "E"), NEW),  # by a bridge in between
        ("mesh", mark("E", "K", scope="pay"), NEW),  # what is no side's is of the first side that it came through
        ("mesh", mark("C2", scope="dc2"), OLD),  # of the registry of the old side, and of no part of it that moves
        ("mesh", mark("unknown"), OLD),
    ],
)
def test_a_copy_is_of_the_first_side_on_its_way(place: str, came: Mark | None, side: Part) -> None:
    assert Sides(MOVE, READ).side(place, instance("one"), came) is side


@pytest.mark.parametrize("move", [ROOT, AWAY], ids=["pods named", "machines named"])
@pytest.mark.parametrize(("said", "side"), [(PODS, NEW), (MACHINES, OLD)])
def test_sides_that_are_parts_of_one_registry_are_told_apart_there(
    move: Migration, said: dict[str, str], side: Part
) -> None:
    """The side that says more of an instance has it."""
    one = instance("one", metadata=said)
    assert Sides(move, [Scope("Z", "zk", "")]).side("zk", one, None) is side
    assert move.part("zk", "", one) is side
