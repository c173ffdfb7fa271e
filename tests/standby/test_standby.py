"""One daemon writes, the other is ready: it takes over in time, removes nothing, and knows what the first one knew."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers import ports
from tests.standby.conftest import Site, Target, knows

LINK = "inventory-to-core"
HOST = socket.gethostname()


async def test_a_standby_takes_over_from_a_dead_writer_in_time_and_removes_nothing(site: Site) -> None:
    async with site.both(), site.nothing_goes():
        before = await site.target.entries()
        await site.one.kill()
        died = time.monotonic()
        await until(site.two.writes, "the second one writes")
        assert time.monotonic() - died <= site.target.ttl + 1.0
        site.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
        await until(site.copied, "it copies")
        after = await site.target.entries()
        assert {place: after[place] for place in before} == before


async def test_a_standby_takes_over_at_once_from_a_writer_that_stops(site: Site) -> None:
    async with site.both(), site.nothing_goes():
        assert await site.one.stop() == 0
        stopped = time.monotonic()
        await until(site.two.writes, "the second one writes")
        assert time.monotonic() - stopped < site.target.ttl / 2
        await site.one.start()
        await until(lambda: knows(site.one, site.two), "the first one stands by now")


@pytest.mark.parametrize("freezes", [2, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_a_frozen_writer_that_wakes_writes_nothing(site: Site, seed: int, freezes: int) -> None:
    """The lock ends by itself here; tests/kill has many more freezes, over an etcd that is told to end it."""
    rng = random.Random(seed)
    async with site.both():
        writer, standby = site.one, site.two
        for number in range(freezes):
            site.inventory.set("pay-api", i1=f"192.0.2.{100 + number}", i2="192.0.2.2", i3="192.0.2.3")
            await asyncio.sleep(rng.random() * 0.05)
            await freeze_and_wake(site, writer, standby)
            writer, standby = standby, writer


async def freeze_and_wake(site: Site, writer: Bridge, standby: Bridge) -> None:
    writer.freeze()
    frozen = time.monotonic()
    await until(standby.writes, "the other one writes")
    assert time.monotonic() - frozen <= site.target.ttl + 1.0
    await until(lambda: said_by(site, standby), "it says so")
    await until(site.copied, "it copies")
    await until(lambda: at_rest(standby), "it has nothing left to do")
    before = await site.target.entries(), await noted(site)
    writer.thaw()
    await until(lambda: knows(writer, standby), "the one that woke knows who writes")
    assert (await site.target.entries(), await noted(site)) == before


async def noted(site: Site) -> dict[str, Any]:
    """The note without who stands by, which each standby says of itself."""
    note: dict[str, Any] = json.loads(await site.target.note())
    del note["standbys"]
    return note


async def stands_by(site: Site) -> bool:
    standbys = json.loads(await site.target.note())["standbys"].values()
    return site.two.process.pid in [one["process"]["pid"] for one in standbys]


async def said_by(site: Site, daemon: Bridge) -> bool:
    return bool(json.loads(await site.target.note())["writer"]["pid"] == daemon.process.pid)


async def at_rest(daemon: Bridge) -> bool:
    row = await daemon.link()
    return bool(row["waiting"] == 0 and row["lag"] == 0)


async def test_the_log_goes_on_with_what_the_first_writer_did(site: Site) -> None:
    async with site.both():
        site.inventory.set("pay-new", n1="192.0.2.31", n2="192.0.2.32")
        await until(site.copied, "the first one copies")
        site.inventory.set("pay-new", n1="192.0.2.33", n2="192.0.2.32")
        await until(lambda: logged(site.two, "update"), "the second one has seen it")
        assert await site.one.stop() == 0
        await until(site.two.writes, "the second one writes")
        site.inventory.set("pay-new", n1="192.0.2.33", n2="192.0.2.32", n3="192.0.2.34")
        await until(lambda: logged(site.two, "add", "n3"), "it goes on")
        rows = (await site.two.isthmus("log", "--service", "pay-new", "-o", "json")).json
        # A standby whose source is behind may have held for a moment what it had not heard of: that is its own.
        rows = [row for row in rows if row["kind"] in ("add", "update", "remove")]
        told = [(row["kind"], row["instance"], row.get("reason", "")) for row in rows]
        theirs = f"by the writer {HOST}"
        assert sorted(told[:2]) == [("add", "n1", theirs), ("add", "n2", theirs)]
        assert told[2:] == [("update", "n1", theirs), ("add", "n3", "")]
        assert rows[2]["before"]["address"] == "192.0.2.31"


async def test_a_standbys_log_has_what_was_approved_by_whom_and_why(site: Site) -> None:
    site.one.links[0]["guard"] = site.two.links[0]["guard"] = {"confirm_event": "1h"}
    for daemon in (site.one, site.two):
        daemon.write()
    async with site.both():
        site.inventory.set("pay-db")
        await until(lambda: holds(site.one), "it is held")
        (row,) = (await site.one.isthmus("holds", "-o", "json")).json
        assert (await site.one.isthmus("approve", row["id"], "--reason", "CHG-7")).code == 0
        await until(site.copied, "it is gone")
        await until(lambda: approved(site.two), "the standby's log has it")
        rows = (await site.two.isthmus("log", "-o", "json")).json
        (line,) = [one for one in rows if one["kind"] == "approve"]
        assert line["link"] == LINK and "CHG-7" in line["reason"] and f"host={HOST}" in line["reason"]
        assert f"uid={os.getuid()}" in line["by"] and f"host={HOST}" in line["by"]
        (gone,) = [one for one in rows if one["kind"] == "remove"]
        assert (gone["cause"], gone["reason"]) == ("event", f"by the writer {HOST}")


async def holds(daemon: Bridge) -> bool:
    return bool((await daemon.link())["held"])


async def approved(daemon: Bridge) -> bool:
    return any(row["kind"] == "approve" for row in (await daemon.isthmus("log", "-o", "json")).json)


async def logged(daemon: Bridge, kind: str, instance: str = "n1") -> bool:
    rows = (await daemon.isthmus("log", "--service", "pay-new", "-o", "json")).json
    return any((row["kind"], row.get("instance")) == (kind, instance) for row in rows)


async def test_a_freeze_on_any_host_stops_the_writer_and_outlives_it(site: Site) -> None:
    async with site.both():
        assert (await site.two.isthmus("freeze", LINK, "--reason", "on the standby's host")).code == 0
        await until(lambda: frozen(site.one), "it has reached the writer")
        before = await site.target.entries()
        site.inventory.set("pay-new", n1="192.0.2.31")
        await until(lambda: waits(site.one), "the writer knows what it would do")
        assert await site.one.stop() == 0
        await until(site.two.writes, "the second one has the lock")
        await until(lambda: waits(site.two), "and knows what it would do")
        assert await site.target.entries() == before
        # Whoever starts without the freeze learns of it before it writes.
        await site.one.start()
        await until(lambda: frozen(site.one), "the first one learns of it again")
        assert (await site.one.isthmus("unfreeze", LINK)).code == 0
        await until(site.copied, "it flows again, though the word was given to the standby")
        assert not await frozen(site.two)


async def frozen(daemon: Bridge) -> bool:
    return bool((await daemon.link())["frozen"])


async def waits(daemon: Bridge) -> bool:
    return bool((await daemon.link())["waiting"])


async def test_what_the_first_writer_held_and_showed_is_approved_at_the_next(site: Site) -> None:
    async with site.both():
        site.inventory.set("pay-db")
        (hold,) = await until(site.one.holds, "the last instance is held")
        await until(lambda: shows(site, hold["id"]), "it is noted that it was shown")
        refused = await site.two.isthmus("approve", hold["id"], "--reason", "at the standby")
        assert refused.code == 1
        assert f"{HOST} (pid {site.one.process.pid}) writes: approve it there" in refused.err
        assert await site.one.stop() == 0
        await until(site.two.writes, "the second one writes")
        assert (await site.two.isthmus("approve", hold["id"], "--reason", "it was shown by the first")).code == 0
        await until(lambda: gone(site, "pay-db/d1"), "it goes")


async def shows(site: Site, hold: str) -> bool:
    return f"shown {hold}" in json.loads(await site.target.note())["decisions"]


async def gone(site: Site, place: str) -> bool:
    return place not in await site.target.entries()


async def test_a_standby_with_another_file_says_so_and_waits_its_turn(site: Site) -> None:
    (port,) = ports.reserve(1)
    site.two.bridge["listen"] = f"127.0.0.1:{port}"
    site.two.links[0]["guard"] = {"confirm_event": "1s"}
    site.two.write()
    async with site.both():
        hashes = [(await daemon.ask("status"))["configuration"] for daemon in (site.one, site.two)]
        assert hashes[0] != hashes[1]
        status = await site.two.isthmus("status")
        assert status.code == 0  # worth knowing, and nothing is wrong with the traffic yet
        assert f"note: file-differs {LINK}" in status.out
        assert f"core: {HOST} writes, pid {site.one.process.pid}" in status.out
        assert f"this file is {hashes[1]}, the writer's on {HOST} is {hashes[0]}" in status.out
        assert f"; links.{LINK} differ" in status.out
        await until(lambda: stands_by(site), "it says that it stands by")
        await until(lambda: members_of(site.one), "the writer knows of it")
        rows = (await site.one.isthmus("members", "-o", "json")).json
        assert [(row["role"], row["pid"], row["file"]) for row in rows] == [
            ("writer", site.one.process.pid, hashes[0]),
            ("standby", site.two.process.pid, hashes[1]),
        ]
        rows = (await site.two.isthmus("members", "-o", "json")).json
        assert [row["role"] for row in rows] == ["standby", "writer"]
        assert f"the standby's on {HOST} is {hashes[1]}" in (await site.one.isthmus("status")).out
        ready = json.loads(await fetch(port, "/readyz"))
        assert (ready["ready"], ready["role"], ready["links"]) == (True, "standby", {LINK: "standby"})
        assert differs(await fetch(port, "/metrics")) == 1.0
        assert (await site.one.link())["role"] == "writer"
        assert await site.one.stop() == 0
        await until(site.two.writes, "it takes over when the writer is gone")
        assert differs(await fetch(port, "/metrics")) == 0.0
        await site.one.start()
        await until(lambda: knows(site.one, site.two), "the first one stands by")
        site.one.links = site.two.links
        site.one.bridge["listen"] = site.two.bridge["listen"]
        assert (await site.one.link())["differs"]
    ports.release([port])


async def members_of(daemon: Bridge) -> bool:
    return bool((await daemon.link())["members"])


async def fetch(port: int, path: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


def differs(metrics: str) -> float:
    (line,) = [line for line in metrics.splitlines() if line.startswith("isthmus_configuration_differs{")]
    return float(line.rpartition(" ")[2])


async def test_nothing_is_written_while_nothing_changes(site: Site) -> None:
    async with site.both():
        await until(lambda: at_rest(site.one), "nothing is left to do")
        await until(lambda: stands_by(site), "the second one has said that it stands by")
        before: Any = await site.target.entries(), await site.target.note()
        looked = time.monotonic()
        while time.monotonic() < looked + 3.0:
            await asyncio.sleep(0.1)
            assert (await site.target.entries(), await site.target.note()) == before


async def test_an_accepted_life_is_accepted_by_whoever_takes_over(folder: Path, etcd_target: Target) -> None:
    """Two daemons on which a source that was swapped for another folder is accepted at the writer alone."""
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
    registries = {"inventory": {"kind": "file", "path": str(inventory.path)}, "core": etcd_target.block}
    guard = {"confirm_event": "1s", "confirm_absence": "1s"}
    link = {"from": "inventory", "to": "core", "policy": "sync", "services": {"include": ["*"]}, "guard": guard}
    one, two = (Bridge(folder, registries, [link], name=name) for name in ("one", "two"))
    site = Site(inventory, etcd_target, one, two)
    async with site.both():
        inventory.path.rename(folder / "gone")
        inventory.path.mkdir()
        inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
        for daemon in (one, two):
            await until(lambda daemon=daemon: doubts(daemon), "another life is doubted")
        await until(one.holds, "what it lacks is held")
        ran = await one.isthmus("accept", "inventory", "--reason", "it was moved", "--yes")
        assert ran.code == 0, ran.err
        await until(site.copied, "what was shown goes")

        async def believes() -> bool:
            return not await doubts(two)

        await until(believes, "the standby believes it, too")
        assert "accepted" in two.log and "it was moved" in two.log
        await one.kill()
        await until(two.writes, "the second one writes")
        inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
        await until(site.copied, "what ends in the life that was accepted goes by the limits of the guard")


async def doubts(daemon: Bridge) -> bool:
    return bool((await daemon.scopes())["inventory"]["doubt"])
