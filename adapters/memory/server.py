"""The server side: revisioned records with a ledger, a history to watch, locks and notes, and all that may go wrong.

It has no thread, clock or file; every wait is an asyncio primitive, so that it also lives in virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Collection
from math import inf
from typing import NamedTuple

import msgspec

from adapters.common.places import is_divided
from adapters.memory.lots import Lots, Part
from bridge.adapter import Change, Entry, Held, Listing, Note, Observed, Returns, Synced, Whole
from bridge.errors import Conflict, Expired, Rejected, Superseded, Unavailable
from bridge.model import Instance, Mark, Service, ServiceName

LENT = ":"  # between a bridge and the destination whose seat is kept here
KEYED = ":="  # between a bridge and the key of a note that is of no destination
SHARDS = "/shards/"  # between a seat and the shard that a note is of
NATIVE = ""  # the writer of everything that no bridge wrote

Key = tuple[ServiceName, str]  # a service and the id of one of its entries


class Record(msgspec.Struct, frozen=True):
    """One entry as it stands in the store; `instance` None: bytes that nobody can read."""

    instance: Instance | None
    revision: int
    lease: str = ""  # the bridge whose end it does not outlive, "" if it is lasting


class Ledgered(msgspec.Struct, frozen=True):
    """One ledger entry: proof of ownership while its revision is that of the record beside it."""

    mark: Mark
    revision: int
    lease: str = ""


class Saved(msgspec.Struct, frozen=True):
    """A backup of a store, for `Store.restore`."""

    records: dict[ServiceName, dict[str, Record]]
    ledger: dict[Key, Ledgered]
    revision: int
    notes: dict[str, Note] = {}
    counts: dict[str, int] = {}


class Place(NamedTuple):
    """A place in a store's history, good until the store is cut again."""

    revision: int
    cuts: int


class Tenure:
    """One contender's place in the queue for the lock of a seat; the first in the queue is the writer."""

    taken_over = False

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.granted = asyncio.Event()
        self.lost = asyncio.Event()

    @property
    def fence(self) -> Tenure:
        """What a transaction compares."""
        return self

    @property
    def until(self) -> float:
        """Infinite until it is lost: the store tells at once."""
        return -inf if self.lost.is_set() else inf

    async def ended(self) -> None:
        """Returns when the lock is lost."""
        await self.lost.wait()


Fence = Tenure | Part  # what a transaction compares: the lock of a whole, or that of a shard


class Store:
    """The server side of one scope: revisioned records, and a ledger that is written in the same transaction.

    The methods that are not coroutines are for those who poke it behind the bridge's back.
    """

    def __init__(self, identity: str = "memory", incarnation: str = "1", scope: str = "") -> None:
        self.identity = identity
        self.incarnation = incarnation
        self.scope = scope
        self.revision = 0
        self.writes = 0  # transactions of bridges that were committed
        self.whole: frozenset[Whole] | None = None  # the scopes that are held whole here; None: nobody has said
        self.returns: Returns | None = None  # when another life of it is believed by itself
        self.lost_answers = 0  # so many of the next writes are made, and then answered with Unavailable
        self.blank: set[ServiceName] = set()  # services of which polls say that nothing is left, although it is
        self.hidden: set[ServiceName] = set()  # services that answers leave out, although they are there
        self.refused: dict[ServiceName, Exception] = {}  # services that every write fails for, and with what
        self._records: dict[ServiceName, dict[str, Record]] = {}
        self._ledger: dict[Key, Ledgered] = {}
        self._changes: dict[tuple[ServiceName, str], int] = {}  # (service, writer): last revision, oldest first
        self._locks: dict[str, deque[Tenure]] = {}  # by seat
        self.lots = Lots()
        self._notes: dict[str, Note] = {}
        self._cuts = 0
        self._cut: Exception = Expired("the watch was cut")
        self._error: Exception | None = None
        self._silent = False
        self._notified = asyncio.Event()

    # What natives and other bridges do.

    def register(self, service: ServiceName, instance: Instance, mark: Mark | None = None) -> int:
        """Write an entry over whatever stands there: as a native, or with a mark as the bridge that it names."""
        writer = mark.owner if mark else NATIVE
        return self._put(service, instance.id, instance, mark, writer)

    def deregister(self, service: ServiceName, id: str) -> None:
        """Delete an entry as a native does, who knows nothing of ledgers."""
        self._drop(service, id, NATIVE, ledger=False)

    def spoil(self, service: ServiceName, id: str) -> None:
        """A native writes bytes there that nobody can read."""
        self._put(service, id, None, None, NATIVE)

    def expire(self, bridge: str) -> None:
        """The lease of a bridge ends: what it wrote with a `ttl` goes, and its ledger entries with it."""
        leased = [
            (name, id) for name, records in self._records.items() for id, r in records.items() if r.lease == bridge
        ]
        for name, id in leased:
            self._drop(name, id, NATIVE, ledger=True)
        self._ledger = {key: ledgered for key, ledgered in self._ledger.items() if ledgered.lease != bridge}

    def names(self) -> list[ServiceName]:
        """The services that there are."""
        return list(self._records)

    def instances(self, service: ServiceName) -> dict[str, Instance]:
        """What stands there in truth, whatever the bridge believes."""
        return {id: r.instance for id, r in self._records.get(service, {}).items() if r.instance is not None}

    def spoiled(self) -> dict[str, str]:
        """The entries whose bytes nobody can read."""
        return {
            f"{name}/{id}": "no bytes that anybody can read"
            for name, records in self._records.items()
            for id, record in records.items()
            if record.instance is None
        }

    def mark(self, service: ServiceName, id: str) -> Mark | None:
        """Who wrote the entry, where the ledger proves that a bridge did."""
        record, ledgered = self._records.get(service, {}).get(id), self._ledger.get((service, id))
        return ledgered.mark if record and ledgered and ledgered.revision == record.revision else None

    # What goes wrong.

    def fail_with(self, error: Exception) -> None:
        """Every request fails with this, and every watch ends with it, until `heal`."""
        self._error = error
        self._stir()

    def silence(self) -> None:
        """Nothing is answered and nothing told until `heal`; what is sent is not lost."""
        self._silent = True

    def heal(self) -> None:
        """Answer again, truthfully."""
        self._error, self._silent, self.lost_answers = None, False, 0
        self.hidden.clear()
        self.blank.clear()
        self.refused.clear()
        self._stir()

    def cut(self, error: Exception | None = None) -> None:
        """End every open watch, with Expired unless told otherwise; a new one is answered."""
        self._cut = error or Expired("the watch was cut")
        self._cuts += 1
        self._stir()

    def save(self) -> Saved:
        """A backup, to be restored at any time and into any store."""
        records = {name: dict(records) for name, records in self._records.items()}
        return Saved(records, dict(self._ledger), self.revision, dict(self._notes), dict(self.lots.counts))

    def restore(self, saved: Saved, incarnation: str | None = None) -> None:
        """Another life: the contents and the revision of a backup; locks and watches do not survive it."""
        self._records = {name: dict(records) for name, records in saved.records.items()}
        self._ledger = dict(saved.ledger)
        self._notes = dict(saved.notes)
        self._changes = {}
        self.revision = saved.revision
        self.incarnation = self.incarnation if incarnation is None else incarnation
        for key in list(self._locks):
            self.take_lock(key)
        for life in self.lots.lives():
            self.lots.end(life)
        self.lots.counts = dict(saved.counts)
        self.cut()

    def empty(self, incarnation: str | None = None) -> None:
        """Another life, which begins with nothing."""
        self.restore(Saved({}, {}, 0), incarnation)

    def writers(self) -> frozenset[str]:
        """The bridges whose lock is held."""
        held = frozenset(key for key, queue in self._locks.items() if queue) | self.lots.held()
        return frozenset(key for key in held if LENT not in key)

    def take_lock(self, key: str) -> None:
        """The writer of this seat loses its lock, as if its session had ended; the next in the queue has it."""
        queue = self._locks.get(key)
        if queue:
            queue.popleft().lost.set()
            self._grant(key)

    # What the adapter asks.

    async def reached(self) -> None:
        """Where a request would travel: lets others run, waits while the store is silent, fails while it fails."""
        await asyncio.sleep(0)
        while self._silent:
            await self._notified.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)

    def observe(self, name: ServiceName) -> Observed:
        """One service now, records and ledger of the same moment."""
        records = {} if name in self.hidden else self._records.get(name, {})
        instances = {id: r.instance for id, r in records.items() if r.instance is not None}
        marks = {id: mark for id in instances if (mark := self.mark(name, id))}
        unreadable = frozenset(id for id, r in records.items() if r.instance is None)
        return Observed(Service(name, instances, marks), unreadable, self.revision)

    async def observations(self) -> AsyncIterator[Listing | Observed | Synced]:
        """Everything there is, then what changes; a consumer that is slow skips what was overtaken."""
        await self.reached()
        place = self.place()
        yield Listing(self.identity, self.incarnation, place.revision, self.returns)
        for name in list(self._records):
            await self.unbroken(place)
            yield self.observe(name)
        await self.unbroken(place)
        yield Synced(place.revision)
        while True:
            place, changes = await self.changes(place)
            for observed in [self.observe(name) for name in dict.fromkeys(name for name, _ in changes)]:
                yield observed

    def place(self) -> Place:
        """Where a watch that begins now takes up the history."""
        return Place(self.revision, self._cuts)

    async def changes(self, place: Place) -> tuple[Place, list[tuple[ServiceName, str]]]:
        """Waits for writes after that place: the new place, and the services with who wrote them, oldest first."""
        await self.unbroken(place)
        while self.revision == place.revision:
            await self._notified.wait()
            await self.unbroken(place)
        recent: list[tuple[ServiceName, str]] = []
        for change, revision in reversed(self._changes.items()):
            if revision <= place.revision:
                break
            recent.append(change)
        return self.place(), recent[::-1]

    def held(self, bridge: str, names: Collection[ServiceName] | None) -> Held:
        """Every entry of these services (None: of all), and the ledger entries of this bridge that prove nothing."""
        wanted = set(self._records if names is None else names)
        services = {
            name: {
                id: Entry(r.instance or Instance(id, ""), self.mark(name, id), r.revision)
                for id, r in self._records[name].items()
            }
            for name in self._records
            if name in wanted
        }
        loose: dict[ServiceName, dict[str, int]] = {}
        for (name, id), ledgered in self._ledger.items():
            if ledgered.mark.owner == bridge and (names is None or name in wanted) and not self.mark(name, id):
                loose.setdefault(name, {})[id] = ledgered.revision
        return Held(self.identity, services, loose)

    def check(self, bridge: str, tenure: Fence | None, change: Change) -> None:
        """What a transaction compares: the lock, the record and the ledger.

        `tenure` None: of a store that cannot lock, or does not compare. Raises Superseded, Conflict, Rejected, or what
        the store was told to refuse with.
        """
        if tenure is not None:
            self.compare(tenure)
        if change.service in self.refused:
            raise self.refused[change.service].with_traceback(None)
        if change.after and change.mark is None:
            raise Rejected(f"{change.service}/{change.id}: nothing is written without a mark")
        record = self._records.get(change.service, {}).get(change.id)
        ledgered = self._ledger.get((change.service, change.id))
        ours = self.mark(change.service, change.id)
        before = change.before.version if change.before else None
        was = change.before.mark if change.before else None
        if change.forget:
            if ours != was or (ours and ours.owner != bridge) or not ledgered or ledgered.revision != before:
                raise Conflict(f"{change.service}/{change.id}: the ledger entry is not what it was")
        elif change.before is None and record:
            raise Conflict(f"{change.service}/{change.id}: something stands there")
        elif change.before and not (record and record.revision == before):
            raise Conflict(f"{change.service}/{change.id}: written over since revision {before}")
        elif change.before and (ours != was if change.adopt else not ours or ours.owner != bridge):
            raise Conflict(f"{change.service}/{change.id}: not ours to change")

    def commit(self, bridge: str, tenure: Fence | None, change: Change) -> int | None:
        """One transaction: checks, then writes record and ledger; the new revision. Raises as `check` does."""
        self.check(bridge, tenure, change)
        if change.forget:
            del self._ledger[change.service, change.id]
        elif change.after is None:
            self._drop(change.service, change.id, bridge, ledger=True)
        else:
            lease = bridge if change.ttl is not None else ""
            self._put(change.service, change.id, change.after, change.mark, bridge, lease)
        self.writes += 1
        if self.lost_answers:
            self.lost_answers -= 1
            raise Unavailable("the answer was lost")
        return self.revision if change.after else None

    def noted(self) -> list[str]:
        """The seats at which there is a note."""
        return list(self._notes)

    def recall(self, key: str) -> Note | None:
        """What the daemons of one bridge left for each other at a seat."""
        return self._notes.get(key)

    def note(self, key: str, content: bytes, before: Note | None, tenure: Fence | None) -> Note:
        """Compares the lock (None: whoever has it) and what stands there, then writes; raises Superseded, Conflict."""
        if tenure is not None:
            self.compare(tenure)
        stands = self._notes.get(key)
        if (stands and stands.version) != (before and before.version):
            raise Conflict(f"the note of {key} is not what it was")
        self._notes[key] = Note(content, (stands.version if stands else 0) + 1)
        return self._notes[key]

    def drop(self, key: str, before: Note) -> None:
        """Compares what stands there, then forgets it; raises Conflict."""
        stands = self._notes.get(key)
        if stands is None or stands.version != before.version:
            raise Conflict(f"the note of {key} is not what it was")
        del self._notes[key]

    def leave(self, key: str, tenure: Tenure) -> None:
        """Compares the lock, then forgets the note and those of shards; raises Superseded."""
        self.compare(tenure)
        self._notes.pop(key, None)
        self._forget_shards(key)

    def divide(self, key: str, count: int) -> None:
        """Divides a seat into shards, which have no notes yet. Raises Conflict: into others, or the whole is held."""
        if self._locks.get(key):
            raise Conflict(f"a process holds the lock of {key}")
        is_new = key not in self.lots.counts
        self.lots.divide(key, count)
        if is_new:
            self._forget_shards(key)

    def unite(self, key: str) -> None:
        """A seat has no shards any more, and no notes of them. Raises Conflict where one is held."""
        self.lots.unite(key)
        self._forget_shards(key)

    def _forget_shards(self, key: str) -> None:
        self._notes = {each: note for each, note in self._notes.items() if not each.startswith(f"{key}{SHARDS}")}

    def holder(self, key: str) -> Tenure | None:
        """Who has the lock of that seat."""
        queue = self._locks.get(key)
        return queue[0] if queue else None

    def compare(self, tenure: Fence) -> None:
        """Raises Superseded unless that contender is the writer, of the whole or of its shard."""
        if isinstance(tenure, Part):
            self.lots.compare(tenure)
        elif self.holder(tenure.key) is not tenure:
            raise Superseded(f"the lock of {tenure.key} is not ours")

    @contextlib.asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[Tenure]:
        """Waits until the lock of this seat is free; first come, first served."""
        tenure = Tenure(key)
        queue = self._locks.setdefault(key, deque())
        tenure.taken_over = bool(queue)
        self._compare_whole(key)
        queue.append(tenure)
        self._grant(key)
        try:
            await tenure.granted.wait()
            yield tenure
        finally:
            with contextlib.suppress(ValueError):  # it was taken from us
                queue.remove(tenure)
            tenure.lost.set()
            self._grant(key)

    def _compare_whole(self, key: str) -> None:
        if key in self.lots.counts:
            raise Unavailable(is_divided(f"{key}/shards"))

    def _grant(self, key: str) -> None:
        if self._locks[key]:
            self._locks[key][0].granted.set()

    async def unbroken(self, place: Place) -> None:
        """A request of a watch that began there; raises what the watch was cut with since."""
        await self.reached()
        if place.cuts != self._cuts:
            raise self._cut.with_traceback(None)

    def _put(
        self, name: ServiceName, id: str, instance: Instance | None, mark: Mark | None, writer: str, lease: str = ""
    ) -> int:
        self._changed(name, writer)
        self._records.setdefault(name, {})[id] = Record(instance, self.revision, lease)
        if mark is not None:
            self._ledger[name, id] = Ledgered(mark, self.revision, lease)
        return self.revision

    def _drop(self, name: ServiceName, id: str, writer: str, ledger: bool) -> None:
        if ledger:
            self._ledger.pop((name, id), None)
        if self._records.get(name, {}).pop(id, None) is not None:
            self._changed(name, writer)
            if not self._records[name]:
                del self._records[name]

    def _changed(self, name: ServiceName, writer: str) -> None:
        self.revision += 1
        self._changes.pop((name, writer), None)
        self._changes[name, writer] = self.revision
        self._stir()

    def _stir(self) -> None:
        self._notified.set()
        self._notified = asyncio.Event()
