"""The store: what it remembers of services that are gone."""

from __future__ import annotations

import pytest

from adapters.memory import Memory
from adapters.memory.server import Store as Server
from bridge import store as module
from bridge.adapter import Entry, Held, Listing, Observed, Synced
from bridge.desk import Desk
from bridge.model import Mark, Service, ServiceName
from bridge.store import Store, View
from tests.bridge.core import PAY, Ear, instance, link

ONE = instance("i1")


@pytest.fixture
def view(monkeypatch: pytest.MonkeyPatch) -> View:
    """One that has listed the service `pay`, in a store that remembers ten services that are gone."""
    monkeypatch.setattr(module, "GONE_KEPT", 10)
    view = Store(lambda: 0.0).view("source", "")
    view.begin(Listing("source-1"))
    view.observe(Observed(Service(PAY, {ONE.id: ONE})))
    view.sync(Synced())
    return view


def come_and_go(view: View, count: int) -> None:
    for number in range(count):
        name = ServiceName(f"job-{number}")
        view.observe(Observed(Service(name, {ONE.id: ONE})))
        view.observe(Observed(Service(name)))


def test_names_that_come_and_go_for_ever_take_no_room(view: View) -> None:
    come_and_go(view, 1000)
    told = [name for _, name, _ in view._store.since(0)]
    assert len(told) <= 2 * (10 + 1 + 10)
    assert PAY in told, "what stands is told of, however long ago it came"
    assert told[-10:] == [ServiceName(f"job-{number}") for number in range(990, 1000)]


def test_who_comes_too_late_to_be_told_what_went_looks_at_all_that_it_holds(view: View) -> None:
    store = view._store
    desk = Desk(
        owner="bridge",
        sink=Memory("target", Server()).sink("bridge"),
        links=[link()],
        store=store,
        ear=Ear(),
        clock=lambda: 0.0,
        frozen=lambda _: False,
    )
    mark = Mark("bridge", "source-to-target", ("source-1",), "", PAY, ONE.id)
    desk.take(Held("target-1", {PAY: {ONE.id: Entry(ONE, mark, 1)}}), None, ())
    behind = store.version
    view.observe(Observed(Service(PAY)))
    assert store.forgotten == 0
    come_and_go(view, 1000)
    assert PAY not in [name for _, name, _ in store.since(behind)]
    assert PAY in dict(desk.affected(behind))
    assert PAY not in dict(desk.affected(store.version)), "who is not behind is not told twice"
