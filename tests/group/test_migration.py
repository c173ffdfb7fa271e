"""A migration moves under a group as under one daemon: one engine, and every member writes the share of its shards."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from bridge.errors import IsthmusError
from tests.conftest import StartEtcd, StartKafka
from tests.group.fleet import GUARD, divide, stream, writer
from tests.kit.natives import Etcd, Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.migration.estate import act, row

SERVICES = tuple(f"pay-{number}" for number in range(4))
OLD, NEW = "192.0.2", "198.51.100"  # the networks of the two sides
SIDE = 4  # instances of a service on each


class Site(NamedTuple):
    """Both sides of four services are published; three members write them to an etcd."""

    members: list[Bridge]
    target: Etcd

    async def weights(self) -> dict[str, tuple[float, float]]:
        """What stands of each service at the destination: the weight of the old side, and of the new one."""
        found: dict[str, Counter[str]] = {name: Counter() for name in SERVICES}
        for where, value in (await self.target.records()).items():
            service = where.split("/")[2]
            said = json.loads(value)
            network = said["endpoints"][0].partition("//")[2].rpartition(":")[0].rpartition(".")[0]
            found[service][network] += int((said["metadata"] or {}).get("weight", 100))
        return {name: (counts[OLD], counts[NEW]) for name, counts in found.items()}

    async def moved(self, share: float) -> bool:
        """Whether every service has that percent of its weight on the new side; weights are whole numbers."""
        sides = (await self.weights()).values()
        return all(old + new > 0 and abs(100 * new / (old + new) - share) < 1 for old, new in sides)


@pytest_asyncio.fixture
async def site(folder: Path, etcd_server: StartEtcd, kafka_server: StartKafka) -> AsyncIterator[Site]:
    target, kafka = await asyncio.gather(etcd_server(), kafka_server())
    vms, pods = Folder(folder / "vms"), Folder(folder / "pods")
    for offset, name in enumerate(SERVICES):
        for side, network in ((vms, OLD), (pods, NEW)):
            side.set(name, **{f"i{n}": f"{network}.{10 * offset + n}" for n in range(1, SIDE + 1)})
    files = {side: {"kind": "file", "path": str(folder / side)} for side in ("vms", "pods")}
    link = {"to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD}
    feeder = Bridge(
        folder,
        {**files, "stream": stream(kafka.address)},
        [{"from": "vms", **link}, {"from": "pods", **link}],
        name="feeder",
        id="p1",
        seat="vms",
    )
    async with AsyncExitStack() as open:
        await open.enter_async_context(feeder)
        members = [writer(folder, kafka.address, target, f"m{number}", group="crew") for number in range(3)]
        for one in members:
            one.links[0]["from"] = ["stream/pods", "stream/vms"]
            block = {"name": "pay", "services": ["*"], "from": ["stream/vms"], "to": ["stream/pods"], "at": ["new"]}
            gates = {"hold_for": "0s", "approve": [], "parity": "warn"}
            one.migrations = [{**block, "steps": [25, 50, 100], "settle": 0, "gates": gates}]
            one.bridge["seat"] = "new"
            one.write()
            open.push_async_exit(one.__aexit__)
        await divide(members[0])
        for one in members:
            await one.start()
        yield Site(members, await open.enter_async_context(Etcd(target.address)))


async def stands(member: Bridge, phase: str, step: int) -> bool:
    """Whether every service is there, as a member says; says `next` for each that waits for a person."""
    rows = [await row(member, f"pay/{name}") for name in SERVICES]
    for one in rows:
        if one and one["waits"] == "person" and not one["paused"] and one.get("step", 0) < step:
            try:
                await member.ask("migrate", verb="next", name=one["move"], reason="the test says so")
            except IsthmusError:
                return False
    return all(one and (one["phase"], one.get("step")) == (phase, step) for one in rows)


@pytest.mark.timeout(600)
async def test_a_move_goes_on_where_a_member_dies_in_mid_step(site: Site) -> None:
    one, two, three = site.members
    await until(lambda: site.moved(0.0), "only the old side is written")
    await act(one, "start")
    await until(lambda: stands(two, "shift", 1), "the first step")
    await until(lambda: site.moved(25.0), "each member writes the share of its shards")
    await three.kill()
    await until(lambda: stands(two, "shift", 2), "the next step, with a member less")
    await until(lambda: site.moved(50.0), "what the dead one wrote is moved by those that are left", within=120.0)
    await one.kill()
    await until(lambda: site.moved(50.0), "whoever led it")
    await three.start()
    await until(lambda: stands(two, "shift", 3), "and the last step", within=150.0)
    await until(lambda: site.moved(100.0), "everything is on the new side")
