"""`isthmus probe` connects to what a link would write; with a file of targets it needs no configuration."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.cli.probe import dialled
from bridge.report.targets import Target
from tests.commands.conftest import Pair
from tests.kit.running import isthmus
from tests.kit.waiting import until
from tests.servers import ports


@pytest.fixture
async def answers() -> AsyncIterator[int]:
    """A port of 127.0.0.1 where somebody listens."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def at(port: int) -> dict[str, object]:
    return {"address": "127.0.0.1", "ports": [{"number": port, "protocol": "grpc"}]}


async def test_what_cannot_be_reached_is_said_and_is_the_exit_code(pair: Pair, answers: int) -> None:
    (silent,) = ports.reserve(1)
    pair.inventory.unset("pay-db")
    pair.inventory.set("pay-api", i1=at(answers), i2=at(silent))
    pair.bridge.write()
    ran = await pair.bridge.isthmus("probe", "inventory-to-cluster", "-o", "json")
    assert ran.code == 3, ran.err
    assert (ran.json["link"], ran.json["tried"], ran.json["reached"]) == ("inventory-to-cluster", 2, 1)
    (row,) = ran.json["unreached"]
    assert len(ran.json["answered"]) == 1 and f"127.0.0.1:{silent}" not in ran.json["answered"]
    assert (row["service"], row["instance"], row["port"]) == ("pay-api", "i2", silent)
    assert "refused" in row["reason"].lower()
    table = await pair.bridge.isthmus("probe", "inventory-to-cluster", "--rate", "100")
    assert f"127.0.0.1  {silent}" in table.out and "1 of 2 addresses reached from " in table.out
    pair.inventory.unset("pay-api", "i2")
    assert (await pair.bridge.isthmus("probe", "inventory-to-cluster")).code == 0
    ports.release([silent])


async def test_a_probe_connects_no_faster_than_its_rate() -> None:
    clock, rate = asyncio.get_running_loop().time, 25.0
    arrived: list[float] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append(clock())
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        targets = [Target("pay", f"i{number}", "127.0.0.1", port, "") for number in range(6)]
        began = clock()
        told = await dialled([[one] for one in targets], rate)
        await until(lambda: len(arrived) == len(targets))
    assert [why for _, why in told] == [""] * len(targets)
    assert all(at - began > number / rate - 0.01 for number, at in enumerate(arrived))


async def test_a_file_of_targets_needs_no_configuration(pair: Pair, answers: int, tmp_path: Path) -> None:
    pair.inventory.unset("pay-db")
    pair.inventory.set("pay-api", i1=at(answers), i2=at(answers))
    pair.bridge.write()
    targets, report = tmp_path / "t.json", tmp_path / "r.json"
    wrote = await pair.bridge.isthmus("probe", "inventory-to-cluster", "--write-targets", str(targets))
    assert wrote.code == 0, wrote.err
    ran = await isthmus("probe", "--targets", targets, "--report", report, cwd=tmp_path)
    assert ran.code == 0, ran.err
    found = json.loads(report.read_text())
    assert (found["addresses"], found["tried"], found["reached"], found["unreached"]) == (1, 1, 1, [])


async def test_a_probe_is_asked_for_one_thing(pair: Pair) -> None:
    pair.bridge.write()
    for words in (("l", "--targets", "t.json"), ("no-link",)):
        assert (await pair.bridge.isthmus("probe", *words)).code == 2
