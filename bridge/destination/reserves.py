"""Keeps the limits of the guard over all members of a group: each reserves its removals before it makes them (ADR 44).

A member writes into the note of its shard how much it is about to remove, then reads the notes of all shards, and
removes only what the sum of all allows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from bridge.adapter import Change, Note
from bridge.destination.apply import Batch
from bridge.destination.destination import Destination
from bridge.errors import Conflict, IsthmusError
from bridge.guard.losses import Lost, within
from bridge.guard.reserve import AGAIN, Elsewhere, ShardNote, counts, decode, elsewhere, encode
from bridge.guard.windows import MINUTE
from bridge.model import ServiceName
from bridge.shards import Shards, ShardTerm, whole_of
from bridge.sources.view import View

log = logging.getLogger("isthmus.group")

EVERY = 1.0  # seconds between two checks whether a note has to be written
REFRESH = 10.0  # seconds between two notes of a shard whose reserved removals are the same: only its counts differ


class OwnNote:
    """The note of one shard that is ours: as it is in the store, its content, and when it was written (monotonic)."""

    def __init__(self, note: Note | None, content: ShardNote | None) -> None:
        self.note = note
        self.content = content
        self.entered = content or ShardNote()  # as the previous writer left it
        self.at = float("-inf")
        self.counted = False  # the losses that the previous writer counted are included in ours
        self.recalled: set[str] = set()  # scopes whose identity was compared with what the previous writer believed
        self.writing = asyncio.Lock()


class Reserves:
    """The notes of this member's shards at one destination, and what the notes of the others mean for its removals.

    `shard_of(name)`: the shard of a service. `terms()`: our terms, by shard. `plan_again(names)` has these services
    planned again, `relist(view, reason)` starts a watch over. `wall()`: seconds since the epoch.
    """

    def __init__(
        self,
        destination: Destination,
        seat: Shards,
        who: str,
        clock: Callable[[], float],
        wall: Callable[[], float],
        *,
        shard_of: Callable[[ServiceName], int],
        terms: Callable[[], Mapping[int, ShardTerm]],
        plan_again: Callable[[Iterable[ServiceName]], None],
        relist: Callable[[View, str], None],
    ) -> None:
        self._destination = destination
        self._seat = seat
        self._who = who
        self._clock = clock
        self._wall = wall
        self._shard_of = shard_of
        self._terms = terms
        self._plan_again = plan_again
        self._relist = relist
        self._own: dict[int, OwnNote] = {}
        self._heard = float("-inf")  # when the notes of all shards were read last
        self._next_read: asyncio.Task[Mapping[int, Note]] | None = None  # the read that has yet to begin
        self._reading = asyncio.Lock()

    @property
    def _ahead(self) -> float:
        return self._wall() - self._clock()

    @property
    def counted(self) -> Collection[int]:
        """The shards that are ours, and whose entries and losses are counted here completely."""
        return [shard for shard, one in self._own.items() if one.counted]

    # -- shards that begin and end -------------------------------------------------------------------------------------

    async def enter(self, shard: int) -> None:
        """The lock of a shard is ours: reads the note that the previous writer left. Raises Unavailable or Denied.

        Raises ConfigError where a newer isthmus wrote the note: this version must not act against what it cannot read.
        """
        note = (await self._notes()).get(shard)
        try:
            content = decode(note)
        except ValueError as error:
            log.warning("unreadable destination=%s shard=%d reason=%r", self._destination.name, shard, str(error))
            content = None
        self._own[shard] = OwnNote(note, content)

    def was_read(self, shard: int) -> None:
        """All entries of a shard were read: from now on the losses of the previous writer are counted here.

        Reserved removals whose entries are gone were made, and its note may not count them as losses yet.
        """
        one = self._own.get(shard)
        if one is None or one.counted:
            return
        one.counted = True
        losses, ahead, note = self._destination.losses, self._ahead, one.entered
        for identity, scopes in note.reserves.items():
            for name, reserve in scopes.items():
                scope = (identity, name)
                losses.enter(shard, scope, reserve.won, reserve.reused, ahead)
                gone = reserve.serving - self._destination.inventory.owned_in(scope, shard)
                if (lost := min(gone, sum(reserve.asked.values()))) > 0:
                    losses.windows.add(within(shard, scope), self._clock(), -lost)
                if reserve.settled:
                    losses.settled_in.add((shard, scope))
        for each in note.losses:
            losses.enter_service(each, ahead)

    def recall(self, shard: int) -> None:
        """Doubts a scope whose incarnation is not the one that the previous writer believed (safety rule 3)."""
        one = self._own.get(shard)
        for view in self._views(shard) if one is not None and one.entered.lives else ():
            scope = whole_of(view.scope)
            if one is None or scope in one.recalled or scope not in one.entered.lives:
                continue
            one.recalled.add(scope)
            if view.recall(*one.entered.lives[scope], one.entered.generations.get(scope, 0)):
                view.mark_stale()
                self._relist(view, "another process that wrote believed another life of it")

    def _views(self, shard: int) -> list[View]:
        return [view for view in self._destination.routing.views() if view.shard == shard]

    async def leave(self, shard: int) -> None:
        """A shard is about to be handed over: writes its note, for the next writer to read. Raises as `enter`."""
        if shard in self._own:
            await self._write(shard)

    def forget(self, shard: int) -> None:
        """A shard is no longer ours."""
        if self._own.pop(shard, None) is not None:
            self._destination.losses.leave(shard, lambda name: self._shard_of(name) == shard)

    # -- notes ---------------------------------------------------------------------------------------------------------

    def _content(self, shard: int) -> ShardNote:
        there, now = self._destination, self._clock()
        owned = there.inventory.owned_by_scope(shard)
        reserves: dict[str, dict[str, Any]] = {}
        for (identity, name), one in there.gate.reserves(shard, owned, self._shard_of, now, self._ahead).items():
            reserves.setdefault(identity, {})[name] = one
        entered = self._own[shard].entered
        views = {whole_of(view.scope): view for view in self._views(shard) if view.believed[0]}
        return ShardNote(
            who=self._who,
            lives=entered.lives | {scope: view.believed for scope, view in views.items()},
            generations=entered.generations | {scope: view.revision for scope, view in views.items()},
            reserves=reserves,
            losses=tuple(self._lost(shard, now)),
        )

    def _lost(self, shard: int, now: float) -> Iterable[Lost]:
        """The losses of the services of a shard within the guard's window, by the minute."""
        since, ahead = now - self._destination.gate.longest_window, self._ahead
        windows = self._destination.losses.windows
        for key in windows.lost(since):
            if isinstance(key, ServiceName) and self._shard_of(key) == shard:
                yield Lost.of(key, windows.minutes(key, since // MINUTE * MINUTE, ahead))

    async def _write(self, shard: int) -> None:
        """Writes the note of a shard, if its content changed. Raises Superseded where the shard is no longer ours."""
        one, term = self._own.get(shard), self._terms().get(shard)
        if one is None or term is None:  # the store will refuse every write of this shard as well
            return
        async with one.writing:
            content = self._content(shard)
            if content == one.content and one.note is not None:
                return
            try:
                one.note = await self._seat.note_shard(encode(content), one.note, term=term)
            except Conflict:  # the answer to an earlier write was lost: that write was made
                one.note = (await self._notes()).get(shard)
                one.note = await self._seat.note_shard(encode(content), one.note, term=term)
            one.content, one.at = content, self._clock()

    async def _notes(self) -> Mapping[int, Note]:
        """The notes of all shards, by a read that begins after this call: calls that come together share one read.

        The guard then judges by these notes. Raises Unavailable or Denied.
        """
        if self._next_read is None:
            self._next_read = asyncio.create_task(self._read())
            self._next_read.add_done_callback(lambda read: read.cancelled() or read.exception())  # nobody may wait
        return await asyncio.shield(self._next_read)

    async def _read(self) -> Mapping[int, Note]:
        async with self._reading:
            self._next_read = None
            notes = await self._seat.shard_notes()
        self._heard = self._clock()
        self._plan_again(self._destination.gate.hear(self._elsewhere(notes), self._clock()))
        return notes

    def _elsewhere(self, notes: Mapping[int, Note]) -> Elsewhere:
        return elsewhere(notes, self.counted, self._ahead)

    # -- before a batch is sent --------------------------------------------------------------------------------------

    async def allowed(self, batch: Batch) -> list[Change]:
        """The changes of a batch that may be sent: its removals are reserved, then judged by the notes of all shards.

        Raises Unavailable, Denied or Superseded: then nothing of the batch is sent.
        """
        losing = {id(change) for change in batch.changes if _loses(batch, change)}
        if not losing:
            return batch.changes
        await self._write(batch.shard)
        await self._notes()
        gate, now = self._destination.gate, self._clock()
        return [
            change
            for change in batch.changes
            if id(change) not in losing or gate.stands(batch.plans[change.service].plan, change, now)
        ]

    async def run(self) -> None:
        """Never returns. Keeps our notes up to date, and reads those of the others as long as anything is held here."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                for shard in [*self.counted]:
                    self.recall(shard)
                    if self._is_due(shard):
                        await self._write(shard)
                if self._destination.holds.names() and self._clock() - self._heard >= AGAIN:
                    await self._notes()
            except IsthmusError as error:
                log.info("no notes destination=%s reason=%r", self._destination.name, str(error))

    def _is_due(self, shard: int) -> bool:
        one = self._own.get(shard)
        if one is None:  # the shard was handed over while the note of another shard was written
            return False
        if self._clock() - one.at >= REFRESH:
            return True
        before = one.content.reserves if one.content is not None else {}
        asked = self._destination.holds.asked_of(lambda name: self._shard_of(name) == shard)
        said = {
            (identity, name): each.asked
            for identity, scopes in before.items()
            for name, each in scopes.items()
            if each.asked
        }
        return asked != said


def _loses(batch: Batch, change: Change) -> bool:
    """Whether a change has to be reserved before it is made."""
    removals = batch.plans[change.service].plan.removals
    return any(one.change.id == change.id and counts(one) for one in removals)
