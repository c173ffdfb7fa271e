"""Histories written by hand: one for each promise that chance finds too seldom, and that a mutant breaks."""

from __future__ import annotations

import asyncio

import msgspec

from bridge.errors import Unavailable
from bridge.link import Link, Policy, Services, Unhealthy
from bridge.model import Health, ServiceName
from tests.simulation import history, spells
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
    for one in world.links["x"]:
        world.former.setdefault(one.name, []).append(one)
    world.links["x"] = list(links)
    await world.alive()[0].reload()


def _operator(world: World, seconds: float) -> None:
    """An operator approves whatever is held, some time from now."""

    def approve() -> None:
        for process in world.alive():
            for reconciler, hold in process.holds():
                process.approve(reconciler, hold)

    world.loop.call_later(seconds, approve)


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
    while view._listing is None or len(view._listing) < 6:
        await asyncio.sleep(0.1)
    source.latency = LONG
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
    """The only instance drains, which is held; the source leaves it out, and a fresh read has it as it is."""
    source, _ = await _one_way(world, instances=1)
    world.alter(source, ONE, next(iter(source.rightful[ONE])), health=Health.DRAINING)
    await asyncio.sleep(1.0)
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


async def swapped(world: World) -> None:
    """Another cluster answers under the source's name; it has most of the names that the source has."""
    source, _ = await _one_way(world)
    await spells.under(world, source, spells.swapped, LONG)


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
    world.frozen.add("a-to-b")
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
    world.frozen.add("a-to-b")
    world.start(source, ONE)
    world.stop(source, *world.natives(source)[0])
    await asyncio.sleep(10.0)
    history.thaw(world, "a-to-b")


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
    while not view._listing:
        await asyncio.sleep(0.05)
    name = next(iter(view._listing))
    world.start(source, name)
    while len(target.instances(name)) < 4:
        await asyncio.sleep(0.05)
    source.latency = LONG
    await first.end()
    await asyncio.sleep(10 * LONG)
    source.latency = LATENCY


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


SCENARIOS: dict[str, Scenario] = {
    one.__name__: one
    for one in (
        nothing_is_listed,
        little_is_listed,
        some_is_not_listed,
        erosion,
        listed_slowly,
        emptied_before_the_second_opinion,
        draining_and_left_out,
        back_in_the_dark,
        most_come_back,
        first_listing_breaks,
        restored,
        swapped,
        unreadable,
        spoiled,
        garbled,
        flapping,
        written_over,
        address_taken,
        shadowed_once,
        neighbours,
        two_ways,
        moved_upstream,
        moved_upstream_of_another_writer,
        meddling,
        excluded,
        orphaned,
        upsert_only,
        observed,
        paused,
        grown_after_it_was_shown,
        approved_once,
        stopped_while_it_writes,
        taken_over_in_the_dark,
        taken_over_while_it_lists,
        woken_in_silence,
        answered_late,
        old_memory,
        failing_target,
        merged,
        renumbered,
        rolled_over,
        ill,
    )
}
