"""The registries of one configuration: opened, watched scope by scope, and opened again when they fail."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from bridge.adapter import Export, Observed, Reach, Registry, Source
from bridge.errors import ConfigError, Denied, Unavailable
from bridge.model import ServiceName
from bridge.retry import BUG, Reaction, forever
from bridge.shards import Divided, shard_in
from bridge.sources.feed import Feed
from bridge.sources.store import Store
from bridge.sources.view import View

log = logging.getLogger("isthmus.engine")

REACH_TIME = 10.0  # seconds that a registry has to say who it is


class Registries:
    """`made` by name: every registry of the configuration. `feeds`: those of each scope that is watched.

    `watching`: the task of each feed, for as long as its registry is open.
    """

    def __init__(self, store: Store, clock: Callable[[], float], rng: random.Random) -> None:
        self.made: dict[str, Registry] = {}
        self.feeds: dict[View, Feed] = {}
        self.watching: dict[View, asyncio.Task[None]] = {}
        self._opened: dict[str, asyncio.Event] = {}
        self._shards: dict[str, frozenset[int]] = {}  # of those that are read by shards: which
        self._apart: dict[str, dict[str, Source]] = {}  # likewise: every source there is, by scope
        self._groups: dict[str, asyncio.TaskGroup] = {}
        self._store = store
        self._clock = clock
        self._rng = rng

    def add(self, name: str, registry: Registry) -> None:
        """A registry that `run` may open from now on."""
        self.made[name] = registry
        self._opened[name] = asyncio.Event()

    def drop(self, name: str) -> None:
        """A registry of another file, which `run` has closed."""
        del self.made[name], self._opened[name]
        self._shards.pop(name, None)
        self._store.shard_of.pop(name, None)
        self.feeds = {view: feed for view, feed in self.feeds.items() if view.registry != name}

    def share(self, name: str, shards: frozenset[int]) -> None:
        """Reads these shards of a registry alone: what was known of others is forgotten."""
        registry = self.made[name]
        assert isinstance(registry, Divided)
        self._store.shard_of[name] = registry.shard_of
        self._shards[name] = shards
        registry.read(shards)
        for view in [one for one in self._store.views(name) if one.shard not in shards]:
            if (feed := self.watching.pop(view, None)) is not None:
                feed.cancel()
            self.feeds.pop(view, None)
            self._store.drop(view)
        for source in self._apart.get(name, {}).values():
            self._follow(name, source)

    async def opened(self, name: str) -> None:
        """Returns as soon as that registry is open."""
        await self._opened[name].wait()

    async def run(self, name: str, *, read: bool, serve: bool) -> None:
        """Keeps one registry open; never returns. `read`: its scopes are watched. `serve`: an export answers."""

        def failed(error: Exception, reaction: Reaction) -> None:
            if reaction is BUG:
                log.error("bug registry=%s", name, exc_info=error)
            else:
                log.warning("%s registry=%s reason=%r", reaction.kind, name, str(error))

        await forever(lambda: self._open(name, read, serve), failed, rng=self._rng, clock=self._clock)

    async def _open(self, name: str, read: bool, serve: bool) -> None:
        """One registry, open until something about it fails, with a feed for each of its scopes."""
        try:
            async with self.made[name] as registry, asyncio.TaskGroup() as feeds:
                self._groups[name], self._apart[name] = feeds, {}
                self._opened[name].set()
                if read:
                    async for source in registry.scopes():
                        self._apart[name][source.scope] = source
                        self._follow(name, source)
                if serve and isinstance(registry, Export):
                    await registry.serve()
                await asyncio.Event().wait()
        finally:
            self.watching = {view: task for view, task in self.watching.items() if view.registry != name}
            self._groups.pop(name, None)
            self._apart.pop(name, None)
            self._opened[name].clear()

    def _follow(self, name: str, source: Source) -> None:
        """Watches a scope, unless that is done, or it is of a shard that is not read now."""
        shard = shard_in(source.scope)
        if shard is not None and shard not in self._shards.get(name, ()):
            return
        view = self._store.view(name, source.scope)
        if view not in self.watching:
            self.feeds[view] = Feed(source, view, self._clock, self._rng)
            self.watching[view] = self._groups[name].create_task(self.feeds[view].run())

    async def read(self, view: View, name: ServiceName) -> Observed:
        """One service of a scope, past every cache: the second opinion before a removal is believed.

        Raises Unavailable as long as its registry, of which more is known than this process has heard, is not reached.
        """
        if view not in self.feeds:
            raise Unavailable(f"{view!r} is not reached yet")
        return await self.feeds[view].source.read(name)

    def relist(self, reason: str) -> None:
        """Starts every watch over."""
        for view in self.feeds:
            self.relist_one(view, reason)

    def relist_one(self, view: View, reason: str) -> None:
        """Starts the watch of a scope over; of one that is not reached yet there is none, and its first word is new."""
        if view in self.feeds:
            self.feeds[view].relist(reason)

    def sources(self, name: str) -> list[Source]:
        """The sources of one registry that are open."""
        return [feed.source for view, feed in self.feeds.items() if view.registry == name]

    async def reach(self) -> dict[str, Reach | Exception]:
        """What every registry says of itself, or the error."""

        async def one(name: str, registry: Registry) -> tuple[str, Reach | Exception]:
            try:
                async with asyncio.timeout(REACH_TIME):
                    return name, await registry.reach()
            except (Unavailable, Denied, ConfigError, TimeoutError) as error:
                return name, error

        return dict(await asyncio.gather(*(one(*item) for item in self.made.items())))
