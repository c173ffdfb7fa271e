"""Keeps the daemons of one bridge in step where all of them are active: at an export, and in a group.

Operators' decisions are in one note that any daemon may change (`export/NAME/all` or `group/NAME/all`). What one daemon
did is in a note of its own (`export/NAME/HASH`; see `exchange`). Both are in the store of `bridge.seat`
(docs/adr/0035-exports-of-several-hosts.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from bridge import __version__
from bridge.adapter import Note, Notes, Term
from bridge.destination import exchange
from bridge.destination.destination import Destination
from bridge.destination.events import Events
from bridge.destination.exchange import Exchange, ExportExchange, GroupExchange, Here, Share, named
from bridge.destination.handover import Handover
from bridge.destination.note import Act, Common, fitting
from bridge.destination.roll import FORGOTTEN, Daemon, Roll, short
from bridge.destination.standby import EVERY, latest
from bridge.destination.writer import Member, Writer
from bridge.errors import ConfigError, Conflict, Denied, Unavailable, reason
from bridge.formats import format_of
from bridge.guard.holds import Hold
from bridge.model import ServiceName
from bridge.retry import BUG, Reaction, forever
from bridge.state.decisions import Decision, Kind
from bridge.state.decisions import about as concerning
from bridge.state.folder import State

log = logging.getLogger("isthmus.joint")

FORMAT = 1
EXPORT, GROUP = "export", "group"  # where several daemons are active: an export, or a destination that they share
EXCHANGES: Mapping[str, Callable[[Here], Exchange]] = {EXPORT: ExportExchange, GROUP: GroupExchange}

# Decisions that every daemon uses for itself: that one daemon has used it up does not end it for the others.
EACH = frozenset({Kind.APPROVAL, Kind.EXPECTED})
# Decisions that stay with each daemon: it reads the changed file itself, and holds what the file adds.
OWN = frozenset({Kind.FRESH, Kind.ADDED})
ALIKE = frozenset(Kind) - EACH - OWN


class Agreed(Common, frozen=True, kw_only=True):
    """The note that all daemons share.

    It does not say which first copies are done, because each daemon fills a picture of its own: what a daemon adds
    there for the first time would count as a gain if another daemon's first copy were done, and offset later losses.
    """

    format: int = FORMAT
    version: str = __version__


def start_of(destination: str, kind: str = EXPORT) -> str:
    """The prefix of the keys of all notes about one export, or one destination of a group."""
    return f"{kind}/{destination}/"


def key_of(destination: str, kind: str = EXPORT) -> str:
    """The key of the note that all daemons share."""
    return f"{start_of(destination, kind)}all"


def decode(note: Note | None) -> Agreed | None:
    """None: no note was written yet. Raises ValueError (it cannot be read) or ConfigError (its format is newer)."""
    if note is None:
        return None
    format_of("the note of an export", note.content, FORMAT)
    return msgspec.json.decode(note.content, type=Agreed)


async def pass_on(notes: Notes, key: str, name: str, decision: Decision | None) -> Agreed:
    """Puts one decision into the note under that key (None: takes it out), without a daemon. Returns the new note.

    Raises Unavailable, Denied, ValueError or ConfigError.
    """
    while True:
        before = await notes.read(key)
        agreed = decode(before) or Agreed(turn=0)
        others = {key: one for key, one in agreed.decisions.items() if key != name}
        decisions = fitting({**others, name: decision} if decision is not None else others)
        if decisions == agreed.decisions:
            return agreed
        fresh = replace(agreed, decisions=decisions, turn=agreed.turn + 1)
        with contextlib.suppress(Conflict):
            await notes.write(key, msgspec.json.encode(fresh), before)
            return fresh


class Joint:
    """One export of this daemon, or one destination of its group; see `bridge.destination.writer.Peers`.

    `me()`: this process. `clock()`: monotonic seconds; `wall()`: seconds since the epoch. `again(names)` has these
    services planned again. `acts()`: what operators did here recently. `decided()` is called when a loss was stated at
    another host, so that it counts before removals of other daemons are followed. `kind`: `EXPORT` or `GROUP`.
    """

    def __init__(
        self,
        notes: Notes,
        destination: Destination,
        kept: State,
        events: Events,
        roll: Roll,
        *,
        me: Callable[[], Writer],
        clock: Callable[[], float],
        wall: Callable[[], float],
        again: Callable[[Iterable[ServiceName]], None],
        acts: Callable[[], Sequence[Act]] = tuple,
        decided: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
        kind: str = EXPORT,
    ) -> None:
        self.kind = kind
        self._notes = notes
        self._start = start_of(destination.name, kind)
        self._destination = destination
        self._kept = kept
        self._handover = Handover(destination, kept, events, clock, wall)
        self._roll = roll
        self._me = me
        self._clock = clock
        self._wall = wall
        self._again = again
        self._acts = acts
        self._decided = decided
        self._rng = rng or random.Random()
        self._key = key_of(destination.name, kind)
        self._since = wall()
        self._is_first = True  # the notes have not been read yet
        self._trouble = ""
        self._shares: dict[str, Share] = {}  # the notes of the other daemons that run, by key
        self._exchange = EXCHANGES[kind](Here(destination, kept, self._handover, clock, wall, again))

    # -- what others ask -----------------------------------------------------------------------------------------------

    @property
    def writer(self) -> Writer:
        """This process, as the others know it."""
        return replace(self._me(), since=self._since)

    @property
    def members(self) -> Sequence[Member]:
        """The other daemons that are active there."""
        return tuple(
            Member(role=self._exchange.role, seen=one.at, process=one.process)
            for one in self._roll.others
            if self._key in one.follows
        )

    @property
    def differing(self) -> Sequence[str]:
        """None: there is no one writer to compare with. `members` has the hash of each daemon's file."""
        return ()

    @property
    def pictures(self) -> Mapping[str, str]:
        """Of an export: a digest of what each daemon serves, 8 hex digits, by host; that of this one is ""."""
        return self._exchange.pictures(self._shares)

    @property
    def unlike(self) -> Mapping[str, Sequence[str]]:
        """See `Peers.unlike`."""
        return self._exchange.unlike(self._shares)

    def behind(self, turn: int) -> list[Daemon]:
        """The other daemons that run and have not read the note of that turn yet, as of the last look."""
        return self._roll.behind(self._key, turn)

    @property
    def held_elsewhere(self) -> Mapping[str, Sequence[Hold]]:
        """The held sets of the other members of a group, by host."""
        now = self._wall()
        return {
            named(share.process): [replace(hold, age=max(0.0, now - share.at)) for hold in share.holds]
            for share in self._shares.values()
        }

    async def look_around(self) -> None:
        """Reads which daemons run, and which note each has read last. Raises Unavailable or Denied."""
        await self._roll.look()

    # -- running -------------------------------------------------------------------------------------------------------

    async def inherit(self) -> Writer | None:
        """Takes over operators' decisions, before anything new is written. What is served already is served meanwhile.

        A note that cannot be read freezes everything. Raises Unavailable or Denied, unless the note is
        known from before: then this process goes on with that.
        """
        self._since = self._wall()
        try:
            await self._roll.enter(self._key)
            await self.pass_on()
        except ValueError as error:
            self._handover.freeze_all(f"what the daemons of this bridge share cannot be read: {error}")
        except ConfigError as error:  # a newer isthmus wrote it: this version must not act against what it cannot read
            raise Unavailable(str(error)) from error
        except (Unavailable, Denied) as error:
            if not self._handover.told.turn:
                raise
            self._failed_once(error)
        return None

    async def run(self, term: Callable[[], Term | None]) -> None:
        """Never returns. Reads the notes once a second, and writes them where something changed."""

        async def looks() -> None:
            while True:
                try:
                    await self.look()
                except (ValueError, ConfigError) as error:  # as if the store had not answered
                    raise Unavailable(str(error)) from error
                self._trouble = ""
                await asyncio.sleep(EVERY)

        try:
            await forever(looks, self._failed, rng=self._rng, clock=self._clock)
        finally:
            self._roll.leave(self._key)

    async def pass_on(self) -> Agreed:
        """Writes the decisions of this daemon into the note at once, and returns the note. Raises as `look`."""
        while True:
            with contextlib.suppress(Conflict):
                return await self.look()

    async def look(self) -> Agreed:
        """Reads all notes, and writes ours where they changed. Raises Unavailable, Denied, Conflict or ValueError."""
        found = dict(await self._notes.below(self._start))
        before = found.pop(self._key, None)
        agreed = decode(before)
        if agreed is not None:
            self._handover.hear(agreed, "")
        decisions = fitting(self._merge(agreed))
        turn = max(agreed.turn if agreed else 0, self._handover.told.turn)
        if agreed is None or decisions != agreed.decisions:
            turn += 1
        fresh = self._agreed(decisions, turn, agreed)
        if fresh != agreed:
            await self._notes.write(self._key, msgspec.json.encode(fresh), before)
        self._handover.tell(fresh)
        self._roll.follow(self._key, fresh.turn)
        self._hear(found)
        await self._say(found)
        return fresh

    def _failed(self, error: Exception, reaction: Reaction) -> None:
        if isinstance(error, Conflict):  # another daemon wrote first: the next look reads that
            return
        if reaction is BUG:
            raise error  # a bug ends the process
        self._failed_once(error)

    def _failed_once(self, error: Exception) -> None:
        before, self._trouble = self._trouble, reason(error)
        if self._trouble != before:
            log.warning("the notes are out of reach destination=%s reason=%r", self._destination.name, self._trouble)

    # -- what operators decide -----------------------------------------------------------------------------------------

    def _merge(self, agreed: Agreed | None) -> dict[str, Decision]:
        shown = self._kept.decisions.of(Kind.SHOWN)
        found = self._handover.merge(agreed, ALIKE)
        for key, one in self._kept.decisions.of(Kind.SHOWN).items():
            if key not in shown or self._is_first:
                self._destination.holds.remember(key, one.items)
        return found | self._each(agreed)

    def _each(self, agreed: Agreed | None) -> dict[str, Decision]:
        """The decisions that every daemon uses for itself: the note keeps them unchanged until they expire."""
        kept, now, told = self._kept.decisions, self._wall(), self._handover.told.decisions
        links = {link.name for link in self._destination.links}
        ours = {
            name: one
            for name, one in concerning(kept.all.values(), links, self._destination.name).items()
            if one.kind in EACH and not _is_same(told.get(name), one)
        }
        found = {name: one for name, one in self._handover.news(agreed).items() if one.kind in EACH and one.stands(now)}
        for name, one in found.items():
            if not _is_same(told.get(name), one) and (name not in ours or ours[name].at < one.at):
                self._take_over(one)
        newer = {name: one for name, one in ours.items() if name not in found or one.at > found[name].at}
        return found | newer

    def _take_over(self, one: Decision) -> None:
        """An operator decided this at another host: applies it here as well, once."""
        self._kept.decisions.put(one)
        if one.kind is Kind.APPROVAL:
            until = self._clock() + one.left(self._wall())
            self._destination.holds.grant(one.key, one.items, until)
            self._again({ServiceName.parse(item[1]) for item in one.items})
        if one.kind is Kind.EXPECTED:
            self._decided()

    def _agreed(self, decisions: dict[str, Decision], turn: int, agreed: Agreed | None) -> Agreed:
        acts = [replace(act, host=self._me().host) for act in self._acts()]
        return Agreed(
            turn=turn,
            decisions=decisions,
            acts=latest(agreed.acts if agreed is not None else (), acts),
        )

    # -- the notes of each daemon ----------------------------------------------------------------------------------

    def _hear(self, found: Mapping[str, Note]) -> None:
        said = {key: share for key, note in found.items() if (share := exchange.decode(note)) is not None}
        first, self._is_first = said if self._is_first else {}, False
        others = {key: share for key, share in said.items() if key != self._own_key}
        runs = {one.process.place for one in self._roll.others}
        self._shares = {key: share for key, share in others.items() if share.process.place in runs}
        self._exchange.hear(first.values(), others.values(), self._shares)

    async def _say(self, found: Mapping[str, Note]) -> None:
        """Writes our own note, if it changed; removes those of daemons that have been gone for long."""
        before = found.get(self._own_key)
        known = exchange.decode(before) if before is not None else None
        fresh = self._exchange.say(self._me(), known)
        if known is None or replace(fresh, at=known.at) != known:
            await self._notes.write(self._own_key, msgspec.json.encode(fresh), before)
        for key, note in found.items():
            share = exchange.decode(note)
            if key != self._own_key and share is not None and self._wall() - share.at > FORGOTTEN:
                with contextlib.suppress(Conflict):
                    await self._notes.remove(key, note)

    @property
    def _own_key(self) -> str:
        return f"{self._start}{short(self._me().place)}"


def _is_same(one: Decision | None, other: Decision) -> bool:
    """Whether both are the same decision, however much of each was used up."""
    return one is not None and one.at == other.at
