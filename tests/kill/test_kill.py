"""SIGKILL at random moments while 2,000 changes flow: nothing wrongly removed, all equal in the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from bridge.errors import Unavailable
from tests.conftest import StartEtcd
from tests.kill.fleet import Fleet, bridge
from tests.kit.natives import Etcd, backward, wrongful
from tests.kit.waiting import until

CHANGES = 2_000
LIFE = 0.8  # seconds that a daemon which writes lives on, at most


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_a_killed_daemon_removes_nothing_that_lives_and_loses_no_change(
    folder: Path, etcd_server: StartEtcd, seed: int, kills: int
) -> None:
    rng = random.Random(seed)
    old, new = await etcd_server(), await etcd_server()
    async with Etcd(old.address) as source, Etcd(new.address) as target:
        # Natives stand at the target: one beside the copies, one where a copy would go.
        foreign = [
            await target.register("pay-0", "native", "192.0.2.250"),
            await target.register("other", "native", "192.0.2.251"),
        ]
        before = [(kv.value, kv.mod_revision) for kv in await target.below()]
        fleet = Fleet(source, rng)
        await fleet.found()
        daemon = bridge(folder, old.address, new.address)
        async with target.history() as history, daemon:
            await until(lambda: len(history) >= len(source.truth.now), "the first copy")
            for _ in range(kills):
                changing = asyncio.create_task(fleet.change(CHANGES // kills, LIFE))
                await asyncio.sleep(rng.random() * LIFE)
                await daemon.kill()
                if rng.random() < 0.2:  # and once more, somewhere in its start
                    await daemon.start(ready=False)
                    await asyncio.sleep(rng.random())
                    await daemon.kill()
                await changing
                await target.expire_lock()
                await daemon.start()
                await until(daemon.writes, "it is the writer again")

            async def equal() -> bool:
                # On a busy machine all these lives take more than two minutes: what was replaced meanwhile had stood,
                # so that its loss is the operator's. What lives is removed by nobody all the same.
                if any(hold["due_in"] is None for hold in await daemon.holds()):
                    with contextlib.suppress(Unavailable):  # a set may have changed since it was shown
                        await daemon.approve()
                now = await target.records()
                return {where: now[where] for where in now if where not in foreign} == source.truth.now

            await until(equal, "all is equal in the end", within=60.0)
            await until(daemon.rests, "nothing is left to do")
            assert await source.records() == source.truth.now
            assert wrongful(await history.caught_up(), source.truth) == []
            assert backward([event for event in history if event.key not in foreign]) == []
            assert await target.halves() == []
            after = [(kv.value, kv.mod_revision) for kv in await target.below() if kv.key.decode() in foreign]
            assert after == before
            assert await daemon.stop() == 0
