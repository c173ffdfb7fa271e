"""The one writer of a destination: the lock, the role of this process, and the term that its writes go under."""

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
    OBSERVING = "observing"  # no link may write, so no lock is asked for
    STANDBY = "standby"
    WRITER = "writer"


class Writer(msgspec.Struct, frozen=True):
    """The process that writes at a destination. `since` in seconds since the epoch; `configuration` is a hash.

    `folder`: its state folder, by which two daemons of one host are told apart, also over a restart.
    """

    host: str
    pid: int
    since: float
    configuration: str
    folder: str = ""

    @property
    def place(self) -> str:
        """What is the same for all processes that one host runs in that folder."""
        return f"{self.host}:{self.folder}"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Another process of this bridge at a destination. `seen`: when it last said that it runs, seconds since the epoch.

    `role`: "standby", or "gone" for a writer whose lock another process has taken over; "serving" at an export,
    "member" in a group.
    """

    role: str
    seen: float
    process: Writer


class Peers(Protocol):
    """The other daemons of this bridge, at one destination; see `bridge.destination.standby`."""

    @property
    def writer(self) -> Writer | None:
        """Who writes there, as far as is known."""
        ...

    @property
    def members(self) -> Sequence[Member]:
        """The others that do not write there, as far as is known."""
        ...

    @property
    def differing(self) -> Sequence[str]:
        """The keys of the file that the writer has otherwise, e.g. "links.a-to-b"; none where that is not known."""
        ...

    @property
    def unlike(self) -> Mapping[str, Sequence[str]]:
        """Of an export: the daemons that have served something else for too long, by host, each with the services."""
        ...

    async def inherit(self) -> Writer | None:
        """The lock is ours: before anything is written. Raises Unavailable or Denied.

        Who wrote before, where that was a daemon of another host or state folder; None: this one, or nobody.
        """
        ...

    async def pass_on(self) -> object:
        """Has the others know at once what is decided here. Raises what the seat does, and ValueError."""
        ...

    async def run(self, term: Callable[[], Term | None]) -> None:
        """Never returns. `term()`: while this process is the writer, its term."""
        ...


class Lead:
    """The terms of this process at one destination, one after the other.

    `seat` None: there is no lock, and this process writes as long as it runs. `term` is that of the running term, None
    where there is no seat or no term. `begun(another_wrote)` is called when a term begins, before anything is written:
    whether another process may have written since this one first asked for the lock. `ended()` when it is over.
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
        self.is_following = False  # what changes of ours at the destination is another process's doing
        self.before: Writer | None = None  # who wrote before this term, on another host or in another folder
        self._destination = destination
        self._events = events
        self._clock = clock
        self._begun = begun
        self._ended = ended
        self._lost = asyncio.Event()
        self._asks = 0  # how often the lock was asked for
        self._myself: Writer | None = None  # as the others know this process since its last term

    @property
    def another_writes(self) -> bool:
        """Whether another process is known to have written since the last term of this one."""
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

    # -- all of it is one shard --------------------------------------------------------------------------------------

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
        """See `Leading.waits_in`: who writes may remove."""
        return ""

    def writes_at(self, name: ServiceName) -> bool:
        """See `Leading.writes_at`."""
        return self.writes

    def minds(self, name: ServiceName) -> bool:
        """See `Leading.minds`: a standby follows all that the writer does."""
        return True

    def elsewhere(self, name: ServiceName, entries: Mapping[str, Entry]) -> int | None:
        """See `Leading.elsewhere`."""
        return None

    def notices(self, name: ServiceName) -> bool:
        """See `Leading.notices`: a standby may be the next writer."""
        return True

    def turns(self) -> Turns:
        """See `Leading.turns`: a term begins with a call of `begun`."""
        return NO_TURNS

    def unread(self) -> frozenset[int]:
        """See `Leading.unread`."""
        return NO_TURNS.begun

    def was_read(self, shards: frozenset[int], *, whole: bool) -> None:
        """See `Leading.was_read`: it has all that the writer before us wrote."""
        if whole and self.writes:
            self.is_following = False

    async def reserved(self, batch: Batch) -> list[Change]:
        """See `Leading.reserved`: the guard of this process has judged all of it."""
        return batch.changes

    async def leave(self, patience: float) -> None:
        """See `Leading.leave`: a standby takes over as soon as the lock is free."""

    # -- terms -------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """No link may write: no term begins."""
        self.role = Role.OBSERVING

    def supersede(self, term: Term | None) -> None:
        """A write under that term found that it is over."""
        if self.writes and term is self.term:
            self._stand_by()
            self._lost.set()

    async def run(self) -> None:
        """One term: waits for the lock, and returns when it is lost. Raises Unavailable or Denied."""
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

        Who asked before, in vain or for a term that is over, does not know who held the lock in between.
        """
        return term is not None and (term.taken_over or self._asks > 1)

    def _stand_by(self) -> None:
        self.role, self.term = Role.STANDBY, None


def _of(writer: Writer) -> tuple[str, int, float]:
    return writer.host, writer.pid, writer.since
