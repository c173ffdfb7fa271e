"""The working copy under every order in which etcd may tell of data and ledger; no server."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mappings.kratos
from adapters.common.assembly import Ignored
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.keys import OUR_LEASES, Space
from adapters.etcd.ledger import Proof
from adapters.etcd.working_copy import Copy, Looked
from bridge.model import Mark
from mappings.ledger import encode
from tests.adapters.etcd.lab import USER, key, mark, record

SPACE = Space(mappings.kratos, "/microservices/", "")
OURS = OUR_LEASES << 48 | 1
LEASED = 4590190603490283276  # a lease that etcd named, as natives have


class Store:
    """Enough of etcd to make histories: keys with revisions, and the events of both ranges."""

    def __init__(self) -> None:
        self.revision = 1
        self.kvs: dict[bytes, pb.KeyValue] = {}
        self.events: dict[str, list[pb.Event]] = {"entries": [], "ledger": []}
        self.disowned: set[str] = set()  # addresses of which the ledger word was deleted by hand

    def txn(self, *writes: tuple[bytes, bytes | None], lease: int = 0) -> None:
        self.revision += 1
        for where, value in writes:
            old = self.kvs.pop(where, None)
            if value is None:
                if old is None:
                    continue
                event = pb.Event(type=pb.Event.DELETE, kv=pb.KeyValue(key=where, mod_revision=self.revision))
            else:
                kv = pb.KeyValue(
                    key=where,
                    value=value,
                    mod_revision=self.revision,
                    create_revision=old.create_revision if old else self.revision,
                    lease=lease,
                )
                self.kvs[where] = kv
                event = pb.Event(type=pb.Event.PUT, kv=kv)
            self.events["ledger" if where.startswith(b"/isthmus/") else "entries"].append(event)

    def proof(self, key: bytes) -> Proof | None:
        kv = self.kvs.get(ledger.key_of(key))
        return ledger.proof_of(kv) if kv else None

    def mark(self, key: bytes) -> Mark | None:
        proof, kv = self.proof(key), self.kvs.get(key)
        return proof.mark if proof and kv and proof.revision == kv.mod_revision else None

    def look(self, key: bytes) -> Looked:
        return Looked(key, self.kvs.get(key), self.proof(key), self.revision)


def address(kv: pb.KeyValue | None) -> str:
    """The address in a record, which every write has its own of: it counts up with the revision."""
    return mappings.kratos.decode(USER, "i1", kv.value.replace(b'"i2"', b'"i1"'), "").address if kv else ""


def act(store: Store, random: random.Random) -> None:
    """Something that a bridge or a native may do, as each of them may do it."""
    id = random.choice(["i1", "i2"])
    where, ours = key(id).encode(), store.mark(key(id).encode())
    value = record(id, f"10.0.0.{store.revision}").encode()
    bridge = {"create": where not in store.kvs, "replace": ours, "remove": ours, "forget": store.proof(where)}
    act = random.choice([*[act for act, allowed in bridge.items() if allowed], "put", "lease", "delete", "disown"])
    match act:
        case "create" | "replace":
            lease = random.choice([0, OURS])
            store.txn((where, value), (ledger.key_of(where), encode(mark(f"{store.revision + 1}"))), lease=lease)
        case "remove":
            store.txn((where, None), (ledger.key_of(where), None))
        case "forget" if not ours:
            store.txn((ledger.key_of(where), None))
        case "disown":  # by an operator's hand
            store.disowned.add(address(store.kvs.get(where)))
            store.txn((ledger.key_of(where), None))
        case "put":
            store.txn((where, value))
        case "lease":
            store.txn((where, value), lease=LEASED)
        case "delete":
            store.txn((where, None))


@settings(max_examples=300, deadline=None)
@given(st.integers())
def test_a_copy_is_never_shown_without_its_mark_and_the_last_word_is_the_truth(seed: int) -> None:
    """Data and ledger arrive at their own pace, in pieces; looks at the store are answered late."""
    chance = random.Random(seed)
    store = Store()
    marked: dict[str, Mark | None] = {}  # address to the mark that it was written with: every write has its own
    copy = Copy(SPACE, Ignored())
    pending: list[Looked] = []
    ages: dict[str, int] = {}
    sent = {"entries": 0, "ledger": 0}

    def check() -> None:
        for observed in copy.changed(store.revision):
            for id, instance in observed.service.instances.items():
                mark = observed.service.marks.get(id)
                assert mark == marked[instance.address] or (mark is None and instance.address in store.disowned)
                age = int(instance.address.split(".")[-1])
                assert age >= ages.get(id, 0), "an older value came back"
                ages[id] = age

    for _ in range(chance.randrange(1, 60)):
        match chance.randrange(4):
            case 0 | 1:
                act(store, chance)
                for kv in store.kvs.values():
                    if kv.mod_revision == store.revision and not kv.key.startswith(b"/isthmus/"):
                        marked[address(kv)] = store.mark(kv.key)
            case 2:
                stream = chance.choice(["entries", "ledger"])
                until = chance.randint(sent[stream], len(store.events[stream]))
                copy.apply(store.events[stream][sent[stream] : until])
                sent[stream] = until
                check()
            case 3:
                copy.settle(pending)
                check()
                pending = [store.look(each) for each in copy.unsettled()]
    for stream in ("entries", "ledger"):
        copy.apply(store.events[stream][sent[stream] :])
    copy.settle(pending)
    copy.settle([store.look(each) for each in copy.unsettled()])
    check()
    assert copy.unsettled() == []
    fresh = Copy(SPACE, Ignored())
    fresh.load_proofs(kv for where, kv in store.kvs.items() if where.startswith(b"/isthmus/"))
    fresh.load(kv for where, kv in store.kvs.items() if not where.startswith(b"/isthmus/"))
    assert shown(copy) == shown(fresh)


def shown(copy: Copy) -> dict[str, tuple[str, Mark | None]]:
    """Everything in a copy: each entry's address and mark."""
    shelf = copy._shelves.get(USER)
    return {id: (each.address, shelf.marks.get(id)) for id, each in shelf.instances.items()} if shelf else {}


def put(where: str, revision: int, created: int = 0, lease: int = 0, value: str = "") -> pb.Event:
    kv = pb.KeyValue(
        key=where.encode(),
        value=(value or record("i1")).encode(),
        mod_revision=revision,
        create_revision=created or revision,
        lease=lease,
    )
    return pb.Event(kv=kv)


def gone(where: str, revision: int) -> pb.Event:
    return pb.Event(type=pb.Event.DELETE, kv=pb.KeyValue(key=where.encode(), mod_revision=revision))


def proof(where: str, revision: int) -> pb.Event:
    kv = pb.KeyValue(
        key=ledger.key_of(where.encode()),
        value=encode(mark("i1")),
        mod_revision=revision,
        create_revision=revision,
    )
    return pb.Event(kv=kv)


def test_natives_as_stock_clients_write_them_are_shown_at_once() -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put(key("i1"), 5, lease=LEASED)])
    assert [each.service.marks for each in copy.changed(5)] == [{}]
    copy.apply([put(key("i1"), 6, created=5)])  # its lease taken away: still the same life of a native's entry
    assert len(copy.changed(6)) == 1


@pytest.mark.parametrize("lease", [0, OURS])
def test_what_may_be_a_copy_waits_for_its_word(lease: int) -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put(key("i1"), 5, lease=lease)])
    assert copy.changed(5) == []
    assert copy.unsettled() == [key("i1").encode()]
    copy.apply([proof(key("i1"), 5)])
    (observed,) = copy.changed(5)
    assert observed.service.marks == {"i1": mark("i1")}
    assert copy.unsettled() == []


def test_a_removal_whose_word_goes_first_does_not_show_the_copy_as_a_natives() -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put(key("i1"), 5), proof(key("i1"), 5)])
    copy.changed(5)
    copy.apply([gone(f"/isthmus/ledger/{key('i1')}", 6)])
    assert copy.changed(6) == []
    copy.apply([gone(key("i1"), 6)])
    assert copy.unsettled() == []
    (observed,) = copy.changed(6)
    assert observed.service.instances == {}


def test_a_service_is_not_shown_without_the_entry_whose_replacement_waits() -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put(key("i1"), 2, lease=LEASED)])
    copy.changed(2)
    copy.apply([put(key("i2"), 3), gone(key("i1"), 3)])
    assert copy.changed(3) == []
    copy.apply([proof(key("i2"), 3)])
    assert [list(each.service.instances) for each in copy.changed(3)] == [["i2"]]


def test_a_copy_whose_word_was_deleted_by_hand_is_a_natives_from_then_on() -> None:
    copy = Copy(SPACE, Ignored())
    data = put(key("i1"), 5)
    copy.apply([data, proof(key("i1"), 5)])
    copy.changed(5)
    copy.apply([gone(f"/isthmus/ledger/{key('i1')}", 6)])
    copy.settle([Looked(key("i1").encode(), data.kv, None, 6)])
    (observed,) = copy.changed(6)
    assert observed.service.marks == {}
    assert set(observed.service.instances) == {"i1"}


def test_a_look_from_before_the_word_went_does_not_bring_it_back() -> None:
    copy = Copy(SPACE, Ignored())
    data, said = put(key("i1"), 5), proof(key("i1"), 5)
    copy.apply([data])
    before = Looked(key("i1").encode(), data.kv, ledger.proof_of(said.kv), 5)
    copy.apply([said, gone(f"/isthmus/ledger/{key('i1')}", 6)])
    copy.settle([before])
    assert copy.unsettled() == [key("i1").encode()]


def test_a_record_that_makes_no_sense_is_named_and_its_siblings_flow() -> None:
    ignored = Ignored()
    copy = Copy(SPACE, ignored)
    copy.apply([put(key("i1"), 5, lease=LEASED), put(key("i2"), 6, lease=LEASED, value="null")])
    (observed,) = copy.changed(6)
    assert set(observed.service.instances) == {"i1"}
    assert observed.unreadable == {"i2"}
    assert list(ignored) == [key("i2")]
    copy.apply([put(key("i2"), 7, created=6, value=record("i2"))])
    (observed,) = copy.changed(7)
    assert set(observed.service.instances) == {"i1", "i2"}
    assert observed.unreadable == frozenset()
    assert not ignored


def test_reasons_are_kept_for_the_last_records_alone() -> None:
    ignored = Ignored()
    Copy(SPACE, ignored).apply([put(key(f"i{n}"), n, lease=LEASED, value="?") for n in range(1, 300)])
    assert len(ignored) == 100
    assert key("i299") in ignored


def test_a_copy_of_which_the_mark_cannot_be_read_is_not_shown_at_all() -> None:
    copy = Copy(SPACE, Ignored())
    later = proof(key("i1"), 5)
    later.kv.value = b'{"v":2}'
    copy.apply([put(key("i1"), 5), later])
    (observed,) = copy.changed(5)
    assert observed.service.instances == {}
    assert observed.unreadable == {"i1"}


def test_keys_of_other_software_wait_for_nothing() -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put("/microservices/readme", 5), put("/microservices/notes", 6)])
    assert copy.unsettled() == []
    assert copy.changed(6) == []


def listed(*keys: tuple[str, int]) -> Iterator[pb.KeyValue]:
    return (pb.KeyValue(key=key.encode(), mod_revision=revision) for key, revision in keys)


@pytest.mark.parametrize(
    ("store", "lost"),
    [
        ([(key("i1"), 5), (key("i2"), 6)], []),
        ([(key("i1"), 9), (key("i2"), 6)], [key("i1")]),  # an update
        ([(key("i1"), 5), (key("i2"), 6), (key("i3"), 7)], [key("i3")]),  # a creation
        ([(key("i1"), 5)], [key("i2")]),  # a deletion
        ([(key("i1"), 5), (key("i2"), 6), ("/microservices/readme", 7)], []),
    ],
)
def test_an_audit_finds_every_event_that_the_watch_has_lost(store: list[tuple[str, int]], lost: list[str]) -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put(key("i1"), 5, lease=LEASED), put(key("i2"), 6, lease=LEASED)])
    audit = copy.audit()
    audit.page(listed(*store))
    audit.end(10)
    assert audit.lost() == [each.encode() for each in lost]


def test_an_audit_does_not_take_what_is_late_for_lost() -> None:
    copy = Copy(SPACE, Ignored())
    copy.apply([put(key(id), 5, lease=LEASED, value=record(id)) for id in ("i1", "i2", "i3")])
    audit = copy.audit()
    copy.apply([gone(key("i3"), 12), put(key("i4"), 12)])  # after the list, before its pages are in
    audit.page(listed((key("i1"), 9), (key("i3"), 5), (key("i4"), 9), (key("i5"), 8)))
    audit.end(10)
    assert len(audit.lost()) == 3
    copy.apply([put(key("i1"), 9, created=5), gone(key("i2"), 9), put(key("i5"), 8), gone(key("i5"), 11)])
    assert audit.lost() == []


def test_a_key_that_the_layout_does_not_make_is_named_and_pushes_no_other_out() -> None:
    ignored = Ignored()
    copy = Copy(SPACE, ignored)
    copy.apply([put(f"{SPACE.prefix}stray", 1, value="?")])
    assert ignored[f"{SPACE.prefix}stray"] == "no key that kratos makes"
    copy.apply([gone(f"{SPACE.prefix}stray", 2)])
    assert not ignored
    copy.apply([put(key(f"i{n}"), n, lease=LEASED, value="?") for n in range(3, 200)])
    copy.apply([put(f"{SPACE.prefix}stray", 201, value="?")])
    assert len(ignored) == 100 and f"{SPACE.prefix}stray" not in ignored
