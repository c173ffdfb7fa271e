"""Natives that this bridge has out of service, as the notes at its seat say: for the commands that end a bridge."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from bridge.adapter import Keeper, Registry, Steerer
from bridge.cli.output import Row
from bridge.config.schema import Configuration
from bridge.engine.opening import opened
from bridge.migration.natives import KEPT, Kept

KIND = "native out of service"


async def steered(configuration: Configuration, registry: str) -> list[Kept]:
    """What is out at a registry; at the one that lends the seat, at any. Raises Unavailable or Denied."""
    seat = configuration.bridge.seat
    if seat is None or seat not in configuration.registries:
        return []
    found = []
    async with opened(configuration, seat, configuration.bridge.id) as lender:
        if isinstance(lender.registry, Keeper):
            for note in (await lender.registry.notes(configuration.bridge.id).below(KEPT)).values():
                with contextlib.suppress(msgspec.DecodeError):  # of a newer isthmus
                    found.append(msgspec.json.decode(note.content, type=Kept))
    return [one for one in found if registry in (seat, one.registry)]


def may_have(configuration: Configuration, name: str, registry: Registry) -> bool:
    """Whether anything can be out there, or be noted there."""
    return name == configuration.bridge.seat or isinstance(registry, Steerer)


def steered_rows(registry: str, found: Sequence[Kept]) -> list[Row]:
    """As rows of the footprint of one registry; what is noted at the lender is of another."""
    moves: dict[str, list[str]] = {}
    for one in found:
        if one.registry == registry:
            moves.setdefault(one.move, []).extend(f"{key} ({one.place})" for key in one.out)
    return [
        {"registry": registry, "kind": KIND, "count": len(places), "needed": way_back(move), "places": places}
        for move, places in sorted(moves.items())
    ]


def way_back(move: str) -> str:
    """How the natives of a move come back."""
    return f"`isthmus migrate rollback {move}` puts them back"


def refusals(found: Sequence[Kept]) -> list[str]:
    """Why nothing of the bridge may go: what serves in the place of natives that are out is ours."""
    moves = {one.move: one.registry for one in found}
    return [f"{move} has natives out of service at {place}: {way_back(move)}" for move, place in sorted(moves.items())]
