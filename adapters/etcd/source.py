"""The source: a paginated list at one revision, then the watch from the next one on, audited once in a while.

A stream that breaks costs no list: the working copy is kept, and the next watch goes on after the last revision that it
holds, once the store has shown that it is still the one that it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.client import READ, Client, reading
from adapters.etcd.copy import Copy, Looked
from adapters.etcd.keys import Range, Space
from adapters.etcd.ledger import Word
from adapters.etcd.watching import Batch, Watching
from bridge.adapter import Listing, Observed, Synced
from bridge.errors import Expired, Unavailable
from bridge.model import Service, ServiceName

AUDIT_TIME = 60.0  # seconds from one audit to the next: how long a watch may lie (reliability, fault 18)
AUDIT_PAGE = 5_000  # keys: small, for the watch goes on meanwhile
SLICE = 1_000  # entries decoded at once, about 5 ms
PASSING_TIME = 60.0  # seconds in which a watch must pass a revision that the store has
GRACE_TIME = 5.0  # seconds for what etcd before 3.5.8 claims to have sent and has not
LOOK = 60  # keys in one look: two ranges each, and a transaction has 128 operations at most
BACKLOG = 64  # responses that are read ahead of their consumer


class _Place:
    """Where a watch is: all that it has told, and up to which revision of each range."""

    def __init__(self, copy: Copy, header: pb.Header, ranges: Sequence[Range], audit_at: float) -> None:
        self.copy = copy
        self.cluster = header.cluster_id
        self.known = dict.fromkeys(ranges, header.revision)
        self.audit_at = audit_at  # of the loop's clock: streams that keep breaking put no audit off

    @property
    def revision(self) -> int:
        return max(self.known.values())


class EtcdSource:
    """The one scope of a cluster, for one layout below one prefix."""

    scope = ""

    def __init__(self, client: Client, space: Space, audit_time: float = AUDIT_TIME) -> None:
        self.ignored: dict[str, str] = {}  # key to reason, of the last records that made no sense
        self._client = client
        self._space = space
        self._audit_time = audit_time
        self._left: _Place | None = None  # where the last watch was when its stream broke

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises Unavailable, Expired (compacted, or events were lost) or Denied.

        After Unavailable the next watch tells again what is known, and goes on from there. Any other end, its
        consumer's included, may mean that the copy is wrong: everything is listed anew.
        """
        place, self._left = self._left, None
        try:
            if place is None or not await self._stands(place):
                place = None  # it is of no use any more, whatever becomes of the list
                place = await self._listed()
            yield Listing(self._space.identity(place.cluster), revision=place.revision)
            for observed in place.copy.again(place.revision):
                yield observed
            async with contextlib.aclosing(self._follow(place)) as words:
                async for word in words:
                    yield word
        except Unavailable:
            self._left = place
            raise

    async def _follow(self, place: _Place) -> AsyncGenerator[Observed | Synced]:
        copy, known = place.copy, place.known
        # Not a TaskGroup: it would cancel whoever consumes this generator (PEP 789). What fails comes by the inbox.
        inbox: asyncio.Queue[Batch | list[Looked] | Exception] = asyncio.Queue(BACKLOG)
        watching = Watching(self._client, known, place.cluster)
        tasks = [
            _reporting(lambda: watching.run(lambda: None, inbox.put), inbox),
            _reporting(lambda: self._audit(place, watching), inbox),
        ]
        look: asyncio.Task[None] | None = None
        try:
            yield Synced(place.revision)
            while True:
                if (look is None or look.done()) and (keys := copy.unsettled()):
                    look = _reporting(lambda keys=keys: self._look(keys, inbox.put), inbox)  # type: ignore[misc]
                arrived = [await inbox.get()]
                while not inbox.empty():
                    arrived.append(inbox.get_nowait())
                events: list[pb.Event] = []
                failure: Exception | None = None
                for item in arrived:
                    if isinstance(item, Exception):
                        failure = failure or item
                    elif isinstance(item, Batch):
                        events.extend(item.events)
                        known[item.area] = max(known[item.area], item.revision)
                copy.apply(events)
                for item in arrived:
                    if isinstance(item, list):
                        copy.settle(item)
                for observed in copy.changed(place.revision):
                    yield observed
                if failure is not None:  # now that all is told that came before it
                    raise failure
        finally:
            ending = [*tasks, look] if look is not None else tasks
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _listed(self) -> _Place:
        self.ignored.clear()
        copy = Copy(self._space, self.ignored)
        header = await self._list(copy, self._client, self._space.ledger, self._space.entries)
        ranges = [*self._space.entries, self._space.ledger]
        return _Place(copy, header, ranges, asyncio.get_running_loop().time() + self._audit_time)

    async def _stands(self, place: _Place) -> bool:
        """Whether the store that answers is the one whose watch broke off, and still has the history since then.

        A backup that was restored may have been written forward past what we know, under the same cluster id. So the
        newest entry that we know is read as of then: another history does not have it. What went by without a trace
        in our ranges the audit finds. Raises Unavailable or Denied.
        """
        if place.copy.keeps_back:
            return False  # it cannot be told as it is
        since = min(place.known.values())
        asked = [pb.RangeRequest(key=self._space.ledger.start, revision=since, keys_only=True)]
        newest = place.copy.newest()
        if newest is not None:
            key, revision = newest
            asked.append(pb.RangeRequest(key=key, revision=max(revision, since), keys_only=True))
        try:
            answer = await self._client.call(
                READ, pb.TxnRequest(success=[pb.RequestOp(request_range=each) for each in asked])
            )
        except Expired:  # compacted, or a revision that is yet to come
            return False
        if answer.header.cluster_id != place.cluster or answer.header.revision < place.revision:
            return False
        found = answer.responses[-1].response_range.kvs
        return newest is None or [kv.mod_revision for kv in found] == [newest[1]]

    async def read(self, name: ServiceName) -> Observed:
        """One service by a linearizable read over a connection of its own. Raises Unavailable or Denied."""
        copy = Copy(self._space, {})
        async with self._client.fresh() as client:
            header = await self._list(copy, client, self._space.words(name), [self._space.folder(name)])
        for observed in copy.changed(header.revision):
            if observed.service.name == name:
                return observed
        return Observed(Service(name), revision=header.revision)

    async def _list(self, copy: Copy, client: Client, words: Range, entries: Sequence[Range]) -> pb.Header:
        """Fills the copy with what is there as of one revision; the header says which."""
        header = pb.Header()
        async with contextlib.aclosing(client.pages([words, *entries])) as pages:
            async for area, page in pages:
                header = header if header.revision else page.header
                if area is words:
                    copy.load_words(page.kvs)
                else:
                    for begin in range(0, len(page.kvs), SLICE):
                        copy.load(page.kvs[begin : begin + SLICE])
                        await asyncio.sleep(0)  # others have waited
        return header

    async def _look(self, keys: Sequence[bytes], hand_over: Callable[[list[Looked]], Awaitable[None]]) -> None:
        """Reads entries together with their ledger words."""
        for first in range(0, len(keys), LOOK):
            chunk = keys[first : first + LOOK]
            places = [place for key in chunk for place in (Range(key, b""), Range(ledger.key_of(key), b""))]
            answer = await self._client.call(READ, reading(places))
            found = [response.response_range.kvs for response in answer.responses]
            await hand_over(
                [
                    Looked(key, entries[0] if entries else None, _word(words), answer.header.revision)
                    for key, entries, words in zip(chunk, found[::2], found[1::2], strict=True)
                ]
            )

    async def _audit(self, place: _Place, watching: Watching) -> None:
        """Raises Expired when the watch has lost an event, so that everything is listed again."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(place.audit_at - clock())
            await self._compare(place.copy, watching)
            place.audit_at = clock() + self._audit_time

    async def _compare(self, copy: Copy, watching: Watching) -> None:
        audit = copy.audit()
        revision = 0
        try:
            async with contextlib.aclosing(self._client.pages(self._space.entries, True, AUDIT_PAGE)) as pages:
                async for _, page in pages:
                    revision = revision or page.header.revision
                    audit.page(page.kvs)
        except (Unavailable, Expired):
            return  # a list that fails says nothing about a watch that runs
        audit.end(revision)
        await self._passed(watching, revision)
        if audit.lost():
            await asyncio.sleep(GRACE_TIME)
            if lost := audit.lost():
                raise Expired(f"the watch lost {len(lost)} events, one of {lost[0]!r}")

    async def _passed(self, watching: Watching, revision: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PASSING_TIME):
                while watching.passed < revision:
                    await watching.ask_progress()
                    await asyncio.sleep(1.0)
        if watching.passed < revision:
            raise Expired(f"the watch stands still at revision {watching.passed}, the store is at {revision}")


def _word(kvs: Sequence[pb.KeyValue]) -> Word | None:
    return ledger.word_of(kvs[0]) if kvs else None


def _reporting(
    make: Callable[[], Coroutine[Any, Any, None]], inbox: asyncio.Queue[Batch | list[Looked] | Exception]
) -> asyncio.Task[None]:
    """A task whose failure comes by the inbox."""

    async def run() -> None:
        try:
            await make()
        except Exception as error:
            await inbox.put(error)

    return asyncio.create_task(run())
