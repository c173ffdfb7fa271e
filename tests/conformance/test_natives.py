"""What a sink promises where others than bridges write: natives win, and what they do shows as drift."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

import pytest
from msgspec.structs import replace

from bridge.adapter import Source
from bridge.errors import Conflict, Rejected
from bridge.model import ServiceName
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
    forget,
    i,
    instance,
    mark,
    need,
    owners,
    patience,
    refusals,
    release,
    shown,
    until,
    watching,
    write,
)
from tests.kit.seated import Seated

PART = "natives"


async def test_it_shows_natives_others_and_ours(lab: Lab, sink: Seated, other: Seated) -> None:
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


async def test_some_names_show_what_all_names_show(lab: Lab, sink: Seated) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2)), create(CART, instance(3, CART)))
    everything = await sink.held()
    assert (await sink.held([PAY])).services == {PAY: everything.services[PAY]}
    assert (await sink.held([CART, ServiceName("nobody")])).services.get(CART) == everything.services[CART]
    assert not any((await sink.held([ServiceName("nobody")])).services.values())
    assert not any((await sink.held([])).services.values())


async def test_a_fresh_client_holds_the_same(lab: Lab, sink: Seated) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2, team="pay")))
    async with lab.registry() as fresh:
        assert await Seated(fresh, BRIDGE).held() == await sink.held()


async def test_a_create_refuses_where_anything_stands(lab: Lab, sink: Seated, other: Seated) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2)))
    await write(other, create(PAY, instance(3), OTHER))
    before = await sink.held(), await lab.place()
    imposters = [instance(number, turn="2") for number in (1, 2, 3)]
    assert await refusals(sink, *(create(PAY, each) for each in imposters)) == [Conflict] * 3
    assert (await sink.held(), await lab.place()) == before


async def test_a_create_refuses_where_something_unreadable_stands(lab: Lab, sink: Seated) -> None:
    need(lab, "spoil")
    await lab.register(PAY, instance(1))
    await lab.spoil(PAY, i(1))
    assert owners(await shown(sink, PAY)) == {i(1): ""}
    assert await refusals(sink, create(PAY, instance(1))) == [Conflict]


@pytest.mark.parametrize("identical", [False, True], ids=["other", "identical"])
async def test_what_a_native_wrote_over_is_left_alone(lab: Lab, sink: Seated, identical: bool) -> None:
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
    assert {name: [*ids] for name, ids in held.loose.items()} == ({PAY: [i(1)]} if "loose" in lab.can else {})


async def test_to_forget_drops_the_ledger_entry_and_nothing_else(lab: Lab, sink: Seated) -> None:
    need(lab, "loose")
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


async def test_what_a_native_erased_can_be_forgotten_and_written_again(lab: Lab, sink: Seated) -> None:
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


async def test_what_a_native_erased_can_be_written_at_once(lab: Lab, sink: Seated) -> None:
    need(lab, "erase")
    await write(sink, create(PAY, instance(1)))
    await lab.erase(PAY, i(1))
    (again,) = await write(sink, create(PAY, instance(1)))
    held = await sink.held()
    assert held.services[PAY] == {i(1): again}
    assert not held.loose


async def test_one_bad_change_does_not_spoil_its_batch(lab: Lab, sink: Seated) -> None:
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


async def test_nobody_finds_a_service_empty_while_it_is_replaced(lab: Lab, sink: Seated, source: Source) -> None:
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


async def test_drift_tells_what_others_change_and_not_what_we_write(lab: Lab, sink: Seated, other: Seated) -> None:
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
        async with asyncio.timeout(patience()):
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
            await until(lambda n=name: knows(n))
        assert told == {PAY, CART}
        told.clear()
        await lab.deregister(PAY, i(1))
        await lab.register(ours[1], instance(1, ours[1]))  # over what we wrote
        for name in (PAY, ours[1]):
            await until(lambda n=name: knows(n))
        assert told == {PAY, ours[1]}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_written_while_nothing_changes(lab: Lab, sink: Seated, source: Source) -> None:
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


async def test_a_release_refuses_what_is_not_ours_as_it_was(lab: Lab, sink: Seated, other: Seated) -> None:
    need(lab, "change")
    (first, over) = await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    await write(sink, change(PAY, first, instance(1, turn="2")))
    await lab.register(PAY, instance(2, turn="3"))
    (theirs,) = await write(other, create(PAY, instance(3), OTHER))
    before = await sink.held()
    assert await refusals(sink, *(release(PAY, each) for each in (first, over, theirs))) == [Conflict] * 3
    assert await sink.held() == before


async def test_a_native_is_taken_over_in_place_if_it_is_as_it_was(lab: Lab, sink: Seated, source: Source) -> None:
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


async def test_what_somebody_else_keeps_is_not_taken_over_where_it_must_not_be(lab: Lab, sink: Seated) -> None:
    if "adopt" in lab.can:
        pytest.skip("it may")
    await lab.register(PAY, instance(1))
    entry = (await shown(sink, PAY))[i(1)]
    assert await refusals(sink, adopt(PAY, entry, entry.instance)) == [Rejected]
    assert owners(await shown(sink, PAY)) == {i(1): ""}
