"""The sink: what it holds is what the state topic says; what takes something away goes in a transaction.

The store cannot compare. So each change is compared with what this process has read of the topic, a removal after all
that is committed was read; beside the one writer of its bridge nobody has reason to write under these keys.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import suppress

from adapters.common.changes import Outcomes, compare, judge, turn
from adapters.common.seat import in_force
from adapters.kafka.client import Client
from adapters.kafka.completes import Completes
from adapters.kafka.producing import SLICE, Fenced, Numbers, Outgoing, Producing
from adapters.kafka.reading import Following, Reader
from adapters.kafka.topics import Kept
from adapters.kafka.turns import Turns
from adapters.kafka.working_copy import Stored, WorkingCopy
from bridge.adapter import Change, Event, Held, Outcome, Term, Whole
from bridge.errors import Conflict, IsthmusError, Rejected, Superseded
from bridge.model import Instance, ServiceName
from mappings import kafka as mapping
from mappings.kafka import About, Complete

LOOK = 1.0  # seconds between two looks whether a missing topic is there
AUDIT = 600.0  # seconds after which count and digest of what has changed are stated again


class KafkaSink:
    """One stream, written by the bridge with one id. `wall` gives seconds since the epoch."""

    traits = mapping.TRAITS

    def __init__(
        self,
        name: str,
        client: Client,
        topic: Kept,
        changes: Kept | None,
        bridge: str,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._topic = topic
        self._changes = changes
        self._bridge = bridge
        self._wall = wall
        self._numbers = Numbers(wall)
        self._sent: set[int] = set()  # numbers of records that were sent, and not read yet
        self._reader = Reader(client, topic, self._is_ours)
        self._copy: WorkingCopy | None = None
        self._producing = Producing(client, f"{bridge}/{name}", self._acknowledged)
        self._logging = Fenced(client, f"{bridge}/{name}/log")
        self._completes = Completes(bridge)
        self._turns = Turns()
        self._whole: tuple[frozenset[Whole], Term | None] = frozenset(), None
        self._audits: asyncio.Task[None] | None = None

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`."""
        return mapping.canonical(name, instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """All that is committed now. A topic that is missing holds nothing; whoever writes creates it."""
        if names is None and await self._topic.look() is None:
            return Held(self._identity, {})
        copy = await (await self._following()).committed()
        return Held(self._identity, copy.entries(names))

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: adds and updates at once, then in one transaction all that ends a serving instance."""
        outcomes = Outcomes(changes)
        in_force(term)
        try:
            following = await self._begin(term)
            async with self._turns.shared():
                gentle = [one for one in changes if not _takes_away(one)]
                await self._put_all(gentle, following, outcomes)
                if rest := [one for one in changes if _takes_away(one)]:
                    await following.caught_up()
                    await self._take_away(sorted(rest, key=turn), following, outcomes, term)
        except Superseded:
            raise
        except IsthmusError as error:
            outcomes.fail_others(error)
        return outcomes.in_order()

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`: records that another process wrote."""
        if await self._topic.look() is None:
            yield frozenset()  # nothing stands there, and nobody but this writer has a reason to create it
            while await self._topic.look() is None:
                await asyncio.sleep(LOOK)
        following = await self._following()
        inbox = following.listen()
        try:
            yield frozenset()
            while True:
                items, failure = await inbox.take()
                names = frozenset(told.service for told, ours in items if told.service is not None and not ours)
                if names:
                    yield names
                if failure is not None:
                    raise failure
        finally:
            following.deafen(inbox)

    async def whole(self, scopes: frozenset[Whole], term: Term | None) -> None:
        """See `WholeSink`: a gain is stated in every partition. Of a loss nothing is said: what was known still is."""
        self._whole = scopes, term
        if not scopes:
            return
        following = await self._begin(term)
        async with self._turns.alone():
            due = self._completes.due(scopes, await following.caught_up())
            await self._state(due, term)
            self._completes.settled(scopes)
        if self._audits is None:
            self._audits = asyncio.create_task(self._state_again())

    @property
    def logs(self) -> bool:
        """See `EventLog`: whether the file names a topic for it."""
        return self._changes is not None

    async def log(self, events: Sequence[Event], term: Term | None) -> None:
        """See `EventLog`: the events of one service in one partition, all of them in one transaction."""
        if self._changes is None or not events:
            return
        if self._logging.needs(term):
            await self._changes.ensure()
            await self._logging.begin(term)
        records = []
        for number, event in enumerate(events, 1):
            records.append(self._logged(event, self._changes))
            if number % SLICE == 0:
                await asyncio.sleep(0)
        await self._logging.transact(records, term)

    def _logged(self, event: Event, topic: Kept) -> Outgoing:
        key = mapping.log_key(event.service)
        about = About(
            event.type,
            mapping.source(self._bridge, event.about),
            event.subject,
            key,
            self._numbers.next(),
            event.seconds,
            event.id,
            (("traceparent", event.trace),),
        )
        partition = mapping.part_of(key, topic.partitions)
        return Outgoing(topic.name, partition, key, event.data, tuple(mapping.headers(about)))

    async def close(self) -> None:
        """Reads and writes no more, and takes nothing away."""
        if self._audits is not None:
            self._audits.cancel()
            await asyncio.gather(self._audits, return_exceptions=True)
            self._audits = None
        await self._producing.close()
        await self._logging.close()
        await self._reader.close()

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def _identity(self) -> str:
        return identity(self._topic)

    async def _following(self) -> Following:
        following = await self._reader.following()
        self._copy = following.copy
        return following

    def _is_ours(self, sequence: int) -> bool:
        if sequence in self._sent:
            self._sent.remove(sequence)
            return True
        return False

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _begin(self, term: Term | None) -> Following:
        """The first write of a term: others are shut out, then all that they have written is read."""
        if self._producing.needs(term) or not self._reader.is_following:
            await self._topic.ensure()
        begun = await self._producing.begin(term)
        following = await self._following()
        if begun:
            copy = await following.caught_up()
            self._numbers.last = max(self._numbers.last, copy.sequence)
        return following

    async def _put_all(self, changes: Sequence[Change], following: Following, outcomes: Outcomes) -> None:
        """At once; those that were refused with others of their batch once more, each by itself."""
        if len(changes) == 1:  # as it mostly is; without a task of its own it leaves a turn of the loop earlier
            await self._put(changes[0], following, outcomes)
            return
        spoiled = await asyncio.gather(*(self._put(one, following, outcomes) for one in changes))
        for one in filter(None, spoiled):
            await self._put(one, following, outcomes)

    async def _put(self, change: Change, following: Following, outcomes: Outcomes) -> Change | None:
        """Returns the change where the broker refused what it was sent in: of several records, one may spoil all."""
        try:
            record = self._outgoing(change, following)
        except IsthmusError as error:
            outcomes.fail(change, error)
            return None
        try:
            outcomes.put(Outcome(change, await self._producing.put(record)))
        except IsthmusError as error:
            outcomes.fail(change, error)
            return change if isinstance(error, Rejected) else None
        return None

    async def _take_away(
        self, changes: Sequence[Change], following: Following, outcomes: Outcomes, term: Term | None
    ) -> None:
        records: list[tuple[Change, Outgoing]] = []
        for change in changes:
            try:
                records.append((change, self._outgoing(change, following)))
            except IsthmusError as error:
                outcomes.fail(change, error)
        if not records:
            return
        try:
            offsets = await self._producing.transact([record for _, record in records], term)
        except Rejected as error:  # one of them spoils the transaction
            if len(records) == 1:
                outcomes.fail(records[0][0], error)
                return
            for change, _ in records:
                await self._begin(term)
                await self._take_away([change], following, outcomes, term)
            return
        for (change, record), offset in zip(records, offsets, strict=True):
            outcomes.put(Outcome(change, offset if record.value is not None else None))

    def _outgoing(self, change: Change, following: Following) -> Outgoing:
        """The record of a change. Raises Conflict, or Rejected."""
        judge(self._bridge, change)
        service, id = change.service, change.id
        stands = following.copy.stands(service, id)
        _compare(change, stands)
        after, mark = change.after, change.mark
        if change.forget and stands is not None:
            after, mark = stands.record.instance, None
        if after is not None and after.id != id:
            raise Rejected(f"{service}/{id}: its id is {after.id!r}")
        key = mapping.key_of(service, id)
        value = mapping.encode(service, mapping.canonical(service, after), mark) if after is not None else None
        kind = mapping.INSTANCE if value is not None else mapping.REMOVED
        about = self._about(
            kind,
            key,
            source=mapping.source(self._bridge, mapping.picture_of(service)),
            subject=f"{service}/{id}",
            id=(str(stands.offset if stands is not None else ""), value or b""),
            more=(
                ("traceparent", change.trace),
                ("cause", str(change.cause) if change.cause is not None and value is None else ""),
            ),
        )
        partition = mapping.partition_of(service, following.copy.partitions)
        return Outgoing(self._topic.name, partition, key, value, tuple(mapping.headers(about)))

    def _about(
        self,
        kind: str,
        key: bytes,
        *,
        source: str,
        subject: str,
        id: tuple[str | bytes, ...],
        more: tuple[tuple[str, str], ...] = (),
    ) -> About:
        sequence = self._numbers.next()
        self._sent.add(sequence)
        return About(kind, source, subject, key, sequence, self._wall(), mapping.event_id(kind, key, *id), more)

    def _acknowledged(self, record: Outgoing, offset: int) -> None:
        """The broker has taken a record of ours: it stands there, also before it is read."""
        if self._copy is None or mapping.place_of(record.key).complete:
            return
        place = mapping.place_of(record.key)
        before = self._copy.stands(place.service, place.id)
        self._copy.acknowledge(record.partition, offset, record.key, record.value, record.headers)
        after = self._copy.stands(place.service, place.id)
        for one in (before, after):
            if one is not None:
                self._completes.wrote(one.scope, record.partition)

    # -- what is whole -----------------------------------------------------------------------------------------------

    async def _state(self, completes: Sequence[Complete], term: Term | None) -> None:
        if not completes:
            return
        records = [self._stating(one) for one in completes]
        offsets = await self._producing.transact(records, term)
        for complete, record, offset in zip(completes, records, offsets, strict=True):
            self._completes.said(complete)
            if self._copy is not None:
                self._copy.acknowledge(record.partition, offset, record.key, record.value, record.headers)

    def _stating(self, complete: Complete) -> Outgoing:
        key = mapping.complete_key(complete.scope, complete.partition)
        about = self._about(
            mapping.COMPLETE,
            key,
            source=mapping.source(self._bridge, complete.picture),
            subject=complete.scope,
            id=(str(complete.generation), complete.digest, str(complete.sequence)),
        )
        value = mapping.encode_complete(complete)
        return Outgoing(self._topic.name, complete.partition, key, value, tuple(mapping.headers(about)))

    async def _state_again(self) -> None:
        """So that followers find out whether they missed something, also where nothing is listed anew."""
        while True:
            await asyncio.sleep(AUDIT)
            scopes, term = self._whole
            with suppress(IsthmusError):
                following = await self._begin(term)
                async with self._turns.alone():
                    await self._state(self._completes.audits(scopes, await following.caught_up()), term)


def identity(topic: Kept) -> str:
    """The stream's own, as a destination: the cluster and the topic."""
    return f"kafka:{topic.cluster}/{topic.name}"


def _takes_away(change: Change) -> bool:
    """Whether a serving instance may end by it, or a record that is not ours: a writer that slept must not do that."""
    before, after = change.before, change.after
    if after is None or change.forget or change.adopt:
        return True
    return before is not None and before.instance.serving and not after.serving


def _compare(change: Change, stands: Stored | None) -> None:
    """Raises Conflict unless what stands there is what the change was planned on."""
    compare(change, (stands.offset, stands.record.mark) if stands is not None else None, "offset ")
    if change.forget and stands is not None and stands.record.instance is None:
        raise Conflict(f"{change.service}/{change.id}: cannot be read")
