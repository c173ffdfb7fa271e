"""What every sink promises, whoever else writes there."""

from __future__ import annotations

import contextlib

import pytest
from msgspec.structs import replace

from bridge.adapter import Registry
from bridge.errors import Conflict, Denied, Rejected, Superseded, Unavailable
from bridge.model import Health, Instance, Locality, Port, ServiceName
from tests.conformance.lab import (
    BRIDGE,
    CART,
    OTHER,
    PAY,
    Lab,
    adopt,
    at,
    change,
    create,
    i,
    instance,
    mark,
    need,
    owners,
    refusals,
    release,
    shown,
    write,
)
from tests.kit.seated import Seated

PART = "sink"

RICH = [
    instance(1),
    instance(2, team="pay", note="a 'quoted' \"text\"\nof two lines", **{"ключ": "значение", "": "nameless"}),
    replace(instance(3), health=Health.DRAINING, weight=0.25, version="v1.10", tags=("blue", "no")),
    replace(instance(4), locality=Locality("eu", "eu-1", "rack 7"), native={"consul": '{"a": 1}'}),
    replace(instance(5), ports=(Port(9000, "grpc", "grpc", tls=True), Port(8080, "web", "http"))),
    replace(instance(6), address="2001:db8::1", ports=(Port(65535, "http", "http"),)),
    replace(instance(7), address="pay.example.org", ports=(Port(1, "", "tcp"),)),
    replace(instance(8), id="pay@host:8080 (blue)", metadata={"nul": "a\0b", "smile": "\N{GRINNING FACE}\x85"}),
    replace(instance(9), metadata={f"key{number}": "x" * 100 for number in range(50)}),
]  # fmt: skip


async def test_what_was_written_is_held_with_its_mark_and_version(lab: Lab, sink: Seated) -> None:
    crossing = replace(mark(PAY, i(1)), network="pods")
    (entry,) = await write(sink, replace(create(PAY, instance(1, team="pay")), mark=crossing))
    assert await shown(sink, PAY) == {i(1): entry}
    assert entry.mark == crossing
    if "change" in lab.can:
        (entry,) = await write(sink, change(PAY, entry, instance(1)))
        assert await shown(sink, PAY) == {i(1): entry}
    assert await lab.truth(PAY) == at(instance(1))
    await write(sink, change(PAY, entry, None))
    held = await sink.held()
    assert not any(held.services.values())
    assert not held.loose
    assert await lab.truth(PAY) == {}


@pytest.mark.parametrize("rich", RICH, ids=lambda rich: rich.id)
async def test_canonical_is_what_will_be_held(sink: Seated, rich: Instance) -> None:
    try:
        canonical = sink.canonical(PAY, rich)
    except Rejected:
        assert await refusals(sink, create(PAY, rich)) == [Rejected]
        assert not await shown(sink, PAY)
        return
    assert sink.canonical(PAY, canonical) is canonical
    assert canonical.id == rich.id or "id" not in sink.traits.fields
    (entry,) = await write(sink, create(PAY, canonical))
    assert await shown(sink, PAY) == {canonical.id: entry}
    there = sink.canonical(CART, rich)
    await write(sink, change(PAY, entry, None), create(CART, there))
    assert (await shown(sink, CART))[there.id].instance == there


async def test_a_namespace_keeps_services_apart(registry: Registry, sink: Seated) -> None:
    names = [PAY, ServiceName("pay", "eu"), ServiceName("pay", "us")]
    if not registry.traits.namespaces:
        pytest.skip("it has no namespaces")
    await write(sink, *(create(name, instance(number, name)) for number, name in enumerate(names, start=1)))
    held = await sink.held()
    assert {name: [*entries] for name, entries in held.services.items()} == {
        name: [i(number, name)] for number, name in enumerate(names, start=1)
    }


async def test_a_change_refuses_what_was_changed_since(lab: Lab, sink: Seated) -> None:
    need(lab, "change")
    (first,) = await write(sink, create(PAY, instance(1)))
    (second,) = await write(sink, change(PAY, first, instance(1, turn="2")))
    stale = [change(PAY, first, instance(1, turn="3")), change(PAY, first, None)]
    for each in stale:
        assert await refusals(sink, each) == [Conflict]
    assert await shown(sink, PAY) == {i(1): second}


async def test_what_another_bridge_wrote_is_left_alone(sink: Seated, other: Seated) -> None:
    (theirs,) = await write(other, create(PAY, instance(1), OTHER))
    for before in (theirs, replace(theirs, mark=None)):
        for after in (instance(1, turn="2"), None):
            assert await refusals(sink, change(PAY, before, after)) == [Conflict]
    assert await shown(other, PAY) == {i(1): theirs}


async def test_a_batch_that_is_repeated_changes_nothing_more(lab: Lab, sink: Seated) -> None:
    need(lab, "change")
    (gone, kept) = await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    batch = [change(PAY, gone, None), change(PAY, kept, instance(2, turn="2")), create(PAY, instance(3))]
    await write(sink, *batch)
    before = await sink.held(), await lab.place()
    assert set(await refusals(sink, *batch)) <= {Conflict, None}
    after = await sink.held(), await lab.place()
    assert after == before


async def test_silence_is_an_error_and_not_an_empty_registry(lab: Lab, sink: Seated) -> None:
    need(lab, "cut")
    (entry,) = await write(sink, create(PAY, instance(1)))
    await lab.cut()
    for names in (None, [PAY]):
        with pytest.raises((Unavailable, Denied)):
            await sink.held(names)
    with contextlib.suppress(Superseded):  # the lock may have gone with everything else
        assert await refusals(sink, change(PAY, entry, None)) == [Unavailable]
    await lab.heal()
    assert await lab.truth(PAY) == at(instance(1))


async def test_what_is_released_stands_and_is_nobodys(lab: Lab, sink: Seated) -> None:
    (one, two) = await write(sink, create(PAY, instance(1, team="pay")), create(PAY, instance(2)))
    truth = await lab.truth(PAY)
    assert await refusals(sink, release(PAY, one)) == [None]
    held = await sink.held()
    assert owners(held) == {i(1): "", i(2): BRIDGE}
    assert held.services[PAY][i(1)].instance == one.instance
    assert not held.loose
    assert await lab.truth(PAY) == truth
    assert await refusals(sink, release(PAY, one), change(PAY, one, None)) == [Conflict, Conflict]
    await write(sink, change(PAY, two, None))
    assert await lab.truth(PAY) == at(instance(1))


async def test_what_was_released_is_taken_over_again(lab: Lab, sink: Seated) -> None:
    (entry,) = await write(sink, create(PAY, instance(1)))
    await write(sink, release(PAY, entry))
    native = (await shown(sink, PAY))[i(1)]
    (again,) = await write(sink, adopt(PAY, native, native.instance))
    assert await shown(sink, PAY) == {i(1): again}
    assert again.mark == mark(PAY, i(1))
    if "change" in lab.can:
        await write(sink, change(PAY, again, instance(1, turn="2")))
    assert await lab.truth(PAY) == at(instance(1))


async def test_what_another_bridge_wrote_is_taken_over_in_place_if_it_is_as_it_was(
    lab: Lab, sink: Seated, other: Seated
) -> None:
    need(lab, "change")
    (one, two, three) = await write(other, *(create(PAY, instance(number), OTHER) for number in (1, 2, 3)))
    await write(other, change(PAY, two, instance(2, turn="2"), OTHER), release(PAY, three))
    taken = await refusals(sink, *(adopt(PAY, each, each.instance) for each in (one, two, three)))
    assert taken == [None, Conflict, Conflict]
    assert owners(await sink.held()) == {i(1): BRIDGE, i(2): OTHER, i(3): ""}
    held = await other.held()
    assert not held.loose
    assert (
        await refusals(other, change(PAY, one, None, OTHER), change(PAY, held.services[PAY][i(1)], None, OTHER))
        == [Conflict] * 2
    )
    assert await lab.truth(PAY) == at(instance(1), instance(2), instance(3))


async def test_the_version_of_an_entry_changes_with_that_entry_alone(lab: Lab, sink: Seated) -> None:
    before = await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    await write(sink, create(PAY, instance(3)), create(CART, instance(4, CART)))
    await write(sink, change(PAY, before[1], None))
    held = await shown(sink, PAY)
    assert held[i(1)] == before[0]
    if "change" in lab.can:
        await write(sink, change(PAY, before[0], instance(1, turn="2")))
        assert (await shown(sink, PAY))[i(1)].version != before[0].version
