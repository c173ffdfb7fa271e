"""What a process may write at one destination, as its planner asks: all of it, or some of its shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bridge.adapter import Change, Entry, Seat, Term
from bridge.model import ServiceName

if TYPE_CHECKING:
    from bridge.destination.apply import Batch
    from bridge.destination.writer import Peers, Role, Writer


class Parts(NamedTuple):
    """Names by the shard that they are in: what this process plans, each shard under a term of its own.

    `others`: names that another process plans. Where one process writes the whole, it is one shard, `WHOLE`.
    """

    mine: Mapping[int, Sequence[ServiceName]]
    others: Sequence[ServiceName] = ()


class Turns(NamedTuple):
    """The shards that this process writes since the last look, and those that it does not write any more.

    `stale`: of the first, those that another process may have written until now.
    """

    begun: frozenset[int] = frozenset()
    ended: frozenset[int] = frozenset()
    stale: frozenset[int] = frozenset()


NO_TURNS = Turns()


class Share(NamedTuple):
    """What a member of a group has of a destination: shards by number. `of`: how many there are.

    `writes`: it holds their locks. `should`: the group gave them to it. `cares`: it holds them, and may not remove.
    `claims`: it has asked their holders for them. `waits`: it asks for their locks without a claim, because it has not
    read all of them yet. `fault`: why it is no member, "" if it is; `undivided`: because the destination is not divided
    as the stream is. `cared`: for how many seconds it has held one that it may not remove from.
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
    """What a process may write at one destination: all of it (`Lead`), or some of its shards (`Group`).

    `seat`: where the locks are; None: there is none. `writes`: whether it writes anything. `term`: of who writes all of
    it. `before`: who wrote before this term, on another host or in another folder. `another_writes`: whether another
    process is known to have written all of it since. `is_following`: what changes of ours there is another's doing.
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
        """What a member of a group has; None: it is no group."""
        ...

    def shard_of(self, name: ServiceName) -> int:
        """The shard that a name is in."""
        ...

    def parts(self, names: Sequence[ServiceName]) -> Parts:
        """Which of these names are planned here, by shard."""
        ...

    def term_in(self, shard: int) -> Term | None:
        """The term that a shard is written under now."""
        ...

    def writes_in(self, shard: int) -> bool:
        """Whether this process writes a shard now."""
        ...

    def waits_in(self, shard: int) -> str:
        """Why nothing may be removed in a shard now, "" if it may."""
        ...

    def writes_at(self, name: ServiceName) -> bool:
        """Whether this process writes under a name now."""
        ...

    def minds(self, name: ServiceName) -> bool:
        """Whether what changes under a name at the destination is to be read now: not what other members write."""
        ...

    def elsewhere(self, name: ServiceName, entries: Mapping[str, Entry]) -> int | None:
        """The shard of what stands under a name, where only other members have to know it; None: it is to be known."""
        ...

    def notices(self, name: ServiceName) -> bool:
        """Whether what became of our entries under a name, by somebody else, is this process's to count and to tell."""
        ...

    def turns(self) -> Turns:
        """What began and ended since the last call, for whoever plans."""
        ...

    def unread(self) -> frozenset[int]:
        """Shards that are written anew, and of which not all was read since."""
        ...

    def was_read(self, shards: frozenset[int], *, whole: bool) -> None:
        """All that the destination holds in these shards was read, or (`whole`) all that it holds."""
        ...

    async def reserved(self, batch: Batch) -> list[Change]:
        """What of a batch may be sent, where the limits of the guard hold over several processes.

        Raises Unavailable, Denied or Superseded: nothing of it may.
        """
        ...

    def supersede(self, term: Term | None) -> None:
        """A write under that term found that it is over."""
        ...

    def observe(self) -> None:
        """No link may write: no term begins."""
        ...

    async def run(self) -> None:
        """Terms, until one is lost, or for ever. Raises Unavailable or Denied."""
        ...

    async def leave(self, patience: float) -> None:
        """Gives away what others can take over at once, for so many seconds at most. The caller ends `run` then."""
        ...
