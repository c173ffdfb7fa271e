"""Bridges between places, in this process; and what became of each instance on its way, by docs/layouts.md."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from bridge.cli.offline import Silence
from bridge.config import load as config
from bridge.engine.engine import Engine
from bridge.model import NOWHERE, Health, Instance, Service
from mappings import eureka, pairs
from tests.kit import stock
from tests.kit.running import ROOT
from tests.kit.waiting import until
from tests.matrix.places import Place, Reader

QUIET = 0.4  # seconds in which an echo would have come around several times

# The table of docs/layouts.md: the verdict of each pair, and what is lost, in its words.
ROW = re.compile(r"^\| (\S+) \| (\S+) \| (\w+) \| (.*) \|$", re.M)
TABLE: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    (source, target): (verdict, tuple(words.split(", ")))
    for source, target, verdict, words in ROW.findall((ROOT / "docs/layouts.md").read_text())
}
CAN_DRAIN = stock.DRAINING | {"consul", "eureka", "kubernetes", "file"}
PROTOCOLS = {name: layout.PROTOCOL for name, layout in pairs.LAYOUTS.items()} | {"eureka": eureka.PROTOCOL}
# What readers of a layout take a health for that has no word of its own there.
READ_AS = {
    "eureka": {Health.DEGRADED: Health.HEALTHY, Health.UNKNOWN: Health.HEALTHY},
    "spring": {Health.DEGRADED: Health.HEALTHY},
}


def takes(source: str, target: str) -> bool:
    """Whether the file may have such a link; the table has no row for a layout and itself."""
    verdict = TABLE[source, target][0] if source != target else pairs.pair(source, target).verdict
    return verdict != "refused"


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
        # Eureka has no lock of its own: that is in a store that has one.
        "bridge": {"id": id, "seat": next(name for name, place in places.items() if place.layout != "eureka")},
        "registries": {name: place.block for name, place in places.items()},
        # Everything goes, under the limits that users have.
        "links": [
            {"from": some, "to": target, "policy": "sync", "services": {"include": ["*"]}}
            for target, some in sources.items()
        ],
    }
    path = folder / f"{id}.yaml"
    path.write_text(yaml.safe_dump(blocks))
    async with Engine(config.load(path, {}, ephemeral=True), events=Silence(), state=None) as engine:
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
    # Where both say a weight in metadata each says it in its own scale, and it is compared as the weight.
    metadata = {key: text for key, text in before.metadata.items() if key != "weight" or "weight" not in fields}
    said = {
        "address": before.address != after.address,
        "port": one.number != other.number,
        "metadata": not metadata.items() <= after.metadata.items(),
        "health": READ_AS.get(target, {}).get(before.health, before.health) is not after.health,
        "port names": pairs.TRAITS[source].port_names and one.name != other.name,
        "protocol": one.protocol != other.protocol,
        "tls": one.tls != other.tls,
    }
    return lost | {word for word, differs in said.items() if differs}


def losses(source: str, before: Instance, target: str) -> set[str]:
    """What the table says that this very instance loses; what it does not have cannot be lost."""
    said = TABLE[source, target][1] if source != target else ()
    (port,) = before.ports
    has = {
        "id": target != "kitex" or before.id != f"{before.address}:{port.number}",
        "health": before.health is not Health.UNKNOWN,
        "weight": before.weight != 1.0,
        "locality": before.locality != NOWHERE,
        "version": before.version != "",
        "tags": before.tags != (),
        "metadata": before.metadata != {},
        "port names": port.name != (PROTOCOLS.get(target) or port.protocol),
        "protocol": port.protocol != PROTOCOLS.get(target, port.protocol),
        "tls": port.tls,
    }
    return {word for word in said if has.get(word, False)}


def stays(source: str, instance: Instance, target: str) -> bool:
    """Whether a link that says nothing of it leaves that instance at the target, for its health."""
    traits = pairs.TRAITS[target]
    return instance.serving or ((traits.has_health or source == target) and not traits.calls_unhealthy)


def amiss(source: str, here: Service, target: str, there: Service, origin: str) -> list[str]:
    """Each native of one side must stand on the other side, once, with no more and no less than what is lost."""
    expected = {id: one for id, one in natives(here).items() if stays(source, one, target)}
    found = copies(there, origin)
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


async def right(look: Callable[[], Awaitable[list[str]]], every: float = 0.05) -> None:
    """Waits until there is nothing amiss, looking `every` so many seconds; says what is where that does not happen."""
    faults: list[str] = []

    async def is_right() -> bool:
        faults[:] = await look()
        return not faults

    try:
        await until(is_right, every=every)
    except AssertionError:
        raise AssertionError("\n".join(faults)) from None


async def idle(engines: Sequence[Engine]) -> bool:
    """Whether they have nothing to do."""
    return all(one.idle for engine in engines for one in engine.reconcilers.values())


async def settled(rests: Callable[[], Awaitable[bool]], places: Sequence[Place]) -> list[object]:
    """Waits until nobody writes any more; fails where writes never end. The positions that stand still."""

    async def still() -> list[object] | None:
        if not await rests():
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
