"""What is known once is withdrawn where its address serves another service now: counted, and held beyond a number."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Cause
from bridge.config import load as config
from bridge.config.document import Document
from bridge.destination.events import Event, Written
from bridge.engine.engine import Engine
from bridge.errors import Unavailable
from bridge.model import ServiceName
from bridge.report.attention import findings
from tests.kit.builders import instance
from tests.kit.waiting import until

A, B = ServiceName("a"), ServiceName("b")
FILE = """
bridge: {id: b1}
registries: {one: {kind: memory}, two: {kind: memory}, target: {kind: memory}}
links:
  - {from: [one, two], to: target, policy: sync, services: {include: ["*"]}, guard: {source_count: 1}}
"""


class Causes:
    """Why each entry went, by service and id."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Cause | None] = {}

    def tell(self, event: Event) -> None:
        if isinstance(event, Written) and event.kind == "remove":
            change = event.outcome.change
            self.found[str(change.service), change.id] = event.cause


class World:
    def __init__(self, engine: Engine, causes: Causes) -> None:
        self.engine = engine
        self.causes = causes.found

    def store(self, name: str) -> Store:
        registry = self.engine.registries[name]
        assert isinstance(registry, Memory)
        return registry.store

    def there(self) -> set[str]:
        """The ids at the target."""
        return {id for name in (A, B) for id in self.store("target").instances(name)}

    async def shows(self, *ids: str) -> None:
        await until(lambda: self.there() == set(ids))

    async def out_of_reach(self, name: str) -> None:
        self.store(name).fail_with(Unavailable("503"))
        self.store(name).cut()
        await until(lambda: self.engine.store.view(name, "").out_of_reach)

    def attention(self) -> set[tuple[str, str, int]]:
        return {(one.code, one.subject, one.count) for one in findings(self.engine) if one.code != "source-stale"}


@asynccontextmanager
async def world(text: str = FILE) -> AsyncIterator[World]:
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)
    causes = Causes()
    async with Engine(configuration, events=causes) as engine:
        here = World(engine, causes)
        await until(lambda: not engine.unreached())
        yield here


async def test_last_known_good_goes_where_its_address_serves_another_service() -> None:
    async with world() as here:
        one, two = here.store("one"), here.store("two")
        for number in (1, 2):
            one.register(A, instance(f"a{number}"))
        await here.shows("a1", "a2")
        await here.out_of_reach("one")
        two.register(B, instance("b1", "192.0.2.1"))
        await here.shows("a2", "b1")
        assert here.causes == {("a", "a1"): Cause.REUSED}
        assert here.attention() == {("addresses-reused", "one-two-to-target", 1)}
        two.deregister(B, "b1")  # nobody knows who has the address now
        two.register(B, instance("b3"))
        await here.shows("a2", "b3")
        one.heal()
        await here.shows("a1", "a2", "b3")


async def test_what_is_held_goes_where_its_address_serves_another_service() -> None:
    async with world() as here:
        one = here.store("one")
        one.register(A, instance("a1"))
        await here.shows("a1")
        one.deregister(A, "a1")
        await until(lambda: here.engine.reconcilers["target"].destination.holds.count() == 1)
        here.store("two").register(B, instance("b1", "192.0.2.1"))
        await here.shows("b1")
        assert here.causes == {("a", "a1"): Cause.REUSED}


async def test_beyond_the_number_they_are_held_until_an_operator_says_so() -> None:
    async with world() as here:
        for number in range(1, 4):
            here.store("one").register(A, instance(f"a{number}"))
        await here.shows("a1", "a2", "a3")
        await here.out_of_reach("one")
        desk = here.engine.reconcilers["target"].destination
        here.store("two").register(B, instance("b1", "192.0.2.1"))
        await here.shows("a2", "a3", "b1")
        here.store("two").register(B, instance("b2", "192.0.2.2"))
        await here.shows("a2", "a3", "b1", "b2")
        await until(lambda: desk.holds.count() == 1)
        (hold,) = desk.holds.show(0.0)
        assert (hold.cause, hold.rule, hold.due_in) == (
            Cause.REUSED,
            "reused: 2 addresses of its scope serve elsewhere now",
            None,
        )
        assert ("changes-held", "one-two-to-target", 1) in here.attention()
        desk.holds.approve(hold.id, here.engine.clock())
        here.engine.reconcilers["target"].poke([A])
        await here.shows("a3", "b1", "b2")


async def test_an_address_that_two_services_shared_is_never_taken_from_one() -> None:
    async with world() as here:
        one, two = here.store("one"), here.store("two")
        one.register(A, instance("a1"))
        two.register(B, instance("b1", "192.0.2.1"))
        await here.shows("a1", "b1")
        two.deregister(B, "b1")
        two.register(B, instance("b2"))
        await here.shows("a1", "b2")
        await here.out_of_reach("one")
        two.register(B, instance("b1", "192.0.2.1"))
        await here.shows("a1", "b1", "b2")


async def test_upsert_only_keeps_what_is_served_elsewhere() -> None:
    async with world(FILE.replace("policy: sync", "policy: upsert-only")) as here:
        here.store("one").register(A, instance("a1"))
        await here.shows("a1")
        await here.out_of_reach("one")
        here.store("two").register(B, instance("b1", "192.0.2.1"))
        await here.shows("a1", "b1")


async def test_an_address_of_another_network_is_another_address() -> None:
    text = FILE.replace("{one: {kind: memory}", "{one: {kind: memory, network: pods}").replace(
        "policy", "network: crosses, policy"
    )
    async with world(text) as here:
        here.store("one").register(A, instance("a1"))
        await here.shows("a1")
        await here.out_of_reach("one")
        here.store("two").register(B, instance("b1", "192.0.2.1"))
        await here.shows("a1", "b1")
