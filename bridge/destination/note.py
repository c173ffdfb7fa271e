"""The note that the daemons of one bridge share at a destination, beside its lock: its formats and its size."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from bridge import __version__
from bridge.adapter import Note, Seat
from bridge.destination.writer import Member, Writer
from bridge.errors import Conflict, IsthmusError, Unavailable
from bridge.formats import format_of
from bridge.guard.losses import Lost
from bridge.state.decisions import RULES, Decision, Kind
from bridge.state.formats import Freeze1, Set1, decisions_of_1

log = logging.getLogger("isthmus.standby")

FORMAT = 2
KEPT = 20  # decisions of each kind that may give way: the newest ones
MEMBERS = 32  # standbys in a note
LOOK = 0.3  # seconds between two checks whether the writer follows
OVERRIDES = 48 * 1024  # bytes of a note for overrides and drains
LIMIT = 128 * 1024  # bytes: an eighth of the smallest limit of any store


NOBODY = Writer(host="", pid=0, since=0.0, configuration="")  # the writer of a note that was left where there was none


class Act(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An act of an operator at the writer, for the logs of the standbys. `at` in seconds since the epoch.

    `host`: where it was given, "" for the writer's host.
    """

    at: float
    kind: str
    link: str = ""
    by: str = ""
    reason: str = ""
    host: str = ""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """The part that all notes of a destination have in common.

    `turn` grows by one with each change of the decisions: one with a lower turn is from a backup, or was begun anew.
    `acts`: recent acts of operators, the oldest first.
    """

    turn: int
    decisions: dict[str, Decision] = {}
    acts: tuple[Act, ...] = ()


class Shared(Common, frozen=True, kw_only=True):
    """The note beside a lock.

    `seen`: the turn up to which the writer follows the decisions; 0 where a standby left the note for the next writer,
    because there was none. `settled`: the first copies that are complete, as in `bridge.guard.losses`. `version`: of
    the isthmus that wrote it. `keys`: a hash of each key of the writer's file. `standbys`: by `Writer.place`.
    """

    format: int = FORMAT
    version: str = __version__
    seen: int = 0
    writer: Writer
    losses: tuple[Lost, ...] = ()
    settled: tuple[tuple[str, str, str], ...] = ()
    keys: dict[str, str] = {}
    standbys: dict[str, Member] = {}

    @property
    def author(self) -> Writer | None:
        """The writer of the note; None: it was left by a standby, and no writer has written since."""
        return self.writer if self.writer != NOBODY else None


class _Shared1(msgspec.Struct, frozen=True, kw_only=True):
    """Format 1."""

    turn: int
    writer: Writer
    freezes: dict[str, Freeze1] = {}
    approvals: dict[str, Set1] = {}
    shown: dict[str, Set1] = {}
    losses: tuple[Lost, ...] = ()
    settled: tuple[tuple[str, str, str], ...] = ()


def decode(note: Note | None) -> Shared | None:
    """Decodes a note; None: there is none. Raises ValueError if it is invalid, ConfigError if its format is newer."""
    if note is None:
        return None
    of = format_of("the note beside the lock", note.content, FORMAT)
    if of == 1:
        old = msgspec.json.decode(note.content, type=_Shared1)
        return Shared(
            turn=old.turn,
            seen=old.turn,
            writer=old.writer,
            decisions=decisions_of_1(old.freezes, old.approvals, old.shown),
            losses=old.losses,
            settled=old.settled,
            format=1,
        )
    if of < 1:
        raise ValueError(f"no note has the format {of}")
    return msgspec.json.decode(note.content, type=Shared)


def fitting(decisions: Mapping[str, Decision]) -> dict[str, Decision]:
    """The decisions that go into a note: of kinds that may give way the newest few, or fewer if there is no room."""
    giving = sorted((one for one in decisions.values() if RULES[one.kind].gives_way), key=lambda one: (one.at, one.key))
    kept = {name: one for name, one in decisions.items() if not RULES[one.kind].gives_way}
    room = LIMIT - _size(kept.values())
    count: dict[Any, int] = {}
    for one in reversed(giving):
        count[one.kind] = count.get(one.kind, 0) + 1
        room -= _size([one])
        if count[one.kind] <= KEPT and room > LIMIT // 4:  # the rest is for losses
            kept[one.name] = one
    return dict(sorted(kept.items()))


def encode(shared: Shared) -> bytes:
    """Encodes a note, without losses where it would be too long; decisions are never left out here."""
    content = msgspec.json.encode(shared)
    if len(content) <= LIMIT:
        return content
    log.warning("the note for standbys is full, and goes without losses bytes=%d", len(content))
    return msgspec.json.encode(replace(shared, losses=(), keys={}, acts=()))


def refusal(decisions: Iterable[Decision], key: str, reason: str) -> str:
    """Why a freeze is refused, "" if it may be decided: all that cannot give way must fit into a note."""
    fresh = Decision(kind=Kind.FREEZE, key=key, at=0.0, by="?" * 80, reason=reason, until=0.0)
    must = {one.name: one for one in (*decisions, fresh) if not RULES[one.kind].gives_way}
    size = _size(must.values())
    if size <= LIMIT // 2:
        return ""
    return (
        f"there are {len(must)} decisions in force, which take {size} of the {LIMIT // 2} bytes that hosts can share; "
        "end some of them, or give shorter reasons"
    )


def crowded(decisions: Iterable[Decision]) -> str:
    """Why these overrides and drains do not fit into the note of one destination, "" if they do."""
    size = _size(decisions)
    if size <= OVERRIDES:
        return ""
    return f"overrides take {size} of the {OVERRIDES} bytes that hosts can share; unset some, or give shorter reasons"


def _size(decisions: Iterable[Decision]) -> int:
    return sum(len(msgspec.json.encode({one.name: one})) for one in decisions)


def refuse_old(shared: Shared) -> None:
    """Raises Unavailable where the writer is of an older version, which ignores what others add to its note."""
    if shared.format < FORMAT:
        writer = shared.writer
        raise Unavailable(
            f"{writer.host} (pid {writer.pid}) runs an older isthmus and reads none of this: decide it there"
        )


async def pass_on(seat: Seat, name: str, decision: Decision | None) -> Shared | None:
    """Puts one decision (None: it is taken back) into the note, without the lock. Returns the note, None: none exists.

    Where none exists nobody has written there yet, or the store lost it: a decision is then left in a new note for the
    next writer, if the store accepts that. Raises what the seat does, ValueError and ConfigError.
    """
    while True:
        note = await seat.recall()
        shared = decode(note)
        if shared is None and decision is not None:
            return await _left(seat, Shared(turn=1, writer=NOBODY, decisions={name: decision}))
        if shared is None or shared.decisions.get(name) == decision:
            return shared
        refuse_old(shared)
        others = {key: one for key, one in shared.decisions.items() if key != name}
        decisions = fitting({**others, name: decision} if decision is not None else others)
        fresh = replace(shared, decisions=decisions, turn=shared.turn + 1)
        try:
            await seat.note(encode(fresh), note, term=None)
        except Conflict:  # another daemon was first: read its note, and add to that
            continue
        return fresh


async def _left(seat: Seat, shared: Shared) -> Shared | None:
    try:
        await seat.note(encode(shared), None, term=None)
    except Conflict:
        return await pass_on(seat, *next(iter(shared.decisions.items())))
    except IsthmusError as error:  # a folder that does not exist yet, or is not writable
        log.info("no note is left reason=%r", str(error))
        return None
    return shared


async def followed(seat: Seat, turn: int) -> Shared | None:
    """Waits without limit until the writer follows the decisions up to that turn; returns the note that says so."""
    while True:
        shared = decode(await seat.recall())
        if shared is None or shared.seen >= turn:
            return shared
        await asyncio.sleep(LOOK)
