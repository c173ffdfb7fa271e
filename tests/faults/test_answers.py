"""Faults of what a source says: nothing, half, somebody else's, nonsense (11 to 15), and its histories (16 to 21)."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from adapters.etcd import etcd_pb2 as pb
from tests.adapters.etcd.lab import admin
from tests.conftest import StartEtcd
from tests.faults.frames import FrameProxy
from tests.faults.world import INSTANCES, SERVICES, World, world
from tests.kit.natives import Etcd as Natives
from tests.kit.natives import Folder, key, record
from tests.kit.running import HASTY, Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

ALL = SERVICES * INSTANCES


async def held(made: World) -> int:
    return sum(hold["instances"] for hold in await made.bridge.holds())


async def holds(made: World, count: int) -> None:
    """Waits until so many removals are held, and see that they stay so, past every second opinion."""

    async def so() -> bool:
        return await held(made) == count

    await until(so, f"{count} removals are held")


async def test_fault_11_a_source_that_is_suddenly_empty_is_held_until_approved(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        await made.source.delete(*made.source.truth.now)
        await until(lambda: made.bridge.holds(), "the guard holds")
        # The first few of a scope may go one by one before the whole is seen; beyond, all is held.
        await until(made.heard, "it has heard that nothing is there")
        await until(lambda: _rules(made, "emptied"), "only the operator lets it go")
        status = await made.bridge.ask("status")
        assert any(row["code"] == "changes-held" for row in status["attention"])
        kept = len(await made.target.records()) - len(made.foreign)
        assert kept >= ALL // 2
        await made.put("pay-new", "i1")
        await until(lambda: _has(made, key("pay-new", "i1")), "adds flow")
        await made.bridge.approve()
        await made.in_step()


async def _rules(made: World, rule: str) -> bool:
    found = await made.bridge.holds()
    return bool(found) and all(hold["rule"].startswith(rule) and hold["due_in"] is None for hold in found)


async def _has(made: World, where: str) -> bool:
    return where in await made.target.records()


async def test_fault_11_a_folder_that_is_mounted_empty_is_not_believed(folder: Path, etcd: Etcd) -> None:
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    registries = {
        "old": {"kind": "file", "path": str(inventory.path)},
        "new": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
    }
    limits = {"confirm_event": "1s", "confirm_absence": "1s"}
    link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}, "guard": limits}
    async with Natives(etcd.address) as target, Bridge(folder, registries, [link]) as bridge:

        async def copied() -> bool:
            return len(await target.records()) == 2

        await until(copied, "both are copied")
        inventory.path.rename(folder / "unmounted")

        async def stale() -> bool:
            return bool((await bridge.scopes())["old"]["state"] == "stale")

        await until(stale, "a vanished folder is unavailable, not empty")
        inventory.path.mkdir()
        (hold,) = await until(bridge.holds, "the empty folder is another one: held")
        assert hold["due_in"] is None
        assert (await bridge.scopes())["old"]["doubt"]
        assert await copied()
        inventory.path.rmdir()
        (folder / "unmounted").rename(inventory.path)
        await until(lambda: _nothing_held(bridge), "all is back, nothing is held")
        assert await copied()


async def _nothing_held(bridge: Bridge) -> bool:
    return not await bridge.holds()


async def test_fault_12_half_of_the_list_is_held_and_single_removals_flow(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        await made.up.refuse()
        await until(lambda: made.reads("stale"), "the daemon says so", within=5.0)
        gone = [where for where in made.source.truth.now if int(where.split("/")[2][4:]) < 4]
        await made.source.delete(*gone)
        await made.up.heal()
        await holds(made, len(gone))
        assert await _rules(made, "hard_share")
        await made.source.delete(key("pay-5", "i0"))

        async def flowed() -> bool:
            return key("pay-5", "i0") not in await made.target.records()

        # It is the loss of one more, on top of a loss that is not believed: it waits as well, and all is approved.
        assert len(await made.target.records()) - len(made.foreign) >= ALL - 1
        for where in gone:
            await made.put(*where.split("/")[2:])
        await until(flowed, "the single removal flows")
        await made.in_step()


@pytest.mark.parametrize("restart", [False, True])
async def test_fault_13_another_cluster_at_the_same_address_is_not_believed(
    folder: Path, etcd: Etcd, etcd34: Etcd, etcd_server: StartEtcd, restart: bool
) -> None:
    stranger = await etcd_server(name="stranger")
    async with world(folder, etcd, etcd34) as made:
        if restart:
            await made.bridge.stop()
        await made.up.lead(stranger.address)
        if restart:
            await made.bridge.start()

        async def doubted() -> bool:
            return bool((await made.bridge.scopes()).get("old", {}).get("doubt"))

        await until(doubted, "the daemon says so")
        await holds(made, ALL)
        assert await made.removals() == []
        await made.up.lead(etcd.address)
        await made.change()
        await made.in_step()
        await holds(made, 0)


BROKEN = {
    "null": b"null",
    "no-endpoints": b'{"id":"x","name":"pay-0","version":"","metadata":null,"endpoints":null}',
    "wrong-types": b'{"id":1,"name":["pay-0"],"endpoints":"grpc://192.0.2.1:1"}',
    "truncated": b'{"id":"x","name":"pay-0","end',
    "invalid-utf8": b'\xff\xfe{"id":"x","name":"pay-0","endpoints":["grpc://192.0.2.1:1"]}',
    "deep": b"[" * 100_000,
    "huge": b'{"id":"x","name":"pay-0","metadata":{"a":"' + b"x" * 1_200_000 + b"\xff",
}


async def test_fault_14_and_15_records_that_make_no_sense_stop_nobody(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        before = _memory(made.bridge.process.pid)
        for name, value in BROKEN.items():
            where = key("pay-0", name)
            await made.source.call("put", pb.PutRequest(key=where.encode(), value=value))
        # One that was known turns unreadable: what was known of it stays.
        known = key("pay-0", "i0")
        await made.source.call("put", pb.PutRequest(key=known.encode(), value=b"{"))
        await made.put("pay-0", "i1")
        await made.in_step()
        ran = await made.bridge.isthmus("check", "-o", "json")
        assert {row["registry"]: row["ignored"] for row in ran.json["registries"]}["old"] == len(BROKEN) + 1
        assert await made.removals() == []
        assert _memory(made.bridge.process.pid) - before < 100 << 20
        await made.put("pay-0", "i0")
        await made.in_step()


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


async def test_fault_16_a_compaction_past_our_revision_costs_no_blip(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        await made.up.refuse()
        await made.change(20)
        revision = await made.source.revision()
        await admin(etcd, "kv/compaction", revision=str(revision), physical=True)
        await made.up.heal()
        await made.in_step()
        assert len(await made.removals()) == 1  # the one that went


async def test_fault_17_a_full_target_is_told_and_tried_in_peace(
    folder: Path, etcd: Etcd, etcd_server: StartEtcd
) -> None:
    new = await etcd_server(flags=["--quota-backend-bytes=4194304"])
    async with world(folder, etcd, new) as made:
        fillers = await fill(made.target)
        await made.change()

        async def full() -> bool:
            return "full" in (await made.bridge.link())["reason"]

        await until(full, "the daemon says so")
        errors = made.bridge.log.count("NOSPACE")
        await made.put("pay-0", "i0")

        async def tries_and_says_so() -> bool:
            assert await full()  # at every look: that it can be read is no reason to call it well
            return made.bridge.log.count("NOSPACE") >= errors + 6

        await until(tries_and_says_so, "it goes on trying")
        assert await made.reads("synced")
        for filler in fillers:
            await made.target.call("delete", pb.DeleteRangeRequest(key=filler))
        revision = await made.target.revision()
        await admin(new, "kv/compaction", revision=str(revision), physical=True)
        await admin(new, "maintenance/defragment")
        (alarm,) = (await admin(new, "maintenance/alarm", action="GET"))["alarms"]
        await admin(new, "maintenance/alarm", action="DEACTIVATE", **alarm)
        await made.in_step()


async def fill(store: Natives) -> list[bytes]:
    """Writes until there is no more room; returns the keys."""
    keys: list[bytes] = []
    while True:
        try:
            await store.call("put", pb.PutRequest(key=f"filler{len(keys)}".encode(), value=b"x" * 500_000))
        except grpc.aio.AioRpcError as error:
            if "space exceeded" not in str(error.details()):
                raise
            return keys
        keys.append(f"filler{len(keys)}".encode())


async def test_fault_18_an_event_that_the_watch_lost_is_found_by_the_audit(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with FrameProxy(etcd.address) as liar, world(folder, etcd, etcd34, start=False) as made:
        await made.found()
        made.bridge.program = HASTY
        made.bridge.registries["old"]["endpoints"] = [f"http://{liar.address}"]
        made.bridge.write()
        await made.bridge.start()
        await made.in_step()
        liar.swallow = b"lost-on-the-way"
        await made.put("pay-0", "i0", note="lost-on-the-way")
        await until(lambda: liar.swallowed, "the event is lost")
        await made.put("pay-1", "i0")
        await until(lambda: _same(made, key("pay-1", "i0")), "later ones arrive")
        await made.in_step()


async def _same(made: World, where: str) -> bool:
    return (await made.target.records()).get(where) == made.source.truth.now[where]


@pytest.mark.parametrize("version", ["3.6", "3.4"])
async def test_fault_19_a_restarted_source_goes_on_without_a_list_or_a_blip(
    folder: Path, etcd_server: StartEtcd, etcd: Etcd, version: str
) -> None:
    old = await etcd_server(version=version)
    async with world(folder, old, etcd) as made:
        assert await old.asked("Range") == 2  # the ledger, and the entries
        for times in range(1, 3):
            await old.kill()
            await until(lambda: made.reads("stale"), "the daemon says so")
            assert (await made.bridge.scopes())["old"]["instances"] == len(made.source.truth.now)
            await old.start()
            await made.change(5)
            await made.in_step()
            assert await made.reads("synced")
            assert len(await made.removals()) == times  # the one that went
            assert await old.asked("Range") == 0, "it was listed again"


async def test_fault_20_a_source_restored_from_an_older_backup_is_not_believed(
    folder: Path, etcd_server: StartEtcd, etcd34: Etcd
) -> None:
    old = await etcd_server()
    async with world(folder, old, etcd34) as made:
        truth = dict(made.source.truth.now)
        await old.stop()
        old.forget()
        await old.start()
        # Half of the fleet was in the backup.
        half = list(truth)[: ALL // 2]
        for where in half:
            await made.source.call("put", pb.PutRequest(key=where.encode(), value=truth[where].encode()))

        async def doubted() -> bool:
            return "went back" in ((await made.bridge.scopes())["old"]["doubt"])

        await until(doubted, "the daemon says so")
        await holds(made, ALL - len(half))
        assert await made.removals() == []
        made.lease = 0  # it is gone with the rest
        await made.put("pay-0", "i0")
        await until(lambda: _same(made, key("pay-0", "i0")), "what is there flows")
        for where in list(truth)[ALL // 2 :]:
            await made.source.call("put", pb.PutRequest(key=where.encode(), value=truth[where].encode()))
        await holds(made, 0)
        await made.in_step()

        async def believed() -> bool:
            return not (await made.bridge.scopes())["old"]["doubt"]

        await until(believed, "nothing is missing any more, so it is believed")


async def test_fault_21_a_lease_of_many_that_ends_is_a_real_loss(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34, start=False) as made:
        await made.found(services=60, instances=25)
        mortal = await made.source.lease(600)
        gone = []
        for number in range(500):
            where = key(f"pay-{number % 60}", f"mortal{number}")
            value = record(f"pay-{number % 60}", f"mortal{number}", "192.0.2.1", 30_000 + number)
            await made.source.put(where, value, mortal)
            gone.append(where)
        await made.bridge.start()
        await made.in_step()
        await made.source.revoke(mortal, *gone)
        await until(lambda: made.bridge.holds(), "a loss of that size is held at first")
        await made.in_step()  # and believed once it was confirmed
        assert sorted(await made.removals()) == sorted(gone)
