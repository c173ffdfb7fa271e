"""The note that the daemons of one bridge share at a destination, beside its lock: formats, and what fits into it."""

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
KEPT = 20  # of each kind that may give way, the newest ones
MEMBERS = 32  # hosts that stand by
LOOK = 0.3  # seconds between two looks at whether the writer follows
OVERRIDES = 48 * 1024  # bytes of it that overrides may take
LIMIT = 128 * 1024  # bytes: an eighth of what the smallest of the stores takes


NOBODY = Writer(host="", pid=0, since=0.0, configuration="")  # of a note that was left where no writer's was


class Act(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an operator did at the writer, for the logs of the standbys. `at` in seconds since the epoch.

    `host`: where, "" for the writer's.
    """

    at: float
    kind: str
    link: str = ""
    by: str = ""
    reason: str = ""
    host: str = ""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What every note has that daemons share at a destination.

    `turn` grows by one with each change of the decisions: a note with a lower one is an old one restored. `acts`: what
    operators did lately, the oldest first.
    """

    turn: int
    decisions: dict[str, Decision] = {}
    acts: tuple[Act, ...] = ()


class Shared(Common, frozen=True, kw_only=True):
    """The note beside a lock.

    `seen`: the turn up to which the writer follows the decisions; 0 where a standby left the note for the next writer,
    because there was none. `settled`: the first copies that are done, as in
    `bridge.destination.destination`. `version` wrote it. `keys`: a hash of each key of the writer's file.
    `standbys`: who stands by, by `Writer.place`.
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
        """The writer that the note is of; None: none has written since it was left."""
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
    """None: nothing was left. Raises ValueError where it makes no sense, ConfigError where its format is newer."""
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
    """What of these goes into a note: of what may give way the newest few, and less where there is no room for it."""
    giving = sorted((one for one in decisions.values() if RULES[one.kind].gives_way), key=lambda one: (one.at, one.key))
    kept = {name: one for name, one in decisions.items() if not RULES[one.kind].gives_way}
    room = LIMIT - _size(kept.values())
    count: dict[Any, int] = {}
    for one in reversed(giving):
        count[one.kind] = count.get(one.kind, 0) + 1
        room -= _size([one])
        if count[one.kind] <= KEPT and room > LIMIT // 4:  # the losses need some of it
            kept[one.name] = one
    return dict(sorted(kept.items()))


def encode(shared: Shared) -> bytes:
    """Without losses where there is no room for them; what an operator decided always finds room."""
    content = msgspec.json.encode(shared)
    if len(content) <= LIMIT:
        return content
    log.warning("the note for standbys is full, and goes without losses bytes=%d", len(content))
    return msgspec.json.encode(replace(shared, losses=(), keys={}, acts=()))


def refusal(decisions: Iterable[Decision], key: str, reason: str) -> str:
    """Why a freeze is not to be decided, "" if it may: what cannot give way must fit into a note."""
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
    """Why these overrides and drains cannot all be in force at one destination, "" if they can: they share a note."""
    size = _size(decisions)
    if size <= OVERRIDES:
        return ""
    return f"overrides take {size} of the {OVERRIDES} bytes that hosts can share; unset some, or give shorter reasons"


def _size(decisions: Iterable[Decision]) -> int:
    return sum(len(msgspec.json.encode({one.name: one})) for one in decisions)


def refuse_old(shared: Shared) -> None:
    """Raises Unavailable where the writer is of an older version, which does not read what is added to its note."""
    if shared.format < FORMAT:
        writer = shared.writer
        raise Unavailable(
            f"{writer.host} (pid {writer.pid}) runs an older isthmus and reads none of this: decide it there"
        )


async def pass_on(seat: Seat, name: str, decision: Decision | None) -> Shared | None:
    """Puts one decision (None: it is taken back) into the note, without the lock. The note then; None: there is none.

    Where there is no note nobody has written there yet, or it went with the store: the decision is left for whoever
    writes next, if that place takes it. Raises what the seat does, ValueError and ConfigError.
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
        except Conflict:  # another daemon was first: read what it said, and add to that
            continue
        return fresh


async def _left(seat: Seat, shared: Shared) -> Shared | None:
    try:
        await seat.note(encode(shared), None, term=None)
    except Conflict:
        return await pass_on(seat, *next(iter(shared.decisions.items())))
    except IsthmusError as error:  # a folder that nobody has written to, or where we may not
        log.info("no note is left reason=%r", str(error))
        return None
    return shared


async def followed(seat: Seat, turn: int) -> Shared | None:
    """Waits until the writer follows the decisions up to that turn, for ever; the note that says so."""
    while True:
        shared = decode(await seat.recall())
        if shared is None or shared.seen >= turn:
            return shared
        await asyncio.sleep(LOOK)
