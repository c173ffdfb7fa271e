"""The store: what it remembers of services that are gone."""

from __future__ import annotations

import pytest

from adapters.memory import Memory
from adapters.memory.server import Store as Server
from bridge.adapter import Entry, Held, Listing, Observed, Returns, Synced
from bridge.destination.destination import Destination
from bridge.model import Mark, Service, ServiceName
from bridge.sources.store import Store
from bridge.sources.view import View
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance, link

ONE = instance("i1")


@pytest.fixture
def view() -> View:
    """One that has listed the service `pay`, in a store that remembers ten services that are gone."""
    view = Store(lambda: 0.0, gone_kept=10).view("source", "")
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
    destination = Destination(
        name="target",
        owner="bridge",
        sink=Memory("target", Server()).sink("bridge"),
        links=[link()],
        store=store,
        events=Record(),
        clock=lambda: 0.0,
        frozen=lambda _: False,
    )
    mark = Mark("bridge", "source-to-target", ("source-1",), "", PAY, ONE.id)
    destination.take(Held("target-1", {PAY: {ONE.id: Entry(ONE, mark, 1)}}), None, ())
    behind = store.version
    view.observe(Observed(Service(PAY)))
    assert store.forgotten == 0
    come_and_go(view, 1000)
    assert PAY not in [name for _, name, _ in store.since(behind)]
    assert PAY in dict(destination.affected(behind))
    assert PAY not in dict(destination.affected(store.version)), "who is not behind is not told twice"


def restarted(view: View, *, returns: Returns | None) -> None:
    """Another life of the store answers, of which the operator need not be asked."""
    view.begin(Listing("source-1", "2", returns=returns))


def listed(view: View, count: int) -> None:
    """So many instances of `pay` are there now, and the listing is complete."""
    view.observe(Observed(Service(PAY, {f"i{number}": instance(f"i{number}") for number in range(count)})))
    view.sync(Synced())


@pytest.fixture
def ten() -> tuple[View, list[float]]:
    """A scope of ten instances, and the time as a list of one number."""
    time = [0.0]
    view = Store(lambda: time[0]).view("source", "")
    view.begin(Listing("source-1", "1"))
    listed(view, 10)
    return view, time


@pytest.mark.parametrize(
    ("back", "after", "believed"),
    [(10, 300, True), (9, 300, True), (8, 300, False), (10, 299, False), (0, 9999, False)],
)
def test_a_new_life_is_believed_when_its_share_is_back_and_its_time_has_passed(
    ten: tuple[View, list[float]], back: int, after: float, believed: bool
) -> None:
    view, time = ten
    restarted(view, returns=Returns(0.9, 300.0))
    listed(view, 0)
    view.observe(Observed(Service(PAY, {f"i{number}": instance(f"i{number}") for number in range(back)})))
    time[0] = after
    assert view.doubt
    assert view.has_returned is believed


def test_others_in_the_place_of_those_that_were_known_prove_nothing(ten: tuple[View, list[float]]) -> None:
    view, time = ten
    restarted(view, returns=Returns(0.9, 300.0))
    view.observe(Observed(Service(PAY, {f"new{number}": instance(f"new{number}") for number in range(20)})))
    view.sync(Synced())
    time[0] = 300.0
    assert not view.has_returned


def test_a_store_that_promises_no_return_waits_for_an_operator(ten: tuple[View, list[float]]) -> None:
    view, time = ten
    restarted(view, returns=None)
    listed(view, 10)
    time[0] = 1e6
    assert not view.has_returned


def test_a_life_that_follows_a_doubted_one_begins_the_time_anew(ten: tuple[View, list[float]]) -> None:
    view, time = ten
    restarted(view, returns=Returns(0.9, 300.0))
    listed(view, 0)
    view.down("gone again", time[0])
    time[0] = 200.0
    view.begin(Listing("source-1", "3", returns=Returns(0.9, 300.0)))
    listed(view, 9)  # nine of the ten that were known before both
    time[0] = 300.0
    assert not view.has_returned
    time[0] = 500.0
    assert view.has_returned
    view.down("dark", time[0])
    assert not view.has_returned


def test_to_believe_a_life_has_what_waited_for_it_planned_again(ten: tuple[View, list[float]]) -> None:
    view, _ = ten
    restarted(view, returns=Returns(0.9, 300.0))
    listed(view, 9)
    before = view._store.syncs
    view.believe()
    assert view._store.syncs > before
    assert not view.doubt


def doubted_and_grown(view: View) -> None:
    """A store that went back to revision 1, and whose clients wrote it forward to 50."""
    view.begin(Listing("source-1", "", 40))
    view.sync(Synced(40))
    view.begin(Listing("source-1", "", 1))
    view.sync(Synced(1))
    view.observe(Observed(Service(PAY, {ONE.id: ONE}), revision=50))


def test_a_life_that_is_believed_counts_from_the_newest_it_told(view: View) -> None:
    doubted_and_grown(view)
    view.believe()
    assert view.revision == 50
    view.begin(Listing("source-1", "", 45))
    assert view.doubt, "a backup that was made before it was believed"


def test_a_store_that_returns_counts_from_the_newest_it_told(view: View) -> None:
    view.begin(Listing("source-1", "", 40))
    view.sync(Synced(40))
    view.begin(Listing("source-2", "", 99))
    view.sync(Synced(99))
    view.begin(Listing("source-1", "", 50))
    view.observe(Observed(Service(PAY, {ONE.id: ONE}), revision=55))
    view.sync(Synced(50))
    assert not view.doubt
    assert view.revision == 55, "not that of the stranger, and not what it had told before the stranger came"


def test_a_life_that_is_doubted_moves_no_revision(view: View) -> None:
    doubted_and_grown(view)
    assert view.revision == 40
    view.begin(Listing("source-1", "", 45))
    assert view.doubt


def test_a_life_that_was_accepted_elsewhere_is_accepted_here(ten: tuple[View, list[float]]) -> None:
    view, time = ten
    time[0] = 200.0
    view.begin(Listing("source-2", "", 5))
    assert view.is_accepted("source-2", at=100.0), "by whoever saw it before us"
    assert not view.is_accepted("source-3", at=300.0)
    view.believe()
    assert not view.is_accepted("source-2", at=100.0), "nothing is doubted any more"


def test_a_store_that_goes_back_once_more_was_not_accepted() -> None:
    time = [100.0]
    view = Store(lambda: time[0]).view("source", "")
    doubted_and_grown(view)
    assert view.is_accepted("source-1", at=101.0)
    view.believe()
    time[0] = 110.0
    view.begin(Listing("source-1", "", 45))
    assert view.doubt
    assert not view.is_accepted("source-1", at=101.0)


def known_by_another(view: View) -> None:
    """Two instances are known; then another store answers, and has listed one of its own beside the first so far."""
    view.observe(Observed(Service(PAY, {key: instance(key) for key in ("i1", "i2")})))
    view.begin(Listing("source-2"))
    view.observe(Observed(Service(PAY, {key: instance(key) for key in ("i1", "n1")})))


def test_what_another_store_has_not_told_is_the_word_of_the_one_before(view: View) -> None:
    known_by_another(view)
    assert {key: view.told_by(PAY, key) for key in view.services[PAY].instances} == {
        "i1": "source-2",
        "i2": "source-1",
        "n1": "source-2",
    }


def test_a_store_that_returns_has_told_nothing_of_what_another_one_added(view: View) -> None:
    known_by_another(view)
    view.sync(Synced())
    view.begin(Listing("source-1"))
    assert view.told_by(PAY, "n1") == "source-2"
    view.observe(Observed(Service(PAY, {"i1": ONE})))
    view.sync(Synced())
    assert not view.former


def test_an_unreadable_record_of_another_store_keeps_the_name_of_who_told_it(view: View) -> None:
    view.begin(Listing("source-2"))
    view.observe(Observed(Service(PAY), frozenset({ONE.id})))
    view.sync(Synced())
    view.believe()
    assert view.told_by(PAY, ONE.id) == "source-1"
    view.observe(Observed(Service(PAY, {ONE.id: ONE})))
    assert view.told_by(PAY, ONE.id) == "source-2"
