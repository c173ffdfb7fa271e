"""Drift: the events of a watch on what a sink writes, without those that its own transactions cause."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

from adapters.zookeeper.tree import Tree
from bridge.model import ServiceName


class Drift:
    """Listens to the client. Every operation of a transaction causes one event, which arrives before its answer."""

    def __init__(self, tree: Tree) -> None:
        self.stale = True  # events may have been missed
        self._tree = tree
        self._names: set[ServiceName] = set()
        self._expected: Counter[str] = Counter()
        self._notified = asyncio.Event()

    def begin(self) -> None:
        """Begins anew: from now on no event is missed."""
        self.stale = False
        self._names.clear()

    async def wait(self) -> None:
        """Returns when there are events, or some may have been missed."""
        if not (self._names or self.stale):
            self._notified.clear()
            await self._notified.wait()

    def take(self) -> frozenset[ServiceName]:
        """The services that others changed since; none where events may have been missed."""
        names, self._names = self._names, set()
        return frozenset() if self.stale else frozenset(names)

    def expect(self, paths: Iterable[str]) -> None:
        """The next events of these paths are our own."""
        self._expected.update(paths)

    def forget(self, paths: Iterable[str]) -> None:
        """The transaction has been answered: later events of these paths are others'."""
        for path in paths:
            self._expected.pop(path, None)

    # Called by the client.

    def connected(self) -> None:
        """Nothing: the caller of `begin` sets the watch again."""

    def disconnected(self) -> None:
        self.stale = True
        self._notified.set()

    def lost(self, reason: str) -> None:
        self.disconnected()

    def told(self, kind: int, path: str) -> None:
        if self._expected.get(path, 0) > 0:
            self._expected[path] -= 1
        elif (place := self._tree.located(path)) is not None:
            self._names.add(place[1])
            self._notified.set()
