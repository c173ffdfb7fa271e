"""What the daemons of one bridge tell each other at a destination, beside its lock, so that the next writer knows.

The writer says who it is and what an operator told it; a standby listens, and passes an operator's freezes on. What
both have changed is settled key by key, by what was last known to both (docs/adr/0007-hot-standby.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from bridge.adapter import Note, Sink
from bridge.desk import Desk, Ear
from bridge.errors import Conflict, Denied, Rejected, Superseded, Unavailable
from bridge.model import ServiceName
from bridge.reconcile import Writer
from bridge.state import EVERY_LINK, Approval, Freeze, Shown, State, Told

log = logging.getLogger("isthmus.succession")

FORMAT = 1
EVERY = 1.0  # seconds between two looks, and between two notes
TROUBLED = 5.0  # seconds until the next look, after one that failed
LOSSES_EVERY = 10.0  # seconds between two notes of which nothing is new but losses
MINUTE = 60
KEPT = 20  # approvals, and sets shown, the newest ones
SERVICES = 1000  # of which losses are told, those that lost most
LIMIT = 512 * 1024  # bytes: half of what the smallest of the stores takes


class Lost(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a service or a scope lost on balance within the guard's window, by the minute since the epoch.

    By the minute, since whoever takes over counts by its own eyes what happened after it first looked.
    """

    won: dict[int, int]  # < 0: lost
    service: str = ""
    scope: tuple[str, str] | None = None

    @property
    def lost(self) -> int:
        return -sum(self.won.values())


class _Formatted(msgspec.Struct, frozen=True):
    format: int


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """The note. `turn` grows by one with each change of the freezes: a note with a lower one is an old one restored.

    `settled`: the first copies that are done, as in `bridge.desk`.
    """

    format: int
    turn: int
    writer: Writer
    freezes: dict[str, Freeze] = {}
    approvals: dict[str, Approval] = {}
    shown: dict[str, Shown] = {}
    losses: tuple[Lost, ...] = ()
    settled: tuple[tuple[str, str, str], ...] = ()


def merged(base: Freeze | None, ours: Freeze | None, theirs: Freeze | None) -> Freeze | None:
    """One link's freeze, None: it flows. Whoever changed it has the word; where both did, the stricter has."""
    if ours == base:
        return theirs
    if theirs in (base, ours):
        return ours
    return stricter(ours, theirs)


def stricter(one: Freeze | None, other: Freeze | None) -> Freeze | None:
    """The one that lasts longer."""
    if one is None or other is None:
        return one or other
    if one.until is None or (other.until is not None and one.until >= other.until):
        return one
    return other


def decode(note: Note | None) -> Shared | None:
    """None: nothing was left. Raises ValueError where it makes no sense, or is of a newer format."""
    if note is None:
        return None
    of = msgspec.json.decode(note.content, type=_Formatted).format
    if of > FORMAT:
        raise ValueError(f"its format is {of}, and this isthmus knows none above {FORMAT}")
    return msgspec.json.decode(note.content, type=Shared)


def encode(shared: Shared) -> bytes:
    """Without what there is no room for, the oldest first; freezes always find room."""
    while len(content := msgspec.json.encode(shared)) > LIMIT:
        for field in ("shown", "approvals"):
            if told := getattr(shared, field):
                oldest = min(told, key=lambda key: told[key].at)
                log.warning("no room beside the lock for %s id=%s", field, oldest)
                shared = replace(shared, **{field: {key: one for key, one in told.items() if key != oldest}})
                break
        else:
            return msgspec.json.encode(replace(shared, losses=()))
    return content


class Succession:
    """One destination of one daemon. `writer`: who writes there, as far as is known.

    `me()` says who this process is as the writer, `wall()` gives seconds since the epoch.
    """

    def __init__(
        self,
        destination: str,
        sink: Sink,
        desk: Desk,
        kept: State,
        ear: Ear,
        *,
        me: Callable[[], Writer],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.writer: Writer | None = None
        self._destination = destination
        self._sink = sink
        self._desk = desk
        self._kept = kept
        self._ear = ear
        self._me = me
        self._clock = clock
        self._wall = wall
        self._since = 0.0
        self._noted = float("-inf")
        self._trouble = ""
        self._inherited = asyncio.Event()

    async def inherit(self) -> None:
        """The lock is ours: takes over what the writer before us left, before anything is written.

        Raises Unavailable or Denied. What cannot be read may have said that writes are to stop: all are frozen then.
        """
        self._since = self._wall()
        note = await self._sink.recall()
        try:
            shared = decode(note)
        except ValueError as error:
            shared = None
            reason = f"what the writer before left beside the lock cannot be read: {error}"
            self._kept.freeze(EVERY_LINK, reason, "isthmus")
            self._ear.event("freeze", link=EVERY_LINK, by="isthmus", reason=reason)
        self._freezes(shared)
        if shared is not None:
            for id, shown in shared.shown.items():
                self._kept.show(id, shown.items)
                self._desk.holds.remember(id, shown.items)
            for id, approval in shared.approvals.items():
                self._kept.approvals.put(id, approval)
                self._desk.holds.free(approval.items)
            for first in set(shared.settled) - self._kept.settled():
                self._kept.settle(*first)
            self._desk.settled.update(shared.settled)
            self._lose(shared.losses)
        self.writer = self._own()
        self._noted = float("-inf")
        self._inherited.set()

    async def run(self, writing: Callable[[], bool]) -> None:
        """Never returns. A look a second, and one with the lock; a note only where there is something new to say."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TROUBLED if self._trouble else EVERY):
                    await self._inherited.wait()
            self._inherited.clear()
            try:
                await self.look(writing())
                self._trouble = ""
            except (Conflict, Superseded):  # somebody else was first: see what they say
                continue
            except (Unavailable, Denied, Rejected, ValueError) as error:
                if str(error) != self._trouble:
                    log.warning("no word beside the lock destination=%s reason=%r", self._destination, str(error))
                self._trouble = str(error) or type(error).__name__

    async def look(self, writing: bool) -> None:
        """One look, and a note where there is something new to say. Raises what the sink does, and ValueError."""
        note = await self._sink.recall()
        try:
            shared = decode(note)
        except ValueError:
            if not writing:
                raise
            shared = None  # `inherit` has drawn the consequence
        freezes = self._freezes(shared)
        turn = max(shared.turn if shared else 0, self._told().turn)
        if shared is None or freezes != shared.freezes:
            turn += 1
        if writing:
            fresh = self._word(freezes, turn)
            if shared is not None and not self._is_news(shared, fresh):
                self._tell(shared)
                return
        elif shared is not None:
            self.writer = shared.writer
            self._desk.settled.update(shared.settled)
            if turn == shared.turn:
                self._tell(shared)
                return
            fresh = replace(shared, freezes=freezes, turn=turn)
        else:
            return  # nobody has written yet: what is frozen here will be told by whoever does
        await self._sink.note(encode(fresh), note, writer=writing)
        self._noted = self._clock()
        self._tell(fresh)

    # -- freezes -----------------------------------------------------------------------------------------------------

    def _told(self) -> Told:
        return self._kept.told.entries.get(self._destination, Told())

    def _tell(self, shared: Shared) -> None:
        """Remembers what every daemon knows now."""
        told = Told(shared.turn, shared.freezes)
        if told != self._told():
            self._kept.told.put(self._destination, told)

    def _freezes(self, shared: Shared | None) -> dict[str, Freeze]:
        """The freezes that are in force for this destination, here and, once they are told, everywhere."""
        told = self._told()
        news = shared.freezes if shared is not None and shared.turn >= told.turn else told.freezes
        base, theirs, ours = (self._standing(some) for some in (told.freezes, news, self._kept.freezes.entries))
        mine = {EVERY_LINK, *(link.name for link in self._desk.links)}
        found = {}
        for key in sorted(base.keys() | theirs.keys() | (ours.keys() & mine)):
            freeze = merged(base.get(key), ours.get(key), theirs.get(key))
            if freeze is not None:
                found[key] = freeze
            if freeze == ours.get(key):
                continue
            if freeze is None:
                self._kept.unfreeze(key)
                self._ear.event("unfreeze", link=key, by="a daemon of this bridge on another host")
            else:
                self._kept.freezes.put(key, freeze)
                self._ear.event("freeze", link=key, by=freeze.by, reason=freeze.reason)
        return found

    def _standing(self, freezes: Mapping[str, Freeze]) -> dict[str, Freeze]:
        now = self._wall()
        return {key: one for key, one in freezes.items() if one.until is None or one.until > now}

    # -- what an operator was shown, and let go ----------------------------------------------------------------------

    def _word(self, freezes: dict[str, Freeze], turn: int) -> Shared:
        """What there is to say as the writer."""
        links = {link.name for link in self._desk.links}
        waits = self._desk.holds.waits_for
        approvals = {}
        for id, one in _newest(self._kept.approvals.entries):
            if items := tuple(item for item in one.items if item[0] in links and waits((item,))):
                approvals[id] = replace(one, items=items)
        shown = {id: one for id, one in _newest(self._kept.shown.entries) if any(i[0] in links for i in one.items)}
        return Shared(
            format=FORMAT,
            turn=turn,
            writer=self._own(),
            freezes=freezes,
            approvals=approvals,
            shown=shown,
            losses=self._losses(),
            settled=tuple(sorted(first for first in self._desk.settled if first[0] == self._desk.identity)),
        )

    def _own(self) -> Writer:
        self.writer = replace(self._me(), since=self._since)
        return self.writer

    def _is_news(self, shared: Shared, fresh: Shared) -> bool:
        if replace(shared, losses=()) != replace(fresh, losses=()):
            return True
        known = {(one.service, one.scope): one.won for one in shared.losses}
        grown = any(
            delta and delta != known.get((one.service, one.scope), {}).get(minute, 0)
            for one in fresh.losses
            for minute, delta in one.won.items()
        )
        return grown and self._clock() - self._noted >= LOSSES_EVERY

    # -- the guard's window ------------------------------------------------------------------------------------------

    @property
    def _window(self) -> float:
        return max((link.guard.window for link in self._desk.links), default=0.0)

    def _losses(self) -> tuple[Lost, ...]:
        ahead = self._wall() - self._clock()
        since = (self._wall() - self._window) // MINUTE * MINUTE  # a whole minute: what slides out of it is no news
        found: list[Lost] = []
        for key, deltas in self._desk.windows.lost(since - ahead).items():
            won: dict[int, int] = {}
            for at, delta in deltas:
                minute = int((at + ahead) // MINUTE)
                won[minute] = won.get(minute, 0) + delta
            found.append(Lost(won, str(key)) if isinstance(key, ServiceName) else Lost(won, scope=key))
        services = sorted((one for one in found if one.service), key=lambda one: (-one.lost, one.service))
        scopes = sorted((one for one in found if one.scope), key=lambda one: str(one.scope))
        return (*scopes, *services[:SERVICES])

    def _lose(self, losses: Iterable[Lost]) -> None:
        """What writers took away before we first looked counts, as far as it is not known here."""
        now, windows = self._wall(), self._desk.windows
        ahead = now - self._clock()
        looked = min(self._desk.since + ahead, now)
        begin, end = now - self._window, (looked // MINUTE + 1) * MINUTE
        for one in losses:
            key: Any = one.scope if one.scope is not None else ServiceName.parse(one.service)
            past = {minute: won for minute, won in one.won.items() if begin < (minute + 1) * MINUTE <= end}
            missing = min(0, windows.won(key, begin - ahead, end - ahead)) - sum(past.values())
            if missing > 0:
                last = min(looked, (max(past) + 1) * MINUTE - 1)
                windows.add(key, last - ahead, -missing)


def _newest(entries: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(entries.items(), key=lambda item: item[1].at)[-KEPT:]
