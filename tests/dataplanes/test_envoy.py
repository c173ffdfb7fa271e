"""A real Envoy, under load, through all that happens to a control plane: no request fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mappings.xds_resources import NAMED_BY
from tests.conftest import provided
from tests.dataplanes.estate import SERVICE, Inventory, bridge
from tests.kit.load import Backends, Load, answers, backends, load, over_http
from tests.kit.running import Bridge
from tests.kit.waiting import steady, until
from tests.servers import ports
from tests.servers.envoy import Envoy

FOUR = ("127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14")


class Site(NamedTuple):
    """One service behind one proxy, under load."""

    inventory: Inventory
    bridge: Bridge
    envoy: Envoy
    backends: Backends
    load: Load

    def say(self, *addresses: str) -> None:
        self.inventory.write({address: {} for address in addresses}, self.backends.port)

    async def only(self, *addresses: str) -> None:
        """Waits until these answer, and no others any more."""

        async def settled() -> bool:
            return set(await self.load.more(40)) == set(addresses)

        await until(settled, f"{addresses} answer alone")


@asynccontextmanager
async def site(
    folder: Path,
    variant: str,
    *,
    where: Sequence[str] = (),
    networks: Mapping[str, object] | None = None,
    **said: object,
) -> AsyncIterator[Site]:
    """`where`: options that say where the proxy is; `said`: keys of the export's block."""
    xds, egress, admin, port = ports.reserve(4)
    inventory = Inventory(folder / "inventory")
    inventory.write({address: {} for address in FOUR[:2]}, port)
    mesh = {"kind": "xds", "listen": f"127.0.0.1:{xds}", "egress": f"127.0.0.1:{egress}", **said}
    made = bridge(folder, inventory, {"mesh": mesh})
    made.networks |= networks or {}
    made.write()
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [xds, egress, admin, port])
        some = await stack.enter_async_context(backends(port, *FOUR))
        await stack.enter_async_context(made)
        words = ["bootstrap", "envoy", "mesh", "--admin", f"127.0.0.1:{admin}", "--variant", variant, *where]
        printed = await made.isthmus(*words)
        assert printed.code == 0, printed.err
        (folder / "envoy.yaml").write_text(printed.out)
        with provided():
            proxy = await stack.enter_async_context(Envoy(folder, folder / "envoy.yaml", admin))
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{egress}/", host=SERVICE))
        await until(lambda: answers(ask), "the first answer")
        running = await stack.enter_async_context(load(ask))
        yield Site(inventory, made, proxy, some, running)
        assert not running.failed


@pytest.mark.parametrize("variant", ["delta", "world"])
async def test_no_request_fails_whatever_happens_to_the_control_plane(tmp_path: Path, variant: str) -> None:
    async with site(tmp_path, variant) as at:
        await at.only(*FOUR[:2])
        at.say(*FOUR[:3])
        await at.only(*FOUR[:3])
        at.say(*FOUR[1:3])
        await at.only(*FOUR[1:3])
        at.inventory.write({FOUR[1]: {"health": "DRAINING"}, FOUR[2]: {}}, at.backends.port)
        await at.only(FOUR[2])
        at.inventory.write({FOUR[1]: {"health": "UNHEALTHY"}, FOUR[2]: {}, FOUR[3]: {}}, at.backends.port)
        await at.only(*FOUR[2:])
        await at.backends.stop(FOUR[1])
        await at.bridge.kill()
        await at.load.more(50)
        await at.bridge.start()
        at.say(FOUR[2], FOUR[3], FOUR[0])
        await at.only(FOUR[0], *FOUR[2:])
        # Every source is dark at the start: what was served is served.
        await at.bridge.stop()
        at.inventory.folder.rename(tmp_path / "away")
        await at.bridge.start()
        await at.load.more(50)
        assert set(await at.load.more(100)) == {FOUR[0], *FOUR[2:]}
        (tmp_path / "away").rename(at.inventory.folder)
        # The source is emptied: what goes waits for a person.
        at.inventory.write({}, at.backends.port)
        await until(at.bridge.holds, "the wipe is held")
        assert set(await at.load.more(100)) == {FOUR[0], *FOUR[2:]}
        at.say(*FOUR[2:])
        await at.only(*FOUR[2:])


async def test_a_check_that_names_the_service_is_sent_once_it_is_answered(tmp_path: Path) -> None:
    check = {"path": "/health", "interval": "100ms", "names_the_service": True}
    async with site(tmp_path, "delta", health_check=check) as at:

        async def left_out() -> bool:
            return any(one["code"] == "check-unproven" for one in (await at.bridge.ask("status"))["attention"])

        await until(left_out)
        await at.only(*FOUR[:2])  # nobody names itself: a check would have taken both away
        at.backends.headers |= {each: {NAMED_BY: SERVICE} for each in FOUR[:2]}

        async def sent() -> bool:
            return not await left_out()

        await until(sent)
        at.backends.headers[FOUR[1]] = {NAMED_BY: "another"}  # it goes on to answer 200
        await at.only(FOUR[0])
        at.backends.headers[FOUR[1]] = {NAMED_BY: SERVICE}
        await at.only(*FOUR[:2])
        at.say(FOUR[1])  # which is no matter of health: it still answers its check
        await at.only(FOUR[1])
        at.inventory.write({FOUR[1]: {}, FOUR[2]: {"version": "2"}}, at.backends.port)
        await until(left_out)
        await at.only(*FOUR[1:3])


async def test_requests_are_dealt_as_the_weights_of_localities_say(tmp_path: Path) -> None:
    async with site(tmp_path, "delta") as at:
        said = {FOUR[0]: ("vm", 1.0), FOUR[1]: ("vm", 1.0), FOUR[2]: ("pods", 6.0)}
        at.inventory.write(
            {address: {"locality": {"zone": zone}, "weight": weight} for address, (zone, weight) in said.items()},
            at.backends.port,
        )
        await at.only(*FOUR[:3])

        async def share() -> bool:
            answered = await at.load.more(800)
            return abs(answered[FOUR[2]] / answered.total() - 0.75) < 0.02

        await until(share, "three of four requests go to the pods")


async def test_a_proxy_is_told_its_own_network_and_the_nearest_zone_first(tmp_path: Path) -> None:
    networks = {"pods": {"cidrs": ["127.0.0.11/32", "127.0.0.12/32", "127.0.0.13/32"]}}
    where = ("--network", "pods", "--region", "eu", "--zone", "eu-1")
    async with site(tmp_path, "delta", where=where, networks=networks, priority="zone") as at:
        zones = dict(zip(FOUR, ("eu-1", "eu-2", "eu-2", "eu-1"), strict=True))  # the last one is in no pod network

        def say(*addresses: str) -> None:
            said = {one: {"locality": {"region": "eu", "zone": zones[one]}} for one in addresses}
            at.inventory.write(said, at.backends.port)

        say(*FOUR)
        await at.only(FOUR[0])
        say(*FOUR[1:])
        await at.only(*FOUR[1:3])
        say(*FOUR)
        await at.only(FOUR[0])
        (row,) = await at.bridge.ask("clients")
        assert row["network"] == "pods"


async def test_a_proxy_looks_host_names_up_and_goes_back_to_addresses(tmp_path: Path) -> None:
    async with site(tmp_path, "delta") as at:
        await at.backends.start("127.0.0.1")
        at.say("localhost", FOUR[0])
        await at.only("127.0.0.1", FOUR[0])
        at.say("localhost")
        await at.only("127.0.0.1")
        at.say(*FOUR[:2])
        await at.only(*FOUR[:2])


async def test_a_proxy_that_starts_before_the_sources_are_known_waits(tmp_path: Path) -> None:
    """What is missing from a half-known picture is not there, to a proxy: it is told nothing yet."""
    async with AsyncExitStack() as stack:
        xds, egress, admin, port = ports.reserve(4)
        stack.callback(ports.release, [xds, egress, admin, port])
        inventory = Inventory(tmp_path / "inventory")
        inventory.write({FOUR[0]: {}}, port)
        export = {"kind": "xds", "listen": f"127.0.0.1:{xds}", "egress": f"127.0.0.1:{egress}"}
        made = bridge(tmp_path, inventory, {"mesh": export})
        made.registries["late"] = {"kind": "file", "path": str(tmp_path / "late")}
        made.links[0]["from"] = ["inventory", "late"]
        made.write()
        some = await stack.enter_async_context(backends(port, FOUR[0]))
        assert some.port == port
        await stack.enter_async_context(made)
        printed = await made.isthmus("bootstrap", "envoy", "mesh", "--admin", f"127.0.0.1:{admin}")
        (tmp_path / "envoy.yaml").write_text(printed.out)
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{egress}/", host=SERVICE))
        with provided():
            proxy = Envoy(tmp_path, tmp_path / "envoy.yaml", admin)
            starting = asyncio.create_task(proxy.__aenter__())
            stack.push_async_exit(proxy)

        async def silent() -> str:
            return await answers(ask)

        assert await steady(silent, 2.0) == ""
        (tmp_path / "late").mkdir()
        await starting
        await until(silent, "the first answer")
