"""Whether two daemons serve the same: by parts, by service, and for how long they did not."""

from __future__ import annotations

from bridge.adapter import Entry
from bridge.destination.likeness import DIFFERENT, Comparison, Likeness, part_of, unlike
from bridge.model import Instance, ServiceName

PAY, CART = ServiceName("pay"), ServiceName("cart", "shop")


def entries(**versions: str) -> dict[str, Entry]:
    return {id: Entry(Instance(id, "192.0.2.1"), None, version) for id, version in versions.items()}


def test_equal_pictures_have_equal_digests_whatever_the_way_to_them() -> None:
    one, other, empty = Likeness(), Likeness(), Likeness()
    there = {PAY: entries(a="1", b="2"), CART: entries(c="3")}
    one.take([PAY, CART], there)
    other.take([CART], {CART: entries(c="0")})
    other.take([PAY], {PAY: entries(b="2", a="1")})
    assert other.text != one.text
    other.take([CART], there)
    assert other.text == one.text != empty.text
    other.take([CART, PAY], {})
    assert other.text == empty.text and other.services(part_of(PAY)) == {}


def test_a_difference_counts_after_its_time_and_is_named_by_service() -> None:
    one, other, comparison = Likeness(), Likeness(), Comparison()
    one.take([PAY, CART], {PAY: entries(a="1"), CART: entries(c="3")})
    other.take([PAY, CART], {PAY: entries(a="2"), CART: entries(c="3")})
    assert comparison.look(one.text, other.text, 100.0) == [part_of(PAY)]
    assert comparison.lasting(100.0 + DIFFERENT) == []
    comparison.look(one.text, other.text, 101.0 + DIFFERENT)
    assert comparison.lasting(101.0 + DIFFERENT) == [part_of(PAY)]
    part = part_of(PAY)
    assert unlike(one.services(part), other.services(part), 100) == ["pay"]
    other.take([PAY], {PAY: entries(a="1")})
    assert comparison.look(one.text, other.text, 102.0 + DIFFERENT) == comparison.lasting(200.0) == []


def test_two_that_go_on_changing_are_not_told_apart_one_that_rests_is() -> None:
    one, other, comparison, late = Likeness(), Likeness(), Comparison(), Comparison()
    other_still = Likeness()
    other_still.take([PAY], {PAY: entries(a="still")})
    for second in range(30):
        one.take([PAY], {PAY: entries(a=f"{second}")})
        other.take([PAY], {PAY: entries(a=f"{second - 1}")})
        comparison.look(one.text, other.text, float(second))
        late.look(one.text, other_still.text, float(second))
    assert comparison.lasting(29.0) == []
    assert late.lasting(29.0) == [part_of(PAY)]


def test_a_part_that_is_told_in_part_names_no_service_beyond_it() -> None:
    assert unlike({"a": "1", "b": "1", "z": "1"}, {"a": "1", "b": "2"}, 2) == ["b"]
    assert unlike({"a": "1", "b": "1", "z": "1"}, {"a": "1", "b": "2"}, 3) == ["b", "z"]
