"""What an operator decides beforehand: a new life of a registry is accepted, a loss is stated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Term
from bridge.admin.protocol import Peer
from bridge.config import load as config
from bridge.config.document import Document
from bridge.daemon.audit import Acts
from bridge.daemon.deciding import Deciding
from bridge.engine.engine import Engine
from bridge.model import ServiceName
from bridge.state.decisions import Kind
from bridge.state.folder import State
from bridge.state.journal import Journal
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance
from tests.kit.waiting import until

FILE = """
bridge: {id: b1}
registries: {vms: {kind: memory}, mesh: {kind: memory}}
links:
  - {name: copies, from: vms, to: mesh, policy: sync, services: {include: ["*"]}}
"""
EDGE = """
  - {name: others, from: vms, to: edge, policy: sync, services: {include: ["*"]}}
"""
ME = Peer(0, 1)


class Bridge:
    """An engine, with what its operator decides."""

    def __init__(self, engine: Engine, state: State) -> None:
        self.engine = engine
        self.state = state
        self.deciding = Deciding(engine, state, Acts(Journal(None)))

    def store(self, name: str) -> Store:
        registry = self.engine.registries[name]
        assert isinstance(registry, Memory)
        return registry.store

    @property
    def copies(self) -> set[str]:
        """The ids that stand at the target."""
        return set(self.store("mesh").instances(PAY))

    async def accept(self, **about: Any) -> Any:
        return await self.deciding.accept({"subject": "vms", "reason": "restored"} | about, ME)

    async def expect(self, subject: str, lose: int) -> Any:
        about = {"subject": subject, "lose": lose, "lasting": 60.0, "reason": "moves"}
        return await self.deciding.expect(about, ME)


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    """Twelve instances of one service are copied from vms to mesh."""
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", FILE), {}, ephemeral=True)
    async with Engine(configuration, events=Record()) as engine:
        made = Bridge(engine, State(None))
        for number in range(12):
            made.store("vms").register(PAY, instance(f"i{number}", f"192.0.2.{number}"))
        await until(lambda: len(made.copies) == 12)
        await until(lambda: all(one.idle for one in engine.reconcilers.values()))
        yield made


def held(bridge: Bridge) -> int:
    return bridge.engine.reconcilers["mesh"].destination.holds.count()


async def test_an_accepted_life_takes_away_what_was_shown(bridge: Bridge) -> None:
    for number in range(4):
        bridge.store("vms").deregister(PAY, f"i{number}")
    bridge.store("vms").restore(bridge.store("vms").save(), "another")
    await until(lambda: held(bridge) == 4)
    shown = await bridge.accept()
    assert [row["instance"] for row in shown["removes"]] == ["i0", "i1", "i2", "i3"]
    assert (shown["done"], len(bridge.copies)) == (False, 12)
    with pytest.raises(ValueError, match="something else than was shown"):
        await bridge.accept(sure="another")
    assert (await bridge.accept(sure=shown["id"]))["done"]
    await until(lambda: len(bridge.copies) == 8)
    assert not any(view.doubt for view in bridge.engine.store.views())


def lock(server: Store) -> AbstractAsyncContextManager[Term]:
    """Another host has it."""
    seat = Memory("", server).seat("b1", "")
    assert seat is not None
    return seat.writer()


async def test_a_life_is_accepted_where_some_of_its_copies_are_written_elsewhere() -> None:
    """Each of two hosts writes one destination, and has the other one's copies in sight."""
    servers = {name: Store(name) for name in ("vms", "mesh", "edge")}
    for number in range(12):
        servers["vms"].register(PAY, instance(f"i{number}", f"192.0.2.{number}"))

    def engine() -> Engine:
        file = Document(
            "isthmus.yaml", FILE.replace("mesh: {kind: memory}", "mesh: {kind: memory}, edge: {kind: memory}") + EDGE
        )
        configuration = config.parse(Path("isthmus.yaml"), file, {}, ephemeral=True)
        return Engine(configuration, events=Record(), make=lambda name, *_: Memory(name, servers[name]))

    async with engine(), lock(servers["mesh"]):
        await until(lambda: len(servers["edge"].instances(PAY)) == 12, "one of them is written")
    async with engine() as one, lock(servers["edge"]):
        made = Bridge(one, State(None))
        await until(lambda: len(made.copies) == 12, "and the other one, by another host")
        for number in range(4):
            servers["vms"].deregister(PAY, f"i{number}")
        servers["vms"].restore(servers["vms"].save(), "another")
        await until(lambda: [each.destination.holds.count() for each in one.reconcilers.values()] == [4, 4], "held")
        shown = await made.accept()
        assert {(row["to"], row["instance"]) for row in shown["removes"]} == {("mesh", f"i{n}") for n in range(4)}
        assert (await made.accept(sure=shown["id"]))["done"]
        await until(lambda: len(made.copies) == 8, "what was shown goes")
        assert len(servers["edge"].instances(PAY)) == 12


async def test_a_source_that_is_accepted_as_empty_takes_nothing(bridge: Bridge) -> None:
    bridge.store("vms").empty("another")
    await until(lambda: held(bridge) == 12)
    shown = await bridge.accept(empty=True)
    assert (shown["removes"], shown["keeps"]) == ([], 12)
    await bridge.accept(empty=True, sure=shown["id"])
    await until(lambda: not held(bridge))
    assert len(bridge.copies) == 12
    bridge.store("vms").register(PAY, instance("i0", "198.51.100.1"))
    await until(lambda: bridge.store("mesh").instances(PAY)["i0"].address == "198.51.100.1")
    assert len(bridge.copies) == 12


async def test_what_nobody_doubts_cannot_be_accepted(bridge: Bridge) -> None:
    with pytest.raises(LookupError, match="nothing is doubted of vms"):
        await bridge.accept()
    with pytest.raises(LookupError, match="no registry"):
        await bridge.accept(subject="vmss")


@pytest.mark.parametrize("subject", ["copies", "pay", "vms", "vms/"])
async def test_a_stated_loss_goes_and_no_more_than_that(bridge: Bridge, subject: str) -> None:
    await bridge.expect(subject, 9)
    for number in range(11):
        bridge.store("vms").deregister(PAY, f"i{number}")
    await until(lambda: len(bridge.copies) == 3 and held(bridge) == 2)
    bridge.deciding.apply()
    assert bridge.state.decisions.of(Kind.EXPECTED)[subject].count == 0


async def test_a_stated_loss_never_covers_the_last_instance(bridge: Bridge) -> None:
    await bridge.expect("copies", 50)
    for number in range(12):
        bridge.store("vms").deregister(PAY, f"i{number}")
    await until(lambda: bool(held(bridge)))
    await until(lambda: all(one.idle for one in bridge.engine.reconcilers.values()))
    assert bridge.copies


async def test_a_loss_is_stated_of_something_that_there_is(bridge: Bridge) -> None:
    with pytest.raises(LookupError, match="no link, registry or service"):
        await bridge.expect("payy", 3)
    with pytest.raises(ValueError, match="longer than nothing"):
        await bridge.expect("pay", 0)
    await bridge.expect(str(ServiceName("pay")), 3)
