"""Who reads a service at each place: what a registry knows, what it cannot know, and the command that tells more."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from urllib.parse import quote_plus

from kazoo.client import KazooClient

from bridge.config import load as config
from bridge.config.document import Document
from bridge.consumers import ANYWHERE, UNSEEN
from bridge.engine.engine import Engine
from bridge.model import ServiceName
from bridge.report.readers import reader_rows
from tests.bridge.core import Record
from tests.kit import stock
from tests.kit.waiting import until
from tests.servers.zookeeper import ZooKeeper

FILE = """
bridge: {id: b1}
registries:
  legacy: {kind: zookeeper, hosts: ["ADDRESS"], layout: dubbo2}
  store: {kind: memory}
links:
  - {from: legacy, to: store, policy: sync, services: {include: ["*"]}, rename: "{name}-copy"}
"""
PAY = ServiceName("com.acme.Pay")


async def test_every_place_says_what_it_knows_and_what_it_cannot_know(zookeeper: ZooKeeper) -> None:
    client = KazooClient(zookeeper.address)
    consumer = quote_plus(f"consumer://192.0.2.7/{PAY.name}?application=shop")

    def register() -> None:
        client.start(20)
        made = stock.record("dubbo2", PAY.name, stock.Native("i1", "192.0.2.1", 20880))
        client.create(f"/dubbo/{made.key}", made.value, makepath=True)
        client.create(f"/dubbo/{PAY.name}/consumers/{consumer}", makepath=True)

    await asyncio.to_thread(register)
    text = FILE.replace("ADDRESS", zookeeper.address)
    file = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)
    try:
        async with Engine(file, events=Record()) as engine:
            await until(lambda: not engine.unreached() and engine.reconcilers["store"].idle, "all is read")
            known, unseen, anywhere = await reader_rows(engine, PAY)
            assert (known["registry"], known["reader"], known["certainty"]) == ("legacy", "shop at 192.0.2.7", "known")
            assert "application shop" in known["evidence"] and abs(known["at"] - time.time()) < 60
            assert (unseen["certainty"], unseen["command"]) == ("cannot be known", UNSEEN["zookeeper"][0].command)
            assert (anywhere["registry"], anywhere["reader"]) == ("", ANYWHERE.who)
            await asyncio.to_thread(client.delete, f"/dubbo/{PAY.name}/consumers/{consumer}")
            assert [row["certainty"] for row in await reader_rows(engine, PAY)] == ["cannot be known"] * 2
            assert await reader_rows(engine, ServiceName("com.acme.Nobody")) == []
    finally:
        await asyncio.to_thread(client.stop)
        client.close()


def test_a_command_names_the_service_and_nothing_else_is_filled_in() -> None:
    commands = [one.command for ones in UNSEEN.values() for one in ones]
    assert all(command.count("{") == command.count("{service}") + command.count("{print") for command in commands)
