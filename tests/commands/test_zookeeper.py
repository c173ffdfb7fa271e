"""Commands over ZooKeeper's layouts: what is copied, what is left out, and that each command says so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from kazoo.exceptions import NoNodeError

from tests.kit.natives import Kazoo
from tests.kit.running import Bridge
from tests.servers.zookeeper import ZooKeeper

V = "com.foo.V"
Make = Callable[..., Bridge]


def segment(url: str) -> str:
    return quote(url, safe="-_.*")


@pytest.fixture
async def natives(zookeeper: ZooKeeper) -> AsyncIterator[Kazoo]:
    async with Kazoo(zookeeper.address) as native:
        yield native


@pytest.fixture
async def make(zookeeper: ZooKeeper, folder: Path) -> AsyncIterator[Make]:
    """A bridge from /a to /b in one ZooKeeper, of one layout or two."""
    made: list[Bridge] = []

    def bridge(one: str, other: str = "", **link: Any) -> Bridge:
        registries = {
            name: {"kind": "zookeeper", "hosts": [zookeeper.address], "layout": layout, "root": f"/{name}"}
            for name, layout in (("a", one), ("b", other or one))
        }
        links = [{"from": "a", "to": "b", "policy": "sync", "services": {"include": ["*"]}, **link}]
        made.append(Bridge(folder, registries, links))
        return made[-1]

    yield bridge
    for each in made:
        await each.__aexit__(None)


async def providers(native: Kazoo, root: str) -> set[str]:
    return set(await native.do(native.zk.get_children, f"/{root}/{V}/providers"))


async def test_a_dubbo_url_is_copied_as_it_is_with_its_token_and_none_shows_it(natives: Kazoo, make: Make) -> None:
    urls = [
        f"dubbo://192.0.2.1:20880/{V}?side=provider&token=94eb",
        f"dubbo://2001:db8:0:0:0:0:0:1:20880/{V}?weight=-1&default.version=1.0.0",
        f"dubbo://:@192.0.2.2:20880/{V}?default.group=g&default.weight=0",
        f"dubbo://192.0.2.3/{V}?a=b",
        f"dubbo://192.0.2.4:20880/{V}?enabled=false",
        f"dubbo://192.0.2.5:20880/{V}?version=1.0.0",
        f"tri://192.0.2.5:20880/{V}?version=1.0.0",
        f"dubbo://192.0.2.5:20880/{V}?version=2.0.0",
    ]
    for url in urls:
        await natives.register(f"/a/{V}/providers/{segment(url)}", "")
    native = segment(f"dubbo://192.0.2.5:20880/{V}?version=1.0.0&theirs=1")
    await natives.register(f"/b/{V}/providers/{native}", "")
    bridge = make("dubbo2")
    assert (await bridge.isthmus("run", "--once")).code == 0
    expected = {segment(url) for url in urls if url != urls[5]} | {native}
    assert await providers(natives, "b") == expected
    for command in ("check", "plan", "explain"):
        ran = await bridge.isthmus(command, *([V] if command == "explain" else []), "-o", "json")
        assert "94eb" not in ran.out + ran.err
    assert "shadowed" in json.dumps((await bridge.isthmus("explain", V, "-o", "json")).json)
    assert "94eb" not in "".join(path.read_text() for path in Path(bridge.state).rglob("*.*") if path.is_file())


async def test_what_no_copy_says_is_said_by_check_diff_and_explain(natives: Kazoo, make: Make) -> None:
    url = f"dubbo://me:pw@192.0.2.1:20880/{V}?weight=abc&db.password=x&side=provider"
    await natives.register(f"/a/{V}/providers/{segment(url)}", "")
    bridge = make("dubbo2")
    assert (await bridge.isthmus("run", "--once")).code == 0
    assert await providers(natives, "b") == {segment(f"dubbo://192.0.2.1:20880/{V}?weight=100&side=provider")}
    lost = {"metadata db.password (bridge.secrets)": 1, "user name, weight=abc (no number)": 1}
    (link,) = (await bridge.isthmus("check", "-o", "json")).json["links"]
    assert link["lost"] == lost
    ran = await bridge.isthmus("diff", "a", "b", "-o", "json")
    assert (ran.code, [(row["difference"], row["field"]) for row in ran.json]) == (
        0,
        [("left out", key) for key in lost],
    )
    why = [row["why"] for row in (await bridge.isthmus("explain", V, "-o", "json")).json]
    assert any("without metadata db.password (bridge.secrets), user name" in text for text in why)


async def test_a_disabled_curator_instance_is_disabled_in_the_copy_too(natives: Kazoo, make: Make) -> None:
    record = '{"name":"pay","id":"i1","address":"192.0.2.1","port":80,"registrationTimeUTC":1,"enabled":false}'
    await natives.register("/a/pay/i1", record)
    bridge = make("curator")
    assert (await bridge.isthmus("run", "--once")).code == 0
    value, _ = await natives.do(natives.zk.get, "/b/pay/i1")
    assert json.loads(value)["enabled"] is False


async def test_a_link_that_drops_metadata_keeps_what_readers_act_on(natives: Kazoo, make: Make) -> None:
    url = f"dubbo://192.0.2.1:20880/{V}?side=provider&team=pay&token=94eb"
    await natives.register(f"/a/{V}/providers/{segment(url)}", "")
    bridge = make("dubbo2", metadata="drop")
    assert (await bridge.isthmus("run", "--once")).code == 0
    assert await providers(natives, "b") == {segment(f"dubbo://192.0.2.1:20880/{V}?side=provider&token=94eb")}
    (link,) = (await bridge.isthmus("check", "-o", "json")).json["links"]
    assert link["lost"] == {"metadata": 1}


async def test_what_a_targets_folder_rules_out_is_parked_for_every_command(natives: Kazoo, make: Make) -> None:
    payload = {"@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance", "metadata": {"k": "v"}}
    one = {"name": "pay", "id": "i1", "address": "192.0.2.1", "port": 80, "payload": payload}
    dubbo = {"@class": "org.apache.dubbo.registry.zookeeper.ZookeeperInstance", "metadata": {}}
    await natives.register("/a/pay/i1", json.dumps(one))
    await natives.register("/b/pay/d1", json.dumps({**one, "id": "d1", "address": "192.0.2.9", "payload": dubbo}))
    bridge = make("spring")
    for command in ("plan", "check", "explain"):
        ran = await bridge.isthmus(command, *(["pay"] if command == "explain" else []), "-o", "json")
        assert "holds payload class org.apache.dubbo" in ran.out, command
    assert not (await bridge.isthmus("plan", "-o", "json")).json["changes"]


async def test_a_purge_of_everything_leaves_no_node_of_the_bridge_behind(natives: Kazoo, make: Make) -> None:
    record = '{"name":"pay","id":"i1","address":"192.0.2.1","port":80,"registrationTimeUTC":1}'
    await natives.register("/a/pay/i1", record)
    bridge = make("curator")
    assert (await bridge.isthmus("run", "--once")).code == 0

    def below(path: str = "/isthmus") -> list[str]:
        try:
            return [path, *(one for name in natives.zk.get_children(path) for one in below(f"{path}/{name}"))]
        except NoNodeError:  # the last bridge takes the root along
            return []

    assert "/isthmus/lock/b1" in await natives.do(below)
    assert (await bridge.isthmus("purge", "b", "--including-last", "--yes")).code == 0
    found = await natives.do(below)
    assert not [place for place in found if place.startswith(("/isthmus/lock/", "/isthmus/note/"))]
    # Folders of the ledger are containers, which ZooKeeper itself removes once they are empty.
    assert {place for place in found if place.startswith("/isthmus/ledger/")} <= {
        "/isthmus/ledger/b",
        "/isthmus/ledger/b/pay",
    }
