"""Orders at a destination: made, taken back, held where nothing would serve; they are no loss and no gain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from adapters.memory.server import Store as Server
from bridge.adapter import Cause, Entry
from bridge.guard.limits import Limit
from bridge.link import Guard
from bridge.model import Health, ServiceName
from bridge.plan.orders import Order, Orders
from bridge.plan.route import Supply
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until

IDS = [f"i{number}" for number in range(8)]


class Said:
    """Orders of one scope by instance id."""

    def __init__(self) -> None:
        self.by_id: dict[str, Order] = {}

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        assert destination == "target" and all(supply.service.name == name for supply in supplies)
        return {("source", "", name, id): order for id, order in self.by_id.items()}


class Place:
    """A bridge from `source` to `target` whose orders the test changes."""

    def __init__(self, core: Core, source: Server, target: Server, said: Said) -> None:
        self.core, self.source, self.target, self._said = core, source, target, said
        self.reconciler = core.reconcilers["target"]

    async def order(self, cause: Cause | None, *ids: str, **fields: object) -> None:
        """These are ordered so from now on (None: they are not any more); returns when all of that is planned."""
        for id in ids:
            self._said.by_id.pop(id, None)
            if cause is not None:
                self._said.by_id[id] = Order(cause=cause, rule="said", **fields)  # type: ignore[arg-type]
        self.reconciler.poke({PAY})
        await self.core.idle()

    def serving(self) -> set[str]:
        return {id for id, one in self.target.instances(PAY).items() if one.serving}

    def holds(self) -> dict[str, Limit | None]:
        return {id: one.verdict.limit for id, one in self.reconciler.destination.holds.of(PAY).items()}

    def net(self) -> tuple[int, int]:
        """Gains less losses that count, of the service and of its scope."""
        destination = self.reconciler.destination
        (scope,) = {(view.identity, view.part) for view in self.core.store.views()}
        return destination.losses.windows.net(PAY), destination.losses.windows.net(scope)


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    source, target, said = Server("source"), Server("target"), Said()
    for id in IDS:
        source.register(PAY, instance(id))
    core = Core({"source": source, "target": target}, [link("target", guard=Guard(source_count=2))], ordering=said)
    async with core.running():
        await core.idle()
        await until(lambda: bool(core.reconcilers["target"].destination.settled))
        yield Place(core, source, target, said)


async def test_an_order_is_made_at_once_beyond_every_limit_and_taken_back() -> None:
    async with place() as here:
        await here.order(Cause.SHARE, *IDS[1:], away=True)
        assert here.serving() == {"i0"} and not here.holds()
        assert here.net() == (0, 0)
        await here.order(None, *IDS[1:])
        assert here.serving() == {*IDS} and here.net() == (0, 0)


async def test_what_is_marked_and_taken_back_is_neither_loss_nor_gain() -> None:
    async with place() as here:
        await here.order(Cause.OPERATOR, *IDS[1:], health=Health.DRAINING)
        assert here.serving() == {"i0"} and len(here.target.instances(PAY)) == 8
        assert here.net() == (0, 0)
        await here.order(None, *IDS[1:])
        assert here.serving() == {*IDS} and here.net() == (0, 0)


async def test_an_order_on_all_waits_as_a_whole_and_an_unset_ends_it() -> None:
    async with place() as here:
        await here.order(Cause.OPERATOR, *IDS, away=True)
        assert here.serving() == {*IDS} and here.holds() == dict.fromkeys(IDS, Limit.LAST_INSTANCE)
        await here.order(None, "i3")
        assert here.serving() == {"i3"} and not here.holds()


async def test_an_order_that_may_take_the_last_takes_all() -> None:
    async with place() as here:
        await here.order(Cause.OPERATOR, *IDS, away=True, including_last=True)
        assert not here.serving()


async def test_what_ends_beside_an_order_is_judged_by_what_the_order_left() -> None:
    """Five of eight are away: one of the three that are left may go, and two of them are more than half."""
    async with place() as here:
        await here.order(Cause.SHARE, *IDS[:5], away=True)
        here.source.deregister(PAY, "i5")
        await until(lambda: here.serving() == {"i6", "i7"})
        here.source.deregister(PAY, "i6")
        await until(lambda: here.holds() == {"i6": Limit.SERVICE_SHARE})


class Replaced:
    """`i0` goes once `i7` stands there."""

    def orders(
        self, destination: str, name: ServiceName, supplies: Sequence[Supply], entries: Mapping[str, Entry]
    ) -> Orders:
        stands = "i7" in entries
        return {("source", "", name, "i0"): Order(cause=Cause.SHARE, rule="said", away=stands, waits=not stands)}


async def test_what_waits_for_another_goes_as_soon_as_that_is_written() -> None:
    source, target = Server("source"), Server("target")
    source.register(PAY, instance("i0"))
    core = Core({"source": source, "target": target}, [link("target")], ordering=Replaced())
    async with core.running():
        await core.idle()
        assert target.instances(PAY).keys() == {"i0"} and not core.reconcilers["target"].has_written(PAY)
        source.register(PAY, instance("i7"))
        await until(lambda: target.instances(PAY).keys() == {"i7"})
        await until(lambda: core.reconcilers["target"].has_written(PAY))
