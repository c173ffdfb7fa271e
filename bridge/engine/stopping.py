"""Freezes decided where no daemon answers: the note at each destination carries them to whoever writes there."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NamedTuple

from bridge.adapter import Export, Notes, Reach, Seat
from bridge.config.schema import Configuration
from bridge.destination import joint, note
from bridge.destination.joint import EXPORT, GROUP, Joint
from bridge.destination.reconciler import Reconciler
from bridge.destination.roll import Daemon, Roll
from bridge.destination.writer import Writer
from bridge.engine.opening import opened
from bridge.errors import IsthmusError
from bridge.link import Link, Policy
from bridge.shards import Shards
from bridge.state.decisions import EVERY_LINK, Decision

PATIENCE = 6.0  # seconds that a writer has to follow a decision: it looks once a second, in trouble every five
SAVED = 3.0  # seconds that the disk, or a destination, has for what was decided
HEARD = 8.0  # seconds that the daemons of an export have: one that ended is known by its silence
REACH = 5.0  # seconds that a registry has to answer
DOES = {EXPORT: "serve", GROUP: "write"}  # what each daemon does there


class Followed(NamedTuple):
    """Whether a decision is followed at one destination. `writer`: who writes there, None: nobody, or nobody knows.

    `why`: why it is not followed, "" where it is. `here_only`: there is no note that the daemons of other hosts read.
    `observes`: for what leads there observes by the file that runs, and where nothing is written no note is kept.
    """

    destination: str
    writer: Writer | None
    why: str
    here_only: bool = False
    observes: bool = False

    @property
    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        writer = {"host": self.writer.host, "pid": self.writer.pid} if self.writer is not None else None
        return {
            "destination": self.destination,
            "followed": not self.why,
            "here_only": self.here_only,
            "observes": self.observes,
            "writer": writer,
            "why": self.why,
        }


def concerned(links: Collection[Link], key: str) -> list[str]:
    """The destinations at which a freeze of that link, or of all (`*`), stops writes."""
    found = (link.to for link in links if key in (EVERY_LINK, link.name) and link.policy is not Policy.OBSERVE)
    return list(dict.fromkeys(found))


def observing(links: Collection[Link], key: str) -> list[Followed]:
    """Where a freeze stops nothing yet: other hosts hear nothing of it, and will write when their file lets them.

    A freeze of all links reaches every host by any destination that is written.
    """
    if concerned(links, key):
        return []
    found = (link.to for link in links if key in (EVERY_LINK, link.name))
    return [Followed(to, None, "", here_only=True, observes=True) for to in dict.fromkeys(found)]


def observed(links: Collection[Link], to: str) -> Followed | None:
    """Where all that leads to a destination observes: nothing is written there, and no note is kept. Else None."""
    policies = {link.policy for link in links if link.to == to}
    return Followed(to, None, "", here_only=True, observes=True) if policies == {Policy.OBSERVE} else None


async def tell(configuration: Configuration, key: str, name: str, decision: Decision | None) -> list[Followed]:
    """Passes a freeze on at each destination that it concerns (None: it is taken back), and waits for the writers."""
    found = await asyncio.gather(
        *(_tell(configuration, to, name, decision) for to in concerned(configuration.links, key))
    )
    return [*found, *observing(configuration.links, key)]


async def _tell(configuration: Configuration, to: str, name: str, decision: Decision | None) -> Followed:
    bridge = configuration.bridge.id
    try:
        async with opened(configuration, to, bridge) as (registry, seat, is_lent, notes):
            if notes is not None and (isinstance(registry, Export) or await _is_divided(seat)):
                kind = EXPORT if isinstance(registry, Export) else GROUP
                return await _tell_all(notes, kind, to, name, decision)
            if seat is None:
                return Followed(to, None, "", here_only=True)
            async with asyncio.timeout(REACH):
                shared = await note.pass_on(seat, name, decision)
                reach = await registry.reach()
            if shared is None and decision is not None and not is_lent and bridge in (reach.writers or ()):
                return Followed(to, None, f"{to} takes no note of this, and another host writes there")
            if shared is None or (not is_lent and _nobody_writes(reach, bridge)):
                return Followed(to, None, "")
            return await waited(seat, to, shared)
    except TimeoutError:
        return Followed(to, None, f"{to} does not answer, and another host may write there")
    except (IsthmusError, ValueError) as error:
        return Followed(to, None, f"{to}: {error}; another host may write there")


async def _is_divided(seat: Seat | None) -> bool:
    async with asyncio.timeout(REACH):
        return isinstance(seat, Shards) and await seat.divided() is not None


async def _tell_all(notes: Notes, kind: str, to: str, name: str, decision: Decision | None) -> Followed:
    """At an export, or where a group writes: every daemon that runs is to follow."""
    clock = asyncio.get_running_loop().time
    me = Writer(socket.gethostname(), os.getpid(), 0.0, "")
    roll = Roll(lambda: notes, lambda: me, clock=clock, wall=time.time)
    async with asyncio.timeout(REACH):
        agreed = await joint.pass_on(notes, joint.key_of(to, kind), name, decision)
        await roll.listen()
    return await _all_follow(lambda: roll.behind(joint.key_of(to, kind), agreed.turn), roll.listen, to, kind)


async def _all_follow(
    behind: Callable[[], Sequence[Daemon]], look: Callable[[], Awaitable[object]], to: str, kind: str
) -> Followed:
    try:
        async with asyncio.timeout(HEARD):
            while behind():
                await asyncio.sleep(note.LOOK)
                await look()
    except TimeoutError:
        process = behind()[0].process
        why = f"{process.host} (pid {process.pid}) {DOES[kind]}s {to} as before; it has not read the note yet"
        return Followed(to, process, why)
    return Followed(to, None, "")


async def passed_on(reconciler: Reconciler, to: str) -> Followed:
    """Passes on what is decided in this process to whoever writes at its destination, and waits for it to follow.

    This process may be the writer: the note shows it, for only who still has the lock writes that it follows.
    """
    peers, seat = reconciler.peers, reconciler.seat
    if isinstance(peers, Joint):
        return await _passed_to_all(peers, to)
    if seat is None or peers is None:
        return Followed(to, peers.writer if peers is not None else None, "", here_only=True)
    try:
        async with asyncio.timeout(SAVED):
            shared = await peers.pass_on()
    except (TimeoutError, IsthmusError, ValueError) as error:
        why = f"{to}: {error}" if str(error) else f"{to} does not answer"
        others = "a host that takes over from this one does not know" if reconciler.lead.writes else ""
        return Followed(to, peers.writer, f"{why}; {others or 'another host may write there'}")
    return await waited(seat, to, shared) if isinstance(shared, note.Shared) else Followed(to, None, "")


async def shared(reconciler: Reconciler) -> bool:
    """Whether the other daemons of an export can read what is decided here, before this process makes use of it.

    Elsewhere nobody else makes use of it, and the answer is that there are others who can read it in time, or none.
    """
    if not isinstance(reconciler.peers, Joint):
        return reconciler.peers is not None
    try:
        async with asyncio.timeout(SAVED):
            await reconciler.peers.pass_on()
    except (TimeoutError, IsthmusError, ValueError):  # the daemon goes on to try, and says so
        return False
    return True


async def _passed_to_all(peers: Joint, to: str) -> Followed:
    does = DOES[peers.kind]
    try:
        async with asyncio.timeout(SAVED):
            agreed = await peers.pass_on()
            await peers.look_around()  # only now: who began since the last look has read what was decided, or is there
        return await _all_follow(lambda: peers.behind(agreed.turn), peers.look_around, to, peers.kind)
    except TimeoutError:
        return Followed(to, None, f"the store of the notes does not answer, and other hosts may {does} {to}")
    except (IsthmusError, ValueError) as error:
        return Followed(to, None, f"{to}: {error}; other hosts may {does} it")


async def waited(seat: Seat, to: str, shared: note.Shared, patience: float = PATIENCE) -> Followed:
    """Waits `patience` seconds for the writer to follow what the note says.

    Where there is no writer by then, the next one begins with that note.
    """
    try:
        async with asyncio.timeout(patience):
            shared = await note.followed(seat, shared.turn) or shared
    except TimeoutError:
        if shared.author is None:
            return Followed(to, None, "")
        who = f"{shared.author.host} (pid {shared.author.pid})"
        return Followed(to, shared.author, f"{who} writes on; it has not read the note at {to} yet")
    return Followed(to, shared.author, "")


def _nobody_writes(reach: Reach, bridge: str) -> bool:
    return reach.writers is not None and bridge not in reach.writers
