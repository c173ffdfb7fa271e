"""The working copy of one Eureka, updated by whole lists and deltas of its peers. Pure.

Only a delta proves a removal. An instance that a list lacks is kept for a minute, because a restarted peer takes over
from the others only what is UP, and has the rest again with its next heartbeat. Likewise where a newly watched peer has
another status or an older record than the one before: the known state is kept for a minute, as one of them is behind.

A server's cache may keep an answer that was made during a change, until the next change or for three minutes.
Newer states that are read past the cache count until the server's answers have caught up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec.structs import replace

from adapters.common import assembly
from adapters.common.assembly import Ignored
from adapters.eureka.answers import Applications, Key, Known, hash_of, statuses
from bridge.adapter import Observed
from bridge.model import ServiceName
from mappings import eureka as mapping
from mappings import ledger
from mappings.eureka import Record

MISSED = 60.0  # seconds for which missing and disputed instances are kept: two heartbeats
RECENT = 10_000  # removed instances that are remembered, so that a second opinion reads them, too


class WorkingCopy:
    """Instances by application and id. `by`: which of an instance's two addresses is used, `ip` or `host`."""

    def __init__(self, by: str) -> None:
        self.ignored = Ignored()
        self.changes: dict[Key, Known] = {}  # the changes of the last answer
        self._by = by
        self._records: dict[Key, Known] = {}  # the instances of the peer that answered last
        self._missed: dict[Key, tuple[Known, float]] = {}  # missing: instances that it lacks, and since when
        self._disputed: dict[Key, tuple[Known, float]] = {}  # as the last peer had it, and since when
        self._ahead: dict[Key, Known] = {}  # read past the peer's cache, which is behind
        self._teller = ""  # the peer that listed last
        self._gone: dict[Key, Known] = {}
        self._services: dict[ServiceName, set[Key]] = {}
        self._statuses: Counter[str] = Counter()

    def clone(self) -> WorkingCopy:
        """A copy for another watch, which reports its changes by itself."""
        other = WorkingCopy(self._by)
        other._records, other._missed, other._gone = self._records.copy(), self._missed.copy(), self._gone.copy()
        other._disputed, other._ahead, other._teller = self._disputed.copy(), self._ahead.copy(), self._teller
        other._services = {name: keys.copy() for name, keys in self._services.items()}
        other._statuses = self._statuses.copy()
        return other

    @property
    def is_empty(self) -> bool:
        """Whether no instance is known."""
        return not self._records and not self._missed

    @property
    def services(self) -> list[ServiceName]:
        """The services with a known instance."""
        return list(self._services)

    def listed(self, all: Applications, now: float, *, same_life: bool = True, teller: str = "") -> set[ServiceName]:
        """Replaces what is known by a whole list of one peer. Returns the services that changed.

        Without `same_life`, instances that it lacks are not kept: the core has rules of its own for a new incarnation.
        """
        self.changes = {}
        fresh = {one.key: one for one in all.instances}
        is_other, self._teller = teller != self._teller, teller
        touched = self._overtake(fresh, now, all=is_other or not same_life)
        lacks = {key: self._known(key) for key in self._records if key not in fresh}
        if not same_life:
            self._disputed.clear()
            touched |= self._drop([*lacks, *(key for key in self._missed if key not in fresh)])
        else:
            for key, known in lacks.items():
                self._missed[key] = (known, now)
                self._disputed.pop(key, None)
        for one in all.instances:
            if one.key in self._ahead:
                continue
            if same_life and self._differ_about(one, is_other):
                self._disputed.setdefault(one.key, (self._known(one.key), now))
                self._missed.pop(one.key, None)
                continue
            touched |= self._put(one) | self._agreed(one)
            self._missed.pop(one.key, None)
        self._records = fresh
        self._statuses = statuses(fresh.values())
        return touched

    def changed(self, delta: Applications) -> set[ServiceName] | None:
        """Applies a delta. Returns the services that changed; None, and applies nothing, where its hash differs."""
        changes = [one for one in delta.instances if self._is_news(one)]
        counts = self._statuses.copy()
        for one in changes:
            before = self._records.get(one.key)
            if before is not None:
                counts[before.record.status] -= 1
            if not _is_deleted(one):
                counts[one.record.status] += 1
        if hash_of(counts) != delta.hash:
            return None
        touched: set[ServiceName] = set()
        self.changes = {}
        for one in changes:
            if self._is_behind(one):
                self._records[one.key] = one
                if _is_deleted(one):
                    del self._records[one.key]
                continue
            touched |= self._caught_up(one.key)
            if _is_deleted(one):
                touched |= self._drop([one.key])
                self.changes[one.key] = one
            elif one.key not in self._disputed or _says(one) != _says(self._records[one.key]):
                self._missed.pop(one.key, None)
                touched |= self._put(one) | self._agreed(one)
                self._records[one.key] = one
        self._statuses = +counts
        return touched

    def overdue(self, now: float) -> list[Key]:
        """Instances that have been missing for so long that they are gone, unless another peer has them."""
        return [key for key, (_, since) in self._missed.items() if now - since >= MISSED]

    def settle(self, now: float) -> set[ServiceName]:
        """Settles old disputes as the watched peer has it. Returns the services that changed."""
        due = [key for key, (_, since) in self._disputed.items() if now - since >= MISSED]
        return {name for key in due for name in self._agreed(self._records[key])}

    def gone(self, key: Key) -> set[ServiceName]:
        """Drops a missing instance that no peer has."""
        return self._drop([key]) if key in self._missed else set()

    def kept(self, key: Key, now: float) -> None:
        """Keeps a missing instance, which another peer has or may have."""
        if key in self._missed:
            self._missed[key] = (self._missed[key][0], now)

    def untold(self, delta: Applications) -> list[Known]:
        """The changes of another answer of the same peer that its earlier answers did not have."""
        return [one for one in delta.instances if self._is_untold(one)]

    def looked(self, told: Known, found: Known | None) -> set[ServiceName]:
        """Takes over an instance that was read past the caches. Returns the services that changed.

        None where an answer has told it meanwhile.
        """
        key, newest = told.key, found or told
        if not self._is_untold(told):
            return set()
        if found is None and not _is_deleted(told):  # removed or expired since, as a later answer says
            return set()
        touched = self._caught_up(key)
        if key in self._records:
            touched |= self._unlist(self._records[key])
        self._ahead[key] = self.changes[key] = newest
        if found is None:
            self._gone[key] = told
        else:
            touched |= self._list(found)
        return touched

    def candidates(self, name: ServiceName) -> set[Key]:
        """The keys of instances that a service has or had."""
        return self._services.get(name, set()) | {key for key, one in self._gone.items() if name in one.names}

    def observed(self, name: ServiceName, revision: int = 0) -> Observed:
        """The observation of one service."""
        found = [self._known(key) for key in self._services.get(name, ())]
        return observe(name, found, self._by, self.ignored)

    def _known(self, key: Key) -> Known:
        if key in self._ahead:
            return self._ahead[key]
        if key in self._disputed:
            return self._disputed[key][0]
        return self._records[key] if key in self._records else self._missed[key][0]

    def _differ_about(self, one: Known, is_other: bool) -> bool:
        """Whether a peer that was not watched before has an instance in another state than the known one."""
        key = one.key
        if not (key in self._disputed or (is_other and (key in self._records or key in self._missed))):
            return False
        told, before = one.record, self._known(key).record
        return told.status != before.status or told.lastDirtyTimestamp < before.lastDirtyTimestamp

    def _agreed(self, one: Known) -> set[ServiceName]:
        """Ends a dispute in favour of the watched peer."""
        before, _ = self._disputed.pop(one.key, (None, 0.0))
        if before is None:
            return set()
        touched = self._unlist(before) | self._list(one)
        self.changes[one.key] = one
        return touched

    def _is_untold(self, one: Known) -> bool:
        key = one.key
        if key in self._disputed or key in self._missed:
            return False
        known = self._ahead.get(key) or self._records.get(key)
        if known is None:
            return not _is_deleted(one)
        if _is_deleted(one) and not _is_deleted(known):
            return _at(one) >= _at(known)
        return _at(one) > _at(known)

    def _is_behind(self, one: Known) -> bool:
        """Whether an answer is older than what was read past the cache."""
        return one.key in self._ahead and _at(one) < _at(self._ahead[one.key])

    def _caught_up(self, key: Key) -> set[ServiceName]:
        """The peer's answers have caught up with what was read past its cache."""
        ahead = self._ahead.pop(key, None)
        return self._unlist(ahead) if ahead is not None else set()

    def _overtake(self, fresh: dict[Key, Known], now: float, *, all: bool) -> set[ServiceName]:
        """Drops what was read past the cache where a list is as new; `all`: it is of another peer or incarnation."""
        touched: set[ServiceName] = set()
        for key, ahead in list(self._ahead.items()):
            one = fresh.get(key)
            if one is not None and self._is_behind(one) and not all:
                continue
            if one is not None or _is_deleted(ahead):
                touched |= self._caught_up(key)
            else:  # the list lacks it
                self._missed[key] = (self._ahead.pop(key), now)
            if one is None:
                self._records.pop(key, None)
        return touched

    def _is_news(self, one: Known) -> bool:
        """Whether a change is newer than what is known: list and delta come from separate caches."""
        known = self._records.get(one.key)
        if known is None:
            return not _is_deleted(one) or one.key in self._missed or one.key in self._ahead
        return one.record.lastUpdatedTimestamp >= known.record.lastUpdatedTimestamp

    def _put(self, one: Known) -> set[ServiceName]:
        before = self._records.get(one.key)
        if before is None and one.key in self._missed:
            before = self._missed[one.key][0]
        self._gone.pop(one.key, None)
        if before is not None and _says(before) == _says(one) and one.key in self._services.get(one.names[0], ()):
            return set()
        self.changes[one.key] = one
        touched = set(one.names)
        if before is not None and before.names != one.names:
            touched |= self._unlist(before)
        return touched | self._list(one)

    def _drop(self, keys: Iterable[Key]) -> set[ServiceName]:
        touched: set[ServiceName] = set()
        for key in keys:
            one = self._records.pop(key, None) or self._missed.get(key, (None, 0.0))[0]
            self._missed.pop(key, None)
            before, _ = self._disputed.pop(key, (None, 0.0))
            if before is not None:
                touched |= self._unlist(before)
            if one is not None:
                touched |= self._unlist(one)
                self._gone[key] = one
        while len(self._gone) > RECENT:
            del self._gone[next(iter(self._gone))]
        return touched

    def _list(self, one: Known) -> set[ServiceName]:
        for name in one.names:
            self._services.setdefault(name, set()).add(one.key)
        return set(one.names)

    def _unlist(self, one: Known) -> set[ServiceName]:
        for name in one.names:
            keys = self._services.get(name, set())
            keys.discard(one.key)
            if not keys:
                self._services.pop(name, None)
            self.ignored.drop(_place(name, one))
        return set(one.names)


def observe(name: ServiceName, found: Iterable[Known], by: str, ignored: Ignored | None = None) -> Observed:
    """The observation of one service with these instances. `ignored` collects the unreadable ones."""
    records = {mapping.entry_id(name, one.record): (one, record_of(name, one, by)) for one in found}
    if ignored is not None:
        for one, record in records.values():
            if record.why:
                ignored.put(_place(name, one), record.why)
            else:
                ignored.drop(_place(name, one))
    return assembly.observed(name, {id: record for id, (_, record) in records.items()})


def record_of(name: ServiceName, one: Known, by: str) -> assembly.Record:
    """The record of one instance of a service. One with a mark is decoded as bridges write it."""
    if one.why:
        return assembly.Record(None, None, one.why)
    mark = one.record.mark
    if mark is None and one.record.is_marked:
        return assembly.Record(None, None, ledger.UNREADABLE)
    return assembly.decoded(mark, mapping.decode, name, one.record, "ip" if mark is not None else by)


def _place(name: ServiceName, one: Known) -> str:
    return f"{name}/{one.record.app}/{one.record.id}"


def _is_deleted(one: Known) -> bool:
    return one.record.actionType == "DELETED"


def _at(one: Known) -> int:
    """When the answering peer received it, by its own clock."""
    return one.record.lastUpdatedTimestamp


def _says(one: Known) -> tuple[Record, str]:
    """The fields of a record that matter: not the times of its lease and its registration."""
    plain = replace(one.record, leaseInfo=None, lastDirtyTimestamp=0, lastUpdatedTimestamp=0, actionType=None)
    return plain, one.why
