"""`isthmus purge`: removes what a bridge owns, after showing it, and nothing that somebody still needs by mistake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands.conftest import Pair
from tests.kit.natives import Etcd as Natives
from tests.kit.natives import key
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd


class Purged(NamedTuple):
    """A bridge from a folder to etcd that has run once; one native stands beside the copies of pay-api."""

    pair: Pair
    bridge: Bridge
    natives: Natives

    async def keys(self) -> set[str]:
        """What stands there."""
        return {where.removeprefix("/microservices/") for where in await self.natives.records()}


NATIVE = "pay-api/native"
API = {"pay-api/i1", "pay-api/i2", "pay-api/i3"}
DB = {"pay-db/d1", "pay-db/d2"}


@pytest.fixture
async def purged(pair: Pair, etcd: Etcd) -> AsyncIterator[Purged]:
    pair.bridge.registries["cluster"] = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}
    pair.bridge.write()
    async with Natives(etcd.address) as natives:
        await natives.register("pay-api", "native", "192.0.2.99")
        assert (await pair.bridge.isthmus("run", "--once")).code == 0
        found = Purged(pair, pair.bridge, natives)
        assert await found.keys() == {NATIVE, *API, *DB}
        yield found


async def test_without_yes_only_the_plan_is_shown(purged: Purged) -> None:
    revision = await purged.natives.revision()
    ran = await purged.bridge.isthmus("purge", "cluster", "-o", "json")
    assert ran.code == 0
    assert ran.json.keys() >= {"removes", "spared", "done", "failed"}
    assert {f"{row['service']}/{row['instance']}" for row in ran.json["removes"]} == API
    assert ran.json["done"] is False
    assert "nothing was done" in (await purged.bridge.isthmus("purge", "cluster")).out
    assert await purged.natives.revision() == revision


async def test_what_is_ours_goes_and_the_last_that_serve_are_spared(purged: Purged) -> None:
    ran = await purged.bridge.isthmus("purge", "cluster", "--yes")
    assert ran.code == 3, ran.err  # something was spared
    assert "spared: pay-db" in ran.out and "i1" in ran.out
    assert await purged.keys() == {NATIVE, *DB}
    ran = await purged.bridge.isthmus("purge", "cluster", "--yes")
    assert ran.code == 1  # nothing but the spared is left
    assert (await purged.bridge.isthmus("purge", "cluster", "--including-last", "--yes")).code == 0
    assert await purged.keys() == {NATIVE}
    assert await purged.natives.halves() == []
    lines = (await purged.bridge.isthmus("log", "-o", "json")).json
    assert [line["reason"] for line in lines if line["kind"] == "purge"] == [
        "cluster: 3 entries of b1 are to be removed",  # on the disk before anything is done
        "cluster: 3 entries of b1 removed",
        "cluster: 2 entries of b1 are to be removed",
        "cluster: 2 entries of b1 removed",
    ]


async def test_where_everything_goes_nothing_of_the_bridge_is_left_behind(purged: Purged) -> None:
    async def own() -> set[str]:
        return {one.key.decode() for one in await purged.natives.below("/isthmus/")}

    async def noted() -> bool:
        return any(place.startswith("/isthmus/note/") for place in await own())

    async with purged.bridge:
        await until(noted, "it writes, and leaves a note")
    ran = await purged.bridge.isthmus("purge", "cluster", "--yes")
    assert ran.code == 3
    assert "stays: 2 entries: they are the only serving entries" in ran.out
    assert "stays: note and lock of b1" in ran.out
    assert await noted()
    ran = await purged.bridge.isthmus("purge", "cluster", "--including-last", "--yes")
    assert ran.code == 0, ran.err
    assert [line for line in ran.out.splitlines() if line.startswith("stays")] == []
    assert await own() == set()


async def test_it_is_refused_while_a_daemon_writes_there(purged: Purged) -> None:
    async with purged.bridge as daemon:
        ran = await daemon.isthmus("purge", "cluster", "--yes")
        assert ran.code == 1
        assert "a daemon writes there" in ran.err
    assert await purged.keys() == {NATIVE, *API, *DB}


async def test_a_group_is_ended_by_who_takes_all_away_and_by_nobody_else(purged: Purged) -> None:
    place = "b1/kratos:%2Fmicroservices%2F"
    shards = f"/isthmus/lock/{place}/shards"
    await purged.natives.put(shards, "4")
    await purged.natives.put(f"/isthmus/note/{place.replace('/', '/shards:', 1)}/2", "of a shard")
    ran = await purged.bridge.isthmus("purge", "cluster", "--yes")
    assert ran.code == 1
    assert "a group writes there, in 4 shards" in ran.err
    await purged.natives.put(f"{shards}/2", "{}")
    ran = await purged.bridge.isthmus("purge", "cluster", "--including-last", "--yes")
    assert ran.code == 1
    assert "holds the lock of a shard" in ran.err
    assert await purged.keys() == {NATIVE, *API, *DB}
    await purged.natives.delete(f"{shards}/2")
    kinds = {row["kind"] for row in (await purged.bridge.isthmus("footprint", "cluster", "-o", "json")).json}
    assert "shards" in kinds
    ran = await purged.bridge.isthmus("purge", "cluster", "--including-last", "--yes")
    assert ran.code == 0, ran.err
    assert await purged.keys() == {NATIVE}
    assert await purged.natives.below("/isthmus/") == []


async def test_orphans_are_what_no_link_of_the_file_leads_to(purged: Purged) -> None:
    assert (await purged.bridge.isthmus("purge", "cluster", "--orphans", "-o", "json")).json["removes"] == []
    purged.bridge.links[0]["name"] = "other"
    purged.bridge.write()
    ran = await purged.bridge.isthmus("run", "--once")
    assert ran.code in (0, 3)
    purged.bridge.links.clear()
    purged.bridge.write()
    ran = await purged.bridge.isthmus("purge", "cluster", "--orphans", "--yes", "-o", "json")
    assert ran.code == 3
    assert {row["service"] for row in ran.json["removes"]} == {"pay-api"}
    assert [row["service"] for row in ran.json["spared"]] == ["pay-db"]


async def test_a_link_that_disappears_removes_nothing(purged: Purged) -> None:
    purged.bridge.links[0]["services"] = {"include": ["none"]}
    purged.bridge.links[0]["name"] = "new"
    purged.bridge.write()
    assert (await purged.bridge.isthmus("run", "--once")).code == 0
    assert await purged.keys() == {NATIVE, *API, *DB}
    ran = await purged.bridge.isthmus("explain", "pay-api/i1", "-o", "json")
    assert any(row["what"] == "kept" and "orphan" in row["why"] for row in ran.json)


async def test_one_link_or_another_owner_is_purged_alone(purged: Purged, folder: Path) -> None:
    assert (await purged.bridge.isthmus("purge", "cluster", "--link", "none", "-o", "json")).json["removes"] == []
    ran = await purged.bridge.isthmus("purge", "cluster", "--link", "inventory-to-cluster", "-o", "json")
    assert len(ran.json["removes"]) == 3
    other = Bridge(folder, purged.bridge.registries, [], name="other", id="b2")
    assert (await other.isthmus("purge", "cluster", "-o", "json")).json["removes"] == []
    ran = await other.isthmus("purge", "cluster", "--owner", "b1", "--including-last", "--yes")
    assert ran.code == 0, ran.err
    assert await purged.keys() == {NATIVE}
    await other.__aexit__(None)


async def test_what_a_native_wrote_over_is_not_ours_to_purge(purged: Purged) -> None:
    await purged.natives.register("pay-api", "i1", "192.0.2.77")
    assert (await purged.bridge.isthmus("purge", "cluster", "--yes")).code == 3
    assert await purged.keys() == {NATIVE, "pay-api/i1", *DB}
    assert "192.0.2.77" in (await purged.natives.records())[key("pay-api", "i1")]


async def test_wrong_usage_is_told(purged: Purged) -> None:
    assert (await purged.bridge.isthmus("purge", "nowhere")).code == 2
    assert (await purged.bridge.isthmus("purge", "cluster", "--link", "l", "--orphans")).code == 2
