"""One move under several daemons of a bridge: one record, one engine, and every place follows; with real etcd."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest_asyncio

from bridge.errors import IsthmusError, Unavailable
from tests.kit.running import Bridge, isthmus
from tests.kit.waiting import until
from tests.migration.estate import Estate, act, reaches, row, stand
from tests.servers import ports
from tests.servers.etcd import Etcd

VMS = tuple(f"192.0.2.{number}" for number in range(1, 5))
PODS = tuple(f"198.51.100.{number}" for number in range(1, 5))
PORT = 9000


class Two(NamedTuple):
    """Two daemons, each with an export of its own; `core` has one writer of the two."""

    estate: Estate
    first: Bridge
    second: Bridge
    edges: tuple[int, int]

    async def reads(self) -> bool:
        """Whether both daemons have planned all there is."""
        try:
            plans = [await one.ask("migrate-plan", name="pay") for one in (self.first, self.second)]
        except Unavailable:
            return False  # no service is known yet
        return all(len(one["places"]) == 2 and all(at["to"] == 4 for at in one["places"]) for (one,) in plans)

    def served(self, number: int) -> dict[str, int]:
        """The weight of each address in one daemon's document."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.edges[number]}/traefik", timeout=10) as answer:
            services = json.load(answer)["http"]["services"]
        return {
            server["url"].partition("//")[2].partition(":")[0]: int(server.get("weight", 1))
            for service in services.values()
            for server in service.get("loadBalancer", {}).get("servers", ())
        }

    def share(self, number: int) -> float:
        """The percent of the new side in it; nothing (-1) while it does not answer."""
        try:
            served = self.served(number)
        except OSError:
            return -1.0
        weights = {one: weight for one, weight in served.items() if one in (*VMS, *PODS)}
        return 100 * sum(weight for one, weight in weights.items() if one in PODS) / sum(weights.values())


@pytest_asyncio.fixture
async def two(folder: Path, etcd: Etcd) -> AsyncIterator[Two]:
    edge, other = ports.reserve(2)
    store = {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}
    estate = Estate(folder, {**store, "prefix": "/seat/"}, {"place": {**store}, "edge": {}})
    estate.vms.write({one: {} for one in VMS}, PORT)
    estate.pods.write({one: {} for one in PODS}, PORT)
    made = []
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [edge, other])
        for name, port in (("first", edge), ("second", other)):
            one = estate.bridge(name, steps=[25, 50, 100], settle=0)
            one.registries["edge"] = {"kind": "traefik", "listen": f"127.0.0.1:{port}"}
            one.write()
            made.append(await stack.enter_async_context(one))
        first, second = made
        found = Two(estate, first, second, (edge, other))
        await until(found.reads, "both daemons have read everything")
        yield found


async def test_a_take_over_goes_on_with_the_step_that_it_finds(two: Two) -> None:
    await act(two.second, "start")
    found = await reaches(two.first, "shift", 1)
    assert stand(found)["edge"] == 25.0
    await until(lambda: (two.share(0), two.share(1)) == (25.0, 25.0), "both daemons serve the share")
    await two.first.kill()
    found = await reaches(two.second, "shift", 2, within=150)
    assert stand(found) == {"place": 50.0, "edge": 50.0} and two.share(1) == 50.0
    await two.first.start()
    await until(lambda: two.share(0) == 50.0, "who comes back follows the record")
    await act(two.first, "rollback", now=True)
    await reaches(two.second, "rolled back")
    await until(lambda: (two.share(0), two.share(1)) == (0.0, 0.0), "nothing of the new side is left")


async def test_a_freeze_stops_the_way_back_and_says_so(two: Two) -> None:
    await act(two.first, "start")
    await reaches(two.first, "shift", 2)
    frozen = await two.first.isthmus("freeze", "--all", "--reason", "the test says so")
    assert frozen.code == 0, frozen.err
    weighed = await two.first.isthmus("set", "pay", "weight=0.2", "--reason", "the test says so")
    assert weighed.code == 1 and "migration pay/pay" in weighed.err, weighed
    await act(two.first, "rollback")

    async def stopped() -> bool:
        found = await row(two.first)
        return found.get("phase") == "rolling back" and "frozen" in found["why"]

    await until(stopped, "the rollback waits for the freeze")
    assert two.share(0) == 50.0
    assert (await two.first.isthmus("unfreeze", "--all")).code == 0
    await reaches(two.first, "rolled back")


async def test_commands_say_by_their_exit_code_where_a_move_is(two: Two) -> None:
    async def code(verb: str, *words: str) -> int:
        return (await isthmus("migrate", verb, "-f", two.first.file, *words)).code

    assert await code("status") == 0
    assert await code("plan", "pay") == 0
    assert await code("next", "pay") == 1  # it was not started
    assert await code("start", "nonsense") == 1
    assert await code("start", "pay", "--reason", "r") == 0
    assert await code("start", "pay", "--reason", "r") == 6
    assert await code("pause", "pay", "--reason", "lunch") == 0
    await until(lambda: _paused(two.first), "it is paused")
    assert await code("status", "pay") == 4
    assert await code("resume", "pay") == 0
    assert await code("rollback", "pay") == 2  # without a reason
    assert await code("abort", "pay", "--reason", "r") == 0
    assert await code("status", "pay") == 0


async def _paused(bridge: Bridge) -> bool:
    try:
        return bool((await row(bridge)).get("paused"))
    except IsthmusError:
        return False


async def test_what_is_done_is_not_forgotten_while_the_file_has_its_block(two: Two) -> None:
    """As a move that has not begun it would have nothing of the new side."""
    await act(two.first, "start")
    await reaches(two.first, "shift", 1)
    await act(two.first, "abort")
    ran = await isthmus("migrate", "forget", "-f", two.first.file, "pay", "--reason", "the test says so")
    assert ran.code == 1 and "block out of the file" in ran.err
    two.first.migrations = []
    await two.first.hup()
    await until(lambda: two.share(0) == 25.0, "the share stays")
    ran = await isthmus("migrate", "forget", "-f", two.first.file, "pay", "--reason", "the test says so")
    assert ran.code == 0 and "25 %, then about 50 %" in ran.out, ran
    await until(lambda: two.share(0) == 50.0, "what links say is true again")
