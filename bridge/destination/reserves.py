"""The notes of the shards that this process writes, and what removals wait for: reserve, then read (ADR 44)."""

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

EVERY = 1.0  # seconds between two looks at whether there is something new to say
SAID = 10.0  # seconds between two notes of a shard in which nothing is new but what serves, was won and was lost


class Said:
    """The note of one shard that is ours: as it stands, what it says, and when that was written (monotonic)."""

    def __init__(self, note: Note | None, content: ShardNote | None) -> None:
        self.note = note
        self.content = content
        self.entered = content or ShardNote()  # as the writer before us left it
        self.at = float("-inf")
        self.counted = False  # what the writer before us counted is counted here
        self.recalled: set[str] = set()  # scopes of which it is known here what the writer before us believed
        self.writing = asyncio.Lock()


class Reserves:
    """One destination of a member of a group.

    `shard_of(name)`: the shard of a name. `terms()`: those of the shards that are ours. `again(names)` has these
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
        again: Callable[[Iterable[ServiceName]], None],
        relist: Callable[[View, str], None],
    ) -> None:
        self._destination = destination
        self._seat = seat
        self._who = who
        self._clock = clock
        self._wall = wall
        self._shard_of = shard_of
        self._terms = terms
        self._again = again
        self._relist = relist
        self._said: dict[int, Said] = {}
        self._heard = float("-inf")  # when the notes of all were read last
        self._round: asyncio.Task[Mapping[int, Note]] | None = None  # the read that has yet to begin
        self._reading = asyncio.Lock()

    @property
    def _ahead(self) -> float:
        return self._wall() - self._clock()

    @property
    def counted(self) -> Collection[int]:
        """The shards that are ours, and of which all is counted here."""
        return [shard for shard, one in self._said.items() if one.counted]

    # -- shards that come and go ---------------------------------------------------------------------------------------

    async def enter(self, shard: int) -> None:
        """The lock of a shard is ours: reads what the writer before us left. Raises Unavailable, Denied.

        ConfigError where a newer isthmus wrote it: this one must not go against that.
        """
        note = (await self._notes()).get(shard)
        try:
            content = decode(note)
        except ValueError as error:
            log.warning("unreadable destination=%s shard=%d reason=%r", self._destination.name, shard, str(error))
            content = None
        self._said[shard] = Said(note, content)

    def taken(self, shard: int) -> None:
        """All that the destination holds in a shard was read: what the writer before us lost counts here.

        What it had asked for and is gone was removed, and may not be counted in its note yet.
        """
        one = self._said.get(shard)
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
        """Doubts another life of a scope than the writer before us believed (safety rule 3)."""
        one = self._said.get(shard)
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
        """A shard is about to be handed over: who takes it over reads what was counted. Raises as `enter`."""
        if shard in self._said:
            await self._write(shard)

    def forget(self, shard: int) -> None:
        """A shard is not ours any more."""
        if self._said.pop(shard, None) is not None:
            self._destination.losses.leave(shard, lambda name: self._shard_of(name) == shard)

    # -- notes ---------------------------------------------------------------------------------------------------------

    def _content(self, shard: int) -> ShardNote:
        there, now = self._destination, self._clock()
        owned = there.inventory.owned_by_scope(shard)
        reserves: dict[str, dict[str, Any]] = {}
        for (identity, name), one in there.gate.reserves(shard, owned, self._shard_of, now, self._ahead).items():
            reserves.setdefault(identity, {})[name] = one
        entered = self._said[shard].entered
        views = {whole_of(view.scope): view for view in self._views(shard) if view.believed[0]}
        return ShardNote(
            who=self._who,
            lives=entered.lives | {scope: view.believed for scope, view in views.items()},
            generations=entered.generations | {scope: view.revision for scope, view in views.items()},
            reserves=reserves,
            losses=tuple(self._lost(shard, now)),
        )

    def _lost(self, shard: int, now: float) -> Iterable[Lost]:
        """What services of a shard lost within the guard's window, by the minute."""
        since, ahead = now - self._destination.gate.longest_window, self._ahead
        windows = self._destination.losses.windows
        for key in windows.lost(since):
            if isinstance(key, ServiceName) and self._shard_of(key) == shard:
                yield Lost.of(key, windows.minutes(key, since // MINUTE * MINUTE, ahead))

    async def _write(self, shard: int) -> None:
        """Says what there is to say of a shard. Raises Superseded where it is not ours any more."""
        one, term = self._said.get(shard), self._terms().get(shard)
        if one is None or term is None:  # what is sent of it is refused by the store
            return
        async with one.writing:
            content = self._content(shard)
            if content == one.content and one.note is not None:
                return
            try:
                one.note = await self._seat.note_shard(encode(content), one.note, term=term)
            except Conflict:  # an answer was lost: it stands as it was written then
                one.note = (await self._notes()).get(shard)
                one.note = await self._seat.note_shard(encode(content), one.note, term=term)
            one.content, one.at = content, self._clock()

    async def _notes(self) -> Mapping[int, Note]:
        """The notes of all shards, by a read that begins after this call: calls that come together share one read.

        The guard then judges by these notes. Raises Unavailable or Denied.
        """
        if self._round is None:
            self._round = asyncio.create_task(self._read())
            self._round.add_done_callback(lambda read: read.cancelled() or read.exception())  # nobody may wait any more
        return await asyncio.shield(self._round)

    async def _read(self) -> Mapping[int, Note]:
        async with self._reading:
            self._round = None
            notes = await self._seat.shard_notes()
        self._heard = self._clock()
        self._again(self._destination.gate.hear(self._elsewhere(notes), self._clock()))
        return notes

    def _elsewhere(self, notes: Mapping[int, Note]) -> Elsewhere:
        return elsewhere(notes, self.counted, self._ahead)

    # -- before removals are sent --------------------------------------------------------------------------------------

    async def allowed(self, batch: Batch) -> list[Change]:
        """What of a batch may be sent: its removals that lose are reserved, and judged by what others say then.

        Raises Unavailable, Denied or Superseded: nothing of it is sent.
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
        """Never returns: has the notes say what changed, and looks what others ask for while anything is held here."""
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
        one = self._said.get(shard)
        if one is None:  # it was handed over while the note of another one was written
            return False
        if self._clock() - one.at >= SAID:
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
    """Whether others have to know of a change before it is made."""
    removals = batch.plans[change.service].plan.removals
    return any(one.change.id == change.id and counts(one) for one in removals)
