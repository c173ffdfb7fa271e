"""Which services a registry that cannot watch all is asked for, and which of them first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.adapter import Interest
from bridge.admin.protocol import Peer
from bridge.config import load as config
from bridge.config.document import Document
from bridge.daemon.audit import Acts
from bridge.daemon.overriding import Overriding
from bridge.engine.engine import Engine
from bridge.model import ServiceName
from bridge.state.folder import State
from bridge.state.journal import Journal
from tests.bridge.core import Record
from tests.kit.builders import instance
from tests.kit.waiting import until

FILE = """
bridge: {id: b1}
registries: {vms: {kind: memory}, pods: {kind: memory}, mesh: {kind: memory}}
links: [{from: [vms, pods], to: mesh, policy: sync, services: {include: ["pay*"]}}]
overrides:
  - {of: "pay-file@vms", weight: 0.5, reason: r}
  - {of: "other@vms", weight: 0.5, reason: r}
"""


class Asked(Memory):
    """Keeps what it is asked for, as a registry does that watches each service by itself."""

    def __init__(self, name: str) -> None:
        super().__init__(name, Store(name))
        self.turns = 0

    def follow(self, asked: Callable[[str, ServiceName], Interest]) -> None:
        """See `bridge.adapter.Follower`."""
        self._asked, self.turns = asked, self.turns + 1

    def of(self, *names: str, scope: str = "") -> list[str]:
        """How much each service of a scope is asked for."""
        return [self._asked(scope, ServiceName(name)).name for name in names]


def make(name: str, *_: object) -> Any:
    return Asked(name)


async def test_what_a_migration_moves_is_asked_for_first_where_its_sides_are_read() -> None:
    text = FILE.replace("[vms, pods], to: mesh", "[vms/east, vms/west, pods], to: mesh")
    text = text.replace("bridge: {id: b1}", "bridge: {id: b1, seat: mesh}")
    move = "{name: m, services: [pay-moves, only-moves], from: [vms/east], to: [pods], at: [mesh]}"
    configuration = config.parse(
        Path("isthmus.yaml"), Document("isthmus.yaml", f"{text}migrations: [{move}]\n"), {}, ephemeral=True
    )
    async with Engine(configuration, events=Record(), make=make) as engine:
        vms, pods = engine.registries["vms"], engine.registries["pods"]
        assert isinstance(vms, Asked) and isinstance(pods, Asked)
        names = ("pay-moves", "only-moves", "pay-a")
        assert vms.of(*names, scope="east") == ["FIRST", "FIRST", "SOME"]
        assert vms.of(*names, scope="west") == ["SOME", "NONE", "SOME"], "nothing moves there"
        assert pods.of(*names) == ["FIRST", "FIRST", "SOME"]


async def test_what_an_override_is_of_is_asked_for_first() -> None:
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", FILE), {}, ephemeral=True)
    said = Overriding(State(None), Acts(Journal(None)))
    engine = Engine(configuration, events=Record(), make=make, orderings=said.orderings, overridden=said.is_of)
    said.attach(engine)
    async with engine:
        vms, pods = engine.registries["vms"], engine.registries["pods"]
        assert isinstance(vms, Asked) and isinstance(pods, Asked)
        assert vms.of("pay-file", "pay-a", "other") == ["FIRST", "SOME", "NONE"], "no link reads what is called other"
        assert pods.of("pay-file", "pay-a") == ["SOME", "SOME"], "the override is of the other registry"
        vms.store.register(ServiceName("pay-a"), instance("i1"))
        await until(lambda: any(view.services for view in engine.store.views("vms")))
        before = vms.turns
        peer = Peer(0, 1)
        await said.set({"of": "pay-a@vms/i1", "says": {"weight": 2.0}, "reason": "r", "lasting": 60.0}, peer)
        assert vms.turns > before and vms.of("pay-file", "pay-a") == ["FIRST", "FIRST"]
        await said.unset({"of": "pay-a@vms/i1"}, peer)
        assert vms.of("pay-file", "pay-a") == ["FIRST", "SOME"]
