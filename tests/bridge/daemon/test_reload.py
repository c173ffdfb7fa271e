"""A changed file is taken over as a whole, or refused as a whole and said; one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import ConfigError
from tests.commands.conftest import re_addresses
from tests.conftest import StartEtcd
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until

BROKEN = {"kind": "etcd", "endpoints": ["127.0.0.1:2379"], "layout": "kratos"}


@pytest.fixture
async def bridge(folder: Path) -> AsyncIterator[Bridge]:
    """pay-api is copied from `inventory` into `cluster`."""
    Folder(folder / "inventory").set("pay-api", i1={"address": "192.0.2.1", "metadata": {"team": "pay", "n": "1"}})
    (folder / "cluster").mkdir()
    registries = {name: {"kind": "file", "path": str(folder / name)} for name in ("inventory", "cluster")}
    link = {"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}}
    made = Bridge(folder, registries, [link])
    async with made:
        await until(lambda: addresses(folder) == {"192.0.2.1"}, "it copies")
        yield made


def copies(folder: Path) -> str:
    """What stands in the cluster's files."""
    return "".join(path.read_text() for path in (folder / "cluster").glob("*.isthmus.yaml"))


def addresses(folder: Path) -> set[str]:
    """The addresses that stand there."""
    return set(re_addresses(copies(folder)))


@pytest.mark.parametrize("role", ["source", "target", "unused"])
async def test_a_file_that_an_adapter_refuses_changes_nothing(folder: Path, bridge: Bridge, role: str) -> None:
    before = await bridge.ask("status")
    good = bridge.file.read_text()
    bridge.registries["bad"] = BROKEN
    if role != "unused":
        ends = {"from": "bad", "to": "cluster"} if role == "source" else {"from": "inventory", "to": "bad"}
        bridge.links.append({**ends, "policy": "sync", "services": {"include": ["x"]}})
    bridge.links[0]["policy"] = "observe"
    await bridge.hup()
    after = await bridge.ask("status")
    assert after["configuration"] == before["configuration"]
    assert [row["role"] for row in after["links"]] == ["writer"]
    assert any(row["code"] == "file-refused" and "endpoints" in row["text"] for row in after["attention"])
    assert before["configuration"] in (bridge.state / "accepted.yaml").read_text().splitlines()[0]
    bridge.file.write_text(good)
    assert await bridge.ask("reload") == before["configuration"]
    assert (await bridge.ask("status"))["attention"] == []
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    await until(lambda: addresses(folder) == {"192.0.2.1", "192.0.2.2"}, "it goes on")


async def test_all_faults_of_a_file_are_told_at_once_with_their_lines(bridge: Bridge) -> None:
    bridge.registries["bad"] = BROKEN
    bridge.registries["worse"] = {"kind": "etcd", "endpoints": ["http://127.0.0.1:x"], "layout": "kratos"}
    bridge.links[0]["policy"] = "no such"
    bridge.write()
    with pytest.raises(ConfigError) as raised:
        await bridge.ask("reload")
    lines = bridge.file.read_text().splitlines()
    found = str(raised.value).splitlines()
    places = [(lines[int(fault.split(":")[1]) - 1].strip(), fault.split(": ")[1]) for fault in found]
    assert places == [
        ("- 127.0.0.1:2379", "registries.bad.endpoints[0]"),
        ("- http://127.0.0.1:x", "registries.worse.endpoints[0]"),
        ("policy: no such", "links[0].policy"),
    ]


async def test_what_needs_a_restart_is_said_and_all_of_it_at_once(bridge: Bridge) -> None:
    bridge.bridge |= {"id": "b2", "listen": "127.0.0.1:1"}
    bridge.links[0]["policy"] = "observe"
    bridge.write()
    with pytest.raises(ConfigError, match=r"(?s)bridge\.id: .*restart it.*bridge\.listen: .*restart it"):
        await bridge.ask("reload")
    assert (await bridge.link())["role"] == "writer"


async def test_what_is_secret_is_taken_over_from_a_changed_file(folder: Path, bridge: Bridge) -> None:
    assert "team" in copies(folder)
    bridge.bridge["secrets"] = ["team"]
    await bridge.hup()
    await until(lambda: "team" not in copies(folder), "it is secret")
    await until(lambda: _left_out(bridge, 1), "it is counted")
    bridge.bridge["secrets"] = ["n"]
    await bridge.hup()
    await until(lambda: "team" in copies(folder), "it is secret no more")
    assert '"n"' not in copies(folder)


async def _left_out(bridge: Bridge, count: int) -> bool:
    return bool((await bridge.scopes())["inventory"]["left_out"] == count)


async def test_what_is_secret_now_goes_though_its_source_is_out_of_reach(folder: Path, bridge: Bridge) -> None:
    (folder / "inventory").rename(folder / "away")
    await until(lambda: _stale(bridge), "the source is stale")
    bridge.bridge["secrets"] = ["team"]
    await bridge.hup()
    await until(lambda: "team" not in copies(folder), "it is secret")


async def _stale(bridge: Bridge) -> bool:
    return bool((await bridge.scopes())["inventory"]["state"] == "stale")


async def test_two_reloads_that_overlap_leave_the_second_file_in_force(folder: Path, etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", **{f"i{number}": f"192.0.2.{number}" for number in range(1, 5)})
    registries: dict[str, Any] = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "core": {"kind": "etcd", "endpoints": [f"http://{server.address}"], "layout": "kratos"},
    }
    link = {"from": "inventory", "to": "core", "policy": "sync", "services": {"include": ["*"]}}
    async with Bridge(folder, registries, [link], name="b") as bridge:
        await until(bridge.rests, "it copies")
        server.freeze()
        bridge.registries["core"]["prefix"] = "/elsewhere"
        bridge.write()
        bridge.heard().clear()
        first = asyncio.ensure_future(bridge.ask("reload"))
        await until(lambda: "RELOADING=1" in bridge.heard(), "the first one is under way")
        del bridge.registries["core"]["prefix"]
        bridge.links[0]["guard"] = {"confirm_event": "1h"}
        bridge.write()
        second = asyncio.ensure_future(bridge.ask("reload"))
        assert (await bridge.ask("status"))["bridge"] == "b1"
        server.thaw()
        await first
        last = await second
        await until(bridge.rests, "it is in step")
        assert (await bridge.ask("status"))["configuration"] == last
        inventory.unset("pay-api")
        (hold,) = await until(bridge.holds, "the wipe is held, and shown")
        assert hold["instances"] == 4
        assert await bridge.ask("approve", id=hold["id"], reason="gone")


async def test_a_slow_reload_is_no_broken_loop(folder: Path, etcd_server: StartEtcd) -> None:
    server = await etcd_server()
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1")
    registries: dict[str, Any] = {
        "inventory": {"kind": "file", "path": str(folder / "inventory")},
        "core": {"kind": "etcd", "endpoints": [f"http://{server.address}"], "layout": "kratos"},
    }
    link = {"from": "inventory", "to": "core", "policy": "sync", "services": {"include": ["*"]}}
    async with Bridge(folder, registries, [link], name="b") as bridge:
        await until(bridge.rests, "it copies")
        server.freeze()
        bridge.registries["core"]["prefix"] = "/elsewhere"
        bridge.write()
        reload = asyncio.ensure_future(bridge.ask("reload"))
        broken: set[str] = set()
        while not reload.done():
            rows = (await bridge.ask("status"))["attention"]
            broken.update(row["text"] for row in rows if row["code"] == "loop-broken")
        server.thaw()
        await reload
        assert broken == set()
        assert "broken loop" not in bridge.log


async def test_a_refused_signal_is_journaled(bridge: Bridge) -> None:
    bridge.write("links: {")
    await bridge.hup_as_it_is()
    ran = await bridge.ask("status")
    assert any(row["code"] == "file-refused" for row in ran["attention"])
    journal = bridge.state / "journal"
    await until(lambda: "refused: " in "".join(path.read_text() for path in journal.iterdir()), "it is in the journal")
