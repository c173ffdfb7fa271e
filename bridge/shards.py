"""What several writers of one destination need of its seat, and of the registry that they read (ADR 41)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from bridge.adapter import Note, Seat, Term
from bridge.model import ServiceName

WHOLE = -1  # in the place of a shard's number: what is meant is not divided
LONGEST_NOTE = 16 * 1024  # bytes of the note of a shard, in every kind of store
PART = "/#"  # between a scope and one of its shards: no scope of a registry ends so


def part_of(scope: str, shard: int) -> str:
    """The name of one shard of a scope, where shards are read apart."""
    return f"{scope}{PART}{shard}"


def shard_in(scope: str) -> int | None:
    """The shard that a scope's name is of; None: it is a whole scope."""
    _, apart, number = scope.rpartition(PART)
    return int(number) if apart and number.isascii() and number.isdigit() else None


def whole_of(scope: str) -> str:
    """The scope that a scope's name is of a shard of; itself where it is whole."""
    return scope if shard_in(scope) is None else scope.rpartition(PART)[0]


class ShardTerm(Term, Protocol):
    """The time during which this process is the only writer of one shard."""

    async def claimed(self) -> None:
        """Returns when another process has a claim on the lock; at once where there is one. Raises Unavailable."""
        ...


class Standing(msgspec.Struct, frozen=True):
    """The lock of one shard as it stands. `holder`, `claims`: process names as the members gave them, "": nobody."""

    holder: str = ""
    claims: tuple[str, ...] = ()


@runtime_checkable
class Shards(Seat, Protocol):
    """A seat whose destination can be divided: the lock of each shard, the claims beside it, and a note a shard.

    A shard is a number from 0 on. A process is named by `who` (host and pid, say), for people.

    `leases`: whether what is written at this destination under the term of a shard may be leased. `ousts`: whether
    `oust` is of use, because the store keeps the lock of a dead process for long.
    """

    leases: bool
    ousts: bool

    async def divided(self) -> int | None:
        """Into how many shards the destination is divided, by the key `shards`; None: it is not."""
        ...

    async def divide(self, count: int) -> None:
        """Writes the key `shards`. Raises Conflict where it says another number, or a process holds the whole."""
        ...

    async def unite(self) -> None:
        """Removes the key `shards` and what is beside it. Raises Conflict where a process holds a shard."""
        ...

    def take(self, shard: int, count: int, who: str, *, claim: bool) -> AbstractAsyncContextManager[ShardTerm]:
        """Waits for the lock of a shard; inside, this process may write it, with this term.

        `claim`: leaves a claim beside the lock, of a life that ends with this process; the holder may hand the lock
        over to it, and a free lock is taken in the transaction that removes the claim. Without one only a lock that is
        free is taken, after those who claim. Whoever ends the wait withdraws the claim. Each transaction under the term
        compares the lock, and that `shards` says `count`. Raises Conflict where it says otherwise or is missing.
        """
        ...

    async def hand_over(self, term: ShardTerm) -> bool:
        """Gives the lock to the oldest claim, in one transaction that compares both; the term is over then.

        False: nobody claims any more, and the term goes on. Raises Superseded where it is over already, Unavailable.
        """
        ...

    async def oust(self, shard: int, who: str) -> None:
        """Gives the lock to the oldest claim in the place of its holder, if that is `who`, who is no member any more.

        Should it be alive, its writes are refused, where each write compares the lock. Raises Unavailable or Denied.
        """
        ...

    async def standing(self) -> Mapping[int, Standing]:
        """Who holds and who claims each shard, those without either left out. Raises Unavailable or Denied."""
        ...

    async def shard_notes(self) -> Mapping[int, Note]:
        """The notes of all shards, as they are now past every cache. Raises Unavailable or Denied."""
        ...

    async def note_shard(self, content: bytes, before: Note | None, *, term: ShardTerm) -> Note:
        """As `Seat.note`, up to `LONGEST_NOTE` bytes, for the shard of that term, and only while the lock is ours."""
        ...


class Member(msgspec.Struct, frozen=True):
    """One member of a group as its engine has it. `shards`: those that it should write."""

    who: str
    shards: tuple[int, ...]


class Membership(Protocol):
    """What an engine says of who should write which shard; it fences nothing.

    `should`: the shards that were given to this process, empty where that was taken back or has been lost. `away`: for
    a session there was no word from the engine; such a process claims nothing. `assignment` grows with every word that
    gives or takes a shard, by shard. `fault`: why it is not a member now, "" if it is.
    """

    @property
    def should(self) -> frozenset[int]: ...

    @property
    def away(self) -> bool: ...

    @property
    def fault(self) -> str: ...

    def assignment(self, shard: int) -> int:
        """The number of the assignment in which a shard was given last; 0: never."""
        ...

    async def changed(self) -> None:
        """Returns at the next change of any of the above."""
        ...

    async def run(self) -> None:
        """Never returns: is a member, and leaves when it is cancelled."""
        ...

    async def members(self) -> Sequence[Member]:
        """All members, as the engine knows them. Raises Unavailable or Denied."""
        ...

    async def notes(self) -> Sequence[str]:
        """What an operator should know of the group. Raises Denied where this process may be no member, Unavailable."""
        ...


@runtime_checkable
class Divided(Protocol):
    """An optional side of a registry whose services lie in shards that are read apart (a stream's partitions)."""

    @property
    def shards(self) -> int:
        """How many there are."""
        ...

    def shard_of(self, service: ServiceName) -> int:
        """The shard of a service of that registry. Pure."""
        ...

    def read(self, shards: frozenset[int] | None) -> None:
        """Reads these alone from now on, None: all. Each scope is then one source a shard, named by `part_of`.

        The `Listing` of such a source has the whole scope as its `part`: an entry's mark does not name the shard.

        A source appears when its shard is read to its end and the scope is whole in it; that of a shard which is read
        no more fails with Unavailable, and lists anew once it is read again.
        """
        ...

    async def caught_up(self, shard: int) -> frozenset[str]:
        """Reads a shard on to the end that it has when this is called; the names of all scopes that are whole in it.

        Their sources are there by then, and tell what was read. Raises Unavailable or Denied, also where the shard is
        not read.
        """
        ...

    def membership(self, group: str, who: str) -> Membership:
        """The membership of this process in a group of that name, over these shards."""
        ...
