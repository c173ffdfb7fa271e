"""A daemon between a folder and Consul, both ways: what arrives, what is withdrawn, and what an outage takes away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from bridge.errors import IsthmusError
from tests.adapters.consul.lab import deregister, register
from tests.adapters.consul.site import Site, site, stand
from tests.conftest import StartConsul, provided
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.consul import Consul, datacenters


@pytest_asyncio.fixture
async def made(consul: Consul, folder: Path) -> AsyncIterator[Site]:
    made = site(folder, consul)
    yield made
    await made.bridge.__aexit__(None)


async def test_what_is_registered_changes_drains_and_goes_does_so_at_both_ends(consul: Consul, made: Site) -> None:
    made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
    await register(consul, "native", Address="192.0.2.3")
    async with made.bridge:
        await until(stand(consul, {"192.0.2.1": "passing", "192.0.2.2": "passing"}))
        await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.2", "192.0.2.3"})
        made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.12")
        await register(consul, "native", Address="192.0.2.13")
        await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.12", "192.0.2.13"})
        made.inventory.set("pay", i1="192.0.2.1", i2={"address": "192.0.2.12", "health": "DRAINING"})
        await until(stand(consul, {"192.0.2.1": "passing"}))  # Spring Cloud Consul would call it, marked or not
        await deregister(consul, "native")
        await until(lambda: made.mirrored() == {"192.0.2.1"})


async def test_a_link_that_marks_leaves_the_unhealthy_with_a_critical_check(consul: Consul, folder: Path) -> None:
    made = site(folder, consul, unhealthy="mark")
    made.inventory.set("pay", i1="192.0.2.1", i2={"address": "192.0.2.2", "health": "UNHEALTHY"})
    async with made.bridge:
        await until(stand(consul, {"192.0.2.1": "passing", "192.0.2.2": "critical"}))


async def test_what_the_file_asks_for_no_more_is_held_and_not_taken_for_gone(consul: Consul, made: Site) -> None:
    for name in ("pay", "pay-db"):
        await register(consul, "a", name, Address="192.0.2.3")
    async with made.bridge as bridge:
        await until(lambda: made.mirrored() == made.mirrored("pay-db") == {"192.0.2.3"})
        bridge.links[1]["services"] = {"include": ["pay-*"]}
        await bridge.hup()
        await deregister(consul, "a")

        async def held() -> bool:
            return [(row["cause"], row["instances"]) for row in await bridge.holds()] == [("config", 1)]

        await until(held)
        assert made.mirrored() == {"192.0.2.3"}
        bridge.links[1]["services"] = {"include": ["pay*"]}
        await register(consul, "b", Address="192.0.2.4")
        await bridge.hup()
        await until(lambda: "192.0.2.4" in made.mirrored())


async def test_a_server_that_is_killed_in_mid_flow_costs_nothing(consul_server: StartConsul, folder: Path) -> None:
    server = await consul_server()
    made = site(folder, server)
    made.inventory.set("pay", i1="192.0.2.1")
    await register(server, "native", Address="192.0.2.3")
    async with made.bridge as bridge:
        await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.3"})
        await server.kill()
        made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
        await until(lambda: unsynced(bridge))
        assert made.mirrored() == {"192.0.2.1", "192.0.2.3"}
        await server.start()
        await until(stand(server, {"192.0.2.1": "passing", "192.0.2.2": "passing"}))
        await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.2", "192.0.2.3"})


async def unsynced(bridge: Bridge) -> bool:
    return bool((await bridge.scopes())["core"]["state"] != "synced")


async def test_a_dark_datacenter_keeps_its_own_and_the_other_one_flows(
    tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    with provided():
        async with datacenters(tmp_path_factory.mktemp("pair")) as (here, there):
            await register(here, "a", Address="192.0.2.1")
            await register(here, "b", Address="192.0.2.2")
            await register(there, "a", Address="192.0.2.3")
            made = site(folder, here, "dc1", "dc2")
            async with made.bridge:
                await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.2", "192.0.2.3"})
                await there.kill()
                await deregister(here, "b")
                await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.3"})


async def test_status_names_a_datacenter_that_the_file_does_not(
    tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> None:
    with provided():
        async with datacenters(tmp_path_factory.mktemp("pair")) as (here, there):
            await register(here, "a", Address="192.0.2.1")
            await register(there, "a", Address="192.0.2.3")
            made = site(folder, here, "dc1")
            made.bridge.bridge["resync"] = 1
            made.bridge.write()

            async def unnamed(expected: dict[str, list[str]]) -> bool:
                return bool((await bridge.ask("status"))["unnamed"] == expected)

            async with made.bridge as bridge:
                await until(lambda: unnamed({"core": ["dc2"]}))
                assert "core also has dc2" in (await bridge.isthmus("status")).out
                bridge.registries["core"]["datacenters"] = ["dc1", "dc2"]
                await bridge.hup()
                await until(lambda: unnamed({}))
                ran = await bridge.isthmus("services", "pay", "-o", "json")
                rows = {row["instance"].partition(":")[0]: row["at"].keys() for row in ran.json["instances"]}
                assert "core/dc1" in rows["192.0.2.1"] and rows["192.0.2.3"] == {"core/dc2"}


async def test_a_standby_takes_over_when_the_writer_is_killed(consul: Consul, made: Site, folder: Path) -> None:
    made.inventory.set("pay", i1="192.0.2.1")
    made.bridge.links.pop()
    made.bridge.write()
    other = Bridge(folder, made.bridge.registries, made.bridge.links, name="standby")
    async with made.bridge:
        await until(stand(consul, {"192.0.2.1": "passing"}))
        await other.start(ready=False)
        try:
            await until(lambda: role(other, "standby"))
            await made.bridge.kill()
            made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
            await until(stand(consul, {"192.0.2.1": "passing", "192.0.2.2": "passing"}))
        finally:
            await other.__aexit__(None)


async def role(bridge: Bridge, expected: str) -> bool:
    with suppress(IsthmusError, ValueError):
        return bool((await bridge.link())["role"] == expected)
    return False


async def test_adopt_release_and_purge_leave_what_they_should(consul: Consul, made: Site, folder: Path) -> None:
    made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
    made.bridge.links.pop()
    made.bridge.write()
    assert (await made.bridge.isthmus("run", "--once")).code == 0
    link = "inventory-to-core"
    other = Bridge(folder, made.bridge.registries, made.bridge.links, name="other", id="b2")
    try:
        assert (await other.isthmus("adopt", link, "--owner", "b1", "--yes")).code == 0
        found = await consul.call("GET", "/v1/health/service/pay")
        assert {one["Node"]["Node"] for one in found} == {"isthmus-b2-00"}
        assert len(found) == 2
        assert (await other.isthmus("release", link, "--yes")).code == 0
        assert len(await consul.call("GET", "/v1/health/service/pay")) == 2
        assert (await other.isthmus("adopt", link, "--yes")).code == 0
        ran = await other.isthmus("purge", "core", "--including-last", "--yes")
        assert ran.code == 0, ran.err
        assert await consul.call("GET", "/v1/health/service/pay") == []
    finally:
        other.close()


async def test_check_says_what_links_and_readers_make_of_it(consul: Consul, made: Site) -> None:
    await register(consul, "a")
    ran = await made.bridge.isthmus("check", "-o", "json")
    assert ran.code == 0, ran.err
    assert "Consul 1.20.6" in ran.out
    assert "query-passing=true" in ran.out
