"""From the last version with notes and state folders of format 1 to this one, with decisions and a standby in force."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from adapters.common.seat import LEFT
from bridge.errors import IsthmusError
from tests.kit.running import ROOT, THIS, Bridge, Program
from tests.kit.waiting import until
from tests.standby.conftest import Site

OLD = "c308476"  # the last revision that writes format 1
FROZEN, FLOWS = "frozen", "flows"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program of that revision; skips where the history does not reach back so far."""
    folder = tmp_path_factory.mktemp("old")
    archive = folder / "old.tar"
    git = ["git", "-C", str(ROOT), "archive", f"--output={archive}", OLD, "adapters", "bridge", "mappings"]
    made = subprocess.run(git, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"the history of this checkout does not have {OLD}: {made.stderr.strip()}")
    shutil.unpack_archive(archive, folder, filter="data")
    return Program(folder, "bridge.cli")


@pytest.fixture
def upgrade(site: Site, old: Program) -> Site:
    """Two links into one target, and two daemons of the old program."""
    link = {"from": "inventory", "to": "core", "policy": "sync"}
    site.target.block.pop("payload", None)
    for daemon in (site.one, site.two):
        daemon.program = old
        daemon.registries["core"].pop("payload", None)
        daemon.links = [
            {"name": FROZEN, **link, "services": {"include": ["ops-*"]}},
            {"name": FLOWS, **link, "services": {"include": ["pay-*"]}},
        ]
        daemon.write()
    site.inventory.set("ops-api", o1="192.0.2.31", o2="192.0.2.32")
    return site


async def test_an_upgrade_keeps_every_decision_and_rewrites_nothing(upgrade: Site) -> None:
    site, one, two = upgrade, upgrade.one, upgrade.two
    async with one:
        await until(lambda: all_written(one), "the old one writes")
        await until(site.copied, "everything is copied")
        async with two:
            await until(lambda: stands_by(two, one), "the other old one stands by")
            assert (await one.isthmus("freeze", FROZEN, "--reason", "the switch is replaced")).code == 0
            await until(lambda: is_frozen(one), "it is frozen")
            site.inventory.set("pay-db")
            (hold,) = await until(one.holds, "the last instance is held")
            before = await site.target.entries()
            await two.stop()
            two.program = THIS
            await two.start()
            await until(lambda: stands_by(two, one), "the new one stands by")
            assert await frozen(two) == {FROZEN: True, FLOWS: False}
            refused = await two.isthmus("freeze", FLOWS, "--reason", "told to the standby")
            assert refused.code == 1
            assert "runs an older isthmus" in refused.out + refused.err
            await two.isthmus("unfreeze", FLOWS)
            site.inventory.set("ops-api", o1="192.0.2.31")
            await until(lambda: holds(two, hold["id"]), "the new one knows what is held")
            await one.stop()
            await until(lambda: all_written(two), "the new one writes")
            assert await frozen(two) == {FROZEN: True, FLOWS: False}
            assert await holds(two, hold["id"])
            assert await site.target.entries() == before
            one.program = THIS
            await one.start()
            await until(lambda: stands_by(one, two), "both are new")
            assert await frozen(one) == {FROZEN: True, FLOWS: False}
            assert (await two.isthmus("approve", hold["id"], "--reason", "shown by the old one")).code == 0
            await until(lambda: gone(site, "pay-db/d1"), "what the old one showed goes")
            after = await site.target.entries()
            assert after == {place: entry for place, entry in before.items() if place != "pay-db/d1"}
            assert (await two.isthmus("unfreeze", FROZEN)).code == 0
            await until(lambda: gone(site, "ops-api/o2"), "what the freeze kept goes")


async def test_an_old_daemon_that_comes_back_after_the_upgrade_freezes(upgrade: Site, old: Program) -> None:
    site, one, two = upgrade, upgrade.one, upgrade.two
    async with one:
        await until(lambda: all_written(one), "the old one writes")
        await until(site.copied, "everything is copied")
        two.program = THIS
        async with two:
            await until(lambda: stands_by(two, one), "the new one stands by")
            await one.stop()
            await until(lambda: all_written(two), "the new one writes")
            await until(lambda: is_left(site), "and leaves an empty note where the old one looks")
            await one.start()
            before = await site.target.entries()
            await two.stop()
            await until(lambda: all_written(one), "the old one has the lock")
            site.inventory.set("pay-api", i1="192.0.2.1")
            await until(lambda: waits(one), "it knows what it would do")
            assert await frozen(one) == {FROZEN: True, FLOWS: True}
            assert await site.target.entries() == before


async def test_an_old_program_refuses_the_folder_of_the_new_one(upgrade: Site, old: Program) -> None:
    one = upgrade.one
    async with one:
        await until(lambda: all_written(one), "the old one writes")
        assert (await one.isthmus("freeze", FROZEN, "--reason", "why")).code == 0
        await one.stop()
        one.program = THIS
        await one.start()
        assert await frozen(one) == {FROZEN: True, FLOWS: False}
        assert json.loads((one.state / "format-1" / "freezes.json").read_text())[FROZEN]["reason"] == "why"
        await one.stop()
        one.program = old
        await one.start(ready=False)
        await until(lambda: not one.process.running, "the old one ends")
        assert one.process.code == 2
        assert "format 2" in one.log


async def all_written(daemon: Bridge) -> bool:
    try:
        return all(row["role"] == "writer" for row in (await daemon.ask("status"))["links"])
    except IsthmusError:
        return False


async def stands_by(standby: Bridge, writer: Bridge) -> bool:
    rows = (await standby.ask("status"))["links"]
    return all(
        row["role"] == "standby" and row["writer"] and row["writer"]["pid"] == writer.process.pid for row in rows
    )


async def frozen(daemon: Bridge) -> dict[str, bool]:
    return {row["link"]: bool(row["frozen"]) for row in (await daemon.ask("status"))["links"]}


async def is_frozen(daemon: Bridge) -> bool:
    return (await frozen(daemon))[FROZEN]


async def holds(daemon: Bridge, hold: str) -> bool:
    """Whether exactly that set is held of what flows."""
    return [one["id"] for one in await daemon.holds() if one["link"] == FLOWS] == [hold]


async def waits(daemon: Bridge) -> bool:
    return bool((await daemon.link(FLOWS))["waiting"])


async def gone(site: Site, place: str) -> bool:
    return place not in await site.target.entries()


async def is_left(site: Site) -> bool:
    return await site.target.old_note() == LEFT
