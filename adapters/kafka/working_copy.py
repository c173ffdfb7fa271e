"""What a state topic says, by service and instance, from its records in their order; pure.

For every scope and partition it also keeps how many records there are and their digest, which `complete` records state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

import msgspec

from adapters.common import assembly
from adapters.common.assembly import Ignored
from bridge.adapter import Entry
from bridge.errors import Undecodable
from bridge.model import Mark, ServiceName
from mappings import kafka as mapping
from mappings.kafka import Complete, Header, Place

MODULUS = 2**64


class Scope(NamedTuple):
    """Where records come from: the picture that they are in, and the scope of the registry with that identity."""

    picture: str
    identity: str
    part: str


class Stored(msgspec.Struct, frozen=True, gc=False):
    """One record as it stands. `weight`: what it adds to the digest of its scope, None: of no bridge's."""

    offset: int
    weight: int
    record: assembly.Record
    scope: Scope | None


class Total(NamedTuple):
    """The records of one scope in one partition: how many (`records`), and their digest."""

    records: int = 0
    digest: int = 0


NOTHING = Total()


class Told(NamedTuple):
    """What one record of the topic changed: a service, or the `complete` of a scope."""

    service: ServiceName | None
    complete: Complete | None = None


class WorkingCopy:
    """The state topic up to some offset of each partition. `sequence`: the highest number seen, `last` the last one.

    `parts`: the partitions that are in it, all of them or the one that is given.
    """

    def __init__(self, partitions: int, part: int | None = None) -> None:
        self.partitions = partitions
        self.parts = frozenset(range(partitions)) if part is None else frozenset((part,))
        self.services: dict[ServiceName, dict[str, Stored]] = {}
        self.sequence = 0
        self.last = 0
        self.ignored = Ignored()
        self._totals: dict[tuple[Scope, int], Total] = {}
        self._completes: dict[str, dict[int, Complete]] = {}
        self._removed: dict[Place, int] = {}  # by an answer to us, before the record itself was read

    def take(
        self, partition: int, offset: int, key: bytes | None, value: bytes | None, headers: tuple[Header, ...]
    ) -> Told:
        """One record, as it was read or as it was acknowledged; what it changed."""
        self.last = mapping.sequence_of(headers)
        self.sequence = max(self.sequence, self.last)
        where = f"{partition}/{offset}"
        try:
            place = mapping.place_of(key or b"")
            if place.complete:
                return Told(None, self._complete(place, partition, value))
            if partition != mapping.partition_of(place.service, self.partitions):
                raise Undecodable("its service belongs into another partition")
        except Undecodable as error:
            self.ignored.pass_over(where, str(error))
            return Told(None)
        return Told(place.service if self._put(place, partition, offset, key or b"", value) else None)

    def acknowledge(
        self, partition: int, offset: int, key: bytes, value: bytes | None, headers: tuple[Header, ...]
    ) -> Told:
        """A record of ours that the broker has taken, and that is still to be read."""
        told = self.take(partition, offset, key, value, headers)
        if value is None and told.service is not None:
            self._removed[mapping.place_of(key)] = offset
        return told

    def entries(self, names: Collection[ServiceName] | None) -> dict[ServiceName, dict[str, Entry]]:
        """What stands there, for some services or for all."""
        found = self.services.keys() if names is None else [name for name in names if name in self.services]
        return {name: {id: entry_of(id, one) for id, one in self.services[name].items()} for name in found}

    def stands(self, service: ServiceName, id: str) -> Stored | None:
        """The record of one instance."""
        return self.services.get(service, {}).get(id)

    def total(self, scope: Scope, partition: int) -> Total:
        """What there is of a scope in one partition."""
        return self._totals.get((scope, partition), NOTHING)

    def audit(self, complete: Complete) -> tuple[int, str]:
        """What this copy has to say where a `complete` states count and digest."""
        total = self.total(Scope(complete.picture, complete.identity, complete.part), complete.partition)
        return total.records, f"{total.digest:016x}"

    def completes(self, scope: str) -> dict[int, Complete]:
        """The `complete` records of a scope, by partition."""
        return self._completes.get(scope, {})

    @property
    def statements(self) -> Iterator[Complete]:
        """Every `complete` record that stands."""
        return (one for found in self._completes.values() for one in found.values())

    @property
    def scopes(self) -> Iterator[str]:
        """The names of the scopes that are whole: of every partition here there is a `complete` of one generation."""
        return (name for name in self._completes if self.whole(name) is not None)

    def whole(self, scope: str) -> Complete | None:
        """A `complete` of a scope that is whole; None: it is not."""
        found = self._completes.get(scope, {})
        if found.keys() != self.parts or len({one.generation for one in found.values()}) != 1:
            return None
        return found[min(self.parts)]

    def _complete(self, place: Place, partition: int, value: bytes | None) -> Complete | None:
        known = self._completes.setdefault(place.service.name, {})
        if value is None:
            known.pop(partition, None)
            return None
        complete = mapping.decode_complete(value)
        if (complete.scope, complete.partition) != (place.service.name, partition):
            raise Undecodable("its key names another scope or partition than its value")
        known[partition] = complete
        return complete

    def _put(self, place: Place, partition: int, offset: int, key: bytes, value: bytes | None) -> bool:
        """Whether this is newer than what was known."""
        service, id = place.service, place.id
        if self._removed and (removed := self._removed.get(place, -1)) >= offset:
            if removed == offset:
                del self._removed[place]
            return False
        old = self.stands(service, id)
        if old is not None and old.offset >= offset:
            return False
        if old is not None:
            self._count(old, partition, -1)
        if value is None:
            if old is not None:
                del self.services[service][id]
                if not self.services[service]:
                    del self.services[service]
                self.ignored.drop(key.decode())
            return old is not None
        stored = self._stored(place, offset, key, value)
        self.services.setdefault(service, {})[id] = stored
        self._count(stored, partition, 1)
        return True

    def _stored(self, place: Place, offset: int, key: bytes, value: bytes) -> Stored:
        try:
            instance, mark = mapping.decode(place, value)
            record = assembly.Record(instance, mark)
            self.ignored.drop(key.decode())
        except Undecodable as error:
            record = assembly.Record(None, None, str(error))
            self.ignored.put(key.decode(), str(error))
        scope = _scope(place.service, record.mark) if record.mark is not None else None
        return Stored(offset, mapping.weight(key, value), record, scope)

    def _count(self, stored: Stored, partition: int, by: int) -> None:
        if stored.scope is not None:
            at = (stored.scope, partition)
            count, digest = self._totals.get(at, NOTHING)
            self._totals[at] = Total(count + by, (digest + by * stored.weight) % MODULUS)


def entry_of(id: str, stored: Stored) -> Entry:
    """What stands there as a destination holds it."""
    return assembly.entry(id, stored.record, stored.offset, ledgered=False)


def _scope(service: ServiceName, mark: Mark) -> Scope:
    return _shared(mapping.picture_of(service), mark.path[-1] if mark.path else "", mark.scope)


_shared = lru_cache(maxsize=4096)(Scope)  # one object for all records of a scope
