"""Services whose natives are in a registry move to pods of a real cluster and back, seen where their consumers look."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.kit.waiting import until
from tests.matrix.conftest import Stores
from tests.matrix.joining import copies, natives
from tests.matrix.places import Place, Reader, reading
from tests.migration.estate import GUARD, act, reaches, row
from tests.servers import ports

OLD = ("consul", "eureka", "spring", "kratos", "kitex")
VMS, PODS, STEPS = 20, 5, [5, 20, 50, 100]
# What so many percent come to beside 20 natives: copies by count, or one weight for all five by weights.
BY_COUNTS = {5: 1, 20: 5, 50: 5, 100: 5}
BY_WEIGHTS = {5: 0.21, 20: 1.0, 50: 4.0, 100: 76.0}
EMPTIED = "kratos"  # whose machines stop for a while
THRIFT = ("kitex",)  # which no proxy of HTTP has
VM_NET, POD_NET = "192.0.2", "198.51.100"
SIDES = (("vm", VMS), ("pod", PODS))
UNIT = {"kratos": 100, "kitex": 10}


def native(side: str, number: int, layout: int) -> Native:
    net = VM_NET if side == "vm" else POD_NET
    return Native(f"{side}-{number}", f"{net}.{20 * layout + number}", 9000 + layout)


async def fill(places: Mapping[str, Place], prod: Place) -> None:
    for layout, (kind, place) in enumerate(places.items()):
        await asyncio.gather(*(place.put(f"pay-{kind}", native("vm", number, layout)) for number in range(VMS)))
        await asyncio.gather(*(prod.put(f"pay-{kind}", native("pod", number, layout)) for number in range(PODS)))


def estate(folder: Path, places: Mapping[str, Place], prod: Place, edge: Mapping[str, Any]) -> Bridge:
    links: list[dict[str, Any]] = [
        {"from": ["prod"], "to": kind, "policy": "sync", "services": {"include": [f"pay-{kind}"]}, "guard": GUARD}
        for kind in places
    ]
    http = [kind for kind in places if kind not in THRIFT]
    links.append(
        {
            "from": ["prod", *http],
            "to": "edge",
            "policy": "sync",
            "services": {"include": ["*"], "exclude": [f"pay-{kind}" for kind in THRIFT]},
        }
    )
    registries = {kind: place.block for kind, place in places.items()}
    made = Bridge(folder, {**registries, "prod": prod.block, "edge": dict(edge)}, links, seat="kratos")
    made.migrations = [
        {
            "name": f"of-{kind}",
            "services": [f"pay-{kind}"],
            "from": [kind],
            "to": ["prod"],
            "at": [kind] if kind in THRIFT else [kind, "edge"],
            "steps": STEPS,
            "gates": {"hold_for": "0s", "approve": [], "parity": "warn"},
            "settle": 0,
        }
        for kind in places
    ]
    made.write()
    return made


class Edge(NamedTuple):
    """The export in front of everything that HTTP reaches."""

    port: int

    async def weighs(self, kind: str) -> tuple[float, float]:
        """What the machines and the pods of one service weigh there."""
        document = await asyncio.to_thread(self._read)
        weights = {
            server["url"].partition("//")[2].partition(":")[0]: float(server.get("weight", 1))
            for service in document["http"]["services"].values()  # one for each name of a port
            for server in service.get("loadBalancer", {}).get("servers", ())
        }
        vms, pods = ([native(side, n, OLD.index(kind)).address for n in range(count)] for side, count in SIDES)
        return sum(weights.get(one, 0.0) for one in vms), sum(weights.get(one, 0.0) for one in pods)

    async def has(self, kind: str, percent: int) -> bool:
        """Whether the pods weigh that percent, within a point, and not more: their copies in `kind` are theirs."""
        vms, pods = await self.weighs(kind)
        return bool(vms or pods) and percent - 1 <= 100 * pods / (vms + pods) <= percent + 0.01

    def _read(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/traefik", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


async def stands(reader: Reader, kind: str, origin: str, percent: int) -> bool:
    """Whether that percent stands there: every native, and of the pods what the step says."""
    service = await reader.read(f"pay-{kind}")
    pods = [one for some in copies(service, origin).values() for one in some if one.serving]
    if len(natives(service)) != VMS:
        return False
    if kind not in UNIT:
        return len(pods) == BY_COUNTS.get(percent, 0)
    wanted = BY_WEIGHTS.get(percent, 0.0)
    step = 1 / UNIT[kind]
    return len(pods) == (PODS if wanted else 0) and all(wanted - step < one.weight <= wanted + step for one in pods)


async def no_natives(reader: Reader, kind: str) -> bool:
    return not natives(await reader.read(f"pay-{kind}"))


async def test_natives_of_each_kind_move_to_pods_and_back(stores: Stores) -> None:
    places = {kind: await stores.place(kind) for kind in OLD}
    prod = await stores.place("kubernetes")
    (port,) = ports.reserve(1)
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [port])
        await fill(places, prod)
        made = await stack.enter_async_context(
            estate(stores.folder, places, prod, {"kind": "traefik", "listen": f"127.0.0.1:{port}"})
        )
        readers = {kind: await stack.enter_async_context(reading(place)) for kind, place in places.items()}
        origin = (await stack.enter_async_context(reading(prod))).identity
        await until(made.rests, "everything is read")

        edge = Edge(port)

        async def at(kind: str, percent: int) -> None:
            await until(lambda: stands(readers[kind], kind, origin, percent), f"{percent} % at {kind}")
            if kind not in THRIFT:
                await until(lambda: edge.has(kind, percent), f"{percent} % of {kind} at the export")

        async def open_again(name: str, kind: str) -> bool:
            return "CLOSED" not in (await row(made, f"{name}/pay-{kind}")).get("way_back", "CLOSED")

        async def no_way_back(name: str, kind: str) -> None:
            """The machines are gone: the pods' copies beside where they stood are nobody to go back to."""
            layout = OLD.index(kind)
            await asyncio.gather(*(places[kind].remove(f"pay-{kind}", f"vm-{number}") for number in range(VMS)))

            async def refused() -> bool:
                (said,) = await made.ask("migrate", verb="rollback", name=name, reason="the test says so", now=True)
                return "the old side serves less" in said["text"]

            await until(lambda: no_natives(readers[kind], kind), "the machines are gone")
            await until(refused, "nothing is moved to a side that is gone")
            some = (places[kind].put(f"pay-{kind}", native("vm", number, layout)) for number in range(VMS))
            await asyncio.gather(*some)
            await at(kind, STEPS[-1])
            await until(lambda: open_again(name, kind), "the way back is open again")

        async def move(kind: str) -> None:
            name = f"of-{kind}"
            await at(kind, 0)
            await act(made, "start", name=name)
            for step, percent in enumerate(STEPS, 1):
                await reaches(made, "shift", step, move=f"{name}/pay-{kind}")
                await at(kind, percent)
            if kind == EMPTIED:
                await no_way_back(name, kind)
            await act(made, "rollback", name=name, now=True)
            await reaches(made, "rolled back", move=f"{name}/pay-{kind}")
            await at(kind, 0)

        await asyncio.gather(*(move(kind) for kind in OLD))
        assert all(await asyncio.gather(*(place.untouched() for place in (*places.values(), prod))))
        assert await made.holds() == []
