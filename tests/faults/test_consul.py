"""How Consul fools its readers, on real servers: what looks like an empty service is an error, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import pytest_asyncio

from bridge.adapter import Listing, Observed
from bridge.errors import Denied, Expired, Unavailable
from bridge.model import ServiceName
from tests.adapters.consul.lab import (
    ACL,
    PAY,
    ROOT,
    deregister,
    register,
    registry,
    restore,
    revoke,
    save,
    token,
)
from tests.adapters.consul.site import Site, site, stand
from tests.conformance.lab import Watching, watching
from tests.conftest import StartConsul, provided
from tests.kit.waiting import until
from tests.servers.consul import Consul, datacenters, servers

READER = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


@pytest_asyncio.fixture
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Consul]]:
    """dc1 and dc2, joined."""
    with provided():
        async with datacenters(tmp_path_factory.mktemp("pair")) as agents:
            yield agents


def emptied(watch: Watching, name: ServiceName = PAY) -> list[Observed]:
    """What a watch said to the effect that nothing is left of a service."""
    return [one for one in watch.observations(name) if not one.service.instances]


async def test_a_frozen_datacenter_is_silent_and_the_other_one_goes_on(pair: list[Consul]) -> None:
    """The agent that is asked is well, and waits for the frozen servers as long as anybody does."""
    here, there = pair
    await register(here, "a")
    await register(there, "b")
    async with registry(here, "dc1", "dc2") as opened, watching(opened.sources["dc1"]) as alive:
        async with watching(opened.sources["dc2"]) as frozen:
            await frozen.until(lambda: frozen.synced)
            with there.frozen():
                await register(here, "c")
                await alive.until(lambda: len(alive.service(PAY).instances) == 2)
                await frozen.until(lambda: frozen.error is not None)
                assert isinstance(frozen.error, Unavailable)
                assert not emptied(frozen)
        await until(lambda: _sees(here, "dc2"), "the datacenters have found each other again")
        async with watching(opened.sources["dc2"]) as again:
            await again.until(lambda: len(again.service(PAY).instances) == 1)
        assert alive.error is None


async def _sees(agent: Consul, dc: str) -> bool:
    return await agent.answers(f"/v1/catalog/nodes?dc={dc}") == 200


async def test_a_dead_datacenter_is_silent_and_the_other_one_goes_on(pair: list[Consul]) -> None:
    here, there = pair
    await register(here, "a")
    await register(there, "b")
    async with registry(here, "dc1", "dc2") as opened, watching(opened.sources["dc1"]) as alive:
        async with watching(opened.sources["dc2"]) as dead:
            await alive.until(lambda: alive.synced)
            await dead.until(lambda: dead.synced)
            assert list(dead.service(PAY).instances) == ["dc2/vm-pay/b"]
            assert dead.service(PAY).instances["dc2/vm-pay/b"].locality.region == "dc2"
            await there.kill()
            await dead.until(lambda: dead.error is not None)
            assert isinstance(dead.error, Unavailable)
            assert not emptied(dead)
        for _ in range(2):  # with a view in the agent that is warm, and later
            with pytest.raises(Unavailable):
                await opened.sources["dc2"].read(PAY)
            async with watching(opened.sources["dc2"]) as again:
                await again.until(lambda w=again: w.error is not None)  # type: ignore[misc]
                assert not again.synced
        await register(here, "c")
        await alive.until(lambda: len(alive.service(PAY).instances) == 2)


async def test_an_unknown_datacenter_is_no_empty_one(consul: Consul) -> None:
    async with registry(consul, "dc1", "dcX") as opened, watching(opened.sources["dcX"]) as watch:
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Unavailable)
        assert "No path to datacenter" in str(watch.error)
        assert not watch.said


@pytest_asyncio.fixture
async def guarded(consul_server: StartConsul) -> Consul:
    """A Consul that denies by default, with one service."""
    server = await consul_server(settings=[ACL], token=ROOT)
    await register(server, "a")
    return server


async def test_a_token_that_is_deleted_in_mid_watch_is_denied(guarded: Consul, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(await token(guarded, READER))
    async with registry(guarded, token_file=str(path)) as opened:
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced)
            assert len(watch.service(PAY).instances) == 1
            await revoke(guarded, path.read_text())
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Denied)
            assert f"we showed the token of {path}" in str(watch.error)
            assert not emptied(watch)
        path.write_text(await token(guarded, READER + " "))  # rotated: no restart
        async with watching(opened.sources["dc1"]) as again:
            await again.until(lambda: again.synced)
            assert len(again.service(PAY).instances) == 1


async def test_rights_that_are_cut_in_mid_watch_are_denied_and_remove_nothing(guarded: Consul) -> None:
    """The same token, which may see no nodes any more: Consul answers with an empty list."""
    secret = await token(guarded, READER)
    async with registry(guarded, token=secret) as opened, watching(opened.sources["dc1"]) as watch:
        await watch.until(lambda: watch.synced)
        (policy,) = [one for one in await guarded.call("GET", "/v1/acl/policies") if one["Name"].startswith("p")]
        less = {"Name": policy["Name"], "Rules": 'service_prefix "" { policy = "read" }'}
        await guarded.call("PUT", f"/v1/acl/policy/{policy['ID']}", less)
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Denied)
        assert not emptied(watch)


@pytest.mark.parametrize(
    "rules",
    [None, 'service "other" { policy = "read" }', 'service_prefix "" { policy = "read" }'],
    ids=["no token", "no right", "no right to see nodes"],
)
async def test_what_the_token_may_not_see_is_denied_and_not_absent(guarded: Consul, rules: str | None) -> None:
    secret = await token(guarded, rules) if rules is not None else None
    async with registry(guarded, token=secret) as opened, watching(opened.sources["dc1"]) as watch:
        await watch.until(lambda: watch.error is not None)
        assert isinstance(watch.error, Denied)
        assert not watch.observed
        with pytest.raises(Denied):
            await opened.sources["dc1"].read(PAY)
        with pytest.raises(Denied):
            await opened.sink("b1").held([PAY])


async def test_servers_without_a_leader_are_silent(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with provided():
            one, two = await stack.enter_async_context(servers(tmp_path))
        await register(one, "a")
        opened = await stack.enter_async_context(registry(one))
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced)
            await two.kill()
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Unavailable)
            assert not emptied(watch)
        with pytest.raises(Unavailable):
            await opened.sources["dc1"].read(PAY)


async def test_a_client_agent_whose_servers_are_dead_is_silent(consul_server: StartConsul) -> None:
    """It answers by itself, and knows nothing of a catalog."""
    server = await consul_server()
    await register(server, "a")
    agent = await consul_server(name="client", client_of=server)
    async with registry(agent) as opened:
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: len(watch.service(PAY).instances) == 1)
            await server.kill()
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Unavailable)
            assert not emptied(watch)
        for read in (opened.sources["dc1"].read(PAY), opened.sink("b1").held([PAY])):
            with pytest.raises(Unavailable):
                await read
        async with watching(opened.sources["dc1"]) as down:
            await down.until(lambda: down.error is not None)
            assert not down.synced
        await server.start()
        await until(lambda: _knows(agent), "the agent has found it again")
        async with watching(opened.sources["dc1"]) as after:
            await after.until(lambda: after.synced)
            assert len(after.service(PAY).instances) == 1


async def _knows(agent: Consul) -> bool:
    return await agent.answers("/v1/catalog/nodes") == 200


async def test_a_frozen_agent_is_found_and_takes_nothing_away(consul: Consul) -> None:
    await register(consul, "a")
    async with registry(consul) as opened:
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced)
            with consul.frozen():
                await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Unavailable)
            assert not emptied(watch)
        await register(consul, "b")
        async with watching(opened.sources["dc1"]) as after:
            await after.until(lambda: len(after.service(PAY).instances) == 2)


async def test_a_restored_snapshot_is_an_older_life_and_nothing_is_gone(consul_server: StartConsul) -> None:
    server = await consul_server()
    await register(server, "a")
    snapshot = await save(server)
    await register(server, "b")
    async with registry(server) as opened:
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: len(watch.service(PAY).instances) == 2)
            await restore(server, snapshot)
            await watch.until(lambda: watch.error is not None)
            assert isinstance(watch.error, Expired)
            assert len(watch.service(PAY).instances) == 2
        async with watching(opened.sources["dc1"]) as again:
            await again.until(lambda: again.synced)
    before, after = watch.said[0], again.said[0]
    assert isinstance(before, Listing)
    assert isinstance(after, Listing)
    assert after.identity == before.identity
    assert after.revision < before.revision  # so it is not believed (safety rule 3)


async def test_a_datacenter_that_began_anew_is_another_one(consul_server: StartConsul) -> None:
    server = await consul_server()
    async with registry(server) as opened:
        async with watching(opened.sources["dc1"]) as before:
            await before.until(lambda: before.synced)
        await server.kill()
        server.forget()
        await server.start()
        async with watching(opened.sources["dc1"]) as after:
            await after.until(lambda: after.synced)
    assert isinstance(before.said[0], Listing)
    assert isinstance(after.said[0], Listing)
    assert after.said[0].identity != before.said[0].identity


async def test_a_limit_of_connections_lowers_the_polls_and_loses_nothing(consul_server: StartConsul) -> None:
    server = await consul_server(settings=["limits { http_max_conns_per_client = 40 }"])
    names = [ServiceName(f"s{number:02}") for number in range(60)]
    for name in names:
        await register(server, "a", name.name)
    async with registry(server, max_polls=60) as opened:
        source = opened.sources["dc1"]

        async def calm(watch: Watching) -> bool:
            """Whether natives have room at the agent again."""
            with suppress(OSError):
                paths = ["/v1/status/leader"] * 5
                answers = await asyncio.gather(*map(server.answers, paths))
                return watch.synced and 0 < opened.budget.most <= 30 and set(answers) == {200}
            return False

        async with watching(source) as watch:
            await until(lambda: calm(watch))
            assert watch.error is None
            assert len(watch.observed) == len(names)
            for name in names[:3] + names[-3:]:
                await register(server, "b", name.name, Address="192.0.2.2")
                await watch.until(lambda n=name: len(watch.service(n).instances) == 2)  # type: ignore[misc]
            assert any("429" in text for text in (await opened.reach()).limits)
            (concern,) = opened.concerns()
            assert (concern.code, "429" in concern.text) == ("polls-lowered", True)


async def test_a_poll_that_would_be_answered_from_a_streamed_view_is_refused(consul: Consul) -> None:
    await register(consul, "a")
    async with registry(consul) as opened:
        with pytest.raises(Unavailable, match="streamed"):
            await opened._client.get("/v1/health/service/pay", "dc1", index="1", wait="1s")


async def test_a_service_that_appears_and_goes_over_and_over_is_told_as_it_is(consul: Consul) -> None:
    async with registry(consul) as opened, watching(opened.sources["dc1"]) as watch:
        await watch.until(lambda: watch.synced)
        for turn in range(5):
            await register(consul, "a")
            await watch.until(lambda: len(watch.service(PAY).instances) == 1)
            await register(consul, f"other{turn}", "cart")
            await deregister(consul, "a")
            await watch.until(lambda: not watch.service(PAY).instances)
            await deregister(consul, f"other{turn}", "cart")


# -- in the daemon ---------------------------------------------------------------------------------------------------


async def scope(made: Site, expected: str) -> bool:
    """Whether the daemon says that of Consul."""
    return bool((await made.bridge.scopes())["core"]["state"] == expected)


async def test_fault_26_an_index_that_goes_back_takes_nothing_away(consul_server: StartConsul, folder: Path) -> None:
    server = await consul_server()
    made = site(folder, server)
    await register(server, "a", Address="192.0.2.1")
    snapshot = await save(server)
    await register(server, "b", Address="192.0.2.2")
    async with made.bridge:
        await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.2"})
        await restore(server, snapshot)
        await until(lambda: doubted(made), "the older life is not believed")
        await register(server, "c", Address="192.0.2.3")
        await until(lambda: "192.0.2.3" in made.mirrored())  # additions flow
        assert made.mirrored() == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}


async def doubted(made: Site) -> bool:
    return bool((await made.bridge.scopes())["core"]["doubt"])


async def test_fault_27_a_service_that_changes_all_the_time_is_read_at_a_bounded_rate(consul: Consul) -> None:
    changes = 300
    await register(consul, "a")
    async with registry(consul) as opened, watching(opened.sources["dc1"]) as watch:
        await watch.until(lambda: watch.synced)
        for number in range(changes):
            await register(consul, "a", Meta={"turn": str(number)})
        last = {"turn": str(changes - 1)}
        await watch.until(lambda: [one.metadata for one in watch.service(PAY).instances.values()] == [last])
        assert len(watch.observations(PAY)) < changes / 2


async def test_fault_28_a_datacenter_without_a_leader_takes_nothing_away(tmp_path: Path, folder: Path) -> None:
    with provided():
        async with servers(tmp_path) as (one, two):
            made = site(folder, one)
            await register(one, "a", Address="192.0.2.1")
            async with made.bridge:
                await until(lambda: made.mirrored() == {"192.0.2.1"})
                await two.kill()
                await until(lambda: scope(made, "stale"), "it is silent, and said to be")
                assert made.mirrored() == {"192.0.2.1"}
                await two.start()
                await until(lambda: scope(made, "synced"))
                await register(one, "b", Address="192.0.2.2")
                await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.2"})


async def test_fault_29_what_others_remove_from_our_nodes_is_written_again(consul: Consul, folder: Path) -> None:
    made = site(folder, consul)
    made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
    both = stand(consul, {"192.0.2.1": "passing", "192.0.2.2": "passing"})
    async with made.bridge:
        await until(both)
        body = {"Node": "isthmus-b1-00", "ServiceID": "pay:i1"}
        await consul.call("PUT", "/v1/catalog/deregister", body)
        await until(both)


async def test_fault_29_anti_entropy_leaves_our_nodes_alone(consul_server: StartConsul, folder: Path) -> None:
    """An agent takes away what it does not know on its own node, with each full sync: one comes with its start."""
    server = await consul_server()
    made = site(folder, server)
    made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
    ours = stand(server, {"192.0.2.1": "passing", "192.0.2.2": "passing"})
    async with made.bridge:
        await until(ours)
        await register(server, "intruder", "cart", node=server.name)
        await server.kill()
        await server.start()

        async def noticed() -> bool:
            return not await server.call("GET", "/v1/health/service/cart")

        await until(noticed, "the agent's full sync")
        assert await ours()


async def test_fault_30_a_token_that_sees_less_takes_nothing_away(guarded: Consul, folder: Path) -> None:
    secret = await token(guarded, READER)
    made = site(folder, guarded)
    made.bridge.registries["core"]["token_file"] = str(folder / "token")
    made.bridge.links.pop(0)
    made.bridge.write()
    (folder / "token").write_text(secret)
    await register(guarded, "b", Address="192.0.2.2")
    async with made.bridge:
        await until(lambda: made.mirrored() == {"192.0.2.1", "192.0.2.2"})
        blind = await token(guarded, 'service_prefix "" { policy = "read" }')
        (folder / "token").write_text(blind)
        await until(lambda: scope(made, "stale"))
        assert made.mirrored() == {"192.0.2.1", "192.0.2.2"}
