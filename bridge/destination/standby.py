"""How the daemons of one bridge share their knowledge at a destination, by the note beside its lock.

The writer writes who it is, what operators decided, and what was lost lately; a standby reads it, and adds what was
decided on its own host. What both have changed is merged decision by decision (docs/adr/0007-hot-standby.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from bridge.adapter import Seat, Term
from bridge.destination.destination import Destination
from bridge.destination.events import Events
from bridge.destination.handover import Handover
from bridge.destination.note import FORMAT, MEMBERS, NOBODY, Act, Shared, decode, encode, fitting, refuse_old
from bridge.destination.writer import Member, Writer
from bridge.errors import ConfigError, Conflict, Superseded, Unavailable, reason
from bridge.retry import BUG, Reaction, forever
from bridge.state.decisions import Decision
from bridge.state.folder import State

log = logging.getLogger("isthmus.standby")

EVERY = 1.0  # seconds between two looks at the note, and between two notes
TROUBLED = 5.0  # seconds until the next look after a failed one
LOSSES_EVERY = 10.0  # seconds between two notes that differ only by losses
SAY = 60.0  # seconds between two announcements of a standby
STALE = 3 * SAY  # seconds without an announcement, after which a standby may have ended
FORGOTTEN = 86400.0  # seconds without an announcement, after which a standby is forgotten
ACTS = 20  # acts of operators in a note


class Standby:
    """One destination of one daemon. `writer`: the process that writes there, as far as is known.

    `me()` says who this process is as the writer, `wall()` gives seconds since the epoch.
    `keys()`: a hash of each key of the file that runs. `acts()`: what operators did here of late.
    """

    def __init__(
        self,
        seat: Seat,
        destination: Destination,
        kept: State,
        events: Events,
        *,
        me: Callable[[], Writer],
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: random.Random | None = None,
        keys: Callable[[], Mapping[str, str]] = dict,
        acts: Callable[[], Sequence[Act]] = tuple,
    ) -> None:
        self.writer: Writer | None = None
        self.members: tuple[Member, ...] = ()
        self.differing: tuple[str, ...] = ()
        self._seat = seat
        self._destination = destination
        self._handover = Handover(destination, kept, events, clock, wall)
        self._events = events
        self._me = me
        self._clock = clock
        self._wall = wall
        self._keys = keys
        self._acts = acts
        self._rng = rng or random.Random()
        self._since = 0.0
        self._noted = float("-inf")
        self._trouble = ""
        self._wanted = asyncio.Event()  # set: look at once

    async def inherit(self) -> Writer | None:
        """Takes over from the previous writer, when the lock is ours and before anything is written; see `Peers`.

        Raises Unavailable or Denied. What cannot be read may have said that writes are to stop: all are frozen then.
        """
        self._since = self._wall()
        note = await self._seat.recall()
        try:
            shared = decode(note)
        except ConfigError as error:  # a newer isthmus has written here: this one must not write
            raise Unavailable(str(error)) from error
        except ValueError as error:
            shared = None
            self._handover.freeze_all(f"what the writer before left beside the lock cannot be read: {error}")
        self._handover.inherit(shared)
        self.writer = self._own()
        self._noted = float("-inf")
        self._wanted.set()
        before = shared.author if shared is not None else None
        return before if before is not None and before.place != self._me().place else None

    async def run(self, term: Callable[[], Term | None]) -> None:
        """Looks once a second, and as soon as the lock is ours; writes a note only where it changed. Never returns."""

        async def looks() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY):
                        await self._wanted.wait()
                self._wanted.clear()
                try:
                    await self.look(term())
                except (ValueError, ConfigError) as error:  # an invalid note counts as no answer
                    raise Unavailable(str(error)) from error
                self._trouble = ""

        await forever(looks, self._failed, rng=self._rng, clock=self._clock)

    def _failed(self, error: Exception, reaction: Reaction) -> None:
        if isinstance(error, Conflict | Superseded):  # another daemon was first: the next look reads its note
            return
        if reaction is BUG:
            raise error  # a bug of the core ends the process
        if str(error) != self._trouble:
            log.warning("the note is out of reach destination=%s reason=%r", self._destination.name, reason(error))
        self._trouble = reason(error)

    async def look(self, term: Term | None, *, leave: bool = False) -> None:
        """Reads the note, and writes one where it changed; `term`: not None where this process is the writer.

        `leave`: where there is no note, decisions are left in a new one for the next writer. Raises what the seat does,
        and ValueError.
        """
        writing = term is not None
        note = await self._seat.recall()
        try:
            shared = decode(note)
        except ValueError:
            if not writing:
                raise
            shared = None  # `inherit` has frozen everything
        if shared is not None:
            self._handover.hear(shared, shared.writer.host)
        decisions = fitting(self._handover.merge(shared))
        turn = max(shared.turn if shared else 0, self._handover.told.turn)
        if shared is None or decisions != shared.decisions:
            turn += 1
        if writing:
            fresh = self._note(decisions, turn, shared)
            self.members, self.differing = tuple(fresh.standbys.values()), ()
            if shared is not None and not self._is_news(shared, fresh):
                self._handover.tell(shared)
                return
        elif shared is not None:
            fresh = replace(shared, decisions=decisions, turn=turn, standbys=self._announced(shared))
            self._follow(fresh)
            if fresh == shared:
                self._handover.tell(shared)
                return
            refuse_old(shared)
        elif leave:
            fresh = Shared(turn=turn, writer=NOBODY, decisions=decisions)
        else:
            return  # there has been no writer yet
        await self._seat.note(encode(fresh), note, term=term)
        self._noted = self._clock()
        self._handover.tell(fresh)

    def _follow(self, shared: Shared) -> None:
        """Takes over what a standby knows from a note."""
        self.writer = shared.author
        self._destination.settled.update(shared.settled)
        me = self._me().place
        self.members = tuple(one for place, one in shared.standbys.items() if place != me)
        ours, theirs = self._keys(), shared.keys
        both = sorted(ours.keys() | theirs.keys()) if theirs else ()
        self.differing = tuple(key for key in both if ours.get(key) != theirs.get(key))

    def _announced(self, shared: Shared) -> dict[str, Member]:
        """The standbys, with this process; its time is renewed once a minute."""
        me, now, known = self._me(), self._wall(), shared.standbys
        before = known.get(me.place)
        is_said = before is not None and before.process == me and before.role == "standby" and now - before.seen < SAY
        if is_said or shared.format < FORMAT:
            return known
        return _newest({**known, me.place: Member(role="standby", seen=now, process=me)}, now)

    def _others(self, shared: Shared | None) -> dict[str, Member]:
        """The standbys, as the writer notes them; the previous writer is "gone" until it announces itself."""
        if shared is None:
            return {}
        me, now, before = self._me().place, self._wall(), shared.author
        found = {place: one for place, one in shared.standbys.items() if place != me}
        if before is not None and before.place != me and before.place not in found:
            found[before.place] = Member(role="gone", seen=now, process=before)
        return _newest(found, now)

    async def pass_on(self) -> Shared:
        """Puts the decisions of this host into the note at once, and returns it. Raises as `look` does."""
        while True:
            with contextlib.suppress(Conflict):
                await self.look(None, leave=True)
                if (shared := decode(await self._seat.recall())) is not None:
                    self._wanted.set()  # if this process is the writer, it follows at once
                    return shared

    @property
    def unlike(self) -> Mapping[str, Sequence[str]]:
        """Nobody: standbys serve nothing."""
        return {}

    def _note(self, decisions: dict[str, Decision], turn: int, shared: Shared | None) -> Shared:
        """The note of the writer."""
        there = self._destination
        return Shared(
            turn=turn,
            seen=turn,
            writer=self._own(),
            decisions=decisions,
            losses=self._handover.losses(),
            settled=tuple(sorted(first for first in there.settled if first[0] == there.identity)),
            keys=dict(self._keys()),
            standbys=self._others(shared),
            acts=latest(shared.acts if shared is not None else (), self._acts()),
        )

    def _own(self) -> Writer:
        self.writer = replace(self._me(), since=self._since)
        return self.writer

    def _is_news(self, shared: Shared, fresh: Shared) -> bool:
        if replace(shared, losses=()) != replace(fresh, losses=()):
            return True
        known = {one.about: one.won for one in shared.losses}
        grown = any(
            delta and delta != known.get(one.about, {}).get(minute, 0)
            for one in fresh.losses
            for minute, delta in one.won.items()
        )
        return grown and self._clock() - self._noted >= LOSSES_EVERY


def _newest(members: Mapping[str, Member], now: float) -> dict[str, Member]:
    """The members that were heard within a day, at most the newest `MEMBERS`."""
    found = sorted(members.items(), key=lambda one: one[1].seen)
    return dict(sorted((place, one) for place, one in found[-MEMBERS:] if now - one.seen < FORGOTTEN))


def latest(known: Sequence[Act], ours: Sequence[Act]) -> tuple[Act, ...]:
    """The last acts of operators, at this host or an earlier writer, the oldest first."""
    found = {(act.at, act.kind, act.by, act.reason): act for act in (*known, *ours)}
    return tuple(sorted(found.values(), key=lambda act: act.at)[-ACTS:])
