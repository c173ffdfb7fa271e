"""An approval ends with its use, also where the daemon is killed right after that (safety rule 4)."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until

FLEET = {f"i{number}": f"192.0.2.{number}" for number in range(20)}


@pytest.mark.parametrize("frozen", [False, True], ids=["flows", "frozen"])
async def test_an_approval_does_not_outlive_its_use_through_a_kill(folder: Path, frozen: bool) -> None:
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", **FLEET)
    (folder / "cluster").mkdir()
    registries = {name: {"kind": "file", "path": str(folder / name)} for name in ("inventory", "cluster")}
    guard = {"confirm_event": "1s", "confirm_absence": "1s"}
    link = {"from": "inventory", "to": "cluster", "policy": "sync", "services": {"include": ["*"]}, "guard": guard}

    def copies() -> int:
        files = (folder / "cluster").glob("*.yaml")
        return sum(len(yaml.safe_load(path.read_text())["instances"]) for path in files)

    async with Bridge(folder, registries, [link]) as bridge:
        await until(lambda: copies() == len(FLEET), "everything is copied")
        await until(bridge.rests, "and settled")
        inventory.unset("pay-api")
        (hold,) = await until(bridge.holds, "the wipe is held")
        assert hold["due_in"] is None
        if frozen:
            await bridge.ask("freeze", link="inventory-to-cluster", reason="wait")
        await bridge.ask("approve", id=hold["id"], reason="gone for good")
        if frozen:
            assert copies() == len(FLEET)
            await bridge.ask("unfreeze", link="inventory-to-cluster")
        await until(lambda: copies() == 0, "what was approved goes", every=0.001)
        await bridge.kill()
        inventory.set("pay-api", **FLEET)
        await bridge.start()
        await until(lambda: copies() == len(FLEET), "everything is back")
        await until(bridge.rests, "and settled")
        inventory.unset("pay-api")
        (hold,) = await until(bridge.holds, "the second wipe is held")
        assert (hold["instances"], hold["due_in"], copies()) == (len(FLEET), None, len(FLEET))
