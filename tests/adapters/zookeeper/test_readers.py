"""Who reads a service: Dubbo's consumers list themselves, and of others the server's admin pages say what they can."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote_plus

from kazoo.client import KazooClient

from adapters import zookeeper as adapter
from bridge.adapter import Certainty, Observer, Reader, Readers
from bridge.model import ServiceName
from tests.conftest import StartZooKeeper
from tests.servers.zookeeper import ZooKeeper

PAY = ServiceName("com.acme.Pay", "g1")


def consumer(ip: str, group: str = "g1", **said: str) -> str:
    """The node's name as Dubbo 2.7 and 3 write it."""
    more = "".join(f"&{key}={value}" for key, value in said.items())
    return quote_plus(f"consumer://{ip}/{PAY.name}?category=consumers&group={group}&side=consumer{more}")


@asynccontextmanager
async def kazoo(server: ZooKeeper, work: Callable[[KazooClient], Any]) -> AsyncIterator[KazooClient]:
    client = KazooClient(server.address)

    def begin() -> None:
        client.start(20)
        work(client)

    await asyncio.to_thread(begin)
    try:
        yield client
    finally:
        await asyncio.to_thread(client.stop)
        client.close()


async def asked(server: ZooKeeper, layout: str, name: ServiceName, *admin: str) -> list[Reader]:
    config = adapter.Config(hosts=[server.address], layout=layout, admin=admin)  # type: ignore[arg-type]
    async with adapter.create("legacy", config, None) as registry:
        assert isinstance(registry, Readers)
        return list(await registry.readers(name))


def of(readers: list[Reader], certainty: Certainty) -> list[str]:
    return sorted(f"{one.who}: {one.evidence}" for one in readers if one.certainty is certainty)


async def test_consumers_of_dubbo_are_known_by_their_own_nodes(zookeeper: ZooKeeper) -> None:
    folder = f"/dubbo/{PAY.name}/consumers"
    nodes = [
        consumer("192.0.2.7", application="shop", version="1.0", pid="41"),
        consumer("192.0.2.8", group="*", application="console"),
        consumer("192.0.2.9", group="g2", application="other", release="dubbo-golang-3.3.0"),
        quote_plus("nonsense"),
    ]

    def register(client: KazooClient) -> None:
        for node in nodes:
            client.create(f"{folder}/{node}", ephemeral=True, makepath=True)

    config = adapter.Config(hosts=[zookeeper.address], layout="dubbo2")
    async with kazoo(zookeeper, register), adapter.create("legacy", config, None) as registry:
        found = await asked(zookeeper, "dubbo2", PAY)
        assert isinstance(registry, Observer)
        groups = ("g1", "g2", "g3")
        kinds = [await registry.consumers(ServiceName(PAY.name, group)) for group in groups]
    assert kinds == [{"dubbo"}, {"dubbo", "dubbo-go"}, {"dubbo"}]  # the console reads every group
    assert of(found, Certainty.KNOWN) == [
        f"console at 192.0.2.8: its node in {folder}: application console",
        f"shop at 192.0.2.7: its node in {folder}: application shop, version 1.0, pid 41",
    ]
    assert len(found) == 2 and all(abs(one.at - time.time()) < 60 for one in found)
    assert await asked(zookeeper, "dubbo2", ServiceName("com.acme.Unread")) == []


async def test_data_watches_are_known_and_other_sessions_possible(zookeeper_server: StartZooKeeper) -> None:
    server = await zookeeper_server(admin=True)
    mapping, other = f"/dubbo/mapping/{PAY.name}", f"/dubbo/mapping/{PAY.name}More"

    def watch_data(client: KazooClient) -> None:
        for path in (mapping, other):
            client.ensure_path(path)
        client.get(mapping, watch=lambda event: None)

    def watch_children(client: KazooClient) -> None:
        client.get_children("/dubbo", watch=lambda event: None)
        client.get(other, watch=lambda event: None)

    async with kazoo(server, watch_data), kazoo(server, watch_children):
        found = await asked(server, "dubbo2", PAY, server.admin)
        assert [one.evidence for one in found if one.certainty is Certainty.KNOWN] == [f"watches {mapping}"]
        (possible,) = [one for one in found if one.certainty is Certainty.POSSIBLE]
        assert possible.evidence == f"connected to {server.admin}, last operation GETD"
        assert len(found) == 2  # our own session is none of them
    gone = await asked(server, "dubbo2", PAY, server.admin, "http://127.0.0.1:1")
    assert [one.certainty for one in gone] == [Certainty.UNKNOWN]
    assert "http://127.0.0.1:1" in gone[0].who and "cannot be connected to" in gone[0].evidence
