"""The source: one recursive watch, then the list, then what the watch tells, read again in bulk."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import cast

from adapters.zookeeper import identity
from adapters.zookeeper.answers import Disconnected
from adapters.zookeeper.client import Client
from adapters.zookeeper.reports import REPORTS, Reporting, Reports
from adapters.zookeeper.tree import Folder, Pair, Record, Tree
from bridge.adapter import Listing, Observed, Synced
from bridge.errors import Expired, Unavailable
from bridge.model import Instance, Mark, Service, ServiceName

PROOF_TIME = 5.0  # seconds without a word of the server after which it is asked for one
FREE_LISTS, LIST_EVERY = 3, 10.0  # a connection that flaps may cause so many lists, then one in so many seconds
REASONS = 100  # undecodable records of which the reason is kept


class Feed:
    """What the watch tells until it is asked for: the paths that changed, and whether anything may be missing."""

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.broken = False
        self.ended = ""
        self._stirred = asyncio.Event()

    async def wait(self) -> set[str]:
        """The paths that changed since; none after `PROOF_TIME`. Raises Expired, and Disconnected after a gap."""
        if not (self.paths or self.broken or self.ended):
            try:
                async with asyncio.timeout(PROOF_TIME):
                    await self._stirred.wait()
            except TimeoutError:
                return set()
        self._stirred.clear()
        if self.ended:
            raise Expired(self.ended)
        if self.broken:
            raise Disconnected("the connection was lost")
        paths, self.paths = self.paths, set()
        return paths

    def connected(self) -> None:
        """Nothing to do: whoever waits for it asks the client."""

    def disconnected(self) -> None:
        """From now on events are missed."""
        self.broken = True
        self._stirred.set()

    def lost(self, reason: str) -> None:
        """The session has ended."""
        self.ended = reason
        self._stirred.set()

    def told(self, kind: int, path: str) -> None:
        """A node was created, changed or deleted."""
        self.paths.add(path)
        self._stirred.set()


class ZooKeeperSource:
    """The one scope of an ensemble, for one layout below one root."""

    scope = ""

    def __init__(self, client: Client, tree: Tree) -> None:
        self._ignored: dict[str, str] = {}  # by key, of the last records that made no sense
        self._client = client
        self._tree = tree
        self._roots = (tree.root, tree.ledger, REPORTS) if tree.layout.reported else (tree.root, tree.ledger)

    @property
    def ignored(self) -> Mapping[str, str]:
        """See `Source.ignored`; by key, the last ones."""
        return self._ignored

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises Unavailable, Expired (the session ended) or Denied.

        A connection that is lost and comes back within the session is no end: everything is read again then, and
        what is gone by then was deleted.
        """
        self._ignored.clear()
        await self._client.connected()
        feed = Feed()
        deaf = self._client.listen(feed)
        known: dict[ServiceName, Observed] = {}
        reports = self._reports()
        lists: deque[float] = deque(maxlen=FREE_LISTS)
        try:
            await self._begin(feed)
            listing = await identity.listing(self._client, self._tree)
            yield listing
            synced = False
            while True:
                lists.append(time.monotonic())
                try:
                    async with aclosing(self._list(known, reports)) as listed:
                        async for observed in listed:
                            yield observed
                    if not synced:
                        synced = True
                        yield Synced(max((one.revision for one in known.values()), default=listing.revision))
                    async with aclosing(self._follow(feed, known, reports)) as followed:
                        async for observed in followed:
                            yield observed
                except Disconnected as error:
                    if feed.ended:
                        raise Expired(feed.ended) from error
                    if len(lists) == FREE_LISTS and time.monotonic() - lists[0] < FREE_LISTS * LIST_EVERY:
                        raise Unavailable(f"the connection flaps: {error}") from error
                    await self._begin(feed)
        finally:
            deaf()

    async def read(self, name: ServiceName) -> Observed:
        """One service as the ensemble's leader knows it by now."""
        await self._client.sync(self._tree.root)
        folders = self._tree.folders([self._tree.folder_of(name)])
        async with aclosing(self._observed(folders, self._reports())) as there:
            async for observed in there:
                if observed.service.name == name:
                    return observed
        return Observed(Service(name))

    async def _begin(self, feed: Feed) -> None:
        """Waits for a connection and has it tell everything from now on."""
        await self._client.connected()
        if feed.ended:
            raise Expired(feed.ended)
        feed.broken = False
        feed.paths.clear()
        await self._client.watch(*self._roots)

    async def _list(self, known: dict[ServiceName, Observed], reports: Reports | None) -> AsyncGenerator[Observed]:
        """What differs from what is known, which is nothing in the beginning; what is gone comes last."""
        if reports is not None:
            reports.clear()
        seen: set[ServiceName] = set()
        async with aclosing(self._observed(self._tree.everything(), reports)) as listed:
            async for observed in listed:
                name = observed.service.name
                seen.add(name)
                before = known.get(name)
                known[name] = observed
                if before is None or _differ(before, observed):
                    yield observed
        latest = max((one.revision for one in known.values()), default=0)
        for name in known.keys() - seen:
            del known[name]
            yield Observed(Service(name), revision=latest)

    async def _follow(
        self, feed: Feed, known: dict[ServiceName, Observed], reports: Reports | None
    ) -> AsyncGenerator[Observed]:
        while True:
            paths = await feed.wait()
            if not paths:
                await self._client.exists(self._tree.root)
                continue
            places = {place[0]: place[1:] for path in paths if (place := self._tree.located(path)) is not None}
            if reports is not None:
                for name in {name for path in paths if (name := reports.changed(path)) is not None} & known.keys():
                    places.update((f"{name.name}/{id}", (name, id)) for id in known[name].service.instances)
            if not places:
                continue
            pairs, zxid = await self._tree.pairs(places)
            changes: dict[ServiceName, dict[str, Record | None]] = {}
            for key, (name, id) in places.items():
                changes.setdefault(name, {})[id] = self._record(key, name, id, pairs[key])
            for name, records in changes.items():
                if reports is not None:
                    records = await reports.resolve(name, records)
                after = _changed(known.get(name) or Observed(Service(name)), records, zxid)
                if after is not None:
                    if after.service.instances or after.unreadable:
                        known[name] = after
                    else:
                        known.pop(name, None)
                    yield after

    def _reports(self) -> Reports | None:
        return Reports(self._client, cast(Reporting, self._tree.mapping)) if self._tree.layout.reported else None

    async def _observed(self, folders: AsyncGenerator[Folder], reports: Reports | None) -> AsyncGenerator[Observed]:
        """The services at each place, once all of it has arrived; what has is decoded meanwhile."""
        found: dict[ServiceName, dict[str, Record | None]] = {}
        locate = self._tree.mapping.locate
        async with aclosing(folders):
            async for folder in folders:
                for key, pair in folder.pairs.items():
                    place = locate(key)
                    if place is not None and (record := self._record(key, *place, pair)) is not None:
                        found.setdefault(place[0], {})[place[1]] = record
                if not folder.last:
                    continue
                for name, records in found.items():
                    if reports is not None:
                        records = await reports.resolve(name, records)
                    yield _service(name, records, folder.zxid)
                found = {}

    def _record(self, key: str, name: ServiceName, id: str, pair: Pair) -> Record | None:
        record = self._tree.record(key, name, id, pair)
        if record is not None and record.instance is None:
            while len(self._ignored) >= REASONS:
                del self._ignored[next(iter(self._ignored))]
            self._ignored[key] = record.why
        elif self._ignored:
            self._ignored.pop(key, None)
        return record


def _service(name: ServiceName, records: Mapping[str, Record | None], revision: int) -> Observed:
    instances: dict[str, Instance] = {}
    marks: dict[str, Mark] = {}
    unreadable: list[str] = []
    for id, record in records.items():
        if record is None:
            continue
        if record.instance is None:
            unreadable.append(id)
            continue
        instances[id] = record.instance
        if record.mark is not None:
            marks[id] = record.mark
    return Observed(Service(name, instances, marks), frozenset(unreadable), revision)


def _changed(before: Observed, records: dict[str, Record | None], revision: int) -> Observed | None:
    """What the service is now that these entries were read again; None: what it was."""
    instances, marks = before.service.instances.copy(), before.service.marks.copy()
    unreadable = set(before.unreadable)
    for id, record in records.items():
        for collection in (instances, marks):
            collection.pop(id, None)
        unreadable.discard(id)
        if record is None:
            continue
        if record.instance is None:
            unreadable.add(id)
            continue
        instances[id] = record.instance
        if record.mark is not None:
            marks[id] = record.mark
    after = Observed(Service(before.service.name, instances, marks), frozenset(unreadable), revision)
    return after if _differ(before, after) else None


def _differ(one: Observed, other: Observed) -> bool:
    return one.service != other.service or one.unreadable != other.unreadable
