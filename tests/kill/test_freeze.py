"""A daemon that was stopped and wakes up writes nothing once another one has its lock (safety faults 9 and 44)."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.conftest import StartEtcd
from tests.kill.fleet import Fleet, bridge
from tests.kit.natives import Etcd, backward, wrongful
from tests.kit.running import Bridge
from tests.kit.waiting import until

CHANGES = 40  # in each round, before, while and after the daemon is stopped


@pytest.mark.parametrize("freezes", [4, pytest.param(200, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
async def test_a_stopped_daemon_that_wakes_writes_nothing(
    folder: Path, etcd_server: StartEtcd, seed: int, freezes: int
) -> None:
    rng = random.Random(seed)
    old, new = await etcd_server(), await etcd_server()
    async with Etcd(old.address) as source, Etcd(new.address) as target:
        fleet = Fleet(source, rng)
        await fleet.found()
        writer = bridge(folder, old.address, new.address, name="one")
        # The second one wants nothing, and removes nothing: whatever is written in its time was the first one.
        silent = bridge(folder, old.address, new.address, name="two")
        silent.links[0] |= {"services": {"include": ["nothing-*"]}, "policy": "upsert-only"}
        silent.write()
        async with target.history() as history, writer:
            await until(lambda: len(history) >= len(source.truth.now), "the first copy")
            async with silent:
                for number in range(freezes):
                    changing = asyncio.create_task(fleet.change(CHANGES, 0.3))
                    await asyncio.sleep(rng.random() * 0.3)
                    writer.freeze()
                    if number == 0 and freezes > 4:
                        await until(silent.writes, "the lock's lease ends by itself")
                    else:
                        await target.expire_lock()
                        await until(silent.writes, "the other one has the lock")
                    await changing
                    await until(lambda: has_said(target, silent), "the other one has said so")
                    mark = await target.revision()
                    waking = asyncio.create_task(fleet.change(CHANGES, 0.3))
                    writer.thaw()
                    await until(lambda: stands_by(writer), "it knows that it is the writer no more")
                    await waking
                    await until(lambda: has_heard(writer, source), "it has heard everything, and what it might write")
                    assert [event for event in await history.caught_up() if event.revision > mark] == []
                    assert await has_said(target, silent)
                    # The lock goes back, and what waited flows.
                    silent.freeze()
                    await target.expire_lock()
                    await until(writer.writes, "it has the lock again")
                    silent.thaw()
                    await until(lambda: stands_by(silent), "the other one knows it too")
                    await until(lambda: equal(source, target), "all is equal", within=60.0)
            assert wrongful(await history.caught_up(), source.truth) == []
            assert backward(history) == []
            assert await target.halves() == []


async def stands_by(daemon: Bridge) -> bool:
    return str((await daemon.link())["role"]) == "standby"


async def has_said(target: Etcd, daemon: Bridge) -> bool:
    notes = (await target.records("/isthmus/note/b1/")).values()
    return [json.loads(note)["writer"]["pid"] for note in notes] == [daemon.process.pid]


async def has_heard(daemon: Bridge, source: Etcd) -> bool:
    return bool((await daemon.scopes())["old"]["instances"] == len(source.truth.now))


async def equal(source: Etcd, target: Etcd) -> bool:
    return await target.records() == source.truth.now
