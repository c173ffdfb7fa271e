"""What may not be called is not written where the target cannot say so: every command that looks says how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

DISABLED = {"address": "192.0.2.2", "health": "DRAINING"}


@pytest.fixture
def bridge(folder: Path, etcd: Etcd) -> Bridge:
    """One scope of a registry is copied into a layout without health."""
    Folder(folder / "inventory").set("pay-api", i1="192.0.2.1", i2=DISABLED)
    registries = {
        "inventory": {"kind": "file", "path": str(folder / "inventory")},
        "core": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
    }
    link = {"from": "inventory", "to": "core", "policy": "sync", "services": {"include": ["*"]}}
    return Bridge(folder, registries, [link])


async def test_what_the_target_cannot_say_is_counted_wherever_one_looks(bridge: Bridge) -> None:
    async with bridge:
        await until(lambda: _copied(bridge), "the other one is copied")
        ran = await bridge.isthmus("status")
        assert ran.code == 0 and "WITHDRAWN" in ran.out
        assert (await bridge.link())["withdrawn"] == 1
        (row,) = (await bridge.isthmus("check", "-o", "json")).json["links"]
        assert row["withdrawn"] == 1
        ran = await bridge.isthmus("plan")
        assert ran.code == 0 and "DRAINING, and the target cannot say so" in ran.out
        for words in (("inventory", "core"), ("--link", "inventory-to-core")):
            ran = await bridge.isthmus("diff", *words, "-o", "json")
            (row,) = ran.json
            assert (ran.code, row["instance"], row["difference"]) == (0, "i2", "left out"), row
            assert row["field"].startswith("DRAINING")


async def _copied(bridge: Bridge) -> bool:
    return await bridge.rests() and (await bridge.link())["withdrawn"] == 1
