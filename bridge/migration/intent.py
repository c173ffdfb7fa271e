"""What the daemons of a bridge keep of their migrations, at `bridge.seat`: one record, compared and set (ADR 34)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridge import __version__
from bridge.adapter import Note
from bridge.formats import format_of
from bridge.migration.block import Migration
from bridge.migration.gates import Gate
from bridge.migration.natives import Out
from bridge.migration.phases import Phase, State
from bridge.migration.shares import Fit
from bridge.model import ServiceName
from bridge.sources.steered import Native, Steered

FORMAT = 1
LIMIT = 128 * 1024  # bytes: an eighth of what the smallest of the stores takes
WENT_BACK = frozenset({Phase.ROLLING_BACK, Phase.ROLLED_BACK})
BACK, AFTER_BACK = 2, 3600.0  # after so many moves that went back within so many seconds no further one begins
DESTINATION = "migrations"  # of the seat whose holder moves the steps: no registry of a file with migrations has it


class Placed(msgspec.Struct, frozen=True):
    """How a share is said at one place: under that name there."""

    name: ServiceName
    fit: Fit


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One move: a service of a migration. `places`: how its share is said, by destination.

    `turn`: of the record that brought this step. `gates`: what each came to in it, by name. `out`: the natives that are
    out of service by this move, by place; `stuck`: why those that serve cannot be, "" where they can.
    """

    migration: str
    service: ServiceName
    state: State
    places: dict[str, Placed] = {}
    turn: int = 0
    gates: dict[str, Gate] = {}
    out: dict[str, Out] = {}
    stuck: str = ""

    @property
    def name(self) -> str:
        """What commands call it."""
        return f"{self.migration}/{self.service}"

    def within(self, state: State) -> Intent:
        """In another state of the same step; where its time begins anew, what gates saw before counts no more."""
        gates = (
            {name: one.anew() for name, one in self.gates.items()} if state.since != self.state.since else self.gates
        )
        return msgspec.structs.replace(self, state=state, gates=gates)


class Requests(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was measured of the requests of a move. `at`: seconds since the epoch, `number`: of the step, then.

    `share` in percent of the new side, None: not known, and `why` says why. `settled`: it is of this step alone.
    `quiet`: the old side had no request for as long as the block says; None: nobody knows. `left`: requests at natives
    that are out of service, in a window that began at `since`; None: not known, `left_why` says why, "": too early.
    """

    share: float | None = None
    quiet: bool | None = None
    why: str = "nobody counts the requests: gates.prometheus.requests, or envoys"
    at: float = 0.0
    number: int = 0
    settled: bool = False
    left: float | None = None
    left_why: str = ""
    since: float = 0.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The record. `turn` grows with each change of the moves; `blocks`: what started migrations run by, by name."""

    format: int = FORMAT
    version: str = __version__
    turn: int = 0
    blocks: dict[str, Migration] = {}
    moves: dict[str, Intent] = {}

    def of(self, migration: str) -> dict[str, Intent]:
        """The moves of one migration, by name."""
        return {name: one for name, one in self.moves.items() if one.migration == migration}

    def steered(self, now: float) -> Steered:
        """The natives that are out of service by these moves; `now` in seconds since the epoch."""
        out: set[Native] = set()
        shows: set[Native] = set()
        for place in (place for one in self.moves.values() for place in one.out.values()):
            out |= {(place.identity, place.name, key) for key in place.levers}
            shows |= {(place.identity, place.name, key) for key in place.shows(now)}
        return Steered(frozenset(out), frozenset(shows))

    def first(self, migration: str, now: float) -> frozenset[str]:
        """The moves of a migration that may be under way: those that have begun, then the others by their names.

        No other one begins within an hour of two that went back: what made them may be true of all.
        """
        all_moves = self.of(migration).values()
        moving = [one for one in all_moves if not (one.state.ended or one.state.paused)]
        back = [one for one in all_moves if one.state.phase in WENT_BACK and now - one.state.since < AFTER_BACK]
        if len(back) >= BACK:
            moving = [one for one in moving if one.state.phase is not Phase.OBSERVE]
        moving.sort(key=lambda one: (one.state.phase is Phase.OBSERVE, one.name))
        return frozenset(one.name for one in moving[: self.blocks[migration].at_once])

    def with_moves(self, moves: Mapping[str, Intent], blocks: Mapping[str, Migration]) -> Record:
        """The next turn, with these moves in the place of what was known of them; blocks that nobody runs by go."""
        turned = {name: self._turned(one) for name, one in moves.items()}
        known = {**self.moves, **turned}
        used = {one.migration for one in known.values()}
        kept = {name: one for name, one in {**self.blocks, **blocks}.items() if name in used}
        return msgspec.structs.replace(self, turn=self.turn + 1, moves=known, blocks=kept)

    def _turned(self, one: Intent) -> Intent:
        before = self.moves.get(one.name)
        same = before is not None and before.state.number == one.state.number and before.places == one.places
        return one if same else msgspec.structs.replace(one, turn=self.turn + 1)

    def without(self, names: frozenset[str]) -> Record:
        """The next turn, without these moves."""
        left = {name: one for name, one in self.moves.items() if name not in names}
        bare = msgspec.structs.replace(self, moves=left)
        return bare.with_moves({}, {})


def decode(note: Note | None) -> Record:
    """An empty record where there is none. Raises ConfigError where a newer isthmus wrote it, else ValueError."""
    if note is None:
        return Record()
    format_of("the record of migrations", note.content, FORMAT)
    return msgspec.json.decode(note.content, type=Record)


def encode(record: Record) -> bytes:
    """Raises ValueError where it does not fit."""
    content = msgspec.json.encode(record)
    if len(content) > LIMIT:
        raise ValueError(
            f"the moves that stand take {len(content)} of the {LIMIT} bytes that hosts can share; "
            "`isthmus migrate forget` those that are done"
        )
    return content
