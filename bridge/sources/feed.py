"""Runs one source's watch for ever and hands what it says to its view."""

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
from bridge.model import ServiceName
from bridge.retry import BUG, Reaction, forever
from bridge.sources.view import View

log = logging.getLogger("isthmus.feed")

LONG_LIST = 1.0  # seconds after which what a listing lacks is read once more, before it counts as missing
READS_AT_ONCE = 16
FREE_LISTS, LIST_EVERY = 3, 10.0  # a flapping source may list so often, then once in so many seconds: no relist storms


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
        self._partial = False  # the listing under way is of a part of the store
        self._wrong = ""  # why the watch under way is to be started over
        self._listed: deque[float] = deque(maxlen=FREE_LISTS)

    def relist(self, reason: str) -> None:
        """Something shows that the watch is wrong, or may be, or what it told is needed again: start it over."""
        if self._watching is not None:
            self._wrong = reason
            self._watching.cancel()

    async def run(self) -> None:
        """Never returns; every error of the source ends here, so that no source stops another."""
        await forever(self._watch, self._failed, rng=self._rng, clock=self._clock, sleep=self._sleep, least=self._room)

    def _failed(self, error: Exception, reaction: Reaction) -> None:
        view, reason = self.view, str(error)
        if reaction is BUG:
            self.bug = reason = f"a bug of its adapter, please report it with the log: {type(error).__name__}: {error}"
            log.error("bug registry=%r", view, exc_info=error)
        elif isinstance(error, Expired):
            log.info("expired registry=%r reason=%r", view, reason)
        elif view.up or view.reason != reason:
            log.warning("%s registry=%r reason=%r", reaction.kind, view, reason)
        self.denied = self.denied or isinstance(error, Denied)
        asked = self._wrong or (isinstance(error, Unavailable) and error.retry_after == 0)
        if view.shard is not None and asked:
            self._listed.clear()  # shards come and go by the doing of this process, which is no flapping
        view.down(reason, self._clock())

    async def _watch(self) -> None:
        """One watch, in a task of its own so that `relist` can end it without ending the feed."""
        self._wrong = ""
        self._watching = asyncio.ensure_future(self._follow())
        try:
            await self._watching
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._wrong or (task is not None and task.cancelling()):
                self._watching.cancel()
                await asyncio.wait((self._watching,))
                raise
            raise Expired(self._wrong) from None
        finally:
            self._watching = None
        raise Unavailable("the registry ended the watch, which begins anew")

    async def _follow(self) -> None:
        async with aclosing(cast(AsyncGenerator[Listing | Observed | Synced], self.source.watch())) as words:
            async for word in words:
                if isinstance(word, Synced):
                    await self._look_again()
                self._take(word)

    async def _look_again(self) -> None:
        """Reads what a long listing lacks once more, before its end takes that away; or one of a part of the store.

        What was deleted when the listing passed it may have come back since, and the watch reports that only after the
        listing (I1). Raises what the source raises; the listing then proves nothing, as one that broke off.
        """
        if not self._partial and self._clock() - self._listed[-1] < LONG_LIST:
            return
        lacking = iter(self.view.lacking())

        async def look() -> None:
            for name in lacking:
                self.view.observe(await self.source.read(name))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(READS_AT_ONCE):
                tasks.create_task(look())

    def _take(self, word: Listing | Observed | Synced) -> None:
        view = self.view
        if isinstance(word, Observed):
            before = view.unreadable.get(word.service.name)
            view.observe(word)
            if view.synced and (word.unreadable or before) and word.unreadable != (before or frozenset()):
                self._say_unreadable(word.service.name, word.unreadable)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("seen change=%d registry=%r service=%s", view.version, view, word.service.name)
        elif isinstance(word, Listing):
            self._listed.append(self._clock())
            self._partial = word.partial
            view.begin(word)
            if view.doubt:
                log.warning("doubt registry=%r reason=%r", view, view.doubt)
        else:
            view.sync(word)
            self.denied, self.bug = False, ""
            log.info("synced registry=%r services=%d revision=%d", view, len(view.services), view.revision)
            if view.unread:  # one line for all that was listed
                name, ids = next(iter(view.unreadable.items()))
                log.warning("unreadable registry=%r records=%d first=%s/%s", view, view.unread, name, min(ids))

    def _say_unreadable(self, name: ServiceName, ids: frozenset[str]) -> None:
        if ids:
            log.warning("unreadable registry=%r service=%s records=%d first=%s", self.view, name, len(ids), min(ids))
        else:
            log.info("readable again registry=%r service=%s", self.view, name)

    def _room(self) -> float:
        """Seconds to wait so that a flapping source is not listed over and over."""
        if len(self._listed) < FREE_LISTS:
            return 0.0
        now = self._clock()
        if now - self._listed[0] > FREE_LISTS * LIST_EVERY:
            return 0.0
        return max(0.0, self._listed[-1] + LIST_EVERY - now)
