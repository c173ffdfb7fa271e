"""Faults of the daemon, its disk and its clock (7 to 10, 40), of other writers (38, 44), and of configuration (46)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import provided
from tests.faults.clock import environment
from tests.faults.world import World, world
from tests.kit.natives import key
from tests.kit.running import Bridge
from tests.kit.waiting import steady, until
from tests.servers.etcd import Etcd

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system of its own: needs root")


async def test_fault_07_a_daemon_killed_amid_its_writes_leaves_no_half_of_them(
    folder: Path, etcd: Etcd, etcd34: Etcd, seed: int
) -> None:
    """Once; `tests/kill` does it over and over."""
    rng = random.Random(seed)
    async with world(folder, etcd, etcd34) as made:
        changing = asyncio.create_task(made.change(60))
        await asyncio.sleep(rng.random() * 0.05)
        await made.bridge.kill()
        assert await made.target.halves() == []
        await changing
        await made.target.expire_lock()
        await made.bridge.start()
        await made.in_step()


def torn(state: Path, rng: random.Random, halved: bool) -> None:
    """What a power cut leaves: every file of the folder cut short or garbled, and drafts that were never renamed."""
    for path in sorted(state.rglob("*")):
        if path.is_file() and path.name not in ("bridge.json", "lock"):
            content = path.read_bytes()
            if halved:
                path.write_bytes(content[: len(content) // 2])
            elif rng.random() < 0.5:
                path.write_bytes(content[: rng.randrange(len(content) + 1)])
            else:
                at = rng.randrange(len(content) + 1)
                path.write_bytes(content[:at] + rng.randbytes(20) + content[at:])
            path.with_name(f".{path.name}.new").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("dark", [False, True])
async def test_fault_08_torn_state_files_cost_no_entry(
    folder: Path, etcd: Etcd, etcd34: Etcd, seed: int, dark: bool
) -> None:
    rng = random.Random(seed)
    async with world(folder, etcd, etcd34) as made:
        for halved in (True, False, False):
            await made.change(5)
            await made.bridge.kill()
            torn(made.bridge.state, rng, halved)
            await made.target.expire_lock()
            if dark:  # not even the source can say what there was
                await made.up.refuse()
            await made.bridge.start()
            if dark:
                await until(made.bridge.writes, "it has the lock")
                await steady(lambda: made.target.records(), 1.0)
                await made.up.heal()
            await made.in_step()
        ran = await made.bridge.isthmus("log", "-o", "json")
        assert ran.code == 0


async def test_fault_08_what_the_disk_had_not_heard_of_stays_while_the_source_is_dark(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        await until(lambda: list(made.bridge.state.glob("known/*")), "what was copied first is on the disk")
        for number in range(3):
            await made.put("pay-9", f"late{number}")
            await until(lambda n=number: _same(made, "pay-9", f"late{n}"), "it is copied")
            await made.bridge.kill()  # what is known is written once a second
            await made.target.expire_lock()
            await made.up.refuse()
            await made.bridge.start()
            await until(made.bridge.writes, "it has the lock")
            await steady(made.target.versions, 1.0)
            await made.up.heal()
            await made.in_step()


async def test_fault_09_a_daemon_that_was_stopped_looks_before_it_writes(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        made.bridge.freeze()
        await made.change(20)
        held = await made.target.lock()
        await until(lambda: _is_gone(made, held), "its lease ends by itself")
        # Meanwhile a native takes the place of a copy that the sleeper was about to change.
        taken = await made.target.register("pay-2", "i0", "192.0.2.99")
        made.foreign[taken] = next(
            (kv.value, kv.mod_revision) for kv in await made.target.below() if kv.key.decode() == taken
        )
        made.bridge.thaw()

        async def rest() -> bool:
            return await made.target.records() == {
                **made.source.truth.now,
                **{where: value.decode() for where, (value, _) in made.foreign.items()},
            }

        await until(rest, "it catches up, and leaves the native alone")


async def _is_gone(made: World, lock: object) -> bool:
    return bool(await made.target.lock() != lock)


async def test_fault_10_a_clock_that_jumps_expires_nothing(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    offset = folder / "clock"
    offset.write_text("+0")
    with provided():
        faked = environment(offset)
    async with world(folder, etcd, etcd34, start=False) as made:
        await made.found()
        await made.bridge.start(environment=faked)
        await made.in_step()
        for jump in ("+3600", "-3600", "+86400", "+0"):
            offset.write_text(jump)
            await made.change(5)
            await made.in_step()
        ran = await made.bridge.isthmus("log", "--since", "30d", "-o", "json")
        times = [line["at"] for line in ran.json]
        assert max(times) - min(times) > 86_000  # the clock did jump
        await made.bridge.stop()


async def test_fault_38_natives_edit_delete_and_stand_in_the_way(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        deleted = key("pay-1", "i1")
        await made.target.delete(deleted)
        made.history[:] = [
            event for event in await made.history.caught_up() if event.key != deleted
        ]  # that removal was a native's
        await until(made.equal, "what a native deleted is put back")
        made.history[:] = [event for event in await made.history.caught_up() if event.key != deleted]
        # A native registers over our entry: it is its own from then on, however often it writes.
        lease = await made.target.lease(600)
        taken = key("pay-1", "i2")
        for number in range(3):
            await made.target.register("pay-1", "i2", f"192.0.2.{200 + number}", lease)
        kv = next(kv for kv in await made.target.below() if kv.key.decode() == taken)
        made.foreign[taken] = (kv.value, kv.mod_revision)
        await made.put("pay-1", "i2")
        await made.put("pay-1", "i3")
        await until(lambda: _same(made, "pay-1", "i3"), "its siblings flow")
        row = await made.bridge.link()
        assert row["shadowed"] == 1
        await made.judge()
        # It goes, as stock clients do: its lease is revoked. Our copy comes back.
        await made.target.revoke(lease)
        del made.foreign[taken]
        made.history[:] = [event for event in await made.history.caught_up() if event.key != taken]
        await made.in_step()


async def test_fault_38_a_write_under_way_spares_the_native_who_came_before_it(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        made.down.drop("down")  # the daemon is heard, and hears nothing
        taken = await made.target.register("pay-3", "i1", "192.0.2.99")
        kept = await made.target.register("pay-2", "i2", "192.0.2.98")
        before = {kv.key.decode(): (kv.value, kv.mod_revision) for kv in await made.target.below()}
        said = made.down.pipes["up"].bytes
        await made.put("pay-3", "i1")
        await until(lambda: made.down.pipes["up"].bytes > said + 300, "a transaction is on its way")
        said = made.down.pipes["up"].bytes
        await made.source.delete(key("pay-2", "i2"))
        await until(lambda: made.down.pipes["up"].bytes > said + 150, "and the other one")
        await steady(made.target.versions, 0.5)
        await made.down.heal()
        await made.down.cut()
        made.foreign |= {where: before[where] for where in (taken, kept)}

        async def rest() -> bool:
            return bool((await made.bridge.link())["shadowed"] == 1) and await made.target.halves() == []

        await until(rest, "it has seen who is there, and taken back what its ledger said of them")


async def _same(made: World, service: str, id: str) -> bool:
    return (await made.target.records()).get(key(service, id)) == made.source.truth.now[key(service, id)]


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """One megabyte."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "isthmus-test", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@ROOT_ONLY
@pytest.mark.parametrize("how", ["full", "read-only"])
async def test_fault_40_a_disk_that_refuses_stops_no_change(folder: Path, etcd: Etcd, etcd34: Etcd, how: str) -> None:
    with small_disk(folder / "bridge.state"):
        async with world(folder, etcd, etcd34) as made:
            filler = made.bridge.state / "filler"
            if how == "full":
                fill(filler)
            else:
                read_only(made.bridge.state)
            await made.change(10)
            await made.in_step()

            async def told() -> object:
                return (await made.bridge.ask("status"))["state_fault"]

            await until(told, "it says that it cannot keep anything")
            await made.change(10)
            await made.in_step()
            if how == "full":
                filler.unlink()
            else:
                subprocess.run(["umount", str(made.bridge.state)], check=True)

            async def well() -> bool:
                return await told() is None

            await made.change(10)
            await until(well, "it keeps things again")
            await made.in_step()
            ran = await made.bridge.isthmus("log", "-o", "json")
            assert len([line for line in ran.json if line["kind"] == "update"]) >= 10
            await made.bridge.stop()


def fill(path: Path) -> None:
    """Takes all the room that there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def read_only(path: Path) -> None:
    """Whoever opens a file there from now on may only read it."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)


async def test_fault_44_of_two_daemons_one_writes_and_the_other_takes_over(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        second = Bridge(folder, made.bridge.registries, made.bridge.links, name="second")
        async with second:
            assert (await second.link())["role"] == "standby"
            before = len(await made.history.caught_up())
            await made.change(10)
            await made.in_step()
            # Quiet afterwards: nobody undoes what the other did.
            await steady(made.target.versions, 1.0)
            assert len(await made.history.caught_up()) - before <= 12
            await made.bridge.stop()  # gives its lock back
            await until(second.writes, "the second one takes over at once", within=5.0)
            await made.change(10)
            await made.in_step()


async def test_fault_44_two_bridges_that_send_one_name_do_not_fight(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        other = Bridge(folder, made.bridge.registries, made.bridge.links, name="other", id="b2")
        async with other:

            async def shadowed() -> bool:
                return bool((await other.link())["shadowed"] == len(made.source.truth.now))

            await until(shadowed, "what the first one wrote is the first one's")
            await steady(made.target.versions, 1.0)
            await made.change(10)
            await made.in_step()
            await steady(made.target.versions, 1.0)


async def test_fault_46_a_source_that_leaves_the_file_removes_nothing(folder: Path, etcd: Etcd, etcd34: Etcd) -> None:
    async with world(folder, etcd, etcd34) as made:
        link = made.bridge.links.pop()
        del made.bridge.registries["old"]
        await made.bridge.hup()
        await steady(made.target.records, 1.0)
        assert await made.equal()
        ran = await made.bridge.isthmus("purge", "new", "--orphans", "--including-last", "-o", "json")
        assert len(ran.json["removes"]) == len(made.source.truth.now)
        made.bridge.registries["old"] = {"kind": "etcd", "endpoints": [f"http://{made.up.address}"], "layout": "kratos"}
        made.bridge.links.append(link)
        await made.bridge.hup()
        # What comes before all that was listed is planned came with the file: added to served names, it is held.
        await until(made.heard, "the source is heard again")
        await until(lambda: _judged(made), "what came with the file is planned")
        await until(made.bridge.rests)
        await made.change()
        await made.in_step()


async def _judged(made: World) -> bool:
    return not (await made.bridge.link())["fresh"]


async def test_fault_46_a_rename_of_every_service_adds_before_it_removes(
    folder: Path, etcd: Etcd, etcd34: Etcd
) -> None:
    async with world(folder, etcd, etcd34) as made:
        before = set(made.source.truth.now)
        made.bridge.links[0]["rename"] = "v2-{name}"
        await made.bridge.hup()

        async def renamed() -> bool:
            return sum(where.startswith(key("v2-", "")[:-1]) for where in await made.target.records()) == len(before)

        await until(renamed, "everything stands under its new name")
        assert await made.removals() == []

        async def held() -> bool:
            return [(one["cause"], one["instances"]) for one in await made.bridge.holds()] == [("config", len(before))]

        await until(held, "the old names are held, as one set")
        await made.bridge.approve()

        async def gone() -> bool:
            return not before & (await made.target.records()).keys()

        await until(gone, "approved, and gone")
        (await made.history.caught_up()).clear()  # those removals were the operator's word
