"""Two daemons serve one export, each its own picture: what operators decide at one host holds at both."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bridge.errors import IsthmusError
from tests.conftest import StartEtcd
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd
from tests.servers.kubernetes import Kubernetes
from tests.servers.zookeeper import ZooKeeper

LINK = "inventory-to-sd"
HELD = {"confirm_event": "1h", "confirm_absence": "1h"}
SOON = {"confirm_event": "1s", "confirm_absence": "1s"}

_NUMBERS = count()


class Host(NamedTuple):
    """A daemon, and where it answers Prometheus."""

    daemon: Bridge
    port: int

    def served(self) -> list[str]:
        """The addresses that it serves now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/targets") as answer:
            groups = json.load(answer)
        return sorted(target.partition(":")[0] for group in groups for target in group["targets"])

    async def serves(self, *addresses: str) -> bool:
        try:
            return await asyncio.to_thread(self.served) == sorted(addresses)
        except OSError:
            return False

    async def row(self) -> dict[str, Any]:
        return await self.daemon.link(LINK)


class Site(NamedTuple):
    """The source, and the two hosts, which do not run yet."""

    inventory: Folder
    one: Host
    two: Host

    async def both_serve(self, *addresses: str) -> None:
        for host in (self.one, self.two):
            await until(lambda host=host: host.serves(*addresses), f"{host.daemon.file.stem} serves {addresses}")


@pytest.fixture
async def etcd_seat(etcd: Etcd) -> dict[str, Any]:
    return {"kind": "etcd", "endpoints": [f"http://{etcd.address}"], "layout": "kratos"}


@pytest.fixture
async def zookeeper_seat(zookeeper: ZooKeeper) -> dict[str, Any]:
    return {"kind": "zookeeper", "hosts": [zookeeper.address], "layout": "curator", "payload": "map"}


@pytest.fixture
async def consul_seat(consul: Consul) -> dict[str, Any]:
    return {"kind": "consul", "address": consul.url, "datacenters": ["dc1"]}


@pytest.fixture
async def kubernetes_seat(kubernetes: Kubernetes) -> dict[str, Any]:
    namespace = await kubernetes.namespace(f"joint-{next(_NUMBERS)}")
    block = {"kind": "kubernetes", "kubeconfig": str(kubernetes.kubeconfig)}
    return {**block, "namespaces": [namespace], "namespace": namespace}


@pytest.fixture(params=["etcd", "zookeeper", "consul", "kubernetes"])
def seat(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The registry that lends a seat: no link reads it, and none leads there."""
    found: dict[str, Any] = request.getfixturevalue(f"{request.param}_seat")
    return found


def host(folder: Path, inventory: Folder, name: str, guard: Mapping[str, str], seat: Any = None) -> Host:
    (port,) = ports.reserve(1)
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "sd": {"kind": "prometheus", "listen": f"127.0.0.1:{port}"},
        **({"keeper": seat} if seat is not None else {}),
    }
    link = {"from": "inventory", "to": "sd", "policy": "sync", "services": {"include": ["*"]}, "guard": dict(guard)}
    lent = {"seat": "keeper"} if seat is not None else {}
    return Host(Bridge(folder, registries, [link], name=name, **lent), port)


def found(folder: Path) -> Folder:
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    inventory.set("pay-db", d1="192.0.2.3")
    return inventory


@pytest.fixture
def site(seat: dict[str, Any], folder: Path) -> Iterator[Site]:
    inventory = found(folder)
    one, two = (host(folder, inventory, name, HELD, seat) for name in ("one", "two"))
    yield Site(inventory, one, two)
    one.daemon.close()
    two.daemon.close()


async def frozen(at: Host) -> bool:
    return bool((await at.row())["frozen"])


async def flows(at: Host) -> bool:
    return not await frozen(at)


async def holds(at: Host, count: int) -> bool:
    return bool((await at.row())["held"] == count)


async def knows(at: Host, other: Host) -> bool:
    try:
        return [one["pid"] for one in (await at.row())["members"]] == [other.daemon.process.pid]
    except IsthmusError:
        return False


async def test_what_is_decided_at_one_host_of_an_export_holds_at_all(site: Site) -> None:
    one, two = site.one, site.two
    async with one.daemon, two.daemon:
        await site.both_serve("192.0.2.1", "192.0.2.2", "192.0.2.3")
        await until(lambda: knows(one, two), "the first one knows the second")
        await until(lambda: knows(two, one), "the second one knows the first")
        await until(lambda: alike(one), "both serve the same, by their digests")

        (told,) = (await one.daemon.ask("freeze", link=LINK, reason="CHG-7"))["destinations"]
        assert told["followed"] and not told["here_only"]
        assert await frozen(two), "the command returns when all daemons follow"
        site.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i4="192.0.2.4")
        await until(lambda: waits(two), "the second one has seen it")
        assert await two.serves("192.0.2.1", "192.0.2.2", "192.0.2.3")
        await two.daemon.ask("unfreeze", link=LINK)
        assert await flows(one)
        await site.both_serve("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")

        site.inventory.set("pay-db")
        for each in (one, two):
            await until(lambda each=each: holds(each, 1), "it is held")
        (hold,) = await one.daemon.holds()
        assert not (await one.daemon.ask("approve", id=hold["id"], reason="CHG-8"))["here_only"]
        await site.both_serve("192.0.2.1", "192.0.2.2", "192.0.2.4")


async def alike(at: Host) -> bool:
    pictures = (await at.row())["pictures"]
    return len(pictures) == 2 and len(set(pictures.values())) == 1


async def waits(at: Host) -> bool:
    return bool((await at.row())["waiting"])


async def test_a_removal_that_one_host_let_go_is_let_go_by_the_others(etcd_seat: dict[str, Any], folder: Path) -> None:
    inventory = found(folder)
    one, two = host(folder, inventory, "one", SOON, etcd_seat), host(folder, inventory, "two", HELD, etcd_seat)
    site = Site(inventory, one, two)
    async with one.daemon, two.daemon:
        await site.both_serve("192.0.2.1", "192.0.2.2", "192.0.2.3")
        inventory.set("pay-db")
        await until(lambda: holds(two, 1), "the second one holds it for an hour")
        await site.both_serve("192.0.2.1", "192.0.2.2")


async def test_without_a_seat_a_decision_at_an_export_is_of_this_host_only(folder: Path) -> None:
    alone = host(folder, found(folder), "alone", SOON)
    async with alone.daemon:
        await until(lambda: alone.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "it serves")
        ran = await alone.daemon.isthmus("freeze", LINK, "--reason", "CHG-7")
        assert ran.code == 3 and "this host only: sd" in ran.err


async def test_a_freeze_on_a_host_without_daemon_stops_the_export_elsewhere(
    etcd_seat: dict[str, Any], folder: Path
) -> None:
    inventory = found(folder)
    one, two = host(folder, inventory, "one", SOON, etcd_seat), host(folder, inventory, "two", SOON, etcd_seat)
    async with two.daemon:
        await until(lambda: two.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "it serves")
        ran = await one.daemon.isthmus("freeze", LINK, "--reason", "CHG-7")
        assert ran.code == 0, ran.err
        assert await frozen(two)
        async with one.daemon:
            await until(lambda: frozen(one), "and holds where it was given")
            await until(lambda: knows(two, one), "a command waits for the daemons that its own knows")
            assert (await two.daemon.isthmus("unfreeze", LINK)).code == 0
            assert await flows(one)


async def test_an_export_serves_on_while_its_seat_is_out_of_reach(etcd_server: StartEtcd, folder: Path) -> None:
    inventory, server = found(folder), await etcd_server()
    seat = {"kind": "etcd", "endpoints": [f"http://{server.address}"], "layout": "kratos"}
    one = host(folder, inventory, "one", SOON, seat)
    async with one.daemon:
        await until(lambda: one.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "it serves")
        server.freeze()
        inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i4="192.0.2.4")
        await until(lambda: one.serves("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"), "it follows its source")
        ran = await one.daemon.isthmus("freeze", LINK, "--reason", "CHG-7")
        assert ran.code == 1 and "NOT frozen" in ran.err, "nobody knows whether another host follows"
        await one.daemon.stop()
        await one.daemon.start()
        await until(lambda: one.serves("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"), "what it served")
        assert await frozen(one), "what this host knew holds"
        server.thaw()
        await until(lambda: knows_nobody(one), "the seat answers again")


async def knows_nobody(at: Host) -> bool:
    return not (await at.row())["members"]


async def test_services_that_two_hosts_serve_otherwise_are_named(etcd_seat: dict[str, Any], folder: Path) -> None:
    """As where one of them is cut off from a source: here each has a source of its own."""
    inventory, other = found(folder), Folder(folder / "other")
    other.set("pay-api", i1="192.0.2.1", i2="192.0.2.2")
    other.set("pay-db", d1="192.0.2.33")
    one, two = host(folder, inventory, "one", SOON, etcd_seat), host(folder, other, "two", SOON, etcd_seat)
    async with one.daemon, two.daemon:
        for each in (one, two):
            text = await until(lambda each=each: differs(each), "it is said")
            assert "pay-api, pay-db" in text, "of an entry's content its origin is a part"


async def differs(at: Host) -> str:
    rows = (await at.daemon.ask("status"))["attention"]
    return next((row["text"] for row in rows if row["code"] == "pictures-differ" and "pay" in row["text"]), "")


def listening(at: Host, folder: Path) -> int:
    """Has a daemon answer machines, and ask for a token; the port."""
    (port,) = ports.reserve(1)
    (folder / "token").write_text("a token\n")
    at.daemon.bridge |= {"listen": f"127.0.0.1:{port}", "token_file": str(folder / "token")}
    at.daemon.write()
    return port


async def test_a_new_host_is_seeded_by_one_that_runs_and_serves_at_once(
    etcd_seat: dict[str, Any], folder: Path
) -> None:
    inventory = found(folder)
    one, two = host(folder, inventory, "one", SOON, etcd_seat), host(folder, inventory, "two", SOON, etcd_seat)
    for each in (one, two):
        listening(each, folder)
    async with one.daemon:
        await until(lambda: one.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "it serves")
        await until(lambda: alone(one), "it has said that it runs")
        inventory.path.rename(folder / "away")
        async with two.daemon:
            await until(lambda: two.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "with its source away")
            (scope,) = (await two.daemon.scopes()).values()
            assert scope["state"] == "known"


async def alone(at: Host) -> bool:
    return list((await at.row())["pictures"]) == [""]


async def test_seed_fills_an_empty_folder_and_never_one_that_knows_something(folder: Path) -> None:
    inventory = found(folder)
    one, two = host(folder, inventory, "one", SOON), host(folder, inventory, "two", SOON)
    port = listening(one, folder)
    listening(two, folder)
    async with one.daemon:
        await until(lambda: one.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "it serves")
        (folder / "token").write_text("another\n")
        two.daemon.bridge["token_file"] = str(folder / "wrong")
        (folder / "wrong").write_text("wrong\n")
        two.daemon.write()
        ran = await two.daemon.isthmus("seed", "--from", f"127.0.0.1:{port}")
        assert ran.code == 2 and "must be the same there" in ran.err
        (folder / "wrong").write_text("another\n")
        ran = await two.daemon.isthmus("seed", "--from", f"127.0.0.1:{port}")
        assert ran.code == 0 and "exports/sd.sqlite, known/inventory.log" in ran.out, ran
        ran = await two.daemon.isthmus("seed", "--from", f"127.0.0.1:{port}")
        assert ran.code == 2 and "is not empty" in ran.err
    inventory.path.rename(folder / "away")
    async with two.daemon:
        await until(lambda: two.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "with its source away")


async def test_a_loss_that_was_stated_at_one_host_is_counted_once_by_each(
    etcd_seat: dict[str, Any], folder: Path
) -> None:
    inventory = Folder(folder / "inventory")
    everything = {f"i{number}": f"192.0.2.{number}" for number in range(1, 11)}
    inventory.set("pay-api", **everything)
    one, two = host(folder, inventory, "one", HELD, etcd_seat), host(folder, inventory, "two", HELD, etcd_seat)
    async with one.daemon, two.daemon:
        await Site(inventory, one, two).both_serve(*everything.values())
        told = await one.daemon.ask("expect", subject="pay-api", lose=8, lasting=600.0, reason="CHG-9")
        assert told["here_only"] == []
        await until(lambda: left(two, 8), "the second one knows it")
        inventory.set("pay-api", **dict(list(everything.items())[:4]))
        await Site(inventory, one, two).both_serve(*list(everything.values())[:4])
        for each in (one, two):
            await until(lambda each=each: left(each, 2), "six of eight were lost there")


async def left(at: Host, count: int) -> bool:
    return [row["left"] for row in (await at.daemon.ask("status"))["expected"]] == [count]


async def test_an_export_that_never_served_is_silent_while_its_link_is_frozen(folder: Path) -> None:
    alone = host(folder, found(folder), "alone", SOON)
    assert (await alone.daemon.isthmus("freeze", LINK, "--reason", "CHG-7")).code == 3
    async with alone.daemon:
        await until(lambda: waits_for_thaw(alone), "it says what it waits for")
        assert await until(lambda: answered(alone), "it listens") == 503
        await alone.daemon.ask("unfreeze", link=LINK)
        await until(lambda: alone.serves("192.0.2.1", "192.0.2.2", "192.0.2.3"), "it serves")


async def answered(at: Host) -> int:
    """The status of its answer, 0: it does not listen yet."""
    try:
        await asyncio.to_thread(at.served)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200


async def waits_for_thaw(at: Host) -> bool:
    rows = (await at.daemon.ask("status"))["attention"]
    return any(row["code"] == "export-waits" and "which is frozen" in row["text"] for row in rows)
