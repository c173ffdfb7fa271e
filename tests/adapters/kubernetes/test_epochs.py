"""The one writer: what keeps an earlier one off, when, and what a takeover leaves behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from adapters.kubernetes import bodies
from adapters.kubernetes.lease import Fence, LeaseTerm, lock_name
from bridge.adapter import Change
from bridge.errors import Superseded
from bridge.model import Instance, Locality
from tests.adapters.kubernetes.lab import BRIDGE, MERGE, PAY, Cluster, cluster, create_of, instance, writing
from tests.kit.proxy import Proxy
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.kubernetes import ADMIN, Kubernetes

LEASES = "apis/coordination.k8s.io/v1"


@pytest_asyncio.fixture
async def there(kubernetes: Kubernetes) -> Cluster:
    return await cluster(kubernetes)


async def lease(there: Cluster) -> Any:
    return await there.server.call("GET", there.path(LEASES, "leases", lock_name(BRIDGE)))


def managers(found: Any, field: str) -> list[str]:
    return [each["manager"] for each in found["metadata"]["managedFields"] if field in each["fieldsV1"]]


async def change_all(sink: Seated, turn: str) -> None:
    """In metadata and zone, so in the endpoint, too; with a turn "" back to what was written first."""
    held = (await sink.held()).services[PAY]
    changes = [Change(PAY, id, entry, turned(int(id[1:]), turn), entry.mark) for id, entry in sorted(held.items())]
    assert [one.error for one in await sink.apply(changes)] == [None] * len(changes)


def turned(number: int, turn: str) -> Instance:
    return replace(instance(number, turn=turn), locality=Locality(zone=turn))


async def test_a_new_epoch_takes_a_slice_over_at_its_first_change_in_one_write(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await sink.apply([create_of(instance(1))])
    (before,) = await there.slices()
    async with writing(there.registry()) as sink:
        assert await there.slices() == [before]
        await change_all(sink, "2")
    (after,) = await there.slices()
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    (former,), (present,) = managers(before, "f:endpoints"), managers(after, "f:endpoints")
    assert former != present
    assert (await lease(there))["spec"]["leaseTransitions"] == 2


async def test_endpoints_that_a_new_epoch_found_equal_can_be_changed_later(there: Cluster) -> None:
    """Who took over what was equal shares it with the former writer, and a list with two owners refuses both."""
    async with writing(there.registry()) as sink:
        await sink.apply([create_of(instance(1))])
    async with writing(there.registry()) as sink:
        entry = (await sink.held()).services[PAY]["i1"]
        (outcome,) = await sink.apply([Change(PAY, "i1", entry, instance(1, turn="2"), entry.mark)])
        assert outcome.error is None
        await change_all(sink, "3")
    (found,) = await there.slices()
    assert len(managers(found, "f:endpoints")) == 1


async def test_many_epochs_leave_few_field_managers(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        await sink.apply([create_of(instance(1))])
        (found,) = await there.slices()
    mine = {"metadata": {"labels": {"team": "pay"}}}
    await there.patch_slice(found["metadata"]["name"], mine)
    for epoch in range(12):
        async with writing(there.registry()) as sink:
            await change_all(sink, str(epoch))
    (after,) = await there.slices()
    assert len(after["metadata"]["managedFields"]) < 8
    assert after["metadata"]["labels"]["team"] == "pay"
    async with writing(there.registry()) as sink:
        held = (await sink.held()).services[PAY]
        assert held["i1"].instance == turned(1, "11")
        await sink.apply([create_of(instance(2))])
        (outcome,) = await sink.apply([Change(PAY, "i1", held["i1"], None)])
        assert outcome.error is None
    (after,) = await there.slices()
    assert "i1" not in after["metadata"]["annotations"]["isthmus.io/entries"]


async def test_an_earlier_writer_cannot_change_what_the_next_one_has_written(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        assert sink.term is not None
        earlier: Fence = sink.term.fence
        await sink.apply([create_of(instance(1))])
    async with writing(there.registry()) as sink, there.registry() as stale:
        await change_all(sink, "2")
        late = stale.sink(BRIDGE)
        held = (await late.held()).services[PAY]
        term = LeaseTerm(earlier, asyncio.get_running_loop().time())  # as if its deadline had not come
        (before,) = await there.slices()
        for change in (Change(PAY, "i1", held["i1"], instance(1, turn="3"), held["i1"].mark), create_of(instance(2))):
            with pytest.raises(Superseded):
                await late.apply([change], term)
        assert await there.slices() == [before]


async def test_a_writer_that_is_cut_off_stops_before_the_next_one_begins(there: Cluster, tmp_path: Path) -> None:
    """The bound: two thirds of 10 s after its last renewal it stops, and all 10 s after that another may begin."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(there.server.address))
        own = there.server.configure(ADMIN, name=there.namespace)
        own.write_text(own.read_text().replace(there.server.address, proxy.address))
        first = await stack.enter_async_context(writing(there.registry(kubeconfig=str(own))))
        await first.apply([create_of(instance(1))])
        term: Any = first.term
        await proxy.refuse()
        second = await stack.enter_async_context(writing(there.registry()))
        assert loop.time() > term.until
        with pytest.raises(Superseded):
            await first.apply([create_of(instance(2))])
        await change_all(second, "2")
        async with asyncio.timeout(30):
            await term.ended()
        await proxy.heal()
        with pytest.raises(Superseded):
            await first.apply([create_of(instance(2))])


async def test_a_writer_whose_lease_was_taken_or_deleted_stops(there: Cluster) -> None:
    for damage in ("taken", "deleted"):
        async with writing(there.registry()) as sink:
            term: Any = sink.term
            path = there.path(LEASES, "leases", lock_name(BRIDGE))
            if damage == "taken":
                await there.server.call("PATCH", path, {"spec": {"holderIdentity": ""}}, content=MERGE)
            else:
                await there.server.call("DELETE", path)
            async with asyncio.timeout(30):
                await term.ended()
            with pytest.raises(Superseded):
                await sink.apply([create_of(instance(1))])
    assert await there.slices() == []


async def test_a_note_survives_renewals_and_renewals_survive_a_note(there: Cluster) -> None:
    async with writing(there.registry()) as sink:
        note = await sink.note(b"x" * 100_000, None, writer=True)
        first = (await lease(there))["spec"]["renewTime"]

        async def renewed() -> bool:
            return bool((await lease(there))["spec"]["renewTime"] != first)

        await until(renewed)
        assert await sink.recall() == note
        note = await sink.note(b"two", note, writer=True)
        first = (await lease(there))["spec"]["renewTime"]
        await until(renewed)
        assert await sink.recall() == note


async def test_ids_that_no_object_can_have_make_locks_of_their_own(there: Cluster) -> None:
    bridges = ["Pay Bridge", "pay-bridge", "pay.bridge", "x" * 200, "ж"]
    async with AsyncExitStack() as stack:
        for bridge in bridges:
            await stack.enter_async_context(writing(there.registry(), bridge))
        async with there.registry() as registry:
            assert (await registry.reach()).writers == frozenset(bridges)


def test_a_bridge_that_still_owns_the_endpoints_leaves_the_managers() -> None:
    owns: dict[str, Any] = {"f:endpoints": {}}
    found = [
        bodies.Manager("isthmus-b-e1-e04f91", owns),
        bodies.Manager("kubectl", owns),
        bodies.Manager("isthmus-a-e9-000000", owns),
        bodies.Manager("isthmus-b-e2-e11111", owns),
    ]
    assert bodies.former_managers(bodies.ManagedMeta("1", found), "isthmus-b-e2-e11111") == [0, 2]
    idle = [bodies.Manager(f"isthmus-b-e{number}-{number}") for number in range(bodies.MOST_FORMER)]
    assert bodies.former_managers(bodies.ManagedMeta("1", idle), "isthmus-b-e9-e11111") == []
