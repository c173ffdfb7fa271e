"""Bridges between places, in this process; and what became of each instance on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from bridge import config
from bridge.engine import Engine
from bridge.inspect import Silence
from bridge.model import NOWHERE, Health, Instance, Service
from mappings import pairs
from tests.matrix.places import Place, Reader
from tests.running import until

QUIET = 0.4  # seconds in which an echo would have come around several times


@asynccontextmanager
async def bridge(
    folder: Path, places: Mapping[str, Place], links: Iterable[tuple[str, str]], *, id: str = "b1"
) -> AsyncIterator[Engine]:
    """One engine with these registries, by their names in its file; `links` says what leads where.

    What leads to one registry is one link: the same names are merged, for two links must not send the same ones.
    """
    sources: dict[str, list[str]] = {}
    for source, target in links:
        sources.setdefault(target, []).append(source)
    blocks = {
        "bridge": {"id": id},
        "registries": {name: place.block for name, place in places.items()},
        # Everything goes, under the limits that users have.
        "links": [
            {"from": some, "to": target, "policy": "sync", "services": {"include": ["*"]}}
            for target, some in sources.items()
        ],
    }
    path = folder / f"{id}.yaml"
    path.write_text(yaml.safe_dump(blocks))
    async with Engine(config.load(path, {}, ephemeral=True), ear=Silence(), state=None) as engine:
        watchdog = asyncio.create_task(engine.crashed())
        try:
            yield engine
        finally:
            if watchdog.done():
                watchdog.result()
            watchdog.cancel()
            await asyncio.gather(watchdog, return_exceptions=True)


def copies(service: Service, origin: str) -> dict[str, list[Instance]]:
    """What stands there of the natives of one registry: by the id that each has at the place it was copied from."""
    found: dict[str, list[Instance]] = {}
    for id, mark in service.marks.items():
        if mark.path[0] == origin:
            found.setdefault(mark.instance, []).append(service.instances[id])
    return found


def natives(service: Service) -> dict[str, Instance]:
    """What no bridge wrote."""
    return {id: instance for id, instance in service.instances.items() if id not in service.marks}


def differences(source: str, before: Instance, target: str, after: Instance) -> set[str]:
    """What a copy lacks, in the words of the table of pairs."""
    fields = pairs.TRAITS[source].fields - {"address", "ports", "health", "metadata"}
    lost = {field for field in fields if getattr(before, field) != getattr(after, field)}
    (one,), (other,) = before.ports, after.ports
    said = {
        "address": before.address != after.address,
        "port": one.number != other.number,
        "metadata": not before.metadata.items() <= after.metadata.items(),
        "health": before.health is not after.health,
        "port names": pairs.TRAITS[source].port_names and one.name != other.name,
        "protocol": one.protocol != other.protocol,
        "tls": one.tls != other.tls,
    }
    return lost | {word for word, differs in said.items() if differs}


def losses(source: str, before: Instance, target: str) -> set[str]:
    """What the table says that this very instance loses; what it does not have cannot be lost."""
    said = set(pairs.pair(source, target).lost)
    (port,) = before.ports
    has = {
        "id": target != "kitex" or before.id != f"{before.address}:{port.number}",
        "health": before.health is not Health.UNKNOWN,
        "weight": before.weight != 1.0,
        "locality": before.locality != NOWHERE,
        "version": before.version != "",
        "tags": before.tags != (),
        "metadata": before.metadata != {},
        "port names": port.name != port.protocol,
        "protocol": target in pairs.LAYOUTS and port.protocol != pairs.LAYOUTS[target].PROTOCOL,
        "tls": port.tls,
    }
    return {word for word in said if has.get(word, False)}


def amiss(source: str, here: Service, target: str, there: Service, origin: str) -> list[str]:
    """Each native of one side must stand on the other side, once, with no more and no less than what is lost."""
    expected, found = natives(here), copies(there, origin)
    faults = [f"{id} of {here.name} is not there" for id in expected.keys() - found.keys()]
    faults += [f"{id} of {here.name} is there still" for id in found.keys() - expected.keys()]
    for id in expected.keys() & found.keys():
        if len(found[id]) > 1:
            faults.append(f"{id} of {here.name} is there {len(found[id])} times")
        said = losses(source, expected[id], target)
        lost = differences(source, expected[id], target, found[id][0])
        if lost != said:
            faults.append(f"{id} of {here.name} lacks {sorted(lost)}, not {sorted(said)}: {found[id][0]}")
    return faults


async def right(look: Callable[[], Awaitable[list[str]]]) -> None:
    """Waits until there is nothing amiss; says what is where that does not happen."""
    faults: list[str] = []

    async def is_right() -> bool:
        faults[:] = await look()
        return not faults

    try:
        await until(is_right, every=0.05)
    except AssertionError:
        raise AssertionError("\n".join(faults)) from None


async def settled(engines: Sequence[Engine], places: Sequence[Place]) -> list[object]:
    """Waits until nobody writes any more; fails where writes never end. The positions that stand still."""

    async def still() -> list[object] | None:
        if not all(one.idle for engine in engines for one in engine.reconcilers.values()):
            return None
        before = await positions(places)
        await asyncio.sleep(QUIET)
        return before if await positions(places) == before else None

    found: list[object] = await until(still, "no more writes")
    return found


async def positions(places: Sequence[Place]) -> list[object]:
    """Of all places."""
    return [await place.position() for place in places]


async def read_all(readers: Sequence[Reader], service: str) -> list[Service]:
    """One service everywhere."""
    return list(await asyncio.gather(*(reader.read(service) for reader in readers)))
