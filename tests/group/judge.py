"""The judge of a destination that several daemons write: by its own history, and by what each says that it wrote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from bridge.state.record import Record
from tests.kit.natives import PREFIX, Event

NOBODY = ""
WROTE = {"add", "update", "remove"}


class Turn(NamedTuple):
    """From a revision of the destination on, this process holds the lock of the shard; `NOBODY`: none does."""

    revision: int
    shard: int
    holder: str


class Written(NamedTuple):
    """What tells one write from all others: the key, and the number that its record says; None: it was removed."""

    key: str
    number: int | None


def written(event: Event) -> Written:
    """What an event of the destination is."""
    if event.value is None:
        return Written(event.key, None)
    return Written(event.key, int((json.loads(event.value)["metadata"] or {}).get("n", 0)))


def said(lines: Iterable[Record], destination: str) -> list[Written]:
    """All that the journal of a daemon says that it wrote there, in its order."""
    found = []
    for one in lines:
        if one.kind in WROTE and one.destination == destination and not one.would:
            number = int(one.after.metadata.get("n", 0)) if one.after is not None else None
            found.append(Written(f"{PREFIX}{one.service}/{one.instance}", number))
    return found


class Holders:
    """Who held which shard at which revision, by the locks' own history."""

    def __init__(self, turns: Iterable[Turn]) -> None:
        self._turns: dict[int, list[Turn]] = defaultdict(list)
        for turn in sorted(turns):
            self._turns[turn.shard].append(turn)

    def at(self, shard: int, revision: int) -> str:
        """Who may write at a revision: the turn of that very revision begins after it."""
        before = [turn.holder for turn in self._turns[shard] if turn.revision < revision]
        return before[-1] if before else NOBODY

    def during(self, event: Event, shard: int) -> list[str]:
        """Who may have made it: one, unless it is not known at which revision that was."""
        first = event.revision if event.after is None else event.after + 1
        later = [turn.holder for turn in self._turns[shard] if first <= turn.revision < event.revision]
        return [one for one in (self.at(shard, first), *later) if one != NOBODY]

    def terms(self, shard: int) -> list[str]:
        """All who held it, one after the other."""
        held = [turn.holder for turn in self._turns[shard] if turn.holder != NOBODY]
        return [one for n, one in enumerate(held) if n == 0 or held[n - 1] != one]


class Verdict(NamedTuple):
    """`faults`: writes at a revision at which their shard was another's, or nobody's; of each what happened.

    `writes`: how many each process made. `unsaid`: how many no journal has (its process was killed a moment later).
    """

    faults: list[str]
    writes: Mapping[str, int]
    unsaid: int


def one_writer(
    events: Iterable[Event],
    holders: Holders,
    journals: Mapping[str, Sequence[Written]],
    shard_of: Callable[[str], int],
    killed: Iterable[str] = (),
    *,
    whole: bool = True,
) -> Verdict:
    """Whether each key was written by the holder of its shard alone.

    `journals`: what each process says that it wrote, by the name that its locks have. Who was killed may not have said
    its last writes; all others say all of them. `whole`: every write is among the events.
    """
    claims: dict[Written, list[str]] = defaultdict(list)
    for process, lines in journals.items():
        for line in lines:
            claims[line].append(process)
    faults, unsaid, ends = [], 0, set(killed)
    writes: dict[str, int] = defaultdict(int)
    for event in events:
        one, held = written(event), holders.during(event, shard_of(event.key))
        what = f"{event.key} ({one.number if one.number is not None else 'removed'}) at revision {event.revision}"
        authors = claims[one]
        holder = next((each for each in held if each in authors), held[0] if held else NOBODY)
        if holder == NOBODY:
            faults.append(f"{what} was written while nobody held its shard")
        elif holder in authors:
            authors.remove(holder)
        elif authors:
            faults.append(f"{what} was written by {authors.pop(0)} while {holder} held its shard")
        elif holder in ends:
            unsaid += 1
        else:
            faults.append(f"{what} was written, and {holder}, who held its shard, does not say so")
        writes[holder] += 1
    left = {one: authors for one, authors in claims.items() if whole}
    never = [f"{process} says that it wrote {one}" for one, authors in left.items() for process in authors]
    return Verdict([*faults, *(f"{each}, and the destination has no such write" for each in never)], writes, unsaid)


class Gap(NamedTuple):
    """The longest time without a write of a shard in a stretch: seconds, and when it began (monotonic)."""

    seconds: float
    shard: int
    since: float


def gaps(events: Iterable[Event], shards: int, shard_of: Callable[[str], int], begin: float, end: float) -> list[Gap]:
    """Of each shard, where something there changes all the time; the stretch's own ends count as writes."""
    times: dict[int, list[float]] = {shard: [begin] for shard in range(shards)}
    for event in events:
        if begin <= event.at <= end:
            times[shard_of(event.key)].append(event.at)
    return [
        max(Gap(after - at, shard, at) for at, after in zip(each, [*each[1:], end], strict=True))
        for shard, each in times.items()
    ]
