"""Histories of an export that several daemons serve, in virtual time; each of their rules dropped is found by one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from adapters.common.export import ExportSink
from adapters.common.picture import Picture
from adapters.memory import Memory
from adapters.memory.server import Store as Server
from bridge.adapter import Note, Notes, Observed
from bridge.daemon.deciding import Deciding
from bridge.destination import joint, went
from bridge.destination.apply import Records
from bridge.destination.destination import Destination
from bridge.destination.exchange import ExportExchange
from bridge.destination.handover import Handover
from bridge.destination.joint import Joint
from bridge.destination.reconciler import Reconciler
from bridge.destination.roll import Roll
from bridge.destination.writer import Writer
from bridge.engine.stopping import passed_on, shared
from bridge.errors import Unavailable
from bridge.guard.holds import Holds, Item
from bridge.link import Guard
from bridge.model import Health, Instance, ServiceName, Traits
from bridge.sources.feed import Feed
from bridge.sources.store import Store
from bridge.sources.view import View
from bridge.state.decisions import APPROVED, Decisions, Kind
from bridge.state.folder import State
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance, link
from tests.kit.mutants import Mutant, Replacements, applied
from tests.simulation.loop import Loop, Stuck

NEAR, FAR = 0.01, 0.6  # seconds that a request to the seat is under way at most, and its answer, by host
EPOCH = 1e9
HOUR = 3600.0
SEEDS = 40  # of a history, by which a mutant is found
SOON = 60.0  # seconds in which all daemons do what one may
STRICT = Guard(service_share=1.0, confirm_event=HOUR, confirm_absence=HOUR)  # every loss is held
HASTY = Guard(service_share=1.0, confirm_event=5.0, confirm_absence=5.0)  # and soon confirmed
LAX = Guard(source_share=1.0, source_count=100, hard_share=1.0, hard_count=100, confirm_event=HOUR)  # half may go
ALL = frozenset(Instance.__struct_fields__)


class Far:
    """Notes at the end of a slow line."""

    def __init__(self, notes: Notes, far: float, rng: random.Random) -> None:
        self._notes = notes
        self._far = far
        self._rng = rng

    async def _way(self) -> None:
        await asyncio.sleep(self._rng.random() * self._far)

    async def _answer(self, answer: Callable[[], Awaitable[Any]]) -> Any:
        await self._way()
        found = await answer()
        await self._way()
        return found

    async def read(self, key: str) -> Note | None:
        found: Note | None = await self._answer(lambda: self._notes.read(key))
        return found

    async def below(self, start: str) -> Mapping[str, Note]:
        found: Mapping[str, Note] = await self._answer(lambda: self._notes.below(start))
        return found

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        found: Note = await self._answer(lambda: self._notes.write(key, content, before))
        return found

    async def _write_over(self, key: str, content: bytes) -> Note:
        """What a store does that compares nothing."""
        return await self._notes.write(key, content, await self._notes.read(key))

    async def remove(self, key: str, before: Note) -> None:
        await self._answer(lambda: self._notes.remove(key, before))


class Host:
    """One daemon and what it keeps: it can end and begin again. `ahead`: of its clock, in seconds."""

    def __init__(self, world: World, name: str, guard: Guard) -> None:
        self.picture = Picture(None)
        self.kept = State(None, self.wall)
        self.link = link("mesh", "inventory", guard=guard)
        self.reconciler: Reconciler
        self._world = world
        self._name = name
        self._ahead = world.rng.uniform(-1, 1)
        self._far = world.rng.choice((NEAR, FAR))
        self._begun = 0
        self._task: asyncio.Task[None] | None = None

    def wall(self) -> float:
        return EPOCH + self._world.loop.time() + self._ahead

    @property
    def served(self) -> set[str]:
        """The instances that it sends traffic to."""
        return {id for id, one in self.picture.services.get(PAY, {}).items() if one.instance.serving}

    def begin(self) -> None:
        self._begun += 1
        clock, world = self._world.loop.time, self._world
        rng, record = random.Random(world.rng.random()), Record()
        me = Writer(self._name, self._begun, self.wall(), "", "state")
        self._store, self._feeds = Store(clock), dict[View, Feed]()
        notes = Far(Memory("keeper", world.keeper).notes("b1"), self._far, rng)
        sink = ExportSink("xds:mesh", self.picture, Traits(ALL), lambda _, one: one, "b1")
        there = Destination(
            name="mesh",
            owner="b1",
            sink=sink,
            links=[self.link],
            store=self._store,
            events=record,
            clock=clock,
            frozen=lambda one: self.kept.frozen(one) is not None,
        )
        self._roll = Roll(lambda: notes, lambda: me, clock=clock, wall=self.wall, rng=rng)
        self.joint = Joint(
            notes,
            there,
            self.kept,
            record,
            self._roll,
            me=lambda: me,
            clock=clock,
            wall=self.wall,
            again=lambda names: self.reconciler.poke(names),
            decided=lambda: self._deciding.apply(),
            rng=rng,
        )
        self.reconciler = Reconciler(
            there,
            sink=sink,
            seat=None,
            store=self._store,
            events=record,
            clock=clock,
            rng=rng,
            second_opinion=self._read,
            relist=lambda view, reason: self._feeds[view].relist(reason),
            records=Records(spend=self.kept.spend),
            peers=self.joint,
        )
        engine = SimpleNamespace(
            configuration=SimpleNamespace(links=(self.link,), registries={}),
            reconcilers={"mesh": self.reconciler},
            store=self._store,
            clock=clock,
        )
        self._deciding = Deciding(cast(Any, engine), self.kept, cast(Any, None))  # only `apply`, which journals nothing
        self._task = world.loop.spawn(self, self._run(rng))

    async def _run(self, rng: random.Random) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for source in Memory("inventory", self._world.source).scopes():
                view = self._store.view("inventory", source.scope)
                self._source = source
                self._feeds[view] = Feed(source, view, self._world.loop.time, rng)
                tasks.create_task(self._feeds[view].run())
            tasks.create_task(self._roll.run())
            tasks.create_task(self.reconciler.run())
            while True:  # as the daemon does: what was decided on any host counts here, and an approval is for once
                await asyncio.sleep(1.0)
                self._deciding.apply()
                approvals = self.kept.decisions.of(Kind.APPROVAL).values()
                approved = {item for one in approvals for item in one.items}
                self.kept.decisions.use_up(approved - self.reconciler.destination.holds.granted().keys())

    async def _read(self, _: View, name: ServiceName) -> Observed:
        return await self._source.read(name)

    async def end(self) -> None:
        """As by SIGTERM."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- an operator at this host ----------------------------------------------------------------------------------

    async def freeze(self) -> bool:
        """Whether the command says that every daemon follows."""
        self.kept.decisions.freeze(self.link.name, "CHG", "operator")
        return not (await passed_on(self.reconciler, "mesh")).why

    def unfreeze(self) -> None:
        self.kept.decisions.unfreeze(self.link.name)
        self.reconciler.poke()

    async def approve(self) -> None:
        now = self._world.loop.time()
        for hold in self.reconciler.destination.holds.show(now):
            items: tuple[Item, ...] = self.reconciler.destination.holds.approve(hold.id, now)
            self.kept.decisions.approve(hold.id, items, "CHG", "operator", APPROVED)
        await shared(self.reconciler)
        self.reconciler.poke()

    def expect(self, lose: int) -> None:
        """For an hour so many may be lost of the link."""
        until = time.time() + HOUR
        self.kept.decisions.decide(Kind.EXPECTED, self.link.name, by="operator", until=until, count=lose)
        self._deciding.apply()
        self.reconciler.poke()

    @property
    def held(self) -> set[str]:
        return set(self.reconciler.destination.holds.of(PAY))


class World:
    """One source, one keeper of notes, and hosts."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.source = Server("inventory")
        self.keeper = Server("keeper")
        self.hosts: list[Host] = []

    def time(self) -> float:
        return EPOCH + self.loop.time()

    def host(self, guard: Guard = STRICT) -> Host:
        self.hosts.append(Host(self, f"host-{len(self.hosts)}", guard))
        return self.hosts[-1]

    def hosted(self, count: int, *guards: Guard) -> list[Host]:
        """That many run, of which some have limits of their own."""
        hosts = [self.host(guard) for guard in (*guards, *(STRICT for _ in range(count - len(guards))))]
        for one in hosts:
            one.begin()
        return hosts

    def say(self, *ids: str) -> None:
        """These are there."""
        for id in ids:
            self.source.register(PAY, instance(id))

    async def settles(self, condition: Callable[[], bool]) -> None:
        """Waits until it is so. Raises AssertionError."""
        ends = self.loop.time() + SOON
        while not condition():
            assert self.loop.time() < ends, self.story()
            await asyncio.sleep(0.1)

    async def serve(self, ids: Collection[str], *hosts: Host) -> None:
        await self.settles(lambda: all(one.served == set(ids) for one in hosts or self.hosts))

    async def steady(self, seconds: float, *hosts: Host) -> None:
        """Nothing changes there for so long."""
        before = [set(one.served) for one in hosts]
        for _ in range(int(seconds)):
            await asyncio.sleep(1.0)
            assert [one.served for one in hosts] == before, self.story()

    async def approved_alone(self) -> tuple[Host, Host]:
        """The removal of i1 is approved at one host, which makes it while the other one does not run; i2 stays."""
        self.say("i1", "i2")
        one, other = self.hosted(2)
        await self.serve({"i1", "i2"})
        await other.end()
        self.source.deregister(PAY, "i1")
        await self.settles(lambda: one.held == {"i1"})
        await one.approve()
        await self.serve({"i2"}, one)
        return one, other

    def story(self) -> str:
        return "; ".join(f"{one._name} serves {sorted(one.served)} holds {sorted(one.held)}" for one in self.hosts)


History = Callable[[World], Awaitable[None]]


async def a_freeze_meets_a_host_that_begins(world: World) -> None:
    one, other = world.host(), world.host()
    world.say("i1")
    one.begin()
    await world.serve({"i1"}, one)
    begins = world.loop.call_later(world.rng.uniform(0, 1), other.begin)
    await asyncio.sleep(world.rng.uniform(0, 2))
    while not await one.freeze():
        pass  # given again, until the command says that all follow: that may take longer than it waits
    before = set(other.served)
    world.say("i2")
    for _ in range(20):
        await asyncio.sleep(0.1)
        assert "i2" not in other.served | one.served, "the command has said that all follow"
        assert before <= other.served
    begins.cancel()
    one.unfreeze()
    await world.serve({"i1", "i2"}, one)


async def one_host_lets_go_and_the_others_follow(world: World) -> None:
    world.say("i1", "i2")
    world.hosted(2, HASTY)
    await world.serve({"i1", "i2"})
    world.source.deregister(PAY, "i1")
    await world.serve({"i2"})


async def what_came_back_is_another_thing(world: World) -> None:
    world.say("i1", "i2")
    one, other = world.hosted(2, HASTY)
    await world.serve({"i1", "i2"})
    world.source.deregister(PAY, "i1")
    await world.serve({"i2"})
    await one.end()  # what it let go stays in its note
    world.say("i1")
    await world.serve({"i1", "i2"}, other)
    await asyncio.sleep(SOON)
    world.source.deregister(PAY, "i1")
    await world.settles(lambda: other.held == {"i1"})
    await world.steady(SOON, other)


async def who_saw_no_illness_lets_no_removal_go_for_it(world: World) -> None:
    world.say("i1", "i2")
    one, other = world.hosted(2, HASTY)
    await world.serve({"i1", "i2"})
    await other.end()
    world.source.register(PAY, instance("i1", health=Health.UNHEALTHY))
    await world.serve({"i2"}, one)
    await asyncio.sleep(3.0)  # its note says so
    await one.end()
    world.source.deregister(PAY, "i1")
    other.begin()
    await world.settles(lambda: other.held == {"i1"})
    await world.steady(SOON, other)


async def an_approval_is_made_use_of_by_each_and_once(world: World) -> None:
    one, other = await world.approved_alone()
    await asyncio.sleep(SOON)  # it hears of the removal too late to follow what the other one did
    other.begin()
    await world.serve({"i2"}, other)
    world.say("i1")
    await world.serve({"i1", "i2"})
    await asyncio.sleep(SOON)
    world.source.deregister(PAY, "i1")
    await world.settles(lambda: one.held == other.held == {"i1"})
    await world.steady(SOON, one, other)


async def an_approval_whose_time_is_over_is_none(world: World) -> None:
    _, other = await world.approved_alone()
    await asyncio.sleep(APPROVED + SOON)
    other.begin()
    await world.settles(lambda: other.held == {"i1"})
    await world.steady(SOON, other)


async def a_loss_that_is_expected_counts_at_each(world: World) -> None:
    world.say("i1", "i2", "i3")
    one, other = world.hosted(2)
    await world.serve({"i1", "i2", "i3"})
    one.expect(1)
    await asyncio.sleep(world.rng.uniform(0, 2))
    world.source.deregister(PAY, "i1")
    await world.serve({"i2", "i3"})
    await asyncio.sleep(SOON)
    world.source.deregister(PAY, "i2")
    await world.settles(lambda: one.held == other.held == {"i2"})
    await world.steady(SOON, one, other)


async def a_loss_that_is_expected_when_it_is_held_counts_at_each(world: World) -> None:
    world.say("i1", "i2", "i3")
    one, other = world.hosted(2)
    await world.serve({"i1", "i2", "i3"})
    world.source.deregister(PAY, "i1")
    await world.settles(lambda: one.held == other.held == {"i1"})
    await asyncio.sleep(world.rng.uniform(0, 10))
    one.expect(1)
    await world.serve({"i2", "i3"})
    await asyncio.sleep(SOON)
    world.source.deregister(PAY, "i2")
    await world.settles(lambda: one.held == other.held == {"i2"})
    await world.steady(SOON, one, other)


async def two_who_decide_at_once_lose_nothing(world: World) -> None:
    world.say("i1", "i2")
    one, other = world.hosted(2)
    await world.serve({"i1", "i2"})
    world.source.deregister(PAY, "i1")
    await world.settles(lambda: one.held == other.held == {"i1"})
    one.kept.decisions.freeze(one.link.name, "CHG", "operator")
    other.kept.decisions.show("a set", ((other.link.name, "pay", "i2"),))
    await asyncio.gather(one.joint.pass_on(), other.joint.pass_on())  # of which one is refused, and reads first
    await world.settles(lambda: other.kept.frozen(other.link.name) is not None)
    await asyncio.sleep(SOON)
    for host in (one, other):
        assert host.kept.frozen(host.link.name) and "a set" in host.kept.decisions.of(Kind.SHOWN), world.story()


async def who_begins_counts_what_the_others_lost(world: World) -> None:
    names = [f"i{number}" for number in range(1, 11)]
    world.say(*names)
    (one,) = world.hosted(1, LAX)
    await world.serve(names)
    for name in names[:4]:
        world.source.deregister(PAY, name)
    await world.serve(names[4:])
    await asyncio.sleep(SOON)  # its note says so
    other = world.host(LAX)
    other.begin()
    await world.serve(names[4:])
    await one.end()
    await asyncio.sleep(5.0)
    world.source.deregister(PAY, names[4])
    await world.serve(names[5:], other)
    world.source.deregister(PAY, names[5])
    await world.settles(lambda: other.held == {names[5]})
    await world.steady(SOON, other)


async def without_an_answer_who_knows_goes_on_and_who_never_knew_waits(world: World) -> None:
    world.say("i1")
    (one,) = world.hosted(1)
    await world.serve({"i1"}, one)
    await asyncio.sleep(5.0)
    world.keeper.fail_with(Unavailable("away"))
    world.say("i2")
    await world.serve({"i1", "i2"}, one)
    await one.end()
    one.begin()
    world.say("i3")
    await world.serve({"i1", "i2", "i3"}, one)
    other = world.host()
    other.begin()
    await world.steady(SOON, other)
    assert not other.served
    world.keeper.heal()
    await world.serve({"i1", "i2", "i3"})


HISTORIES: tuple[History, ...] = (
    a_freeze_meets_a_host_that_begins,
    one_host_lets_go_and_the_others_follow,
    what_came_back_is_another_thing,
    who_saw_no_illness_lets_no_removal_go_for_it,
    an_approval_is_made_use_of_by_each_and_once,
    an_approval_whose_time_is_over_is_none,
    a_loss_that_is_expected_counts_at_each,
    a_loss_that_is_expected_when_it_is_held_counts_at_each,
    two_who_decide_at_once_lose_nothing,
    who_begins_counts_what_the_others_lost,
    without_an_answer_who_knows_goes_on_and_who_never_knew_waits,
)


def play(history: History, seed: int) -> None:
    """Raises AssertionError where a promise is broken."""
    loop = Loop()
    world = World(loop, seed)

    async def live() -> None:
        try:
            await history(world)
        finally:
            for one in world.hosts:
                await one.end()

    try:
        with mock.patch.object(time, "time", new=world.time):
            loop.run_until_complete(live())
    finally:
        loop.close()


@pytest.mark.parametrize("history", HISTORIES, ids=lambda one: one.__name__)
def test_what_daemons_of_an_export_promise_each_other(history: History) -> None:
    for seed in range(2):
        play(history, seed)


def test_notes_that_are_out_of_reach_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def away(world: World) -> None:
        world.say("i1")
        world.hosted(1)
        await world.serve({"i1"})
        world.keeper.fail_with(Unavailable(""))  # which has no words of its own
        await asyncio.sleep(SOON)

    play(away, 0)
    assert [one.message for one in caplog.records if one.name == "isthmus.joint"] == [
        "the notes are out of reach destination=mesh reason='unavailable'"
    ]


# -- each rule dropped -------------------------------------------------------------------------------------------------


async def _nothing(*_: object) -> None:
    """Done at once."""


def _whenever() -> Replacements:
    real = went.Gone.lets_go
    return [(went.Gone, "lets_go", lambda self, one, _: real(self, one, float("-inf")))]


def _removed_or_ill() -> Replacements:
    def lets_go(self: went.Gone, one: Any, since: float) -> bool:
        return bool(self.item == one.item and since <= self.at + went.LATE)

    return [(went.Gone, "lets_go", lets_go)]


def _starts_blindly() -> Replacements:
    real = Joint.inherit

    async def inherit(self: Joint) -> Any:
        with contextlib.suppress(Unavailable):
            return await real(self)

    return [(Joint, "inherit", inherit)]


def _stops_without_answer() -> Replacements:
    return [(Joint, "_failed_once", mock.Mock(side_effect=lambda error: (_ for _ in ()).throw(error)))]


def _no_each(*_: object) -> dict[str, Any]:
    return {}


def _untold() -> Replacements:
    return [(sys.modules[__name__], "shared", _nothing)]


def _of_one() -> Replacements:
    return [(joint, "EACH", frozenset())]


def _of_none() -> Replacements:
    return [(joint, "_is_same", lambda *_: False)]


def _unstated() -> Replacements:
    return [(Holds, "follows", lambda *_: False)]


def _heard_late() -> Replacements:
    real = Joint._take_over

    def take_over(self: Joint, one: Any) -> None:
        with mock.patch.object(self, "_decided"):
            real(self, one)

    return [(Joint, "_take_over", take_over)]


def _over_others() -> Replacements:
    async def write(self: Far, key: str, content: bytes, _: Note | None) -> Note:
        found: Note = await self._answer(lambda: self._write_over(key, content))
        return found

    return [(Far, "write", write)]


def _for_ever() -> Replacements:
    real: Any = Decisions.approve
    return [(Decisions, "approve", lambda self, *about: real(self, *about[:4], 10 * APPROVED))]


MUTANTS: tuple[Mutant[History], ...] = (
    Mutant("who begins is on the roll first", a_freeze_meets_a_host_that_begins, lambda: [(Roll, "enter", _nothing)]),
    Mutant("who decides looks", a_freeze_meets_a_host_that_begins, lambda: [(Joint, "look_around", _nothing)]),
    Mutant("a freeze waits for all", a_freeze_meets_a_host_that_begins, lambda: [(Joint, "behind", lambda *_: [])]),
    Mutant(
        "a freeze is of all",
        a_freeze_meets_a_host_that_begins,
        lambda: [(joint, "ALIKE", joint.ALIKE - {Kind.FREEZE})],
    ),
    Mutant(
        "all let the same go",
        one_host_lets_go_and_the_others_follow,
        lambda: [(ExportExchange, "_let_go", lambda *_: None)],
    ),
    Mutant("what came back stays", what_came_back_is_another_thing, _whenever),
    Mutant("illness is no removal", who_saw_no_illness_lets_no_removal_go_for_it, _removed_or_ill),
    Mutant(
        "an approval is passed on", an_approval_is_made_use_of_by_each_and_once, lambda: [(Joint, "_each", _no_each)]
    ),
    Mutant("before it is made use of", an_approval_is_made_use_of_by_each_and_once, _untold),
    Mutant("an approval is for each", an_approval_is_made_use_of_by_each_and_once, _of_one),
    Mutant("an approval is for once", an_approval_is_made_use_of_by_each_and_once, _of_none),
    Mutant("an approval ends", an_approval_whose_time_is_over_is_none, _for_ever),
    Mutant("a stated loss counts at each", a_loss_that_is_expected_counts_at_each, _unstated),
    Mutant("a stated loss is heard first", a_loss_that_is_expected_when_it_is_held_counts_at_each, _heard_late),
    Mutant("nobody writes over another", two_who_decide_at_once_lose_nothing, _over_others),
    Mutant(
        "losses are taken over",
        who_begins_counts_what_the_others_lost,
        lambda: [(Handover, "lose", lambda *_: None)],
    ),
    Mutant("who never knew waits", without_an_answer_who_knows_goes_on_and_who_never_knew_waits, _starts_blindly),
    Mutant("who knows goes on", without_an_answer_who_knows_goes_on_and_who_never_knew_waits, _stops_without_answer),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.breaks.replace(" ", "-"))
def test_each_rule_that_is_dropped_is_found(mutant: Mutant[History]) -> None:
    with applied(mutant):
        for seed in range(SEEDS):
            try:
                play(mutant.found_by, seed)
            except (AssertionError, Stuck):
                return
    pytest.fail(f"no seed of {SEEDS} finds that nobody heeds: {mutant.breaks}")
