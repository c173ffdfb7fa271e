"""A watch by polling: a whole list of one peer, then its deltas, with the other peers as a fallback."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from adapters.common.together import together
from adapters.eureka.answers import Applications, Key, Known
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


class Looked(NamedTuple):
    """What was looked up beside the polls of one peer.

    `untold`: changes that its polls did not tell, each with the instance as it is. `missing`: instances that were
    missing for long, and whether any peer has them.
    """

    url: str
    untold: list[tuple[Known, Known | None]]
    missing: dict[Key, bool]


class Watching:
    """One watch, of one peer at a time; `end` ends it. `copy` outlives it and is updated by each watch.

    What is looked up is asked beside the polls, so that a peer that does not answer holds up no change of another one.
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
        self._due = 0.0  # when to ask next, on the loop's clock
        self._looking: asyncio.Task[Looked] | None = None
        self._deltas = True  # whether servers offer deltas, which can be disabled

    async def begin(self) -> None:
        """Lists everything, from a peer that has not restarted if there is one.

        Raises Unavailable or Denied where no peer answers.
        """
        self._audited = self._clock()
        self._rest()
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
        """Waits for the next poll, or for what is looked up beside the polls; the services that changed.

        Raises Unavailable, Denied, Expired (a restart).
        """
        if (looked := await self._looked_first()) is not None:
            return self._take_over(looked)
        try:
            touched = await self._next()
        except Unavailable:
            touched = await self._fall_back()
        self._rest()
        self._look_again()
        return touched | self._copy.settle(self._clock())

    async def end(self) -> None:
        """Looks nothing up any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def _rest(self) -> None:
        pause = self._poll * (1 + JITTER * (2 * self._rng.random() - 1))
        self._due = asyncio.get_running_loop().time() + pause

    async def _looked_first(self) -> Looked | None:
        """What was looked up, as soon as that is known; None: the next poll is due."""
        rest = self._due - asyncio.get_running_loop().time()
        if self._looking is None:
            await asyncio.sleep(rest)
            return None
        if not (await asyncio.wait((self._looking,), timeout=max(0.0, rest)))[0]:
            return None
        looked, self._looking = self._looking.result(), None
        return looked

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

    # -- what is looked up beside the polls --------------------------------------------------------------------------

    def _look_again(self) -> None:
        now = self._clock()
        audits, missing = self._deltas and now - self._audited >= AUDIT_EVERY, self._copy.overdue(now)
        if self._looking is None and (audits or missing):
            self._looking = asyncio.create_task(self._look_up(self._in_turn(), missing, audits=audits))
            self._audited = now if audits else self._audited

    async def _look_up(self, urls: list[str], missing: list[Key], *, audits: bool) -> Looked:
        return Looked(urls[0], await self._untold(urls[0]) if audits else [], await self._somewhere(missing, urls))

    async def _untold(self, url: str) -> list[tuple[Known, Known | None]]:
        """Compares the peer's deltas with its compact deltas, which have a cache of their own.

        A cache may keep an answer that was made during a change: neither the answer nor its hash has that change.
        """
        try:
            untold = self._copy.untold(await self._client.delta(url, compact=True))
            found = await together(untold, lambda one: self._client.instance(*one.key, url), ASKED_AT_ONCE)
        except (Unavailable, Denied):  # the next poll raises it
            return []
        return list(zip(untold, found, strict=True))

    async def _somewhere(self, missing: list[Key], urls: list[str]) -> dict[Key, bool]:
        """Whether any peer has these, past the caches. Yes, where the watched peer, the first one, does not answer."""
        has: dict[Key, bool] = dict.fromkeys(missing, False)
        for url in urls:
            asked = [key for key, there in has.items() if not there]
            try:
                found = await together(asked, partial(self._has, url), ASKED_AT_ONCE)
            except (Unavailable, Denied):
                if url == urls[0]:
                    return dict.fromkeys(missing, True)
                continue
            has |= dict(zip(asked, found, strict=True))
        return has

    async def _has(self, url: str, key: Key) -> bool:
        return await self._client.instance(*key, url) is not None

    def _take_over(self, looked: Looked) -> set[ServiceName]:
        """An instance that has been missing for long is gone, unless a peer has it; polls may have told otherwise."""
        touched: set[ServiceName] = set()
        if looked.url == self.url:
            for told, found in looked.untold:
                touched |= self._copy.looked(told, found)
        now = self._clock()
        overdue = set(self._copy.overdue(now))
        for key, has in looked.missing.items():
            if has:
                self._copy.kept(key, now)
            elif key in overdue:
                touched |= self._copy.gone(key)
        return touched

    def _in_turn(self) -> list[str]:
        return [self.url, *(url for url in self._client.urls if url != self.url)]
