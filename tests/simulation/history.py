"""What a seed makes happen: registries and links, natives that live their lives, and faults that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from bridge.link import Guard, Link, Policy, Services, Unhealthy
from bridge.model import Health, Instance, ServiceName
from tests.simulation import spells
from tests.simulation.process import Disk, Process
from tests.simulation.world import Server, World

STEPS = 120  # what happens in one history
PAUSE = 1.5  # seconds between two of these, on average
SERVICES = tuple(ServiceName(f"s{number}") for number in range(6))

Act = Callable[[World], Awaitable[None] | None]


def link(to: str, *froms: str, **fields: object) -> Link:
    """A sync link for everything, with a guard that waits seconds instead of minutes."""
    common = {
        "name": f"{'-'.join(froms)}-to-{to}",
        "from_": froms,
        "to": to,
        "policy": Policy.SYNC,
        "services": Services(include=("*",)),
        "guard": Guard(window=40.0, source_count=4, source_share=0.2, confirm_event=3.0, confirm_absence=8.0),
    }
    return Link(**common | fields)  # type: ignore[arg-type]


# -- registries and links --------------------------------------------------------------------------------------------


def _one_way(world: World) -> None:
    world.links["x"] = [_vary(world, link("b", "a"))]


def _two_ways(world: World) -> None:
    world.links["x"] = [_vary(world, link("b", "a")), link("a", "b")]


def _chain(world: World) -> None:
    world.links["x"] = [link("b", "a"), _vary(world, link("c", "b"))]


def _ring(world: World) -> None:
    world.links["x"] = [link("b", "a"), link("c", "b"), link("a", "c")]


def _ring_of_three_bridges(world: World) -> None:
    world.links |= {"x": [link("b", "a")], "y": [link("c", "b")], "z": [link("a", "c")]}


def _merge(world: World) -> None:
    world.links["x"] = [_vary(world, link("c", "a", "b"))]


def _fan_in(world: World) -> None:
    world.links["x"] = [
        link("c", "a", services=Services(include=("s0", "s1", "s2"))),
        link("c", "b", services=Services(include=("s*",), exclude=("s0", "s1", "s2"))),
    ]


def _scopes(world: World) -> None:
    world.server("a", "east"), world.server("a", "west")
    world.links["x"] = [_vary(world, link("b", "a"))]


def _two_bridges(world: World) -> None:
    world.links |= {"x": [link("b", "a")], "y": [link("b", "a", name="second")]}


def _two_bridges_two_ways(world: World) -> None:
    world.links |= {"x": [link("b", "a")], "y": [link("a", "b")]}


SHAPES = (
    _one_way,
    _two_ways,
    _chain,
    _ring,
    _ring_of_three_bridges,
    _merge,
    _merge,
    _fan_in,
    _scopes,
    _two_bridges,
    _two_bridges_two_ways,
)


def _vary(world: World, one: Link) -> Link:
    """Another policy, health, filter or name, now and then."""
    rng = world.rng
    fields: dict[str, object] = {}
    if rng.random() < 0.3:
        fields["unhealthy"] = rng.choice((Unhealthy.WITHDRAW, Unhealthy.MARK))
    if rng.random() < 0.2:
        fields["where"] = {"team": "pay*"}
    if rng.random() < 0.15:
        fields["policy"] = rng.choice((Policy.UPSERT_ONLY, Policy.OBSERVE))
    if rng.random() < 0.15:
        fields["rename"] = "{name}-copy"
    return link(one.to, *one.from_, services=one.services, **fields)


def begin(world: World) -> None:
    """Registries, links and natives of one history."""
    rng = world.rng
    rng.choice(SHAPES)(world)
    for links in world.links.values():
        for one in links:
            for name in (*one.from_, one.to):
                if not world.scopes(name):
                    world.server(name, health=rng.random() < 0.8)
    for server in world.servers.values():
        for service in rng.sample(SERVICES, rng.randint(2, len(SERVICES))):
            for _ in range(rng.randint(1, 5)):
                _register(world, server, service)


# -- natives ---------------------------------------------------------------------------------------------------------


def _register(world: World, server: Server, service: ServiceName) -> Instance:
    """Mostly an instance of its own; now and then one with an id or an address that another registry has too."""
    rng, fields = world.rng, {}
    others = [s for s in world.servers.values() if s.registry != server.registry and service in s.rightful]
    if others and rng.random() < 0.15:
        twin = rng.choice(list(rng.choice(others).rightful[service].values()))
        if not any(twin.id in sibling.rightful.get(service, {}) for sibling in siblings(world, server)):
            fields = {"id": twin.id} if rng.random() < 0.5 else {"address": twin.address}
    team = rng.choice(("pay", "pay-2", "pay", "shop"))
    return world.start(server, service, metadata={"team": team}, **fields)


def siblings(world: World, server: Server) -> list[Server]:
    """The scopes of its registry, itself among them: an id is given once in all of them."""
    return [one for one in world.servers.values() if one.registry == server.registry]


def _some(world: World) -> tuple[Server, ServiceName, str] | None:
    server = world.rng.choice(list(world.servers.values()))
    natives = world.natives(server)
    return (server, *world.rng.choice(natives)) if natives else None


def grow(world: World) -> None:
    """An instance comes."""
    server = world.rng.choice(list(world.servers.values()))
    _register(world, server, world.rng.choice(SERVICES))


def shrink(world: World) -> None:
    """An instance goes."""
    if some := _some(world):
        world.stop(*some)


def update(world: World) -> None:
    """An instance changes its health, its metadata, or its address."""
    if some := _some(world):
        rng = world.rng
        fields: dict[str, object] = {}
        match rng.randint(0, 4):
            case 0 | 1:
                fields["health"] = rng.choice([*Health])
            case 2:
                fields["metadata"] = {"team": rng.choice(("pay", "shop"))}
            case 3:
                fields["address"] = f"10.9.0.{world.number() % 250}"
        world.alter(*some, **fields)  # type: ignore[arg-type]


async def restart(world: World) -> None:
    """An instance goes and comes back under its id."""
    if some := _some(world):
        server, service, id = some
        before = server.rightful[service][id]
        world.stop(*some)
        await asyncio.sleep(world.rng.random() * world.rng.choice((0.05, 2.0)))
        if not any(id in sibling.instances(service) for sibling in siblings(world, server)):
            world.put(server, service, before)


async def deploy(world: World) -> None:
    """A service is rolled over, one instance or a quarter at a time; new ones come first, or old ones go first."""
    if some := _some(world):
        server, service, _ = some
        old = [id for name, id in world.natives(server) if name == service]
        lot = world.rng.choice((1, max(1, len(old) // 4)))
        await roll(world, server, service, old, lot, surge=world.rng.random() < 0.7)


async def roll(
    world: World, server: Server, service: ServiceName, old: Sequence[str], lot: int, *, surge: bool, pause: float = 0.5
) -> None:
    """Replaces these instances, so many at a time."""
    for start in range(0, len(old), lot):
        batch = old[start : start + lot]
        for first in (surge, not surge):
            for id in batch:
                if first:
                    world.start(server, service, metadata={"team": "pay"})
                elif id in server.rightful.get(service, {}):
                    world.stop(server, service, id)
            await asyncio.sleep(world.rng.random() * pause)


def retire(world: World) -> None:
    """A whole service goes."""
    if some := _some(world):
        server, service, _ = some
        for name, id in world.natives(server):
            if name == service:
                world.stop(server, name, id)


def occupy(world: World) -> None:
    """A native takes an address or an id that a bridge holds at its target; or leaves it."""
    server = world.rng.choice(list(world.servers.values()))
    copies = [(name, id) for name, one in server.contents().items() for id in one.marks]
    if copies:
        service, id = world.rng.choice(copies)
        if world.rng.random() < 0.5:
            world.start(server, service, id=id)
        else:
            world.start(server, service, address=server.instances(service)[id].address)


def meddle(world: World) -> None:
    """Somebody deletes what a bridge wrote."""
    server = world.rng.choice(list(world.servers.values()))
    copies = [(name, id) for name, one in server.contents().items() for id in one.marks]
    if copies:
        world.stop(server, *world.rng.choice(copies))


# -- the operator and the machines -------------------------------------------------------------------------------------


def approve(world: World) -> None:
    """An operator approves something that is held, right or wrong."""
    held = [(process, *one) for process in world.alive() if not process.stopped for one in process.holds()]
    if held:
        process, reconciler, hold = world.rng.choice(held)
        process.approve(reconciler, hold)


async def pause(world: World) -> None:
    """An operator stops the writes of a link for a while."""
    one = world.rng.choice([one.name for links in world.links.values() for one in links])
    world.frozen.add(one)
    await asyncio.sleep(world.rng.uniform(1.0, 10.0))
    thaw(world, one)


def thaw(world: World, one: str) -> None:
    """Writes go on."""
    world.frozen.discard(one)
    for process in world.alive():
        for reconciler in process.reconcilers.values():
            reconciler.poke()


async def crash(world: World) -> None:
    """A process dies, with or without a word, and the next one starts with what the disk has."""
    if not world.alive():
        return
    process = world.rng.choice(world.alive())
    await (process.kill() if world.rng.random() < 0.7 else process.end())
    await asyncio.sleep(world.rng.random() * world.rng.choice((0.5, 8.0)))
    start(world, process.owner, process.disk if world.rng.random() < 0.7 else None)


def start(world: World, owner: str, disk: Disk | None = None) -> None:
    """A process starts. That a store has begun another life it knows only from what it remembers, if at all."""
    process = Process(world, owner, disk)
    for server in world.servers.values():
        if server.another_life:
            world.oracle.forgive(process, server)


async def stop_and_go(world: World) -> None:
    """A process is stopped for a while, perhaps in the middle of a write, and a standby takes over."""
    if not world.alive():
        return
    process = world.rng.choice(world.alive())
    if sum(one.owner == process.owner for one in world.alive()) == 1:
        start(world, process.owner)
        await asyncio.sleep(world.rng.uniform(0.0, 3.0))
    if not (process.stopped or process.ending):
        process.freeze()
        await asyncio.sleep(world.rng.uniform(0.5, 15.0))
        process.resume()


CALM: tuple[tuple[int, Act], ...] = (
    (8, grow),
    (6, shrink),
    (8, update),
    (4, restart),
    (3, deploy),
    (1, retire),
    (2, occupy),
)
ROUGH: tuple[tuple[int, Act], ...] = (
    *CALM,
    (2, meddle),
    (2, approve),
    (1, pause),
    (2, crash),
    (1, stop_and_go),
    (9, spells.cast),
)


async def unfold(world: World, steps: int = STEPS) -> None:
    """Lets a history happen; a third of them are calm."""
    rng = world.rng
    world.faulty = rng.random() < 0.7
    acts = ROUGH if world.faulty else CALM
    weights = [weight for weight, _ in acts]
    for owner in world.links:
        Process(world, owner)
    await asyncio.sleep(rng.random() * 3.0)
    for _ in range(steps):
        (_, act), *_ = rng.choices(acts, weights)
        if world.oracle.broken:
            return
        doing = act(world)
        if doing is not None:
            world.serve(_done(doing), happening=True)
        await asyncio.sleep(rng.expovariate(1.0 / PAUSE) if rng.random() < 0.7 else 0.0)


async def _done(doing: Awaitable[None]) -> None:
    await doing
