"""Faults of the network between the daemon and its registries (1 to 6)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bridge.retry import LONGEST_DELAY
from tests.conftest import StartEtcd
from tests.faults.world import FOUND_TIME, world
from tests.kit.waiting import until
from tests.servers.etcd import Etcd


async def test_fault_01_an_unreachable_source_keeps_what_was_known(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        made.up.drop()
        await made.change()
        await until(lambda: made.reads("stale"), "the daemon says so", within=FOUND_TIME)
        (link,) = (await made.bridge.ask("status"))["links"]
        assert link["reason"] == ""
        assert await made.removals() == []
        await made.up.heal()
        await made.up.cut()  # what was dropped is lost: the streams are of no use any more
        await made.in_step()


async def test_fault_02_a_source_that_refuses_is_asked_about_once_a_second(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        await made.up.refuse()
        # A listener that takes and closes: each attempt is seen.
        tries = 0

        async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal tries
            tries += 1
            writer.close()

        host, _, port = made.up.address.partition(":")
        async with await asyncio.start_server(slam, host, int(port)):
            await until(lambda: made.reads("stale"), "the daemon says so")
            await until(lambda: tries >= 5, "it has tried, quickly at first")
            began, tries = time.monotonic(), 0
            await made.change()
            await until(lambda: tries >= 10, "it goes on trying")
            # Never more often than its shortest steady delay allows: a busy machine only makes it less.
            assert time.monotonic() - began > 9 * LONGEST_DELAY / 2 - LONGEST_DELAY
            assert await made.removals() == []
        await made.up.heal()
        await made.in_step()


async def test_fault_03_a_one_way_partition_is_found(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        made.up.drop("down")
        await made.change()
        await until(lambda: made.reads("stale"), "the dead watch is found", within=FOUND_TIME)
        assert await made.removals() == []
        await made.up.heal()
        await made.up.cut()
        await made.in_step()


async def test_fault_04_a_frozen_source_is_found(folder: Path, etcd_server: StartEtcd, etcd34: Etcd) -> None:
    old = await etcd_server()
    async with world(folder, old, etcd34) as made:
        old.freeze()
        await until(lambda: made.reads("stale"), "the dead watch is found", within=FOUND_TIME)
        assert await made.removals() == []
        old.thaw()
        await made.change()
        await made.in_step()


async def test_fault_04_a_frozen_target_is_found_and_what_waited_is_written(
    folder: Path, etcd: Etcd, etcd_server: StartEtcd
) -> None:
    new = await etcd_server()
    async with world(folder, etcd, new) as made:
        new.freeze()
        await made.change()

        async def troubled() -> str:
            return str((await made.bridge.link())["reason"])

        assert await until(troubled, "the daemon says so", within=2 * FOUND_TIME)
        await until(lambda: made.reads("synced"), "the source is heard all the same")
        new.thaw()
        await made.change()
        await made.in_step()


async def test_fault_05_source_and_target_partitioned_at_once_converge(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        await made.change(5)
        made.up.drop()
        made.down.drop()
        await made.change(30)
        await until(lambda: made.reads("stale"), "the daemon says so", within=FOUND_TIME)
        await made.change(30)
        for proxy in (made.up, made.down):
            await proxy.heal()
            await proxy.cut()
        await made.in_step()


async def test_fault_06_a_flapping_link_is_not_listed_over_and_over(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        before = made.bridge.log.count('"synced"')
        began = time.monotonic()
        for number in range(18):
            await made.up.refuse()
            await asyncio.sleep(0.3)
            await made.up.heal()
            await asyncio.sleep(0.7)  # long enough for a list, if anybody were so impolite
            if number % 6 == 0:
                await made.change(3)
        took = time.monotonic() - began
        assert made.bridge.log.count('"synced"') - before <= 3 + took / 10
        await made.in_step()
