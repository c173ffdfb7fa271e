"""The running daemons of one bridge, and the number of each shared note that they follow.

Each daemon has one note under `daemon/` in the store of `bridge.seat`, which only it writes. Clocks of different hosts
are not compared: a daemon is running as long as its note changes.

A shared note that all daemons follow (of an export, the intent of a migration) has a number that grows with each
change. Its owner calls `follow` with the number that this process follows, and `behind` for the daemons that lag.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import Callable, Mapping

import msgspec

from bridge.adapter import Note, Notes
from bridge.destination.writer import Writer
from bridge.errors import ConfigError, Conflict, Denied, Unavailable, reason
from bridge.retry import BUG, Reaction, forever

log = logging.getLogger("isthmus.roll")

FORMAT = 1
KEY = "daemon/"
EVERY = 1.0  # seconds between two looks at the notes
BEAT = 2.0  # seconds between two notes of a daemon without other changes
SILENT = 7.0  # seconds without a new note, after which a daemon counts as not running
FORGOTTEN = 86400.0  # seconds since the last note of a daemon, after which any other removes it
BYE = 1.0  # seconds that a stopping daemon has to remove its note


class Daemon(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The note of one daemon. `at`: seconds since the epoch, by its own clock; `beat` grows with each note.

    `follows`: by key of a shared note, the number that it follows. `seeds`: the URL from which another daemon may fetch
    its state, "" none.
    """

    process: Writer
    at: float
    beat: int = 0
    follows: Mapping[str, int] = {}
    seeds: str = ""
    format: int = FORMAT


class _Heard(msgspec.Struct, frozen=True):
    note: Note
    said: Daemon
    since: float  # when this note was first seen (monotonic)


class Roll:
    """`notes()`: the store of the notes, None: there is no `bridge.seat`. `me()`: this process.

    `seeds()`: see `Daemon`. `clock()` gives monotonic seconds, `wall()` seconds since the epoch.
    """

    def __init__(
        self,
        notes: Callable[[], Notes | None],
        me: Callable[[], Writer],
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        seeds: Callable[[], str] = lambda: "",
        rng: random.Random | None = None,
    ) -> None:
        self._notes = notes
        self._me = me
        self._clock = clock
        self._wall = wall
        self._seeds = seeds
        self._rng = rng or random.Random()
        self._follows: dict[str, int] = {}
        self._heard: dict[str, _Heard] = {}
        self._beat = 0
        self._said = float("-inf")
        self._asked = asyncio.Event()
        self._turn = asyncio.Lock()  # one look at a time
        self._told: Mapping[str, int] = {}  # the numbers in the note of this process
        self._trouble = ""

    def follow(self, key: str, number: int) -> None:
        """Notes that this process follows the shared note under that key up to that number; written at once."""
        if self._follows.get(key) != number:
            self._follows[key] = number
            self._asked.set()

    async def enter(self, key: str) -> None:
        """Announces that this process will follow a shared note; to be called before the note is first read.

        A daemon that changes the note and then looks at the roll either finds this process, which follows nothing yet,
        or has changed the note before this process reads it. Raises Unavailable or Denied.
        """
        self._follows.setdefault(key, 0)
        while key not in self._told and self._notes() is not None:
            await self.look()

    def leave(self, key: str) -> None:
        """This process no longer follows that note: others do not wait for it."""
        if self._follows.pop(key, None) is not None:
            self._told = {one: number for one, number in self._told.items() if one != key}
            self._asked.set()

    @property
    def others(self) -> list[Daemon]:
        """The other daemons that are running, as far as is known, sorted by place."""
        since, mine = self._clock() - SILENT, self._me().place
        heard = sorted(self._heard.values(), key=lambda one: one.said.process.place)
        return [one.said for one in heard if one.since >= since and one.said.process.place != mine]

    def behind(self, key: str, number: int) -> list[Daemon]:
        """The other running daemons that follow the note under that key, and have not reached that number."""
        return [one for one in self.others if one.follows.get(key, number) < number]

    async def run(self) -> None:
        """Looks once a second and writes the note of this process, which it removes when cancelled. Never returns."""

        async def looks() -> None:
            while True:
                await self.look()
                self._trouble = ""
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(EVERY):
                        await self._asked.wait()
                self._asked.clear()

        try:
            await forever(looks, self._failed, rng=self._rng, clock=self._clock)
        finally:
            with contextlib.suppress(Unavailable, Denied, Conflict, TimeoutError):
                async with asyncio.timeout(BYE):
                    await self._take_away()

    async def look(self) -> None:
        """Reads all notes, and writes that of this process where it changed or a beat is due.

        Raises Unavailable or Denied.
        """
        async with self._turn:
            notes = self._notes()
            if notes is None:
                self._heard.clear()
                return
            found = await self.listen()
            for key, one in self._heard.items():
                if self._wall() - one.said.at > FORGOTTEN and key != self._key:
                    with contextlib.suppress(Conflict):
                        await notes.remove(key, one.note)
            await self._say(notes, found.get(self._key))

    async def listen(self) -> Mapping[str, Note]:
        """Reads all notes; returns them by key. For commands as well. Raises Unavailable or Denied."""
        notes = self._notes()
        found, now = await notes.below(KEY) if notes is not None else {}, self._clock()
        self._heard = {key: heard for key, note in found.items() if (heard := self._hear(key, note, now)) is not None}
        return found

    def _hear(self, key: str, note: Note, now: float) -> _Heard | None:
        known = self._heard.get(key)
        if known is not None and known.note == note:
            return known
        try:
            return _Heard(note, msgspec.json.decode(note.content, type=Daemon), now)
        except msgspec.DecodeError:  # of a format that this version does not know
            return None

    async def _say(self, notes: Notes, before: Note | None) -> None:
        now = self._clock()
        known = self._heard.get(self._key)
        fresh = Daemon(
            process=self._me(), at=self._wall(), beat=self._beat + 1, follows=dict(self._follows), seeds=self._seeds()
        )
        if known is not None and now - self._said < BEAT and _news(known.said) == _news(fresh):
            self._told = fresh.follows
            return
        self._beat += 1
        with contextlib.suppress(Conflict):  # another daemon removed it as forgotten: the next look writes it again
            await notes.write(self._key, msgspec.json.encode(fresh), before)
            self._said, self._told = now, fresh.follows

    async def _take_away(self) -> None:
        notes = self._notes()
        mine = await notes.read(self._key) if notes is not None else None
        if notes is not None and mine is not None:
            await notes.remove(self._key, mine)

    @property
    def _key(self) -> str:
        return f"{KEY}{short(self._me().place)}"

    def _failed(self, error: Exception, reaction: Reaction) -> None:
        if reaction is BUG and not isinstance(error, ConfigError):
            raise error  # a bug of the core ends the process
        if str(error) != self._trouble:
            log.warning("the notes of other daemons are out of reach reason=%r", reason(error))
        self._trouble = reason(error)


def short(place: str) -> str:
    """A daemon's place as a part of keys: 12 hex digits."""
    return hashlib.blake2b(place.encode(), digest_size=6).hexdigest()


def _news(said: Daemon) -> tuple[object, ...]:
    return said.process, said.follows, said.seeds
