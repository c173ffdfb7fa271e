"""Runs one source's watch for ever and hands what it says to its view: the only place that retries a watch."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

from bridge.adapter import Listing, Observed, Source, Synced
from bridge.errors import Denied, Expired, Unavailable
from bridge.store import View

log = logging.getLogger("isthmus.feed")

FIRST_DELAY, LONGEST_DELAY = 0.25, 2.0  # an outage is tried once a second or so, and found over within two
DENIED_DELAY = 15.0  # permissions change by hand
FREE_LISTS, LIST_EVERY = 3, 10.0  # a flapping source may list so often, then once in so many seconds (rule 13)
STEADY = 10.0  # a watch that ran so long was not flapping


class Backoff:
    """Doubling delays with jitter, in seconds."""

    def __init__(self, rng: random.Random, first: float = FIRST_DELAY, longest: float = LONGEST_DELAY) -> None:
        self._rng, self._first, self._longest = rng, first, longest
        self._next = first

    def reset(self) -> None:
        """All is well: the next delay is the first one again."""
        self._next = self._first

    def delay(self) -> float:
        """The next delay: between half of the current step and all of it."""
        step, self._next = self._next, min(self._next * 2, self._longest)
        return step * (0.5 + self._rng.random() / 2)


class Feed:
    """One source and its view."""

    def __init__(
        self,
        source: Source,
        view: View,
        clock: Callable[[], float],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.source = source
        self.view = view
        self.denied = False
        self.bug = ""  # the last error that no adapter should raise
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._watching: asyncio.Future[None] | None = None
        self._wrong = False
        self._listed: deque[float] = deque(maxlen=FREE_LISTS)

    def relist(self) -> None:
        """Something shows that the watch is wrong: start it over."""
        if self._watching is not None:
            self._wrong = True
            self._watching.cancel()

    async def run(self) -> None:
        """Never returns; every error of the source ends here, so that no source stops another (rule 9)."""
        backoff = Backoff(self._rng)
        while True:
            began = self._clock()
            delay: float | None
            try:
                await self._watch()
                raise Unavailable("the watch ended")
            except Expired as error:
                delay = 0.0
                self.view.down(str(error), self._clock())
                log.info("expired registry=%r reason=%r", self.view, str(error))
            except Unavailable as error:
                delay = error.retry_after
                self._lost("unavailable", error)
            except Denied as error:
                delay = DENIED_DELAY
                self.denied = True
                self._lost("denied", error)
            except Exception as error:
                delay = None
                self.bug = f"{type(error).__name__}: {error}"
                self.view.down(self.bug, self._clock())
                log.exception("bug registry=%r", self.view)
            if self._clock() - began > STEADY:
                backoff.reset()
            await self._sleep(max(self._room(), backoff.delay() if delay is None else delay))

    def _lost(self, kind: str, error: Exception) -> None:
        if self.view.up or self.view.reason != str(error):
            log.warning("%s registry=%r reason=%r", kind, self.view, str(error))
        self.view.down(str(error), self._clock())

    async def _watch(self) -> None:
        """One watch, in a task of its own so that `relist` can end it without ending the feed."""
        self._wrong = False
        self._watching = asyncio.ensure_future(self._follow())
        try:
            await self._watching
        except asyncio.CancelledError:
            if not self._wrong:
                self._watching.cancel()
                await asyncio.wait((self._watching,))
                raise
            raise Expired("a fresh read disagrees with the watch") from None
        finally:
            self._watching = None

    async def _follow(self) -> None:
        async with aclosing(cast(AsyncGenerator[Listing | Observed | Synced], self.source.watch())) as words:
            async for word in words:
                self._take(word)

    def _take(self, word: Listing | Observed | Synced) -> None:
        view = self.view
        if isinstance(word, Observed):
            view.observe(word)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("seen change=%d registry=%r service=%s", view.version, view, word.service.name)
        elif isinstance(word, Listing):
            self._listed.append(self._clock())
            view.begin(word)
            if view.doubt:
                log.warning("doubt registry=%r reason=%r", view, view.doubt)
        else:
            view.sync(word)
            self.denied, self.bug = False, ""
            log.info("synced registry=%r services=%d revision=%d", view, len(view.services), view.revision)

    def _room(self) -> float:
        """Seconds to wait so that a flapping source is not listed over and over."""
        if len(self._listed) < FREE_LISTS:
            return 0.0
        now = self._clock()
        if now - self._listed[0] > FREE_LISTS * LIST_EVERY:
            return 0.0
        return max(0.0, self._listed[-1] + LIST_EVERY - now)
