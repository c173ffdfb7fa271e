"""The working copy that a watch needs: entries, ledger words, and which entries are natives'; pure, no I/O.

An etcd DELETE names only a key, and an entry and its ledger word arrive by two watchers of one stream, in either
order. So each entry is shown only when it is decided who wrote it:

- the ledger word has its revision: one transaction wrote both, it is a bridge's copy (safety rule 5);
- its lease is none of a bridge's: a native's, for stock clients lease what they write, under leases that etcd names;
- it stands over a native's entry of the same life (create revision): a native's, for a bridge writes over its own, and
  adopts others' only on the operator's word, which is found out when its ledger word arrives;
- else nobody knows yet: it waits, while what was known before it stays, for its word or for a look at the store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from adapters.common.assembly import EVERY, Ignored, Record, decoded
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.keys import LEDGER, Space, is_ours
from adapters.etcd.ledger import Word
from bridge.adapter import Observed
from bridge.model import Instance, Mark, Service, ServiceName
from mappings.ledger import UNREADABLE


class Looked(NamedTuple):
    """What the store holds under one key, seen at one moment."""

    key: bytes
    entry: pb.KeyValue | None
    word: Word | None
    revision: int  # of the store at that moment


class _Shelf:
    """One service. What was shown is its consumer's and is never changed: a change begins with `opened`."""

    __slots__ = ("cells", "instances", "is_cut", "marks", "name", "shown", "unreadable")

    def __init__(self, name: ServiceName, is_cut: bool) -> None:
        self.name = name
        self.is_cut = is_cut  # there may be entries that we may not read
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
    """One entry that is decided."""

    id: str
    revision: int
    life: int  # its create revision
    native: bool


class Copy:
    """All that one watch has told: `load` what was listed, then `apply` the events; ask `changed` what to show."""

    def __init__(
        self, space: Space, ignored: Ignored, is_cut: Callable[[ServiceName], bool] = lambda name: False
    ) -> None:
        """`is_cut`: whether a service may have entries that we may not read."""
        self.ignored = ignored  # by key
        self._is_cut = is_cut
        self._space = space
        self._shelves: dict[ServiceName, _Shelf] = {}
        self._words: dict[bytes, Word] = {}
        self._waiting: dict[bytes, pb.KeyValue] = {}  # entries of which nobody knows yet who wrote them
        self._doubted: dict[bytes, int] = {}  # the revision with which the ledger word of a bridge's copy went
        self._touched: dict[_Shelf, None] = {}
        self._lessened: dict[_Shelf, None] = {}  # of these, those that lost an entry
        self._audit: Audit | None = None

    # The list: everything of one revision, so nothing has to wait.

    def load_words(self, kvs: Iterable[pb.KeyValue]) -> None:
        """Ledger entries, before the data that they speak of."""
        words, has = self._words, self._space.has
        for kv in kvs:
            key = ledger.data_of(kv.key)
            if has(key):
                words[key] = ledger.word_of(kv)

    def load(self, kvs: Iterable[pb.KeyValue]) -> None:
        """Entries of the revision that the words are of."""
        words = self._words
        for kv in kvs:
            key, revision = kv.key, kv.mod_revision
            word = words.get(key) if words else None
            self._place(key, kv, revision, word if word is not None and word.revision == revision else None)

    # The watch.

    def apply(self, events: Sequence[pb.Event]) -> None:
        """Events in their order. Words first: with them most entries are decided at once."""
        latest: dict[bytes, pb.Event] = {}
        for event in events:
            key = event.kv.key
            if key.startswith(LEDGER):
                self._say(ledger.data_of(key), event)
            else:
                latest[key] = event  # what was overtaken need not be decoded
        for key, event in latest.items():
            if event.type == pb.Event.DELETE:
                self._remove(key)
            else:
                self._put(key, event.kv)

    def unsettled(self) -> list[bytes]:
        """Keys to look at in the store, for nobody knows who wrote what stands there."""
        return list({**self._waiting, **self._doubted})

    def settle(self, looks: Iterable[Looked]) -> None:
        """Decides what waited by what was seen; what was overtaken since waits for the event that says so."""
        for key, entry, word, revision in looks:
            waiting = self._waiting.get(key)
            if revision < max(waiting.mod_revision if waiting is not None else 0, self._doubted.get(key, 0)):
                continue  # seen before that happened of which we want to know
            self._doubted.pop(key, None)
            self._waiting.pop(key, None)
            cell = self.cell(key)
            asked = waiting.mod_revision if waiting is not None else cell.revision if cell is not None else 0
            if entry is not None and entry.mod_revision == asked:
                self._decide(key, entry, word)

    def changed(self, revision: int) -> list[Observed]:
        """The services that changed since this was last asked, as they are now.

        One that lost an entry is kept back while another entry of it waits to be known: that may be the replacement.
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
        """Whether a service that changed waits to be shown."""
        return bool(self._lessened)

    def again(self, revision: int) -> list[Observed]:
        """Every service there is, to begin with; `keeps_back` must be false, for what is not shown now is gone."""
        self._touched = {}
        return [shelf.observed(revision) for shelf in self._shelves.values()]

    def newest(self) -> tuple[bytes, int] | None:
        """Key and revision of the entry that changed last; not of one that has changed since, and is undecided."""
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
        """Every entry that is decided, by service."""
        return ((name, shelf.cells.values()) for name, shelf in self._shelves.items())

    def cell(self, key: bytes) -> _Cell | None:
        """The entry under a key, where one is decided."""
        place = self._space.locate(key)
        shelf = self._shelves.get(place[0]) if place is not None else None
        return shelf.cells.get(place[1]) if place is not None and shelf is not None else None

    def audit(self) -> Audit:
        """Begins to compare this copy with a list; see `Audit`."""
        self._audit = Audit(self)
        return self._audit

    def _say(self, key: bytes, event: pb.Event) -> None:
        if not self._space.has(key):
            return
        if event.type == pb.Event.DELETE:
            gone = self._words.pop(key, None)
            cell = self.cell(key)
            # Most often the entry goes in the same transaction, and its event is the next one.
            if gone is not None and (cell is None or gone.revision >= cell.revision):
                self._doubted[key] = event.kv.mod_revision
            return
        word = self._words[key] = ledger.word_of(event.kv)
        cell = self.cell(key)
        if cell is not None and cell.native and cell.revision == word.revision:
            self._doubted[key] = word.revision  # taken for a native's: a bridge has adopted it
        waiting = self._waiting.get(key)
        if waiting is not None and waiting.mod_revision == word.revision:
            del self._waiting[key]
            self._decide(key, waiting, word)

    def _put(self, key: bytes, kv: pb.KeyValue) -> None:
        if self._doubted.get(key, 0) < kv.mod_revision:
            self._doubted.pop(key, None)
        cell = self.cell(key)
        if cell is None and self._space.locate(key) is None:
            self._pass_over(key)
            return
        word = self._words.get(key)
        if word is None or word.revision != kv.mod_revision:
            overwritten = cell is not None and cell.native and cell.life == kv.create_revision
            if not overwritten and (not kv.lease or is_ours(kv.lease)):
                self._waiting[key] = kv
                return
        self._waiting.pop(key, None)
        self._decide(key, kv, word)

    def _decide(self, key: bytes, kv: pb.KeyValue, word: Word | None) -> None:
        self._place(key, kv, kv.mod_revision, word if word is not None and word.revision == kv.mod_revision else None)

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

    def _place(self, key: bytes, kv: pb.KeyValue, revision: int, word: Word | None) -> None:
        """One decided entry: a native's without a word, else a bridge's copy."""
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
            id = cell.id  # one object for all that have it
        life = kv.create_revision
        shelf.cells[id] = _Cell(id, revision, revision if life == revision else life, word is None)
        shelf.opened()
        self._touched[shelf] = None
        if word is not None and word.mark is None:
            record = Record(None, None, UNREADABLE)
        else:
            layout, protocol, mark = self._space.layout, self._space.protocol, word.mark if word is not None else None
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
    """Finds what a watch has lost (etcd #17529, #18089, #17247): compares the working copy with a list of keys.

    The watch goes on meanwhile, so a difference is only a suspicion until the watch has passed the list's revision.
    """

    def __init__(self, copy: Copy) -> None:
        self.removed: set[bytes] = set()  # by events that arrived since the audit began
        self._copy = copy
        self._listed: dict[ServiceName, set[str]] = {}
        self._revision = 0  # of the list
        self._suspects: dict[bytes, int] = {}  # key to the revision it should have at least; 0: it should be gone

    def page(self, kvs: Iterable[pb.KeyValue]) -> None:
        """A page of the list, of keys and revisions."""
        for kv in kvs:
            key, revision = kv.key, kv.mod_revision
            place = self._copy._space.locate(key)
            if place is not None:
                self._listed.setdefault(place[0], set()).add(place[1])
            if self._behind(key, revision):
                self._suspects[key] = revision

    def end(self, revision: int) -> None:
        """The list is complete, and is of this revision: what stands in the copy since before and is not listed."""
        self._revision = revision
        for name, cells in self._copy.cells():
            listed = self._listed.get(name, set())
            for cell in cells:
                if cell.revision <= revision and cell.id not in listed:
                    self._suspects[self._copy._space.key(name, cell.id)] = 0
        self._listed.clear()

    def lost(self) -> list[bytes]:
        """Those keys of which the watch still has not said what the list says."""
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
