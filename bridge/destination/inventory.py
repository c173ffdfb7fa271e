"""The entries that a destination holds, by name, and how many of them serve. No I/O."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any

from bridge.adapter import Change, Entry, Held, Outcome
from bridge.model import Mark, Place, ServiceName
from bridge.plan.echo import Written
from bridge.plan.values import Scope, Source, scope_of, source_of
from bridge.shards import WHOLE
from bridge.sources.networks import Places

INDEXED = 16  # names with an index of our entries by place: those that are being written


class Copies:
    """How many of our entries under one name have each place, and each source."""

    def __init__(self, places: Places) -> None:
        self._at = places
        self._places: Counter[Place] = Counter()
        self._sources: Counter[Source] = Counter()

    def count(self, entry: Entry, mark: Mark, by: int) -> None:
        """Counts an entry that was added (`by` 1) or removed (-1)."""
        self._sources[source_of(mark)] += by
        for place in self._at.of(entry.instance, mark):
            self._places[place] += by

    def has_others(self, entry: Entry, mark: Mark) -> bool:
        """Whether another entry is for the same running process as this one."""
        places = self._at.of(entry.instance, mark)
        return self._sources[source_of(mark)] > 1 or any(self._places[place] > 1 for place in places)


class Inventory:
    """Entries by name and id. `loose`: ledger entries of ours whose data is gone. `identity`: of the destination.

    `unsure`: names with a write of unknown outcome, until they are read again. `shard_of`: the shard of a service,
    where several processes share the writing; `mine()`: the shards that this one writes.
    """

    def __init__(self, owner: str, places: Places, clock: Callable[[], float]) -> None:
        self.owner = owner
        self.places = places
        self.identity = ""
        self.entries: dict[ServiceName, dict[str, Entry]] = {}
        self.loose: dict[ServiceName, dict[str, Any]] = {}
        self.unsure: set[ServiceName] = set()
        self.written: Written | None = None  # our entries by address, where they may come back as echoes
        self.touched: set[ServiceName] | None = None  # names that changed, for whoever empties it; None: nobody does
        self.shard_of: Callable[[ServiceName], int] | None = None
        self.mine: Callable[[], Collection[int]] = tuple
        self._clock = clock
        self._owned: dict[tuple[Scope, int], int] = {}  # serving entries of ours, by scope and shard
        self._serving: dict[ServiceName, int] = {}  # serving entries, whoever owns them
        self._copies: OrderedDict[ServiceName, Copies] = OrderedDict()  # the most recently used name is the last

    def owned(self, scope: Scope) -> int:
        """How many of our entries from a scope serve here, in the shards that this process writes."""
        if self.shard_of is None:
            return self._owned.get((scope, WHOLE), 0)
        return sum(self.owned_in(scope, shard) for shard in self.mine())

    def owned_in(self, scope: Scope, shard: int) -> int:
        """How many of our entries from a scope serve in one shard."""
        return self._owned.get((scope, shard), 0)

    def owned_by_scope(self, shard: int) -> dict[Scope, int]:
        """How many of ours serve in one shard, by scope."""
        return {scope: count for (scope, at), count in self._owned.items() if at == shard and count}

    def serving(self, name: ServiceName) -> int:
        """How many entries serve under a name, whoever owns them."""
        return self._serving.get(name, 0)

    def is_ours(self, entry: Entry | None) -> bool:
        """Whether this bridge wrote an entry."""
        return entry is not None and entry.mark is not None and entry.mark.owner == self.owner

    def keep_written(self, destination: str, lasts: float) -> Written:
        """Our entries by address, kept up to date from now on; each also for `lasts` seconds after its removal."""
        if self.written is None:
            self.written = Written(destination, self._clock, lasts)
            for name, entries in self.entries.items():
                for entry in entries.values():
                    if self.is_ours(entry):
                        self._write(self.written, name, entry, gone=False)
        return self.written

    def regard(self, places: Places) -> None:
        """Takes another rule by which entries are the same; counts anew what depends on it."""
        if places != self.places:
            self.places, self.written = places, None
            self._copies.clear()

    def _write(self, written: Written, name: ServiceName, entry: Entry, *, gone: bool) -> None:
        places = self.places
        networks = {places.own, places.networks.of(places.registry, entry.instance, entry.mark)}
        written.note(name, entry, networks, gone=gone)

    def differing(
        self, held: Held, names: Iterable[ServiceName] | None, less: Collection[ServiceName]
    ) -> list[ServiceName]:
        """The names among those that were read (None: all) whose entries differ from what is known here."""
        known = self.entries.keys() | self.loose.keys() | held.services.keys() | held.loose.keys()
        return [
            name
            for name in set(known if names is None else names) - set(less)
            if held.services.get(name, {}) != self.entries.get(name, {})
            or held.loose.get(name, {}) != self.loose.get(name, {})
        ]

    def replace(self, name: ServiceName, entries: dict[str, Entry], loose: dict[str, Any]) -> None:
        """Replaces everything under a name by what was read."""
        self._touch(name)
        for entry in self.entries.get(name, {}).values():
            self._count(name, entry, -1)
        for entry in entries.values():
            self._count(name, entry, 1)
        for places, found in ((self.entries, entries), (self.loose, loose)):
            if found:
                places[name] = found
            else:
                places.pop(name, None)

    def take(self, outcome: Outcome) -> int:
        """One change was made; returns how many more serve under its name."""
        change = outcome.change
        name = change.service
        self._touch(name)
        was = self.serving(name)
        entries = self.entries.setdefault(name, {})
        before = entries.get(change.id)
        if before is not None:
            self._count(name, before, -1)
        if change.after is not None:
            entries[change.id] = Entry(change.after, change.mark, outcome.version)
            self._count(name, entries[change.id], 1)
            self.forget_loose(name, change.id)
        else:
            entries.pop(change.id, None)
            if not entries:
                del self.entries[name]
        return self.serving(name) - was

    def _touch(self, name: ServiceName) -> None:
        if self.touched is not None:
            self.touched.add(name)

    def _count(self, name: ServiceName, entry: Entry, by: int) -> None:
        """Updates the counts for an entry that is added (`by` 1) or removed (-1)."""
        ours = entry.mark is not None and entry.mark.owner == self.owner
        if self.written is not None and ours:
            self._write(self.written, name, entry, gone=by < 0)
        if ours and entry.mark is not None and (copies := self._copies.get(name)) is not None:
            copies.count(entry, entry.mark, by)
        if not entry.instance.serving:
            return
        self._serving[name] = self._serving.get(name, 0) + by
        if not self._serving[name]:
            del self._serving[name]
        if entry.mark is not None and ours:
            shard = WHOLE if self.shard_of is None else self.shard_of(entry.mark.service)
            key = (scope_of(entry.mark), shard)
            self._owned[key] = self._owned.get(key, 0) + by

    def replaces(self, change: Change) -> bool:
        """Whether a new entry is for the same running process as another of ours, which will be removed next.

        By an index, because a service may have ten thousand entries, all of them new.
        """
        if change.before is not None or change.after is None or change.mark is None:
            return False
        copies = self._copies.get(change.service) or self._index(change.service)
        self._copies.move_to_end(change.service)
        return copies.has_others(Entry(change.after, change.mark), change.mark)

    def _index(self, name: ServiceName) -> Copies:
        copies = self._copies[name] = Copies(self.places)
        for entry in self.entries.get(name, {}).values():
            if entry.mark is not None and entry.mark.owner == self.owner:
                copies.count(entry, entry.mark, 1)
        if len(self._copies) > INDEXED:
            self._copies.popitem(last=False)
        return copies

    def forget_loose(self, name: ServiceName, id: str) -> None:
        """A ledger entry without data is gone."""
        loose = self.loose.get(name)
        if loose is not None:
            loose.pop(id, None)
            if not loose:
                del self.loose[name]
