"""The writer's term under a lock that ends unless it is renewed, and what is asked of a term before a write."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import datetime
from math import inf
from typing import Generic, Protocol, TypeVar

import msgspec

from bridge.adapter import Term
from bridge.errors import Superseded

SURE = 2 / 3  # of a lock's time: from then on a request may arrive when the lock is another's

F = TypeVar("F")


class LeasedTerm(Generic[F]):
    """The time during which a lock is ours that ends `time` seconds after it was renewed last, or when it is `lost`.

    `since`: when the lock was asked for, by the loop's clock: the server's time for it starts later.
    """

    def __init__(self, fence: F, since: float, time: float, *, taken_over: bool = False) -> None:
        self.fence = fence
        self.taken_over = taken_over
        self.lost = asyncio.Event()
        self._time = time
        self._until = since + SURE * time

    @property
    def until(self) -> float:
        """See `Term.until`."""
        return -inf if self.over else self._until

    @property
    def over(self) -> bool:
        """Whether the lock is known to be lost."""
        return self.lost.is_set()

    def lose(self) -> None:
        """It is over."""
        self.lost.set()

    def renewed(self, asked: float) -> None:
        """The server has renewed it, in answer to what was asked then."""
        self._until = asked + SURE * self._time

    async def ended(self) -> None:
        """See `Term.ended`."""
        await self.lost.wait()


class Ending(Term, Protocol):
    """A term of which this process knows whether it is over."""

    @property
    def over(self) -> bool: ...


T = TypeVar("T", bound=Ending)


def writing(kind: type[T], whose: str, term: Term | None) -> T:
    """The term, while it is not known to be over. Raises Superseded, also where it is of another kind of store."""
    if not isinstance(term, kind) or term.over:
        raise Superseded(f"the lock of {whose} is not ours")
    return term


def holder(now: datetime) -> bytes:
    """What stands in a lock, for whoever looks at it and asks who has it."""
    return msgspec.json.encode({"host": socket.gethostname(), "pid": os.getpid(), "since": now.isoformat()})
