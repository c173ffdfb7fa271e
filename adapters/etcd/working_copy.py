"""The working copy of a watch: entries, ledger entries, and which entries are natives'. Pure, no I/O.

An etcd DELETE names only a key, and an entry and its ledger entry arrive by two watchers of one stream, in either
order. So each entry is shown only when it is decided who wrote it:

- the ledger entry has its revision: one transaction wrote both, it is a bridge's copy (safety rule 5);
- its lease is none of a bridge's: a native's, for stock clients lease what they write, under leases that etcd names;
- it stands over a native's entry of the same life (create revision): a native's, for a bridge writes over its own, and
  adopts others' only when an operator asks for it, which shows when its ledger entry arrives;
- else it is undecided: the last known state stays until the ledger entry arrives or the store is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from adapters.common.assembly import EVERY, Ignored, Record, decoded
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.keys import LEDGER, Space, is_ours
from adapters.etcd.ledger import Proof
from bridge.adapter import Observed
from bridge.model import Instance, Mark, Service, ServiceName
from mappings.ledger import UNREADABLE


class Looked(NamedTuple):
    """What the store holds under one key, as of one revision."""

    key: bytes
    entry: pb.KeyValue | None
    proof: Proof | None
    revision: int  # of the store at that moment


class _Shelf:
    """One service. A service that was handed out is never changed: each change begins with `opened`."""

    __slots__ = ("cells", "instances", "is_cut", "marks", "name", "shown", "unreadable")

    def __init__(self, name: ServiceName, is_cut: bool) -> None:
        self.name = name
        self.is_cut = is_cut  # it may have entries that we may not read
        self.cells: dict[str, _Cell] = {}
        self.instances: dict[str, Instance] = {}
        self.marks: dict[str, Mark] = {}
        self.unreadable: frozenset[str] = frozenset()
        self.shown = False

    def opened(self) -> None:
        if self.shown:
            self.instances, self.marks = self.instances.copy(), self.marks.copy()
            self.shown = False

    def observed(self, revision: int) -> Observed:
        self.shown = True
        unreadable = self.unreadable | {EVERY} if self.is_cut else self.unreadable
        return Observed(Service(self.name, self.instances, self.marks), unreadable, revision)


class _Cell(msgspec.Struct, frozen=True, gc=False):
    """One entry whose writer is known."""

    id: str
    revision: int
    life: int  # its create revision
    native: bool


class Copy:
    """The state of one watch: `load` the list, then `apply` the events; `changed` has the services to report."""

    def __init__(
        self, space: Space, ignored: Ignored, is_cut: Callable[[ServiceName], bool] = lambda name: False
    ) -> None:
        """`is_cut`: whether a service may have entries that we may not read."""
        self.ignored = ignored  # by key
        self._is_cut = is_cut
        self._space = space
        self._shelves: dict[ServiceName, _Shelf] = {}
        self._proofs: dict[bytes, Proof] = {}
        self._waiting: dict[bytes, pb.KeyValue] = {}  # entries whose writer is not known yet
        self._doubted: dict[
            bytes, int
        ] = {}  # by key, the revision in which the ledger entry of a bridge's copy was deleted
        self._touched: dict[_Shelf, None] = {}
        self._lessened: dict[_Shelf, None] = {}  # of these, those that lost an entry
        self._audit: Audit | None = None

    # The list: everything is of one revision, so nothing is undecided.

    def load_proofs(self, kvs: Iterable[pb.KeyValue]) -> None:
        """Loads ledger entries, before the entries that they are about."""
        proofs, has = self._proofs, self._space.has
        for kv in kvs:
            key = ledger.data_of(kv.key)
            if has(key):
                proofs[key] = ledger.proof_of(kv)

    def load(self, kvs: Iterable[pb.KeyValue]) -> None:
        """Loads entries, of the same revision as the ledger entries."""
        proofs = self._proofs
        for kv in kvs:
            key, revision = kv.key, kv.mod_revision
            proof = proofs.get(key) if proofs else None
            self._place(key, kv, revision, proof if proof is not None and proof.revision == revision else None)

    # The watch.

    def apply(self, events: Sequence[pb.Event]) -> None:
        """Takes events in their order. Ledger entries first: with them most entries are decided at once."""
        latest: dict[bytes, pb.Event] = {}
        for event in events:
            key = event.kv.key
            if key.startswith(LEDGER):
                self._say(ledger.data_of(key), event)
            else:
                latest[key] = event  # a later event has replaced it: it need not be decoded
        for key, event in latest.items():
            if event.type == pb.Event.DELETE:
                self._remove(key)
            else:
                self._put(key, event.kv)

    def unsettled(self) -> list[bytes]:
        """Keys to read from the store, because the writer of their entries is not known."""
        return list({**self._waiting, **self._doubted})

    def settle(self, looks: Iterable[Looked]) -> None:
        """Decides entries by what was read; those that have changed since wait for their event."""
        for key, entry, proof, revision in looks:
            waiting = self._waiting.get(key)
            if revision < max(waiting.mod_revision if waiting is not None else 0, self._doubted.get(key, 0)):
                continue  # read before the change that is to be decided
            self._doubted.pop(key, None)
            self._waiting.pop(key, None)
            cell = self.cell(key)
            asked = waiting.mod_revision if waiting is not None else cell.revision if cell is not None else 0
            if entry is not None and entry.mod_revision == asked:
                self._decide(key, entry, proof)

    def changed(self, revision: int) -> list[Observed]:
        """The services that changed since the last call, as they are now.

        One that lost an entry is kept back while another entry of it is undecided, which may be the replacement.
        """
        waiting = {self._name(key) for key in self._waiting} if self._lessened and self._waiting else frozenset()
        kept = {shelf: None for shelf in self._lessened if shelf.name in waiting}
        shown = []
        for shelf in self._touched:
            if shelf in kept:
                continue
            shown.append(shelf.observed(revision))
            if not shelf.cells:
                del self._shelves[shelf.name]
        self._touched = {shelf: None for shelf in self._touched if shelf in kept}
        self._lessened = kept
        return shown

    @property
    def keeps_back(self) -> bool:
        """Whether a changed service is kept back."""
        return bool(self._lessened)

    def again(self, revision: int) -> list[Observed]:
        """Every service. `keeps_back` must be false: a service that is left out counts as gone."""
        self._touched = {}
        return [shelf.observed(revision) for shelf in self._shelves.values()]

    def newest(self) -> tuple[bytes, int] | None:
        """Key and revision of the entry that changed last, without those that are undecided."""
        found, revision = None, 0
        for name, cells in self.cells():
            for cell in cells:
                if cell.revision > revision and self._space.key(name, cell.id) not in self._waiting:
                    found, revision = (name, cell.id), cell.revision
        return (self._space.key(*found), revision) if found is not None else None

    def _name(self, key: bytes) -> ServiceName | None:
        place = self._space.locate(key)
        return place[0] if place is not None else None

    def cells(self) -> Iterator[tuple[ServiceName, Collection[_Cell]]]:
        """Every decided entry, by service."""
        return ((name, shelf.cells.values()) for name, shelf in self._shelves.items())

    def cell(self, key: bytes) -> _Cell | None:
        """The decided entry under a key, None: there is none."""
        place = self._space.locate(key)
        shelf = self._shelves.get(place[0]) if place is not None else None
        return shelf.cells.get(place[1]) if place is not None and shelf is not None else None

    def audit(self) -> Audit:
        """Begins an audit of this copy against a list; see `Audit`."""
        self._audit = Audit(self)
        return self._audit

    def _say(self, key: bytes, event: pb.Event) -> None:
        if not self._space.has(key):
            return
        if event.type == pb.Event.DELETE:
            gone = self._proofs.pop(key, None)
            cell = self.cell(key)
            # Usually the same transaction deletes the entry, and its event is the next one.
            if gone is not None and (cell is None or gone.revision >= cell.revision):
                self._doubted[key] = event.kv.mod_revision
            return
        proof = self._proofs[key] = ledger.proof_of(event.kv)
        cell = self.cell(key)
        if cell is not None and cell.native and cell.revision == proof.revision:
            self._doubted[key] = proof.revision  # counted as a native's: a bridge has adopted it
        waiting = self._waiting.get(key)
        if waiting is not None and waiting.mod_revision == proof.revision:
            del self._waiting[key]
            self._decide(key, waiting, proof)

    def _put(self, key: bytes, kv: pb.KeyValue) -> None:
        if self._doubted.get(key, 0) < kv.mod_revision:
            self._doubted.pop(key, None)
        cell = self.cell(key)
        if cell is None and self._space.locate(key) is None:
            self._pass_over(key)
            return
        proof = self._proofs.get(key)
        if proof is None or proof.revision != kv.mod_revision:
            overwritten = cell is not None and cell.native and cell.life == kv.create_revision
            if not overwritten and (not kv.lease or is_ours(kv.lease)):
                self._waiting[key] = kv
                return
        self._waiting.pop(key, None)
        self._decide(key, kv, proof)

    def _decide(self, key: bytes, kv: pb.KeyValue, proof: Proof | None) -> None:
        self._place(
            key, kv, kv.mod_revision, proof if proof is not None and proof.revision == kv.mod_revision else None
        )

    def _remove(self, key: bytes) -> None:
        if self._audit is not None:
            self._audit.removed.add(key)
        self._waiting.pop(key, None)
        self._doubted.pop(key, None)
        place = self._space.locate(key)
        if place is None:
            self.ignored.drop(key.decode(errors="replace"))
        shelf = self._shelves.get(place[0]) if place is not None else None
        if place is not None and shelf is not None and shelf.cells.pop(place[1], None) is not None:
            id = place[1]
            shelf.opened()
            shelf.instances.pop(id, None)
            shelf.marks.pop(id, None)
            if shelf.unreadable:
                shelf.unreadable -= {id}
            self._touched[shelf] = self._lessened[shelf] = None
            self.ignored.drop(key.decode(errors="replace"))

    def _pass_over(self, key: bytes) -> None:
        self.ignored.pass_over(key.decode(errors="replace"), f"no key that {self._space.layout.NAME} makes")

    def _place(self, key: bytes, kv: pb.KeyValue, revision: int, proof: Proof | None) -> None:
        """Stores a decided entry: a native's where there is no proof, else a bridge's copy."""
        place = self._space.locate(key)
        if place is None:
            self._pass_over(key)
            return
        name, id = place
        shelf = self._shelves.get(name)
        if shelf is None:
            shelf = self._shelves[name] = _Shelf(name, self._is_cut(name))
        cell = shelf.cells.get(id)
        if cell is not None:
            id = cell.id  # one object is shared by all
        life = kv.create_revision
        shelf.cells[id] = _Cell(id, revision, revision if life == revision else life, proof is None)
        shelf.opened()
        self._touched[shelf] = None
        if proof is not None and proof.mark is None:
            record = Record(None, None, UNREADABLE)
        else:
            layout, protocol, mark = self._space.layout, self._space.protocol, proof.mark if proof is not None else None
            record = decoded(mark, layout.decode, shelf.name, id, kv.value, protocol)
        if record.instance is None:
            self.ignored.put(key.decode(errors="replace"), record.why)
            shelf.instances.pop(id, None)
            shelf.unreadable = shelf.unreadable - {id} if record.stray else shelf.unreadable | {id}
        else:
            shelf.instances[id] = record.instance
            if len(self.ignored):
                shelf.unreadable -= {id}
                self.ignored.drop(key.decode(errors="replace"))
        if record.mark is not None and record.instance is not None:
            shelf.marks[id] = record.mark
        elif shelf.marks:
            shelf.marks.pop(id, None)


class Audit:
    """Finds events that a watch has lost (etcd #17529, #18089, #17247): compares the working copy with a list of keys.

    The watch goes on meanwhile, so a difference proves a loss only once the watch has passed the list's revision.
    """

    def __init__(self, copy: Copy) -> None:
        self.removed: set[bytes] = set()  # keys changed by events since the audit began
        self._copy = copy
        self._listed: dict[ServiceName, set[str]] = {}
        self._revision = 0  # of the list
        self._suspects: dict[bytes, int] = {}  # key to the revision it should have at least; 0: it should be gone

    def page(self, kvs: Iterable[pb.KeyValue]) -> None:
        """Takes a page of the list: keys and revisions."""
        for kv in kvs:
            key, revision = kv.key, kv.mod_revision
            place = self._copy._space.locate(key)
            if place is not None:
                self._listed.setdefault(place[0], set()).add(place[1])
            if self._behind(key, revision):
                self._suspects[key] = revision

    def end(self, revision: int) -> None:
        """The list is complete, as of this revision. Older entries of the copy that are not listed should be gone."""
        self._revision = revision
        for name, cells in self._copy.cells():
            listed = self._listed.get(name, set())
            for cell in cells:
                if cell.revision <= revision and cell.id not in listed:
                    self._suspects[self._copy._space.key(name, cell.id)] = 0
        self._listed.clear()

    def lost(self) -> list[bytes]:
        """The keys that still differ from the list."""
        return [key for key, revision in self._suspects.items() if self._behind(key, revision)]

    def _behind(self, key: bytes, revision: int) -> bool:
        cell = self._copy.cell(key)
        waiting = self._copy._waiting.get(key)
        if not revision:
            return cell is not None and cell.revision <= self._revision
        if waiting is not None and waiting.mod_revision >= revision:
            return False
        if cell is None:
            return key not in self.removed and self._copy._space.locate(key) is not None
        return cell.revision < revision
