"""Whoever reaches the registries for a bridge: a process of it, or a command of an operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from adapters.memory.server import LENT, Tenure
from bridge.errors import Unavailable
from bridge.link import Link
from tests.simulation.world import LENDER, Server, World

if TYPE_CHECKING:
    from tests.simulation.faults import Told

NAP = 4.0  # seconds: who was stopped for longer notices it; below, it may have been a busy machine


class Client:
    """`told` is what it knows in truth, by the identity and scope of who told it."""

    def __init__(self, world: World, owner: str, name: str) -> None:
        self.world = world
        self.owner = owner
        self.name = name
        self.told: dict[tuple[str, str], Told] = {}
        self.sessions: dict[tuple[Server, str], tuple[asyncio.Task[Any], asyncio.Future[Tenure]]] = {}
        self.deaf: dict[Server, float] = {}  # since when the watches that ran then are dead without a word
        self.cut_off: set[Server] = set()  # what it writes to and cannot reach, though others can
        self.dead = False  # nothing more is heard of it
        self.slept = self.woke = float("-inf")  # when it was stopped, and went on, for the last time

    def __repr__(self) -> str:
        return self.name

    def note(self, text: str) -> None:
        """A line of the story."""
        self.world.note(f"{self.name} {text}")

    @property
    def links(self) -> tuple[Link, ...]:
        """What its file says."""
        return tuple(self.world.links[self.owner])

    @property
    def settled(self) -> set[tuple[str, str, str]]:
        """Targets and scopes whose first copy is done, as far as it knows."""
        return set()

    async def living(self) -> None:
        """Returns to the living: nothing more comes from a process that was killed."""
        if self.dead:
            await asyncio.Event().wait()

    def reach(self, server: Server) -> None:
        """A request to what it writes to; raises Unavailable."""
        if server in self.cut_off:
            raise Unavailable(f"{server!r} cannot be reached from here")

    def missed(self, since: float) -> bool:
        """Whether that was while it was stopped, for so short a time that it need not notice."""
        return self.woke - self.slept <= NAP and self.slept <= since <= self.woke

    def leads(self, server: Server, key: str) -> bool:
        """Whether the lock of that seat is its own."""
        _, granted = self.sessions.get((server, key), (None, None))
        if granted is None or not granted.done() or granted.cancelled() or granted.exception():
            return False
        return server.holder(key) is granted.result()

    def holds_lock(self, target: Server) -> bool:
        """Whether it holds the lock of this destination, its own or one that it borrows."""
        lender = self.world.lender
        if target.registry in self.world.seatless:
            return lender is not None and self.leads(lender, f"{self.owner}{LENT}{target.registry}")
        return self.leads(target, self.owner)

    def seat_of(self, registry: str) -> str:
        """The registry that the seat of a destination is in."""
        return LENDER if registry in self.world.seatless else registry
