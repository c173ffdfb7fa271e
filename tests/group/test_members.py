"""Two daemons share the writing of one etcd, over a stream that a third one fills from another etcd."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bridge.errors import Unavailable
from bridge.model import ServiceName
from mappings import kafka as mapping
from tests.conftest import StartEtcd
from tests.kit.natives import PREFIX, Etcd
from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.servers.kafka import Kafka

SHARDS = 6
SERVICES = 24
MANY = 40  # instances of a service
GONE = 35  # of them: as many of some ten services are more than a note has room for, and each keeps its share
LINK = "stream-a-to-b"
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


@asynccontextmanager
async def site(etcd: StartEtcd, kafka: Kafka, folder: Path, **guard: Any) -> AsyncIterator[Site]:
    """Everything runs but the members; the source has some services of two instances each. `guard`: of the members."""
    one, other = await etcd(), await etcd()
    stream = {"kind": "kafka", "bootstrap_servers": [node.address for node in kafka.nodes], "partitions": SHARDS}
    block = {"kind": "etcd", "layout": "kratos"}
    registries: dict[str, Any] = {
        "a": {**block, "endpoints": [f"http://{one.address}"]},
        "b": {**block, "endpoints": [f"http://{other.address}"]},
        "stream": stream,
    }
    fill = {"from": "a", "to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    share = {**fill, "from": "stream/a", "to": "b", "guard": {**GUARD, **guard}}
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
        await ran(there.one, "init", "b")
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


async def test_one_daemon_becomes_a_group_and_one_again(etcd_server: StartEtcd, kafka: Kafka, tmp_path: Path) -> None:
    async with site(etcd_server, kafka, tmp_path) as there:
        del there.one.bridge["group"]
        there.one.write()
        await there.one.start()
        await until(there.in_step, "one daemon writes all")
        before = await there.target.versions()
        await there.one.ask("freeze", link=LINK, reason="for a while")
        await there.two.start()
        await until(lambda: attention(there.two, "group-undivided"), "who has a group waits")
        await ran(there.two, "init", "b", code=1)
        await there.two.stop()
        await there.one.stop()

        await ran(there.two, "init", "b")
        await there.one.start()
        await until(lambda: says(there.one, "the daemons of a group write"), "who has none is refused")
        await there.one.stop()
        there.one.bridge["group"] = "crew"
        there.one.write()
        await there.one.start()
        await there.two.start()
        await until(lambda: shared(there.one), "both have their half")
        assert await there.target.versions() == before, "nothing is written anew"
        assert all([await frozen(member) for member in (there.one, there.two)])
        await there.two.ask("unfreeze", link=LINK)
        await until(lambda: thawed(there.one), "what is decided at one holds at the other")
        await change(there, "10.9.3.0")
        await there.two.ask("freeze", link=LINK, reason="for a while again")
        await ran(there.two, "end", "b", code=1)
        await there.one.stop()
        await there.two.stop()

        await ran(there.two, "end", "b")
        del there.one.bridge["group"]
        there.one.write()
        await there.one.start()
        await until(there.one.writes, "one daemon writes again")
        assert await frozen(there.one)
        await there.one.ask("unfreeze", link=LINK)
        await change(there, "10.9.4.0")


async def test_a_held_set_is_shown_whole_at_each_member_and_approved_at_any(
    etcd_server: StartEtcd, kafka: Kafka, tmp_path: Path
) -> None:
    limits = {"hard_share": 0.1, "source_share": 0.1, "hard_count": 1}
    async with site(etcd_server, kafka, tmp_path, **limits) as there:
        await ran(there.one, "init", "b")
        await there.one.start()
        await there.two.start()
        await until(lambda: shared(there.one), "both have their half")
        await until(there.in_step, "and write it")
        await there.source.delete(*(f"{PREFIX}s{number}/i1" for number in range(SERVICES)))
        hold = await until(lambda: held(there), "both show what both hold")
        await there.source.delete(f"{PREFIX}s0/i0")
        await until(lambda: grown(there, hold), "one more is held")
        with pytest.raises(Unavailable, match="has grown"):
            await there.one.ask("approve", id=hold, reason="the test says so")
        more = await held(there)
        await there.two.ask("approve", id=more, reason="the test says so")
        await until(there.in_step, "each member lets its part go")


async def test_a_set_beyond_a_note_is_named_everywhere_and_approved_where_it_is_held(
    etcd_server: StartEtcd, kafka: Kafka, tmp_path: Path
) -> None:
    limits = {"hard_share": 0.1, "source_share": 0.1, "hard_count": 1}
    async with site(etcd_server, kafka, tmp_path, **limits) as there:
        many = [f"{'i' * 200}{number}" for number in range(MANY)]
        lease = await there.source.lease()
        for number in range(SERVICES):
            for copy, id in enumerate(many):
                await there.source.register(f"s{number}", id, f"10.{2 + copy}.0.{number}", lease)
        await ran(there.one, "init", "b")
        await there.one.start()
        await there.two.start()
        await until(lambda: shared(there.one), "both have their half")
        await until(there.in_step, "and write it")
        large = [f"s{number}" for number in range(SERVICES) if shard_of(f"s{number}") in await shards(there.one)]
        small = [f"s{number}" for number in range(SERVICES) if f"s{number}" not in large]
        gone = [f"{PREFIX}{service}/{id}" for service in large for id in many[:GONE]]
        for some in range(0, len(gone), 100):
            await there.source.delete(*gone[some : some + 100])
        await there.source.delete(*(f"{PREFIX}{service}/i1" for service in small))
        other, beyond = await until(lambda: sets(there, 2), "both members show both sets")
        assert "more than fits a note: approve it at" in beyond["rule"]
        with pytest.raises(Unavailable, match="more than fits a note: approve it at"):
            await there.two.ask("approve", id=beyond["id"], reason="the test says so")
        await there.one.ask("approve", id=beyond["id"], reason="the test says so")
        (left,) = await until(lambda: sets(there, 1), "what was approved is gone")
        assert left["id"] == other["id"]  # its rule counts all that the scope loses, and may say so by now
        await there.one.ask("approve", id=other["id"], reason="the test says so")
        await until(there.in_step, "each member lets its part go")


async def sets(there: Site, count: int) -> list[dict[str, Any]]:
    """What the second member shows, the largest last, where both show the same, so many sets, and all that is held."""
    one, two = [sorted(await member.holds(), key=lambda row: row["instances"]) for member in (there.one, there.two)]
    wanted = there.source.truth.now.keys()
    left = sum(where not in wanted for where in await there.target.records())
    are_whole = len(two) == count and sum(row["instances"] for row in two) == left
    return [told(row) for row in two] if are_whole and [row["id"] for row in one] == [row["id"] for row in two] else []


def told(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "rule", "instances")}


async def shards(member: Bridge) -> list[int]:
    """Which shards a member writes."""
    (row,) = (await isthmus("group", "-f", member.file, "-o", "json")).json
    return [one["shard"] for one in row["shards"] if str(member.process.pid) in one["writes"]]


def shard_of(service: str) -> int:
    return mapping.partition_of(ServiceName(service), SHARDS)


async def held(there: Site) -> str:
    """The id of the one set that is held, where both members show all of it; "": they do not."""
    ones, others = await there.one.holds(), await there.two.holds()
    wanted = there.source.truth.now.keys()
    left = sum(where not in wanted for where in await there.target.records())
    whole = [row["instances"] for row in ones] == [left] and left > 1
    return str(ones[0]["id"]) if whole and [row["id"] for row in ones] == [row["id"] for row in others] else ""


async def grown(there: Site, hold: str) -> bool:
    return await held(there) not in ("", hold)


async def ran(member: Bridge, verb: str, *words: str, code: int = 0) -> str:
    """Runs `isthmus group VERB`; what it said."""
    done = await isthmus("group", verb, "-f", member.file, *words)
    assert done.code == code, done
    return done.out


async def frozen(member: Bridge) -> bool:
    return bool((await member.link())["frozen"])


async def thawed(member: Bridge) -> bool:
    return not await frozen(member)


async def says(member: Bridge, text: str) -> bool:
    return text in (await member.link())["reason"]


async def attention(member: Bridge, code: str) -> bool:
    return any(row["code"] == code for row in (await member.ask("status"))["attention"])


async def shared(member: Bridge) -> bool:
    """Whether every shard is written by who should, by what `isthmus group` shows, and each member has half of them."""
    done = await isthmus("group", "-f", member.file, "-o", "json")
    (row,) = done.json
    assert done.code == (3 if any(one["waits"] for one in row["shards"]) or row["faults"] else 0)
    writers = Counter(one["writes"] for one in row["shards"])
    return [*writers.values()] == [SHARDS // 2] * 2 and not any(one["waits"] for one in row["shards"])


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
