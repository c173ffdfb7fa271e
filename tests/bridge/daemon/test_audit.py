"""What is written down of what happens: every line of the journal says where, and whose entry it was."""

from __future__ import annotations

import math
from pathlib import Path

from bridge.adapter import Cause, Change, Entry, Listing, Observed, Outcome, Synced
from bridge.daemon.audit import Audit
from bridge.daemon.metrics import Metrics
from bridge.destination.events import Failed, Noticed, Unwritten, Written
from bridge.errors import Rejected
from bridge.guard.gate import Freed, Ground
from bridge.model import Instance, Mark, Port, Service, ServiceName
from bridge.sources.store import Seen, Store
from bridge.state.folder import State
from bridge.state.journal import Journal
from bridge.state.segments import read

PAY = ServiceName("pay")
ONE = Instance("i1", "192.0.2.1", (Port(80),))
TWO = Instance("i1", "192.0.2.2", (Port(80),))
MARK = Mark("b1", "old-to-new", ("etcd:1",), "west", PAY, "i1")


def audit(journal: Journal) -> Audit:
    return Audit(journal, Metrics(dict, "b1"), State(None), lambda: 0.0, lambda _: None, lambda _: False)


async def test_lines_about_entries_name_their_destination_and_mark(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    made = audit(journal)
    add = Change(PAY, "i1", None, ONE, MARK)
    remove = Change(PAY, "i1", Entry(ONE, MARK), None, None, Cause.EVENT)
    made.tell(Written(Outcome(add), "add", None, Seen(0.0, 1), (0, 1), "new"))
    made.tell(Noticed(remove, "remove", (1, 0), "new"))
    made.tell(Failed(add, Rejected("no"), "new"))
    await journal.writing.flush()
    found = list(read(tmp_path))
    assert [(one.kind, one.destination, one.mark) for one in found] == [
        ("add", "new", MARK),
        ("remove", "new", MARK),
        ("park", "new", MARK),
    ]


async def test_what_a_registry_says_is_journaled_where_somebody_asks_for_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    made = audit(journal)
    store = Store(lambda: 0.0, lambda one: one)
    stop = store.report("old", made.observed)
    view, other = store.view("old", "west"), store.view("else", "")
    for each in (view, other):
        each.begin(Listing("etcd:1"))
        each.observe(Observed(Service(PAY, {"i1": ONE}), revision=7))
        each.sync(Synced(revision=7))
    view.observe(Observed(Service(PAY, {"i1": TWO}), revision=8))
    view.observe(Observed(Service(PAY, {"i1": TWO}, {"i1": MARK}), revision=9))
    view.observe(Observed(Service(PAY), revision=10))
    stop()
    view.observe(Observed(Service(PAY, {"i1": ONE}), revision=11))
    await journal.writing.flush()
    lines = list(read(tmp_path))
    assert {(one.registry, one.scope) for one in lines} == {("old", ("etcd:1", "west"))}
    assert [one.kind for one in lines if one.kind != "observed"] == ["appeared", "synced", "vanished"]
    found = [one for one in lines if one.kind == "observed"]
    assert {one.service for one in found} == {"pay"}
    assert [(one.before, one.after, one.changed, one.revision, one.cause) for one in found] == [
        (None, ONE, (), 7, ""),
        (ONE, TWO, ("address",), 8, ""),
        (TWO, TWO, ("mark",), 9, ""),
        (TWO, None, (), 10, "event"),
    ]
    assert journal.last_removals() == []
    assert Journal(tmp_path).recent_losses(math.inf) == []


async def test_what_becomes_of_a_scope_is_journaled_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    store = Store(lambda: 0.0, lambda one: one)
    store.report("old", audit(journal).observed)
    view = store.view("old", "")
    view.down("no answer", 1.0)
    view.down("no answer", 2.0)
    for life in ("first", "second"):
        view.begin(Listing("etcd:1", life, revision=5))
        view.observe(Observed(Service(PAY, {"i1": ONE}), revision=5))
        view.sync(Synced(revision=5))
        view.down("cut", 3.0)
    view.begin(Listing("etcd:1", "second", revision=5))
    view.sync(Synced(revision=6))
    view.mark_stale()
    view.mark_stale()
    await journal.writing.flush()
    lines = list(read(tmp_path))
    assert [one.kind for one in lines] == [
        *("lost", "appeared", "observed", "synced", "lost"),
        *("doubted", "synced", "lost"),
        *("observed", "vanished", "synced", "stale"),
    ]
    assert [one.reason for one in lines if one.kind == "lost"] == ["no answer", "cut", "cut"]
    assert "its life is second" in next(one.reason for one in lines if one.kind == "doubted")
    assert [one.cause for one in lines if one.kind == "observed"] == ["", "absence"]


async def test_a_removal_says_what_let_it_go_and_by_which_figures(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    made = audit(journal)
    remove = Change(PAY, "i1", Entry(ONE, MARK), None, None, Cause.EVENT)
    ground = Ground("last_instance: nothing would serve; 0 of 1", Freed.APPROVAL, "4f2a90c1d3e7")
    made.tell(Written(Outcome(remove), "remove", Cause.EVENT, Seen(0.0, 1, 42), (1, 0), "new", ground))
    made.tell(Unwritten(PAY, "i2", "shadow", "old-to-new", "a native has its address", "new"))
    await journal.writing.flush()
    removed, shadowed = read(tmp_path)
    assert (removed.rule, removed.freed, removed.hold, removed.revision) == (ground.rule, "approval", ground.hold, 42)
    assert (shadowed.kind, shadowed.instance, shadowed.reason) == ("shadow", "i2", "a native has its address")
