"""Histories written by hand: one for each promise that chance finds too seldom, and that a mutant breaks."""

from __future__ import annotations

import asyncio

import msgspec

from adapters.memory import Config
from adapters.memory.server import LENT
from bridge.adapter import Returns
from bridge.errors import Unavailable
from bridge.guard.holds import APPROVED
from bridge.link import GuardFor, Link, Policy, Services, Unhealthy
from bridge.model import Health, ServiceName
from bridge.override import Override
from bridge.state.decisions import Kind
from tests.simulation import commands, history, moving, saying, spells
from tests.simulation.faults import Weather
from tests.simulation.history import link
from tests.simulation.process import Process
from tests.simulation.run import Scenario
from tests.simulation.world import LATENCY, Server, World

ONE, TWO = ServiceName("s1"), ServiceName("s2")
LONG = 30.0  # seconds: longer than every second opinion waits


async def _one_way(
    world: World, services: int = 8, instances: int = 3, natives: int = 0, **fields: object
) -> tuple[Server, Server]:
    """Registry a is copied to registry b, and has been; so many natives serve under each name at b."""
    source, target = world.server("a"), world.server("b")
    world.links["x"] = [link("b", "a", **fields)]
    world.fill(source, services, instances)
    world.fill(target, services, natives)
    await _begin(world)
    return source, target


async def _begin(world: World) -> None:
    for owner in world.links:
        Process(world, owner)
    await asyncio.sleep(5.0)


async def _reload(world: World, *links: Link) -> None:
    """The file changes; the removals that it causes are not the sources' doing."""
    await world.reload("x", list(links))


def _operator(world: World, seconds: float) -> None:
    """An operator approves whatever is held, some time from now."""

    def approve() -> None:
        for process in world.alive():
            for reconciler, hold in process.holds():
                process.approve(reconciler, hold)

    world.loop.call_later(seconds, approve)


# -- networks, and addresses that serve elsewhere by now ---------------------------------------------------------------


async def the_same_addresses_in_three_networks(world: World) -> None:
    """Two registries have the same addresses under one name, and so has a native where both are copied to."""
    a, b, c = world.server("a"), world.server("b"), world.server("c")
    world.networks = {"a": "one", "b": "two", "c": "three"}
    world.links["x"] = [link("c", "a", "b")]
    for _ in range(3):
        address = world.start(a, ONE).address
        world.start(b, ONE, address=address)
    world.start(c, ONE, address=address)
    await _begin(world)


async def addresses_of_a_cluster(world: World) -> None:
    """A cluster gives out the addresses of its network: of two registries, the one in that network is not copied."""
    world.networks = {"a": "pods", "b": "elsewhere", "c": "pods"}
    a, b, c = world.server("a"), world.server("b"), world.server("c")
    c.config = Config(cluster=True)
    world.links["x"] = [link("c", "a", "b")]
    world.fill(a, 2, 2)
    world.fill(b, 2, 2)
    await _begin(world)
    if any(c.gives_out(one) for name in c.names() for one in c.instances(name).values()):
        world.oracle.breaks("cluster", "it was told its own addresses")


async def watches_that_end(world: World) -> None:
    """Watches end without an error, again and again; what changes meanwhile is known all the same."""
    source, _ = await _one_way(world)
    world.serve(spells.under(world, source, spells.ended, 9.0), happening=True)
    for _ in range(4):
        await asyncio.sleep(2.0)
        world.start(source, ONE)
    await asyncio.sleep(3.0)
    world.start(source, TWO)


async def listed_from_a_cache(world: World) -> None:
    """What came last is missing from a listing that a cache answers, which is behind: it is not gone."""
    source, _ = await _one_way(world)
    world.serve(spells.under(world, source, spells.stale, 40.0), happening=True)
    await asyncio.sleep(10.0)
    for service in (ONE, TWO):
        world.start(source, service)
    await asyncio.sleep(35.0)


async def _two_sources(world: World) -> tuple[Server, Server, Server]:
    """Registries a and o are copied to b: o has the services t0 and t1, and the others are of a."""
    source, other, target = world.server("a"), world.server("o"), world.server("b")
    mine = Services(include=("t*",))
    world.links["x"] = [link("b", "a", services=Services(include=("s*",))), link("b", "o", services=mine)]
    world.fill(source, services=8, instances=4)
    world.start(other, ServiceName("t0"))
    return source, other, target


async def _taken(world: World, count: int) -> tuple[Server, list[str]]:
    """While their registry is silent so many instances end, and another service gets their addresses."""
    source, other, target = await _two_sources(world)
    await _begin(world)
    source.silence()
    await asyncio.sleep(10.0)
    addresses = []
    for service, id in world.natives(source)[:count]:
        addresses.append(source.rightful[service][id].address)
        world.stop(source, service, id)
        world.start(other, ServiceName("t1"), address=addresses[-1])
    await asyncio.sleep(LONG)
    return target, addresses


async def taken_in_the_dark(world: World) -> None:
    """Few addresses are given to another service, and nobody hears that those who had them ended."""
    target, addresses = await _taken(world, 3)
    for service, found in target.contents().items():
        for id, one in found.instances.items():
            if service.name.startswith("s") and one.address in addresses:
                world.oracle.breaks("I2", f"{target!r} {service}/{id}: {one.address} serves another service by now")


async def many_taken_in_the_dark(world: World) -> None:
    """So many are that it looks like two networks which the file takes for one."""
    await _taken(world, 12)


async def shared_and_dark(world: World) -> None:
    """An address has two services, as a load balancer's; one of the two registries goes dark, and the other goes on."""
    source, other, _ = await _two_sources(world)
    name = ServiceName("t1")
    for service, id in world.natives(source)[:4]:
        world.start(other, name, id=id, address=source.rightful[service][id].address)
    await _begin(world)
    source.silence()
    await asyncio.sleep(10.0)
    for id in list(other.rightful[name]):
        world.alter(other, name, id)
    await asyncio.sleep(LONG)


# -- sources that lie ------------------------------------------------------------------------------------------------


async def nothing_is_listed(world: World) -> None:
    """For long, the source lists nothing at all, and fresh reads agree."""
    source, _ = await _one_way(world)
    source.weather = Weather(hidden=lambda *_: True, reads_too=True)
    source.cut()
    await asyncio.sleep(LONG)


async def little_is_listed(world: World) -> None:
    """For long, the source lists a third of what there is, and fresh reads agree."""
    source, _ = await _one_way(world, services=9)
    source.weather = Weather(hidden=lambda name, _: name.name not in ("s0", "s1", "s2"), reads_too=True)
    source.cut()
    await asyncio.sleep(LONG)


async def some_is_not_listed(world: World) -> None:
    """A third of the services is missing from a listing; fresh reads have them."""
    source, _ = await _one_way(world, services=9)
    source.weather = Weather(hidden=lambda name, _: name.name in ("s0", "s1", "s2"))
    source.cut()
    await asyncio.sleep(LONG)


async def erosion(world: World) -> None:
    """One instance after another is said to be deleted, each far below every limit."""
    source, _ = await _one_way(world, services=4, instances=8)
    world.oracle.excuse(source, [ONE])
    gone: set[str] = set()
    source.weather = Weather(hidden=lambda name, id: name == ONE and id in gone)
    for id in list(source.rightful[ONE]):
        gone.add(id)
        source.announce([ONE])
        await asyncio.sleep(2.5)


async def listed_slowly(world: World) -> None:
    """A listing takes long, and hangs when the most of it is told; natives keep each service alive."""
    source, _ = await _one_way(world, instances=1, natives=2)
    view = world.alive()[0].engine.store.view("a", "")
    source.latency = 1.0
    source.cut()
    while len(view.listed) < 6:
        await asyncio.sleep(0.1)
    source.latency = LONG
    await asyncio.sleep(LONG)
    source.latency = LATENCY


async def back_while_it_lists(world: World) -> None:
    """An instance goes while the watch is down, and is back before a slow listing that left it out has ended."""
    source, _ = await _one_way(world, services=12)
    view = world.alive()[0].engine.store.view("a", "")
    id, before = next(iter(source.rightful[ONE].items()))
    source.latency = 1.5
    source.cut()
    world.stop(source, ONE, id)
    while ONE not in view.listed:
        await asyncio.sleep(0.05)
    world.put(source, ONE, before)
    await asyncio.sleep(LONG)
    source.latency = LATENCY


async def emptied_before_the_second_opinion(world: World) -> None:
    """A false deletion is held; the store comes back with nothing in it, is asked, and its watch does not know yet."""
    source, _ = await _one_way(world, instances=1)
    source.weather = Weather(hidden=lambda name, _: name == ONE)
    source.announce([ONE])
    await asyncio.sleep(1.0)
    source.cut(Unavailable("reset", 10.0))
    source.weather = Weather()
    source.empty()
    await asyncio.sleep(LONG)
    source.mend()


async def draining_and_left_out(world: World) -> None:
    """The only instance drains, which is held; the watch leaves it out while a fresh read that has it is under way."""
    source, _ = await _one_way(world, instances=1)
    world.alter(source, ONE, next(iter(source.rightful[ONE])), health=Health.DRAINING)
    await asyncio.sleep(3.0)
    source.latency = 8.0  # of the read that comes about now
    await asyncio.sleep(1.2)
    source.latency = LATENCY
    source.weather = Weather(hidden=lambda name, _: name == ONE)
    source.announce([ONE])
    await asyncio.sleep(LONG)


async def back_in_the_dark(world: World) -> None:
    """An instance ends while its target is away; the source is dark when it comes back, and when the target does."""
    source, target = await _one_way(world)
    id, before = next(iter(source.rightful[ONE].items()))
    target.silence()
    await asyncio.sleep(0.5)
    world.stop(source, ONE, id)
    await asyncio.sleep(1.0)
    source.cut(Unavailable("reset", LONG))
    await asyncio.sleep(1.0)
    world.put(source, ONE, before)
    await asyncio.sleep(5.0)
    target.heal()
    await asyncio.sleep(LONG)


async def most_come_back(world: World) -> None:
    """More than half is deleted in one moment, and held; most of it comes back, and the rest needs no operator."""
    source, target = await _one_way(world, services=20, instances=1, natives=1)
    gone = {(name, id): source.rightful[name][id] for name, id in world.natives(source)[:12]}
    for name, id in gone:
        world.stop(source, name, id)
    await asyncio.sleep(2.5)
    for (name, _), one in list(gone.items())[2:]:
        world.put(source, name, one)
    await asyncio.sleep(LONG)
    if any(id in target.instances(name) for name, id in list(gone)[:2]):
        world.oracle.breaks("I5", "two of twenty are held, as if they were twelve")


async def first_listing_breaks(world: World) -> None:
    """A process that remembers nothing hears the most of a listing, and then nothing any more."""
    source, _ = await _one_way(world, services=20, instances=1, natives=1)
    await world.alive()[0].end()
    source.latency = 0.6
    told = Process(world, "x").told
    while (heard := told.get((source.identity, ""))) is None or len(heard.services) < 18:
        await asyncio.sleep(0.1)
    history.thaw(world, "a-to-b")  # everything is looked at once more
    await asyncio.sleep(0.2)
    source.fail_with(Unavailable("503"))
    await asyncio.sleep(LONG)


async def restored(world: World) -> None:
    """A backup takes the source back to before some few instances, under the same name."""
    source, _ = await _one_way(world)
    saved = source.save()
    for service in (ONE, TWO):
        world.start(source, service)
    await asyncio.sleep(2.0)
    source.restore(saved, world.rng.choice((None, "another")))
    await asyncio.sleep(LONG)


async def restored_once_more(world: World) -> None:
    """An empty life is filled by its clients and believed; then a backup that was made of it takes it back, too."""
    source, _ = await _one_way(world)
    await spells.under(world, source, spells.emptied, 5.0)
    saved = source.save()
    for service in (ONE, TWO):
        world.start(source, service)
    while any(view.doubt for view in world.alive()[0].engine.store.views()):
        await asyncio.sleep(0.5)
    source.restore(saved)
    await asyncio.sleep(LONG)


async def swapped(world: World) -> None:
    """Another cluster answers under the source's name; it has most of the names that the source has."""
    source, _ = await _one_way(world)
    await spells.under(world, source, spells.swapped, LONG)


async def swapped_and_purged(world: World) -> None:
    """As `swapped`, and all copies are purged; a process writes by last known good, while the listing takes long."""
    source, target = await _one_way(world)
    swapped = world.serve(spells.under(world, source, spells.swapped, 12.0), happening=True)
    await asyncio.sleep(4.0)
    world.behind[source.registry, source.scope].latency = 1.0
    before = world.alive()[0]
    await before.end()
    await commands.purge(world, "x", target.registry, including_last=True)
    Process(world, "x", before.disk)
    await asyncio.wait((swapped,))
    await asyncio.sleep(LONG)


async def unreadable(world: World) -> None:
    """Some few records cannot be read for a while; a process that remembers nothing starts meanwhile."""
    source, _ = await _one_way(world)
    few = frozenset((name, next(iter(source.rightful[name]))) for name in (ONE, TWO))
    source.weather = Weather(unreadable=few)
    source.announce([ONE, TWO])
    await asyncio.sleep(5.0)
    await world.alive()[0].kill()
    Process(world, "x")
    await asyncio.sleep(LONG)


async def spoiled(world: World) -> None:
    """Records turn into bytes that nobody can read, and are written anew."""
    source, _ = await _one_way(world)
    before = {(name, id): source.rightful[name][id] for name, id in world.natives(source)[::5]}
    for name, id in before:
        source.spoil(name, id)
    await asyncio.sleep(5.0)
    source.cut()
    await asyncio.sleep(LONG)
    for (name, _), one in before.items():
        world.put(source, name, one)


async def garbled(world: World) -> None:
    """Words come late and twice while instances change, go and come back."""
    source, _ = await _one_way(world)
    source.weather = Weather(late=0.4, repeated=0.4)
    for _ in range(20):
        id = world.rng.choice(list(source.rightful[ONE]))
        before = world.alter(source, ONE, id)
        await asyncio.sleep(0.2)
        world.stop(source, ONE, id)
        await asyncio.sleep(0.2)
        world.put(source, ONE, before)
        await asyncio.sleep(0.5)


async def flapping(world: World) -> None:
    """The source's connection breaks twice a second for a minute."""
    source, _ = await _one_way(world)
    for _ in range(120):
        source.cut(Unavailable("reset"))
        await asyncio.sleep(0.5)


# -- what belongs to others ------------------------------------------------------------------------------------------


async def written_over(world: World) -> None:
    """Natives write over our entries at the very moment in which their sources change."""
    source, target = await _one_way(world)
    for id in list(source.rightful[ONE]):
        world.alter(source, ONE, id)
        await asyncio.sleep(world.rng.random() * 0.04)
        world.start(target, ONE, id=id)
        await asyncio.sleep(3.0)


async def address_taken(world: World) -> None:
    """A native has had an address at the target for long when a source registers it."""
    source, target = await _one_way(world)
    native = world.start(target, ONE)
    await asyncio.sleep(15.0)
    world.start(source, ONE, address=native.address)
    await asyncio.sleep(5.0)
    world.stop(target, ONE, native.id)
    await asyncio.sleep(5.0)
    world.start(target, ONE, address=native.address)


async def shadowed_once(world: World) -> None:
    """While writes are stopped, a native comes and goes with an address of ours, and the source's listing lacks it."""
    source, target = await _one_way(world)
    history.halt(world, "a-to-b")
    id, ours = next(iter(target.instances(ONE).items()))
    native = world.start(target, ONE, address=ours.address)
    await asyncio.sleep(2.0)
    source.weather = Weather(hidden=lambda name, one: name == ONE and one == id)
    source.restore(source.save(), "another")
    await asyncio.sleep(2.0)
    world.stop(target, ONE, native.id)
    await asyncio.sleep(20.0)
    history.thaw(world, "a-to-b")
    await asyncio.sleep(10.0)


async def neighbours(world: World) -> None:
    """Natives and another bridge live under the same names at the target."""
    source, target = world.server("a"), world.server("b")
    world.links |= {"x": [link("b", "a")], "y": [link("b", "c")]}
    world.fill(source, 4, 3)
    world.fill(target, 4, 2)
    world.fill(world.server("c"), 4, 2)
    await _begin(world)
    world.alter(source, ONE, next(iter(source.rightful[ONE])))
    await asyncio.sleep(5.0)


async def two_ways(world: World) -> None:
    """What ends at its origin ends everywhere, and comes back from nowhere."""
    a, b = world.server("a"), world.server("b")
    world.links["x"] = [link("b", "a"), link("a", "b")]
    world.fill(a, 3, 4)
    world.fill(b, 3, 4)
    await _begin(world)
    for server in (a, b):
        for service in (ONE, TWO):
            world.stop(server, service, world.natives(server)[-1][1] if service == TWO else _native(world, server))
            await asyncio.sleep(1.0)


def _native(world: World, server: Server) -> str:
    return next(id for name, id in world.natives(server) if name == ONE)


async def moved_upstream(world: World) -> None:
    """Natives move to a registry that is copied to theirs, and keep their addresses; beyond, our copies stand for ever.

    As long as another tool may have made copies of our copies, they are not sent.
    """
    a, b, _ = world.server("a"), world.server("b"), world.server("c")
    world.links["x"] = [link("b", "a"), link("c", "b", policy=Policy.UPSERT_ONLY)]
    world.fill(b, 3, 3)
    await _begin(world)
    for id, one in list(b.rightful[ONE].items())[:2]:
        world.stop(b, ONE, id)
        moved = world.start(a, ONE, address=one.address)
    await asyncio.sleep(LONG)
    if moved.id in b.instances(ONE):
        world.oracle.breaks("I8", "what looks like an echo was sent at once")


async def moved_upstream_of_what_observes(world: World) -> None:
    """The same, and the file has the link beyond only observe by then: our copies stand there, which nobody removes."""
    a, b, _ = world.server("a"), world.server("b"), world.server("c")
    beyond = link("c", "b")
    world.links["x"] = [link("b", "a"), beyond]
    world.fill(b, 3, 3)
    await _begin(world)
    await _reload(world, link("b", "a"), msgspec.structs.replace(beyond, policy=Policy.OBSERVE))
    id, one = next(iter(b.rightful[ONE].items()))
    world.stop(b, ONE, id)
    world.start(a, ONE, address=one.address)
    await asyncio.sleep(LONG)


async def moved_upstream_of_another_writer(world: World) -> None:
    """The same, and who writes beyond is another process: what it takes away there has to be seen."""
    a, b, c = world.server("a"), world.server("b"), world.server("c")
    world.links["x"] = [link("b", "a"), link("c", "b")]
    world.fill(b, 3, 3)
    await _begin(world)
    Process(world, "x")
    await asyncio.sleep(2.0)
    c.take_lock("x")
    await asyncio.sleep(5.0)
    id, one = next(iter(b.rightful[ONE].items()))
    world.stop(b, ONE, id)
    world.start(a, ONE, address=one.address)
    await asyncio.sleep(LONG)


async def meddling(world: World) -> None:
    """Somebody deletes what we wrote."""
    _, target = await _one_way(world)
    for id in list(target.instances(ONE)):
        world.stop(target, ONE, id)


# -- the file and the operator -----------------------------------------------------------------------------------------


async def excluded(world: World) -> None:
    """The file leaves a service out for a while."""
    await _one_way(world)
    before = world.links["x"][0]
    fewer = Services(include=("*",), exclude=("s1",))
    await _reload(world, msgspec.structs.replace(before, services=fewer))
    await asyncio.sleep(LONG)


async def excluded_and_swapped(world: World) -> None:
    """While another cluster answers for the source, the file leaves a service out; only the operator may let it go."""
    source, _ = await _one_way(world, instances=1, natives=1)
    swapped = world.serve(spells.under(world, source, spells.swapped, 6.0), happening=True)
    await asyncio.sleep(3.0)
    before = world.links["x"][0]
    await _reload(world, msgspec.structs.replace(before, services=Services(include=("*",), exclude=("s5",))))
    await asyncio.wait((swapped,))
    await asyncio.sleep(LONG)
    history.thaw(world, "a-to-b")  # everything is looked at once more
    await asyncio.sleep(LONG)


async def renamed_to_a_name_with_the_same_ids(world: World) -> None:
    """The file renames what it copies; under the new name another instance had the id, which the file takes away."""
    source = world.server("a")
    world.server("b")
    first = link("b", "a")
    world.links["x"] = [first]
    world.fill(source, 4, 3)
    copy = ServiceName("s1-copy")
    world.start(source, copy, id=next(iter(source.rightful[ONE])))
    for _ in range(3):
        world.start(source, copy)
    await _begin(world)
    await _reload(world, msgspec.structs.replace(first, rename="{name}-copy"))
    await asyncio.sleep(1.0)
    world.start(source, ONE)  # the name is looked at once more
    await asyncio.sleep(LONG)


async def orphaned(world: World) -> None:
    """A link is renamed in the file, and its source ends some instances."""
    source, _ = await _one_way(world)
    await _reload(world, link("b", "a", name="another", services=Services(include=("s1",))))
    for name, id in world.natives(source)[::4]:
        world.stop(source, name, id)
    await asyncio.sleep(LONG)


async def upsert_only(world: World) -> None:
    """The link may remove nothing."""
    source, _ = await _one_way(world, policy=Policy.UPSERT_ONLY)
    for name, id in world.natives(source)[::4]:
        world.stop(source, name, id)
        await asyncio.sleep(2.0)


async def observed(world: World) -> None:
    """The link may write nothing."""
    source, _ = await _one_way(world, policy=Policy.OBSERVE)
    world.stop(source, *world.natives(source)[0])
    await asyncio.sleep(5.0)


async def paused(world: World) -> None:
    """An operator stops the writes for a while."""
    source, _ = await _one_way(world)
    history.halt(world, "a-to-b")
    world.start(source, ONE)
    world.stop(source, *world.natives(source)[0])
    await asyncio.sleep(10.0)
    history.thaw(world, "a-to-b")


async def frozen_elsewhere(world: World) -> None:
    """An operator stops the writes by a standby; the writer follows before the command says that it is done."""
    source, target = await _one_way(world)
    standby = Process(world, "x")
    await asyncio.sleep(3.0)
    if not await standby.halt("a-to-b"):
        world.oracle.breaks("freeze", "the writer does not follow what a standby was told")
    world.frozen.add("a-to-b")
    new = world.start(source, ONE)
    world.stop(source, *world.natives(source)[0])
    await asyncio.sleep(10.0)
    if new.id in target.instances(ONE):
        world.oracle.breaks("freeze", "the writer wrote on")


async def frozen_without_a_note(world: World) -> None:
    """The target starts empty, the note with it; before a writer is there again, a host that knew no note freezes."""
    _, target = await _one_way(world)
    for _ in range(3):
        Process(world, "x")
        await asyncio.sleep(2.0)
        last = Process(world, "x")
        target.empty(f"life {world.number()}")
        target.silence()
        await asyncio.sleep(1.0)
        target.heal()
        if await last.halt("a-to-b"):
            world.frozen.add("a-to-b")
        await asyncio.sleep(10.0)
        history.thaw(world, "a-to-b")
    target.mend()


async def frozen_and_taken_over(world: World) -> None:
    """The writer is told to stop its writes, and dies; who takes over knows it by the note alone."""
    source, target = await _one_way(world)
    writer, _ = world.alive()[0], Process(world, "x")
    await asyncio.sleep(3.0)
    await writer.halt("a-to-b")
    world.frozen.add("a-to-b")
    await asyncio.sleep(2.0)
    await writer.kill()
    new = world.start(source, ONE)
    world.stop(source, *world.natives(source)[0])
    await asyncio.sleep(15.0)
    if new.id in target.instances(ONE):
        world.oracle.breaks("freeze", "who took over wrote on")


async def approved_and_taken_over(world: World) -> None:
    """What was approved goes, and the writer dies with the last of it; who takes over inherits no approval of it."""
    source, target = await _one_way(world, services=5, instances=4)
    before = [(name, source.rightful[name][id]) for name, id in world.natives(source)]
    writer, _ = world.alive()[0], Process(world, "x")
    await asyncio.sleep(3.0)
    for name, one in before:
        world.stop(source, name, one.id)
    await asyncio.sleep(3.0)
    for reconciler, hold in writer.holds():
        writer.approve(reconciler, hold)
    while any(target.instances(name) for name, _ in before):
        await asyncio.sleep(0.01)
    await writer.kill()
    for name, one in before:
        world.put(source, name, one)
    await asyncio.sleep(LONG)
    source.weather = Weather(hidden=lambda *_: True, reads_too=True)
    source.announce([*source.rightful])
    await asyncio.sleep(LONG)


async def grown_after_it_was_shown(world: World) -> None:
    """What is held grows between the moment in which it was shown and that in which it is approved."""
    source, _ = await _one_way(world, services=10)
    hidden = {"s0", "s1", "s2", "s3", "s4", "s5"}
    source.weather = Weather(hidden=lambda name, _: name.name in hidden, reads_too=True)
    source.cut()
    await asyncio.sleep(5.0)
    process = world.alive()[0]
    shown = process.holds()
    hidden.update({"s6", "s7"})
    source.cut()
    await asyncio.sleep(5.0)
    process.holds()
    for reconciler, hold in shown:
        process.approve(reconciler, hold)
    await asyncio.sleep(10.0)


async def approved_once(world: World) -> None:
    """What was approved and went comes back; the approval was for once."""
    source, _ = await _one_way(world)
    only = world.start(source, ServiceName("only"))
    await asyncio.sleep(3.0)
    for _ in range(2):
        world.stop(source, ServiceName("only"), only.id)
        _operator(world, 1.0)
        await asyncio.sleep(50.0)
        world.put(source, ServiceName("only"), only)
        await asyncio.sleep(50.0)
    source.weather = Weather(hidden=lambda name, _: name.name == "only")
    source.cut()
    await asyncio.sleep(10.0)


async def _approved_while_frozen_or_not(world: World, *, frozen: bool) -> None:
    """A whole source ends, which an operator approves; it comes back, and later it is said to have ended again."""
    source, target = await _one_way(world, services=5, instances=4)
    before = [(name, source.rightful[name][id]) for name, id in world.natives(source)]
    if frozen:
        history.halt(world, "a-to-b")
    for name, one in before:
        world.stop(source, name, one.id)
    await asyncio.sleep(3.0)
    writer = world.alive()[0]
    for reconciler, hold in writer.holds():
        writer.approve(reconciler, hold)
    while not frozen and any(target.instances(name) for name, _ in before):
        await asyncio.sleep(0.01)
    await writer.kill()
    for name, one in before:
        world.put(source, name, one)
    Process(world, "x", writer.disk)
    await asyncio.sleep(LONG)
    if frozen:
        history.thaw(world, "a-to-b")  # by the host that is there now: the folder and the note outlive who froze
        await asyncio.sleep(LONG)
    source.weather = Weather(hidden=lambda *_: True, reads_too=True)
    source.announce([*source.rightful])
    await asyncio.sleep(LONG)


async def approved_and_killed(world: World) -> None:
    """The writer is killed when the last of what was approved is gone: the approval ended with it."""
    await _approved_while_frozen_or_not(world, frozen=False)


async def approved_while_frozen(world: World) -> None:
    """Nothing of what was approved could go; what is back when writes go on was asked no more meanwhile."""
    await _approved_while_frozen_or_not(world, frozen=True)


async def approved_long_ago(world: World) -> None:
    """Writes are stopped when a set is approved, and for so long that the approval is over when they go on."""
    source, _ = await _one_way(world, services=5, instances=4)
    history.halt(world, "a-to-b")
    source.weather = Weather(hidden=lambda *_: True, reads_too=True)
    source.announce([*source.rightful])
    await asyncio.sleep(3.0)
    writer = world.alive()[0]
    shown = writer.holds()
    for reconciler, hold in shown:
        writer.approve(reconciler, hold)
    await asyncio.sleep(APPROVED + 5.0)
    for reconciler, hold in shown:
        world.oracle.withdraw(writer, reconciler.name, hold.items)
    history.thaw(world, "a-to-b")
    await asyncio.sleep(LONG)


async def added_by_the_file(world: World) -> None:
    """The file sends more services of a registry to names that natives serve; what is not approved is not added."""
    a, b, c = world.server("a"), world.server("b"), world.server("c")
    first = link("b", "a", services=Services(include=("s0",)))
    world.links["x"] = [first, link("b", "c", services=Services(include=("s3",)))]
    for server in (a, b, c):
        world.fill(server, 4, 2)
    await _begin(world)
    await _reload(world, first, link("b", "c", services=Services(include=("s1", "s2", "s3"))))
    await asyncio.sleep(10.0)
    for name in (ONE, TWO):
        if any(id in b.instances(name) for id in c.rightful[name]):
            world.oracle.breaks("additions", f"{name} was added without the operator")


async def addition_approved_while_frozen(world: World) -> None:
    """What the file adds is approved while writes are stopped, and for so long that the approval is over."""
    a, b, c = world.server("a"), world.server("b"), world.server("c")
    first = link("b", "a", services=Services(include=("s0",)))
    world.links["x"] = [first, link("b", "c", services=Services(include=("s3",)))]
    for server in (a, b, c):
        world.fill(server, 4, 2)
    await _begin(world)
    history.halt(world, "c-to-b")
    await _reload(world, first, link("b", "c", services=Services(include=("s1", "s3"))))
    await asyncio.sleep(5.0)
    _operator(world, 0.0)
    await asyncio.sleep(APPROVED / 2)
    if any(process.holds() for process in world.alive()):
        world.oracle.breaks("additions", "what is approved is held, because it could not be written yet")
    await asyncio.sleep(APPROVED / 2 + 5.0)
    history.thaw(world, "c-to-b")
    await asyncio.sleep(5.0)
    if c.rightful[ONE].keys() & b.instances(ONE).keys():
        world.oracle.breaks("additions", "it was added by an approval that was over")


async def addition_approved_and_taken_away(world: World) -> None:
    """What the file adds is approved, and written; later the file takes it away again, which nobody has approved."""
    a, b, c = world.server("a"), world.server("b"), world.server("c")
    first, few = link("b", "a", services=Services(include=("s0",))), link("b", "c", services=Services(include=("s3",)))
    world.links["x"] = [first, few]
    for server in (a, b, c):
        world.fill(server, 4, 2)
    await _begin(world)
    await _reload(world, first, msgspec.structs.replace(few, services=Services(include=("s1", "s3"))))
    await asyncio.sleep(5.0)
    _operator(world, 0.0)
    await asyncio.sleep(5.0)
    await _reload(world, first, few)
    await asyncio.sleep(10.0)


async def refused_file(world: World) -> None:
    """A file that leaves a service out, and has a fault that only an adapter finds, changes nothing."""
    source, target = await _one_way(world)
    writer = world.alive()[0]
    fewer = Services(include=("*",), exclude=("s1",))
    writer.refuse([msgspec.structs.replace(world.links["x"][0], services=fewer)])
    new = world.start(source, ONE)
    await asyncio.sleep(5.0)
    if new.id not in target.instances(ONE) or writer.holds():
        world.oracle.breaks("reload", "a file that was refused is in force all the same")


async def purged(world: World) -> None:
    """A bridge is stopped, and an operator removes all that it owns beside a bridge that lives there as well."""
    _, target = world.server("a"), world.server("b")
    world.links |= {"x": [link("b", "a")], "y": [link("b", "c")]}
    world.fill(world.server("a"), 4, 3)
    world.fill(world.server("c"), 4, 2)
    world.fill(target, 2, 1)
    await _begin(world)
    await commands.ended(world, ["x"])
    await commands.purge(world, "x", "b", including_last=True)
    left = [mark.owner for one in target.contents().values() for mark in one.marks.values()]
    if "x" in left:
        world.oracle.breaks("purge", f"{left.count('x')} entries are left")


async def adopted(world: World) -> None:
    """Natives that somebody copied by hand are taken over in place, but for one that differs; later a source ends."""
    source, target = world.server("a"), world.server("b")
    world.links["x"] = [link("b", "a", policy=Policy.OBSERVE)]
    world.fill(source, 4, 3)
    for name, ones in source.rightful.items():
        for one in ones.values():
            target.register(name, one)
    other = world.alter(target, ONE, next(iter(target.rightful[ONE])), address="10.9.9.9")
    await _begin(world)
    plan = world.alive()[0].reconcilers["b"].destination.plan
    await commands.ended(world, ["x"])
    world.links["x"] = [link("b", "a")]
    await commands.adopt_natives(world, world.links["x"][0], "x", lambda name: plan(name)[0].wanted)
    if target.mark(TWO, next(iter(target.rightful[TWO]))) is None or target.mark(ONE, other.id) is not None:
        world.oracle.breaks("adopt", "what is equal was left, or what differs was taken over")
    Process(world, "x")
    await asyncio.sleep(5.0)
    world.stop(source, TWO, next(iter(source.rightful[TWO])))
    await asyncio.sleep(LONG)


async def handed_over(world: World) -> None:
    """What one bridge copied from one registry is taken over by another; what it copied from elsewhere is not."""
    source, target = world.server("a"), world.server("b")
    world.links |= {"x": [link("b", "a")], "y": [link("b", "a", "c")]}
    for server, services in ((source, 4), (world.server("c"), 2)):
        world.fill(server, services, 3)
    Process(world, "y")
    await asyncio.sleep(5.0)
    await commands.ended(world, ["y"])
    await commands.adopt(world, world.links["x"][0], "x", "y")
    owners = {mark.owner for mark in target.observe(ServiceName("s3")).service.marks.values()}
    if owners != {"x"}:
        world.oracle.breaks("adopt", f"what came from the same registry was not taken over: {owners}")
    for owner in world.links:
        Process(world, owner)
    await asyncio.sleep(LONG)


# -- lives that are believed by themselves ---------------------------------------------------------------------------


async def _restarted(world: World, back: int, after: float = 0.0) -> tuple[Server, Server]:
    """A store of twenty clients starts empty, and is believed once nine of ten are back, after ten seconds at least."""
    source, target = await _one_way(world, services=10, instances=2, natives=1)
    source.returns = Returns(0.9, 10.0)
    source.cut()
    await asyncio.sleep(2.0)
    natives = world.natives(source)
    source.empty("another")
    await asyncio.sleep(after)
    for name, id in natives[:back]:
        source.back(name, id)
    return source, target


async def back_by_half(world: World) -> None:
    """Some clients have not come back for long: they are not taken away, for they are too many."""
    source, _ = await _restarted(world, back=15)
    await asyncio.sleep(LONG)
    source.mend()


async def back_but_for_one(world: World) -> None:
    """All clients but one are back at once, and that one a little later: it is not taken away, for it is too soon."""
    source, _ = await _restarted(world, back=19)
    await asyncio.sleep(7.0)
    source.mend()


async def copies_back_and_clients_not(world: World) -> None:
    """A store of copies and two clients starts empty: bridges write the copies again, and the clients stay away."""
    world.links |= {"x": [link("b", "a")], "y": [link("a", "c")]}
    source, target, other = (world.server(name) for name in ("a", "b", "c"))
    source.returns = Returns(0.9, 10.0)
    world.fill(other, 6, 4)
    world.fill(source, 2, 1)
    world.fill(target, 6, 1)
    await _begin(world)
    source.empty("another")
    await asyncio.sleep(LONG)
    source.mend()


async def removing_after_another_life(world: World) -> None:
    """While its link removes nothing the source starts anew without some; then the file lets the link remove."""
    source, _ = await _one_way(world, policy=Policy.UPSERT_ONLY)
    saved = source.save()
    for service in (ONE, TWO):
        world.start(source, service)
    await asyncio.sleep(2.0)
    source.restore(saved, "another")
    await asyncio.sleep(5.0)
    await _reload(world, link("b", "a", name="a-to-b"))
    await asyncio.sleep(LONG)
    source.mend()


async def back_but_for_the_dead(world: World) -> None:
    """One client has ended with the store's first life: that is believed without an operator."""
    source, target = await _restarted(world, back=19)
    name, id = world.natives(source)[-1]
    source.deregister(name, id)
    await asyncio.sleep(LONG)
    if id in target.instances(name):
        world.oracle.breaks("I5", "the doubt did not end by itself")
    source.mend()


async def ill_beyond_the_hard_share(world: World) -> None:
    """Most of a source turns ill; it is marked so at the target, and stands there until the operator withdraws it."""
    source, target = await _one_way(world, services=6, instances=2, natives=1, unhealthy=Unhealthy.WITHDRAW)
    sick = world.natives(source)[:10]
    for name, id in sick:
        world.alter(source, name, id, health=Health.UNHEALTHY)
    await asyncio.sleep(LONG)
    for name, id in sick:
        one = target.instances(name).get(id)
        if one is None:
            world.oracle.breaks("guard", f"{name}/{id} was withdrawn with most of its scope")
        elif one.serving:
            world.oracle.breaks("health", f"{name}/{id} is ill, and traffic goes there")


async def doubted_beside_another(world: World) -> None:
    """A store begins another life that lacks nothing, while another source's removals wait for the operator."""
    a, c = world.server("a"), world.server("c")
    world.server("b")
    world.links["x"] = [link("b", "a"), link("b", "c", name="second", rename="{name}-c")]
    world.fill(a, 3, 3)
    world.fill(c, 3, 3)
    await _begin(world)
    c.weather = Weather(hidden=lambda *_: True, reads_too=True)
    c.cut()
    await asyncio.sleep(3.0)
    a.restore(a.save(), "another")
    await asyncio.sleep(LONG)
    if any(view.doubt for process in world.alive() for view in process.engine.store.views("a")):
        world.oracle.breaks("I5", "a life that lacks nothing is doubted because of another source")


# -- what the guard counts -------------------------------------------------------------------------------------------


async def windows_of_two_lengths(world: World) -> None:
    """Of a large source, one instance after another is said to be gone; a service with a short window comes and goes.

    Its guard asks about the same scope, and must not make the guard of the others forget.
    """
    guard = msgspec.structs.replace(history.GUARD, window=600.0, source_share=0.05)
    short = GuardFor(services=("s0",), window=0.5).over(guard, ("window",))
    source, _ = await _one_way(world, services=21, guard=guard, guard_for=(short,))
    gone: set[str] = set()
    source.weather = Weather(hidden=lambda name, id: id in gone)
    busy, *_ = source.rightful[ServiceName("s0")].values()
    for number in range(1, 9):
        name = ServiceName(f"s{number}")
        world.oracle.excuse(source, [name])
        gone.add(next(iter(source.rightful[name])))
        source.announce([name])
        await asyncio.sleep(1.5)
        world.stop(source, ServiceName("s0"), busy.id)
        await asyncio.sleep(0.5)
        world.put(source, ServiceName("s0"), busy)
        await asyncio.sleep(0.5)


async def wiped_while_young(world: World) -> None:
    """Six instances that came a moment ago are all said to be gone, and fresh reads agree."""
    source, _ = await _one_way(world, services=0)
    world.fill(source, 3, 2)
    await asyncio.sleep(10.0)
    source.weather = Weather(hidden=lambda *_: True, reads_too=True)
    source.announce([*source.rightful])
    await asyncio.sleep(LONG)


async def wiped_after_growth(world: World) -> None:
    """Two have served for long; ten more came some minutes ago, and eight of them are said to be gone."""
    guard = msgspec.structs.replace(history.GUARD, window=600.0, hard_count=5)
    source, _ = await _one_way(world, services=1, instances=2, guard=guard)
    world.fill(source, 5, 2, first=1)
    await asyncio.sleep(150.0)
    hidden = {f"s{number}" for number in range(1, 5)}
    source.weather = Weather(hidden=lambda name, _: name.name in hidden, reads_too=True)
    source.announce([ServiceName(name) for name in sorted(hidden)])
    await asyncio.sleep(LONG)


async def wiped_service_by_service(world: World) -> None:
    """First one service is said to be gone, and waits for a second opinion; before that is asked for, all the others.

    As when a session of a store is lost: the first of the herd is held alone, by a rule that a timer ends.
    """
    source, _ = await _one_way(world, services=6, instances=2)
    hidden = {"s1"}
    source.weather = Weather(hidden=lambda name, _: name.name in hidden, reads_too=True)
    source.announce([ONE])
    await asyncio.sleep(2.5)
    hidden |= {"s2", "s3", "s4", "s5"}
    source.announce([ServiceName(name) for name in sorted(hidden - {"s1"})])
    await asyncio.sleep(LONG)


# -- processes, writes and stores -------------------------------------------------------------------------------------


async def stopped_while_it_writes(world: World) -> None:
    """The writer is stopped in the middle of many slow writes; a standby takes over, and it wakes again."""
    source, target = await _one_way(world)
    Process(world, "x")
    await asyncio.sleep(2.0)
    target.latency = 1.0
    world.fill(source, 4, 8)
    await asyncio.sleep(3.0)
    writer = world.alive()[0]
    writer.freeze()
    await asyncio.sleep(12.0)
    writer.resume()
    await asyncio.sleep(10.0)
    target.latency = 0.02


async def stopped_under_a_borrowed_lock(world: World) -> None:
    """The same where the target cannot compare a lock, and borrows one: the writer that wakes looks at its term."""
    world.borrow("b")
    await stopped_while_it_writes(world)


async def stopped_without_a_fence(world: World) -> None:
    """The same where the target has a lock of its own that its writes cannot compare."""
    target = world.server("b")
    target.config = Config(fence=False)
    await stopped_while_it_writes(world)


async def objects_written_over(world: World) -> None:
    """All entries of a service are one object; natives change their parts of it as the sources change."""
    world.server("b").config = Config(shared=True)
    source, target = await _one_way(world, natives=1)
    for _ in range(4):
        for id in list(source.rightful[ONE]):
            world.alter(source, ONE, id)
        await asyncio.sleep(world.rng.random() * 0.04)
        world.start(target, ONE, id=next(iter(source.rightful[ONE])))
        await asyncio.sleep(3.0)


async def blank_polls(world: World) -> None:
    """A poll says that nothing is left of a service which natives serve at the target, too."""
    source = world.server("a")
    source.config = Config(polls=True)
    await _one_way(world, services=12, instances=1, natives=1)
    source.blank.add(ONE)
    source.announce([ONE])
    await asyncio.sleep(LONG)


async def lender_in_trouble(world: World) -> None:
    """Who lends the lock is silent for a while, and then gives it to another: nothing is written meanwhile."""
    lender = world.borrow("b")
    source, _ = await _one_way(world)
    Process(world, "x")
    await asyncio.sleep(3.0)
    lender.take_lock(f"x{LENT}b")
    lender.silence()
    world.fill(source, 2, 3)
    await asyncio.sleep(8.0)
    lender.heal()
    await asyncio.sleep(8.0)


async def taken_over_in_the_dark(world: World) -> None:
    """The source is dark for a writer that is stopped; another writes what came since, and gives way to the first."""
    source, _ = await _one_way(world)
    first = world.alive()[0]
    source.cut(Unavailable("reset", 60.0))
    await asyncio.sleep(0.1)
    first.freeze()
    second = Process(world, "x")
    await asyncio.sleep(8.0)
    first.resume()
    await asyncio.sleep(3.0)
    world.alter(source, TWO, next(iter(source.rightful[TWO])))
    world.start(source, ONE)
    await asyncio.sleep(10.0)
    await second.end()
    await asyncio.sleep(10.0)


async def taken_over_while_it_lists(world: World) -> None:
    """A standby has listed some of the source when the writer writes what came since, and gives way to it."""
    source, target = await _one_way(world)
    source.latency = 1.0
    first, second = world.alive()[0], Process(world, "x")
    view = second.engine.store.view("a", "")
    await asyncio.sleep(1.1)
    while not view.listed:
        await asyncio.sleep(0.05)
    name = next(iter(view.listed))
    world.start(source, name)
    while len(target.instances(name)) < 4:
        await asyncio.sleep(0.05)
    source.latency = LONG
    await first.end()
    await asyncio.sleep(10 * LONG)
    source.latency = LATENCY


async def taken_over_at_once(world: World) -> None:
    """A standby has listed the source for less than a second when the writer writes what came since, and ends."""
    source, target = await _one_way(world)
    first, second = world.alive()[0], Process(world, "x")
    view = second.engine.store.view("a", "")
    while not view.synced:
        await asyncio.sleep(0.01)
    second.deaf[source] = world.loop.time()
    new = world.start(source, ONE)
    changed = world.alter(source, TWO, next(iter(source.rightful[TWO])))
    while new.id not in target.instances(ONE) or target.instances(TWO)[changed.id] != changed:
        await asyncio.sleep(0.01)
    await first.end()
    await asyncio.sleep(10.0)


async def lost_and_got_again(world: World) -> None:
    """The writer's watch is dead without a word; it loses its lock for a moment, in which another writes, and ends."""
    source, target = await _one_way(world)
    first = world.alive()[0]
    first.deaf[source] = world.loop.time()
    changed = world.alter(source, TWO, next(iter(source.rightful[TWO])))
    first.cut(target)
    target.take_lock("x")
    second = Process(world, "x")
    while target.instances(TWO)[changed.id] != changed:
        await asyncio.sleep(0.01)
    await second.end()
    first.cut_off.clear()
    await asyncio.sleep(10.0)


async def held_and_taken_over(world: World) -> None:
    """A standby takes over what is held, and is asked for it before its sources have answered anew."""
    source, _ = await _one_way(world, natives=1)
    first, second = world.alive()[0], Process(world, "x")
    await asyncio.sleep(2.0)
    for name, id in world.natives(source)[:20]:
        world.stop(source, name, id)
    while not second.holds() or not first.holds():
        await asyncio.sleep(0.1)
    shown = {hold.id for _, hold in first.holds()}
    source.latency = 5.0
    await first.end()
    while not any(one.role == "writer" for one in second.reconcilers.values()):
        await asyncio.sleep(0.01)
    for _ in range(10):
        await asyncio.sleep(0.2)
        if {hold.id for _, hold in second.holds()} != shown:
            world.oracle.breaks("holds", "what is held is not held any more, and has not gone")
            break
    source.latency = LATENCY
    await asyncio.sleep(LONG)


async def taken_over_by_who_is_deaf(world: World) -> None:
    """The watch of a standby is dead without a word, which it does not know yet when the writer gives way to it."""
    source, _ = await _one_way(world)
    first, second = world.alive()[0], Process(world, "x")
    await asyncio.sleep(2.0)
    second.deaf[source] = world.loop.time()
    world.alter(source, TWO, next(iter(source.rightful[TWO])))
    world.start(source, ONE)
    await asyncio.sleep(3.0)
    await first.end()
    await asyncio.sleep(10.0)


async def woken_in_silence(world: World) -> None:
    """A standby is stopped while the writer writes and dies; when it wakes as the writer, the source says nothing."""
    source, _ = await _one_way(world)
    first, second = world.alive()[0], Process(world, "x")
    await asyncio.sleep(2.0)
    second.freeze()
    world.alter(source, TWO, next(iter(source.rightful[TWO])))
    world.start(source, ONE)
    await asyncio.sleep(3.0)
    await first.kill()
    await asyncio.sleep(5.0)
    source.silence()
    await asyncio.sleep(1.0)
    second.resume()
    await asyncio.sleep(10.0)


async def woken_as_the_writer_again(world: World) -> None:
    """The writer is stopped, another writes by newer words and dies; when the first wakes, the source says nothing."""
    source, _ = await _one_way(world)
    first, second = world.alive()[0], Process(world, "x")
    await asyncio.sleep(2.0)
    first.freeze()
    await asyncio.sleep(10.0)
    world.alter(source, TWO, next(iter(source.rightful[TWO])))
    world.start(source, ONE)
    await asyncio.sleep(3.0)
    await second.kill()
    await asyncio.sleep(10.0)  # its lock is free
    source.silence()
    await asyncio.sleep(1.0)
    first.resume()
    await asyncio.sleep(10.0)


async def stopped_while_a_removal_waits(world: World) -> None:
    """Some end, and are back while the lone writer is stopped, who keeps its lock, and waits whether more will end."""
    source, _ = await _one_way(world, services=12, instances=4)
    ended = [
        (name, next(iter(source.rightful[name].values()))) for name in list(source.rightful)[:8]
    ]  # five go at once
    for name, one in ended:
        world.stop(source, name, one.id)
    await asyncio.sleep(1.0)
    writer = world.alive()[0]
    writer.freeze(keeps_lock=True)
    await asyncio.sleep(2.0)
    for name, one in ended:
        world.put(source, name, one)
    await asyncio.sleep(8.0)
    source.latency = 1.0
    writer.resume()
    await asyncio.sleep(5.0)
    source.latency = LATENCY


async def answered_late(world: World) -> None:
    """The writer is stopped before it hears that many were written; a while after it wakes, the source leaves most out.

    What it hears of when it wakes has stood for as long as it slept: it pays for no loss.
    """
    source, _ = await _one_way(world, services=2, instances=8)
    asks = world.oracle.asks
    world.fill(source, 2, 8)
    while world.oracle.asks == asks:
        await asyncio.sleep(0.001)
    writer = world.alive()[0]
    writer.freeze()
    await asyncio.sleep(20.0)
    writer.resume()
    await asyncio.sleep(25.0)
    world.oracle.excuse(source, [ONE])
    left_out = set(list(source.rightful[ONE])[:11])
    source.weather = Weather(hidden=lambda name, id: name == ONE and id in left_out)
    source.announce([ONE])
    await asyncio.sleep(2.0)


async def old_memory(world: World) -> None:
    """A process comes back with an old memory while its source is silent; another has written newer values since."""
    source, _ = await _one_way(world)
    first = world.alive()[0]
    await first.end()
    second = Process(world, "x")
    await asyncio.sleep(5.0)
    for id in list(source.rightful[ONE])[:2]:
        world.alter(source, ONE, id)
    await asyncio.sleep(5.0)
    source.silence()
    await second.end()
    Process(world, "x", first.disk)
    await asyncio.sleep(LONG)


async def failing_target(world: World) -> None:
    """Some writes fail, some are made and their answers get lost."""
    source, target = await _one_way(world)
    for _ in range(5):
        target.refused = {ONE: Unavailable("503")}
        world.start(source, ONE)
        world.alter(source, ONE, next(iter(source.rightful[ONE])))
        await asyncio.sleep(0.5)
        target.refused = {}
        target.lost_answers = 2
        world.start(source, TWO)
        world.alter(source, TWO, next(iter(source.rightful[TWO])))
        await asyncio.sleep(2.0)


async def merged(world: World) -> None:
    """Two registries with equal ids are merged; the first is not heard by a process that remembers nothing."""
    a, b, _ = world.server("a"), world.server("b"), world.server("c")
    world.links["x"] = [link("c", "a", "b")]
    world.fill(a, 6, 3)
    for name, instances in a.rightful.items():
        for id in instances:
            world.start(b, name, id=id)
    await _begin(world)
    await world.alive()[0].kill()
    a.silence()
    Process(world, "x")
    await asyncio.sleep(LONG)


async def renumbered(world: World) -> None:
    """Instances register anew under other ids, at a target that refuses the new ones for a while."""
    source, target = await _one_way(world)
    target.refused = {ONE: Unavailable("503")}
    for id, one in list(source.rightful[ONE].items()):
        world.start(source, ONE, address=one.address)
        world.stop(source, ONE, id)
    await asyncio.sleep(2.0)
    target.refused = {}
    for id, one in list(source.rightful[TWO].items()):
        target.lost_answers = 1
        world.start(source, TWO, address=one.address)
        world.stop(source, TWO, id)
        await asyncio.sleep(2.0)


async def rolled_over(world: World) -> None:
    """Services are rolled over, one instance at a time, the new one in the very moment in which the old one goes."""
    source, _ = await _one_way(world, services=4, instances=4)
    for service in (ONE, TWO):
        for id in list(source.rightful[service]):
            world.stop(source, service, id)
            world.start(source, service)
            await asyncio.sleep(2.0)


async def ill(world: World) -> None:
    """All instances of a service may receive no traffic any more, one after another."""
    source, _ = await _one_way(world, services=6, instances=2, unhealthy=Unhealthy.WITHDRAW)
    for id in list(source.rightful[ONE]):
        world.alter(source, ONE, id, health=Health.UNHEALTHY)
        await asyncio.sleep(15.0)


# -- what operators say in the place of a source -----------------------------------------------------------------------


async def _say(process: Process, of: str, lasting: float | None = None, **says: object) -> None:
    """The command `set`, or `drain` where nothing else is said; and time for it to be done."""
    kind = Kind.OVERRIDE if says.keys() - {"at", "including_last"} else Kind.DRAIN
    said = Override(of=of, **({"health": "DRAINING"} if kind is Kind.DRAIN else {}) | says)  # type: ignore[arg-type]
    if not await saying.say(process, kind, said, lasting):
        process.world.oracle.breaks("override", f"{of}: it was not followed")
    await asyncio.sleep(3.0)


async def drained_and_taken_over(world: World) -> None:
    """An instance is drained, and the writer dies; who takes over knows it by the note alone."""
    source, target = await _one_way(world)
    writer, _ = world.alive()[0], Process(world, "x")
    await asyncio.sleep(3.0)
    drained = next(iter(source.rightful[ONE]))
    await _say(writer, f"{ONE}@a/{drained}")
    await writer.kill()
    await asyncio.sleep(15.0)
    world.alter(source, ONE, drained, metadata={"team": "pay"})
    await asyncio.sleep(5.0)
    if target.instances(ONE)[drained].serving:
        world.oracle.breaks("override", "who took over sends requests to what is drained")


async def drained_and_started_anew(world: World) -> None:
    """Instances are drained, and the only daemon dies; the next one has no disk, and goes by the note at once."""
    source, _ = await _one_way(world, services=3, instances=6, unhealthy=Unhealthy.WITHDRAW)
    for id in list(source.rightful[ONE])[:3]:
        await _say(world.alive()[0], f"{ONE}/{id}")
    for _ in range(3):
        await world.alive()[0].kill()
        await asyncio.sleep(world.rng.uniform(0.0, 6.0))
        Process(world, "x")
        await asyncio.sleep(10.0)


async def drained_by_a_standby(world: World) -> None:
    """An operator drains at the host that does not write, and takes it back there."""
    source, target = await _one_way(world)
    standby = Process(world, "x")
    await asyncio.sleep(3.0)
    drained = next(iter(source.rightful[ONE]))
    await _say(standby, f"{ONE}/{drained}")
    if target.instances(ONE)[drained].serving:
        world.oracle.breaks("override", "who writes does not go by it")
    await saying.unsay(standby, world.said.all[-1])


async def drained_to_the_last(world: World) -> None:
    """Writes are stopped; all of a service is drained while natives serve under its name, and these leave meanwhile."""
    _, target = await _one_way(world, services=4, instances=3, natives=1)
    [process] = world.alive()
    history.halt(world, "a-to-b")
    await _say(process, str(ONE))
    for name, id in world.natives(target):
        world.stop(target, name, id)
    await asyncio.sleep(5.0)
    history.thaw(world, "a-to-b")
    await asyncio.sleep(10.0)


async def said_for_a_while(world: World) -> None:
    """Something is said of a service for some seconds, and the writer is another one when they are over."""
    source, _ = await _one_way(world)
    writer, _ = world.alive()[0], Process(world, "x")
    await asyncio.sleep(3.0)
    await _say(writer, f"{ONE}/{next(iter(source.rightful[ONE]))}", 8.0, weight=0.0)
    await _say(writer, str(TWO), 12.0, metadata={"env": "canary"})
    await writer.kill()
    await asyncio.sleep(30.0)


async def said_of_one_place(world: World) -> None:
    """One registry is copied to two, and something is said of what stands at one of them."""
    source = world.server("a")
    world.server("b"), world.server("c")
    world.links["x"] = [link("b", "a"), link("c", "a")]
    world.fill(source, 4, 3)
    await _begin(world)
    await _say(world.alive()[0], str(ONE), at="c", weight=3.0)
    await _say(world.alive()[0], f"{TWO}/{next(iter(source.rightful[TWO]))}", at="c")


async def drained_and_said(world: World) -> None:
    """An instance is drained, and something else is said of it, and of its service."""
    source, _ = await _one_way(world)
    [process] = world.alive()
    of = f"{ONE}@a/{next(iter(source.rightful[ONE]))}"
    await _say(process, of, health="UNHEALTHY", zone="z")
    await _say(process, str(ONE), weight=2.0, zone="y", metadata={"env": "canary"})
    await _say(process, of)


async def away_and_back(world: World) -> None:
    """A drained instance leaves; another one that comes under its id later serves."""
    source, _ = await _one_way(world)
    drained = next(iter(source.rightful[ONE].values()))
    await _say(world.alive()[0], f"{ONE}@a/{drained.id}")
    world.stop(source, ONE, drained.id)
    await asyncio.sleep(10.0)
    world.said.all[-1].ended = world.loop.time()
    world.put(source, ONE, drained)


async def given_back(world: World) -> None:
    """What was drained is given back, and then a source tells less than there is: it pays for nothing."""
    source, _ = await _one_way(world, services=8, instances=3, unhealthy=Unhealthy.WITHDRAW)
    [process] = world.alive()
    await asyncio.sleep(history.GUARD.window)
    drained = [(name, next(iter(source.rightful[name]))) for name in source.rightful][:6]
    for name, id in drained:
        await _say(process, f"{name}/{id}")
    for one in list(world.said.all):
        await saying.unsay(process, one)
    await asyncio.sleep(3.0)
    world.oracle.excuse(source, list(source.rightful))
    hidden = {(name, id) for name, id in drained} | {(name, list(source.rightful[name])[1]) for name, _ in drained[:2]}
    source.weather = Weather(hidden=lambda name, id: (name, id) in hidden, excused=True)
    source.cut()
    await asyncio.sleep(25.0)
    source.weather = Weather()
    source.cut()


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        nothing_is_listed,
        little_is_listed,
        some_is_not_listed,
        erosion,
        listed_slowly,
        back_while_it_lists,
        emptied_before_the_second_opinion,
        draining_and_left_out,
        back_in_the_dark,
        most_come_back,
        first_listing_breaks,
        restored,
        restored_once_more,
        swapped,
        swapped_and_purged,
        unreadable,
        spoiled,
        garbled,
        flapping,
        addresses_of_a_cluster,
        watches_that_end,
        listed_from_a_cache,
        the_same_addresses_in_three_networks,
        taken_in_the_dark,
        many_taken_in_the_dark,
        shared_and_dark,
        written_over,
        address_taken,
        shadowed_once,
        neighbours,
        two_ways,
        moved_upstream,
        moved_upstream_of_what_observes,
        moved_upstream_of_another_writer,
        meddling,
        excluded,
        excluded_and_swapped,
        renamed_to_a_name_with_the_same_ids,
        orphaned,
        upsert_only,
        observed,
        paused,
        frozen_elsewhere,
        frozen_without_a_note,
        frozen_and_taken_over,
        approved_and_taken_over,
        grown_after_it_was_shown,
        approved_once,
        approved_and_killed,
        approved_while_frozen,
        approved_long_ago,
        added_by_the_file,
        addition_approved_while_frozen,
        addition_approved_and_taken_away,
        refused_file,
        purged,
        adopted,
        handed_over,
        back_by_half,
        back_but_for_one,
        back_but_for_the_dead,
        copies_back_and_clients_not,
        removing_after_another_life,
        ill_beyond_the_hard_share,
        doubted_beside_another,
        windows_of_two_lengths,
        wiped_while_young,
        wiped_after_growth,
        wiped_service_by_service,
        stopped_while_it_writes,
        stopped_under_a_borrowed_lock,
        stopped_without_a_fence,
        objects_written_over,
        blank_polls,
        lender_in_trouble,
        taken_over_in_the_dark,
        taken_over_while_it_lists,
        taken_over_at_once,
        lost_and_got_again,
        held_and_taken_over,
        taken_over_by_who_is_deaf,
        woken_in_silence,
        woken_as_the_writer_again,
        stopped_while_a_removal_waits,
        answered_late,
        old_memory,
        failing_target,
        merged,
        renumbered,
        rolled_over,
        ill,
        drained_and_taken_over,
        drained_and_started_anew,
        drained_by_a_standby,
        drained_to_the_last,
        said_for_a_while,
        said_of_one_place,
        drained_and_said,
        away_and_back,
        given_back,
    )
} | moving.SCENARIOS
