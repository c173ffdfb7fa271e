"""A member that is cut off from Kafka alone, and a broker that is away: every shard has one writer, and is written."""

from __future__ import annotations

import asyncio

import pytest

from tests.group.fleet import Fleet
from tests.group.load import SHARDS
from tests.kit.waiting import until

LATE = 30.0  # seconds; see test_moves
AWAY = 12.0  # seconds that the broker is away: two sessions of the group


@pytest.mark.timeout(600)
async def test_who_is_cut_off_from_kafka_yields_and_comes_back(there: Fleet) -> None:
    one, two, three = await there.begin()
    async with there.measured("cut off"):
        await one.cut()
        await there.shared(two, three)
    assert there.figures[-1].worst < LATE
    async with there.measured("in touch again"):
        await one.heal()
        await there.shared(one, two, three)
    assert there.figures[-1].worst < LATE
    await there.judged(there.members)


@pytest.mark.parametrize("away", [AWAY, pytest.param(40.0, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
async def test_while_the_broker_is_away_every_shard_is_written_on(there: Fleet, away: float) -> None:
    await there.begin()
    await until(lambda: heard(there), "each has read its shards since it got them")
    await there.kafka.kill()
    alive = {*there.load.source.truth.now}  # of which no member has heard that they are gone
    await until(lambda: quiet(there), "what was on its way has arrived")
    held, turns = there.holders(), len(there.turns())
    gone = asyncio.create_task(asyncio.sleep(away))
    service = there.load.services[0][0]
    await there.load.remove(service, there.load.ids(service)[0])  # which nobody can hear of
    while not gone.done():
        spoilt = await there.spoil(alive)
        await until(lambda spoilt=spoilt: stand(there, spoilt), "what was taken away is put back, in every shard")
        await asyncio.wait((gone,), timeout=2.0)
    before = len(there.entries())
    assert (there.holders(), len(there.turns())) == (held, turns)
    async with there.measured("the broker is back"):
        await there.kafka.start()
        await until(lambda: len(there.entries()) > before, "changes flow again")
        await there.shared(*there.members)
    await there.judged(there.members)


async def heard(there: Fleet) -> bool:
    """Whether every member follows all that it writes."""
    scopes = [row for one in there.members for row in (await one.bridge.ask("status"))["scopes"]]
    return sum(row["shards"] for row in scopes) == SHARDS and all(row["state"] == "synced" for row in scopes)


async def quiet(there: Fleet) -> bool:
    """Whether no entry changed for a while; the members' notes of themselves change all the time."""
    await there.history.caught_up()
    before = len(there.entries())
    await asyncio.sleep(2.0)
    await there.history.caught_up()
    return len(there.entries()) == before


async def stand(there: Fleet, entries: dict[str, str]) -> bool:
    """Whether these are at the destination, as they were."""
    return (await there.target.records()).items() >= entries.items()
