"""A member that joins, leaves, is killed, or is frozen and wakes: its shards go to others, with one writer each."""

from __future__ import annotations

import asyncio

import pytest

from tests.group.fleet import Fleet
from tests.group.load import SHARDS
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

# Seconds that a shard that moves may go unwritten, longer than any other: at a join or a leave, at a kill or a freeze.
# The machine is busy with other tests.
BUSY = 2.0
SOON, LATE = 1.0 + BUSY, 11.0 + BUSY


@pytest.mark.timeout(600)
async def test_shards_follow_the_members_and_have_one_writer_each(there: Fleet, target: Etcd) -> None:
    one, two, three = there.members
    await there.begin(one, two)
    async with there.measured("join"):
        await three.start()
        await there.shared(one, two, three)
    asked, writes = await target.asked("Txn"), len(there.entries())
    async with there.measured("rest"):
        await asyncio.sleep(5.0)
    asked, writes = await target.asked("Txn") - asked, len(there.entries()) - writes
    assert asked < 2 * writes, "no member reads again what the others write"
    async with there.measured("leave"):
        assert await two.bridge.stop() == 0
        await there.shared(one, three)
    await two.start()
    await there.shared(one, two, three)
    async with there.measured("kill"):
        await three.kill()
        await there.shared(one, two)
    await three.start()
    await there.shared(one, two, three)
    async with there.measured("freeze"):
        one.bridge.freeze()
        await there.shared(two, three)
    async with there.measured("wake"):
        one.bridge.thaw()
        await there.shared(one, two, three)
    join, _, leave, kill, freeze, wake = (figure.beyond for figure in there.figures)
    assert max(join, leave, wake) < SOON
    assert max(kill, freeze) < LATE
    await there.judged(there.members)


@pytest.mark.parametrize(
    "event", ["kill", *(pytest.param(each, marks=pytest.mark.soak) for each in ("join", "leave", "freeze"))]
)
@pytest.mark.parametrize("kind", ["zookeeper", "consul"])
@pytest.mark.timeout(600)
async def test_shards_of_another_kind_of_store_follow_the_members_likewise(there: Fleet, kind: str, event: str) -> None:
    members = [*there.members]
    await there.begin(*(members[1:] if event == "join" else members))
    before = len(there.entries())
    await until(lambda: len(there.entries()) > before + 5 * SHARDS, "all of them write")
    async with there.measured(f"{event} ({kind})"):
        await happen(there, event)
    assert there.figures[-1].beyond < (SOON if event in ("join", "leave") else LATE)
    if event == "freeze":
        members[0].bridge.thaw()
        await there.shared(*members)
    await there.judged(members if event in ("join", "freeze") else members[1:])


async def happen(there: Fleet, event: str) -> None:
    """Something happens to the first member; returns when all shards are shared anew."""
    one, *others = there.members
    match event:
        case "join":
            await one.start()
            await there.shared(*there.members)
            return
        case "leave":
            assert await one.bridge.stop() == 0
        case "kill":
            await one.kill()
        case "freeze":
            one.bridge.freeze()
    await there.shared(*others)
