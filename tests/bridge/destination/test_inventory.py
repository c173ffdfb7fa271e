"""What a destination knows of its entries, kept up to date by each change instead of counted anew."""

from __future__ import annotations

import time

from bridge.adapter import Change, Entry, Outcome
from bridge.destination.inventory import INDEXED, Inventory
from bridge.model import Instance, Mark, ServiceName, Traits
from bridge.sources.networks import Places
from tests.kit.builders import PAY, instance

TRAITS = Traits(fields=frozenset({"id", "address", "ports"}))


def made(here: Inventory, id: str, address: str = "192.0.2.1", source: str = "", name: ServiceName = PAY) -> Change:
    """A new entry of ours, copied from the instance `source`; the inventory has it then."""
    after = instance(id, address)
    change = Change(name, id, after=after, mark=Mark("me", "l", ("a",), "", name, source or id))
    here.take(Outcome(change))
    return change


def removed(here: Inventory, change: Change) -> None:
    before = Entry(change.after or Instance("", ""), change.mark)
    here.take(Outcome(Change(change.service, change.id, before, mark=change.mark)))


def test_a_new_entry_replaces_what_is_of_its_source_or_at_its_place() -> None:
    here = Inventory("me", Places(TRAITS), time.monotonic)
    first = made(here, "i1", "192.0.2.1")
    assert not here.replaces(first)
    second = made(here, "i2", "192.0.2.1")
    assert here.replaces(second)
    removed(here, first)
    assert not here.replaces(second)
    third = made(here, "i3", "192.0.2.3", source="i2")
    assert here.replaces(third)
    here.replace(PAY, {"n1": Entry(instance("n1", "192.0.2.4"))}, {})
    assert not here.replaces(made(here, "i4", "192.0.2.4")), "a native is replaced by nothing"


def test_names_that_are_not_written_any_more_take_no_room() -> None:
    here = Inventory("me", Places(TRAITS), time.monotonic)
    changes = [made(here, "i1", name=ServiceName(f"s{n}")) for n in range(3 * INDEXED)]
    assert not any(here.replaces(change) for change in [*changes, *changes])
    assert len(here._copies) == INDEXED


def test_no_new_entry_is_looked_for_among_ten_thousand_others() -> None:
    here = Inventory("me", Places(TRAITS), time.monotonic)
    asked = 0

    class Counted(Traits, frozen=True):
        def places(self, instance: Instance, network: str = "") -> frozenset[tuple[str | int, ...]]:
            nonlocal asked
            asked += 1
            return super().places(instance, network)

    here.places = Places(Counted(fields=TRAITS.fields))
    for n in range(10_000):
        assert not here.replaces(made(here, f"i{n}", f"10.0.{n >> 8}.{n & 255}"))
    assert asked < 50_000
