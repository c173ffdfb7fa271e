"""Natives that a migration takes out in batches and puts back: a real Eureka, and Dubbo's rules in ZooKeeper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mappings.dubbo_rule import out_by
from tests.conftest import provided
from tests.kit import eureka as clients
from tests.kit import stock
from tests.kit.natives import Kazoo
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.migration.estate import act, reaches, row
from tests.migration.steering import OUT, PODS, UP, VMS, Estate, Machines
from tests.servers import ports
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.zookeeper import ZooKeeper
from tests.witness import apart

INTERFACE = "com.acme.Pay"
TURNS = 12  # each a quarter of a second in which a consumer calls
RULE = f"/dubbo/config/dubbo/{INTERFACE}::.configurators"
THEIRS = b"""# dubbo-admin
key: com.acme.Pay
configs: [{side: provider, addresses: [0.0.0.0], parameters: {timeout: 1000}}]
"""


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as made:
        yield made


async def codes(bridge: Bridge) -> set[str]:
    return {one["code"] for one in (await bridge.ask("status"))["attention"]}


async def test_natives_of_eureka_go_in_batches_and_come_back(
    stack: AsyncExitStack, folder: Path, etcd: Etcd, eureka: Eureka
) -> None:
    edge, second_edge = ports.reserve(2)
    stack.callback(ports.release, [edge, second_edge])
    legacy = {"kind": "eureka", "urls": [eureka.url], "poll": "200ms"}
    estate, machines = Estate(folder, etcd, legacy, "pay", edge), Machines(eureka, VMS)
    client, stand, ids = machines.client, machines.stand, list(machines.addresses)
    await machines.register()
    estate.pods.write({one: {} for one in PODS}, 8080)
    first = await stack.enter_async_context(estate.bridge("first"))
    other = {"kind": "traefik", "listen": f"127.0.0.1:{second_edge}"}
    second = await stack.enter_async_context(estate.bridge("second", other=other))
    await estate.ready(first)
    (refusal,) = await first.ask("migrate", verb="start", name="pay")
    assert refusal["code"] == 1 and "--yes-write-natives" in refusal["text"]
    await act(first, "start", natives=True)
    found = await reaches(first, "retire", move=estate.move)
    assert found["batches"] == 4 and found["steered"] == {"legacy": sorted(ids)}
    assert await stand() == dict.fromkeys(ids, OUT) and len(await estate.kept()) == 4
    assert estate.elsewhere() == set(VMS)  # what we did to them is no news of theirs
    # What undoes an override, and what does not.
    one, two, three, _ = ids
    await machines.register(one)
    await client.renew("pay", one)
    assert (await stand())[one] == OUT
    await client.cancel("pay", two)
    await machines.register(two)
    await until(lambda: _is(stand, two, OUT), "it is out again")
    await until(lambda: _has(first, second, "native-returned"), "it is said")
    # Another daemon goes on with what it finds.
    leader, heir = (first, second)
    await leader.kill()
    await client.cancel("pay", two)
    await machines.register(two)
    await until(lambda: _is(stand, two, OUT), "it is out again", within=150)
    await client.override("pay", three, "UP")
    await until(lambda: _waits(heir, estate.move), "somebody else's word is seen")
    await act(heir, "rollback", now=True)
    await reaches(heir, "rolled back", move=estate.move)
    assert await stand() == {**dict.fromkeys(ids, UP), three: ("UP", "UP")}
    assert await estate.kept() == {}
    await until(lambda: _copies(client), "no copy is left")


async def _is(stand: Any, id: str, wanted: tuple[str, str]) -> bool:
    return bool((await stand())[id] == wanted)


async def _has(first: Bridge, second: Bridge, code: str) -> bool:
    return code in await codes(first) or code in await codes(second)


async def _waits(bridge: Bridge, move: str) -> bool:
    return "overridden" in (await row(bridge, move)).get("why", "")


async def _copies(client: clients.Native) -> bool:
    return len(await client.all()) == len(VMS)


@pytest.mark.parametrize("witness", apart.DUBBO, ids=lambda one: f"Dubbo {one.version}")
async def test_natives_of_dubbo_go_by_a_rule_that_others_write_too(
    stack: AsyncExitStack, folder: Path, etcd: Etcd, zookeeper: ZooKeeper, witness: apart.JavaWitness
) -> None:
    """Real providers, and a real consumer that calls them all the time by what stands in the ZooKeeper."""
    with provided():
        await asyncio.to_thread(witness.library)
    free = ports.reserve(len(VMS) + len(PODS))
    stack.callback(ports.release, free)
    vms, pods = map(str, free[: len(VMS)]), map(str, free[len(VMS) :])
    olds, news = {one: f"127.0.0.1:{one}" for one in vms}, {one: f"127.0.0.1:{one}" for one in pods}
    legacy = {"kind": "zookeeper", "hosts": [zookeeper.address], "layout": "dubbo2"}
    estate = Estate(folder, etcd, legacy, INTERFACE)
    client = await stack.enter_async_context(Kazoo(zookeeper.address))

    async def rule() -> bytes:
        found: bytes = (await client.do(client.zk.get, RULE))[0]
        return found

    async def providers() -> set[str]:
        return set(await client.do(client.zk.get_children, f"/dubbo/{INTERFACE}/providers"))

    for port in olds:
        key, value = stock.record("dubbo2", INTERFACE, stock.Native(port, "127.0.0.1", int(port)))
        await client.register(f"/dubbo/{key}", value.decode())
    await client.register(RULE, THEIRS.decode(), ephemeral=False)
    registered = await providers()
    estate.pods.write({one: {"address": "127.0.0.1", "ports": [_dubbo(one)]} for one in news}, 0)
    (estate.pods.folder / "pay.yaml").rename(estate.pods.folder / f"{INTERFACE}.yaml")
    bridge = await stack.enter_async_context(estate.bridge("bridge"))
    caller = await stack.enter_async_context(apart.client(witness, zookeeper.address, "call", *olds, *news))

    async def called(*sides: Mapping[str, str]) -> None:
        wanted = {one for side in sides for one in side}
        await until(lambda: _called(caller) == wanted, f"{', '.join(sorted(wanted))} are called")

    await estate.ready(bridge)
    await called(olds)
    await act(bridge, "start", natives=True)
    await reaches(bridge, "shift", 1, move=estate.move)
    await called(olds, news)
    await reaches(bridge, "retire", move=estate.move)
    natives = set(olds.values())
    assert set(out_by(await rule(), "b1")) == natives and b"timeout: 1000" in await rule()
    await called(news)
    assert registered < await providers()  # their own records stand as they wrote them
    left = await bridge.isthmus("footprint", "legacy", "-o", "json")
    (out,) = [one for one in left.json if one["kind"] == "native out of service"]
    assert left.code == 3 and out["count"] == 4 and "rollback" in out["needed"]
    refused = await bridge.isthmus("leave", "legacy", "--yes")
    assert refused.code == 1 and "has natives out of service" in refused.err
    await client.do(client.zk.set, RULE, THEIRS)  # an editor that writes what it had read before
    await until(lambda: _out(rule, natives), "it is said again")
    await act(bridge, "rollback", now=True)
    await reaches(bridge, "rolled back", move=estate.move)
    assert await rule() == THEIRS and await estate.kept() == {}
    await called(olds)
    assert [found for kind, found in caller.said if kind == "failed"] == []


def _called(caller: apart.Client) -> set[str]:
    """The ports that it has called in the last seconds, some hundred times."""
    found = [one for kind, one in caller.said if kind == "found"][-TURNS:]
    return {port for one in found for port in one} if len(found) == TURNS else set()


def _dubbo(port: str) -> dict[str, Any]:
    return {"number": int(port), "name": "dubbo", "protocol": "dubbo"}


async def _out(rule: Any, natives: set[str]) -> bool:
    return set(out_by(await rule(), "b1")) == natives
