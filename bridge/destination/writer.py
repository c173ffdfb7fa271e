"""The one writer of a destination: its lock, the role of this process, and the term under which it writes."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

import msgspec

from bridge.adapter import Change, Entry, Seat, Term
from bridge.destination.events import Events, Happened
from bridge.destination.leading import NO_TURNS, Parts, Turns
from bridge.destination.waiting import first
from bridge.model import ServiceName
from bridge.shards import WHOLE

if TYPE_CHECKING:
    from bridge.destination.apply import Batch


class Role(enum.StrEnum):
    """What this process is at a destination."""

    STARTING = "starting"
    OBSERVING = "observing"  # no link may write there, so the lock is not asked for
    STANDBY = "standby"
    WRITER = "writer"


class Writer(msgspec.Struct, frozen=True):
    """The process that writes a destination. `since` in seconds since the epoch; `configuration` is a hash of its file.

    `folder`: its state folder, which distinguishes two daemons of one host, also after a restart.
    """

    host: str
    pid: int
    since: float
    configuration: str
    folder: str = ""

    @property
    def place(self) -> str:
        """Host and folder: the same for each process that this host starts with that folder."""
        return f"{self.host}:{self.folder}"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Another process of this bridge at a destination. `seen`: when it last reported, in seconds since the epoch.

    `role`: "standby", or "gone" for a former writer whose lock another process has; "serving" at an export; "member" in
    a group.
    """

    role: str
    seen: float
    process: Writer


class Peers(Protocol):
    """The other daemons of this bridge, at one destination; see `bridge.destination.standby`."""

    @property
    def writer(self) -> Writer | None:
        """The writer there, as far as is known."""
        ...

    @property
    def members(self) -> Sequence[Member]:
        """The other processes that are not the writer, as far as is known."""
        ...

    @property
    def differing(self) -> Sequence[str]:
        """The keys in which the writer's file differs from ours, e.g. "links.a-to-b"; none where it is not known."""
        ...

    @property
    def unlike(self) -> Mapping[str, Sequence[str]]:
        """Of an export: the daemons whose picture has differed from ours for too long, by host, with the services."""
        ...

    async def inherit(self) -> Writer | None:
        """Called once the lock is ours, before anything is written: reads what the previous writer left.

        Returns the previous writer, if it ran on another host or in another state folder, else None. Raises Unavailable
        or Denied.
        """
        ...

    async def pass_on(self) -> object:
        """Tells the other processes at once what was decided here. Raises as the seat does, and ValueError."""
        ...

    async def run(self, term: Callable[[], Term | None]) -> None:
        """Never returns. `term()`: while this process is the writer, its term."""
        ...


class Lead:
    """Makes this process the one writer of a destination, for one term after the other.

    `seat` None: there is no lock, and this process is the writer as long as it runs. `term`: the current term; None: it
    is not the writer, or there is no seat. `begun(another_wrote)` is called when a term begins, before anything is
    written, and says whether another process may have written since this one first asked for the lock. `ended()` is
    called when the term is over.
    """

    def __init__(
        self,
        destination: str,
        seat: Seat | None,
        peers: Peers | None,
        events: Events,
        clock: Callable[[], float],
        *,
        begun: Callable[[bool], None],
        ended: Callable[[], None],
    ) -> None:
        self.seat = seat
        self.peers = peers
        self.role = Role.STARTING
        self.term: Term | None = None
        self.is_following = False  # see `Leading`
        self.before: Writer | None = None  # see `Leading`
        self._destination = destination
        self._events = events
        self._clock = clock
        self._begun = begun
        self._ended = ended
        self._lost = asyncio.Event()
        self._asks = 0  # how often this process asked for the lock
        self._myself: Writer | None = None  # as the note named this process in its last term

    @property
    def another_writes(self) -> bool:
        """Whether another process is known to have been the writer since the last term of this one."""
        writer = self.peers.writer if self.peers is not None else None
        mine = self._myself
        return writer is not None and (mine is None or (writer.host, writer.pid, writer.since) != _of(mine))

    @property
    def writes(self) -> bool:
        """Whether this process is the writer now."""
        return self.role is Role.WRITER

    @property
    def share(self) -> None:
        """See `Leading.share`."""
        return None

    # -- the destination is one shard --------------------------------------------------------------------------------

    def shard_of(self, name: ServiceName) -> int:
        """See `Leading.shard_of`."""
        return WHOLE

    def parts(self, names: Sequence[ServiceName]) -> Parts:
        """See `Leading.parts`: a standby plans all of them as well."""
        return Parts({WHOLE: names})

    def term_in(self, shard: int) -> Term | None:
        """See `Leading.term_in`."""
        return self.term

    def writes_in(self, shard: int) -> bool:
        """See `Leading.writes_in`."""
        return self.writes

    def waits_in(self, shard: int) -> str:
        """See `Leading.waits_in`: the writer may always remove."""
        return ""

    def writes_at(self, name: ServiceName) -> bool:
        """See `Leading.writes_at`."""
        return self.writes

    def follows(self, name: ServiceName) -> bool:
        """See `Leading.follows`: a standby follows everything that the writer does."""
        return True

    def elsewhere(self, name: ServiceName, entries: Mapping[str, Entry]) -> int | None:
        """See `Leading.elsewhere`."""
        return None

    def notices(self, name: ServiceName) -> bool:
        """See `Leading.notices`: a standby may be the next writer."""
        return True

    def turns(self) -> Turns:
        """See `Leading.turns`: `begun` is called instead when a term begins."""
        return NO_TURNS

    def unread(self) -> frozenset[int]:
        """See `Leading.unread`."""
        return NO_TURNS.begun

    def was_read(self, shards: frozenset[int], *, whole: bool) -> None:
        """See `Leading.was_read`: this includes everything that the previous writer wrote."""
        if whole and self.writes:
            self.is_following = False

    async def reserved(self, batch: Batch) -> list[Change]:
        """See `Leading.reserved`: the guard of this process has judged everything already."""
        return batch.changes

    async def leave(self, patience: float) -> None:
        """See `Leading.leave`: nothing is to be done, since a standby takes over as soon as the lock is free."""

    # -- terms -------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """See `Leading.observe`."""
        self.role = Role.OBSERVING

    def supersede(self, term: Term | None) -> None:
        """See `Leading.supersede`."""
        if self.writes and term is self.term:
            self._stand_by()
            self._lost.set()

    async def run(self) -> None:
        """One term: waits for the lock, and returns when the lock is lost. Raises Unavailable or Denied."""
        self._stand_by()
        self.is_following = True
        self._asks += 1
        term: Term | None
        async with self.seat.writer() if self.seat is not None else nullcontext() as term:
            another_wrote = self._may_follow_another(term)
            if self.peers is not None:
                self.before = await self.peers.inherit()
                self._myself = self.peers.writer
            self._lost = asyncio.Event()
            self.role, self.term = Role.WRITER, term
            self._begun(another_wrote)
            after = {"after": self.before.place} if self.before is not None else {}
            self._events.tell(Happened("writer", {"destination": self._destination, **after}))
            try:
                await first(self._lost.wait(), *([term.ended()] if term is not None else []))
            finally:
                self._stand_by()
                self._ended()
                self._events.tell(Happened("standby", {"destination": self._destination}))

    def _may_follow_another(self, term: Term | None) -> bool:
        """Whether another process may have written since this one first asked for the lock.

        A process that asked before, in vain or for a term that is over, does not know who held the lock in between.
        """
        return term is not None and (term.taken_over or self._asks > 1)

    def _stand_by(self) -> None:
        self.role, self.term = Role.STANDBY, None


def _of(writer: Writer) -> tuple[str, int, float]:
    return writer.host, writer.pid, writer.since
