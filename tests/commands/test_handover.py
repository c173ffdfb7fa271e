"""Entries change their owner in place: `adopt` and `release`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands.conftest import Pair
from tests.kit.natives import LEDGER, Etcd, Folder, key, record
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd as Server

LINK = "inventory-to-core"


class Site(NamedTuple):
    """A folder to be copied into an etcd, and two bridge ids that both might do it."""

    inventory: Folder
    core: Etcd
    old: Bridge
    new: Bridge

    async def owners(self) -> set[str]:
        """Who owns what stands in etcd, as the ledger says; and all of it must be proven."""
        assert await self.core.halves() == []
        words = await self.core.records(LEDGER)
        return {word.partition('"owner":"')[2].partition('"')[0] for word in words.values()}


@pytest.fixture
async def site(folder: Path, etcd: Server) -> AsyncIterator[Site]:
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    inventory.set("pay-db", d1="192.0.2.21")
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "core": {"kind": "etcd", "endpoints": [f"http://{etcd.address}"], "layout": "kratos"},
    }
    link = {
        "from": "inventory",
        "to": "core",
        "policy": "sync",
        "services": {"include": ["pay-*"]},
        "guard": {"confirm_event": "1s", "confirm_absence": "1s"},
    }
    bridges = [Bridge(folder, registries, [link], name=name, id=name) for name in ("old", "new")]
    async with Etcd(etcd.address) as core:
        try:
            yield Site(inventory, core, *bridges)
        finally:
            for bridge in bridges:
                await bridge.__aexit__(None)


async def run_once(bridge: Bridge) -> None:
    """Until it is in step."""
    assert (await bridge.isthmus("run", "--once")).code == 0


async def test_what_an_old_owner_wrote_is_taken_over_without_a_removal(site: Site) -> None:
    await run_once(site.old)
    before = await site.core.records()
    async with site.core.history() as history:
        shown = await site.new.isthmus("adopt", LINK, "--owner", "old", "-o", "json")
        assert (shown.code, shown.json["done"], shown.json["left"]) == (0, False, [])
        assert [(row["service"], row["instance"], row["owner"]) for row in shown.json["adopt"]] == [
            ("pay-api", "i1", "old"),
            ("pay-api", "i2", "old"),
            ("pay-db", "d1", "old"),
        ]
        assert await history.caught_up() == []
        assert (await site.new.isthmus("adopt", LINK, "--owner", "old", "--yes")).code == 0
        assert await site.owners() == {"new"}
        await run_once(site.new)
        assert len(await history.caught_up()) == 3
        assert all(event.value for event in history)
    assert await site.core.records() == before
    async with site.new:
        site.inventory.set("pay-api", i1="192.0.2.1")
        await until(lambda: gone(site.core, key("pay-api", "i2")), "it is the new owner's to remove")


async def gone(core: Etcd, where: str) -> bool:
    return where not in await core.records()


async def test_nothing_is_taken_over_while_a_daemon_of_either_owner_writes(site: Site) -> None:
    async with site.old as daemon:
        await until(daemon.writes, "it writes")
        await until(lambda: copied(site), "all is there")
        refused = await site.new.isthmus("adopt", LINK, "--owner", "old", "--yes")
        assert refused.code == 1
        assert "stop it on every host" in refused.err
        refused = await site.old.isthmus("release", LINK, "--yes")
        assert refused.code == 1
        assert "stop it on every host" in refused.err
        assert await site.owners() == {"old"}
        assert await daemon.stop() == 0
    async with site.new as daemon:
        await until(daemon.writes, "it writes")
        assert (await site.new.isthmus("adopt", LINK, "--owner", "old", "--yes")).code == 1
        assert await site.owners() == {"old"}


async def copied(site: Site) -> bool:
    return len(await site.core.records()) == 3


async def test_what_the_link_would_never_have_written_is_left(site: Site) -> None:
    site.old.links[0]["services"] = {"include": ["*"]}
    site.old.write()
    site.inventory.set("shop", s1="192.0.2.31")
    await run_once(site.old)
    shown = await site.new.isthmus("adopt", LINK, "--owner", "old", "--yes", "-o", "json")
    assert [(row["service"], row["left"]) for row in shown.json["left"]] == [
        ("shop", "the link does not send shop there")
    ]
    assert len(shown.json["adopt"]) == 3
    assert await site.owners() == {"old", "new"}


async def test_what_is_released_stays_and_is_taken_over_again_where_it_is_equal(site: Site) -> None:
    await run_once(site.old)
    before = await site.core.records()
    assert (await site.old.isthmus("release", LINK)).code == 0
    assert await site.owners() == {"old"}
    assert (await site.old.isthmus("release", LINK, "--yes")).code == 0
    assert await site.owners() == set()
    assert await site.core.records() == before
    assert "release: 3 entries" in (await site.old.isthmus("log")).out
    site.inventory.set("pay-api", i1="192.0.2.1")
    await run_once(site.old)
    assert await site.core.records() == before  # they are natives now
    await site.core.put(key("pay-db", "d1"), record("pay-db", "d1", "192.0.2.22"))
    shown = await site.new.isthmus("adopt", LINK, "--yes", "-o", "json")
    assert [(row["service"], row["instance"], row["owner"]) for row in shown.json["adopt"]] == [("pay-api", "i1", "")]
    assert [(row["service"], row["instance"]) for row in shown.json["left"]] == [("pay-db", "d1")]
    assert "address" in shown.json["left"][0]["left"]
    assert len(await site.core.records(LEDGER)) == 1


async def test_a_leased_link_is_not_handed_over(site: Site) -> None:
    site.new.links[0] |= {"lifetime": "leased", "ttl": "2h"}
    site.new.write()
    for command in (("adopt", LINK), ("release", LINK)):
        refused = await site.new.isthmus(*command, "--yes")
        assert refused.code == 2
        assert "lasting" in refused.err


async def test_peoples_files_are_never_taken_over(pair: Pair) -> None:
    pair.cluster.set("pay-api", i1="192.0.2.1")
    text = (pair.cluster.path / "pay-api.yaml").read_text()
    refused = await pair.bridge.isthmus("adopt", "inventory-to-cluster", "--yes")
    assert refused.code == 1
    assert "pay-api.yaml is kept by people: remove i1 there" in refused.err
    assert (pair.cluster.path / "pay-api.yaml").read_text() == text
    assert pair.copies() == {}


async def test_in_a_folder_a_release_and_an_adoption_are_inverse(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    before = {path.name: path.read_text() for path in pair.cluster.path.glob("*.isthmus.yaml")}
    assert (await pair.bridge.isthmus("release", "inventory-to-cluster", "--yes")).code == 0
    assert pair.copied()
    assert not any('"isthmus":' in path.read_text() for path in pair.cluster.path.glob("*.isthmus.yaml"))
    assert (await pair.bridge.isthmus("adopt", "inventory-to-cluster", "--yes")).code == 0
    assert {path.name: path.read_text() for path in pair.cluster.path.glob("*.isthmus.yaml")} == before


@pytest.mark.parametrize(("old", "new"), [("a", "b"), ("b", "a")])  # of two files with one id, the first by name counts
async def test_in_a_folder_another_bridges_records_are_adopted_without_a_gap(
    pair: Pair, folder: Path, old: str, new: str
) -> None:
    link = {**pair.bridge.links[0], "services": {"include": ["*"]}}
    theirs = Bridge(folder, pair.bridge.registries, [link], name=old, id=old)
    ours = Bridge(folder, pair.bridge.registries, pair.bridge.links, name=new, id=new)
    reads = {"from": "cluster", "to": "seen", "policy": "sync", "services": {"include": ["*"]}}
    seen = Folder(folder / "seen")
    registries = {**pair.bridge.registries, "seen": {"kind": "file", "path": str(seen.path)}}
    sees = Bridge(folder, registries, [reads], name="sees", id="sees")
    await run_once(theirs)
    async with sees:
        await until(lambda: len(list(seen.path.glob("*.yaml"))) == 3, "it sees all of them")
        async with theirs:
            await until(theirs.writes)
            refused = await ours.isthmus("adopt", "inventory-to-cluster", "--owner", old, "--yes")
            assert (refused.code, "stop it on every host" in refused.err) == (1, True)
            await theirs.stop()
        taken = await ours.isthmus("adopt", "inventory-to-cluster", "--owner", old, "--yes", "-o", "json")
        assert (taken.code, len(taken.json["adopt"]), taken.json["failed"]) == (0, 5, []), taken.err
        assert {path.name for path in pair.cluster.path.glob("*.yaml")} == {
            f"pay-api.{new}.isthmus.yaml",
            f"pay-db.{new}.isthmus.yaml",
            f"shop.{old}.isthmus.yaml",
        }
        pair.inventory.set("pay-new", n1="192.0.2.41")
        await run_once(ours)
        await until(lambda: len(list(seen.path.glob("*.yaml"))) == 4, "it sees what the new owner writes")
        assert "remove" not in {line["kind"] for line in (await sees.isthmus("log", "-o", "json")).json}
        pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
        async with ours:
            await until(lambda: len(pair.copies()["pay-api"]) == 2, "it is the new owner's to remove")
