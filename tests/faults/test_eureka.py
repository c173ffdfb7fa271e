"""Eureka under the daemon: restarts on either side, a freeze, a change of writers, an orderly end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mappings.eureka import MARK
from tests.conftest import StartEureka
from tests.kit.eureka import Native
from tests.kit.running import HASTY, Bridge
from tests.kit.waiting import steady, until
from tests.servers.eureka import Eureka

GUARD = {"confirm_event": "1s", "confirm_absence": "1s"}
RENEWED = 90.0  # seconds in which a round of heartbeats has passed on any machine


def link(source: str, target: str) -> dict[str, Any]:
    return {"from": source, "to": target, "policy": "sync", "services": {"include": ["pay*"]}, "guard": GUARD}


def eureka_of(server: Eureka) -> dict[str, Any]:
    return {"kind": "eureka", "urls": [server.url], "poll": "200ms"}


def file_of(folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return {"kind": "file", "path": str(folder)}


def copies(folder: Path) -> dict[str, dict[str, Any]]:
    """What the bridge has written there, by id."""
    found = {}
    for path in folder.glob("*.yaml"):
        for record in yaml.safe_load(path.read_text())["instances"]:
            found[record["id"]] = record
    return found


def write(folder: Path, *numbers: int, **metadata: str) -> None:
    """A person says which instances of `pay` there are."""
    records: list[dict[str, Any]] = [
        {
            "id": f"i{number}",
            "address": f"192.0.2.{number}",
            "ports": [{"number": 8080, "name": "http", "protocol": "http"}],
            "metadata": dict(metadata),
        }
        for number in numbers
    ]
    (folder / ".draft").write_text(yaml.safe_dump({"instances": records}))
    (folder / ".draft").replace(folder / "pay.yaml")


async def test_fault_32_a_cold_restart_of_a_source_takes_no_copy_away(eureka_server: StartEureka, folder: Path) -> None:
    server, target = await eureka_server(), folder / "target"
    native = Native(server)
    ids = {f"i{number}" for number in range(6)}

    async def register(*some: str) -> None:
        for id in some:
            await native.register("pay", id, f"192.0.2.{1 + int(id[1:])}")

    await register(*ids)
    registries = {"old": eureka_of(server), "new": file_of(target)}
    async with Bridge(folder, registries, [link("old", "new")]) as bridge:
        await until(lambda: copies(target).keys() == ids, "all are copied")
        await server.kill()
        await server.start()

        async def doubted() -> str:
            return str((await bridge.scopes())["old"]["doubt"])

        await until(doubted, "the restart is noticed")

        async def there() -> set[str]:
            return set(copies(target))

        assert await steady(there, 3.0) == ids
        await register("i0", "i1", "i2", "i9")
        await until(lambda: copies(target).keys() == ids | {"i9"}, "what is new flows")
        assert {hold["cause"] for hold in await bridge.holds()} == {"absence"}
        await register(*ids)

        async def well() -> bool:
            return not await doubted() and await bridge.rests()

        await until(well, "nothing is missing any more, so nothing is doubted")
        await native.cancel("pay", "i9")
        await until(lambda: copies(target).keys() == ids, "what ends is removed again")


async def test_fault_31_a_change_that_a_delta_forgot_is_found_by_its_hash(
    eureka_server: StartEureka, folder: Path
) -> None:
    """The server forgets what changed long before it is asked again."""
    forgetful = {"retentionTimeInMSInDeltaQueue": "100", "deltaRetentionTimerIntervalInMs": "100"}
    server = await eureka_server(settings={f"eureka.server.{key}": text for key, text in forgetful.items()})
    native, target = Native(server), folder / "target"
    await native.register("pay", "i1", "192.0.2.1")
    await native.register("pay", "i2", "192.0.2.2")
    registries = {"old": {**eureka_of(server), "poll": "2s"}, "new": file_of(target)}
    async with Bridge(folder, registries, [link("old", "new")]):
        await until(lambda: copies(target).keys() == {"i1", "i2"}, "all are copied")
        for number in (3, 4, 5):
            await native.register("pay", f"i{number}", f"192.0.2.{number}")
            await until(lambda n=number: f"i{n}" in copies(target), "what comes is found")


async def test_what_is_written_to_eureka_is_kept_alive_through_everything(
    eureka_server: StartEureka, folder: Path
) -> None:
    """A restarted server, a freeze, a killed writer, an orderly end."""
    server, source = await eureka_server(), folder / "source"
    native = Native(server)
    registries = {"old": file_of(source), "new": eureka_of(server), "seats": file_of(folder / "seats")}
    write(source, 1, 2, 3)
    links, options = [link("old", "new")], {"seat": "seats"}
    first = Bridge(folder, registries, links, name="first", **options)
    second = Bridge(folder, registries, links, name="second", **options)
    first.program = second.program = HASTY

    async def entries() -> set[str]:
        return {id for (_, id), one in (await native.all()).items() if MARK in one["metadata"]}

    async def renewed(id: str) -> bool:
        before = (await native.get("pay", id))["leaseInfo"]["lastRenewalTimestamp"]

        async def later() -> bool:
            return bool((await native.get("pay", id))["leaseInfo"]["lastRenewalTimestamp"] > before)

        return bool(await until(later, f"{id} is renewed", within=RENEWED))

    async with first, second:
        three = {"i1:pay", "i2:pay", "i3:pay"}
        await until(lambda: _equal(entries, three), "all are registered")
        assert (await native.get("pay", "i1:pay"))["leaseInfo"]["durationInSecs"] == 604_800
        await server.kill()
        await server.start()
        await until(lambda: _equal(entries, three), "a server that forgot them has them again")
        writer, other = (first, second) if await first.writes() else (second, first)
        shown = (await writer.isthmus("status")).out
        assert "new: 3 entries are renewed; without a bridge they end in 7 d" in shown
        await writer.ask("freeze", link="old-to-new", reason="the test says so")
        write(source, 1, 2, 3, turn="2")
        assert await renewed("i2:pay")
        assert "turn" not in (await native.get("pay", "i2:pay"))["metadata"]
        await writer.ask("unfreeze", link="old-to-new")
        await until(lambda: _says(native, "i3:pay", "2"), "the freeze is over")
        await until(lambda: _thawed(other), "the standby knows it, too")
        await writer.kill()
        await until(other.writes, "the standby writes")
        write(source, 1, 2, 3, turn="3")
        await until(lambda: _says(native, "i3:pay", "3"), "by the other one")
        assert await renewed("i1:pay")
        assert await other.stop() == 0
        assert await entries() == three


async def _equal(look: Any, expected: set[str]) -> bool:
    return bool(await look() == expected)


async def _thawed(bridge: Bridge) -> bool:
    return not (await bridge.link())["frozen"]


async def _says(native: Native, id: str, turn: str) -> bool:
    return bool((await native.get("pay", id))["metadata"].get("turn") == turn)
