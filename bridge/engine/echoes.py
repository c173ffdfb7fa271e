"""Where others might carry what we wrote back to where it came from, by way of a registry that we only read.

A registry that we write has our own copies, and a native there is one in its own right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import NamedTuple

from bridge.destination.reconciler import Reconciler
from bridge.link import Link
from bridge.plan.echo import LASTS
from bridge.plan.values import Kind

EVERY = 10.0  # seconds between two looks at what is parked as an echo


class Pace(NamedTuple):
    """In seconds. `lasts`: so long may a tool carry on what is gone. `every`: between two looks at what is parked."""

    lasts: float = LASTS
    every: float = EVERY


def watch(reconcilers: Mapping[str, Reconciler], links: Collection[Link], pace: Pace) -> None:
    """Has each destination remember what it wrote where that may come back, and no other."""
    kept: set[str] = set()
    for name, one in reconcilers.items():
        only_read = {source for link in one.destination.links for source in link.registries} - reconcilers.keys()
        beyond = sorted({link.to for link in links if name in link.registries and only_read})
        kept.update(beyond)
        written = tuple(reconcilers[to].destination.keep_written(to, pace.lasts) for to in beyond)
        one.destination.routing.beyond = dict.fromkeys(only_read, written) if written else {}
    for name in reconcilers.keys() - kept:
        reconcilers[name].destination.inventory.written = None


async def look_again(reconcilers: Mapping[str, Reconciler], pace: Pace) -> None:
    """Asks again, for what is parked as an echo, whose address it is now; never returns."""
    while True:
        await asyncio.sleep(pace.every)
        for one in reconcilers.values():
            if (written := one.destination.inventory.written) is not None:
                written.sweep()
                asked, written.asked = written.asked, set()
                if one.role == "standby":  # what the writer does there is seen in reading only
                    one.read_again(asked)
            if one.destination.routing.beyond:
                one.poke([name for (name, _), reason in one.destination.parked.items() if reason.kind is Kind.ECHO])
