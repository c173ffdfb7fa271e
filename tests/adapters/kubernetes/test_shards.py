"""Shards in a cluster, which compares no lock in a write: what keeps an earlier writer off, and for how long."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from bridge.adapter import Change, Registry
from bridge.errors import Superseded
from bridge.shards import Shards
from tests.adapters.kubernetes.lab import BRIDGE, PAY, Cluster, cluster, create_of, instance
from tests.kit.proxy import Proxy
from tests.kit.waiting import until
from tests.servers.kubernetes import ADMIN, Kubernetes

LEASES = "apis/coordination.k8s.io/v1"
COUNT = 4


@pytest_asyncio.fixture
async def there(kubernetes: Kubernetes) -> Cluster:
    return await cluster(kubernetes)


@asynccontextmanager
async def member(registry: Registry) -> AsyncIterator[tuple[Shards, Any]]:
    """A process of a group: its seat and its sink."""
    async with registry:
        seat = registry.seat(BRIDGE, registry.name)
        assert isinstance(seat, Shards)
        await seat.divide(COUNT)
        yield seat, registry.sink(BRIDGE)


async def leases(there: Cluster, kind: str) -> list[Any]:
    """Those of that kind."""
    found = await there.server.call("GET", there.path(LEASES, "leases"))
    return [one for one in found["items"] if one["metadata"]["labels"]["isthmus.io/lock"] == kind]


def cut_off(there: Cluster, proxy: Proxy) -> Registry:
    """A registry that comes by a proxy."""
    own = there.server.configure(ADMIN, name=there.namespace)
    own.write_text(own.read_text().replace(there.server.address, proxy.address))
    return there.registry(kubeconfig=str(own))


async def test_a_woken_writer_of_a_shard_cannot_change_what_the_next_one_wrote(there: Cluster) -> None:
    async with member(there.registry()) as (seat, sink), member(there.registry()) as (other, next_sink):
        async with seat.take(1, COUNT, "one", claim=True) as term:
            woken: Any = copy.copy(term)
            woken.lost = asyncio.Event()
            await sink.apply([create_of(instance(1))], term)
        async with other.take(1, COUNT, "two", claim=True) as following:
            held = (await next_sink.held()).services[PAY]["i1"]
            changed = [Change(PAY, "i1", held, instance(1, turn="2"), held.mark)]
            assert [one.error for one in await next_sink.apply(changed, following)] == [None]
            held = (await sink.held()).services[PAY]["i1"]
            with pytest.raises(Superseded):
                await sink.apply([Change(PAY, "i1", held, instance(1, turn="3"), held.mark)], woken)


async def test_a_member_that_is_cut_off_stops_before_its_shards_are_others(there: Cluster) -> None:
    """The bound: two thirds of 10 s after its last renewal it stops; 10 s after that its Lease is deleted."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(there.server.address))
        first, first_sink = await stack.enter_async_context(member(cut_off(there, proxy)))
        terms: list[Any] = [
            await stack.enter_async_context(first.take(shard, COUNT, "one", claim=True)) for shard in (0, 1)
        ]
        second, _ = await stack.enter_async_context(member(there.registry()))
        await proxy.refuse()
        async with asyncio.timeout(30):
            for shard in (0, 1):
                await stack.enter_async_context(second.take(shard, COUNT, "two", claim=True))
        assert all(loop.time() > term.until for term in terms)
        with pytest.raises(Superseded):
            await first_sink.apply([create_of(instance(1))], terms[0])
        async with asyncio.timeout(30):
            await terms[1].ended()
        await proxy.heal()


async def test_a_member_whose_lease_was_deleted_has_nothing_any_more(there: Cluster) -> None:
    """As it was silent for too long: a renewal that comes late finds nothing to renew."""
    async with member(there.registry()) as (seat, sink), seat.take(2, COUNT, "one", claim=True) as term:
        (lease,) = await leases(there, "member")
        await there.server.call("DELETE", there.path(LEASES, "leases", lease["metadata"]["name"]))
        async with asyncio.timeout(30):
            await term.ended()
        with pytest.raises(Superseded):
            await sink.apply([create_of(instance(1))], term)
    async with member(there.registry()) as (seat, _), asyncio.timeout(30), seat.take(2, COUNT, "one", claim=True):
        pass


async def test_a_group_of_dead_processes_is_united_once_they_were_silent(there: Cluster) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(there.server.address))
        first, _ = await stack.enter_async_context(member(cut_off(there, proxy)))
        await stack.enter_async_context(first.take(0, COUNT, "one", claim=True))
        await proxy.refuse()
        async with there.registry() as registry, asyncio.timeout(30):
            seat = registry.seat(BRIDGE, registry.name)
            assert isinstance(seat, Shards)
            await seat.unite()
            assert await seat.divided() is None
            assert await leases(there, "shard") == await leases(there, "member") == []
            async with seat.writer():
                pass
        await proxy.heal()


async def test_a_member_that_leaves_leaves_no_lease_of_its_own(there: Cluster) -> None:
    async with member(there.registry()) as (seat, _):
        async with seat.take(0, COUNT, "one", claim=True), seat.take(1, COUNT, "one", claim=True):
            assert len(await leases(there, "member")) == 1

        async def none() -> bool:
            return not await leases(there, "member")

        await until(none)
        assert {one["spec"]["holderIdentity"] for one in await leases(there, "shard")} == {""}
