"""The daemon as a process among others: its supervisor, signals, folder, sockets, health pages and metrics."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from tests.commands.conftest import Pair
from tests.conftest import StartEtcd
from tests.kit.natives import Etcd as Natives
from tests.kit.running import ROOT, Bridge
from tests.kit.waiting import until
from tests.servers import ports

STOP_TIME = 5.0  # seconds: what the product promises


async def fetch(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    def get() -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(get)


def listening(pair: Pair) -> int:
    (port,) = ports.reserve(1)
    pair.bridge.bridge["listen"] = f"127.0.0.1:{port}"
    pair.bridge.write()
    return port


async def test_tcp_serves_health_and_metrics_and_nothing_else(pair: Pair) -> None:
    port = listening(pair)
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        status, body = await fetch(port, "/healthz")
        assert (status, json.loads(body)) == (200, {"alive": True, "broken": {}})
        status, body = await fetch(port, "/readyz")
        said = json.loads(body)
        assert (status, said["ready"]) == (200, True)
        assert [(row["registry"], row["state"]) for row in said["scopes"] if row["registry"] == "inventory"] == [
            ("inventory", "synced")
        ]
        for path in ("/", "/status", "/approve", "/holds", "/../admin.sock"):
            assert (await fetch(port, path))[0] == 404
        assert (await fetch(port, "/metrics", "POST"))[0] == 405
        assert await bridge.stop() == 0
    ports.release([port])


async def test_readiness_names_what_is_stale_and_since_when(pair: Pair) -> None:
    port = listening(pair)
    async with pair.bridge:
        await until(pair.copied, "everything is copied")
        pair.inventory.path.rename(pair.inventory.path.with_name("away"))

        async def stale() -> dict[str, object] | None:
            said = json.loads((await fetch(port, "/readyz"))[1])
            rows = [row for row in said["scopes"] if row["registry"] == "inventory"]
            return rows[0] if rows[0]["state"] == "stale" and rows[0]["age"] > 0.5 else None

        row = await until(stale, "it says so")
        assert row["reason"]
        status, body = await fetch(port, "/readyz")
        assert (status, json.loads(body)["ready"]) == (200, True)  # it serves last known good
    ports.release([port])


async def test_it_is_not_ready_while_a_source_was_never_heard(pair: Pair) -> None:
    port = listening(pair)
    pair.inventory.path.rename(pair.inventory.path.with_name("away"))
    async with pair.bridge:
        status, body = await fetch(port, "/readyz")
        assert (status, json.loads(body)["silent"]) == (503, ["inventory"])
    ports.release([port])


async def test_the_metrics_have_the_names_that_the_alerts_ask_for(pair: Pair) -> None:
    port = listening(pair)
    async with pair.bridge:
        await until(pair.copied, "everything is copied")
        status, text = await fetch(port, "/metrics")
        assert status == 200
        rules = yaml.safe_load((ROOT / "deploy/alerts/isthmus.yaml").read_text())["groups"][0]["rules"]
        wanted = {name for rule in rules for name in re.findall(r"isthmus_[a-z_]+", rule["expr"])}
        has = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
        assert {name for name in wanted if name not in has and name.removesuffix("_total") not in has} == set()
        assert 'isthmus_link_changes_total{kind="add",link="inventory-to-cluster"} 5.0' in text
        assert 'isthmus_propagation_seconds_count{link="inventory-to-cluster"} 5.0' in text
        assert 'isthmus_scope_synced{registry="inventory",scope=""} 1.0' in text
    ports.release([port])


async def test_the_state_folder_and_the_socket_are_the_users_alone(pair: Pair) -> None:
    pair.bridge.state.mkdir(mode=0o755)
    async with pair.bridge as bridge:
        assert stat.S_IMODE(bridge.state.stat().st_mode) == 0o700
        assert stat.S_IMODE((bridge.state / "admin.sock").stat().st_mode) == 0o600
        open_to_others = [p for p in bridge.state.rglob("*") if p.is_file() and p.stat().st_mode & 0o077]
        assert open_to_others == []


async def test_the_supervisor_is_told(pair: Pair) -> None:
    bridge = pair.bridge
    await bridge.start(environment={"WATCHDOG_USEC": "3000000"})
    await until(lambda: "WATCHDOG=1" in bridge.heard(), "the watchdog is fed")
    await until(lambda: any(note.startswith("STATUS=") for note in bridge.heard()), "it has a status line")
    await bridge.hup_as_it_is()
    notes = bridge.heard()
    assert notes.index("RELOADING=1") < notes.index("READY=1")
    assert await bridge.stop() == 0
    assert "STOPPING=1" in bridge.heard()


async def test_a_second_daemon_over_one_folder_is_refused(pair: Pair) -> None:
    async with pair.bridge as bridge:
        ran = await bridge.isthmus("run")
        assert ran.code == 2
        assert "another daemon uses this folder" in ran.err


async def stopped_in(bridge: Bridge) -> float:
    """Seconds that it takes to stop."""
    began = time.monotonic()
    assert await bridge.stop() == 0
    return time.monotonic() - began


async def test_sigterm_stops_it_within_five_seconds(pair: Pair) -> None:
    await pair.bridge.start()
    await until(pair.copied, "everything is copied")
    assert await stopped_in(pair.bridge) < STOP_TIME


async def test_sigterm_stops_it_while_every_registry_is_frozen(folder: Path, etcd_server: StartEtcd) -> None:
    old, new = await etcd_server(), await etcd_server()
    registries = {
        name: {"kind": "etcd", "endpoints": [server.url], "layout": "kratos"}
        for name, server in (("old", old), ("new", new))
    }
    link = {"from": "old", "to": "new", "policy": "sync", "services": {"include": ["*"]}}
    bridge = Bridge(folder, registries, [link])
    async with Natives(old.address) as source, Natives(new.address) as target, bridge:
        await source.register("pay", "i1", "192.0.2.1")
        await until(target.records, "it is copied")
        old.freeze()
        new.freeze()
        try:
            assert await stopped_in(bridge) < STOP_TIME
        finally:
            old.thaw()
            new.thaw()


async def test_sigterm_during_the_start_stops_it_too(pair: Pair) -> None:
    (free,) = ports.reserve(1)
    dead = {"kind": "etcd", "endpoints": [f"http://127.0.0.1:{free}"], "layout": "kratos"}
    pair.bridge.registries["cluster"] = dead
    pair.bridge.write()
    await pair.bridge.start()
    assert await stopped_in(pair.bridge) < STOP_TIME
    ports.release([free])


async def test_sigint_stops_it_as_well(pair: Pair) -> None:
    await pair.bridge.start()
    pair.bridge.signal(signal.SIGINT)
    await until(lambda: not pair.bridge.process.running, "it ends", within=STOP_TIME)
    assert pair.bridge.process.code == 0
