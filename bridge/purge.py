"""Removing what a bridge owns at a registry, on the operator's word: planned and shown first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import NamedTuple

from bridge.adapter import Cause, Change, Held, Outcome, Sink
from bridge.errors import Unavailable
from bridge.model import Mark, ServiceName

BATCH = 60
LOCK_PATIENCE = 3.0  # seconds in which a lock that nobody holds is ours


class Purge(NamedTuple):
    """What would be removed, and which services are spared because ours are their only serving entries."""

    changes: list[Change]
    spared: dict[ServiceName, int]


def plan_purge(
    held: Held,
    owner: str,
    *,
    link: str | None = None,
    known_links: Collection[str] | None = None,
    including_last: bool = False,
) -> Purge:
    """Entries of that owner; of one link only, or (`known_links`) those whose link is none of these: orphans."""
    changes: list[Change] = []
    spared: dict[ServiceName, int] = {}
    for name, entries in sorted(held.services.items()):
        going = {key: entry for key, entry in entries.items() if _meant(entry.mark, owner, link, known_links)}
        stays = any(entry.instance.serving for key, entry in entries.items() if key not in going)
        serves = any(entry.instance.serving for entry in going.values())
        if serves and not stays and not including_last:
            spared[name] = len(going)
            continue
        changes += [Change(name, key, entry, None, entry.mark, Cause.PURGE) for key, entry in going.items()]
    return Purge(changes, spared)


def _meant(mark: Mark | None, owner: str, link: str | None, known_links: Collection[str] | None) -> bool:
    if mark is None or mark.owner != owner:
        return False
    if link is not None:
        return mark.link == link
    return known_links is None or mark.link not in known_links


async def apply_under_lock(sink: Sink, changes: list[Change], *others: Sink) -> list[Outcome]:
    """Makes the changes as the one writer of the sink's bridge, and of `others`' where they are to stand still, too.

    Raises Unavailable while a daemon holds one of the locks.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(LOCK_PATIENCE):
                for each in (*others, sink):
                    await stack.enter_async_context(each.writer())
        except TimeoutError:
            raise Unavailable("a daemon writes there; stop it first") from None
        outcomes: list[Outcome] = []
        for start in range(0, len(changes), BATCH):
            outcomes += await sink.apply(changes[start : start + BATCH])
        return outcomes
