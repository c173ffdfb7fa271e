"""What every seat promises: one writer at a time, notes, and seats that are lent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from bridge.adapter import Registry, Seat, Term, Tracer
from bridge.errors import Conflict, Denied, Superseded, Unavailable
from tests.conformance.lab import (
    BRIDGE,
    OTHER,
    PAY,
    Lab,
    at,
    change,
    create,
    i,
    instance,
    need,
    owners,
    patience,
    shown,
    until,
    write,
)
from tests.kit.seated import Seated

PART = "seat"

ANSWERS = 40  # of a server: whoever asked for the lock before these has long looked at it
ELSEWHERE, FURTHER = "elsewhere", "further"  # destinations that have no seat of their own


async def test_nothing_is_written_without_the_lock(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    sink = Seated(registry, BRIDGE)
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
        async with lab.registry() as registry, Seated(registry, BRIDGE).writer():
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
            await until(lambda n=number: count(n))
            leave[order[-1]].set()
    assert sorted(order) == sorted(leave)


async def test_two_bridges_write_side_by_side(lab: Lab, sink: Seated, other: Seated) -> None:
    await write(sink, create(PAY, instance(1)))
    await write(other, create(PAY, instance(2), OTHER))
    assert owners(await shown(sink, PAY)) == owners(await shown(other, PAY)) == {i(1): BRIDGE, i(2): OTHER}


async def test_a_writer_that_lost_its_lock_writes_nothing(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    need(lab, "steal")
    sink = Seated(registry, BRIDGE)
    async with AsyncExitStack() as stack:
        term: Term = await stack.enter_async_context(sink.writer())
        (entry,) = await write(sink, create(PAY, instance(1)))
        await lab.steal(BRIDGE)
        before = await lab.place()
        for attempt in (create(PAY, instance(2)), change(PAY, entry, None)):
            with pytest.raises(Superseded):
                await sink.apply([attempt])
        assert await lab.place() == before
        async with asyncio.timeout(patience()):
            await term.ended()
        async with lab.registry() as standby:
            second = Seated(standby, BRIDGE)
            async with second.writer():
                await write(second, create(PAY, instance(2)))
                with pytest.raises(Superseded):
                    await sink.apply([change(PAY, entry, None)])
        assert await lab.truth(PAY) == at(instance(1), instance(2))


async def test_a_stolen_lock_goes_to_the_standby_at_once(lab: Lab, sink: Seated) -> None:
    need(lab, "steal")
    async with lab.registry() as standby:
        second = Seated(standby, BRIDGE)

        async def take_over() -> None:
            async with second.writer():
                await write(second, create(PAY, instance(2)))

        taking = asyncio.create_task(take_over())
        await lab.steal(BRIDGE)
        async with asyncio.timeout(patience()):
            await taking
    with pytest.raises(Superseded):
        await sink.apply([create(PAY, instance(1))])
    assert await lab.truth(PAY) == at(instance(2))


async def test_a_note_stands_for_every_daemon_of_its_bridge(lab: Lab, sink: Seated, other: Seated) -> None:
    assert await sink.recall() is None
    first = await sink.note(b"one", None, writer=True)
    assert first == await sink.recall()
    second = await sink.note(b"two" * 1000, first, writer=True)
    async with lab.registry() as standby:
        watching = Seated(standby, BRIDGE)
        assert await watching.recall() == second
        third = await watching.note(b"three", second, writer=False)
    assert await sink.recall() == third
    assert third.content == b"three"
    assert await other.recall() is None
    assert not (await sink.held()).services


async def test_a_note_refuses_to_replace_what_it_has_not_seen(lab: Lab, sink: Seated) -> None:
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
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        first = await sink.note(b"one", None, writer=True)
        await lab.steal(BRIDGE)
        with pytest.raises(Superseded):
            await sink.note(b"two", first, writer=True)
    with pytest.raises(Superseded):
        await sink.note(b"three", first, writer=True)
    assert await sink.recall() == first


async def test_a_bridge_that_leaves_takes_its_note_along_and_no_others(lab: Lab, sink: Seated, other: Seated) -> None:
    theirs = await other.note(b"theirs", None, writer=True)
    async with seat(lab, ELSEWHERE) as lent, lent.writer() as term:
        kept = await lent.note(b"lent", None, term=term)
        await sink.note(b"ours", None, writer=True)
        await sink.leave()
        assert await sink.recall() is None
        assert (await other.recall(), await lent.recall()) == (theirs, kept)


async def test_a_bridge_that_has_left_can_come_back(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    for _ in range(2):
        sink = Seated(registry, BRIDGE)
        async with asyncio.timeout(patience()), sink.writer():
            await sink.note(b"ours", None, writer=True)
            await sink.leave()
        assert await sink.recall() is None
        assert (await registry.reach()).writers == frozenset()
        left = await registry.traces(BRIDGE) if isinstance(registry, Tracer) else ()
        assert [one for one in left if one.kind != "namespace"] == [], "only what others may use by now stays"


async def test_who_is_not_the_writer_cannot_leave(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    sink = Seated(registry, BRIDGE)
    async with sink.writer():
        note = await sink.note(b"ours", None, writer=True)
    with pytest.raises(Superseded):
        await sink.leave()
    assert await sink.recall() == note


async def test_silence_is_no_missing_note(lab: Lab, sink: Seated) -> None:
    need(lab, "cut")
    await sink.note(b"one", None, writer=True)
    await lab.cut()
    with pytest.raises((Unavailable, Denied)):
        await sink.recall()


@asynccontextmanager
async def seat(lab: Lab, destination: str, bridge: str = BRIDGE) -> AsyncIterator[Seat]:
    """As a daemon of its own reaches it."""
    async with lab.registry() as registry:
        found = registry.seat(bridge, destination)
        assert found is not None
        yield found


async def test_a_seat_that_is_lent_is_never_the_lenders_own_lock(lab: Lab, sink: Seated) -> None:
    async with AsyncExitStack() as stack, asyncio.timeout(patience()):
        for place in (seat(lab, ELSEWHERE), seat(lab, FURTHER), seat(lab, ELSEWHERE, OTHER)):
            await stack.enter_async_context((await stack.enter_async_context(place)).writer())
        await write(sink, create(PAY, instance(1)))
    assert await lab.truth(PAY) == at(instance(1))


async def test_a_seat_that_is_lent_has_one_writer_and_a_note(lab: Lab, sink: Seated) -> None:
    taken = asyncio.Event()

    async def stand_by() -> None:
        async with seat(lab, ELSEWHERE) as standby, standby.writer() as term:
            taken.set()
            assert await standby.recall() == note
            await standby.note(b"two", note, term=term)

    async with seat(lab, ELSEWHERE) as lent:
        async with lent.writer() as term:
            waiting = asyncio.create_task(stand_by())
            assert await lent.recall() is None
            note = await lent.note(b"one", None, term=term)
            assert not taken.is_set()
        async with asyncio.timeout(patience()):
            await waiting
        found = await lent.recall()
        assert found is not None
        assert found.content == b"two"
    assert await sink.recall() is None


async def test_a_lent_seat_makes_nobody_a_writer_at_the_lender(lab: Lab) -> None:
    need(lab, "write")
    async with seat(lab, ELSEWHERE) as lent, lent.writer(), lab.registry() as registry:
        assert (await registry.reach()).writers == frozenset()


async def test_a_term_says_until_when_it_can_be_trusted(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    sink, loop = Seated(registry, BRIDGE), asyncio.get_running_loop()
    async with sink.writer() as term:
        assert term.until > loop.time()
        if "steal" in lab.can:
            await lab.steal(BRIDGE)
            async with asyncio.timeout(patience()):
                await term.ended()
            assert term.until <= loop.time()
    assert term.until <= loop.time()


async def test_a_term_says_whether_another_process_held_the_lock(lab: Lab, registry: Registry) -> None:
    need(lab, "write")

    async def stand_by(standby: Seated) -> bool:
        async with standby.writer() as term:
            return bool(term.taken_over)

    async with lab.registry() as second, asyncio.timeout(patience()):
        one, two = Seated(registry, BRIDGE), Seated(second, BRIDGE)
        async with one.writer() as term:
            assert not term.taken_over
            waiting = asyncio.create_task(stand_by(two))
            for _ in range(ANSWERS):
                await two.recall()
            assert not waiting.done()
        assert await waiting
