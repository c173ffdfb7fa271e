"""A watch by polling: a whole list of one peer, then its deltas, with the other peers as a fallback."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from adapters.common.together import together
from adapters.eureka.answers import Applications, Key
from adapters.eureka.client import Client
from adapters.eureka.life import Lives
from adapters.eureka.working_copy import WorkingCopy
from bridge.errors import Denied, Expired, IsthmusError, Unavailable
from bridge.model import ServiceName

JITTER = 0.1  # of the interval, so that bridges do not poll in step
RETENTION = 150.0  # seconds without a delta, after which the next may be incomplete: servers keep changes for 180
FULL_EVERY = 300.0  # seconds; the hash does not cover addresses and metadata
AUDIT_EVERY = 30.0  # seconds; servers renew their caches as often
ASKED_AT_ONCE = 8


class Watching:
    """One watch, of one peer at a time. `copy` outlives it and is updated by each watch.

    `poll`: seconds from one answer to the next request. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        client: Client,
        copy: WorkingCopy,
        lives: Lives,
        poll: float,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.url = client.url
        self._client = client
        self._copy = copy
        self._lives = lives
        self._poll = poll
        self._rng = rng
        self._number = 0
        self._told = 0.0  # when the last delta was applied, and when the last whole list was
        self._listed = 0.0
        self._audited = 0.0
        self._deltas = True  # whether servers offer deltas, which can be disabled

    async def begin(self) -> None:
        """Lists everything, from a peer that has not restarted if there is one.

        Raises Unavailable or Denied where no peer answers.
        """
        self._audited = self._clock()
        failure: IsthmusError | None = None
        new: tuple[str, Applications, int, int | None] | None = None
        for url in self._in_turn():
            try:
                found = await self._look(url)
            except (Unavailable, Denied) as error:
                failure = failure or error
                continue
            if self._is_same_life(*found):
                self._take(*found, same_life=True)
                return
            new = new or found
        if new is None:
            raise failure or Unavailable("no URL is configured")
        url, all, number, uptime = new
        self._lives.begin(url, number, uptime)
        self._take(url, all, number, uptime, same_life=False)

    async def step(self) -> set[ServiceName]:
        """Waits for the next poll; the services that changed. Raises Unavailable, Denied, Expired (a restart)."""
        await asyncio.sleep(self._poll * (1 + JITTER * (2 * self._rng.random() - 1)))
        try:
            touched = await self._next()
        except Unavailable:
            touched = await self._fall_back()
        return touched | await self._audit() | await self._miss()

    async def _next(self) -> set[ServiceName]:
        now = self._clock()
        delta = await self._delta(self.url)
        if delta is not None:
            if delta.number < self._number:
                raise Expired(f"{self.url} has restarted: its delta is number {delta.number}, it was {self._number}")
            self._number = delta.number
            self._lives.saw(self.url, delta.number)
            if now - self._told < RETENTION and now - self._listed < FULL_EVERY:
                touched = self._copy.changed(delta)
                if touched is not None:
                    self._told = now
                    return touched
        return await self._list(self.url)

    async def _list(self, url: str) -> set[ServiceName]:
        """Lists everything again. Raises Expired where that peer has restarted since its last state."""
        found = await self._look(url)
        if not self._is_same_life(*found):
            raise Expired(f"{url} has restarted")
        return self._take(*found, same_life=True)

    async def _fall_back(self) -> set[ServiceName]:
        """The peer does not answer: lists everything of another one, in the same incarnation of the registry."""
        failure: IsthmusError | None = None
        for url in self._in_turn():
            try:
                return await self._list(url)
            except (Unavailable, Denied) as error:
                failure = failure or error
        raise failure or Unavailable("no URL is configured")

    async def _look(self, url: str) -> tuple[str, Applications, int, int | None]:
        all = await self._client.full(url)
        delta = await self._delta(url)
        page = await self._client.page(url)
        return url, all, delta.number if delta is not None else 0, page.uptime

    async def _delta(self, url: str) -> Applications | None:
        if not self._deltas:
            return None
        try:
            return await self._client.delta(url)
        except Denied:  # eureka.server.disable-delta; without permission the whole list would be denied, too
            self._deltas = False
            return None

    def _is_same_life(self, url: str, all: Applications, number: int, uptime: int | None) -> bool:
        if not self._lives.is_same(url, number, uptime):
            return False
        # A server that restarted within its first minute shows that only by being empty.
        return bool(all.instances) or self._copy.is_empty

    def _take(
        self, url: str, all: Applications, number: int, uptime: int | None, *, same_life: bool
    ) -> set[ServiceName]:
        now = self._clock()
        self._lives.saw(url, number, uptime)
        self.url, self._number = url, number
        self._told = self._listed = now
        return self._copy.listed(all, now, same_life=same_life, teller=url)

    async def _audit(self) -> set[ServiceName]:
        """Compares the peer's deltas with its compact deltas, which have a cache of their own.

        A cache may keep an answer that was made during a change: neither the answer nor its hash has that change.
        """
        now = self._clock()
        if not self._deltas or now - self._audited < AUDIT_EVERY:
            return set()
        self._audited, url = now, self.url
        try:
            untold = self._copy.untold(await self._client.delta(url, compact=True))
            found = await together(untold, lambda one: self._client.instance(*one.key, url), ASKED_AT_ONCE)
        except (Unavailable, Denied):  # the next poll raises it
            return set()
        touched = [self._copy.looked(one, there) for one, there in zip(untold, found, strict=True)]
        return set().union(*touched)

    async def _miss(self) -> set[ServiceName]:
        """An instance that has been missing long enough is gone, unless a peer has it."""
        now = self._clock()
        due = self._copy.overdue(now)
        there = await together(due, self._somebody_has, ASKED_AT_ONCE)
        touched = self._copy.settle(now)
        for key, has in zip(due, there, strict=True):
            if has:
                self._copy.kept(key, now)
            else:
                touched |= self._copy.gone(key)
        return touched

    async def _somebody_has(self, key: Key) -> bool:
        """Whether any peer has it, past the caches. Yes, where the watched peer does not answer."""
        for url in self._in_turn():
            try:
                if await self._client.instance(*key, url) is not None:
                    return True
            except (Unavailable, Denied):
                if url == self.url:
                    return True
        return False

    def _in_turn(self) -> list[str]:
        return [self.url, *(url for url in self._client.urls if url != self.url)]
