"""Trouble of the daemon itself is on status, in the log and in the metrics, with the way out, and freeze works."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import StartEtcd
from tests.kit.disks import fill, tiny
from tests.kit.natives import Folder
from tests.kit.running import ROOT, Bridge
from tests.kit.waiting import until
from tests.servers import ports

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
LINK = "inventory-to-cluster"


def made(folder: Path, **more: Any) -> Bridge:
    """pay-api is copied from `inventory` into `cluster`."""
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1")
    (folder / "cluster").mkdir(exist_ok=True)
    registries = {name: {"kind": "file", "path": str(folder / name)} for name in ("inventory", "cluster")}
    link = {"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}
    return Bridge(folder, registries, [link], **more)


@pytest.fixture
async def bridge(folder: Path) -> AsyncIterator[Bridge]:
    (port,) = ports.reserve(1)
    async with made(folder, listen=f"127.0.0.1:{port}") as bridge:
        await until(bridge.writes, "it writes")
        yield bridge
    ports.release([port])


async def codes(bridge: Bridge) -> set[str]:
    return {one["code"] for one in (await bridge.ask("status"))["attention"]}


async def metric(bridge: Bridge, code: str) -> bool:
    url = f"http://{bridge.bridge['listen']}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return f'isthmus_attention{{code="{code}",level="act"}} 1.0' in await answer.text()


@ROOT_ONLY
async def test_a_full_disk_is_told_everywhere_and_freeze_works_all_the_same(folder: Path) -> None:
    (port,) = ports.reserve(1)
    bridge = made(folder, listen=f"127.0.0.1:{port}")
    with tiny(bridge.state):
        async with bridge:
            await until(bridge.writes, "it writes")
            ballast = fill(bridge.state)
            reason = "r" * 5000  # more than the journal's last page has room for
            ran = await bridge.isthmus("freeze", LINK, "--reason", reason)
            assert ran.code == 0, ran.err
            assert "not on the disk: No space left" in ran.err
            await until(lambda: _has(bridge, {"state-unwritable", "journal-unwritable"}), "it is told")
            ran = await bridge.isthmus("status")
            assert ran.code == 3
            assert "state-unwritable" in ran.out and "No space left" in ran.out and "make room" in ran.out
            assert await metric(bridge, "state-unwritable") and await metric(bridge, "journal-unwritable")
            await until(lambda: "state-unwritable" in bridge.log, "it is logged")
            Folder(folder / "inventory").set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
            ballast.unlink()
            await until(lambda: _has(bridge, set()), "it is well again")
            assert "freeze" in (bridge.state / "decisions.json").read_text()
            assert "192.0.2.2" not in "".join(path.read_text() for path in (folder / "cluster").glob("*.yaml"))
    ports.release([port])


async def _has(bridge: Bridge, wanted: set[str]) -> bool:
    found = await codes(bridge)
    return wanted <= found if wanted else found <= {"link-frozen"}


async def test_a_state_folder_that_was_taken_away_is_made_again(bridge: Bridge) -> None:
    assert (await bridge.isthmus("freeze", LINK, "--reason", "why")).code == 0
    shutil.rmtree(bridge.state, ignore_errors=True)  # what is written meanwhile stops it halfway, or vanishes before it
    await until(lambda: (bridge.state / "admin.sock").exists(), "the socket is back")
    await until(lambda: (bridge.state / "accepted.yaml").exists(), "the file that runs is kept again")
    await until(lambda: (bridge.state / "decisions.json").exists(), "what was decided is kept again")
    await until(lambda: _has(bridge, set()), "all is well")
    assert "why" in (bridge.state / "decisions.json").read_text()
    assert "was taken away, and is made again" in bridge.log
    Folder(bridge.file.parent / "inventory").set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    await until(lambda: (bridge.state / "known" / "inventory.log").exists(), "last known good is kept again")
    assert (await bridge.isthmus("unfreeze", LINK)).code == 0
    await until(lambda: list((bridge.state / "journal").glob("*.jsonl")), "the journal goes on")


async def test_a_broken_journal_is_told_with_the_way_out(bridge: Bridge) -> None:
    journal = bridge.state / "journal"
    await until(lambda: list(journal.glob("*.jsonl")), "it is begun")
    shutil.rmtree(journal)
    journal.write_text("a file in its place")
    assert (await bridge.isthmus("freeze", LINK, "--reason", "why")).code == 0
    await until(lambda: _has(bridge, {"journal-unwritable"}), "it is told")
    assert "journal-unwritable" in (await bridge.isthmus("status")).out
    assert await metric(bridge, "journal-unwritable")


async def test_decisions_that_cannot_be_read_say_why_everything_is_frozen(bridge: Bridge) -> None:
    await bridge.stop()
    (bridge.state / "decisions.json").write_text("{")
    await bridge.start()
    ran = await bridge.isthmus("status")
    assert ran.code == 3
    assert "decisions.json cannot be read" in ran.out and "unfreeze --all" in ran.out
    assert await codes(bridge) == {"freezes-unreadable", "link-frozen"}
    ran = await bridge.isthmus("unfreeze", "--all")
    assert ran.code == 0, ran.err
    await until(lambda: _has(bridge, set()), "all is well")
    assert not (await bridge.link())["frozen"]
    assert json.loads((bridge.state / "decisions.json").read_text()) == {}


@ROOT_ONLY
async def test_a_user_without_a_name_can_freeze(folder: Path) -> None:
    bridge = made(folder)
    folder.chmod(0o711)
    bridge.state.mkdir(mode=0o700)
    os.chown(bridge.state, 54321, 54321)
    words = ["isthmus", "freeze", "-f", str(bridge.file), "--all", "--reason", "r"]
    code = (  # the interpreter itself need not be readable for that user, so all is imported before
        "import concurrent.futures.thread, os, sys; import adapters.file, bridge.cli.main as cli; "
        f"os.setgroups([]); os.setgid(54321); os.setuid(54321); sys.argv = {words!r}; cli.main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LOGNAME": ""}
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), cwd="/", env=env, stderr=asyncio.subprocess.PIPE
    )
    _, err = await child.communicate()
    await bridge.__aexit__(None)
    assert child.returncode == 0, err
    assert "uid=54321 user=?" in (bridge.state / "decisions.json").read_text()


@ROOT_ONLY
async def test_root_can_freeze_in_the_folder_of_the_daemons_user(folder: Path) -> None:
    bridge = made(folder)
    bridge.state.mkdir(mode=0o700)
    os.chown(bridge.state, 54321, 54321)
    ran = await bridge.isthmus("freeze", "--all", "--reason", "r")
    assert ran.code == 0, ran.err
    assert {path.stat().st_uid for path in bridge.state.rglob("*")} == {54321}
    await bridge.__aexit__(None)


@pytest.fixture
async def hosts(folder: Path, etcd_server: StartEtcd) -> AsyncIterator[tuple[Bridge, Bridge]]:
    """Two daemons of one bridge; the first one has stopped, and the second one writes."""
    server = await etcd_server()
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1")
    registries: dict[str, Any] = {
        "inventory": {"kind": "file", "path": str(folder / "inventory")},
        "cluster": {"kind": "etcd", "endpoints": [f"http://{server.address}"], "layout": "kratos"},
    }
    link = {"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}
    one, two = (Bridge(folder, registries, [link], name=name) for name in ("one", "two"))
    async with one:
        await until(one.writes, "the first one writes")
        async with two:
            await one.stop()
            await until(two.writes, "the second one writes")
            await until(two.rests, "it has copied")
            yield one, two


async def test_freeze_stops_the_writer_on_another_host(hosts: tuple[Bridge, Bridge]) -> None:
    one, two = hosts
    ran = await one.isthmus("freeze", LINK, "--reason", "stop", "-o", "json")
    assert ran.code == 0, ran.err
    (row,) = ran.json["destinations"]
    assert row["followed"] and row["writer"]["pid"] == two.process.pid
    assert (await two.link())["frozen"]
    ran = await one.isthmus("unfreeze", LINK)
    assert ran.code == 0, ran.err
    assert not (await two.link())["frozen"]


async def test_freeze_says_so_where_the_writer_does_not_follow(hosts: tuple[Bridge, Bridge]) -> None:
    one, two = hosts
    two.freeze()
    try:
        ran = await one.isthmus("freeze", LINK, "--reason", "stop")
        assert (ran.code, ran.out) == (1, "")
        assert "NOT frozen: " in ran.err and f"(pid {two.process.pid}) writes on" in ran.err
    finally:
        two.thaw()
    await until(lambda: _frozen(two), "it follows as soon as it looks")


@pytest.mark.parametrize("runs", [True, False], ids=["daemon", "no daemon"])
async def test_a_freeze_that_only_this_host_hears_of_says_so(folder: Path, runs: bool) -> None:
    (folder / "inventory").mkdir()
    registries = {
        "inventory": {"kind": "file", "path": str(folder / "inventory")},
        "cluster": {"kind": "memory", "seat": False},
    }
    link = {"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}
    bridge = Bridge(folder, registries, [link])
    async with bridge:
        await until(bridge.rests, "it runs")
        if not runs:
            await bridge.stop()
        for command, said in (("freeze", "frozen"), ("unfreeze", "unfrozen")):
            reason = ("--reason", "stop") if command == "freeze" else ()
            ran = await bridge.isthmus(command, "inventory-to-cluster", *reason)
            assert ran.code == 3 and ran.out.startswith(f"{said}: inventory-to-cluster\n"), ran.err
            assert "this host only: cluster" in ran.err


@pytest.mark.parametrize("runs", [True, False])
async def test_a_freeze_of_a_link_that_observes_says_that_no_other_host_hears_of_it(folder: Path, runs: bool) -> None:
    (folder / "inventory").mkdir()
    registries = {"inventory": {"kind": "file", "path": str(folder / "inventory")}} | {
        name: {"kind": "memory"} for name in ("cluster", "core")
    }
    every = {"from": "inventory", "policy": "observe", "services": {"include": ["*"]}}
    bridge = Bridge(folder, registries, [every | {"to": "cluster"}, every | {"to": "core"}])
    async with bridge:
        if not runs:
            await bridge.stop()
        for who, where in (("inventory-to-cluster", "cluster"), ("--all", "cluster, core")):
            for command, reason in (("freeze", ("--reason", "stop")), ("unfreeze", ())):
                ran = await bridge.isthmus(command, who, *reason)
                assert ran.code == 3 and f"{command.replace('freeze', 'frozen')}: {who}\n" in ran.out, ran.err
                assert f"this host only: what leads to {where} observes" in ran.err
        await bridge.stop()
        bridge.links[1]["policy"] = "sync"
        bridge.write()
        if runs:
            await bridge.start()
        ran = await bridge.isthmus("freeze", "--all", "--reason", "stop")
        assert ran.code == 0, "what is written has a note, and by that every host hears of it"


async def test_what_only_this_host_hears_of_is_said_by_every_decision(folder: Path) -> None:
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    registries = {
        "inventory": {"kind": "file", "path": str(folder / "inventory")},
        "cluster": {"kind": "memory", "seat": False},
    }
    link = {"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}
    async with Bridge(folder, registries, [link]) as bridge:

        async def copied() -> bool:
            return (await bridge.scopes())["inventory"]["services"] == 1 and await bridge.rests()

        await until(copied, "it copies")
        inventory.unset("pay-api")
        (hold,) = await until(bridge.holds, "the wipe is held")
        for words in (("approve", hold["id"]), ("expect", "inventory-to-cluster", "--lose", "1", "--for", "1m")):
            ran = await bridge.isthmus(*words, "--reason", "r")
            assert ran.code == 3 and "this host only: cluster" in ran.err, ran.err
        inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
        await until(copied, "they are back")
        inventory.path.rename(folder / "gone")
        inventory.path.mkdir()

        async def doubted() -> bool:
            return bool((await bridge.scopes())["inventory"]["doubt"])

        await until(doubted, "another life is doubted")
        ran = await bridge.isthmus("accept", "inventory", "--reason", "r", "--as-empty", "--yes")
        assert ran.code == 3 and "this host only: cluster" in ran.err, ran.err


async def _frozen(bridge: Bridge) -> bool:
    return bool((await bridge.link())["frozen"])
