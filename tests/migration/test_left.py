"""A move ends once the machines of the old side were watched, with real connections; and what hosts reach counts."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.migration.estate import Estate, reaches, row
from tests.servers import ports
from tests.servers.etcd import Etcd

VMS = ("127.0.4.1", "127.0.4.2")
PODS = ("198.51.100.1", "198.51.100.2")
WATCHED = 1.0  # seconds


async def _until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server whose clients close: what it closes itself the kernel shows for a minute more."""
    await reader.read()
    writer.close()


async def test_the_old_side_is_left_once_nobody_is_connected_to_it(folder: Path, etcd: Etcd) -> None:
    port, edge = ports.reserve(2)
    seat = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}
    estate = Estate(folder, seat, {"edge": {"kind": "traefik", "listen": f"127.0.0.1:{edge}"}})
    estate.vms.write({one: {} for one in VMS}, port)
    estate.pods.write({one: {} for one in PODS}, port)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [port, edge])
        for one in VMS:
            await stack.enter_async_context(await asyncio.start_server(_until_closed, one, port))
        made = estate.bridge(steps=[100], settle=0, quiet_for=f"{WATCHED}s", keep="0s")
        await stack.enter_async_context(made)
        await until(made.rests, "everything is read")
        await a_start_takes_what_hosts_reach(made, folder, port)
        await reaches(made, "retire")
        await until(lambda: _waits(made, "nobody looked at 127.0.4.1"), "nobody has looked")
        targets, report = folder / "targets.json", folder / "listening.json"
        printed = await isthmus("migrate", "targets", "pay", "-f", made.file)
        targets.write_text(printed.out)
        assert sorted(one["address"] for one in json.loads(printed.out)["targets"]) == list(VMS)
        watch = ("probe", "--listening", "--targets", targets, "--report", report)
        hand_in = ("migrate", "report", "pay", report, "-f", made.file)

        _, talks = await asyncio.open_connection(VMS[1], port, local_addr=("127.0.4.9", 0))
        ran = await isthmus(*watch, cwd=folder)
        assert ran.code == 3 and "2 of 2 addresses are of" in ran.out and "127.0.4.9" in ran.out, ran
        assert (await isthmus(*hand_in)).code == 0
        await until(lambda: _waits(made, "still has requests"), "somebody is connected")
        refused = await isthmus("migrate", "finish", "pay", "--reason", "r", "-f", made.file)
        assert refused.code == 1 and "127.0.4.2" in refused.err and "127.0.4.9" in refused.err, refused

        talks.close()
        await talks.wait_closed()
        ran = await isthmus(*watch, "--for", f"{1000 * WATCHED + 500:.0f}ms", cwd=folder)
        assert ran.code == 0, ran
        assert (await isthmus(*hand_in)).code == 0

        async def done() -> bool:
            return (await row(made)).get("phase") == "done"

        await until(done, "it ends by itself")


async def _waits(made: Bridge, text: str) -> bool:
    found = await row(made)
    return found.get("waits") == "person" and text in found["why"]


async def a_start_takes_what_hosts_reach(made: Bridge, folder: Path, port: int) -> None:
    """What a consumer's host reaches is handed in with `start`, and counts for every later look at any daemon."""
    words = ("migrate", "parity", "pay", "-f", made.file, "-o", "json")
    assert [one["severity"] for one in (await isthmus(*words)).json if one["what"] == "reachable"] == ["warn"]
    report, old = folder / "reached.json", folder / "old.json"
    found = {"link": "edge", "from": "host-a", "at": time.time(), "answered": [f"{one}:{port}" for one in PODS]}
    report.write_text(json.dumps(found))
    started = await isthmus("migrate", "start", "pay", "--report", report, "--reason", "r", "-f", made.file)
    assert started.code == 0, started
    assert [one for one in (await isthmus(*words)).json if one["what"] == "reachable"] == []
    old.write_text(json.dumps(found | {"at": 1000.0}))
    refused = await isthmus("migrate", "report", "pay", old, "-f", made.file)
    assert refused.code == 1 and "more than a day old" in refused.err
