"""The state topic, read whole and then followed: one reader for the sink and for every source of a registry.

A registry whose destination several daemons write reads some partitions alone, each as if it were a topic of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from adapters.common.inbox import Inbox
from adapters.kafka.client import PATIENCE, Client
from adapters.kafka.fetching import Fetching, Offsets
from adapters.kafka.topics import Kept
from adapters.kafka.working_copy import Told, WorkingCopy
from bridge.errors import Expired, IsthmusError, Unavailable
from mappings.kafka import Complete


class Reader:
    """Follows the state topic as long as somebody asks for it; `is_ours(sequence)`: whether this process wrote it.

    `parts`: what may be followed, {None}: the whole, as it is until `read` says otherwise.
    """

    def __init__(self, client: Client, topic: Kept, is_ours: Callable[[int], bool]) -> None:
        self.parts: frozenset[int | None] = frozenset((None,))
        self._client = client
        self._topic = topic
        self._is_ours = is_ours
        self._fetching: Fetching | None = None
        self._connecting = asyncio.Lock()
        self._followed: dict[int | None, Following] = {}
        self._starting: defaultdict[int | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changed = asyncio.Event()

    async def following(self, part: int | None = None) -> Following:
        """The topic, or one of its partitions, read to the end that it had when the reading began.

        Raises Unavailable or Denied.
        """
        async with self._starting[part]:
            found = self._followed.get(part)
            if found is None or found.error is not None:
                fetching = await self._connected()
                if part not in self.parts:
                    raise Unavailable(NOT_READ, retry_after=0.0)
                found = self._followed[part] = Following(fetching, part, self._is_ours)
                try:
                    await found.start()
                except BaseException:
                    found.fail(Expired("it was not read to its end"))
                    raise
            return found

    @property
    def is_following(self) -> bool:
        """Whether the topic is read, and was there a moment ago."""
        return any(one.error is None for one in self._followed.values())

    def read(self, shards: frozenset[int] | None) -> None:
        """Reads these partitions from now on, each apart; None: the whole."""
        parts: frozenset[int | None] = frozenset((None,)) if shards is None else shards
        for part in self._followed.keys() - parts:
            self._followed.pop(part).fail(Unavailable(NOT_READ, retry_after=0.0))
        self.parts = parts
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, known: frozenset[int | None]) -> None:
        """Returns when `parts` are others than those."""
        while self.parts == known:
            await self._changed.wait()

    async def may(self, part: int | None) -> None:
        """Returns as soon as that part may be followed."""
        while part not in self.parts:
            await self._changed.wait()

    async def close(self) -> None:
        """Reads no more."""
        self._followed.clear()
        if self._fetching is not None:
            await self._fetching.close()
            self._fetching = None

    async def _connected(self) -> Fetching:
        async with self._connecting:
            if self._fetching is not None and self._fetching.error is not None:
                await self.close()
            if self._fetching is None:
                topic = await self._topic.found()
                fetching = Fetching(self._client, self._topic.name, topic.partitions)
                try:
                    await fetching.start()
                except BaseException:
                    await fetching.close()
                    raise
                self._fetching = fetching
            return self._fetching


NOT_READ = "this process does not read that part of the topic now"


class Following:
    """One reading of the topic, or of one partition. `error`: why it has ended; whoever listens is told as well."""

    def __init__(self, fetching: Fetching, part: int | None, is_ours: Callable[[int], bool]) -> None:
        self.copy = WorkingCopy(fetching.partitions, part)
        self.error: IsthmusError | None = None
        self._fetching = fetching
        self._is_ours = is_ours
        self._listeners: list[Inbox[tuple[Told, bool]]] = []
        self._live: dict[int, int] = {}  # from this offset on, a partition was followed without a gap

    async def start(self) -> None:
        """Reads everything there is."""
        end = await self._fetching.follow(self, self.copy.parts)
        self._live = {part.partition: offset for part, offset in end.items()}
        await self._fetching.reached(end, self)

    def listen(self) -> Inbox[tuple[Told, bool]]:
        """All that changes from now on, each with whether this process wrote it."""
        inbox: Inbox[tuple[Told, bool]] = Inbox()
        self._listeners.append(inbox)
        if self.error is not None:
            inbox.fail(self.error)
        return inbox

    def deafen(self, inbox: Inbox[tuple[Told, bool]]) -> None:
        """Nothing more to that one."""
        with contextlib.suppress(ValueError):
            self._listeners.remove(inbox)

    async def committed(self) -> WorkingCopy:
        """The copy, with all that readers could see when this was called. Raises Unavailable, Denied or Expired.

        Of a transaction that was committed a moment ago they may see nothing yet; and nobody waits for one that a
        writer left open when it died, which ends after its time.
        """
        await self._reached(await self._fetching.committed_end(self.copy.parts))
        return self.copy

    async def caught_up(self) -> WorkingCopy:
        """The copy, with all that was written when this was called and is committed. Raises as `committed`.

        What is under way is waited for: its writer may know already that it is committed.
        """
        end = await self._fetching.written_end(self.copy.parts)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._reached(end)
        except TimeoutError:
            raise Unavailable("somebody's transaction is still open: it is not known what is committed") from None
        return self.copy

    async def _reached(self, end: Offsets) -> None:
        await self._fetching.reached(end, self)

    def tell(self, told: Told, *, ours: bool) -> None:
        """Tells whoever listens what a record changed."""
        if told.service is not None or told.complete is not None:
            for inbox in self._listeners:
                inbox.post((told, ours))

    def take(self, partition: int, records: Iterable[Any]) -> None:
        """See `Follower`."""
        for record in records:
            told = self.copy.take(partition, record.offset, record.key, record.value, record.headers)
            ours = self._is_ours(self.copy.last)
            if told.complete is not None and not ours and record.offset >= self._live[partition]:
                self._audit(told.complete)
            self.tell(told, ours=ours)

    def fail(self, error: IsthmusError) -> None:
        """See `Follower`; the first error counts."""
        if self.error is None:
            self.error = error
            self._fetching.forget(self)
        for inbox in self._listeners:
            inbox.fail(self.error)

    def _audit(self, complete: Complete) -> None:
        """Whether this reader, which missed nothing in that partition, has what the writer says there is."""
        if complete.audit != (mine := self.copy.audit(complete)):
            raise Expired(
                f"partition {complete.partition}: {complete.scope} has {complete.count} records there, and "
                f"{mine[0]} were read: it is read anew"
            )
