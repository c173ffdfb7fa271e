"""The source on a real Consul: what links ask for is watched, with a poll or without one, and nothing else is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.consul import Config, create
from adapters.consul import Consul as Consuls
from adapters.consul.budget import LEAD, LEAST, ROW, Budget, Busy
from adapters.consul.watching import rest
from bridge.adapter import Interest
from bridge.config.document import Document
from bridge.config.load import parse
from bridge.config.schema import Configuration
from bridge.engine.engine import Engine
from bridge.errors import ConfigError
from bridge.model import Health, ServiceName
from tests.adapters.consul.lab import PAY, deregister, register, registry
from tests.bridge.core import Record
from tests.conformance.lab import Watching, watching
from tests.kit.waiting import until
from tests.servers.consul import Consul

CART = ServiceName("cart")
SERVICES = [ServiceName(f"s{number}") for number in range(6)]


def addresses(watch: Watching, name: ServiceName) -> list[str]:
    return sorted(instance.address for instance in watch.service(name).instances.values())


def states(watch: Watching, name: ServiceName) -> set[Health]:
    return {instance.health for instance in watch.service(name).instances.values()}


async def test_only_what_links_ask_for_is_watched(consul: Consul) -> None:
    asked = {PAY}
    await register(consul, "a")
    await register(consul, "b", "cart")
    async with registry(consul) as opened:
        opened.follow(lambda dc, name: Interest(name in asked))
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced)
            assert watch.observed.keys() == {PAY}
            asked.add(CART)
            opened.follow(lambda dc, name: Interest(name in asked))
            await watch.until(lambda: CART in watch.observed)
            asked.remove(CART)
            opened.follow(lambda dc, name: Interest(name in asked))
            await deregister(consul, "b", "cart")
            await register(consul, "c")
            await watch.until(lambda: len(watch.service(PAY).instances) == 2)
            assert addresses(watch, CART)  # nothing is known of it: it was not reported as gone


async def test_a_link_may_read_one_datacenter_alone(consul: Consul) -> None:
    await register(consul, "a")
    async with registry(consul, "dc1", "dc2") as opened:
        opened.follow(lambda dc, name: Interest(dc == "dc2"))
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced)
            assert not watch.observed


async def test_services_without_a_poll_are_seen_a_little_later(consul: Consul) -> None:
    for name in SERVICES:
        await register(consul, "a", name.name)
    async with registry(consul, max_polls=2) as opened, watching(opened.sources["dc1"]) as watch:
        await watch.until(lambda: watch.synced and len(watch.observed) == len(SERVICES))
        for name in SERVICES:
            await register(consul, "a", name.name, status="critical")  # wakes the query for checks alone
        for name in SERVICES:
            await watch.until(lambda n=name: states(watch, n) == {Health.UNHEALTHY})  # type: ignore[misc]
        for name in SERVICES:
            await register(consul, "a", name.name, Address="192.0.2.2")  # wakes the query for the list alone
        for name in SERVICES:
            await watch.until(lambda n=name: addresses(watch, n) == ["192.0.2.2"])  # type: ignore[misc]
        await register(consul, "a", "late")
        await watch.until(lambda: bool(addresses(watch, ServiceName("late"))))
        for name in SERVICES:
            await deregister(consul, "a", name.name)
        for name in SERVICES:
            await watch.until(lambda n=name: addresses(watch, n) == [])  # type: ignore[misc]
        assert addresses(watch, ServiceName("late"))


async def test_what_changes_in_one_service_asks_nothing_about_the_others(consul: Consul) -> None:
    asked: list[ServiceName] = []

    def ask(dc: str, name: ServiceName) -> Interest:
        asked.append(name)
        return Interest.SOME

    for name in SERVICES:
        await register(consul, "a", name.name)
    async with registry(consul) as opened:
        opened.follow(ask)
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced and len(watch.observed) == len(SERVICES))
            await register(consul, "a", SERVICES[0].name, Address="192.0.2.2")
            await watch.until(lambda: addresses(watch, SERVICES[0]) == ["192.0.2.2"])
            asked.clear()
            for number in range(3, 13):  # each answers the query for the list as well
                await register(consul, "a", SERVICES[0].name, Address=f"192.0.2.{number}")
                await watch.until(lambda n=number: addresses(watch, SERVICES[0]) == [f"192.0.2.{n}"])  # type: ignore[misc]
            assert asked == []
            await register(consul, "a", "late")
            await watch.until(lambda: bool(addresses(watch, ServiceName("late"))))
            assert ServiceName("late") in asked


async def test_two_spellings_of_one_name_are_one_service(consul: Consul) -> None:
    await register(consul, "a", "Pay", node="vm1")
    await register(consul, "b", "pay", node="vm2")
    async with registry(consul) as opened:
        opened.follow(lambda dc, name: Interest(name == PAY))
        async with watching(opened.sources["dc1"]) as watch:
            await watch.until(lambda: watch.synced)
            assert {name: sorted(one.service.instances) for name, one in watch.observed.items()} == {
                PAY: ["dc1/vm1/a", "dc1/vm2/b"]
            }


async def test_one_id_on_two_nodes_is_two_instances(consul: Consul) -> None:
    for node in ("vm1", "vm2"):
        await register(consul, "a", node=node)
    async with registry(consul) as opened:
        found = (await opened.sources["dc1"].read(PAY)).service.instances
    assert sorted(found) == ["dc1/vm1/a", "dc1/vm2/a"]


async def test_the_tagged_address_that_the_file_names_is_read(consul: Consul) -> None:
    await register(consul, "a", TaggedAddresses={"lan": {"Address": "198.51.100.7", "Port": 81}})
    async with registry(consul, address_tag="lan", protocol="http") as opened:
        (found,) = (await opened.sources["dc1"].read(PAY)).service.instances.values()
    assert (found.address, found.ports[0].number, found.ports[0].protocol) == ("198.51.100.7", 81, "http")


async def test_a_watch_that_ends_gives_its_polls_back(consul: Consul) -> None:
    for name in SERVICES:
        await register(consul, "a", name.name)
    async with registry(consul) as opened:
        for _ in range(3):
            async with watching(opened.sources["dc1"]) as watch:
                await watch.until(lambda w=watch: w.synced)  # type: ignore[misc]
        assert opened.budget.used == 0


async def test_what_is_asked_for_first_is_polled_though_others_had_all_polls(consul: Consul) -> None:
    for name in SERVICES:
        await register(consul, "a", name.name)
    first: set[ServiceName] = set()

    def asked(dc: str, name: ServiceName) -> Interest:
        return Interest.FIRST if name in first else Interest.SOME

    async with registry(consul, max_polls=2) as opened:
        opened.follow(asked)
        source = opened.sources["dc1"]
        async with watching(source) as watch:
            await watch.until(lambda: watch.synced)
            (polling,) = source._running
            await until(lambda: polling._polls.keys() == {"s0", "s1"}, "there are two polls")
            first |= {SERVICES[4], SERVICES[5]}
            opened.follow(asked)
            assert polling._polls.keys() == {"s4", "s5"}
            await register(consul, "b", "s5", Address="192.0.2.2")
            await watch.until(lambda: len(watch.service(SERVICES[5]).instances) == 2)
            assert polling._polls.keys() == {"s4", "s5"}
            assert opened.budget.used == 2


async def test_what_a_migration_moves_is_polled_before_what_links_alone_read(consul: Consul, folder: Path) -> None:
    """Two polls for six services; a file with a migration of the last one is taken over, and one without any."""
    for name in SERVICES:
        await register(consul, "a", name.name)
    for place in ("pods", "book"):
        (folder / place).mkdir()
    blocks = {
        "bridge": {"id": "b1", "seat": "book"},
        "registries": {
            "vms": {"kind": "consul", "address": consul.url, "datacenters": ["dc1"], "max_polls": 2},
            **{place: {"kind": "file", "path": str(folder / place)} for place in ("pods", "book")},
        },
        "links": [{"from": ["vms", "pods"], "to": "book", "policy": "sync", "services": {"include": ["s*"]}}],
    }
    moves = {"name": "m", "services": ["s5"], "from": ["vms"], "to": ["pods"], "at": ["book"]}

    def file(*migrations: object) -> Configuration:
        document = Document("isthmus.yaml", yaml.safe_dump({**blocks, "migrations": list(migrations)}))
        return parse(folder / "isthmus.yaml", document, {}, ephemeral=True)

    async with Engine(file(), events=Record()) as engine:

        def polled() -> set[str]:
            vms = engine.registries["vms"]
            assert isinstance(vms, Consuls)
            return {name for polling in vms.sources["dc1"]._running for name in polling._polls}

        await until(lambda: polled() == {"s0", "s1"}, "as the list has them")
        await engine.switch(engine.prepare(file(moves)))
        assert "s5" in polled()
        await engine.switch(engine.prepare(file({**moves, "services": ["s3"]})))
        assert "s3" in polled()


@pytest.mark.parametrize(("took", "expected"), [(0.0, 5.0), (0.2, 5.0), (1.0, 20.0), (10.0, 60.0), (300.0, 60.0)])
def test_a_look_at_the_rest_is_rare_and_never_long_in_coming(took: float, expected: float) -> None:
    assert rest(took) == pytest.approx(expected)


def test_a_refused_budget_is_what_was_not_refused_less_a_quarter() -> None:
    budget = Budget(100)
    assert sum(budget.take() for _ in range(60)) == 60
    for _ in range(20):
        budget.give()
        budget.refused(10.0)
    assert budget.lowered
    assert not budget.calm(10.0 + ROW / 2)
    assert budget.calm(10.0 + ROW)
    assert budget.most == 30
    assert budget.exceeded
    for _ in range(40):
        budget.give()
    budget.refused(20.0)
    assert budget.most == LEAST


def test_a_busy_service_takes_the_place_of_a_quiet_one() -> None:
    busy = Busy()
    for _ in range(LEAD - 1):
        busy.saw("a")
        assert busy.quieter("a", ["b", "c"]) is None
    busy.saw("a")
    busy.saw("b")
    assert busy.quieter("a", ["b", "c"]) == "c"
    assert busy.quieter("a", []) is None


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"address": "127.0.0.1:8500"}, "address: '127.0.0.1:8500' is not http://host:port or https://host:port"),
        ({"address": []}, "address: name at least one agent"),
        ({"datacenters": []}, "datacenters: name at least one"),
        ({"datacenters": ["dc1", "dc1"]}, "datacenters.1: 'dc1' is no name of a datacenter, or is there twice"),
        ({"token": "a", "token_file": "b"}, "token: goes without token_file"),
        ({"wait": 0.5}, "wait: should be 1 to 600 seconds"),
        ({"max_polls": 0}, "max_polls: should be 1 or more"),
    ],
)
def test_a_fault_of_the_file_is_named_with_its_key(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        create("core", Config(**{"address": "http://127.0.0.1:1", "datacenters": ["dc1"], **options}), None)
    assert str(raised.value.found[0]) == fault
