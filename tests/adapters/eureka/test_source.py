"""What a Eureka is believed: restarts, peers that restart or differ, damaged deltas, self-preservation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from adapters.eureka import Config, create, working_copy
from adapters.eureka.source import RETURNS
from adapters.eureka.times import Times
from adapters.eureka.watching import AUDIT_EVERY, FULL_EVERY, RETENTION
from adapters.eureka.working_copy import MISSED
from bridge.adapter import Listing
from bridge.errors import Unavailable
from bridge.model import Health, ServiceName
from tests.conformance.lab import Watching, watching
from tests.conftest import StartEureka, provided
from tests.kit.clocks import Ahead
from tests.kit.eureka import Native
from tests.kit.waiting import until
from tests.servers import eureka as servers

PAY = ServiceName("pay")
# A change is in no delta soon after it.
FORGETFUL = {
    "eureka.server.retentionTimeInMSInDeltaQueue": "1",
    "eureka.server.deltaRetentionTimerIntervalInMs": "10",
}


def config(*servers: servers.Eureka, **more: Any) -> Config:
    return Config(urls=[server.url for server in servers], poll=0.1, **more)


def listing(watch: Watching) -> Listing:
    said = watch.said[0]
    assert isinstance(said, Listing)
    return said


async def test_a_restarted_server_is_another_life_and_the_same_one_stays_the_same(
    eureka_server: StartEureka, tmp_path: Path
) -> None:
    server = await eureka_server()
    native = Native(server)
    for number in range(3):
        await native.register("pay", f"i{number}")
    await native.cancel("pay", "i0")
    async with create("old", config(server), tmp_path) as registry:
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.service(PAY).instances.keys() == {"i1", "i2"})
            first = listing(watch)
            assert first.returns == RETURNS
            await server.kill()
            await watch.until(lambda: watch.error is not None)
        await server.start()
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.synced)
            assert not watch.observed
            second = listing(watch)
            assert second.identity == first.identity
            assert second.incarnation != first.incarnation
            await native.register("pay", "i1")
            await watch.until(lambda: watch.service(PAY).instances.keys() == {"i1"})
    async with create("old", config(server), tmp_path) as later, watching(later.source) as watch:
        await watch.until(lambda: watch.synced)
        assert listing(watch) == second


async def test_a_server_that_is_closed_at_first_is_out_of_reach_and_not_empty(eureka_server: StartEureka) -> None:
    """Netflix's own server answers nobody for five minutes when it starts empty; Spring's is open at once."""
    closed = {"instance.registry.default-open-for-traffic-count": "0", "server.wait-time-in-ms-when-sync-empty": "4000"}
    server = await eureka_server(settings={f"eureka.{key}": text for key, text in closed.items()})
    await server.kill()
    starting = asyncio.create_task(server.start())
    async with create("old", config(server), None) as registry:

        async def said() -> str:
            async with watching(registry.source) as watch:
                await watch.until(lambda: watch.synced or watch.error is not None)
                return str(watch.error or "")

        async def is_closed() -> bool:
            return "is closed (403)" in await said()

        await until(is_closed)
        await starting
        assert await said() == ""


@pytest.fixture
def settings() -> dict[str, str]:
    """Of both peers."""
    return {}


@pytest_asyncio.fixture
async def pair(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]
) -> AsyncIterator[list[servers.Eureka]]:
    with provided():
        async with servers.pair(tmp_path_factory.mktemp("pair"), settings=settings) as peers:
            yield peers


async def _has(server: servers.Eureka, *ids: str) -> bool:
    return {id for _, id in await Native(server).all()} >= set(ids)


async def test_peers_that_fail_and_forget_take_nothing_away(pair: list[servers.Eureka]) -> None:
    """A peer dies, the other one is asked; it is back with what is UP alone, and then the other one dies."""
    (one, other), clock = pair, Ahead()
    await Native(one).register("pay", "up")
    await Native(one).register("pay", "drained", status="OUT_OF_SERVICE")
    await Native(one).register("pay", "down", status="DOWN")
    await until(lambda: _has(other, "up", "drained", "down"), "the peers agree")
    async with create("old", config(one, other), None, clock=clock) as registry, watching(registry.source) as watch:
        await watch.until(lambda: watch.service(PAY).instances.keys() == {"up", "drained", "down"})
        await one.kill()
        await Native(other).register("pay", "new")
        await watch.until(lambda: "new" in watch.service(PAY).instances)
        assert watch.service(PAY).instances["drained"].health is Health.DRAINING
        await one.start()
        assert not await _has(one, "drained")  # what is not UP, it has with the next heartbeat
        forgetful = create("new", config(one), None)
        async with forgetful:
            told = await forgetful.source.read(PAY)
            assert "drained" not in told.service.instances
        # Both are asked before what one of them lacks is gone.
        registry.source._client._http.urls = (other.url, one.url)
        for _ in range(2):
            clock.by += MISSED
            await Native(other).cancel("pay", "new")
            await watch.until(lambda: "new" not in watch.service(PAY).instances)
            await Native(other).register("pay", "new")
            await watch.until(lambda: "new" in watch.service(PAY).instances)
        assert all(
            {"up", "drained", "down"} <= observed.service.instances.keys() for observed in watch.observations(PAY)
        )
        assert watch.error is None
        assert len([word for word in watch.said if isinstance(word, Listing)]) == 1


async def test_a_peer_that_lacks_what_the_other_has_is_asked_with_it(pair: list[servers.Eureka]) -> None:
    (one, other), clock = pair, Ahead()
    await Native(one).register("pay", "here")
    await Native(one).register("pay", "gone")
    await until(lambda: _has(other, "here", "gone"), "the peers agree")
    async with create("old", config(one, other), None, clock=clock) as registry, watching(registry.source) as watch:
        await watch.until(lambda: len(watch.service(PAY).instances) == 2)
        # What is said to replicate is kept by the server that is asked alone: so the peers come to differ.
        await _alone(one, "/apps/PAY/here")
        clock.by += FULL_EVERY
        await Native(other).cancel("pay", "gone")
        await watch.until(lambda: watch.service(PAY).instances.keys() <= {"here"})
        assert watch.error is None


@pytest.mark.parametrize("settings", [FORGETFUL])
async def test_a_frozen_peer_holds_up_no_change_of_the_other_one(pair: list[servers.Eureka]) -> None:
    """What one of them lacks is asked of the frozen one, which takes as long as a list may; polls go on meanwhile."""
    (one, other), clock = pair, Ahead()
    await Native(one).register("pay", "lost")
    await until(lambda: _has(other, "lost"), "the peers agree")
    patient = create("old", config(one, other), None, Times(instance=3600.0), clock)
    async with patient as registry, watching(registry.source) as watch:
        await watch.until(lambda: watch.service(PAY).instances.keys() == {"lost"})
        with other.frozen():
            await _alone(one, "/apps/PAY/lost")
            clock.by += FULL_EVERY
            await _seen(one, watch, "listed")
            assert "lost" in watch.service(PAY).instances
            clock.by += MISSED
            for id in ("first", "second", "third"):
                await _seen(one, watch, id)
            assert "lost" in watch.service(PAY).instances
            assert registry.source._copy.overdue(clock()), "it is still being asked for"
        await until(lambda: not registry.source._copy.overdue(clock()), "it has answered")
        await _seen(one, watch, "last")
        assert "lost" in watch.service(PAY).instances
        assert watch.error is None


async def _seen(server: servers.Eureka, watch: Watching, id: str) -> None:
    await Native(server).register("pay", id)
    await watch.until(lambda: id in watch.service(PAY).instances)


async def test_a_peer_that_says_otherwise_who_is_not_up_is_not_believed_at_once(pair: list[servers.Eureka]) -> None:
    (one, other), clock = pair, Ahead()
    await Native(one).register("pay", "a")
    await Native(one).register("pay", "b")
    await until(lambda: _has(other, "a", "b"), "the peers agree")
    async with create("old", config(one, other), None, clock=clock) as registry, watching(registry.source) as watch:
        await watch.until(lambda: len(watch.service(PAY).instances) == 2)
        # What is said to replicate is kept by the server that is asked alone: so the peers come to differ.
        await _alone(other, "/apps/PAY/a/status?value=OUT_OF_SERVICE", "PUT")
        await one.kill()
        await Native(other).register("pay", "new")
        await watch.until(lambda: "new" in watch.service(PAY).instances)
        assert {id: each.health for id, each in watch.service(PAY).instances.items()} == dict.fromkeys(
            ("a", "b", "new"), Health.HEALTHY
        )
        clock.by += MISSED
        await watch.until(lambda: watch.service(PAY).instances["a"].health is Health.DRAINING)
        assert watch.error is None


async def _alone(server: servers.Eureka, path: str, method: str = "DELETE") -> None:
    import urllib.request

    request = urllib.request.Request(f"{server.url}{path}", method=method)
    request.add_header("x-netflix-discovery-replication", "true")
    await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=30).close())


async def test_a_server_that_went_back_ends_the_watch(eureka: servers.Eureka) -> None:
    async with create("old", config(eureka), None) as registry:
        await Native(eureka).register("pay", "i1")
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.synced)
            registry.source._lives.saw(eureka.url, 10_000)
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.synced)
            assert listing(watch).incarnation.startswith("up since ")


async def test_a_frozen_server_is_found_and_takes_nothing_away(eureka: servers.Eureka) -> None:
    """It takes connections and answers none; a list may take a minute, if some of it comes."""
    times = Times(list=3600.0, silence=2.0)
    await Native(eureka).register("pay", "i1")
    async with create("old", config(eureka), None, times) as registry:
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.synced)
            with eureka.frozen():
                await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Unavailable)
            assert watch.service(PAY).instances.keys() == {"i1"}
        await Native(eureka).register("pay", "i2")
        async with watching(registry.source) as after:
            await after.until(lambda: after.service(PAY).instances.keys() == {"i1", "i2"})
        assert listing(after) == listing(watch)


async def test_fault_31_a_swap_that_the_delta_forgot_and_its_hash_hides_is_found(eureka_server: StartEureka) -> None:
    """One ends and another one begins, and there are as many with each status as before."""
    server = await eureka_server(settings=FORGETFUL)
    clock = Ahead()
    for id in ("stays", "goes"):
        await Native(server).register("pay", id)
    async with create("old", config(server), None, clock=clock) as registry:
        copy = working_copy.WorkingCopy("ip")
        watch = registry._drifting(copy)

        async def forgotten() -> bool:
            return not (await registry._client.delta(server.url)).instances

        def there() -> set[str]:
            return set(copy.observed(PAY).service.instances)

        async def changed() -> bool:
            return PAY in await watch.step()

        await watch.begin()
        await Native(server).cancel("pay", "goes")
        await Native(server).register("pay", "comes")
        await until(forgotten)
        assert not await watch.step()
        assert there() == {"stays", "goes"}
        clock.by += FULL_EVERY
        assert PAY in await watch.step()
        assert there() == {"stays", "goes", "comes"}
        clock.by += MISSED
        await until(changed, "nobody has it any more")
        assert there() == {"stays", "comes"}
        await watch.end()


async def test_fault_33_a_delta_that_may_lack_something_is_followed_by_a_whole_list(eureka: servers.Eureka) -> None:
    """As after more silence than servers keep their changes for: what the delta lacks is found."""
    clock = Ahead()
    await Native(eureka).register("pay", "i1")
    async with create("old", config(eureka), None, clock=clock) as registry, watching(registry.source) as watch:
        await watch.until(lambda: watch.synced)
        registry.source._copy._statuses["UP"] += 1  # one is counted that is not there
        await Native(eureka).register("pay", "i2")
        await watch.until(lambda: watch.service(PAY).instances.keys() == {"i1", "i2"})
        assert registry.source._copy._statuses["UP"] == 2
        clock.by += RETENTION
        await Native(eureka).register("pay", "i3")
        await watch.until(lambda: "i3" in watch.service(PAY).instances)


async def test_check_says_what_self_preservation_keeps(eureka_server: StartEureka) -> None:
    server = await eureka_server()
    await Native(server).register("pay", "i1", leaseInfo={"renewalIntervalInSecs": 1, "durationInSecs": 1})
    async with create("old", config(server), None) as registry:

        async def noted() -> str:
            notes = (await registry.reach()).notes
            return next((note for note in notes if "self-preservation keeps 1 instances" in note), "")

        assert "silent for" in await until(noted, "the lease is over", every=0.5)
        assert "end 7 days after their last heartbeat" in " / ".join((await registry.reach()).limits)
        async with watching(registry.source) as watch:
            await watch.until(lambda: watch.service(PAY).instances.keys() == {"i1"})


@pytest.mark.parametrize("defaults", [True])
async def test_a_default_server_shows_what_was_written_though_its_lists_lag(
    eureka_server: StartEureka, defaults: bool
) -> None:
    """Lists come from a cache of 30 s; what we wrote is looked up past it, and so is what comes to light elsewhere."""
    from tests.adapters.eureka.test_sink import copy, write
    from tests.conformance.lab import BRIDGE, change
    from tests.conformance.lab import create as creation

    # Longer than the test, so that what is seen does not come from it.
    lag = {"eureka.server.response-cache-update-interval-ms": "600000"}
    server = await eureka_server(defaults=defaults, settings=lag)
    for id in ("stays", "goes"):
        await Native(server).register("stock", id)
    clock = Ahead()
    async with create("old", config(server), None, clock=clock) as registry, watching(registry.source) as watch:
        await watch.until(lambda: watch.synced)
        await Native(server).cancel("stock", "goes")
        await Native(server).register("stock", "comes")
        assert watch.service(ServiceName("stock")).instances.keys() == {"stays", "goes"}
        clock.by += AUDIT_EVERY
        await watch.until(lambda: watch.service(ServiceName("stock")).instances.keys() == {"stays", "comes"})
        assert watch.error is None
    async with create("new", config(server), None) as registry:
        sink = registry.sink(BRIDGE)
        assert not (await sink.held([PAY])).services
        (entry,) = await write(sink, creation(PAY, copy(1)))
        for names in (None, [PAY]):
            assert (await sink.held(names)).services[PAY] == {entry.instance.id: entry}
        (second,) = await write(sink, change(PAY, entry, copy(1, metadata={"turn": "2"})))
        assert (await sink.held()).services[PAY] == {entry.instance.id: second}
        await write(sink, change(PAY, second, None))
        assert PAY not in (await sink.held()).services
        assert not (await registry.source.read(PAY)).service.instances
