"""Packing: which entry stands in which slice, and that a change rewrites as few of them as it can."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.kubernetes.packing import MOST_ENDPOINTS, Packed, Rewrite, Slice, repack
from adapters.kubernetes.place import packed as packed_of
from bridge.model import Instance, Port
from mappings.common.slice_entry import MOST_BYTES, Written

V6 = "2001:db8::"


def packed(number: int, *, port: int = 9000, family: int = 4, size: int = 0, turn: str = "") -> Packed:
    address = f"192.0.2.{number % 250}" if family == 4 else f"{V6}{number + 1:x}"
    instance = Instance(f"i{number}", address, (Port(port, "grpc", "grpc"),), metadata={"turn": turn + "x" * size})
    return packed_of(Written(instance), None)


def after(standing: list[Slice], rewrites: list[Rewrite]) -> list[Slice]:
    found = {each.name: each for each in standing}
    for rewrite in rewrites:
        found[rewrite.after.name] = rewrite.after
        if not rewrite.after.entries:
            del found[rewrite.after.name]
    return list(found.values())


def filled(*entries: Packed) -> list[Slice]:
    return after([], repack("pay", [], entries))


def test_a_changed_instance_rewrites_one_slice() -> None:
    standing = filled(*(packed(number) for number in range(250)))
    assert sorted(len(each.entries) for each in standing) == [50, 100, 100]
    (rewrite,) = repack("pay", standing, [packed(7, turn="2")])
    assert rewrite.before is not None
    assert rewrite.after.entries.keys() == rewrite.before.entries.keys()


def test_an_unchanged_instance_rewrites_nothing() -> None:
    standing = filled(*(packed(number) for number in range(3)))
    assert repack("pay", standing, [packed(1)]) == []


def test_a_replacement_in_one_batch_rewrites_one_slice() -> None:
    standing = filled(*(packed(number) for number in range(250)))
    (rewrite,) = repack("pay", standing, [packed(300)], ["i120"])
    assert "i300" in rewrite.after.entries
    assert "i120" not in rewrite.after.entries


def test_each_family_and_each_set_of_ports_has_slices_of_its_own() -> None:
    standing = filled(packed(1), packed(2, family=6), packed(3, port=9001), packed(4))
    assert sorted(sorted(each.entries) for each in standing) == [["i1", "i4"], ["i2"], ["i3"]]
    assert len({each.key for each in standing}) == len(standing)


def test_who_moves_to_another_slice_is_there_before_it_is_gone_here() -> None:
    standing = filled(packed(1), packed(2))
    gains, loses = repack("pay", standing, [packed(1, port=9001)])
    assert gains.gains
    assert "i1" in gains.after.entries
    assert "i1" not in loses.after.entries


def test_long_entries_fill_a_slice_before_it_has_a_hundred() -> None:
    standing = filled(*(packed(number, size=50_000) for number in range(9)))
    assert all(sum(each.size for each in one.entries.values()) <= MOST_BYTES for one in standing)
    assert sum(len(each.entries) for each in standing) == 9


def test_a_new_slice_has_no_name_that_others_have() -> None:
    (first,) = repack("pay", [], [packed(1)])
    (second,) = repack("pay", [], [packed(1)], taken=[first.after.name])
    assert second.after.name != first.after.name


def test_the_last_entry_leaves_a_slice_to_be_deleted() -> None:
    (rewrite,) = repack("pay", filled(packed(1)), [], ["i1", "nobody"])
    assert not rewrite.after.entries


steps = st.lists(
    st.tuples(st.integers(0, 120), st.sampled_from([9000, 9001]), st.sampled_from(["", "2"]), st.booleans()),
    max_size=60,
)


@given(st.lists(steps, max_size=6))
def test_every_entry_stands_once_and_within_the_limits(batches: list[list[tuple[int, int, str, bool]]]) -> None:
    standing: list[Slice] = []
    wanted: dict[str, Packed] = {}
    for batch in batches:
        chosen = {number: (port, turn, gone) for number, port, turn, gone in batch}
        put = [packed(n, port=port, turn=turn, size=3000) for n, (port, turn, gone) in chosen.items() if not gone]
        removed = [f"i{n}" for n, (_, _, gone) in chosen.items() if gone]
        rewrites = repack("pay", standing, put, removed)
        assert all(each.before != each.after for each in rewrites)
        standing = after(standing, rewrites)
        wanted = {id: entry for id, entry in wanted.items() if id not in removed} | {each.id: each for each in put}
        assert sorted(id for each in standing for id in each.entries) == sorted(wanted)
        assert {id: entry for each in standing for id, entry in each.entries.items()} == wanted
        for each in standing:
            assert 0 < len(each.entries) <= MOST_ENDPOINTS
            assert {entry.key for entry in each.entries.values()} == {each.key}
            assert sum(entry.size for entry in each.entries.values()) <= MOST_BYTES


def test_an_entry_that_grows_beyond_its_slice_moves() -> None:
    standing = filled(*(packed(number, size=60_000) for number in range(3)))
    rewrites = repack("pay", standing, [packed(1, size=99_000)])
    there = {id: each.name for each in after(standing, rewrites) for id in each.entries}
    assert there["i1"] != there["i0"]
    assert rewrites[0].gains


def test_an_entry_left_in_two_slices_is_in_one_or_none_after_its_change() -> None:
    old, new = packed(1), packed(1, port=9001)
    standing = [*filled(old, packed(2)), *filled(new)]
    changed = after(standing, repack("pay", standing, [new]))
    assert sorted((id, entry.key) for each in changed for id, entry in each.entries.items()) == [
        ("i1", new.key),
        ("i2", old.key),
    ]
    gone = after(standing, repack("pay", standing, [], ["i1"]))
    assert [*(each.entries.keys() for each in gone)] == [{"i2"}]
