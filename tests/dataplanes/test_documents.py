"""Real Traefik, Prometheus and nginx, told by documents and files, under load where they route."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapters.nginx.apply import REQUEST
from tests.conftest import provided
from tests.dataplanes.estate import SERVICE, Inventory, bridge
from tests.kit.load import Backends, answers, backends, load, over_http
from tests.kit.running import Bridge, ended
from tests.kit.waiting import steady, until
from tests.servers import nginx, ports
from tests.servers.nginx import Nginx
from tests.servers.prometheus import Prometheus
from tests.servers.traefik import Traefik

THREE = ("127.0.0.21", "127.0.0.22", "127.0.0.23")


class Told(NamedTuple):
    """What one GET was answered."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def get(url: str, **headers: str) -> Told:
    """One request."""

    def ask() -> Told:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
                return Told(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Told(error.code, error.read())
        except OSError:  # nobody listens yet
            return Told(0, b"")

    return await asyncio.to_thread(ask)


class Estate(NamedTuple):
    """An inventory that leads to one export; `export` is where that listens."""

    inventory: Inventory
    bridge: Bridge
    backends: Backends
    export: str

    def say(self, *addresses: str) -> None:
        self.inventory.write({address: {} for address in addresses}, self.backends.port)


@asynccontextmanager
async def estate(folder: Path, block: Mapping[str, Any], *, start: bool = True) -> AsyncIterator[Estate]:
    listen, port = ports.reserve(2)
    inventory = Inventory(folder / "inventory")
    inventory.write({address: {} for address in THREE[:2]}, port)
    address = f"127.0.0.1:{listen}"
    listens = {} if block["kind"] == "nginx" else {"listen": address}
    made = bridge(folder, inventory, {"export": {**block, **listens}})
    async with AsyncExitStack() as stack:
        stack.callback(ports.release, [listen, port])
        some = await stack.enter_async_context(backends(port, *THREE))
        if start:
            await stack.enter_async_context(made)
        yield Estate(inventory, made, some, address)


async def test_traefik_routes_by_what_leads_to_it_and_no_request_fails(tmp_path: Path) -> None:
    block = {"kind": "traefik", "rule": "Host(`{service}.test`)"}
    async with estate(tmp_path, block) as at, AsyncExitStack() as stack:
        with provided():
            proxy = await stack.enter_async_context(Traefik(tmp_path, f"http://{at.export}/traefik"))
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{proxy.port}/", host=f"{SERVICE}.test"))
        await until(lambda: answers(ask), "the first answer")
        async with load(ask) as running:

            async def only(*addresses: str) -> None:
                async def settled() -> bool:
                    return set(await running.more(40)) == set(addresses)

                await until(settled, f"{addresses} answer alone")

            await only(*THREE[:2])
            at.say(*THREE)
            await only(*THREE)
            at.say(*THREE[1:])
            await only(*THREE[1:])
            await at.bridge.kill()
            await running.more(100)
            await at.bridge.start()
            at.inventory.write({}, at.backends.port)
            await until(at.bridge.holds, "the wipe is held")
            assert set(await running.more(100)) == set(THREE[1:])
        assert not running.failed


async def test_nginx_is_reloaded_with_what_leads_to_it_and_no_request_fails(tmp_path: Path) -> None:
    with provided():
        await asyncio.to_thread(nginx.program)
    proxy = Nginx(tmp_path / "nginx")
    block = {
        "kind": "nginx",
        "path": str(proxy.upstreams),
        "test": proxy.test,
        "reload": proxy.reload,
        "at_most_every": "200ms",
    }
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(proxy)
        at = await stack.enter_async_context(estate(tmp_path, block))
        await until(lambda: (proxy.upstreams / f"{SERVICE}.conf").exists(), "the file is there")
        proxy.passes(SERVICE)
        # A connection for each request: those of keep-alive clients nginx closes at a reload.
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{proxy.port}/{SERVICE}", keep=False))
        at.say(*THREE)
        async with load(ask) as until_all_workers_pass:
            await until_all_workers_pass.more(100)
        async with load(ask) as running:

            async def only(*addresses: str) -> None:
                async def settled() -> bool:
                    return set(await running.more(40)) == set(addresses)

                await until(settled, f"{addresses} answer alone")

            await only(*THREE)
            at.say(*THREE[1:])
            await only(*THREE[1:])
            # A file of somebody else that nginx refuses: ours are taken back, and what was served goes on.
            (proxy.upstreams / "broken.conf").write_text("upstream { nonsense }\n")
            before = (proxy.upstreams / f"{SERVICE}.conf").read_bytes()
            at.say(*THREE)

            async def refused() -> bool:
                rows = await at.bridge.ask("clients")
                return bool(rows and rows[0]["refused"])

            await until(refused, "the test's refusal is shown")
            assert (proxy.upstreams / f"{SERVICE}.conf").read_bytes() == before
            (proxy.upstreams / "broken.conf").unlink()
            await only(*THREE)
        assert not running.failed


@asynccontextmanager
async def path_unit(source: Path, result: Path, proxy: Nginx) -> AsyncIterator[None]:
    """What systemd does for isthmus-nginx.path: runs the program when the request was written."""
    words = [source, proxy.upstreams, result, "--test", shlex.join(proxy.test), "--reload", shlex.join(proxy.reload)]
    request, served = source / REQUEST, b""

    async def run() -> None:
        nonlocal served
        while True:
            await asyncio.sleep(0.05)
            if request.exists() and (asked := request.read_bytes()) != served:
                served = asked
                await ended(sys.executable, "-m", "adapters.nginx.apply", *map(str, words))

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nginx_is_told_by_a_path_unit_whose_result_is_shown(tmp_path: Path) -> None:
    with provided():
        await asyncio.to_thread(nginx.program)
    proxy, source, result = Nginx(tmp_path / "nginx"), tmp_path / "handed", tmp_path / "result.json"
    source.mkdir()
    block = {"kind": "nginx", "path": str(source), "result": str(result), "at_most_every": "200ms"}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(proxy)
        await stack.enter_async_context(path_unit(source, result, proxy))
        at = await stack.enter_async_context(estate(tmp_path, block))
        await until(lambda: (proxy.upstreams / f"{SERVICE}.conf").exists(), "the file is there")
        proxy.passes(SERVICE)
        ask = await stack.enter_async_context(over_http(f"http://127.0.0.1:{proxy.port}/{SERVICE}", keep=False))
        at.say(*THREE)
        async with load(ask) as until_it_passes:

            async def all_three() -> bool:
                return set(await until_it_passes.more(40)) == set(THREE)

            await until(all_three)
        (proxy.upstreams / "broken.conf").write_text("upstream { nonsense }\n")
        at.say(THREE[0])

        async def said() -> bool:
            found = (await at.bridge.ask("status"))["attention"]
            return any(one["code"] == "client-refuses" and "broken.conf" in one["text"] for one in found)

        await until(said, "what nginx refused is shown")
        async with load(ask) as running:
            assert set(await running.more(100)) == set(THREE)
            (proxy.upstreams / "broken.conf").unlink()

            async def only() -> bool:
                return set(await running.more(40)) == {THREE[0]}

            await until(only)
        assert not running.failed


async def test_prometheus_finds_its_targets_and_keeps_them_through_restarts(tmp_path: Path) -> None:
    async with estate(tmp_path, {"kind": "prometheus"}) as at:
        scrape = {
            "job_name": "all",
            "http_sd_configs": [{"url": f"http://{at.export}/targets", "refresh_interval": "1s"}],
        }
        with provided():
            server = Prometheus(tmp_path, [scrape], every="5s")

        async def targets() -> set[str]:
            told = await get(f"http://{server.address}/api/v1/targets?state=active")
            return {one["discoveredLabels"]["__address__"] for one in told.json["data"]["activeTargets"]}

        async with server:
            two = {f"{address}:{at.backends.port}" for address in THREE[:2]}

            async def found() -> bool:
                return await targets() == two

            await until(found, "both are found")
            at.say(*THREE)
            two = {f"{address}:{at.backends.port}" for address in THREE}
            await until(found, "all three are found")
            await at.bridge.stop()
            at.inventory.folder.rename(tmp_path / "away")
            await at.bridge.start()

            async def listens() -> bool:
                told = await get(f"http://{at.export}/targets")
                return told.status != 0 and {one for group in told.json for one in group["targets"]} == two

            await until(listens, "the export answers again, and its first answer has all")
            assert await targets() == two


async def test_what_an_export_leaves_is_named_by_footprint(tmp_path: Path) -> None:
    nothing, upstreams = ["true"], tmp_path / "upstreams"
    upstreams.mkdir()
    block = {"kind": "nginx", "path": str(upstreams), "test": nothing, "reload": nothing, "at_most_every": "200ms"}
    async with estate(tmp_path, block) as at:
        await until(lambda: list(upstreams.iterdir()), "the file is there")
        await at.bridge.stop()
        rows = (await at.bridge.isthmus("footprint", "-o", "json")).json
        places = {row["kind"]: row["places"] for row in rows if row["registry"] == "export"}
        (picture,) = places.pop("picture")
        assert Path(picture).exists()
        assert places == {"file": [str(upstreams / f"{SERVICE}.conf")]}
        ran = await at.bridge.isthmus("leave", "export", "--yes")
        assert ran.code == 3 and "goes with the state folder" in ran.out
        said = " ".join(ran.out.split())
        assert "nginx reads it" in said and picture in said
        (upstreams / f"{SERVICE}.conf").unlink()
        assert "nothing of b1 is at export" in (await at.bridge.isthmus("leave", "export", "--yes")).out


async def test_nothing_is_answered_until_all_that_feeds_an_export_is_known(tmp_path: Path) -> None:
    async with estate(tmp_path, {"kind": "prometheus"}, start=False) as at:
        at.bridge.registries["late"] = {"kind": "file", "path": str(tmp_path / "late")}
        at.bridge.links[0]["from"] = ["inventory", "late"]
        at.bridge.links[0]["services"] = {"include": [SERVICE]}
        # What is dark and brings nothing, for its link observes, is not waited for.
        at.bridge.registries["never"] = {"kind": "file", "path": str(tmp_path / "never")}
        at.bridge.links.append(
            {"from": "never", "to": "export", "policy": "observe", "services": {"include": ["other"]}}
        )
        (port,) = ports.reserve(1)
        at.bridge.registries["silent"] = {"kind": "prometheus", "listen": f"127.0.0.1:{port}"}
        at.bridge.links.append({**at.bridge.links[0], "from": "inventory", "to": "silent", "policy": "observe"})
        at.bridge.write()
        async with at.bridge:

            async def names_it() -> bool:
                told = await get(f"http://{at.export}/targets")
                return told.status == 503 and b"late" in told.body

            await until(names_it, "503, with what is missing")
            (tmp_path / "late").mkdir()

            async def answered() -> bool:
                return (await get(f"http://{at.export}/targets")).status == 200

            await until(answered, "an answer")
            # What was complete once is not taken back by a registry that a reload adds.
            at.bridge.registries["later"] = {"kind": "file", "path": str(tmp_path / "later")}
            at.bridge.links[0]["from"] = ["inventory", "late", "later"]
            await at.bridge.hup()
            told = await get(f"http://{at.export}/targets")
            assert told.status == 200
            # Nor by links that turn to observe; where they always did, there is nothing to answer.
            at.bridge.links[0]["policy"] = "observe"
            await at.bridge.hup()
            at.say(*THREE)
            assert await steady(lambda: get(f"http://{at.export}/targets"), 1.0) == told
            assert (await get(f"http://127.0.0.1:{port}/targets")).status == 503
        ports.release([port])


async def test_an_export_goes_on_without_a_source_that_is_gone_for_good(tmp_path: Path) -> None:
    async with estate(tmp_path, {"kind": "prometheus"}, start=False) as at:
        at.bridge.registries["gone"] = {"kind": "file", "path": str(tmp_path / "gone")}
        at.bridge.links[0]["from"] = ["inventory", "gone"]
        at.bridge.write()
        async with at.bridge:

            async def status() -> int:
                return (await get(f"http://{at.export}/targets")).status

            async def waits() -> bool:
                return await status() == 503

            await until(waits, "503")
            done = await at.bridge.isthmus("accept", "gone", "--as-empty", "--yes", "--reason", "it was torn down")
            assert done.code == 0, done.err

            async def answers_now() -> bool:
                return await status() == 200

            await until(answers_now, "an answer")
            assert not await at.bridge.holds()


async def test_an_export_asks_for_its_token_and_says_nothing_without(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    async with estate(tmp_path, {"kind": "prometheus", "token_file": str(token)}) as at:

        async def status(shown: str) -> int:
            return (await get(f"http://{at.export}/targets", Authorization=f"Bearer {shown}")).status

        async def answered() -> bool:
            return await status("first") == 200

        await until(answered, "an answer")
        assert (await get(f"http://{at.export}/targets")).status == 401
        token.write_text("second\n")
        assert (await status("first"), await status("second")) == (401, 200)
