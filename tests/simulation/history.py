"""What a seed makes happen: registries and links, natives that live their lives, and faults that come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from bridge.adapter import Returns
from bridge.link import Guard, GuardFor, Link, Policy, Services, Unhealthy
from bridge.model import Health, Instance, Port, ServiceName
from tests.simulation import commands, saying, spells
from tests.simulation.process import Disk, Process
from tests.simulation.world import Server, World

STEPS = 120  # what happens in one history
PAUSE = 1.5  # seconds between two of these, on average
SERVICES = tuple(ServiceName(f"s{number}") for number in range(6))

GUARD = Guard(window=40.0, source_count=4, source_share=0.2, hard_count=1, confirm_event=3.0, confirm_absence=8.0)

Act = Callable[[World], Awaitable[None] | None]


def link(to: str, *froms: str, **fields: object) -> Link:
    """A sync link for everything, with a guard that waits seconds instead of minutes."""
    common = {
        "name": f"{'-'.join(froms)}-to-{to}",
        "from_": froms,
        "to": to,
        "policy": Policy.SYNC,
        "services": Services(include=("*",)),
        "guard": GUARD,
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


def _two_links(world: World) -> None:
    """From one registry into one, each with a guard of its own."""
    few = ("s0", "s1", "s2")
    world.links["x"] = [
        _vary(world, link("b", "a", name="few", services=Services(include=few))),
        _vary(world, link("b", "a", name="rest", services=Services(include=("s*",), exclude=few))),
    ]


SHAPES = (
    _one_way,
    _two_links,
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
    if rng.random() < 0.2:
        fields["port"] = "http"
    guard = one.guard
    if rng.random() < 0.3:
        guard = fields["guard"] = msgspec.structs.replace(GUARD, window=rng.choice((5.0, 90.0, 600.0)))
    if rng.random() < 0.3:
        service = str(rng.choice(SERVICES))
        special = GuardFor(services=(service,), window=rng.choice((0.5, 10.0, 300.0)))
        fields["guard_for"] = (special.over(guard, ("window",)),)
    return link(one.to, *one.from_, name=one.name, services=one.services, **fields)


def begin(world: World) -> None:
    """Registries, links and natives of one history."""
    rng = world.rng
    rng.choice(SHAPES)(world)
    for owner, links in world.links.items():
        for one in links:
            world.first[owner, one.name] = one
            for name in (*one.from_, one.to):
                if not world.scopes(name):
                    world.server(name, health=rng.random() < 0.8)
    # A draw of its own, which shifts no other: a third of the histories have targets that borrow their lock.
    if random.Random(f"{world.seed} borrowed").random() < 0.33:
        world.borrow(*(one.to for links in world.links.values() for one in links))
    # Likewise: in a third of them each registry is in a network of its own.
    if random.Random(f"{world.seed} apart").random() < 0.33:
        world.networks = {server.registry: f"of-{server.registry}" for server in world.servers.values()}
    for server in world.servers.values():
        of_its_own = random.Random(f"{world.seed} {server!r}")  # which shifts no other draw
        if of_its_own.random() < 0.3:
            server.returns = Returns(0.9, 10.0)
        fence, shared, polls = (of_its_own.random() < share for share in (0.7, 0.3, 0.3))
        server.config = msgspec.structs.replace(server.config, fence=fence, shared=shared, polls=polls)
        for service in rng.sample(SERVICES, rng.randint(2, len(SERVICES))):
            for _ in range(rng.randint(1, 5)):
                _register(world, server, service)


# -- natives ---------------------------------------------------------------------------------------------------------


def _register(world: World, server: Server, service: ServiceName) -> Instance:
    """Mostly an instance of its own; now and then one with an id or an address that another registry has too."""
    rng, fields = world.rng, dict[str, Any]()
    others = [s for s in world.servers.values() if s.registry != server.registry and service in s.rightful]
    if others and rng.random() < 0.15:
        twin = rng.choice(list(rng.choice(others).rightful[service].values()))
        if not any(twin.id in sibling.rightful.get(service, {}) for sibling in siblings(world, server)):
            fields = {"id": twin.id} if rng.random() < 0.5 else {"address": twin.address}
    team = rng.choice(("pay", "pay-2", "pay", "shop"))
    if rng.random() < 0.1:
        fields["ports"] = (Port(8080, "http", "http"), Port(9090, "admin", "http"))
    return world.start(server, service, metadata={"team": team}, **fields)


def siblings(world: World, server: Server) -> list[Server]:
    """The scopes of its registry, itself among them: an id is given once in all of them."""
    return siblings_of(world, server.registry)


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
                number = world.number()
                fields["address"] = f"10.9.{number // 250}.{number % 250}"
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


async def reuse(world: World, rng: random.Random) -> None:
    """Again and again an instance ends while its registry is silent, and its address is given to another service."""
    while True:
        await asyncio.sleep(rng.expovariate(1.0 / 1.5))
        dark = [server for server in world.servers.values() if server.trouble_since is not None]
        if not dark:
            continue
        server = rng.choice(dark)
        natives = [one for one in world.natives(server) if _is_alone(world, server, *one)]
        others = [one for one in world.servers.values() if _network(world, one) == _network(world, server)]
        if natives:
            service, id = rng.choice(natives)
            before = server.rightful[service][id]
            world.stop(server, service, id)
            another = rng.choice([one for one in SERVICES if one != service])
            world.start(rng.choice(others), another, address=before.address, ports=before.ports)


def _network(world: World, server: Server) -> str:
    return world.networks.get(server.registry, "")


def _is_alone(world: World, server: Server, service: ServiceName, id: str) -> bool:
    """Whether nothing else that is alive has its address."""
    address = server.rightful[service][id].address
    everything = [one for each in world.servers.values() for found in each.rightful.values() for one in found.values()]
    return sum(one.address == address and one.id != id for one in everything) == 0


# -- the operator and the machines -------------------------------------------------------------------------------------


def approve(world: World) -> None:
    """An operator approves something that is held, right or wrong."""
    held = [(process, *one) for process in world.alive() if not process.stopped for one in process.holds()]
    if held:
        process, reconciler, hold = world.rng.choice(held)
        process.approve(reconciler, hold)


async def pause(world: World) -> None:
    """An operator stops the writes of a link for a while, by any host of its bridge; and lets them go on by any."""
    owner, one = world.rng.choice([(owner, one.name) for owner, links in world.links.items() for one in links])
    hosts = _hosts(world, owner)
    if not hosts or one in world.pausing:
        return
    world.pausing.add(one)
    lives = _lives(world)
    if (
        await world.rng.choice(hosts).halt(one) and _lives(world) == lives
    ):  # else it said so, or the note is gone already
        world.frozen.add(one)
    await asyncio.sleep(world.rng.uniform(1.0, 10.0))
    world.frozen.discard(one)
    if hosts := _hosts(world, owner):
        world.rng.choice(hosts).thaw(one)
    world.pausing.discard(one)


def _lives(world: World) -> int:
    return sum(server.lives for server in world.servers.values())


def _hosts(world: World, owner: str) -> list[Process]:
    """The processes of a bridge that answer commands."""
    return [one for one in world.alive() if one.owner == owner and not one.stopped]


def halt(world: World, one: str) -> None:
    """An operator stops the writes of a link on every host."""
    world.frozen.add(one)
    for process in world.alive():
        process.disk.kept.decisions.freeze(one, "", "operator")


def thaw(world: World, one: str) -> None:
    """Writes go on, on every host."""
    world.frozen.discard(one)
    for process in world.alive():
        process.thaw(one)


async def reload(world: World) -> None:
    """The file changes: a link takes more or less, by another rule, under other names, or is no more; or nothing.

    Now and then it has a fault that only an adapter finds, and is refused as a whole.
    """
    rng = world.rng
    owner = rng.choice(list(world.links))
    links = list(world.links[owner])
    number = rng.randrange(len(links))
    one = links[number]
    match rng.randint(0, 6):
        case 0:
            first = world.first[owner, one.name].services
            fewer = msgspec.structs.replace(first, exclude=(*first.exclude, str(rng.choice(SERVICES))))
            links[number] = msgspec.structs.replace(one, services=fewer if one.services == first else first)
        case 1:
            links[number] = msgspec.structs.replace(one, where={} if one.where else {"team": "pay*"})
        case 2:
            links[number] = msgspec.structs.replace(one, policy=rng.choice([*Policy]))
        case 3:
            copied = one.rename != "{name}"
            links[number] = msgspec.structs.replace(one, rename="{name}" if copied else "{name}-copy")
        case 4:
            links[number] = msgspec.structs.replace(one, unhealthy=rng.choice([*Unhealthy]))
        case 5:
            guard = msgspec.structs.replace(one.guard, window=rng.choice((5.0, 40.0, 90.0)))
            special = tuple(each.over(guard, ("window",)) for each in one.guard_for)
            links[number] = msgspec.structs.replace(one, guard=guard, guard_for=special)
        case _:
            pass  # the file was only touched
    if rng.random() < 0.15:
        for process in _hosts(world, owner):
            process.refuse(links)
        return
    world.note(f"the file of {owner} changes: {links[number]}")
    await world.reload(owner, links)


def approve_what_was_shown(world: World) -> None:
    """An operator approves a set that was shown some time ago, or to another process; or looks, and approves later."""
    processes = [process for process in world.alive() if not process.stopped]
    if world.shown and processes and world.rng.random() < 0.7:
        destination, hold = world.rng.choice(world.shown)
        process = world.rng.choice(processes)
        if destination in process.reconcilers:
            process.approve(process.reconcilers[destination], hold)
    world.shown = [(one.name, hold) for process in processes for one, hold in process.holds()]
    for process in processes:
        for _, hold in process.holds():
            process.shows(hold)


def expect(world: World) -> None:
    """An operator states a loss, of a link or of a service, beforehand; it may come or not."""
    owner = world.rng.choice(list(world.links))
    subject = world.rng.choice([*(one.name for one in world.links[owner]), *map(str, SERVICES)])
    if hosts := _hosts(world, owner):
        world.rng.choice(hosts).expect(subject, world.rng.randint(1, 6), world.rng.uniform(5.0, 30.0))


def accept(world: World) -> None:
    """An operator accepts a new life of a store, right or wrong; or where there is none."""
    hosts = [one for one in world.alive() if not one.stopped]
    views = [(one, view) for one in hosts for view in one.engine.store.views()]
    doubted = [(one, view) for one, view in views if view.doubt]
    if views:
        host, view = world.rng.choice(doubted or views)
        for server in siblings_of(world, view.registry):
            world.oracle.forgive(host, server)
        host.accept(view)


def siblings_of(world: World, registry: str) -> list[Server]:
    """The scopes of a registry."""
    return [one for one in world.servers.values() if one.registry == registry]


async def purge(world: World) -> None:
    """An operator stops a bridge, removes what it owns at a destination, all or a part of it, and starts it again."""
    rng = world.rng
    owner = rng.choice(list(world.links))
    links = world.links[owner]
    one = rng.choice(links)
    names = {each.name for each in links}
    kinds: list[dict[str, object]] = [{}, {"link": one.name}, {"known_links": names}, {"including_last": True}]
    which = rng.choice(kinds)
    if not (world.frozen or world.pausing):  # with the note a freeze would go, of which this story goes on to think
        world.said.forgotten(owner)
        await _without(world, (owner,), partial(commands.purge, world, owner, one.to, **which))


async def adopt(world: World) -> None:
    """An operator stops two bridges that write to one registry, and hands the copies of one over to the other."""
    rng = world.rng
    owner, one = rng.choice([(owner, one) for owner, links in world.links.items() for one in links])
    others = [
        other for other, links in world.links.items() if other != owner and any(each.to == one.to for each in links)
    ]
    if others and not (world.frozen or world.pausing):
        other = rng.choice(others)
        await _without(world, (owner, other), partial(commands.adopt, world, one, owner, other))


async def _without(world: World, owners: Sequence[str], command: Callable[[], Awaitable[None]]) -> None:
    """A command for which the daemons of these bridges are stopped on every host, and started again."""
    before = [one for one in world.alive() if one.owner in owners]
    await commands.ended(world, owners)
    try:
        await command()
    finally:
        for process in before:
            start(world, process.owner, process.disk)


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
        process.freeze(keeps_lock=world.rng.random() < 0.3)
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
    (1, approve_what_was_shown),
    (2, reload),
    (1, pause),
    (1, expect),
    (1, accept),
    (2, crash),
    (1, stop_and_go),
    (1, purge),
    (1, adopt),
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
    world.serve(reuse(world, random.Random(f"{world.seed} reused")), happening=True)
    if random.Random(f"{world.seed} said").random() < 0.4:  # a draw of its own, which shifts no other
        world.serve(saying.operate(world, random.Random(f"{world.seed} saying")), happening=True)
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
