"""What another tool carries back unmarked is parked as an echo, with both places; natives in their own right flow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Entry
from bridge.config import load as config
from bridge.config.document import Document
from bridge.engine.echoes import Pace
from bridge.engine.engine import Engine
from bridge.model import Instance, Mark, ServiceName
from bridge.plan.echo import LASTS, Written
from bridge.report.explain import explain
from bridge.sources.networks import DEFAULT
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance
from tests.kit.waiting import until

FILE = """
bridge: {id: b1}
registries: {vms: {kind: memory}, mesh: {kind: memory}, cluster: {kind: memory}}
links:
  - {from: vms, to: mesh, policy: sync, services: {include: ["*"]}, guard: &fast {last_instance: pass}}
  - {from: cluster, to: vms, policy: sync, services: {include: ["*"]}, guard: *fast}
"""
SLOW, QUICK = Pace(), Pace(lasts=0.1, every=0.05)
REASON = "echo: mesh has it as pay/i1, written by this bridge; cluster has it unmarked"


class World:
    """Three registries; between mesh and cluster another tool copies, whom the test plays."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def store(self, name: str) -> Store:
        registry = self.engine.registries[name]
        assert isinstance(registry, Memory)
        return registry.store

    async def idle(self) -> None:
        await until(
            lambda: (
                not self.engine.unreached()
                and all(one.idle and one.role == "writer" for one in self.engine.reconcilers.values())
            )
        )

    def parked(self) -> dict[tuple[ServiceName, str], str]:
        return {at: str(reason) for at, reason in self.engine.reconcilers["vms"].destination.parked.items()}


@asynccontextmanager
async def world(text: str = FILE, pace: Pace = SLOW) -> AsyncIterator[World]:
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)
    async with Engine(configuration, events=Record(), echo_pace=pace) as engine:
        yield World(engine)


async def test_what_a_tool_carries_back_is_parked_and_does_not_outlive_its_native() -> None:
    async with world() as here:
        here.store("vms").register(PAY, instance("i1"))
        await until(lambda: "i1" in here.store("mesh").instances(PAY))
        here.store("cluster").register(PAY, instance("k1", address="192.0.2.1"))
        await until(lambda: here.parked() == {(PAY, "k1"): REASON})
        rows = await explain(here.engine, PAY, "k1")
        assert ("parked", REASON) in [(row["what"], row["why"]) for row in rows]
        here.store("vms").deregister(PAY, "i1")
        await until(lambda: not here.store("mesh").instances(PAY))
        await here.idle()
        assert not here.store("vms").instances(PAY)  # the tool is slow: it still has it
        assert here.parked()[PAY, "k1"].startswith("echo: mesh ")
        here.store("cluster").deregister(PAY, "k1")
        await until(lambda: here.parked() == {})
        await here.idle()
        assert not here.store("vms").instances(PAY)


async def test_whoever_is_still_there_when_tools_have_had_their_time_is_sent() -> None:
    async with world(pace=QUICK) as here:
        here.store("vms").register(PAY, instance("i1"))
        await until(lambda: "i1" in here.store("mesh").instances(PAY))
        here.store("cluster").register(PAY, instance("k1", address="192.0.2.1"))
        await until(lambda: bool(here.parked()))
        here.store("vms").deregister(PAY, "i1")
        await until(lambda: here.store("vms").instances(PAY).keys() == {"k1"})


async def test_what_upsert_only_leaves_standing_keeps_nobody_out_for_ever() -> None:
    async with world(FILE.replace("policy: sync", "policy: upsert-only", 1), QUICK) as here:
        here.store("vms").register(PAY, instance("i1"))
        await until(lambda: "i1" in here.store("mesh").instances(PAY))
        here.store("cluster").register(PAY, instance("k1", address="192.0.2.1"))
        await until(lambda: here.parked() == {(PAY, "k1"): REASON})
        here.store("vms").deregister(PAY, "i1")
        await until(lambda: here.store("vms").instances(PAY).keys() == {"k1"})
        assert here.parked() == {}


async def test_other_addresses_and_other_copies_flow() -> None:
    async with world() as here:
        here.store("vms").register(PAY, instance("i1"))
        await until(lambda: "i1" in here.store("mesh").instances(PAY))
        here.store("cluster").register(PAY, instance("k2"))
        foreign = Mark("another bridge", "link", ("elsewhere",), "", PAY, "x3")
        here.store("cluster").register(PAY, instance("k3"), foreign)
        await until(lambda: here.store("vms").instances(PAY).keys() == {"i1", "k2", "k3"})
        await here.idle()
        assert here.parked() == {}


async def test_in_a_ring_everything_goes_round_once() -> None:
    async with world(FILE + '  - {from: mesh, to: cluster, policy: sync, services: {include: ["*"]}}\n') as here:
        for number, name in enumerate(("vms", "mesh", "cluster")):
            here.store(name).register(PAY, instance(f"i{number}"))
        for name in ("vms", "mesh", "cluster"):
            await until(lambda n=name: here.store(n).instances(PAY).keys() == {"i0", "i1", "i2"})
        await here.idle()
        assert all(one.destination.parked == {} for one in here.engine.reconcilers.values())


async def test_where_nothing_can_come_back_nothing_is_kept() -> None:
    both_ways = FILE.replace("from: cluster", "from: mesh").replace(", cluster: {kind: memory}", "")
    async with world(both_ways) as here:
        await here.idle()
        assert all(
            one.destination.inventory.written is None and not one.destination.routing.beyond
            for one in here.engine.reconcilers.values()
        )


def test_what_nothing_may_remove_counts_for_a_while_after_it_has_ended() -> None:
    now = 0.0
    written = Written("mesh", lambda: now)
    one = Entry(instance("i1", address="192.0.2.1"), Mark("b1", "link", ("vms",), "", PAY, "i1"))
    other = Instance("k1", "192.0.2.1", one.instance.ports)
    written.note(PAY, one, {DEFAULT}, gone=False)
    written.leave(PAY, ["i1"])
    now = LASTS - 1.0
    written.leave(PAY, ["i1", "i2"])
    assert written.echo(other, "vms", "cluster", DEFAULT)
    now = LASTS
    assert not written.echo(other, "vms", "cluster", DEFAULT)
    written.sweep()
    written.leave(PAY, [])  # its native is back
    assert written.echo(other, "vms", "cluster", DEFAULT)
    written.leave(PAY, ["i1"])
    now = 2 * LASTS
    written.note(PAY, one, {DEFAULT}, gone=True)  # somebody purged it: it has had its time
    assert not written.echo(other, "vms", "cluster", DEFAULT)


def test_an_address_counts_for_a_while_after_it_is_gone() -> None:
    now = 0.0
    written = Written("mesh", lambda: now)
    mark = Mark("b1", "link", ("vms",), "", PAY, "i1")
    one, renamed = (Entry(instance(id, address="192.0.2.1"), mark) for id in ("i1", "i2"))
    other = Instance("k1", "192.0.2.1", one.instance.ports)
    written.note(PAY, one, {DEFAULT}, gone=False)
    assert written.echo(other, "vms", "cluster", DEFAULT)
    assert not written.echo(other, "elsewhere", "cluster", DEFAULT)
    assert not written.echo(other, "vms", "vms", DEFAULT)
    written.note(PAY, renamed, {DEFAULT}, gone=False)
    written.note(PAY, one, {DEFAULT}, gone=True)
    now = LASTS
    written.sweep()
    assert written.echo(other, "vms", "cluster", DEFAULT)
    written.note(PAY, renamed, {DEFAULT}, gone=True)
    now = 2 * LASTS - 1.0
    assert written.echo(other, "vms", "cluster", DEFAULT)
    now = 2 * LASTS
    assert not written.echo(other, "vms", "cluster", DEFAULT)
