"""What every registry promises that keeps notes by key: whoever writes has seen what it replaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge.adapter import Keeper, Note, Notes, Registry, Tracer, Waking
from bridge.errors import Conflict, Denied, Rejected, Unavailable
from tests.conformance.lab import BRIDGE, OTHER, Lab, need, patience

PART = "seat"

INTENT = "intent/pay"
DAEMONS = ("daemon/vm-1:/var/lib/isthmus", "daemon/vm-2")


@asynccontextmanager
async def kept(lab: Lab, bridge: str = BRIDGE) -> AsyncIterator[Notes]:
    """As a daemon of its own reaches them."""
    async with lab.registry() as registry:
        yield of(registry, bridge)


def of(registry: Registry, bridge: str = BRIDGE) -> Notes:
    assert isinstance(registry, Keeper)
    return registry.notes(bridge)


async def test_a_note_by_key_replaces_only_what_its_writer_has_seen(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    one = of(registry)
    assert await one.read(INTENT) is None
    first = await one.write(INTENT, b"one", None)
    async with kept(lab) as two:
        assert await two.read(INTENT) == first
        second = await two.write(INTENT, b"two" * 1000, first)
    for stale in (None, first):
        with pytest.raises(Conflict):
            await one.write(INTENT, b"three", stale)
    with pytest.raises(Conflict):
        await one.remove(INTENT, first)
    with pytest.raises(Rejected):
        await one.write(INTENT, b"x" * (128 * 1024 + 1), second)
    assert await one.read(INTENT) == second
    await one.remove(INTENT, second)
    assert await one.read(INTENT) is None
    for gone in (one.write(INTENT, b"four", second), one.remove(INTENT, second)):
        with pytest.raises(Conflict):
            await gone


async def test_no_write_of_several_writers_of_a_note_is_lost(lab: Lab) -> None:
    need(lab, "write")

    async def count() -> None:
        async with kept(lab) as notes:
            for _ in range(5):
                await counted(notes)

    async with asyncio.timeout(patience()), asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(count())
    async with kept(lab) as notes:
        found = await notes.read(INTENT)
        assert found is not None
        assert found.content == b"20"


async def counted(notes: Notes) -> Note:
    while True:
        before = await notes.read(INTENT)
        try:
            return await notes.write(INTENT, str(int(before.content) + 1 if before else 1).encode(), before)
        except Conflict:
            continue


async def test_notes_are_listed_by_the_begin_of_their_key(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    notes = of(registry)
    written = {key: await notes.write(key, key.encode(), None) for key in (INTENT, *DAEMONS)}
    async with kept(lab, OTHER) as theirs:
        assert await theirs.below("") == {}
        other = await theirs.write(INTENT, b"theirs", None)
        assert await notes.below("") == written
        assert await notes.below("daemon/") == {key: written[key] for key in DAEMONS}
        assert await theirs.below("") == {INTENT: other}
    traces = await registry.traces(BRIDGE) if isinstance(registry, Tracer) else []
    assert [one.needed for one in traces if one.kind == "note"] == [""] * len(written)


async def test_silence_is_no_missing_note_by_key(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    need(lab, "cut")
    notes = of(registry)
    await notes.write(INTENT, b"one", None)
    await lab.cut()
    for asked in (notes.read(INTENT), notes.below("")):
        with pytest.raises((Unavailable, Denied)):
            await asked


async def test_who_waits_for_a_note_is_woken_by_another_one_and_by_nothing_else(lab: Lab, registry: Registry) -> None:
    need(lab, "write")
    notes = of(registry)
    if not isinstance(notes, Waking):
        pytest.skip("this store does not tell: it is asked")
    first = await notes.write(INTENT, b"one", None)
    async with kept(lab) as two:
        async with asyncio.timeout(patience()):
            await notes.changed(INTENT, None)  # another one is there already
        waiting = asyncio.create_task(notes.changed(INTENT, first))
        await two.write(DAEMONS[0], b"of another key", None)
        second = await two.write(INTENT, b"two", first)
        async with asyncio.timeout(patience()):
            await waiting
        gone = asyncio.create_task(notes.changed(INTENT, second))
        await two.remove(INTENT, second)
        async with asyncio.timeout(patience()):
            await gone
