"""The sink on a real Consul: nodes of its own, a check that says how an instance is, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from adapters.consul import Consul as Registry
from adapters.consul import nodes, txn
from adapters.consul.client import Client
from bridge.adapter import Entry
from bridge.errors import Conflict, Rejected, Superseded
from bridge.model import Health, Instance, Locality, Port, ServiceName
from mappings import consul as mapping
from tests.adapters.consul.lab import PAY, register, registry
from tests.conformance.lab import BRIDGE, adopt, change, create, instance, mark, refusals, release, shown, write
from tests.kit.seated import Seated
from tests.kit.waiting import until
from tests.servers.consul import Consul, datacenters

WHOLE = Instance(
    "i1",
    "192.0.2.1",
    (Port(9001, "grpc", "grpc", True), Port(8080, "web", "http")),
    Health.HEALTHY,
    2.5,
    Locality("eu", "eu-1", "rack 7"),
    "v1",
    ("blue",),
    {"team": "pay", "management.port": "8081", "long": "x" * 600},
)
LONG = {f"k{number}": "x" * 480 for number in range(40)}
RELEASED = "1 services on it were released, and are nobody's"


@pytest_asyncio.fixture
async def opened(consul: Consul) -> AsyncIterator[Registry]:
    async with registry(consul) as opened:
        yield opened


@pytest_asyncio.fixture
async def sink(opened: Registry) -> AsyncIterator[Seated]:
    sink = Seated(opened, BRIDGE)
    async with sink.writer():
        yield sink


@asynccontextmanager
async def asking(server: Consul) -> AsyncIterator[Client]:
    client = Client([server.url])
    try:
        yield client
    finally:
        await client.close()


async def written(server: Consul) -> int:
    return len(await health(server))


async def health(server: Consul, name: str = "pay") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = await server.call("GET", f"/v1/health/service/{name}")
    return found


@pytest.mark.parametrize(
    ("state", "checks"),
    [
        (Health.UNKNOWN, {"isthmus:pay:i1": "passing"}),
        (Health.HEALTHY, {"isthmus:pay:i1": "passing"}),
        (Health.DEGRADED, {"isthmus:pay:i1": "warning"}),
        (Health.UNHEALTHY, {"isthmus:pay:i1": "critical"}),
        (Health.DRAINING, {"isthmus:pay:i1": "critical", "_service_maintenance:pay:i1": "critical"}),
    ],
)
async def test_a_check_names_the_service_and_says_how_it_is(
    consul: Consul, sink: Seated, state: Health, checks: dict[str, str]
) -> None:
    (entry,) = await write(sink, create(PAY, replace(WHOLE, health=Health.DRAINING)))
    await write(sink, change(PAY, entry, replace(WHOLE, health=state)))
    (found,) = await health(consul)
    assert {one["CheckID"]: one["Status"] for one in found["Checks"]} == checks
    assert {one["ServiceName"] for one in found["Checks"]} == {"pay"}
    assert (await shown(sink, PAY))["i1"].instance == replace(WHOLE, health=state)


async def test_the_server_keeps_a_copy_as_it_was_written(consul: Consul, sink: Seated) -> None:
    await write(sink, create(PAY, WHOLE))
    (found,) = await health(consul)
    written = mapping.encode(PAY, WHOLE, mark(PAY, "i1")).service
    assert {key: found["Service"][key] for key in written} == written
    assert found["Node"]["Node"] == "isthmus-bridge-a-00"
    assert mapping.decode(msgspec.json.encode(found)) == WHOLE


async def test_copies_are_spread_over_nodes_and_fill_what_is_free(consul: Consul, sink: Seated) -> None:
    many = [replace(WHOLE, id=f"i{number}", metadata={}) for number in range(nodes.ROOM + 20)]
    entries = await write(sink, *(create(ServiceName(f"s{number % 7}"), one) for number, one in enumerate(many)))

    async def counts() -> list[int]:
        names = [
            one["Node"]
            for one in await consul.call("GET", "/v1/catalog/nodes")
            if one["Node"].startswith("isthmus-bridge-a")
        ]
        found = [await consul.call("GET", f"/v1/catalog/node-services/{name}") for name in sorted(names)]
        return [len(one["Services"]) for one in found]

    assert await counts() == [nodes.ROOM, 20]
    first = [entry for entry in entries if entry.version.node.endswith("-00")][:5]
    await write(sink, *(change(ServiceName(entry.version.service), entry, None) for entry in first))
    await write(sink, *(create(PAY, replace(WHOLE, id=f"new{number}")) for number in range(5)))
    assert await counts() == [nodes.ROOM, 20]


async def test_a_natives_record_is_never_changed(consul: Consul, sink: Seated) -> None:
    await register(consul, "a", node="vm7")
    (native,) = (await shown(sink, PAY)).values()
    assert native.mark is None
    before = await health(consul)
    assert await refusals(
        sink,
        adopt(PAY, native, replace(WHOLE, id=native.instance.id)),
        change(PAY, native, None),
        create(PAY, replace(WHOLE, id=native.instance.id)),
    ) == [Rejected, Conflict, Conflict]
    assert await health(consul) == before


async def test_what_consul_refuses_is_parked_and_its_siblings_are_written(sink: Seated) -> None:
    bad = Entry(replace(WHOLE, id="bad"))
    batch = [create(PAY, WHOLE), create(ServiceName(".."), bad.instance), create(PAY, replace(WHOLE, id="i2"))]
    assert await refusals(sink, *batch) == [None, Rejected, None]


async def test_what_is_never_written_takes_no_place_on_a_node(consul: Consul, sink: Seated) -> None:
    await write(sink, create(PAY, WHOLE))
    long = [create(PAY, replace(WHOLE, id=f"{'x' * 600}{number}")) for number in range(nodes.ROOM)]
    assert set(await refusals(sink, *long)) == {Rejected}
    await write(sink, create(PAY, replace(WHOLE, id="i2")))
    assert {one["Node"]["Node"] for one in await health(consul)} == {"isthmus-bridge-a-00"}


async def test_consul_refuses_what_is_beyond_one_transaction(consul: Consul) -> None:
    many = [txn.kv("set", f"isthmus/many/{number}", Value="") for number in range(129)]
    large = [txn.kv("set", f"isthmus/large/{number}", Value="A" * 40_000) for number in range(14)]
    async with asking(consul) as asked:
        for ops in (many, large):
            with pytest.raises(Rejected, match=r"too many operations|too large"):
                await txn.submit(asked, "dc1", ops)
            await txn.submit(asked, "dc1", ops[:-1])


@pytest.mark.parametrize(
    "many",
    [
        [
            replace(WHOLE, id=f"i{number}", metadata={}, health=Health.DRAINING) for number in range(43)
        ],  # 129 operations
        [replace(WHOLE, id=f"i{number}", metadata=LONG) for number in range(27)],  # beyond 512 KiB
    ],
)
async def test_more_than_one_transaction_takes_is_written_by_several(sink: Seated, many: list[Instance]) -> None:
    (old,) = await write(sink, create(PAY, replace(WHOLE, id="stale")))
    await write(sink, change(PAY, old, replace(WHOLE, id="stale", version="v2")))
    outcomes = await sink.apply([change(PAY, old, replace(WHOLE, id="stale")), *(create(PAY, each) for each in many)])
    assert isinstance(outcomes[0].error, Conflict)  # in the last one, which it spoils for nobody else
    assert [outcome.error for outcome in outcomes[1:]] == [None] * len(many)
    found = {id: entry.instance for id, entry in (await shown(sink, PAY)).items()}
    assert found == {each.id: each for each in (*many, replace(WHOLE, id="stale", version="v2"))}
    assert len({outcome.version.modified for outcome in outcomes[1:]}) == 2  # one of each transaction


async def test_every_part_of_a_batch_compares_the_lock(consul: Consul, sink: Seated) -> None:
    async def stolen() -> None:
        await until(lambda: written(consul), every=0.0)
        (lock,) = await consul.call("GET", f"/v1/kv/isthmus/lock/{BRIDGE}/?recurse")
        await consul.call("PUT", f"/v1/session/destroy/{lock['Session']}")

    many = [replace(WHOLE, id=f"i{number}", metadata=LONG) for number in range(400)]  # some 27 transactions
    thief = asyncio.create_task(stolen())
    with pytest.raises(Superseded):
        await sink.apply([create(PAY, each) for each in many])
    await thief
    assert 0 < await written(consul) < len(many)


async def test_nothing_but_our_own_keys_is_touched(consul: Consul, sink: Seated) -> None:
    await consul.call("PUT", "/v1/kv/theirs", {"a": 1})
    await write(sink, create(PAY, WHOLE))
    await sink.note(b"note", None, writer=True)
    keys = await consul.call("GET", "/v1/kv/?keys")
    assert {key.partition("/")[0] for key in keys} == {"isthmus", "theirs"}


async def test_the_datacenter_that_the_file_names_is_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with (
        datacenters(tmp_path_factory.mktemp("pair")) as (here, there),
        registry(here, "dc1", "dc2", write_datacenter="dc2") as opened,
    ):
        sink = Seated(opened, BRIDGE)
        async with sink.writer():
            await write(sink, create(PAY, WHOLE))
            held = await sink.held()
            reach = await opened.reach()
        assert held.identity == reach.identity
        assert held.identity.endswith(":dc2")
        assert len(await health(there)) == 1
        assert await health(here) == []
        assert await here.call("GET", "/v1/catalog/nodes") != await there.call("GET", "/v1/catalog/nodes")
        read = await opened.sources["dc2"].read(PAY)
        assert read.service.marks.keys() == read.service.instances.keys() == {"i1"}


async def test_a_bridge_that_leaves_takes_its_nodes_but_for_what_it_released(consul: Consul, opened: Registry) -> None:
    sink = Seated(opened, "leaver")
    async with sink.writer():
        first, second = await write(
            sink, create(PAY, instance(1), "leaver"), create(ServiceName("cart"), instance(2), "leaver")
        )
        await write(sink, release(PAY, first))
        await sink.leave()
    assert [(one.place, one.needed) for one in await opened.traces("leaver")] == [("dc1/isthmus-leaver-00", RELEASED)]
    (stands,) = await health(consul)
    async with sink.writer():
        await write(sink, change(ServiceName("cart"), second, None, "leaver"))
        await consul.call("PUT", "/v1/catalog/deregister", {"Node": stands["Node"]["Node"], "ServiceID": "pay:i1"})
        await sink.leave()
    assert await opened.traces("leaver") == []
    nodes_left = {one["Node"] for one in await consul.call("GET", "/v1/catalog/nodes")}
    assert not any(name.startswith("isthmus-") for name in nodes_left)
