"""The source: a paginated list at one revision, then a watch from the next revision on, with an audit once a minute.

A broken stream needs no new list: the working copy is kept, and the next watch resumes after the copy's last revision,
after a check that the store is the same one with the same history.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from adapters.common.assembly import EVERY, Ignored
from adapters.common.inbox import Inbox
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger, permissions
from adapters.etcd.client import READ, Client, reading
from adapters.etcd.keys import Range, Space
from adapters.etcd.ledger import Proof
from adapters.etcd.times import TIMES, Times
from adapters.etcd.watching import Batch, Watching
from adapters.etcd.working_copy import Copy, Looked
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.errors import Denied, Expired, Unavailable
from bridge.model import Service, ServiceName

AUDIT_PAGE = 5_000  # keys; small, because the watch goes on meanwhile
SLICE = 1_000  # entries decoded at once, about 5 ms
PASSING_TIME = 60.0  # seconds until a watch must have passed a revision of the store
GRACE_TIME = 5.0  # seconds for events that etcd before 3.5.8 reports as sent too early
LOOK = 60  # keys in one read: two ranges each, of the 128 operations of a transaction
BACKLOG = 64  # responses that wait for the consumer


class Areas(NamedTuple):
    """What is read: ranges of entries, and of their ledger entries. `partial`: we may not read all of the prefix."""

    entries: tuple[Range, ...]
    proofs: tuple[Range, ...]
    partial: bool = False


class _Place:
    """The position of a watch: its working copy, and the last revision known of each range."""

    def __init__(self, copy: Copy, header: pb.Header, areas: Areas, audit_at: float) -> None:
        self.copy = copy
        self.areas = areas
        self.cluster = header.cluster_id
        self.known = dict.fromkeys((*areas.entries, *areas.proofs), header.revision)
        self.audit_at = audit_at  # on the loop's clock: a stream that keeps breaking does not postpone it

    @property
    def revision(self) -> int:
        return max(self.known.values())


class EtcdSource:
    """The one scope of a cluster, for one layout below one prefix."""

    scope = ""

    def __init__(self, client: Client, space: Space, times: Times = TIMES) -> None:
        self.ignored = Ignored()  # by key
        self._client = client
        self._space = space
        self._times = times
        self._left: _Place | None = None  # the position of the last watch when its stream broke
        self._watching: Watching | None = None  # while a watch runs
        self._whole = Areas(space.entries, (space.ledger,))
        self._areas = self._whole  # what the last list covered

    @property
    def behind(self) -> Behind | None:
        """See `Source.behind`; as of the last probe."""
        return self._watching.behind(asyncio.get_running_loop().time()) if self._watching is not None else None

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises Unavailable, Expired (compacted, or events were lost) or Denied.

        After Unavailable the next watch reports what is known again, and resumes there. After any other end, its
        consumer's included, the copy may be wrong: everything is listed anew.
        """
        place, self._left = self._left, None
        try:
            if place is None or not await self._stands(place):
                place = None  # it cannot be used any more, even if the list fails
                place = await self._listed()
            partial = place.areas.partial
            yield Listing(self._space.identity(place.cluster), revision=place.revision, partial=partial)
            for observed in place.copy.again(place.revision):
                yield observed
            async with contextlib.aclosing(self._follow(place)) as followed:
                async for told in followed:
                    yield told
        except Unavailable:
            self._left = place
            raise

    async def _follow(self, place: _Place) -> AsyncGenerator[Observed | Synced]:
        copy, known = place.copy, place.known
        inbox: Inbox[Batch | list[Looked]] = Inbox(BACKLOG)
        watching = self._watching = Watching(self._client, known, place.cluster)
        tasks = [
            inbox.run(lambda: watching.run(lambda: None, inbox.put)),
            inbox.run(lambda: self._audit(place, watching)),
            inbox.run(lambda: self._probe(watching)),
        ]
        look: asyncio.Task[None] | None = None
        try:
            yield Synced(place.revision)
            while True:
                if (look is None or look.done()) and (keys := copy.unsettled()):
                    look = inbox.run(lambda keys=keys: self._look(keys, inbox.put))  # type: ignore[misc]
                arrived, failure = await inbox.take()
                events: list[pb.Event] = []
                for item in arrived:
                    if isinstance(item, Batch):
                        events.extend(item.events)
                        known[item.area] = max(known[item.area], item.revision)
                copy.apply(events)
                for item in arrived:
                    if isinstance(item, list):
                        copy.settle(item)
                for observed in copy.changed(place.revision):
                    yield observed
                if failure is not None:  # now, for everything before it has been reported
                    raise failure
        finally:
            self._watching = None
            ending = [*tasks, look] if look is not None else tasks
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    async def _listed(self) -> _Place:
        """Lists everything, or the readable part of it. Raises Denied where nothing is readable."""
        self._areas = self._whole
        self.ignored.clear()
        copy = Copy(self._space, self.ignored, self._is_cut)
        try:
            header = await self._list(copy, self._client, self._areas)
        except Denied:
            part = await self._readable()
            if not part.entries or not part.partial:
                raise
            self._areas = part
            header = await self._list(copy, self._client, part)
            for gap in permissions.gaps(self._space.entries, part.entries):
                start, end = (key.decode(errors="replace") for key in gap)
                to = "the end" if end == "\0" else end
                self.ignored.put(
                    start, f"the user {self._client.user} may not read up to {to}: grant a role of it read"
                )
        return _Place(copy, header, self._areas, asyncio.get_running_loop().time() + self._times.audit)

    async def _readable(self) -> Areas:
        """The part of the registry that our user may read now."""
        may = (await permissions.granted(self._client)).permissions
        if may is None:
            return self._whole
        entries = permissions.readable(may, self._space.entries)
        partial = not permissions.covers(entries, self._space.entries)
        return Areas(entries, tuple(map(ledger.about, entries)), True) if partial else self._whole

    def _is_cut(self, name: ServiceName) -> bool:
        return self._areas.partial and not permissions.covers(self._areas.entries, [self._space.folder(name)])

    async def _stands(self, place: _Place) -> bool:
        """Whether the store that answers is the one whose watch broke, and still has the history since then.

        A restored backup may have been written past our revision, under the same cluster id. So the newest entry that
        we know is read as of its revision: another history does not have it there. A difference that leaves no trace
        in our ranges is found by the audit. Raises Unavailable or Denied.
        """
        if place.copy.keeps_back:
            return False  # it cannot be reported as it is
        since = min(place.known.values())
        asked = [pb.RangeRequest(key=place.areas.proofs[0].start, revision=since, keys_only=True)]
        newest = place.copy.newest()
        if newest is not None:
            key, revision = newest
            asked.append(pb.RangeRequest(key=key, revision=max(revision, since), keys_only=True))
        try:
            answer = await self._client.call(
                READ, pb.TxnRequest(success=[pb.RequestOp(request_range=each) for each in asked])
            )
        except Expired:  # compacted, or a revision in the future
            return False
        if answer.header.cluster_id != place.cluster or answer.header.revision < place.revision:
            return False
        found = answer.responses[-1].response_range.kvs
        return newest is None or [kv.mod_revision for kv in found] == [newest[1]]

    async def read(self, name: ServiceName) -> Observed:
        """One service by a linearizable read over a connection of its own. Raises Unavailable or Denied.

        Where the last list did not cover all of this service, it is reported as unreadable, for it may be there.
        """
        if self._is_cut(name):
            return Observed(Service(name), frozenset({EVERY}))
        copy = Copy(self._space, Ignored())
        async with self._client.fresh() as client:
            whole = Areas((self._space.folder(name),), (self._space.proofs(name),))
            header = await self._list(copy, client, whole)
        for observed in copy.changed(header.revision):
            if observed.service.name == name:
                return observed
        return Observed(Service(name), revision=header.revision)

    async def _list(self, copy: Copy, client: Client, areas: Areas) -> pb.Header:
        """Loads the copy from a list as of one revision, which the returned header has."""
        header = pb.Header()
        async with contextlib.aclosing(client.pages([*areas.proofs, *areas.entries])) as pages:
            async for area, page in pages:
                header = header if header.revision else page.header
                if area in areas.proofs:
                    copy.load_proofs(page.kvs)
                else:
                    for begin in range(0, len(page.kvs), SLICE):
                        copy.load(page.kvs[begin : begin + SLICE])
                        await asyncio.sleep(0)  # other tasks get their turn
        return header

    async def _look(self, keys: Sequence[bytes], hand_over: Callable[[list[Looked]], Awaitable[None]]) -> None:
        """Reads entries together with their ledger entries."""
        for first in range(0, len(keys), LOOK):
            chunk = keys[first : first + LOOK]
            places = [place for key in chunk for place in (Range(key, b""), Range(ledger.key_of(key), b""))]
            answer = await self._client.call(READ, reading(places))
            found = [response.response_range.kvs for response in answer.responses]
            await hand_over(
                [
                    Looked(key, entries[0] if entries else None, _proof(proofs), answer.header.revision)
                    for key, entries, proofs in zip(chunk, found[::2], found[1::2], strict=True)
                ]
            )

    async def _probe(self, watching: Watching) -> None:
        """Asks for the revisions of the store and of the watch: without that, a stuck watch looks like a quiet one."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._times.probe)
            at = clock()
            with contextlib.suppress(Unavailable, Denied):  # a fault of the store is reported by the watch
                answer = await self._client.call(READ, reading([Range(self._areas.proofs[0].start, b"")]))
                watching.heard_of(answer.header.revision, at)
                await watching.ask_progress()

    async def _audit(self, place: _Place, watching: Watching) -> None:
        """Raises Expired where the watch has lost an event, so that everything is listed anew."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(place.audit_at - clock())
            if place.areas.partial and await self._readable() != place.areas:
                raise Expired(f"the user {self._client.user} may read other keys than before")
            await self._compare(place, watching)
            place.audit_at = clock() + self._times.audit

    async def _compare(self, place: _Place, watching: Watching) -> None:
        audit = place.copy.audit()
        revision = 0
        try:
            async with contextlib.aclosing(self._client.pages(place.areas.entries, True, AUDIT_PAGE)) as pages:
                async for _, page in pages:
                    revision = revision or page.header.revision
                    audit.page(page.kvs)
        except (Unavailable, Expired):
            return  # a failed list says nothing about the running watch
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


def _proof(kvs: Sequence[pb.KeyValue]) -> Proof | None:
    return ledger.proof_of(kvs[0]) if kvs else None
