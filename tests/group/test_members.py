"""Two daemons share the writing of one etcd, over a stream that a third one fills from another etcd."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bridge.config.load import load
from bridge.engine.opening import opened
from bridge.shards import Shards
from tests.conftest import StartEtcd
from tests.kit.natives import PREFIX, Etcd
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.kafka import Kafka

SHARDS = 6
SERVICES = 24
GUARD = {"confirm_event": "1s", "confirm_absence": "1s", "source_count": 1000, "hard_count": 1000, "service_share": 0.1}


class Site(NamedTuple):
    """The natives' etcd, the one that the group writes, and two members that do not run yet."""

    source: Etcd
    target: Etcd
    one: Bridge
    two: Bridge

    async def in_step(self) -> bool:
        """Whether all that natives registered stands at the target, and nothing else."""
        wanted = {where: json.loads(value)["endpoints"] for where, value in self.source.truth.now.items()}
        found = {where: json.loads(value)["endpoints"] for where, value in (await self.target.records()).items()}
        return wanted == found


async def divide(member: Bridge, count: int) -> None:
    """As `isthmus group init` does."""
    async with opened(load(member.file), "b", "b1") as place:
        assert isinstance(place.seat, Shards)
        await place.seat.divide(count)


@asynccontextmanager
async def site(etcd: StartEtcd, kafka: Kafka, folder: Path) -> AsyncIterator[Site]:
    """Everything runs but the members; the source has some services of two instances each."""
    one, other = await etcd(), await etcd()
    stream = {"kind": "kafka", "bootstrap_servers": [node.address for node in kafka.nodes], "partitions": SHARDS}
    block = {"kind": "etcd", "layout": "kratos"}
    registries: dict[str, Any] = {
        "a": {**block, "endpoints": [f"http://{one.address}"]},
        "b": {**block, "endpoints": [f"http://{other.address}"]},
        "stream": stream,
    }
    fill = {"from": "a", "to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    share = {**fill, "from": "stream/a", "to": "b"}
    async with Etcd(one.address) as source, Etcd(other.address) as target:
        lease = await source.lease()
        for number in range(SERVICES):
            for copy in range(2):
                await source.register(f"s{number}", f"i{copy}", f"10.1.{copy}.{number}", lease)
        feeder = Bridge(folder, {key: registries[key] for key in ("a", "stream", "b")}, [fill], name="feeder", seat="b")
        two = [
            Bridge(folder, {key: registries[key] for key in ("b", "stream")}, [share], name=name, group="crew")
            for name in ("one", "two")
        ]
        await divide(two[0], SHARDS)
        async with feeder:
            try:
                yield Site(source, target, *two)
            finally:
                for member in two:
                    await member.process.stop()
                    member.close()


async def test_members_share_a_destination_as_they_come_and_go(
    etcd_server: StartEtcd, kafka: Kafka, tmp_path: Path
) -> None:
    async with site(etcd_server, kafka, tmp_path) as there:
        await there.one.start()
        await until(there.in_step, "one member writes all")
        await there.two.start()
        await until(lambda: writes(there.two, SHARDS // 2), "the other one has its half")
        await until(lambda: writes(there.one, SHARDS // 2), "and the first one no more than that")
        await change(there, "10.9.0.0")
        await there.one.stop()
        await until(lambda: writes(there.two, SHARDS), "who stays has all")
        await change(there, "10.9.1.0")
        await there.one.start()
        await until(lambda: writes(there.one, SHARDS // 2), "the first one is back")
        await there.two.kill()
        await until(lambda: writes(there.one, SHARDS), "who was killed is replaced")
        await change(there, "10.9.2.0")


async def change(there: Site, network: str) -> None:
    """Each service has another address, and one instance less or more."""
    lease = await there.source.lease()
    for number in range(SERVICES):
        where = f"{PREFIX}s{number}/i1"
        await there.source.register(f"s{number}", "i0", f"{network[:-1]}{number}", lease)
        if where in there.source.truth.now:
            await there.source.delete(where)
        else:
            await there.source.register(f"s{number}", "i1", f"{network[:-1]}{100 + number}", lease)
    await until(there.in_step, "all that changed is written")


async def writes(member: Bridge, count: int) -> bool:
    """Whether a member writes so many shards."""
    (link,) = (await member.ask("status"))["links"]
    return bool(link["shards"]["writes"] == count)
