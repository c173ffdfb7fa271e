"""What operators say of instances in the place of their sources (`set`, `unset`, `drain`), and what is true of them.

A statement is *sure* where the command said that everybody who writes goes by it, and nothing has happened since that
may undo it (a store that went back with its note, an instance that left). Only sure ones are promised; the others an
operator takes back in the end.
"""

from __future__ import annotations

import asyncio
import random
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from bridge.model import Health, Instance, Mark, ServiceName
from bridge.override import Override
from bridge.state.decisions import Kind, name_of

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import Server, World

GRACE = 4.0  # seconds in which a process may go by what is over: it looks once a second, and writes take a while
SHORT = 15.0  # seconds: what an operator says for a while ends within the history
Where = tuple[str, str, ServiceName, str]  # registry, destination, service and instance as named at the source


class Said:
    """One override or drain of one bridge; times in virtual seconds. `ended`: when it was taken back."""

    def __init__(self, owner: str, kind: Kind, override: Override, since: float, until: float) -> None:
        self.owner = owner
        self.kind = kind
        self.override = override
        self.since = since
        self.until = until
        self.ended = inf
        self.sure = False
        self.taken_back = False  # in the end, at every host

    @property
    def key(self) -> str:
        """What the daemons call it."""
        return f"{self.override.of} at {self.override.at}" if self.override.at else self.override.of

    @property
    def single(self) -> bool:
        """Whether it ends with its one instance."""
        return "/" in self.override.of

    def stands(self, now: float, grace: float = 0.0) -> bool:
        """Whether somebody may go by it."""
        return now < min(self.until, self.ended) + grace

    def covers(self, where: Where) -> bool:
        """Whether it is of that instance, there."""
        registry, to, service, id = where
        of, at = self.override.of, self.override.at
        return at in ("", to) and of in (
            f"{service}",
            f"{service}/{id}",
            f"{service}@{registry}",
            f"{service}@{registry}/{id}",
        )

    @property
    def narrow(self) -> tuple[bool, bool, bool, bool]:
        """Of two that say the same thing the greater one counts."""
        of, at = self.override.of, self.override.at
        return self.kind is Kind.DRAIN, self.single, bool(at), "@" in of


class Sayings:
    """All that operators said in a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.all: list[Said] = []

    def _of(self, owner: str, target: Server, mark: Mark, grace: float = GRACE) -> list[Override]:
        """What is said of what was copied there, now or a moment ago; the last one counts most."""
        source, now = self._world.at(mark.path[-1], mark.scope), self._world.loop.time()
        if source is None or not self.all:
            return []
        where = (source.registry, target.registry, mark.service, mark.instance)
        found = [one for one in self.all if one.owner == owner and one.stands(now, grace) and one.covers(where)]
        return [one.override for one in sorted(found, key=lambda one: one.narrow)]

    def may_stop(self, owner: str, target: Server, mark: Mark) -> bool:
        """Whether something that is said of what was copied there ends that it serves."""
        return any(one.stops for one in self._of(owner, target, mark))

    def takes_the_last(self, owner: str, target: Server, mark: Mark) -> bool:
        """Whether an operator has said that the last one may go."""
        return any(one.including_last for one in self._of(owner, target, mark))

    def must_stop(self, owner: str, target: Server, mark: Mark) -> bool:
        """Whether all who write there know for sure that it is to receive no traffic."""
        source, now = self._world.at(mark.path[-1], mark.scope), self._world.loop.time()
        where = (source.registry if source is not None else "", target.registry, mark.service, mark.instance)
        return any(
            one.sure and one.override.health and one.since + GRACE < now and one.stands(now) and one.covers(where)
            for one in self.all
            if one.owner == owner
        )

    def may_be(self, owner: str, target: Server, mark: Mark, true: Instance, written: Instance) -> bool:
        """Whether what is written differs from what a native registered only by what is said of it."""
        said = self._of(owner, target, mark)
        # What another bridge, or the same one, made of it on its way here stands at the source.
        source = self._world.at(mark.path[-1], mark.scope)
        known = source.stood(mark.service, mark.instance) if source is not None else []
        there = [one for one in known if one.version == written.version] or [true]
        keys = true.metadata.keys() | {key for one in said for key in one.metadata}
        texts = {key: {one.metadata.get(key) for one in there} for key in written.metadata}
        moved = bool(self._world.migrations)  # a share says weights and zones
        return (
            written.metadata.keys() <= keys | {key for one in there for key in one.metadata}
            and all(
                text in texts[key] or any(one.metadata.get(key) == text for one in said)
                for key, text in written.metadata.items()
            )
            and (
                moved
                or written.weight in {one.weight for one in there}
                or any(one.weight == written.weight for one in said)
            )
            and (
                moved
                or written.locality.zone in {one.locality.zone for one in there}
                or any(one.zone == written.locality.zone for one in said)
            )
        )

    def as_said(self, owner: str, target: Server, mark: Mark, one: Instance) -> Instance:
        """An instance of a source as it should stand at a target."""
        true = one.health
        for override in self._of(owner, target, mark, grace=0.0):
            health = Health(override.health) if override.health else Health.DRAINING if override.weight == 0 else None
            if health is not None and true is not Health.UNHEALTHY:
                one = msgspec.structs.replace(one, health=health)
            zone = one.locality.zone if override.zone is None else override.zone
            one = msgspec.structs.replace(
                one,
                weight=override.weight or one.weight,
                locality=msgspec.structs.replace(one.locality, zone=zone),
                metadata={**one.metadata, **override.metadata},
            )
        return one

    def went_back(self, server: Server) -> None:
        """A store went back, and its notes with it: nobody promises what is in force, and what ended may be again."""
        owners = {owner for owner, _ in self._world.links_to(server)}
        for one in self.all:
            if one.owner in owners:
                one.sure, one.ended = False, inf if one.ended > one.since else one.ended

    def forgotten(self, owner: str) -> None:
        """The notes of a bridge are taken away."""
        for one in self.all:
            one.sure = one.sure and one.owner != owner

    def left(self, id: str) -> None:
        """An instance left: what is said of it alone ends when that is seen."""
        for one in self.all:
            one.sure = one.sure and not (one.single and one.override.of.endswith(f"/{id}"))

    def may_leave(self) -> None:
        """A source may tell less than there is: what it leaves out has been away."""
        for one in self.all:
            one.sure = one.sure and not one.single

    # -- in the end --------------------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """An operator takes back what is not sure, at every host."""
        now = self._world.loop.time()
        for one in self.all:
            if not one.taken_back and (one.sure or not one.stands(now)):
                continue
            for process in self._world.alive():
                if process.owner == one.owner and not process.stopped:
                    process.disk.kept.decisions.drop(name_of(one.kind, one.key))
            one.ended, one.taken_back = min(one.ended, now), True

    def ending(self) -> list[str]:
        """What is still to end by itself."""
        now = self._world.loop.time()
        return [f"{one.key} ends" for one in self.all if not one.stands(now) and one.stands(now, GRACE)] + [
            f"{one.key} is to end" for one in self.all if one.stands(now) and one.until < inf
        ]


# -- what an operator does -------------------------------------------------------------------------------------------


async def operate(world: World, rng: random.Random) -> None:
    """Again and again an operator says something of instances, by any host, or takes it back."""
    while True:
        await asyncio.sleep(rng.expovariate(1.0 / 6.0))
        owner = rng.choice(list(world.links))
        now = world.loop.time()
        mine = [one for one in world.said.all if one.owner == owner and one.stands(now)]
        hosts = [one for one in world.alive() if one.owner == owner and not one.stopped]
        if not hosts:
            continue
        if mine and rng.random() < 0.35:
            await unsay(rng.choice(hosts), rng.choice(mine))
        else:
            await say(rng.choice(hosts), *_something(world, rng, hosts[0]))


def _something(world: World, rng: random.Random, host: Process) -> tuple[Kind, Override, float | None]:
    """What is said, of what, and for how long (None: until it is taken back)."""
    link = rng.choice(host.links)
    registry = rng.choice(link.from_)
    servers = [server for (name, _), server in world.servers.items() if name == registry]
    natives = world.natives(rng.choice(servers)) or [(ServiceName("s0"), "i0")]
    service, id = rng.choice(natives)
    of = rng.choice((f"{service}", f"{service}@{registry}", f"{service}/{id}", f"{service}@{registry}/{id}"))
    of = f"{service}@{registry}/{id}" if rng.random() < 0.4 else of
    at = link.to if rng.random() < 0.3 else ""
    lasting = None if rng.random() < 0.4 else rng.uniform(2.0, SHORT)
    last = rng.random() < 0.2
    if rng.random() < 0.35:
        return Kind.DRAIN, Override(of=of, at=at, health="DRAINING", including_last=last), lasting
    says: dict[str, Any] = rng.choice(
        (
            {"weight": 0.0},
            {"weight": 2.0},
            {"health": "DRAINING"},
            {"health": "UNHEALTHY"},
            {"zone": "z"},
            {"metadata": {"env": rng.choice(("canary", "old"))}},
        )
    )
    return Kind.OVERRIDE, Override(of=of, at=at, including_last=last, **says), lasting


async def say(host: Process, kind: Kind, override: Override, lasting: float | None = None) -> bool:
    """The command `set` or `drain`, at one host; whether everybody who writes goes by it."""
    world = host.world
    now = world.loop.time()
    one = Said(host.owner, kind, override, now, inf if lasting is None else now + lasting)
    for each in world.said.all:
        if (each.owner, each.kind, each.key) == (one.owner, one.kind, one.key) and each.stands(now, GRACE):
            return False  # what is said of the same is said once in these histories
    world.said.all.append(one)  # from the moment that it is asked for somebody may go by it
    answer = await host.asks(kind, override, lasting)
    if isinstance(answer, str):  # refused: nothing is in force
        one.ended = world.loop.time() if "not sure" in answer else -inf
        host.note(f"refused: {answer}")
        return False
    if answer is not None and answer["until"] is not None:
        one.until = answer["until"]
    one.sure = answer is not None and all(row["followed"] for row in answer["destinations"])
    if one.single and not any(
        id == override.of.rpartition("/")[2] for server in world.servers.values() for _, id in world.natives(server)
    ):
        one.sure = False
    return one.sure


async def unsay(host: Process, one: Said) -> None:
    """The command `unset`, at one host: without a place it ends what is said of the same at any."""
    of, at = one.override.of, one.override.at
    ending = [
        each
        for each in host.world.said.all
        if each.owner == one.owner and each.override.of == of and at in ("", each.override.at)
    ]
    for each in ending:
        each.sure = False
    told = await host.unsays(one.override)
    now = host.world.loop.time()
    for each in ending if told else ():
        each.ended = min(each.ended, now)
