"""The interface through which a planner learns what this process may write at a destination: all, or some shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bridge.adapter import Change, Entry, Seat, Term
from bridge.model import ServiceName

if TYPE_CHECKING:
    from bridge.destination.apply import Batch
    from bridge.destination.writer import Peers, Role, Writer


class Parts(NamedTuple):
    """Service names that are to be planned. `mine`: those that this process plans, by shard; each shard has its term.

    `others`: names that another process plans. Where the destination is not divided, all names are in `WHOLE`.
    """

    mine: Mapping[int, Sequence[ServiceName]]
    others: Sequence[ServiceName] = ()


class Turns(NamedTuple):
    """What changed since the last call of `turns`. `begun`: shards that this process writes now, and did not before.

    `ended`: shards that it no longer writes. `stale`: those of `begun` that another process may have written meanwhile.
    """

    begun: frozenset[int] = frozenset()
    ended: frozenset[int] = frozenset()
    stale: frozenset[int] = frozenset()


NO_TURNS = Turns()


class Share(NamedTuple):
    """The shards of a destination as one member of a group has them, by number. `of`: how many shards there are.

    `writes`: it holds their locks. `should`: the group assigned them to it. `cares`: it holds their locks as a
    caretaker, and removes nothing there; `cared`: for how many seconds it has been the caretaker of one, at most.
    `claims`: it waits for their locks with a claim, so that the holder hands them over. `waits`: it waits for their
    locks without a claim, because it has not read these shards of the stream to their end yet.
    `fault`: why this process is not a member, "" if it is. `undivided`: the reason is that the destination is not
    divided into the same number of shards as the stream.
    """

    of: int
    writes: frozenset[int]
    should: frozenset[int]
    cares: frozenset[int]
    claims: frozenset[int]
    waits: frozenset[int]
    fault: str
    undivided: bool = False
    cared: float = 0.0


class Leading(Protocol):
    """What this process may write at one destination: all of it (`Lead`), or some of its shards (`Group`).

    `seat`: where the locks are; None: there is no lock. `writes`: whether this process writes anything there now.
    `term`: the term under which it writes all of it; None: it does not, or there is no lock. `before`: the writer
    before this term, if it ran on another host or in another state folder. `another_writes`: whether another process is
    known to have been the writer since the last term of this one. `is_following`: whether changes of our entries are
    taken for the doing of another process of this bridge.
    """

    peers: Peers | None
    before: Writer | None
    is_following: bool

    @property
    def seat(self) -> Seat | None: ...

    @property
    def role(self) -> Role: ...

    @property
    def term(self) -> Term | None: ...

    @property
    def writes(self) -> bool: ...

    @property
    def another_writes(self) -> bool: ...

    @property
    def share(self) -> Share | None:
        """The shards that this member of a group has; None: the destination is not shared."""
        ...

    def shard_of(self, name: ServiceName) -> int:
        """The shard that a service belongs to."""
        ...

    def parts(self, names: Sequence[ServiceName]) -> Parts:
        """Divides these names into those that this process plans, by shard, and the others."""
        ...

    def term_in(self, shard: int) -> Term | None:
        """The term under which this process writes a shard now; None: there is none."""
        ...

    def writes_in(self, shard: int) -> bool:
        """Whether this process writes a shard now."""
        ...

    def waits_in(self, shard: int) -> str:
        """Why nothing may be removed from a shard now; "": removals are allowed."""
        ...

    def writes_at(self, name: ServiceName) -> bool:
        """Whether this process writes this service now."""
        ...

    def follows(self, name: ServiceName) -> bool:
        """Whether changes of this service at the destination are read here: not where another member writes it."""
        ...

    def elsewhere(self, name: ServiceName, entries: Mapping[str, Entry]) -> int | None:
        """The shard of these entries, where only other members have to know them; None: this process has to."""
        ...

    def notices(self, name: ServiceName) -> bool:
        """Whether this process counts and reports what others did to our entries of this service."""
        ...

    def turns(self) -> Turns:
        """The shards that began and ended since the last call; asked by the planner."""
        ...

    def unread(self) -> frozenset[int]:
        """Shards that this process began to write, and whose entries it has not read completely since."""
        ...

    def was_read(self, shards: frozenset[int], *, whole: bool) -> None:
        """Says that all entries of these shards were read, or (`whole`) all entries of the destination."""
        ...

    async def reserved(self, batch: Batch) -> list[Change]:
        """The changes of a batch that may be sent, given that the limits of the guard hold over all processes together.

        Raises Unavailable, Denied or Superseded: then nothing of the batch may be sent.
        """
        ...

    def supersede(self, term: Term | None) -> None:
        """A write under that term was refused because the term is over."""
        ...

    def observe(self) -> None:
        """Records that no link may write here, so no lock is asked for."""
        ...

    async def run(self) -> None:
        """Waits for the lock and holds it: one term (`Lead`), or for ever (`Group`). Raises Unavailable or Denied."""
        ...

    async def leave(self, patience: float) -> None:
        """Hands over what others can take at once, within so many seconds at most. The caller then cancels `run`."""
        ...
