"""A real gRPC client that dials `xds:///NAME`, with the bootstrap that is printed for it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio

from tests.dataplanes.estate import SERVICE, Inventory, bridge
from tests.kit.ads import CLUSTER, Ads
from tests.kit.over_grpc import client, servers
from tests.kit.waiting import until
from tests.servers import ports

THREE = ("127.0.0.31", "127.0.0.32", "127.0.0.33")


async def test_a_name_that_only_known_sources_feed_is_answered_while_another_is_dark(tmp_path: Path) -> None:
    xds, port = ports.reserve(2)
    address = f"127.0.0.1:{xds}"
    inventory = Inventory(tmp_path / "inventory")
    inventory.write({THREE[0]: {}}, port, ports=[{"number": port, "name": "grpc", "protocol": "grpc"}])
    (inventory.folder / "web-1.yaml").write_text((inventory.folder / f"{SERVICE}.yaml").read_text())
    made = bridge(tmp_path, inventory, {"mesh": {"kind": "xds", "listen": address}})
    made.registries["late"] = {"kind": "file", "path": str(tmp_path / "late")}
    made.links.append({**made.links[0], "from": ["inventory", "late"], "services": {"include": ["web-*"]}})
    made.links[0]["services"] = {"include": [SERVICE]}
    made.write()
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [xds, port])
        await stack.enter_async_context(servers(port, *THREE))
        await stack.enter_async_context(made)
        printed = await made.isthmus("bootstrap", "grpc", "mesh")
        (tmp_path / "grpc.json").write_text(printed.out)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        proxy = await stack.enter_async_context(Ads(channel).delta("proxy"))
        await proxy.ask(CLUSTER)
        web = await stack.enter_async_context(Ads(channel).world("web"))
        await web.ask(CLUSTER, "web-1")
        late = [asyncio.create_task(each.next()) for each in (proxy, web)]
        calls = await stack.enter_async_context(client(tmp_path / "grpc.json", SERVICE))
        await calls.only(THREE[0])
        (told,) = [row["text"] for row in (await made.ask("status"))["attention"] if row["code"] == "export-waits"]
        assert "before late is known" in told
        made.registries["later"] = {"kind": "file", "path": str(tmp_path / "later")}
        made.links[0]["from"] = ["inventory", "later"]
        await made.hup()
        pay = await stack.enter_async_context(Ads(channel).world("pay"))
        await pay.ask(CLUSTER, SERVICE)
        late.append(asyncio.create_task(pay.next()))

        async def asks() -> bool:
            return any(row["client"] == "pay" for row in await made.ask("clients"))

        await until(asks, "it has asked")
        assert not any(each.done() for each in late), "who asks for all, or for what a dark one may feed, waits"
        for name in ("late", "later"):
            (tmp_path / name).mkdir()
        everything, *single = await asyncio.gather(*late)
        assert everything.found.keys() == {SERVICE, "web-1"}
        assert [len(each.found) for each in single] == [1, 1]
        assert not calls.failed


async def test_a_grpc_client_follows_and_keeps_what_it_has_through_outages(tmp_path: Path) -> None:
    xds, port = ports.reserve(2)
    inventory = Inventory(tmp_path / "inventory")
    grpc_port = {"ports": [{"number": port, "name": "grpc", "protocol": "grpc"}]}

    def say(*addresses: str) -> None:
        inventory.write({address: {} for address in addresses}, port, **grpc_port)

    say(*THREE[:2])
    made = bridge(tmp_path, inventory, {"mesh": {"kind": "xds", "listen": f"127.0.0.1:{xds}"}})
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [xds, port])
        await stack.enter_async_context(servers(port, *THREE))
        await stack.enter_async_context(made)
        printed = await made.isthmus("bootstrap", "grpc", "mesh", "--node", "client-1")
        assert printed.code == 0, printed.err
        (tmp_path / "grpc.json").write_text(printed.out)
        calls = await stack.enter_async_context(client(tmp_path / "grpc.json", SERVICE))
        await calls.only(*THREE[:2])
        say(*THREE)
        await calls.only(*THREE)
        say(*THREE[1:])
        await calls.only(*THREE[1:])
        rows = await made.ask("clients")
        assert [row["client"] for row in rows] == ["client-1"]
        assert not rows[0]["refused"]
        await made.kill()
        await calls.only(*THREE[1:])
        await made.start()
        say(*THREE[:1], THREE[2])
        await calls.only(THREE[0], THREE[2])
        assert not calls.failed
