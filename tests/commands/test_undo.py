"""`undo` on a real server: what a link changed of late is as it was, and the link stays frozen."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.kit import natives
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

REASON = ("--reason", "CHG-1")


async def addresses(etcd: Etcd) -> dict[str, str]:
    """The host of each instance that a kratos client finds, by id."""
    async with natives.Etcd(etcd.address) as client:
        said = [json.loads(text) for text in (await client.records()).values()]
        return {one["id"]: one["endpoints"][0].partition("://")[2].rpartition(":")[0] for one in said}


async def _are(etcd: Etcd, wanted: dict[str, str]) -> bool:
    return await addresses(etcd) == wanted


async def _pending(bridge: Bridge, count: int) -> bool:
    return len((await bridge.ask("plan"))["changes"]) == count


async def test_undo_puts_back_what_lives_and_leaves_the_link_frozen(folder: Path, etcd: Etcd) -> None:
    living = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.77", 0)
    port = living.sockets[0].getsockname()[1]
    inventory = Folder(folder / "inventory")
    here = {"address": "127.0.0.77", "ports": [{"number": port, "protocol": "grpc"}]}
    dead = {"address": "127.0.0.78", "ports": [{"number": port, "protocol": "grpc"}]}
    first: dict[str, Any] = {"i1": "192.0.2.1", "i2": here, "i3": dead, "i4": "192.0.2.4", "i5": "192.0.2.5"}
    inventory.set("pay-api", **first)
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "core": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
    }
    guard = {"confirm_event": "1s", "confirm_absence": "1s"}
    link = {"from": "inventory", "to": "core", "policy": "sync", "services": {"include": ["*"]}, "guard": guard}
    async with living, Bridge(folder, registries, [link]) as bridge:
        await until(bridge.rests, "everything is copied")
        before = await addresses(etcd)
        begun = datetime.now().isoformat()
        inventory.set("pay-api", i1="192.0.2.9", i4="192.0.2.4", i5="192.0.2.5", i6="192.0.2.6")
        after = {"i1": "192.0.2.9", "i4": "192.0.2.4", "i5": "192.0.2.5", "i6": "192.0.2.6"}
        await until(lambda: _are(etcd, after), "the change is carried on, and confirmed")
        words = ("inventory-to-core", "--since", begun, *REASON)
        ran = await bridge.isthmus("undo", *words)
        assert ran.code == 1 and "is frozen" in ran.out, ran  # nobody says yes
        assert await addresses(etcd) == after and (await bridge.link())["frozen"]
        ran = await bridge.isthmus("undo", *words, "--yes", "-o", "json")
        assert ran.code == 0, ran
        assert [(row["instance"], row["why"].rpartition(" ")[2]) for row in ran.json["left"]] == [("i3", "address")]
        assert await addresses(etcd) == {id: host for id, host in before.items() if id != "i3"}
        assert (await bridge.link())["frozen"]
        ran = await bridge.isthmus("undo", *words, "--yes")
        assert ran.code == 0 and "nothing to put back" in ran.out  # what was put back is a change of its own
        await until(lambda: _pending(bridge, 3), "what would be written again is planned")
        ran = await bridge.isthmus("unfreeze", "inventory-to-core", "-o", "json")
        assert {row["instance"] for row in ran.json["pending"]["changes"]} == {"i1", "i2", "i6"}
