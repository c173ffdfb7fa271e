"""Stock clients of four registries follow one move, each where it looks: forward, and back to where it began."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

from kazoo.exceptions import NoNodeError

from tests.conftest import provided
from tests.dataplanes.estate import SERVICE
from tests.kit.natives import Kazoo
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, reaches
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.eureka import Eureka
from tests.servers.zookeeper import ZooKeeper
from tests.witness import apart
from tests.witness.apart import Client, Witness
from tests.witness.test_witnesses import found

VMS = [f"192.0.2.{number}" for number in range(1, 5)]
PODS = [f"198.51.100.{number}" for number in range(1, 3)]
PORT = 9000
POINT = 1.0  # of percent: weights are whole numbers, and a share is never more than was asked
UNSAID = 100  # the weight of whom kratos is told none
STEPS = {25: ("shift", 1), 50: ("shift", 2), 100: ("retire", None), 0: ("rolled back", None)}

Weights = Mapping[str, float]  # what a client would call, by address


def told(client: Client) -> Weights:
    """As python-consul2 and py-eureka-client say it: neither regards weights."""
    return {one["address"]: 1.0 for one in (client.found or {}).values()}


def of_kratos(client: Client) -> Weights:
    """What etcd3 has read, as a client of kratos weighs it."""
    return {
        one["endpoints"][0].removeprefix("http://").rpartition(":")[0]: float(
            (one["metadata"] or {}).get("weight", UNSAID)
        )
        for one in found(client.said).values()
    }


class Looks(NamedTuple):
    """A program that looks at a place. `shares`: what the new side has there at each step, in percent."""

    witness: Witness
    words: tuple[str, ...]
    read: Callable[[Client], Weights]
    shares: Mapping[int, float]


BY_WEIGHTS: Mapping[int, float] = {0: 0.0, 25: 25.0, 50: 50.0, 100: 100.0}
# Two pods and as many of four machines as leave them that share, never more than was asked: one beside three or more.
BY_COUNTS: Mapping[int, float] = {0: 0.0, 25: 20.0, 50: 50.0, 100: 100.0}
TABLE = {
    "etcd": Looks(apart.ETCD3, (f"/microservices/{SERVICE}/",), of_kratos, BY_WEIGHTS),
    "consul": Looks(apart.CONSUL2, (SERVICE,), told, BY_COUNTS),
    "eureka": Looks(apart.EUREKA, (SERVICE,), told, BY_COUNTS),
}


async def in_zookeeper(kazoo: Kazoo) -> Weights:
    """What kazoo reads as Curator would: it has no weights."""
    path = f"/services/{SERVICE}"
    values = []
    with contextlib.suppress(NoNodeError):  # it is not there yet, or went meanwhile: looked at again
        for one in await kazoo.do(kazoo.zk.get_children, path):
            values.append((await kazoo.do(kazoo.zk.get, f"{path}/{one}"))[0])
    return {json.loads(one)["address"]: 1.0 for one in values}


def share(weights: Weights) -> float:
    """Of the new side, in percent; far below zero: there is nobody to call."""
    whole = sum(weights.values())
    return 100 * sum(weights[one] for one in PODS if one in weights) / whole if whole else -100.0


async def test_stock_clients_of_four_registries_follow_a_move_and_its_way_back(
    folder: Path, etcd: Etcd, zookeeper: ZooKeeper, consul: Consul, eureka: Eureka
) -> None:
    with provided():
        for one in TABLE.values():
            await asyncio.to_thread(one.witness.python)
    addresses = {"etcd": etcd.address, "consul": consul.address, "eureka": eureka.url}
    places: dict[str, dict[str, Any]] = {
        "etcd": {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"},
        "consul": {"kind": "consul", "address": consul.url, "datacenters": ["dc1"]},
        "eureka": {"kind": "eureka", "urls": [eureka.url], "poll": 0.2},
        "zookeeper": {"kind": "zookeeper", "hosts": [zookeeper.address], "layout": "curator", "protocol": "http"},
    }
    seat = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos", "prefix": "/seat/"}
    estate = Estate(folder, seat, places)
    estate.vms.write({one: {} for one in VMS}, PORT)
    estate.pods.write({one: {} for one in PODS}, PORT)
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(estate.bridge(steps=[25, 50, 100], settle=0))
        kazoo = await stack.enter_async_context(Kazoo(zookeeper.address))
        clients = {
            place: await stack.enter_async_context(apart.client(one.witness, addresses[place], "discover", *one.words))
            for place, one in TABLE.items()
        }

        async def seen(place: str) -> float:
            weights = TABLE[place].read(clients[place]) if place in clients else await in_zookeeper(kazoo)
            return share(weights)

        async def sees(place: str, percent: int) -> None:
            wanted = TABLE[place].shares[percent] if place in TABLE else BY_COUNTS[percent]
            found: list[float] = []

            async def is_so() -> bool:
                found[:] = [await seen(place)]
                return wanted - POINT <= found[0] <= wanted

            try:
                await until(is_so)
            except AssertionError as error:
                raise AssertionError(f"{place} at {percent} %: {found}, and not {wanted}") from error

        async def all_see(percent: int) -> None:
            await asyncio.gather(*(sees(place, percent) for place in places))

        await all_see(0)
        await act(made, "start")
        for percent, (phase, step) in STEPS.items():
            if not percent:
                await act(made, "rollback", now=True)
            await reaches(made, phase, step)
            await all_see(percent)
        for client in clients.values():
            lists = [bool(said[0]) for kind, *said in client.said if kind == "found"]
            assert False not in lists[lists.index(True) :] if lists else True, "a client was told of nobody"
