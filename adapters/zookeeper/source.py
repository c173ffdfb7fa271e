"""The source: one recursive watch, then the list; then the nodes of each event are read in bulk."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing
from typing import cast

from adapters.common import assembly
from adapters.common.assembly import Ignored, Record
from adapters.zookeeper import identity
from adapters.zookeeper.client import Client
from adapters.zookeeper.dubbo_metadata import REPORTS, Reporting, Reports
from adapters.zookeeper.replies import Disconnected
from adapters.zookeeper.times import TIMES, Times
from adapters.zookeeper.tree import Folder, Pair, Tree
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.errors import Expired, Unavailable
from bridge.model import Service, ServiceName

FREE_LISTS, LIST_EVERY = 3, 10.0  # a connection that flaps may cause so many lists, then one in so many seconds


class Feed:
    """The events of the watch until they are taken: the paths that changed, and whether any may be missing.

    `quiet`: seconds without an event, after which the caller makes sure that the server answers.
    """

    def __init__(self, quiet: float) -> None:
        self._quiet = quiet
        self.paths: set[str] = set()
        self.broken = False
        self.ended = ""
        self.since: float | None = None  # when the oldest change arrived that is not reported yet (monotonic)
        self._notified = asyncio.Event()

    async def wait(self) -> set[str]:
        """The paths that changed since; none after `quiet` seconds. Raises Expired, and Disconnected after a gap."""
        if not (self.paths or self.broken or self.ended):
            self.since = None
            try:
                async with asyncio.timeout(self._quiet):
                    await self._notified.wait()
            except TimeoutError:
                return set()
        self._notified.clear()
        if self.ended:
            raise Expired(self.ended)
        if self.broken:
            raise Disconnected("the connection was lost")
        paths, self.paths = self.paths, set()
        return paths

    def connected(self) -> None:
        """Nothing to do: the caller waits for the client."""

    def disconnected(self) -> None:
        """Events are missed from now on."""
        self.broken = True
        self._notified.set()

    def lost(self, reason: str) -> None:
        """The session has ended."""
        self.ended = reason
        self._notified.set()

    def told(self, kind: int, path: str) -> None:
        """A node was created, changed or deleted."""
        self.paths.add(path)
        self.since = time.monotonic() if self.since is None else self.since
        self._notified.set()


class ZooKeeperSource:
    """The one scope of an ensemble, for one layout below one root."""

    scope = ""

    def __init__(self, client: Client, tree: Tree, times: Times = TIMES) -> None:
        self._times = times
        self.ignored = Ignored()  # by key
        self._client = client
        self._tree = tree
        self._feed: Feed | None = None  # while a watch runs
        self._shut: set[str] = set()  # the folders that we may not list
        self._hidden: dict[str, tuple[ServiceName, str]] = {}  # the entries that we may not read, by key
        self._roots = (tree.root, tree.ledger, REPORTS) if tree.layout.reported else (tree.root, tree.ledger)

    @property
    def behind(self) -> Behind | None:
        """See `Source.behind`: of the changes that the server has announced."""
        since = self._feed.since if self._feed is not None else None
        return Behind(time.monotonic() - since) if since is not None else None

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises Unavailable, Expired (the session ended) or Denied.

        A connection that is lost and restored within the session does not end it: everything is read again, and
        what is missing then was deleted.
        """
        self.ignored.clear()
        self._shut.clear()
        self._hidden.clear()
        await self._client.connected()
        feed = self._feed = Feed(self._times.quiet)
        stop = self._client.listen(feed)
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
            self._feed = None
            stop()

    async def read(self, name: ServiceName) -> Observed:
        """One service, no older than this call."""
        await self._client.sync(self._tree.root)
        folders = self._tree.folders([self._tree.folder_of(name)])
        async with aclosing(self._observed(folders, self._reports(), [name])) as there:
            async for observed in there:
                if observed.service.name == name:
                    return observed
        return Observed(Service(name))

    async def _begin(self, feed: Feed) -> None:
        """Waits for a connection and sets the watch."""
        await self._client.connected()
        if feed.ended:
            raise Expired(feed.ended)
        feed.broken = False
        feed.paths.clear()
        await self._client.watch(*self._roots)

    async def _list(self, known: dict[ServiceName, Observed], reports: Reports | None) -> AsyncGenerator[Observed]:
        """The services that differ from what is known, at first all; those that are gone come last."""
        if reports is not None:
            reports.clear()
        seen: set[ServiceName] = set()
        async with aclosing(self._observed(self._tree.everything(), reports, known)) as listed:
            async for observed in listed:
                name = observed.service.name
                seen.add(name)
                before = known.get(name)
                known[name] = observed
                if before is None or assembly.differ(before, observed):
                    yield observed
        latest = max((one.revision for one in known.values()), default=0)
        for name in known.keys() - seen:
            del known[name]
            yield Observed(Service(name), revision=latest)

    async def _follow(
        self, feed: Feed, known: dict[ServiceName, Observed], reports: Reports | None
    ) -> AsyncGenerator[Observed]:
        looked = time.monotonic()
        while True:
            paths = await feed.wait()
            again: dict[str, tuple[ServiceName, str]] = {}
            if time.monotonic() - looked > self._times.look_again and (self._shut or self._hidden):
                looked, again = time.monotonic(), self._hidden.copy()
                async with aclosing(self._shut_before(known, reports)) as opened:
                    async for observed in opened:
                        yield observed
            elif not paths:
                await self._client.exists(self._tree.root)
                continue
            if places := self._changed(paths, known, reports) | again:
                async with aclosing(self._looked_at(places, known, reports)) as looked_at:
                    async for observed in looked_at:
                        yield observed

    def _changed(
        self, paths: Collection[str], known: Mapping[ServiceName, Observed], reports: Reports | None
    ) -> dict[str, tuple[ServiceName, str]]:
        """The places of these nodes. A report of Dubbo's metadata belongs to every instance of its service."""
        places = {place[0]: place[1:] for path in paths if (place := self._tree.located(path)) is not None}
        if reports is not None:
            for name in {name for path in paths if (name := reports.changed(path)) is not None} & known.keys():
                places.update((f"{name.name}/{id}", (name, id)) for id in known[name].service.instances)
        return places

    async def _looked_at(
        self,
        places: Mapping[str, tuple[ServiceName, str]],
        known: dict[ServiceName, Observed],
        reports: Reports | None,
    ) -> AsyncGenerator[Observed]:
        """Reads these places; their services, as far as they changed."""
        pairs, zxid = await self._tree.pairs(places)
        changes: dict[ServiceName, dict[str, Record | None]] = {}
        for key, (name, id) in places.items():
            changes.setdefault(name, {})[id] = self._record(key, name, id, pairs[key])
        for name, records in changes.items():
            if reports is not None:
                records = await reports.resolve(name, records)
            after = assembly.changed(known.get(name) or Observed(Service(name)), records, zxid)
            if after is not None:
                if after.service.instances or after.unreadable:
                    known[name] = after
                else:
                    known.pop(name, None)
                yield after

    async def _shut_before(
        self, known: dict[ServiceName, Observed], reports: Reports | None
    ) -> AsyncGenerator[Observed]:
        """Lists folders again that we could not list: a change of an ACL causes no event."""
        folders = self._tree.folders([*self._shut])
        async with aclosing(self._observed(folders, reports, known)) as listed:
            async for observed in listed:
                name = observed.service.name
                if assembly.differ(known.get(name) or Observed(Service(name)), observed):
                    known[name] = observed
                    yield observed

    def _reports(self) -> Reports | None:
        return Reports(self._client, cast(Reporting, self._tree.mapping)) if self._tree.layout.reported else None

    async def _observed(
        self, folders: AsyncGenerator[Folder], reports: Reports | None, known: Collection[ServiceName]
    ) -> AsyncGenerator[Observed]:
        """The services of each folder, once all of it has arrived; its parts are decoded as they arrive."""
        found: dict[ServiceName, dict[str, Record | None]] = {}
        locate = self._tree.mapping.locate
        async with aclosing(folders):
            async for folder in folders:
                if folder.denied:
                    self.ignored.put(folder.path, folder.denied)
                    self._shut.add(folder.path)
                    for name in self._at(folder.path, known) or [self._tree.name_at(folder.path)]:
                        yield Observed(Service(name), frozenset({assembly.EVERY}), folder.zxid)
                    continue
                for key, pair in folder.pairs.items():
                    place = locate(key)
                    if place is not None and (record := self._record(key, *place, pair)) is not None:
                        found.setdefault(place[0], {})[place[1]] = record
                if not folder.last:
                    continue
                for name, records in found.items():
                    if reports is not None:
                        records = await reports.resolve(name, records)
                    yield assembly.observed(name, records, folder.zxid)
                if folder.path in self._shut:
                    self._shut.discard(folder.path)
                    self.ignored.drop(folder.path)
                    for name in set(self._at(folder.path, known)) - found.keys():
                        yield Observed(Service(name), revision=folder.zxid)
                found = {}

    def _at(self, folder: str, known: Collection[ServiceName]) -> list[ServiceName]:
        return [name for name in known if self._tree.folder_of(name) == folder]

    def _record(self, key: str, name: ServiceName, id: str, pair: Pair) -> Record | None:
        record = self._tree.record(key, name, id, pair)
        if pair.denied:
            self._hidden[key] = name, id
        elif self._hidden:
            self._hidden.pop(key, None)
        if self._tree.mapping.IN_NAME:  # the key contains the whole record, which may have secrets
            key = f"{name}/{id}"
        if record is not None and record.instance is None:
            self.ignored.put(key, record.why)
        elif record is None and pair.entry is not None:
            self.ignored.pass_over(key, "a folder: its name has more levels than the service names that are read here")
        else:
            self.ignored.drop(key)
        return record
