"""An item of `from` may be one scope of a registry: the link sees that scope and no other."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from adapters.memory import Memory
from adapters.memory.server import Store as Server
from bridge.adapter import Observed
from bridge.destination.destination import Destination
from bridge.destination.routing import Routing
from bridge.errors import Unavailable
from bridge.link import Item, Link
from bridge.model import Service, ServiceName, Traits
from bridge.plan.route import desired
from bridge.sources.feed import Feed
from bridge.sources.store import Store
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until


class Two:
    """A registry of two scopes, `a/one` and `a/two`, watched; and a destination that `links` lead to."""

    def __init__(self, *links: Link) -> None:
        self.one, self.two = Server("one", scope="one"), Server("two", scope="two")
        self.target = Server("target")
        self.store = Store(time.monotonic)
        self.destination = Destination(
            name="target",
            owner="bridge",
            sink=Memory("target", self.target).sink("bridge"),
            links=links,
            store=self.store,
            events=Record(),
            clock=time.monotonic,
            frozen=lambda _: False,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Two:
        async for source in Memory("a", self.one, self.two).scopes():
            view = self.store.view("a", source.scope)
            self._tasks.append(asyncio.create_task(Feed(source, view, time.monotonic, random.Random(1)).run()))
        await until(lambda: len(list(self.store.views())) == 2 and all(view.synced for view in self.store.views()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wanted(self, name: ServiceName = PAY) -> set[str]:
        """The addresses that are desired under a name."""
        list(self.destination.affected(0))
        return {one.instance.address for one in self.destination.plan(name)[0].wanted.values()}


def test_an_item_is_a_registry_or_one_scope_of_it() -> None:
    one = link("target", "a", "b/dc2", "c/x/y")
    assert one.items == (Item("a"), Item("b", "dc2"), Item("c", "x/y"))
    assert one.registries == {"a", "b", "c"}
    assert one.item("a", "any") == Item("a")
    assert one.item("b", "dc2") == Item("b", "dc2")
    assert one.item("b", "dc1") is None
    assert one.item("c", "x") is None
    assert one.item("d", "") is None
    assert [str(item) for item in one.items] == ["a", "b/dc2", "c/x/y"]


async def test_a_link_that_names_a_scope_never_sees_another() -> None:
    async with Two(link("target", "a/two")) as two:
        two.one.register(PAY, instance("i1"))
        two.two.register(PAY, instance("i2"))
        two.one.register(ServiceName("cart"), instance("i3"))
        await until(lambda: sum(len(view.services) for view in two.store.views()) == 3)
        assert two.wanted() == {"192.0.2.2"}
        assert two.wanted(ServiceName("cart")) == set()
        assert [view.scope for view in two.destination.routing.views()] == ["two"]


async def test_a_link_that_names_the_registry_sees_every_scope() -> None:
    async with Two(link("target", "a")) as two:
        two.one.register(PAY, instance("i1"))
        two.two.register(PAY, instance("i2"))
        await until(lambda: sum(len(view.services) for view in two.store.views()) == 2)
        assert two.wanted() == {"192.0.2.1", "192.0.2.2"}


async def test_the_order_of_a_merge_is_that_of_the_items() -> None:
    for items, winner in ((("a/one", "a/two"), "one"), (("a/two", "a/one"), "two")):
        async with Two(link("target", *items)) as two:
            for server in (two.one, two.two):
                server.register(PAY, instance("i1", version=server.identity))
            await until(lambda two=two: sum(len(view.services) for view in two.store.views()) == 2)
            list(two.destination.affected(0))
            goal = desired(
                PAY,
                two.destination.supplies(PAY),
                "bridge",
                "t",
                two.destination.inventory.places,
                lambda _, one: one,
                {},
            )
            assert [one.instance.version for one in goal.wanted.values()] == [winner]
            ((at, refusal),) = goal.refused.items()
            assert at[1] != winner
            assert f"a/{winner}" in refusal.reason


async def test_equal_ids_of_two_items_are_told_apart() -> None:
    async with Two(link("target", "a/one", "a/two")) as two:
        two.one.register(PAY, instance("i1", "192.0.2.1"))
        two.two.register(PAY, instance("i1", "192.0.2.2"))
        await until(lambda: sum(len(view.services) for view in two.store.views()) == 2)
        list(two.destination.affected(0))
        assert set(two.destination.plan(PAY)[0].wanted) == {"i1", "i1-a-two"}


async def test_the_silence_of_one_scope_says_nothing_of_another() -> None:
    async with Two(link("target", "a/one"), link("target", "a/two", name="other", rename="other-{name}")) as two:
        two.one.register(PAY, instance("i1"))
        two.two.register(PAY, instance("i2"))
        await until(lambda: sum(len(view.services) for view in two.store.views()) == 2)
        two.two.fail_with(Unavailable("down"))
        await until(lambda: not two.store.view("a", "two").up)
        assert two.destination.routing.is_synced(Item("a", "one"))
        assert two.wanted() == {"192.0.2.1"}
        two.one.deregister(PAY, "i1")
        await until(lambda: not two.store.view("a", "one").services)
        assert two.wanted() == set()
        assert two.wanted(ServiceName("other-pay")) == {"192.0.2.2"}  # last known, and it stays


def test_a_change_costs_no_look_at_all_the_names_that_there_are() -> None:
    store = Store(time.monotonic)
    routing = Routing(store, traits=Traits(frozenset()), clock=time.monotonic)
    routing.route([link()])
    view = store.view("source", "")
    view.observe(Observed(Service(PAY, {"i1": instance("i1")})))
    assert [name for name, _ in routing.affected(0, lambda: pytest.fail("all names are asked for"))] == [PAY]


async def test_only_what_a_link_reads_has_had_its_first_copy() -> None:
    """What a link reads later is copied for the first time then: what it brings must not hide what is lost."""
    async with Two(link(from_=("a/one",))) as both:
        both.destination.note_first_copies()
        assert {scope for _, _, scope in both.destination.settled} == {"one"}
