"""Services whose natives are in a registry move to pods of a real cluster and back, seen where their consumers look."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.kit.running import Bridge
from tests.kit.stock import Native
from tests.kit.waiting import until
from tests.matrix.conftest import Stores
from tests.matrix.joining import copies, natives
from tests.matrix.places import Place, Reader, reading
from tests.migration.estate import GUARD, act, reaches
from tests.servers import ports

OLD = ("consul", "eureka", "spring", "kratos", "kitex")
VMS, PODS, STEPS = 20, 5, [5, 20, 50, 100]
# What so many percent come to beside 20 natives: copies by count, or one weight for all five by weights.
BY_COUNTS = {5: 1, 20: 5, 50: 5, 100: 5}
BY_WEIGHTS = {5: 0.21, 20: 1.0, 50: 4.0, 100: 76.0}
THRIFT = ("kitex",)  # which no proxy of HTTP has
UNIT = {"kratos": 100, "kitex": 10}


def native(side: str, number: int, layout: int) -> Native:
    net = "192.0.2" if side == "vm" else "198.51.100"
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

        async def at(kind: str, percent: int) -> None:
            await until(lambda: stands(readers[kind], kind, origin, percent), f"{percent} % at {kind}")

        async def move(kind: str) -> None:
            name = f"of-{kind}"
            await at(kind, 0)
            await act(made, "start", name=name)
            for step, percent in enumerate(STEPS, 1):
                await reaches(made, "shift", step, move=f"{name}/pay-{kind}")
                await at(kind, percent)
            await act(made, "rollback", name=name, now=True)
            await reaches(made, "rolled back", move=f"{name}/pay-{kind}")
            await at(kind, 0)

        await asyncio.gather(*(move(kind) for kind in OLD))
        assert all(await asyncio.gather(*(place.untouched() for place in (*places.values(), prod))))
        assert await made.holds() == []
