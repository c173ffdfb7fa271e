"""What a link would write, as addresses to be reached from a consumer's host: a list, or a file without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.errors import ConfigError
from bridge.link import Link
from bridge.migration.block import Migration, Part
from bridge.model import ServiceName

FORMAT = 1


class Target(msgspec.Struct, frozen=True):
    """One port of an instance that serves, as it would stand at the destination."""

    service: str
    instance: str
    address: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    network: str


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """The file that `probe --write-targets` and `migrate targets` make. `link`: its name, or a migration and a side."""

    format: int = FORMAT
    link: str
    targets: tuple[Target, ...]


def targets_of(engine: Engine, link: Link) -> Targets:
    """Every port of all that serves and that a link would write, by service and instance."""
    destination = engine.reconcilers[link.to].destination
    places = destination.inventory.places
    found = [
        Target(str(name), key, one.instance.address, port.number, places.networks.of(link.to, one.instance, one.mark))
        for name in destination.names()
        for key, one in destination.plan(name)[0].wanted.items()
        if one.mark.link == link.name and one.instance.serving
        for port in one.instance.ports
        if port.connects
    ]
    return Targets(link=link.name, targets=_sorted(found))


def targets_of_side(engine: Engine, block: Migration, services: Iterable[ServiceName], part: Part) -> Targets:
    """Every port of one side of some moves, by service and instance, as the sources have them."""
    found = [
        Target(str(service), key, one.address, port.number, "")
        for service in services
        for key, one in moves.side(engine, block, service, part)
        for port in one.ports
        if port.connects
    ]
    return Targets(link=f"{block.name} {part}", targets=_sorted(found))


def _sorted(found: Iterable[Target]) -> tuple[Target, ...]:
    return tuple(sorted(found, key=lambda one: (one.service, one.instance, one.port)))


def read(path: Path) -> Targets:
    """The targets of a file. Raises ConfigError where it is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Targets)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: is no file of `isthmus probe --write-targets`: {error}") from None
    if found.format != FORMAT:
        raise ConfigError(f"{path}: has format {found.format}, and this isthmus reads {FORMAT}")
    return found


def spread(targets: Iterable[Target], limit: int) -> list[list[Target]]:
    """At most so many addresses and ports, each with all that are there: one of each service, then another of each."""
    by_service: dict[str, dict[tuple[str, int], None]] = {}
    at: dict[tuple[str, int], list[Target]] = {}
    for one in targets:
        by_service.setdefault(one.service, {})[one.address, one.port] = None
        at.setdefault((one.address, one.port), []).append(one)
    turns = [(turn, pair) for pairs in by_service.values() for turn, pair in enumerate(pairs)]
    first = dict.fromkeys(pair for _, pair in sorted(turns, key=lambda one: one[0]))
    return [at[pair] for pair in first][:limit]
