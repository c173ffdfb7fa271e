"""`set`, `drain` and `unset` as operators give them, on real servers: what stock readers of a registry see of it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.kit import natives
from tests.kit.natives import Folder
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.consul import Consul
from tests.servers.etcd import Etcd

REASON = ("--reason", "CHG-1")


def found(folder: Path) -> Folder:
    inventory = Folder(folder / "inventory")
    inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
    return inventory


def copies(source: Folder, **targets: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    registries = {"inventory": {"kind": "file", "path": str(source.path)}, **targets}
    link = {"from": "inventory", "policy": "sync", "services": {"include": ["*"]}}
    return registries, [{**link, "to": to} for to in targets if to != "keeper"]


def block(etcd: Etcd) -> dict[str, Any]:
    return {"kind": "etcd", "endpoints": [etcd.url], "layout": "kratos"}


async def kratos(etcd: Etcd) -> dict[str, Any]:
    """What a go-kratos client reads of each instance: its metadata, by id."""
    async with natives.Etcd(etcd.address) as client:
        said = [json.loads(text) for text in (await client.records()).values()]
        return {one["id"]: one["metadata"] or {} for one in said}


async def weights(consul: Consul) -> dict[str, int]:
    """The weights in Consul, by address."""

    def ask() -> Any:
        with urllib.request.urlopen(f"{consul.url}/v1/health/service/pay-api?passing=1") as answer:
            return json.load(answer)

    rows = await asyncio.to_thread(ask)
    return {row["Service"]["Address"]: row["Service"]["Weights"]["Passing"] for row in rows}


async def test_what_is_set_outlives_the_daemon_and_unset_brings_the_source_back(
    folder: Path, etcd: Etcd, consul: Consul
) -> None:
    inventory = found(folder)
    targets = {"core": block(etcd), "mesh": {"kind": "consul", "address": consul.url, "datacenters": ["dc1"]}}
    async with Bridge(folder, *copies(inventory, **targets)) as bridge:
        await until(bridge.rests, "everything is copied")
        before = await kratos(etcd)
        ran = await bridge.isthmus("set", "pay-api@inventory/i1", "weight=3", "metadata.env=canary", *REASON)
        assert ran.code == 0 and "of 1 instances" in ran.out
        assert (await bridge.isthmus("set", "pay-api", "weight=2", "--at", "mesh", *REASON)).code == 0
        await until(lambda: _said(etcd, consul), "it is written at both")
        await bridge.kill()
        inventory.set("pay-api", i1="192.0.2.9", i2="192.0.2.2", i3="192.0.2.3")
        await bridge.start()
        await until(lambda: _moved(etcd), "the source is carried on, with what was set")
        await until(bridge.writes, "the locks of the daemon that was killed are gone at both")
        rows = (await bridge.isthmus("overrides", "-o", "json")).json
        assert [(row["of"], row["at"]) for row in rows] == [("pay-api@inventory/i1", ""), ("pay-api", "mesh")]
        assert "override pay-api@inventory/i1: CHG-1" in (await bridge.isthmus("explain", "pay-api", "-o", "json")).out
        for words in (("pay-api@inventory/i1",), ("pay-api", "--at", "mesh")):
            assert (await bridge.isthmus("unset", *words)).code == 0
        await until(lambda: _is(etcd, before), "the source is written again")
        kinds = {row["kind"] for row in (await bridge.isthmus("log", "-o", "json")).json}
        assert kinds >= {"override", "unset"}
        ran = await bridge.isthmus("set", "pay-apu", "weight=2", *REASON)
        assert ran.code == 1 and "of no instance" in ran.err


async def _said(etcd: Etcd, consul: Consul) -> bool:
    one = (await kratos(etcd))["i1"]
    return (
        one.get("weight") == "300"
        and one.get("env") == "canary"
        and await weights(consul)
        == {
            "192.0.2.1": 3,
            "192.0.2.2": 2,
            "192.0.2.3": 2,
        }
    )


async def _moved(etcd: Etcd) -> bool:
    async with natives.Etcd(etcd.address) as client:
        said = {one["id"]: one for one in map(json.loads, (await client.records()).values())}
        return "192.0.2.9" in said["i1"]["endpoints"][0] and said["i1"]["metadata"]["weight"] == "300"


async def _is(etcd: Etcd, before: dict[str, Any]) -> bool:
    return await kratos(etcd) == before


async def test_a_drained_instance_is_left_by_readers_and_the_last_one_is_refused(folder: Path, etcd: Etcd) -> None:
    async with Bridge(folder, *copies(found(folder), core=block(etcd))) as bridge:
        await until(bridge.rests, "everything is copied")
        quick = ("--wait", "--longest", "10ms", "--consumers", "kratos", *REASON)
        ran = await bridge.isthmus("drain", "pay-api/i1", *quick)
        assert ran.code == 0 and "drained: pay-api/i1" in ran.out, ran
        assert (await kratos(etcd)).keys() == {"i2", "i3"}
        assert (await bridge.isthmus("drain", "pay-api/i2", *REASON)).code == 0
        ran = await bridge.isthmus("drain", "pay-api/i3", *REASON)
        assert ran.code == 1 and "--including-last" in ran.err
        ran = await bridge.isthmus("drain", "pay-api/i3", "--including-last", *quick)
        assert ran.code == 3 and "restart: kratos never follows" in ran.err
        assert await kratos(etcd) == {}
        for id in ("i1", "i2", "i3"):
            assert (await bridge.isthmus("unset", f"pay-api/{id}")).code == 0
        await until(lambda: _ids(etcd, {"i1", "i2", "i3"}), "all are back")


async def test_what_is_said_where_all_links_observe_is_told_at_once(folder: Path, etcd: Etcd) -> None:
    registries, links = copies(found(folder), core=block(etcd))
    links[0]["policy"] = "observe"
    async with Bridge(folder, registries, links) as bridge:
        await until(lambda: _plans(bridge, 3), "everything is read")
        for words in (("set", "pay-api/i1", "weight=3"), ("drain", "pay-api/i2", "--wait")):
            ran = await bridge.isthmus(*words, *REASON)
            assert ran.code == 3 and "this host only: what leads to core observes" in ran.err, ran
            assert "not followed" not in ran.err and "drained: " not in ran.out
        assert {row["of"] for row in await bridge.ask("overrides")} == {"pay-api/i1", "pay-api/i2"}
        assert await kratos(etcd) == {}


async def _plans(bridge: Bridge, count: int) -> bool:
    return bool((await bridge.link())["waiting"] == count)


async def _ids(etcd: Etcd, ids: set[str]) -> bool:
    return (await kratos(etcd)).keys() == ids


async def test_what_is_set_at_a_standby_is_written_and_kept_by_who_takes_over(folder: Path, etcd: Etcd) -> None:
    inventory = found(folder)
    one, two = (Bridge(folder, *copies(inventory, core=block(etcd)), name=name) for name in ("one", "two"))
    async with one:
        await until(one.rests, "everything is copied")
        async with two:
            await until(lambda: _stands_by(two), "the second one stands by")
            ran = await two.isthmus("drain", "pay-api/i1", *REASON)
            assert ran.code == 0, ran
            await until(lambda: _ids(etcd, {"i2", "i3"}), "the writer withdraws it")
            await one.stop()
            await until(two.writes, "the second one writes")
            await until(two.rests, "it has done all there is to do")
            assert (await kratos(etcd)).keys() == {"i2", "i3"}
            assert (await two.isthmus("unset", "pay-api/i1")).code == 0
            await until(lambda: _ids(etcd, {"i1", "i2", "i3"}), "it is back")


async def _stands_by(bridge: Bridge) -> bool:
    row = await bridge.link()
    return row["role"] == "standby" and row["writer"] is not None


async def test_what_the_file_takes_away_waits_and_its_weights_do_not(folder: Path, etcd: Etcd) -> None:
    async with Bridge(folder, *copies(found(folder), core=block(etcd))) as bridge:
        await until(bridge.rests, "everything is copied")
        bridge.overrides = [
            {"of": "pay-api/i1", "health": "DRAINING", "reason": "CHG-2"},
            {"of": "pay-api@inventory", "weight": "5"},
        ]
        await bridge.hup()
        assert "overrides[1].weight" in bridge.log  # a number, and no text
        bridge.overrides[1]["weight"] = 5
        await bridge.hup()
        await until(lambda: _held(bridge), "the guard holds it")
        await until(lambda: _weigh(etcd, {"i1": None, "i2": "500", "i3": "500"}), "weights are written")
        await bridge.approve()
        await until(lambda: _ids(etcd, {"i2", "i3"}), "it goes once it is approved")
        await bridge.kill()
        await bridge.start()
        await until(bridge.rests, "nothing is asked again")
        assert (await kratos(etcd)).keys() == {"i2", "i3"}


async def _weigh(etcd: Etcd, wanted: dict[str, str | None]) -> bool:
    return {id: one.get("weight") for id, one in (await kratos(etcd)).items()} == wanted


async def _held(bridge: Bridge) -> bool:
    return [(hold["cause"], hold["instances"]) for hold in await bridge.holds()] == [("config", 1)]


@pytest.mark.parametrize("lent", [True, False])
async def test_at_an_export_it_holds_at_every_daemon_or_is_refused(folder: Path, etcd: Etcd, lent: bool) -> None:
    inventory, hosts = found(folder), ports.reserve(2)
    keeper = {"keeper": block(etcd)} if lent else {}
    one, two = (
        Bridge(
            folder,
            *copies(inventory, sd={"kind": "prometheus", "listen": f"127.0.0.1:{port}"}, **keeper),
            name=name,
            seat="keeper" if lent else None,
        )
        for name, port in zip(("one", "two"), hosts, strict=True)
    )
    async with one, two:
        for port in hosts:
            await until(lambda port=port: _labels(port, {""}), "both serve")
        ran = await one.isthmus("set", "pay-api", "metadata.env=canary", *REASON)
        if not lent:
            assert ran.code == 1 and "bridge.seat" in ran.err
            return
        assert ran.code == 0, ran
        for port in hosts:
            await until(lambda port=port: _labels(port, {"canary"}), "both serve what is said")
        assert (await two.isthmus("unset", "pay-api")).code == 0
        for port in hosts:
            await until(lambda port=port: _labels(port, {""}), "both serve what the source says")


async def _labels(port: int, wanted: set[str]) -> bool:
    """Whether these are the values of the label that comes from the metadata `env`."""

    def ask() -> set[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/targets") as answer:
            labels = [group["labels"] for group in json.load(answer)]
            return {next((text for key, text in one.items() if key.endswith("metadata_env")), "") for one in labels}

    try:
        return await asyncio.to_thread(ask) == wanted
    except OSError:
        return False
