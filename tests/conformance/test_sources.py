"""What every source promises."""

from __future__ import annotations

import asyncio
import random

import pytest

from bridge.adapter import Listing, Observed, Registry, Source, Synced
from bridge.errors import Denied, Expired, IsthmusError, Unavailable
from bridge.model import Instance, ServiceName
from tests.conformance.lab import (
    BRIDGE,
    CART,
    PAY,
    Lab,
    Watching,
    at,
    change,
    create,
    i,
    instance,
    need,
    seated,
    source_of,
    until,
    watching,
    write,
)
from tests.kit.seated import Seated

PART = "source"

SILENCE = (Unavailable, Denied, Expired)


async def test_a_watch_says_who_it_is_then_everything_there_is_then_synced(lab: Lab, source: Source) -> None:
    await lab.register(PAY, instance(1))
    await lab.register(PAY, instance(2))
    await lab.register(CART, instance(3, CART))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert [type(word) for word in watch.said] == [Listing, Observed, Observed, Synced]
        assert watch.service(PAY).instances == {each.id: each for each in (instance(1), instance(2))}
        assert watch.service(CART).instances == {i(3, CART): instance(3, CART)}
        assert not watch.service(PAY).marks


async def test_a_registry_without_a_service_is_synced_too(source: Source) -> None:
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert [type(word) for word in watch.said] == [Listing, Synced]


async def test_nothing_is_missed_between_the_listing_and_the_watch(lab: Lab, source: Source, seed: int) -> None:
    rng = random.Random(seed)
    services = [ServiceName(f"svc{number}") for number in range(40)]
    there: dict[ServiceName, Instance] = {}
    started = asyncio.Event()

    async def storm() -> None:
        """Every service is written once, and a third time or never: what was missed is not made good by chance."""
        for number, name in enumerate([*services, *rng.sample(services, 40), *rng.sample(services, 10)]):
            gone = there.get(name)
            if gone and rng.random() < 0.3:
                del there[name]
                await lab.deregister(name, gone.id)
            else:
                there[name] = instance(1, name, turn=str(number))
                await lab.register(name, there[name])
            if number == len(services) - 1:
                started.set()
            await asyncio.sleep(0)

    async def look() -> Watching:
        async with watching(source) as watch:
            await watch.until(lambda: watch.synced)
            await writing
            for name in services:
                await watch.until(lambda name=name: watch.service(name).instances == known(name))  # type: ignore[misc]
        return watch

    def known(name: ServiceName) -> dict[str, Instance]:
        return {there[name].id: there[name]} if name in there else {}

    writing = asyncio.create_task(storm())
    looks = [asyncio.create_task(look())]
    await started.wait()
    for _ in range(6):
        looks.append(asyncio.create_task(look()))
        for _ in range(rng.randrange(10)):
            await asyncio.sleep(0)
    for watch in await asyncio.gather(*looks):
        for name in services:
            assert (await source.read(name)).service == watch.service(name)
            assert await lab.truth(name) == watch.picture(name)


async def test_every_observation_is_the_whole_service(lab: Lab, source: Source) -> None:
    await lab.register(PAY, instance(1))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        await lab.register(PAY, instance(2))
        await watch.until(lambda: len(watch.service(PAY).instances) == 2)
        await lab.register(PAY, instance(2, colour="blue"))
        await watch.until(lambda: watch.service(PAY).instances[i(2)] == instance(2, colour="blue"))
        await lab.deregister(PAY, i(2))
        await watch.until(lambda: watch.picture(PAY) == at(instance(1)))
        assert all(i(1) in observed.service.instances for observed in watch.observations(PAY))


async def test_a_service_whose_last_instance_went_is_observed_without_instances(lab: Lab, source: Source) -> None:
    await lab.register(PAY, instance(1))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        await lab.deregister(PAY, i(1))
        await watch.until(lambda: watch.observed[PAY].service.instances == {})
        assert not watch.observed[PAY].unreadable
        await lab.register(PAY, instance(2))
        await watch.until(lambda: watch.picture(PAY) == at(instance(2)))


async def test_a_record_that_makes_no_sense_is_named_and_its_siblings_flow(lab: Lab, source: Source) -> None:
    need(lab, "spoil")
    await lab.register(PAY, instance(1))
    await lab.register(PAY, instance(2))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        await lab.spoil(PAY, i(1))
        await watch.until(lambda: watch.observed[PAY].unreadable == {i(1)})
        await lab.register(PAY, instance(3))
        await watch.until(lambda: i(3) in watch.service(PAY).instances)
        assert watch.service(PAY).instances[i(2)] == instance(2)
        assert any("pay" in place and why for place, why in source.ignored.items())
    async with watching(source) as later:
        await later.until(lambda: later.synced)
        assert later.observed[PAY].unreadable == {i(1)}
        assert later.picture(PAY) == at(instance(2), instance(3))
        await lab.register(PAY, instance(1))
        await later.until(lambda: not later.observed[PAY].unreadable and len(later.picture(PAY)) == 3)
        assert not source.ignored
    assert (await source.read(PAY)).unreadable == frozenset()


async def test_a_service_of_which_nothing_can_be_read_is_not_gone(lab: Lab, source: Source) -> None:
    need(lab, "spoil")
    await lab.register(PAY, instance(1))
    await lab.spoil(PAY, i(1))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert watch.observed[PAY].unreadable == {i(1)}
    assert (await source.read(PAY)).unreadable == {i(1)}


async def test_a_second_opinion_agrees_with_the_truth(lab: Lab, source: Source) -> None:
    await lab.register(PAY, instance(1))
    await lab.register(PAY, instance(2, team="pay"))
    await lab.register(CART, instance(3, CART))
    assert (await source.read(PAY)).service.instances == {i(1): instance(1), i(2): instance(2, team="pay")}
    await lab.deregister(PAY, i(1))
    assert at(*(await source.read(PAY)).service.instances.values()) == await lab.truth(PAY) == at(instance(2))
    assert (await source.read(ServiceName("nobody"))).service.instances == {}


async def test_silence_is_an_error_and_never_an_observation(lab: Lab, source: Source) -> None:
    need(lab, "cut")
    await lab.register(PAY, instance(1))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        said = len(watch.said)
        await lab.cut()
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, SILENCE)
        assert len(watch.said) == said
    async with watching(source) as watch:
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Unavailable)
        assert not watch.synced
        assert not watch.observed
    with pytest.raises(Unavailable):
        await source.read(PAY)


async def test_after_silence_the_same_registry_tells_the_same(lab: Lab, source: Source) -> None:
    need(lab, "cut")
    await lab.register(PAY, instance(1))
    async with watching(source) as before:
        await before.until(lambda: before.synced)
    await lab.cut()
    async with watching(source) as cut:
        await cut.until(lambda: cut.error is not None)
    await lab.heal()
    after = Watching()

    async def answers() -> bool:
        nonlocal after
        async with watching(source) as after:
            try:
                await after.until(lambda: after.synced)
            except IsthmusError:
                return False
            return True

    await until(answers)
    old, new = before.said[0], after.said[0]
    assert isinstance(old, Listing)
    assert isinstance(new, Listing)
    assert (new.identity, new.incarnation) == (old.identity, old.incarnation)
    assert new.revision >= old.revision
    assert after.service(PAY) == before.service(PAY)


async def test_every_client_knows_the_registry_by_the_same_name(lab: Lab, registry: Registry, sink: Seated) -> None:
    async with lab.registry() as second:
        listings = []
        for each in (registry, second):
            async with watching(await source_of(each)) as watch:
                await watch.until(lambda w=watch: w.synced)  # type: ignore[misc]
                listing = watch.said[0]
                assert isinstance(listing, Listing)
                listings.append((listing.identity, listing.incarnation))
        assert listings[0] == listings[1]
        assert (await sink.held()).identity == (await second.reach()).identity == listings[0][0]


async def test_becoming_a_destination_is_not_another_life(lab: Lab, registry: Registry, source: Source) -> None:
    need(lab, "write")
    async with watching(source) as before:
        await before.until(lambda: before.synced)
    async with seated(lab, registry, BRIDGE) as sink:
        await write(sink, create(PAY, instance(1)))
    async with watching(source) as after:
        await after.until(lambda: after.synced)
    old, new = before.said[0], after.said[0]
    assert isinstance(old, Listing)
    assert isinstance(new, Listing)
    assert (new.identity, new.incarnation) == (old.identity, old.incarnation)


async def test_what_a_bridge_wrote_is_never_seen_without_its_mark(lab: Lab, registry: Registry, sink: Seated) -> None:
    source = await source_of(registry)
    seen: list[Watching] = []

    async def storm() -> None:
        for turn in range(25):
            first, second = await write(sink, create(PAY, instance(1)), create(PAY, instance(2, turn=str(turn))))
            if "change" in lab.can:
                (first,) = await write(sink, change(PAY, first, instance(1, turn=str(turn))))
            await write(sink, change(PAY, first, None), change(PAY, second, None))
        await write(sink, create(PAY, instance(3)))

    async def look_again() -> None:
        while True:
            async with watching(source) as listing:
                seen.append(listing)
                await listing.until(lambda: listing.synced)
            read = await source.read(PAY)
            assert read.service.instances.keys() == read.service.marks.keys()

    async with watching(source) as watch:
        seen.append(watch)
        looking = asyncio.create_task(look_again())
        await storm()
        await watch.until(lambda: watch.picture(PAY) == at(instance(3)))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert looking.cancelled(), looking.exception()
    observations = [observed for each in seen for observed in each.observations(PAY)]
    assert len(observations) > 2
    for observed in observations:
        assert observed.service.instances.keys() == observed.service.marks.keys()
        assert not observed.unreadable
        assert {mark.owner for mark in observed.service.marks.values()} <= {BRIDGE}


async def test_what_a_native_wrote_over_is_a_natives_again(lab: Lab, source: Source, sink: Seated) -> None:
    await write(sink, create(PAY, instance(1)), create(PAY, instance(2)))
    async with watching(source) as watch:
        await watch.until(lambda: watch.synced)
        assert watch.service(PAY).marks.keys() == {i(1), i(2)}
        await lab.register(PAY, instance(1))
        await watch.until(lambda: watch.service(PAY).marks.keys() == {i(2)})
        assert watch.service(PAY).instances == {each.id: each for each in (instance(1), instance(2))}


async def test_a_watch_that_ends_leaves_the_others_alone(lab: Lab, source: Source) -> None:
    async with watching(source) as stays:
        async with watching(source) as ends:
            await ends.until(lambda: ends.synced)
        await stays.until(lambda: stays.synced)
        await lab.register(PAY, instance(1))
        await stays.until(lambda: stays.picture(PAY) == at(instance(1)))


async def test_a_watch_leaves_no_task_behind(lab: Lab) -> None:
    before = asyncio.all_tasks()
    async with lab.registry() as registry:
        source = await source_of(registry)
        for _ in range(3):
            async with watching(source) as watch:
                await watch.until(lambda w=watch: w.synced)  # type: ignore[misc]

    async def clean() -> bool:
        return asyncio.all_tasks() <= before

    await until(clean)


async def test_positions_never_go_back_in_one_watch(lab: Lab, source: Source) -> None:
    async with watching(source) as watch:
        for number in range(1, 10):
            await lab.register(PAY, instance(number))
        await watch.until(lambda: watch.synced and len(watch.picture(PAY)) == 9)
        revisions = [word.revision for word in watch.said]
        listed = [word.revision for word in watch.said if isinstance(word, Listing | Synced)]
        assert listed == sorted(listed)
        after = revisions[[isinstance(word, Synced) for word in watch.said].index(True) :]
        assert after == sorted(after)


async def test_the_records_can_be_shown_as_they_stand(lab: Lab, registry: Registry, sink: Seated) -> None:
    await lab.register(PAY, instance(1))
    await write(sink, create(PAY, instance(2, team="pay")))
    records = [one for one in await registry.raw(PAY) if one.id]
    assert not [one for one in records if one.fault]
    assert len({one.id for one in records}) == 2
    for address in ("192.0.2.1", "192.0.2.2"):
        assert any(address in one.place + one.text for one in records)
    assert not list(await registry.raw(ServiceName("nobody")))
