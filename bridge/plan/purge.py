"""Removing what a bridge owns at a registry, as an operator asks: planned and shown first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import NamedTuple

from bridge.adapter import Cause, Change, Entry, Held, Outcome, Seat, Sink
from bridge.errors import Conflict, Unavailable
from bridge.model import Instance, Mark, ServiceName
from bridge.shards import Shards

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
    if link is None and known_links is None:  # entries of the ledger without what they are about: nobody needs them
        for name, loose in sorted(held.loose.items()):
            changes += [
                Change(name, key, Entry(Instance(key, ""), version=version), forget=True)
                for key, version in loose.items()
                if name not in spared
            ]
    return Purge(changes, spared)


def _meant(mark: Mark | None, owner: str, link: str | None, known_links: Collection[str] | None) -> bool:
    if mark is None or mark.owner != owner:
        return False
    if link is not None:
        return mark.link == link
    return known_links is None or mark.link not in known_links


async def apply_under_lock(
    sink: Sink, seat: Seat | None, changes: list[Change], *others: Seat, leave: bool = False
) -> list[Outcome]:
    """Makes the changes as the one writer of the sink's bridge, and of `others`' where they are to stand still, too.

    `leave`: if all of it is made, the bridge's note and lock go as well; a destination that is divided is united first.
    `seat` None: the destination has none. Raises Unavailable while a daemon holds one of the locks.
    """
    for each in (*others, *([seat] if seat is not None else [])):
        await _whole(each, leave=leave)
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(LOCK_PATIENCE):
                for each in others:
                    await stack.enter_async_context(each.writer())
                term = await stack.enter_async_context(seat.writer()) if seat is not None else None
        except TimeoutError:
            raise Unavailable(
                "a daemon writes there: stop it on every host that `isthmus members` lists, then do this again"
            ) from None
        outcomes: list[Outcome] = []
        for start in range(0, len(changes), BATCH):
            outcomes += await sink.apply(changes[start : start + BATCH], term)
        if leave and seat is not None and term is not None and all(one.error is None for one in outcomes):
            await seat.leave(term)
        return outcomes


async def _whole(seat: Seat, *, leave: bool) -> None:
    """Returns where the destination is not divided into the shards of a group, any more. Raises Unavailable."""
    count = await seat.divided() if isinstance(seat, Shards) else None
    if not isinstance(seat, Shards) or count is None:
        return
    if not leave:
        raise Unavailable(
            f"a group writes there, in {count} shards: stop its daemons, run `isthmus group end` for it, then do this "
            "again"
        )
    try:
        await seat.unite()
    except Conflict as error:
        raise Unavailable(
            f"a daemon of the group writes there ({error}): stop all of them, then do this again"
        ) from None
