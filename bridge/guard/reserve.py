"""The note of one shard of a destination, and what all shards together lose of a source's scope (ADR 44). Pure.

A removal that loses is reserved first: the note says that it is asked for, then the notes of all shards are read, and
the sums are judged. Whoever comes second sees the first, so that the limits hold over all members of a group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bridge import __version__
from bridge.adapter import Cause, Note
from bridge.errors import ConfigError
from bridge.formats import format_of
from bridge.guard.limits import STOOD, Level, Limit, Verdict
from bridge.guard.losses import Lost
from bridge.guard.windows import MINUTE
from bridge.plan.causes import TREATMENTS, Frees
from bridge.plan.values import Removal, Scope
from bridge.shards import LONGEST_NOTE

FORMAT = 1
AGAIN = 2.0  # seconds between two looks at what the others ask for, where a removal waits for them
COUNTED = (Frees.OPINION, Frees.COUNT)  # what lets these go depends on how many of their scope go


class Reserve(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one shard has of one source's scope, and may lose of it.

    `serving`: entries of ours from there that serve in the shard. `won`: gains and losses (< 0) by the minute since the
    epoch, at least those of the guard's window; `reused` likewise, of those that went because their addresses serve
    elsewhere. `asked`: by cause, how many are asked to go, held or under way. `settled`: the first copy is done.
    """

    serving: int
    won: dict[int, int] = {}
    reused: dict[int, int] = {}
    asked: dict[str, int] = {}
    settled: bool = False

    @property
    def quiet(self) -> bool:
        """Whether nothing of it is lost or asked for."""
        return not (self.asked or self.reused or any(delta < 0 for delta in self.won.values()))


class ShardNote(msgspec.Struct, frozen=True, kw_only=True):
    """What the holder of a shard leaves beside its lock.

    `who` wrote it. `lives`: the life of each scope of the stream that is believed, by its name there, as its identity
    and its incarnation; `generations`: in which one it was read. `reserves`: by identity of a registry and its scope.
    `losses`: of services, those that lost most. `cut`: there was no room for all reserves, and what is missing is not
    known.
    """

    format: int = FORMAT
    version: str = __version__
    who: str = ""
    lives: dict[str, tuple[str, str]] = {}
    generations: dict[str, int] = {}
    reserves: dict[str, dict[str, Reserve]] = {}
    losses: tuple[Lost, ...] = ()
    cut: bool = False

    def of(self, scope: Scope) -> Reserve | None:
        """What it says of a scope; None: nothing."""
        return self.reserves.get(scope[0], {}).get(scope[1])


# -- the note


def decode(note: Note | None) -> ShardNote | None:
    """None: there is none. Raises ValueError where it makes no sense, ConfigError where its format is newer."""
    if note is None:
        return None
    of = format_of("the note of a shard", note.content, FORMAT)
    if of < 1:
        raise ValueError(f"no note of a shard has the format {of}")
    return msgspec.json.decode(note.content, type=ShardNote)


def encode(note: ShardNote) -> bytes:
    """At most `LONGEST_NOTE` bytes. What others need least gives way first, and never makes them remove more."""
    return next(content for content in map(msgspec.json.encode, _shorter(note)) if len(content) <= LONGEST_NOTE)


def _shorter(note: ShardNote) -> Iterable[ShardNote]:
    """The note, then as less and less: losses of services, scopes that only serve, minutes, at last the scopes."""
    services = sorted(note.losses, key=lambda one: (-one.lost, one.service))
    kept = len(services)
    while kept:
        yield replace(note, losses=tuple(services[:kept]))
        kept //= 2
    note = replace(note, losses=())
    yield note
    note = _with(note, [(scope, one) for scope, one in _all(note) if not one.quiet])
    yield note
    note = _with(note, [(scope, _at_once(one)) for scope, one in _all(note)])
    yield note
    yield replace(note, reserves={}, cut=True)
    yield replace(note, reserves={}, generations={}, cut=True)


def _all(note: ShardNote) -> list[tuple[Scope, Reserve]]:
    return [((identity, name), one) for identity, scopes in note.reserves.items() for name, one in scopes.items()]


def _with(note: ShardNote, reserves: Iterable[tuple[Scope, Reserve]]) -> ShardNote:
    found: dict[str, dict[str, Reserve]] = {}
    for (identity, name), one in reserves:
        found.setdefault(identity, {})[name] = one
    return replace(note, reserves=found)


def _at_once(one: Reserve) -> Reserve:
    """Losses as if all were made in the last minute in which one was: they count for longer. Gains are not told."""

    def last(won: Mapping[int, int]) -> dict[int, int]:
        lost = {minute: delta for minute, delta in won.items() if delta < 0}
        return {max(lost): sum(lost.values())} if lost else {}

    return replace(one, won=last(one.won), reused=last(one.reused))


# -- the sums


class Sum(NamedTuple):
    """Serving instances of one scope in some shards: at the start of a window, `STOOD` seconds ago, and now.

    `asked`: by cause, how many are asked to go. `reused`: how many went because their addresses serve elsewhere.
    """

    start: int
    stood: int
    serving: int
    asked: Mapping[str, int]
    reused: int

    def level(self, causes: Collection[Cause]) -> Level:
        """With all made that is asked for these causes."""
        asked = sum(self.asked.get(each, 0) for each in causes)
        return Level(self.start, self.serving - asked, self.stood, self.serving)

    def eases(self, before: Sum) -> bool:
        """Whether something may go now that could not before."""
        fewer = any(self.asked.get(cause, 0) < count for cause, count in before.asked.items())
        return fewer or self.reused < before.reused or self.start > before.start or self._lost < before._lost

    @property
    def _lost(self) -> int:
        return self.start - self.serving


class Elsewhere:
    """What the shards of other members have and lose, by their notes as they were read last.

    `ahead`: seconds that the wall clock is ahead of the monotonic one. `unread`: the shards whose note cannot be read:
    all that they have counts as asked for, however much that is.
    """

    def __init__(self, notes: Mapping[int, ShardNote | None] | None = None, ahead: float = 0.0) -> None:
        self._ahead = ahead
        self._notes = {shard: note for shard, note in (notes or {}).items() if note is not None and not note.cut}
        self.unread = tuple(sorted((notes or {}).keys() - self._notes.keys()))

    def of(self, scope: Scope, window: float, now: float) -> Sum:
        """What they have of a scope. `window` in seconds; `now` in monotonic seconds."""
        now += self._ahead
        start = stood = serving = reused = 0
        asked: Counter[str] = Counter()
        for one in filter(None, (note.of(scope) for note in self._notes.values())):
            start += one.serving - net(one.won, now - window)
            stood += one.serving - net(one.won, now - STOOD)
            serving += one.serving
            reused -= net(one.reused, now - window)
            asked.update(one.asked)
        return Sum(start, stood, serving, asked, reused)


ALONE = Elsewhere()


def elsewhere(notes: Mapping[int, Note], ours: Collection[int], ahead: float) -> Elsewhere:
    """By the notes of all shards as they were read now, less those that this process holds."""
    return Elsewhere({shard: _readable(note) for shard, note in notes.items() if shard not in ours}, ahead)


def _readable(note: Note) -> ShardNote | None:
    try:
        return decode(note)
    except (ValueError, ConfigError):
        return None


def net(won: Mapping[int, int], since: float) -> int:
    """Gains less losses since a time (seconds since the epoch); of the minute that it is in losses alone."""
    return sum(delta for minute, delta in won.items() if (minute + (delta < 0)) * MINUTE >= since)


def counts(removal: Removal) -> bool:
    """Whether others have to know of a removal before it is made."""
    return removal.loses and TREATMENTS[removal.cause].frees in COUNTED


def unknown(removal: Removal, unread: Sequence[int]) -> Verdict | None:
    """What holds a removal where the notes of some shards cannot be read; None: nothing.

    As everywhere an entry that is only marked unhealthy never waits for the operator.
    """
    if not (unread and counts(removal)):
        return None
    shards = ", ".join(map(str, unread))
    text = f"what goes in shard {shards} is not known"
    return Verdict(Limit.HARD_SHARE, text, operator=removal.cause is not Cause.HEALTH or removal.withdraws)
