"""What a process of a bridge has for migrations, what answers its gates, and what passes between it and the record."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from adapters.memory import Config
from adapters.memory.seat import MemoryNotes
from bridge.adapter import Meter, Note, Sample
from bridge.admin.protocol import Peer
from bridge.daemon.migrating import KEY, Following, Migrating, Steering
from bridge.daemon.moving import Moving
from bridge.destination.roll import Roll
from bridge.destination.writer import Writer
from bridge.errors import Unavailable
from bridge.migration.intent import Record, decode
from bridge.plan.doses import Doses
from bridge.state.journal import Journal
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.client import Client
    from tests.simulation.process import Process
    from tests.simulation.world import Server

OPERATOR = Peer(uid=0, pid=0)


class Laid(Config, frozen=True):
    """A registry in memory that is read by the consumers of a layout."""

    layout: str = ""


class Migrations:
    """The parts of one process that follow and move the migrations of its file."""

    def __init__(self, process: Process, doses: Doses) -> None:
        self._process = process
        world, engine = process.world, process.engine
        me = Writer(process.name, 0, process.began, "")
        rng = random.Random(world.rng.random())
        self.roll = Roll(lambda: engine.notes, lambda: me, clock=world.loop.time, wall=world.wall, rng=rng)
        self.following = Following(engine, doses, None, self.roll)
        self.steering = Steering(engine, self.following, Journal(None))
        self.moving = Moving(engine, self.following, self.steering)
        self.migrating = Migrating(self.following, self.steering, rng)

    async def run(self) -> None:
        """Never returns."""
        self.following.restore()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.roll.run())
            tasks.create_task(self.migrating.run())

    async def act(self, verb: str, name: str, **more: Any) -> str:
        """The command `migrate`; what it says."""
        try:
            rows = await self.moving.act({"verb": verb, "name": name, "reason": "r", **more}, OPERATOR)
        except (LookupError, Unavailable) as error:
            return str(error)
        return "; ".join(f"{row['move']}: {row['text']}" for row in rows)

    async def shares(self) -> dict[str, tuple[float, float]]:
        """What `migrate status` says here of each move at each place, in percent: what is meant, and what stands."""
        return {
            f"{row['move']} at {at['place']}": (at["intended"], at["measured"])
            for row in await self.moving.status({"name": "m"}, OPERATOR)
            for at in row["places"]
        }


class NotesLine:
    """The notes by key as one process sees them; the world is told what it read of the record, and what it wrote."""

    def __init__(self, process: Client, server: Server, inner: MemoryNotes) -> None:
        self._process = process
        self._server = server
        self._inner = inner

    async def _reached(self) -> None:
        await self._process.living()
        self._process.reach(self._server)

    async def read(self, key: str) -> Note | None:
        """See `Notes.read`."""
        await self._reached()
        found = await self._inner.read(key)
        if key == KEY and (moves := self._process.world.moves) is not None:
            moves.has_read(self._process, decode(found))
        return found

    async def below(self, start: str) -> Mapping[str, Note]:
        """See `Notes.below`."""
        await self._reached()
        return await self._inner.below(start)

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """See `Notes.write`."""
        await self._reached()
        moves = self._process.world.moves if key == KEY else None
        if moves is None:
            return await self._inner.write(key, content, before)
        was, fresh = decode(before), msgspec.json.decode(content, type=Record)
        leads = moves.leads(self._process)
        made = await self._inner.write(key, content, before)
        moves.has_written(self._process, was, fresh, leads=leads)
        return made

    async def remove(self, key: str, before: Note) -> None:
        """See `Notes.remove`."""
        await self._reached()
        await self._inner.remove(key, before)


class Answers:
    """What answers the queries of gates: by the mood of the world."""

    def __init__(self, process: Client) -> None:
        self._process = process

    async def ask(self, query: str, at: float | None = None) -> Sample:
        """See `Meter.ask`; a query begins with what it is about."""
        world = self._process.world
        await asyncio.sleep(world.rng.random() * 0.05)
        now, moves = world.wall(), world.moves
        assert moves is not None
        if query.startswith("requests"):
            return Sample(0.0 if "vm" in query and moves.quiet else 100.0, now)
        if moves.mood == "none":
            return moves.no_data(now)
        return Sample(0.5 if moves.mood == "bad" else 0.001, now)

    async def close(self) -> None:
        """Nothing is open."""


def meter(*_: object) -> Meter:
    """What a process asks, in the place of a Prometheus."""
    return Answers(cast("Client", PROCESS.get()))
