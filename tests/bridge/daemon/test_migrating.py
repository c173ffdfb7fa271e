"""What a step waits for between a command and its place: the store alone; in virtual time, so work takes none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from adapters.memory import Memory
from adapters.memory.seat import MemoryNotes
from adapters.memory.server import Store as Server
from bridge.adapter import Note
from bridge.admin.protocol import Peer
from bridge.config import schema
from bridge.config.schema import Configuration
from bridge.daemon.migrating import EVERY, KEY, SOON, Following, Migrating, Steering
from bridge.daemon.moving import Moving
from bridge.destination.events import Event
from bridge.destination.roll import Roll
from bridge.destination.writer import Writer
from bridge.engine.engine import Engine
from bridge.migration.block import Migration
from bridge.migration.gates import Gates
from bridge.migration.intent import Intent, decode, encode
from bridge.model import ServiceName
from bridge.plan.doses import Doses
from bridge.plan.orders import Rank
from bridge.state.journal import Journal
from tests.kit.builders import PAY, instance, link
from tests.kit.calls import calls
from tests.simulation.loop import Loop
from tests.simulation.migrating import Laid

T = TypeVar("T")

BLOCK = Migration(
    name="m",
    services=(str(PAY),),
    from_=("vms",),
    to=("pods",),
    at=("mesh",),
    steps=(25.0, 50.0, 75.0, 100.0),
    settle=0.0,
    gates=Gates(hold_for=0.0, approve=(), parity="warn"),
)
OTHERS = 50  # services beside, which nobody moves
OPERATOR = Peer(uid=0, pid=0)
PATIENCE = 60.0  # virtual seconds
TURN = 0.001  # virtual seconds between two looks of the test
EXPORT = Laid(layout="xds")  # where any share can be said
LINK = link("mesh", "pods", "vms", name="mesh")


class Counted(MemoryNotes):
    """Notes that know how often the record was read and written; `meddle` is called before the next write of it."""

    reads = writes = 0
    meddle: Callable[[], Awaitable[None]] | None = None

    async def read(self, key: str) -> Note | None:
        self.reads += key == KEY
        return await super().read(key)

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        if key == KEY:
            self.writes += 1
            meddle, self.meddle = self.meddle, None
            if meddle is not None:
                await meddle()
        return await super().write(key, content, before)


class Telling(Counted):
    """Notes of a store that tells of changes."""

    async def changed(self, key: str, since: Note | None) -> None:
        while await MemoryNotes.read(self, key) == since:
            await asyncio.sleep(TURN)


class Kept(Memory):
    """A registry whose notes are counted."""

    def __init__(self, name: str, store: Server, notes: type[Counted]) -> None:
        super().__init__(name, store)
        self.counted = notes(store, "b1")

    def notes(self, bridge: str) -> Counted:
        return self.counted


class Host:
    """One daemon's parts that move a service, between registries in memory."""

    def __init__(self, engine: Engine, doses: Doses, stores: dict[str, Server]) -> None:
        loop = asyncio.get_running_loop()
        me = Writer("host", 0, 0.0, "")
        self.stores = stores
        self.roll = Roll(lambda: engine.notes, lambda: me, clock=loop.time, wall=loop.time)
        self.following = Following(engine, doses, None, self.roll)
        self.steering = Steering(engine, self.following, Journal(None))
        self.moving = Moving(engine, self.following, self.steering)
        self.migrating = Migrating(self.following, self.steering, random.Random(1))
        self.engine = engine

    @property
    def notes(self) -> Counted:
        found = self.engine.notes
        assert isinstance(found, Counted)
        return found

    @property
    def move(self) -> Intent:
        (found,) = self.following.doses.record.moves.values()
        return found

    async def act(self, verb: str) -> None:
        rows = await self.moving.act({"verb": verb, "name": "m", "reason": "r"}, OPERATOR)
        assert [row["code"] for row in rows] == [0], rows

    def share(self) -> float:
        """Of the new side at the place, in percent by weights."""
        there = self.stores["mesh"].instances(PAY)
        weights = {part: sum(one.weight for key, one in there.items() if key[0] == part) for part in "vp"}
        return 100 * weights["p"] / (sum(weights.values()) or 1.0)

    async def settles(self, step: int) -> None:
        """At a step, and nothing under way."""
        await self._until(lambda: self.move.state.step == step and self.move.state.settled is not None)
        await asyncio.sleep(3.0)

    async def has(self, share: float) -> None:
        await self._until(lambda: abs(self.share() - share) < 1.0)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(TURN)


@asynccontextmanager
async def host(notes: type[Counted]) -> AsyncIterator[Host]:
    """It has read everything, and a move is at its first step."""
    stores = {name: Server(name) for name in ("vms", "pods", "mesh")}
    for number in range(4):
        stores["vms"].register(PAY, instance(f"v{number}"))
        stores["pods"].register(PAY, instance(f"p{number + 4}"))

    for number in range(OTHERS):
        stores["vms"].register(ServiceName(f"other-{number}"), instance("v9", f"198.51.100.{number}"))

    def make(name: str, kind: str, options: Any, state: Path | None) -> Memory:
        return Kept(name, stores[name], notes)

    configuration = Configuration(
        bridge=schema.Bridge(id="b1", seat="mesh"),
        registries={name: schema.Registry(name=name, kind="memory", options=EXPORT) for name in stores},
        links=(LINK,),
        warnings=(),
        hash="",
        path=Path(),
        migrations=(BLOCK,),
    )
    doses = Doses()
    loop = asyncio.get_running_loop()
    orderings = {Rank.SHARE: doses}
    async with Engine(
        configuration, events=Silent(), make=make, clock=loop.time, rng=random.Random(1), orderings=orderings
    ) as engine:
        made = Host(engine, doses, stores)
        made.following.restore()
        tasks = [asyncio.create_task(one) for one in (made.roll.run(), made.migrating.run())]
        await asyncio.sleep(5.0)
        await made.act("start")
        await made.settles(1)
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()


class Silent:
    """Tells nobody."""

    def tell(self, event: Event) -> None: ...


def played(work: Callable[[Host], Awaitable[T]], notes: type[Counted] = Counted) -> T:
    """In virtual time."""
    loop = Loop()

    async def run() -> T:
        async with host(notes) as made:
            return await work(made)

    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def test_a_command_is_followed_at_its_place_without_a_wait() -> None:
    async def waited(made: Host) -> list[float]:
        found = []
        for share in (50.0, 75.0):
            began = asyncio.get_running_loop().time()
            await made.act("next")
            await made.has(share)
            found.append(asyncio.get_running_loop().time() - began)
            await made.settles(int(share / 25))
        return found

    assert max(played(waited)) < SOON / 10


def test_a_command_costs_one_read_of_the_record_and_two_writes() -> None:
    async def cost(made: Host) -> tuple[int, int]:
        made.notes.reads = made.notes.writes = 0
        await made.act("next")
        await made.has(50.0)
        return made.notes.reads, made.notes.writes

    assert played(cost) == (1, 2)


def test_a_step_plans_its_service_alone_and_looks_at_each_place_once() -> None:
    async def work(made: Host) -> Counter[str]:
        with calls() as counted:
            await made.act("next")
            await made.settles(2)
        assert len(made.stores["mesh"].names()) > OTHERS
        return counted

    counted = played(work)
    assert 1 <= counted["Planner.plan"] <= 2  # again after its writes, at most
    assert 1 <= counted["spot"] <= counted["look"]
    assert counted["members"] > counted["in_order"] == 0  # none is left out, so no order is asked for


async def elsewhere(made: Host, **fields: Any) -> None:
    """Another daemon of the bridge changes the state of the move."""
    note = await MemoryNotes.read(made.notes, KEY)
    record = decode(note)
    (move,) = record.moves.values()
    changed = replace(move, state=replace(move.state, **fields))
    await MemoryNotes.write(made.notes, KEY, encode(record.with_moves({move.name: changed}, {})), note)


@pytest.mark.parametrize(("notes", "least", "most"), [(Telling, 0.0, SOON / 10), (Counted, SOON / 2, 2 * EVERY)])
def test_what_another_daemon_writes_is_followed_as_soon_as_the_store_tells(
    notes: type[Counted], least: float, most: float
) -> None:
    async def waited(made: Host) -> float:
        began = asyncio.get_running_loop().time()
        await elsewhere(made, approved=True)
        await made.has(50.0)
        return asyncio.get_running_loop().time() - began

    assert least <= played(waited, notes) <= most


def test_a_store_that_tells_is_not_read_again_for_what_this_daemon_wrote() -> None:
    async def reads(made: Host) -> int:
        made.notes.reads = 0
        await made.act("next")
        await made.has(50.0)
        return made.notes.reads

    assert played(reads, Telling) == 1


def test_who_is_faster_than_the_engine_is_looked_at_next_in_the_same_term() -> None:
    async def steps(made: Host) -> tuple[int, str]:
        async def pauses() -> None:
            await elsewhere(made, paused="somebody")

        async def later() -> None:  # not before the command itself has written
            made.notes.meddle = pauses

        made.notes.meddle = later
        await made.act("next")
        for _ in range(3000):
            await asyncio.sleep(TURN)
            assert made.following.leads
        return made.move.state.step, made.move.state.paused

    assert played(steps) == (1, "somebody")
