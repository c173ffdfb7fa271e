"""A native that reads as out of service because of us is carried as it was; what is no doing of ours counts."""

from __future__ import annotations

from bridge.adapter import Listing, Observed, Synced
from bridge.model import Health, Service
from bridge.sources.steered import NOBODY, Steered
from bridge.sources.store import Store
from bridge.sources.view import Observation, View
from tests.kit.builders import PAY, instance

STORE = "eureka:x"
VM1, VM2 = (STORE, PAY, "vm1"), (STORE, PAY, "vm2")
OUT = Steered(frozenset({VM1}), frozenset({VM1}))


def heard(store: Store, **health: Health) -> View:
    view = store.view("legacy", "")
    view.begin(Listing(STORE))
    tell(view, **health)
    view.sync(Synced())
    return view


def tell(view: View, **health: Health) -> None:
    there = {id: instance(id, health=one) for id, one in health.items()}
    view.observe(Observed(Service(PAY, there)))


def seen(view: View) -> dict[str, Health]:
    return {id: one.health for id, one in view.services[PAY].instances.items()}


def test_what_we_did_to_a_native_is_no_news_of_its_source() -> None:
    store, told = Store(lambda: 0.0), list[Observation]()
    view = heard(store, vm1=Health.HEALTHY, vm2=Health.HEALTHY)
    store.report("legacy", told.append)
    version = store.version
    store.steer(OUT)
    tell(view, vm1=Health.DRAINING, vm2=Health.HEALTHY)
    assert seen(view) == {"vm1": Health.HEALTHY, "vm2": Health.HEALTHY}
    view.begin(Listing(STORE))
    tell(view, vm1=Health.DRAINING, vm2=Health.HEALTHY)
    view.sync(Synced())
    assert seen(view)["vm1"] is Health.HEALTHY and (store.version, told) == (version, [])


def test_what_its_owner_and_others_say_counts() -> None:
    store = Store(lambda: 0.0)
    view = heard(store, vm1=Health.HEALTHY, vm2=Health.HEALTHY)
    store.steer(OUT)
    tell(view, vm1=Health.UNHEALTHY, vm2=Health.DRAINING)
    assert seen(view) == {"vm1": Health.UNHEALTHY, "vm2": Health.DRAINING}
    tell(view, vm1=Health.DRAINING)
    assert seen(view) == {"vm1": Health.HEALTHY}


def test_whoever_learns_of_it_later_has_it_as_it_was_and_as_it_reads_then() -> None:
    store = Store(lambda: 0.0)
    view = heard(store, vm1=Health.DRAINING, vm2=Health.DRAINING)
    store.steer(OUT)
    assert seen(view) == {"vm1": Health.HEALTHY, "vm2": Health.DRAINING}
    store.steer(Steered(OUT.out, OUT.shows | {VM2}))
    assert seen(view) == {"vm1": Health.HEALTHY, "vm2": Health.HEALTHY}
    store.steer(NOBODY)
    assert seen(view) == {"vm1": Health.DRAINING, "vm2": Health.DRAINING}


def test_another_store_has_natives_of_its_own() -> None:
    store = Store(lambda: 0.0)
    view = heard(store, vm1=Health.DRAINING)
    store.steer(Steered(frozenset(), frozenset({("eureka:y", PAY, "vm1")})))
    assert seen(view) == {"vm1": Health.DRAINING}
