"""What goes wrong around an export, each fault by its name: no data plane loses what it has."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import grpc.aio

from tests.dataplanes.estate import Inventory, bridge
from tests.dataplanes.test_envoy import FOUR, site
from tests.kit.ads import CLUSTER, Ads
from tests.kit.running import Bridge
from tests.kit.waiting import DEADLINE, until
from tests.servers import ports

MANY = 1000


async def test_an_empty_state_folder_while_sources_are_down_costs_no_request(tmp_path: Path) -> None:
    async with site(tmp_path, "delta") as at:
        await at.only(*FOUR[:2])
        await at.bridge.stop()
        shutil.rmtree(at.bridge.state)
        at.inventory.folder.rename(tmp_path / "away")
        await at.bridge.start()

        async def waits() -> bool:
            return any(one["code"] == "export-waits" for one in (await at.bridge.ask("status"))["attention"])

        await until(waits, "nobody is answered")
        assert set(await at.load.more(200)) == set(FOUR[:2])
        (tmp_path / "away").rename(at.inventory.folder)
        at.say(*FOUR[:3])
        await at.only(*FOUR[:3])


async def test_a_thousand_clusters_of_a_source_that_was_wiped_are_held(tmp_path: Path) -> None:
    (port,) = ports.reserve(1)
    inventory = Inventory(tmp_path / "inventory")
    for number in range(MANY):
        record = f"instances: [{{id: i1, address: 192.0.2.1, ports: [{{number: {1000 + number}, protocol: http}}]}}]\n"
        (inventory.folder / f"pay-{number}.yaml").write_text(record)
    address = f"127.0.0.1:{port}"
    made = bridge(tmp_path, inventory, {"mesh": {"kind": "xds", "listen": address}})
    async with made, grpc.aio.insecure_channel(address) as channel:
        async with asyncio.timeout(DEADLINE):
            await channel.channel_ready()
        await wiped(made, inventory, Ads(channel))
    ports.release([port])


async def wiped(made: Bridge, inventory: Inventory, ads: Ads) -> None:
    async with ads.delta() as stream:
        await stream.ask(CLUSTER)
        there: set[str] = set()
        while len(there) < MANY:
            there |= (await stream.next()).found.keys()
        for path in list(inventory.folder.iterdir()):
            path.unlink()

        async def held() -> bool:
            return sum(len(one["items"]) for one in await made.holds()) == MANY

        listening = asyncio.create_task(stream.told())
        await until(held, "all are held")
        assert not listening.done(), "nothing is said of it"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    async with ads.delta() as late:
        await late.ask(CLUSTER)
        assert len((await late.next()).found) == MANY
