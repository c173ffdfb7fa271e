"""What every sink promises."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack, aclosing
from typing import Any, cast

import pytest
from msgspec.structs import replace

from bridge.adapter import Registry, Sink, Source, Term
from bridge.errors import Conflict, Denied, Rejected, Superseded, Unavailable
from bridge.model import Health, Instance, Locality, Port, ServiceName
from tests.conformance.lab import (
    BRIDGE,
    CART,
    DEADLINE,
    OTHER,
    PAY,
    Lab,
    adopt,
    at,
    change,
    create,
    eventually,
    forget,
    i,
    instance,
    mark,
    need,
    owners,
    refusals,
    release,
    shown,
    watching,
    write,
)

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


async def test_it_shows_natives_others_and_ours(lab: Lab, sink: Sink, other: Sink) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2)))
    await write(other, create(PAY, instance(3), OTHER), create(CART, instance(4, CART), OTHER))
    held = await sink.held()
    assert owners(held) == {i(1): "", i(2): BRIDGE, i(3): OTHER}
    assert owners(held, CART) == {i(4, CART): OTHER}
    assert held.services[PAY][i(3)].mark == mark(PAY, i(3), OTHER)
    assert {id: entry.instance for id, entry in held.services[PAY].items()} == {
        each.id: each for each in (instance(1), instance(2), instance(3))
    }
    assert not held.loose
    assert await lab.truth(PAY) == at(instance(1), instance(2), instance(3))


async def test_some_names_show_what_all_names_show(lab: Lab, sink: Sink) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2)), create(CART, instance(3, CART)))
    everything = await sink.held()
    assert (await sink.held([PAY])).services == {PAY: everything.services[PAY]}
    assert (await sink.held([CART, ServiceName("nobody")])).services.get(CART) == everything.services[CART]
    assert not any((await sink.held([ServiceName("nobody")])).services.values())
    assert not any((await sink.held([])).services.values())


async def test_what_was_written_is_held_with_its_mark_and_version(lab: Lab, sink: Sink) -> None:
    (entry,) = await write(sink, create(PAY, instance(1, team="pay")))
    assert await shown(sink, PAY) == {i(1): entry}
    assert entry.mark == mark(PAY, i(1))
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
async def test_canonical_is_what_will_be_held(sink: Sink, rich: Instance) -> None:
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


async def test_a_fresh_client_holds_the_same(lab: Lab, sink: Sink) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2, team="pay")))
    async with lab.registry() as fresh:
        assert await fresh.sink(BRIDGE).held() == await sink.held()


async def test_a_namespace_keeps_services_apart(registry: Registry, sink: Sink) -> None:
    names = [PAY, ServiceName("pay", "eu"), ServiceName("pay", "us")]
    if not registry.traits.namespaces:
        pytest.skip("it has no namespaces")
    await write(sink, *(create(name, instance(number, name)) for number, name in enumerate(names, start=1)))
    held = await sink.held()
    assert {name: [*entries] for name, entries in held.services.items()} == {
        name: [i(number, name)] for number, name in enumerate(names, start=1)
    }


async def test_a_create_refuses_where_anything_stands(lab: Lab, sink: Sink, other: Sink) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2)))
    await write(other, create(PAY, instance(3), OTHER))
    before = await sink.held(), await lab.place()
    imposters = [instance(number, turn="2") for number in (1, 2, 3)]
    assert await refusals(sink, *(create(PAY, each) for each in imposters)) == [Conflict] * 3
    assert (await sink.held(), await lab.place()) == before


async def test_a_create_refuses_where_something_unreadable_stands(lab: Lab, sink: Sink) -> None:
    need(lab, "spoil")
    await lab.register(PAY, instance(1))
    await lab.spoil(PAY, i(1))
    assert owners(await shown(sink, PAY)) == {i(1): ""}
    assert await refusals(sink, create(PAY, instance(1))) == [Conflict]


async def test_a_change_refuses_what_was_changed_since(lab: Lab, sink: Sink) -> None:
    need(lab, "change")
    (first,) = await write(sink, create(PAY, instance(1)))
    (second,) = await write(sink, change(PAY, first, instance(1, turn="2")))
    stale = [change(PAY, first, instance(1, turn="3")), change(PAY, first, None)]
    for each in stale:
        assert await refusals(sink, each) == [Conflict]
    assert await shown(sink, PAY) == {i(1): second}


@pytest.mark.parametrize("identical", [False, True], ids=["other", "identical"])
async def test_what_a_native_wrote_over_is_left_alone(lab: Lab, sink: Sink, identical: bool) -> None:
    (entry,) = await write(sink, create(PAY, instance(1)))
    native = instance(1) if identical else instance(1, turn="3")
    await lab.register(PAY, native)
    before = await lab.place()
    assert await refusals(sink, change(PAY, entry, instance(1, turn="2"))) == [Conflict]
    assert await refusals(sink, change(PAY, entry, None)) == [Conflict]
    assert await lab.place() == before
    assert await lab.truth(PAY) == at(native)
    held = await sink.held()
    assert owners(held) == {i(1): ""}
    assert held.loose.keys() == {PAY}
    assert held.loose[PAY].keys() == {i(1)}


async def test_to_forget_drops_the_ledger_entry_and_nothing_else(lab: Lab, sink: Sink) -> None:
    await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    await lab.register(PAY, instance(1))
    held = await sink.held([PAY])
    assert await refusals(sink, forget(PAY, i(1), held.loose[PAY][i(1)])) == [None]
    after = await sink.held([PAY])
    assert after.services == held.services
    assert not after.loose
    assert await lab.truth(PAY) == at(instance(1), instance(2))
    assert await refusals(sink, forget(PAY, i(2), held.services[PAY][i(2)].version)) in ([Conflict], [None])
    assert await lab.truth(PAY) == at(instance(1), instance(2))


async def test_what_a_native_erased_can_be_forgotten_and_written_again(lab: Lab, sink: Sink) -> None:
    need(lab, "erase")
    (entry, kept) = await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    await lab.erase(PAY, i(1))
    held = await sink.held()
    assert owners(held) == {i(2): BRIDGE}
    assert held.loose[PAY].keys() == {i(1)}
    assert await refusals(sink, change(PAY, entry, instance(1, turn="2"))) == [Conflict]
    assert await refusals(sink, forget(PAY, i(1), held.loose[PAY][i(1)])) == [None]
    held = await sink.held()
    assert not held.loose
    assert held.services[PAY] == {i(2): kept}
    (again,) = await write(sink, create(PAY, instance(1)))
    assert await shown(sink, PAY) == {i(1): again, i(2): kept}


async def test_what_a_native_erased_can_be_written_at_once(lab: Lab, sink: Sink) -> None:
    need(lab, "erase")
    await write(sink, create(PAY, instance(1)))
    await lab.erase(PAY, i(1))
    (again,) = await write(sink, create(PAY, instance(1)))
    held = await sink.held()
    assert held.services[PAY] == {i(1): again}
    assert not held.loose


async def test_what_another_bridge_wrote_is_left_alone(sink: Sink, other: Sink) -> None:
    (theirs,) = await write(other, create(PAY, instance(1), OTHER))
    for before in (theirs, replace(theirs, mark=None)):
        for after in (instance(1, turn="2"), None):
            assert await refusals(sink, change(PAY, before, after)) == [Conflict]
    assert await shown(other, PAY) == {i(1): theirs}


async def test_one_bad_change_does_not_spoil_its_batch(lab: Lab, sink: Sink) -> None:
    need(lab, "change")
    await lab.register(PAY, instance(1))
    (entry, stale) = await write(sink, create(PAY, instance(2)), create(PAY, instance(3)))
    await write(sink, change(PAY, stale, instance(3, turn="2")))
    batch = [
        create(PAY, instance(1)),
        change(PAY, entry, None),
        change(PAY, stale, None),
        create(PAY, instance(4)),
        create(CART, replace(instance(5, CART), address="")),
        create(CART, instance(6, CART)),
    ]
    assert await refusals(sink, *batch) == [Conflict, None, Conflict, None, Rejected, None]
    assert owners(await shown(sink, PAY)) == {i(1): "", i(3): BRIDGE, i(4): BRIDGE}
    assert owners(await shown(sink, CART)) == {i(6, CART): BRIDGE}


async def test_nobody_finds_a_service_empty_while_it_is_replaced(lab: Lab, sink: Sink, source: Source) -> None:
    (entry,) = await write(sink, create(PAY, instance(1)))
    found: list[int] = []

    async def look() -> None:
        while True:
            found.append(len(await lab.truth(PAY)))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        for number in range(2, 12):
            await write(sink, change(PAY, entry, None), create(PAY, instance(number)))
            entry = (await shown(sink, PAY))[i(number)]
        await watch.until(lambda: watch.picture(PAY) == at(instance(11)))
        assert not [observed for observed in watch.observations(PAY) if not observed.service.instances]
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert looking.cancelled(), looking.exception()
    assert found
    assert all(found)


async def test_a_batch_that_is_repeated_changes_nothing_more(lab: Lab, sink: Sink) -> None:
    need(lab, "change")
    (gone, kept) = await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    batch = [change(PAY, gone, None), change(PAY, kept, instance(2, turn="2")), create(PAY, instance(3))]
    await write(sink, *batch)
    before = await sink.held(), await lab.place()
    assert set(await refusals(sink, *batch)) <= {Conflict, None}
    after = await sink.held(), await lab.place()
    assert after == before


async def test_nothing_is_written_without_the_lock(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    sink = registry.sink(BRIDGE)
    with pytest.raises(Superseded):
        await sink.apply([create(PAY, instance(1))])
    async with sink.writer():
        pass
    with pytest.raises(Superseded):
        await sink.apply([create(PAY, instance(1))])
    assert await lab.truth(PAY) == {}


async def test_one_bridge_has_one_writer_and_the_second_takes_over(lab: Lab) -> None:
    need(lab, "write")
    inside: list[str] = []
    order: list[str] = []
    leave = {name: asyncio.Event() for name in ("one", "two", "three")}

    async def write_as(name: str) -> None:
        async with lab.registry() as registry, registry.sink(BRIDGE).writer():
            inside.append(name)
            order.append(name)
            assert inside == [name]
            await leave[name].wait()
            inside.remove(name)

    async def count(number: int) -> bool:
        return len(order) == number

    async with asyncio.TaskGroup() as group:
        for name in leave:
            group.create_task(write_as(name))
        for number in (1, 2, 3):
            await eventually(lambda n=number: count(n))  # type: ignore[misc]
            leave[order[-1]].set()
    assert sorted(order) == sorted(leave)


async def test_two_bridges_write_side_by_side(lab: Lab, sink: Sink, other: Sink) -> None:
    await write(sink, create(PAY, instance(1)))
    await write(other, create(PAY, instance(2), OTHER))
    assert owners(await shown(sink, PAY)) == owners(await shown(other, PAY)) == {i(1): BRIDGE, i(2): OTHER}


async def test_a_writer_that_lost_its_lock_writes_nothing(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    need(lab, "steal")
    sink = registry.sink(BRIDGE)
    async with AsyncExitStack() as stack:
        term: Term = await stack.enter_async_context(sink.writer())
        (entry,) = await write(sink, create(PAY, instance(1)))
        await lab.steal(BRIDGE)
        before = await lab.place()
        for attempt in (create(PAY, instance(2)), change(PAY, entry, None)):
            with pytest.raises(Superseded):
                await sink.apply([attempt])
        assert await lab.place() == before
        async with asyncio.timeout(DEADLINE):
            await term.ended()
        async with lab.registry() as standby:
            second = standby.sink(BRIDGE)
            async with second.writer():
                await write(second, create(PAY, instance(2)))
                with pytest.raises(Superseded):
                    await sink.apply([change(PAY, entry, None)])
        assert await lab.truth(PAY) == at(instance(1), instance(2))


async def test_a_stolen_lock_goes_to_the_standby_at_once(lab: Lab, sink: Sink) -> None:
    need(lab, "steal")
    async with lab.registry() as standby:
        second = standby.sink(BRIDGE)

        async def take_over() -> None:
            async with second.writer():
                await write(second, create(PAY, instance(2)))

        taking = asyncio.create_task(take_over())
        await lab.steal(BRIDGE)
        async with asyncio.timeout(DEADLINE):
            await taking
    with pytest.raises(Superseded):
        await sink.apply([create(PAY, instance(1))])
    assert await lab.truth(PAY) == at(instance(2))


async def test_drift_tells_what_others_change_and_not_what_we_write(lab: Lab, sink: Sink, other: Sink) -> None:
    ours = [ServiceName(f"ours{number}") for number in range(3)]
    told: set[ServiceName] = set()
    listening = asyncio.Event()

    async def listen() -> None:
        async with aclosing(cast(Any, sink.drift())) as words:
            async for names in words:
                told.update(names)
                listening.set()

    task = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(DEADLINE):
            await listening.wait()  # the first word is the empty set: what happened before, nobody knows
        entries = [(await write(sink, create(name, instance(1, name))))[0] for name in ours]
        await write(sink, change(ours[0], entries[0], None))
        if "change" in lab.can:
            await write(sink, change(ours[1], entries[1], instance(1, ours[1], turn="2")))

        async def knows(name: ServiceName) -> bool:
            return name in told

        for name, act in (
            (PAY, lambda: lab.register(PAY, instance(1))),
            (CART, lambda: write(other, create(CART, instance(2, CART), OTHER))),
        ):
            await act()
            await eventually(lambda n=name: knows(n))  # type: ignore[misc]
        assert told == {PAY, CART}
        told.clear()
        await lab.deregister(PAY, i(1))
        await lab.register(ours[1], instance(1, ours[1]))  # over what we wrote
        for name in (PAY, ours[1]):
            await eventually(lambda n=name: knows(n))  # type: ignore[misc]
        assert told == {PAY, ours[1]}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_written_while_nothing_changes(lab: Lab, sink: Sink, source: Source) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2)))
    async with watching(source) as watch, aclosing(cast(Any, sink.drift())) as drift:
        await watch.until(lambda: watch.synced)
        assert await anext(drift) == frozenset()
        before, said = await lab.place(), len(watch.said)
        for _ in range(20):
            await sink.held()
            await source.read(PAY)
            assert not list(await sink.apply([]))
        assert await lab.place() == before
        assert len(watch.said) == said


async def test_silence_is_an_error_and_not_an_empty_registry(lab: Lab, sink: Sink) -> None:
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


async def test_a_leased_entry_dies_with_its_writer_and_a_lasting_one_does_not(lab: Lab) -> None:
    need(lab, "write")
    need(lab, "lease")
    async with lab.registry() as registry:
        sink = registry.sink(BRIDGE)
        async with sink.writer():
            await write(sink, create(PAY, instance(1), ttl=60), create(PAY, instance(2)))
            assert owners(await shown(sink, PAY)) == {i(1): BRIDGE, i(2): BRIDGE}
    assert await lab.truth(PAY) == at(instance(1), instance(2))
    await lab.expire(BRIDGE)
    async with lab.registry() as registry:
        held = await registry.sink(BRIDGE).held()
    assert owners(held) == {i(2): BRIDGE}
    assert not held.loose


async def test_what_is_released_stands_and_is_nobodys(lab: Lab, sink: Sink) -> None:
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


async def test_a_release_refuses_what_is_not_ours_as_it_was(lab: Lab, sink: Sink, other: Sink) -> None:
    need(lab, "change")
    (first, over) = await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    await write(sink, change(PAY, first, instance(1, turn="2")))
    await lab.register(PAY, instance(2, turn="3"))
    (theirs,) = await write(other, create(PAY, instance(3), OTHER))
    before = await sink.held()
    assert await refusals(sink, *(release(PAY, each) for each in (first, over, theirs))) == [Conflict] * 3
    assert await sink.held() == before


async def test_what_was_released_is_taken_over_again(lab: Lab, sink: Sink) -> None:
    (entry,) = await write(sink, create(PAY, instance(1)))
    await write(sink, release(PAY, entry))
    native = (await shown(sink, PAY))[i(1)]
    (again,) = await write(sink, adopt(PAY, native, native.instance))
    assert await shown(sink, PAY) == {i(1): again}
    assert again.mark == mark(PAY, i(1))
    if "change" in lab.can:
        await write(sink, change(PAY, again, instance(1, turn="2")))
    assert await lab.truth(PAY) == at(instance(1))


async def test_a_native_is_taken_over_in_place_if_it_is_as_it_was(lab: Lab, sink: Sink, source: Source) -> None:
    need(lab, "adopt")
    need(lab, "change")
    await lab.register(PAY, instance(1))
    await lab.register(PAY, instance(2))
    seen = await shown(sink, PAY)
    await lab.register(PAY, instance(2, turn="2"))
    assert await refusals(sink, *(change(PAY, each, each.instance) for each in seen.values())) == [Conflict] * 2
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        taken = await refusals(sink, *(adopt(PAY, each, each.instance) for each in seen.values()))
        if taken[0] is Rejected:
            pytest.skip("what natives write here dies with them")
        assert taken == [None, Conflict]
        await watch.until(lambda: watch.service(PAY).marks == {i(1): mark(PAY, i(1))})
        assert all(len(observed.service.instances) == 2 for observed in watch.observations(PAY))
    held = await sink.held()
    assert owners(held) == {i(1): BRIDGE, i(2): ""}
    assert not held.loose
    await write(sink, change(PAY, held.services[PAY][i(1)], None))
    assert await lab.truth(PAY) == at(instance(2))


async def test_what_another_bridge_wrote_is_taken_over_in_place_if_it_is_as_it_was(
    lab: Lab, sink: Sink, other: Sink
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


async def test_what_somebody_else_keeps_is_not_taken_over_where_it_must_not_be(lab: Lab, sink: Sink) -> None:
    if "adopt" in lab.can:
        pytest.skip("it may")
    await lab.register(PAY, instance(1))
    entry = (await shown(sink, PAY))[i(1)]
    assert await refusals(sink, adopt(PAY, entry, entry.instance)) == [Rejected]
    assert owners(await shown(sink, PAY)) == {i(1): ""}


async def test_a_note_stands_for_every_daemon_of_its_bridge(lab: Lab, sink: Sink, other: Sink) -> None:
    assert await sink.recall() is None
    first = await sink.note(b"one", None, writer=True)
    assert first == await sink.recall()
    second = await sink.note(b"two" * 1000, first, writer=True)
    async with lab.registry() as standby:
        watching = standby.sink(BRIDGE)
        assert await watching.recall() == second
        third = await watching.note(b"three", second, writer=False)
        with pytest.raises(Superseded):
            await watching.note(b"four", third, writer=True)
    assert await sink.recall() == third
    assert third.content == b"three"
    assert await other.recall() is None
    assert not (await sink.held()).services


async def test_a_note_refuses_to_replace_what_it_has_not_seen(lab: Lab, sink: Sink) -> None:
    first = await sink.note(b"one", None, writer=True)
    second = await sink.note(b"two", first, writer=True)
    for stale in (None, first):
        for writer in (True, False):
            with pytest.raises(Conflict):
                await sink.note(b"three", stale, writer=writer)
    assert await sink.recall() == second


async def test_a_writer_that_lost_its_lock_leaves_no_note(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    need(lab, "steal")
    sink = registry.sink(BRIDGE)
    async with sink.writer():
        first = await sink.note(b"one", None, writer=True)
        await lab.steal(BRIDGE)
        with pytest.raises(Superseded):
            await sink.note(b"two", first, writer=True)
    with pytest.raises(Superseded):
        await sink.note(b"three", first, writer=True)
    assert await sink.recall() == first


async def test_silence_is_no_missing_note(lab: Lab, sink: Sink) -> None:
    need(lab, "cut")
    await sink.note(b"one", None, writer=True)
    await lab.cut()
    with pytest.raises((Unavailable, Denied)):
        await sink.recall()
