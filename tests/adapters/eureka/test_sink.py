"""What is written to a Eureka, seen past our own code: status, timestamps, ids, leases and heartbeats."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from math import inf
from typing import Any, cast

import pytest
from msgspec.structs import replace

from adapters.eureka import Config, Eureka, create, heartbeats
from adapters.eureka.client import Client
from adapters.eureka.life import Lives
from adapters.eureka.sink import EurekaSink
from adapters.eureka.times import TIMES, Times
from adapters.eureka.watching import Watching
from adapters.eureka.working_copy import WorkingCopy
from bridge.adapter import Change, Entry
from bridge.errors import Conflict, Rejected, Superseded
from bridge.model import Health, Instance, ServiceName
from mappings import eureka as mapping
from tests.conformance.lab import BRIDGE, PAY, change, instance
from tests.conformance.lab import create as creation
from tests.conftest import StartEureka
from tests.kit.eureka import Native
from tests.kit.proxy import Proxy
from tests.kit.waiting import until
from tests.servers import eureka as servers

FAST = Times(renewal=1.0)
CART = ServiceName("cart")


class Term:
    """A term without a lock. `until` on the loop's clock."""

    fence = None
    taken_over = False

    def __init__(self, until: float = inf) -> None:
        self.until = until

    async def ended(self) -> None:
        await asyncio.Event().wait()


@asynccontextmanager
async def opened(
    server: servers.Eureka, poll: float = 0.05, times: Times = TIMES
) -> AsyncIterator[tuple[Eureka, EurekaSink]]:
    async with create("new", Config(urls=[server.url], poll=poll), None, times) as registry:
        yield registry, registry.sink(BRIDGE)


def copy(number: int, service: ServiceName = PAY, **fields: Any) -> Instance:
    """One of some instances, in Eureka's form."""
    return mapping.canonical(service, replace(instance(number), **fields))


async def write(sink: EurekaSink, *changes: Change, term: Term | None = None) -> list[Entry]:
    outcomes = await sink.apply(changes, term or Term())
    assert [one.error for one in outcomes] == [None] * len(changes)
    return [Entry(one.change.after, one.change.mark, one.version) for one in outcomes if one.change.after is not None]


async def refused(sink: EurekaSink, one: Change) -> Exception | None:
    (outcome,) = await sink.apply([one], Term())
    return outcome.error


STEPS = [Health.HEALTHY, Health.DRAINING, Health.HEALTHY, Health.UNHEALTHY, Health.DRAINING, Health.UNHEALTHY]


async def test_an_entry_is_drained_and_put_back_without_an_override(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        (entry,) = await write(sink, creation(PAY, copy(1)))
        for health in STEPS:
            (entry,) = await write(sink, change(PAY, entry, copy(1, health=health)))
            said = await Native(eureka).get("pay", entry.instance.id)
            assert said["status"] == mapping.status(entry.instance)
            assert said["overriddenStatus"] == "UNKNOWN"
            assert (await sink.held([PAY])).services[PAY] == {entry.instance.id: entry}


async def test_what_an_operator_overrode_at_eureka_stays_as_it_is(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        (entry,) = await write(sink, creation(PAY, copy(1)))
        await Native(eureka).override("pay", entry.instance.id, "OUT_OF_SERVICE")
        error = await refused(sink, change(PAY, entry, copy(1, metadata={"turn": "2"})))
        assert isinstance(error, Rejected)
        assert "OUT_OF_SERVICE" in str(error)
        assert (await sink.held([PAY])).services[PAY][entry.instance.id].instance.health is Health.DRAINING
        await write(sink, change(PAY, entry, None))


async def test_an_override_of_one_copy_leaks_to_no_other_application(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        await write(sink, creation(PAY, copy(1)))
        await Native(eureka).register("native", "i1", overriddenStatus="OUT_OF_SERVICE")
        await Native(eureka).override("pay", copy(1).id, "OUT_OF_SERVICE")
        (entry,) = await write(sink, creation(CART, copy(1, CART)))
        assert entry.instance.id != copy(1).id
        assert (await Native(eureka).get("cart", entry.instance.id))["status"] == "UP"


@pytest.mark.parametrize("id", ["dc1/node/i1", "a\\b", "i 1 (ä); %2F?#..", ".", "vm7:pay:8080"])
async def test_every_id_can_be_renewed_changed_and_removed(eureka: servers.Eureka, id: str) -> None:
    async with opened(eureka) as (_, sink):
        (entry,) = await write(sink, creation(PAY, copy(1, id=id)))
        (entry,) = await write(sink, change(PAY, entry, replace(entry.instance, metadata={"turn": "2"})))
        await Native(eureka).renew("pay", entry.instance.id)
        assert (await sink.held()).services[PAY] == {entry.instance.id: entry}
        await write(sink, change(PAY, entry, None))
        assert await Native(eureka).all() == {}


async def test_a_natives_id_with_a_slash_is_read_and_left_alone(eureka: servers.Eureka) -> None:
    await Native(eureka).register("pay", "a/b")
    async with opened(eureka) as (registry, sink):
        assert (await sink.held([PAY])).services[PAY]["a/b"].mark is None
        assert (await registry.source.read(PAY)).service.instances.keys() == {"a/b"}
        assert [one.id for one in await registry.raw(PAY)] == ["a/b"]


async def test_timestamps_rise_over_one_from_the_future(eureka: servers.Eureka) -> None:
    future = round(time.time() * 1000) + 3_600_000
    async with opened(eureka) as (_, sink):
        sink._wall = lambda: future / 1000
        (entry,) = await write(sink, creation(PAY, copy(1)))
    async with opened(eureka) as (_, sink):
        (again,) = await write(sink, change(PAY, entry, copy(1, metadata={"turn": "2"})))
        assert again.version == entry.version + 1
        assert (await Native(eureka).get("pay", copy(1).id))["metadata"]["turn"] == "2"


async def test_a_native_that_registers_over_a_copy_is_left_alone(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        (entry,) = await write(sink, creation(PAY, copy(1)))
        await Native(eureka).register("pay", entry.instance.id, lastDirtyTimestamp=str(entry.version + 5_000))
        for after in (copy(1, metadata={"turn": "2"}), None):
            assert isinstance(await refused(sink, change(PAY, entry, after)), Conflict)
        assert mapping.MARK not in (await Native(eureka).get("pay", entry.instance.id))["metadata"]


async def test_nothing_is_written_past_the_end_of_a_term(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        (entry,) = await write(sink, creation(PAY, copy(1)))
        before = await Native(eureka).all()
        over = Term(asyncio.get_running_loop().time())
        for one in (creation(PAY, copy(2)), change(PAY, entry, copy(1, metadata={"a": "b"})), change(PAY, entry, None)):
            with pytest.raises(Superseded):
                await sink.apply([one], over)
        assert (await Native(eureka).all()).keys() == before.keys()


async def test_a_lasting_entry_lives_for_a_week_and_a_leased_one_for_its_ttl(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        await write(sink, creation(PAY, copy(1)), creation(PAY, copy(2), ttl=45))
        leases = {id: one["leaseInfo"] for (_, id), one in (await Native(eureka).all()).items()}
        assert leases[copy(1).id]["durationInSecs"] == 604_800
        assert leases[copy(2).id]["durationInSecs"] == 45
        for lease in leases.values():  # one heartbeat has been sent: without, it would live for half the time
            assert (
                lease["lastRenewalTimestamp"] > lease["registrationTimestamp"] + 1000 * lease["durationInSecs"] - 1000
            )
            assert lease["renewalIntervalInSecs"] == 30


async def _renewed(server: servers.Eureka, id: str) -> int:
    found = await Native(server).get("pay", id)
    return int(found["leaseInfo"]["lastRenewalTimestamp"])


async def test_who_wrote_last_renews_until_another_process_writes(eureka: servers.Eureka) -> None:
    async with opened(eureka, times=FAST) as (_, first), opened(eureka, times=FAST) as (_, second):
        first.renew(ours=True)
        await write(first, *(creation(PAY, copy(number)) for number in range(1, 9)))
        ids = [copy(number).id for number in range(1, 9)]

        async def rises(id: str) -> None:
            before = await _renewed(eureka, id)

            async def risen() -> bool:
                return await _renewed(eureka, id) > before

            await until(risen, f"{id} is renewed")

        await asyncio.gather(*map(rises, ids))
        assert first.renewal is not None
        assert (first.renewal.entries, first.renewal.ends) == (8, 604_800)
        assert second.renewal is None
        await second.held()  # whoever takes over knows by this what there is to renew
        second.renew(ours=True)
        first.renew(ours=False)
        assert first.renewal is None
        await asyncio.gather(*map(rises, ids))


async def test_what_a_heartbeat_does_not_find_is_told_as_drift(eureka: servers.Eureka) -> None:
    async with opened(eureka, poll=60.0, times=FAST) as (_, sink):
        sink.renew(ours=True)
        (entry,) = await write(sink, creation(PAY, copy(1)))
        async with aclosing(cast(Any, sink.drift())) as drift:
            assert await anext(drift) == frozenset()
            await Native(eureka).cancel("pay", entry.instance.id)
            assert await asyncio.wait_for(anext(drift), 60.0) == {PAY}
        assert not (await sink.held([PAY])).services.get(PAY)
        await write(sink, creation(PAY, copy(1)))


@asynccontextmanager
async def drifting(server: servers.Eureka) -> AsyncIterator[tuple[EurekaSink, set[ServiceName], Callable[[], Any]]]:
    """A sink whose deltas come late, what it tells of drift, and a wait until the next delta is under way."""
    async with opened(server) as (_, direct), Proxy(server.address) as proxy:
        url = f"http://{proxy.address}/eureka"
        client = Client([url], None, None, TIMES)
        told: set[ServiceName] = set()
        began = asyncio.Event()

        def watching(copy: WorkingCopy) -> Watching:
            return Watching(client, copy, Lives(None), 0.01, random.Random(1))

        sink = EurekaSink(direct._client, "eureka:late", BRIDGE, watching, "ip")

        async def listen() -> None:
            async with aclosing(cast(Any, sink.drift())) as words:
                async for names in words:
                    told.update(names)
                    began.set()

        async def asked() -> None:
            before = proxy.pipes["up"].bytes
            await until(lambda: proxy.pipes["up"].bytes > before)
            await Native(server).all()  # so that it has been answered by now, and the answer is under way

        listening = asyncio.create_task(listen())
        try:
            await until(began.is_set)
            proxy.delay(0.3, "down")
            yield sink, told, asked
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await sink.close()
            await client.close()


async def test_what_we_wrote_is_no_drift_where_a_delta_tells_it_late(eureka: servers.Eureka) -> None:
    async with drifting(eureka) as (sink, told, asked):
        (entry,) = await write(sink, creation(PAY, copy(1)))
        await asked()
        (entry,) = await write(sink, change(PAY, entry, copy(1, health=Health.DRAINING)))
        await asked()
        await write(sink, change(PAY, entry, None))
        await asked()
        await write(sink, creation(PAY, copy(1)))
        await asked()
        await Native(eureka).register("cart", "native")
        await until(lambda: CART in told)
        assert told == {CART}


async def test_a_native_in_the_place_of_what_we_removed_is_drift(eureka: servers.Eureka) -> None:
    async with drifting(eureka) as (sink, told, asked):
        (entry,) = await write(sink, creation(PAY, copy(1)))
        await write(sink, change(PAY, entry, None))
        await asked()
        await Native(eureka).register("pay", entry.instance.id)
        await until(lambda: told == {PAY})


async def test_heartbeats_that_reach_nobody_are_late_until_the_server_is_back(eureka_server: StartEureka) -> None:
    server = await eureka_server()
    async with opened(server, times=FAST) as (_, sink):
        sink.renew(ours=True)
        await write(sink, creation(PAY, copy(1)))

        def late() -> float:
            return sink.renewal.late if sink.renewal is not None else -1.0

        assert late() < FAST.renewal
        await server.kill()
        await until(lambda: late() > 3 * FAST.renewal, "three intervals have passed")
        assert sink.renewal is not None and sink.renewal.entries == 1
        await server.start()
        await until(lambda: late() < FAST.renewal, "the server answers again")
        assert not (await sink.held([PAY])).services.get(PAY)
        await write(sink, creation(PAY, copy(1)))


async def test_nothing_is_cancelled_when_a_registry_is_closed(eureka: servers.Eureka) -> None:
    async with opened(eureka) as (_, sink):
        sink.renew(ours=True)
        await write(sink, creation(PAY, copy(1)), creation(PAY, copy(2), ttl=60))
        await sink.held()
    assert {id for _, id in await Native(eureka).all()} == {copy(1).id, copy(2).id}


async def test_heartbeats_are_spread_evenly_over_their_interval() -> None:
    wheel = heartbeats.Heartbeats(30.0, lambda key: asyncio.sleep(0, True), lambda key: None)
    for number in range(10_000):
        wheel.keep((f"APP{number % 500}", f"i{number}:app{number % 500}"), 604_800)
    sizes = [len(slot) for slot in wheel._slots]
    assert len(sizes) == 60
    assert sum(sizes) == 10_000
    assert max(sizes) < 1.5 * 10_000 / 60
