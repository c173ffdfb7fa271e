"""One etcd watch over several ranges in one stream: whole responses in order, or an error. It never retries."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import grpc

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import WATCH, Client, TooLarge
from adapters.etcd.keys import Range
from bridge.adapter import Behind
from bridge.errors import Denied, Expired, Unavailable

# A member that lost its cluster ends the stream instead of staying silent (etcd: watches are not linearizable).
REQUIRE_LEADER = ("hasleader", "true")
EVERYONE = -1  # the watch id of an answer to a progress request, which is about all ranges
HEARD = 1_000  # revisions of the store that are remembered until the watch has passed them


class Batch(NamedTuple):
    """The events of one or more whole revisions in one range; without events: there were none up to that revision."""

    area: Range
    revision: int  # up to which the events of this range are complete
    events: Sequence[pb.Event]


class Watching:
    """Follows ranges, each after the revision up to which it is known, in the cluster with this id.

    `run` is the body of a task. Fragments are not requested: etcd 3.6 takes 47 s to split the events of one delete of
    100,000 keys, and 0.5 s to send them in one message.
    """

    def __init__(self, client: Client, known: Mapping[Range, int], cluster: int) -> None:
        self._client = client
        self._cluster = cluster
        self._call: Any = None
        self._known = max(known.values())
        self._areas = dict(enumerate(known, 1))  # by watch id
        self._seen = dict(enumerate(known.values(), 1))  # watch id to revision of the last event
        self._passed = dict(self._seen)
        self._heard: deque[tuple[int, float]] = (
            deque()
        )  # revisions of the store that the watch has not passed yet, each with the time of the probe
        self._newest = 0

    @property
    def passed(self) -> int:
        """The revision up to which all events were handed over, as etcd reports it (before 3.5.8: too early)."""
        return min(self._passed.values())

    def heard_of(self, revision: int, at: float) -> None:
        """The store had this revision at that time (the loop's clock), from which `behind` counts."""
        if revision > max(self._newest, self.passed) and len(self._heard) < HEARD:
            self._heard.append((revision, at))
        self._newest = max(self._newest, revision)

    def behind(self, now: float) -> Behind | None:
        """How far the watch is behind the revisions of `heard_of`; None: it has passed all of them."""
        passed = self.passed
        while self._heard and self._heard[0][0] <= passed:
            self._heard.popleft()
        return Behind(now - self._heard[0][1], self._newest - passed) if self._heard else None

    async def run(self, ready: Callable[[], None], hand_over: Callable[[Batch], Awaitable[None]]) -> NoReturn:
        """Calls `ready` when the server watches all ranges, then `hand_over` with each batch; raises when it ends.

        Expired: the history is lost or inconsistent; Denied; Unavailable: the stream broke.
        """
        try:
            await self._follow(ready, hand_over)
        except TooLarge as error:  # it cannot be skipped: its events are found by a new list
            raise Expired(f"the watch has more to say at once than a message holds: {error}") from None
        raise Unavailable("etcd ended the watch")

    async def _follow(self, ready: Callable[[], None], hand_over: Callable[[Batch], Awaitable[None]]) -> None:
        waited = set(self._seen)
        async with self._client.stream(WATCH, REQUIRE_LEADER) as call:
            for id, area in self._areas.items():
                create = pb.WatchCreateRequest(
                    key=area.start,
                    range_end=area.end,
                    start_revision=self._seen[id] + 1,
                    progress_notify=True,
                    watch_id=id,
                )
                await call.write(pb.WatchRequest(create_request=create))
            self._call = call
            async for response in call:
                self._judge(response)
                if response.created:
                    waited.discard(response.watch_id)
                    if not waited:
                        ready()
                    continue
                batch = self._told(response) if response.events else self._quiet(response)
                if batch is not None:
                    await hand_over(batch)
                    await asyncio.sleep(0)  # the consumer gets its turn before the next response is read

    async def ask_progress(self) -> None:
        """Requests the watch's progress. etcd answers when all ranges are up to date, or not at all."""
        if self._call is not None:
            try:
                await self._call.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
            except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                return  # the stream is over, which `run` raises

    def _judge(self, response: pb.WatchResponse) -> None:
        header = response.header
        # A refusal has no watch id, and a header whose revision is 0.
        if response.canceled:
            if response.compact_revision:
                raise Expired(f"the history before revision {response.compact_revision} is compacted")
            reason = response.cancel_reason
            if "permission denied" in reason:
                raise Denied(f"watch: {reason}")
            if "auth" in reason or "user name is empty" in reason:
                self._client.forget()
            raise Expired(f"the watch was cancelled: {reason or 'no reason given'}")
        if header.cluster_id != self._cluster:
            raise Expired(f"another cluster answers: {header.cluster_id:x} instead of {self._cluster:x}")
        # A watch from a future revision reports nothing and waits.
        if response.created and header.revision < self._known:
            raise Expired(f"the store went back to revision {header.revision}, from {self._known}")

    def _told(self, response: pb.WatchResponse) -> Batch:
        id, events = response.watch_id, response.events
        first, last = events[0].kv.mod_revision, events[-1].kv.mod_revision
        # etcd #15220: after a partition a watch went back in time.
        if first <= self._seen[id]:
            raise Expired(f"the watch repeats revision {first}, having seen {self._seen[id]}")
        self._seen[id] = last
        self._passed[id] = max(self._passed[id], last)
        return Batch(self._areas[id], last, events)

    def _quiet(self, response: pb.WatchResponse) -> Batch | None:
        """Progress of a range; handed over only where etcd reports it in order with the range's events."""
        id, revision = response.watch_id, response.header.revision
        for each in self._passed if id == EVERYONE else (id,):
            self._passed[each] = max(self._passed[each], revision)
        # The answer to a request overtakes events before etcd 3.5.8 (etcd #15220).
        return None if id == EVERYONE else Batch(self._areas[id], revision, ())


async def told(client: Client, key: bytes, header: pb.Header, tells: Callable[[pb.Event], bool]) -> None:
    """Returns with the first event of one key that tells what is waited for, after the answer with that header."""
    watching = Watching(client, {Range(key, b""): header.revision}, header.cluster_id)
    found = asyncio.Event()

    async def look(batch: Batch) -> None:
        if any(map(tells, batch.events)):
            found.set()

    watch = asyncio.create_task(watching.run(lambda: None, look))
    wait = asyncio.create_task(found.wait())
    try:
        done, _ = await asyncio.wait({watch, wait}, return_when=asyncio.FIRST_COMPLETED)
        if watch in done:
            watch.result()
    finally:
        watch.cancel()
        wait.cancel()
        await asyncio.gather(watch, wait, return_exceptions=True)
