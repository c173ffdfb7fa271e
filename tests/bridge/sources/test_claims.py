"""When an address and port counts as one that serves elsewhere now, and when it says nothing: a table of histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from bridge.adapter import Listing, Observed, Synced
from bridge.model import Health, Instance, Mark, Service, ServiceName
from bridge.sources.claims import KEPT
from bridge.sources.networks import Networks
from bridge.sources.store import Store
from bridge.sources.view import View
from tests.kit.builders import instance

A, B = ServiceName("a"), ServiceName("b")
OLD, NEW = instance("old", "192.0.2.1"), instance("new", "192.0.2.1")

Step = Callable[["World"], None]


class World:
    """Registries `one`, `two` and `three`; the pair of OLD is that of NEW."""

    def __init__(self) -> None:
        self.store = Store(lambda: 5.0)
        self.held: dict[str, dict[ServiceName, Service]] = {"one": {}, "two": {}, "three": {}}

    def view(self, name: str) -> View:
        return self.store.view(name, "")

    def list(self, name: str, *, whole: bool = True, life: str = "") -> None:
        view = self.view(name)
        view.begin(Listing(name, life))
        for service in self.held[name].values():
            view.observe(Observed(service))
        if whole:
            view.sync(Synced())

    def put(self, name: str, service: ServiceName, *instances: Instance, mark: Mark | None = None) -> None:
        marks = {one.id: mark for one in instances} if mark is not None else {}
        found = Service(service, {one.id: one for one in instances}, marks)
        self.held[name][service] = found
        if self.view(name).up:
            self.view(name).observe(Observed(found))


def known(name: str, service: ServiceName, one: Instance = OLD, mark: Mark | None = None) -> Step:
    return lambda world: world.put(name, service, one, mark=mark)


def listed(name: str, *, whole: bool = True, life: str = "") -> Step:
    return lambda world: world.list(name, whole=whole, life=life)


def lost(name: str) -> Step:
    return lambda world: world.view(name).down("reset", 3.0)


def gone(name: str, service: ServiceName) -> Step:
    return lambda world: world.put(name, service)


def restored(name: str, service: ServiceName, one: Instance = OLD) -> Step:
    return lambda world: world.view(name).restore(name, "", 0, {service: Service(service, {one.id: one})})


def networks(world: World) -> None:
    world.store.regard(Networks({"one": "pods"}))


ILL = instance("new", "192.0.2.1", health=Health.UNHEALTHY)
OTHER_PORT = instance("new", "192.0.2.1", port=9090)
COPY = Mark("b", "l", ("mem:c",), "", B, "new")
RENAMED = Mark("b", "l", ("one",), "", A, "old")

TABLE: dict[str, tuple[Sequence[Step], bool]] = {
    "out of reach, and another turns up": (
        [known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, NEW)],
        True,
    ),
    "from the disk, tried and not reached": (
        [restored("one", A), lost("one"), known("two", B, NEW), listed("two")],
        True,
    ),
    "the other way round in time": ([restored("one", A), known("two", B, NEW), listed("two"), lost("one")], True),
    "not tried yet": ([restored("one", A), known("two", B, NEW), listed("two")], False),
    "known under both at once": (
        [known("one", A), listed("one"), known("two", B, NEW), listed("two"), lost("one")],
        False,
    ),
    "known under both at once, long ago": (
        [
            known("one", A), listed("one"), known("two", B, NEW), listed("two"), gone("two", B), lost("one"),
            known("two", B, NEW),
        ],
        False,
    ),
    "both from the disk": (
        [restored("one", A), restored("two", B, NEW), lost("one"), known("two", B, NEW), listed("two")],
        False,
    ),
    "both in one listing": (
        [
            known("one", A), known("one", B, NEW), listed("one", whole=False), known("two", B, NEW), lost("one"),
            listed("two"),
        ],
        False,
    ),
    "being listed again": (
        [known("one", A), listed("one"), listed("two"), lost("one"), listed("one", whole=False), known("two", B, NEW)],
        False,
    ),
    "the same service": ([known("one", A), listed("one"), listed("two"), lost("one"), known("two", A, NEW)], False),
    "the same service in a namespace": (
        [known("one", A), listed("one"), listed("two"), lost("one"), known("two", ServiceName("a", "shop"), NEW)],
        False,
    ),
    "another port": ([known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, OTHER_PORT)], False),
    "another network": (
        [networks, known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, NEW)],
        False,
    ),
    "not alive": ([known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, ILL)], False),
    "a copy": ([known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, NEW, COPY)], False),
    "a copy of itself, renamed": (
        [known("one", A), listed("one"), known("two", B, NEW, RENAMED), listed("two"), lost("one")],
        False,
    ),
    "a store that is doubted": (
        [
            known("one", A), listed("one"), listed("two"), listed("two", life="another"), lost("one"),
            known("two", B, NEW),
        ],
        False,
    ),
    "out of reach as well": (
        [known("one", A), listed("one"), lost("one"), known("two", B, NEW), listed("two", whole=False), lost("two")],
        False,
    ),
    "it answers again": (
        [known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, NEW), listed("one")],
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_an_address_serves_elsewhere_where_nobody_knew_it_under_both(case: str) -> None:
    steps, expected = TABLE[case]
    world = World()
    for step in steps:
        step(world)
    taken = world.store.claims.taken.get((world.view("one"), A), {})
    assert taken == ({"old": "192.0.2.1:8080 serves b in two now"} if expected else {})


def test_what_is_taken_stays_so_until_its_scope_answers_again() -> None:
    world = World()
    for step in [known("one", A), listed("one"), listed("two"), lost("one"), known("two", B, NEW), gone("two", B)]:
        step(world)
    assert world.store.claims.taken
    version = world.store.version
    world.list("one")
    assert not world.store.claims.taken
    assert A in {service for _, service, _ in world.store.since(version)}, "it is planned again"


def test_what_turns_up_elsewhere_has_its_old_service_planned_again() -> None:
    world = World()
    for step in [known("one", A), listed("one"), listed("two"), lost("one")]:
        step(world)
    version = world.store.version
    world.put("two", B, NEW)
    assert {service for _, service, _ in world.store.since(version)} == {A, B}


def test_a_gone_address_serves_elsewhere_unless_it_was_shared() -> None:
    world = World()
    for step in [known("one", A), listed("one"), listed("two"), gone("one", A), known("two", B, NEW)]:
        step(world)
    claims = world.store.claims
    pairs = claims.pairs("one", OLD, None)
    here = "192.0.2.1:8080 serves b in two now"
    assert claims.elsewhere(pairs, A, None) == here
    assert claims.elsewhere(pairs, B, None) == ""
    assert claims.elsewhere(pairs, A, Mark("b", "l", ("two",), "", A, "old")) == here
    assert claims.elsewhere(pairs, A, Mark("b", "l", ("two",), "", B, "old")) == "", "a link renames it"
    assert claims.elsewhere(pairs, A, Mark("b", "l", ("two", "one"), "", A, "old")) == "", "two links rename it"
    claims.share(pairs)
    assert claims.elsewhere(pairs, A, None) == ""


def test_a_copy_whose_origin_is_not_known_to_answer_is_taken_by_nobody() -> None:
    """Its origin was swapped, say, and is known by another identity by now: the native may be what was copied."""
    world = World()
    for step in [known("one", A), listed("one"), listed("two"), gone("one", A), known("two", B, NEW)]:
        step(world)
    claims = world.store.claims
    pairs = claims.pairs("one", OLD, None)
    assert claims.elsewhere(pairs, A, Mark("b", "l", ("swapped", "one"), "", A, "old")) == ""
    world.put("three", A, instance("third", "192.0.2.3"))
    world.list("three")
    by_three = Mark("b", "l", ("three", "one"), "", A, "old")
    assert claims.elsewhere(pairs, A, by_three) == "192.0.2.1:8080 serves b in two now"
    world.view("three").down("reset", 3.0)
    assert claims.elsewhere(pairs, A, by_three) == ""


def test_a_registry_that_left_the_file_claims_nothing() -> None:
    world = World()
    for step in [known("one", A), listed("one"), known("two", B, NEW), listed("two")]:
        step(world)
    world.store.forget("two")
    world.store.forget("one")
    assert len(world.store.claims) == 0


def test_shared_pairs_take_bounded_room() -> None:
    world = World()
    for step in [known("one", A), listed("one"), known("two", B, NEW), listed("two")]:
        step(world)
    claims = world.store.claims
    for number in range(10 * KEPT):
        claims.share([("n", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)])
    assert len(claims.shared) < 5 * KEPT
    assert ("default", "192.0.2.1", 8080) in claims.shared, "two services are known there now"


class Text(str):
    """A text that counts how often any is compared with another."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Text.compared += 1
        return str.__eq__(self, other)


def compared(services: int) -> int:
    """How often names are compared where so many services are listed behind one address and port, and one leaves."""
    world = World()
    names = [ServiceName(Text(f"s{number}")) for number in range(services)]
    for name in names:
        world.put("one", name, instance(f"i-{name.name}", "192.0.2.1"))
    Text.compared = 0
    world.list("one")
    world.put("one", names[0])
    return Text.compared


def test_a_service_behind_a_pair_of_a_thousand_costs_what_one_of_ten_does() -> None:
    assert compared(10) > 0
    assert compared(200) / 200 <= 1.5 * compared(10) / 10
