"""What an operator does to a bridge while none of its daemons runs: the commands `purge` and `adopt`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from bridge.adapter import Change, Held
from bridge.errors import IsthmusError
from bridge.guard.holds import item_of
from bridge.link import Link
from bridge.model import ServiceName, Traits
from bridge.plan.adopt import plan_adoption
from bridge.plan.purge import apply_under_lock, plan_purge
from bridge.plan.route import Wanted
from tests.simulation.client import Client
from tests.simulation.faults import Line
from tests.simulation.world import World


class Command(Client):
    """One command of one bridge. Nobody else of that bridge writes: the daemons have been stopped on every host."""

    def __init__(self, world: World, owner: str) -> None:
        super().__init__(world, owner, f"{owner}!")
        self._read = super().links  # once: the file may change while the command runs

    @property
    def links(self) -> tuple[Link, ...]:
        """What its file said."""
        return self._read

    def as_read(self, link: Link) -> Link | None:
        """A link as the file has it by now, None where it has none of that name."""
        return next((one for one in self.links if one.name == link.name), None)

    def traits(self, registry: str) -> Traits:
        """What a destination can say."""
        return Line(self, registry).traits

    async def held(self, registry: str) -> Held:
        """What stands at a destination. Raises Unavailable or Denied."""
        held: Held = await Line(self, registry).sink(self.owner).held()
        return held

    async def make(self, registry: str, changes: list[Change], *also: str, leave: bool = False) -> None:
        """Makes the changes under the lock, and under those of the bridges `also`. Raises as a destination does."""
        lender = Line(self, self.seat_of(registry))
        seats = [lender.seat(owner, registry) for owner in (self.owner, *also)]
        await apply_under_lock(Line(self, registry).sink(self.owner), seats[0], changes, *seats[1:], leave=leave)


async def purge(world: World, owner: str, registry: str, **which: object) -> None:
    """Removes what a bridge owns at a destination; `which`: as `plan_purge` takes it."""
    command = Command(world, owner)

    async def work() -> None:
        purged = plan_purge(await command.held(registry), owner, **which)  # type: ignore[arg-type]
        world.note(f"operator purges {registry} of {owner}: {which} {len(purged.changes)}, {len(purged.spared)} spared")
        world.oracle.approve(command, registry, [item_of(change) for change in purged.changes])
        await command.make(registry, purged.changes, leave=not which and not purged.spared)

    await _said(command, work)


async def adopt(world: World, link: Link, owner: str, other: str) -> None:
    """Takes over what another bridge copied from the sources of a link."""
    command = Command(world, owner)
    read = command.as_read(link)
    if read is None:
        return

    async def work() -> None:
        sources = [(name, server.identity) for (name, _), server in world.behind.items() if name in read.from_]
        held = await command.held(read.to)
        found = plan_adoption(held.services, lambda _: {}, owner, read, other, sources, traits=command.traits(read.to))
        world.note(f"operator adopts {len(found.changes)} of {other} for {read.name} of {owner}")
        await command.make(read.to, found.changes, other)

    await _said(command, work)


async def adopt_natives(
    world: World, link: Link, owner: str, wanted: Callable[[ServiceName], Mapping[str, Wanted]]
) -> None:
    """Takes over natives that are what a link would write; `wanted`: what should stand under a name."""
    command = Command(world, owner)
    read = command.as_read(link)
    if read is None:
        return

    async def work() -> None:
        held = await command.held(read.to)
        found = plan_adoption(held.services, wanted, owner, read, None, [], traits=command.traits(read.to))
        world.note(f"operator adopts {len(found.changes)} natives for {read.name}, {len(found.left)} are left")
        await command.make(read.to, found.changes)

    await _said(command, work)


async def _said(command: Command, work: Callable[[], Awaitable[None]]) -> None:
    """A command that fails says so, and what it made is made."""
    try:
        await work()
    except IsthmusError as error:
        command.note(f"fails: {error}")
    finally:
        command.dead = True
        for session, _ in command.sessions.values():
            session.cancel()


async def ended(world: World, owners: Sequence[str]) -> None:
    """The daemons of these bridges are stopped on every host."""
    while living := [one for one in world.alive() if one.owner in owners]:
        await living[0].end()
