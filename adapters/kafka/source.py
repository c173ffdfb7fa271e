"""One scope that a stream publishes, read: what the registry held, under its identity and with its own marks.

The stream adds nothing to an entry's way. So a link may read `stream/core` in the place of `core`, and writes nothing
for that; and a link from there to `core` itself is an echo.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from adapters.kafka.reading import Reader
from adapters.kafka.working_copy import Scope, Stored, WorkingCopy
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.errors import Expired, Unavailable
from bridge.model import Instance, Mark, Service, ServiceName
from bridge.shards import part_of
from mappings import kafka as mapping
from mappings.kafka import Complete


class Read(NamedTuple):
    """What a record says of an instance of the scope; None: it is there, and cannot be read."""

    instance: Instance | None
    mark: Mark | None = None


class KafkaSource:
    """The scope with that name, e.g. `core` or `core/dc1`; or what one partition (`part`) has of it."""

    def __init__(self, scope: str, reader: Reader, part: int | None = None) -> None:
        self.scope = scope if part is None else part_of(scope, part)
        self._published = scope
        self._part = part
        self._reader = reader
        self._picture = scope.partition("/")[0]
        self._copy: WorkingCopy | None = None

    @property
    def ignored(self) -> dict[str, str]:
        """The records of the topic that cannot be read, by their key or place."""
        return dict(self._copy.ignored) if self._copy is not None else {}

    @property
    def behind(self) -> Behind | None:
        """Never: what is committed is told at once."""
        return None

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`; the listing is complete, for the scope is whole in the topic. Raises Unavailable, Denied.

        Expired, where the writer has another life of the registry before it, or the topic is read anew. Of a partition
        that is not read it begins when it is: who waited for its turn to try again would come late.
        """
        await self._reader.may(self._part)
        following = await self._reader.following(self._part)
        copy = self._copy = await following.committed()  # it was followed before this watch, and may lag a little
        inbox = following.listen()
        try:
            complete = self._whole(copy)
            scope = Scope(complete.picture, complete.identity, complete.part)
            # Whoever writes a shard next compares: a generation below one that was known is an older topic.
            generation = complete.generation if self._part is not None else 0
            yield Listing(complete.identity, complete.incarnation, generation, part=complete.part)
            told: set[ServiceName] = set()
            for name in [name for name in copy.services if mapping.picture_of(name) == self._picture]:
                if (observed := self._observed(copy, name, scope)) is not None:
                    told.add(name)
                    yield observed
            yield Synced()
            while True:
                items, failure = await inbox.take()
                for item in dict.fromkeys(told for told, _ in items):
                    if item.complete is not None and item.complete.scope == self._published:
                        self._same_life(complete, item.complete)
                    service = item.service
                    if service is None or mapping.picture_of(service) != self._picture:
                        continue
                    observed = self._observed(copy, service, scope)
                    if observed is not None:
                        told.add(service)
                        yield observed
                    elif service in told:
                        told.remove(service)
                        yield Observed(Service(mapping.own_name(service)))
                if failure is not None:
                    raise failure
        finally:
            following.deafen(inbox)
            if self._part is not None:
                self._copy = None  # it leaves memory with the partition

    async def read(self, name: ServiceName) -> Observed:
        """One service, with all that was committed when this was asked."""
        copy = await (await self._reader.following(self._part)).caught_up()
        complete = self._whole(copy)
        scope = Scope(complete.picture, complete.identity, complete.part)
        return self._observed(copy, mapping.in_picture(self._picture, name), scope) or Observed(Service(name))

    def _whole(self, copy: WorkingCopy) -> Complete:
        complete = copy.whole(self._published)
        if complete is None:
            raise Unavailable(f"{self.scope} is not whole in the topic: its writer has not filled it yet")
        return complete

    def _same_life(self, before: Complete, now: Complete) -> None:
        if (before.identity, before.incarnation) != (now.identity, now.incarnation):
            raise Expired(f"{self.scope}: its registry has begun another life")

    def _observed(self, copy: WorkingCopy, name: ServiceName, scope: Scope) -> Observed | None:
        """All that the scope has of a service; None: nothing."""
        found = dict(_records(copy.services.get(name, {}), scope))
        if not found:
            return None
        instances = {id: one.instance for id, one in found.items() if one.instance is not None}
        marks = {id: one.mark for id, one in found.items() if one.mark is not None}
        unreadable = frozenset(id for id, one in found.items() if one.instance is None)
        return Observed(Service(mapping.own_name(name), instances, marks), unreadable)


def _records(stored: dict[str, Stored], scope: Scope) -> Iterator[tuple[str, Read]]:
    """The instances of a scope, by their id in its registry; what nobody can read may be of any of the picture."""
    for id, one in stored.items():
        instance, mark = one.record.instance, one.record.mark
        if instance is None:
            yield id, Read(None)
        elif mark is not None and one.scope == scope:
            if mapping.REDUCED in instance.native:  # it is there, and what else it says was too large for a record
                yield mark.instance, Read(None)
                continue
            before = replace(mark, path=mark.path[:-1], network="") if len(mark.path) > 1 else None
            yield mark.instance, Read(instance if instance.id == mark.instance else _renamed(one, mark), before)


def _renamed(stored: Stored, mark: Mark) -> Instance | None:
    """A merge may have given it another id."""
    instance = stored.record.instance
    return replace(instance, id=mark.instance) if instance is not None else None
