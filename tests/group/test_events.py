"""Whatever may happen to members and to the broker, several things at a time: one writer a shard all the while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.group.fleet import Fleet, Member
from tests.kit.waiting import until

BETWEEN = 3.0  # seconds from one event to the next, at the mean
LONGEST = 14.0  # seconds that one lasts: beyond a session of the group and the time of a lock


class Events:
    """What happens to members, each of which is in one event at a time. `told`: what happened, for who replays it."""

    def __init__(self, there: Fleet, rng: random.Random) -> None:
        self._there = there
        self._rng = rng
        self._busy: set[str] = set()
        self.told: list[str] = []

    async def happen(self, count: int) -> None:
        """So many, which may overlap; all are over in the end."""
        async with asyncio.TaskGroup() as under_way:
            for _ in range(count):
                under_way.create_task(self._next())
                await asyncio.sleep(self._rng.uniform(0, 2 * BETWEEN))

    async def _next(self) -> None:
        kinds: dict[str, tuple[float, Callable[[Member, float], Awaitable[None]]]] = {
            "killed": (3, self._killed),
            "left": (2, self._left),
            "frozen": (3, self._frozen),
            "cut off": (3, self._cut),
            "reloaded": (2, self._reloaded),
        }
        seconds = self._rng.uniform(0.5, LONGEST)
        free = [one for one in self._there.members if one.name not in self._busy]
        if self._rng.random() < 0.1 and "kafka" not in self._busy:
            await self._during("kafka", f"the broker is away for {seconds:.1f} s", self._broker(seconds / 2))
        elif free:
            member = self._rng.choice(free)
            kind = self._rng.choices([*kinds], [weight for weight, _ in kinds.values()])[0]
            await self._during(
                member.name, f"{member.name} is {kind} for {seconds:.1f} s", kinds[kind][1](member, seconds)
            )

    async def _during(self, name: str, what: str, work: Awaitable[None]) -> None:
        print(what)
        self.told.append(what)
        self._busy.add(name)
        try:
            await work
        finally:
            self._busy.discard(name)

    async def _killed(self, member: Member, seconds: float) -> None:
        await member.kill()
        await asyncio.sleep(seconds / 3)
        await member.start()

    async def _left(self, member: Member, seconds: float) -> None:
        await member.bridge.stop()
        await asyncio.sleep(seconds / 3)
        await member.start()

    async def _frozen(self, member: Member, seconds: float) -> None:
        member.bridge.freeze()
        await asyncio.sleep(seconds)
        member.bridge.thaw()

    async def _cut(self, member: Member, seconds: float) -> None:
        await member.cut()
        await asyncio.sleep(seconds)
        await member.heal()

    async def _reloaded(self, member: Member, seconds: float) -> None:
        """With a file that has its destination made anew."""
        block = member.bridge.registries["new"]
        block["protocol"] = "http" if block.get("protocol") == "grpc" else "grpc"  # no port is without one
        await until(lambda: "READY=1" in member.bridge.heard(), "it takes signals")
        await member.bridge.hup()

    async def _broker(self, seconds: float) -> None:
        await self._there.kafka.kill()
        await asyncio.sleep(seconds)
        await self._there.kafka.start()


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.soak)])
@pytest.mark.timeout(7200)
async def test_whatever_happens_each_shard_has_one_writer_and_nothing_alive_goes(
    there: Fleet, seed: int, count: int
) -> None:
    await there.begin()
    async with there.measured(f"{count} events"):
        await Events(there, random.Random(seed)).happen(count)
        await there.shared(*there.members)
    await there.judged(there.members)
