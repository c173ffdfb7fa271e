"""What a changed file added and still waits for the operator, when the daemon that held it is gone."""

from __future__ import annotations

from pathlib import Path

from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until


async def test_what_the_file_added_waits_after_a_crash_as_well(folder: Path) -> None:
    vms, pods = Folder(folder / "vms"), Folder(folder / "pods")
    mesh = folder / "mesh"
    mesh.mkdir()
    vms.set("pay", v1="192.0.2.1", v2="192.0.2.2")
    pods.set("pay", p1="192.0.2.11", p2="192.0.2.12")
    pods.set("other", o1="192.0.2.13")
    registries = {name: {"kind": "file", "path": str(folder / name)} for name in ("vms", "pods", "mesh")}
    link = {"name": "copies", "from": ["vms"], "to": "mesh", "policy": "sync", "services": {"include": ["*"]}}
    bridge = Bridge(folder, registries, [link])

    def copies(text: str) -> bool:
        return any(text in path.read_text() for path in mesh.glob("*.yaml"))

    async with bridge:
        await until(bridge.rests, "the first copy")
        bridge.links[0]["from"] = ["vms", "pods"]
        await bridge.hup()
        holds = await until(bridge.holds, "what the file added is held")
        await until(lambda: copies("192.0.2.13"), "what nobody served flows")
        await bridge.kill()
        await bridge.start()
        await until(lambda: copies("192.0.2.13"), "it runs")
        again = await until(bridge.holds, "it is held again")
        assert [hold["id"] for hold in again] == [hold["id"] for hold in holds]
        vms.set("pay", v1="192.0.2.1", v2="192.0.2.2", v3="192.0.2.3")
        await until(lambda: copies("192.0.2.3"), "what else changes flows")
        assert not copies("192.0.2.11") and not copies("192.0.2.12")
        await bridge.approve()
        await until(lambda: copies("192.0.2.11") and copies("192.0.2.12"), "what is approved is added")
        pods.set("pay", p1="192.0.2.11", p2="192.0.2.12", p3="192.0.2.14")
        await until(lambda: copies("192.0.2.14"), "from then on all flows")
        await until(lambda: not waiting(bridge.state / "decisions.json"), "the disk knows that")
        await bridge.kill()
        await bridge.start()
        pods.set("pay", p1="192.0.2.11", p2="192.0.2.12", p3="192.0.2.14", p4="192.0.2.15")
        await until(lambda: copies("192.0.2.15"), "and after a restart, too")


def waiting(decisions: Path) -> bool:
    """Whether the disk still has something that a file added and that waits, or is not yet known as a whole."""
    text = decisions.read_text()
    return '"added"' in text or '"fresh"' in text
