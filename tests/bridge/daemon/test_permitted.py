"""A daemon's commands under `bridge.access`: what is shown to whom, who may decide, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters.memory import Memory
from bridge.admin.protocol import Peer, RefusedError
from bridge.config import load as config
from bridge.config.document import Document
from bridge.daemon.daemon import Daemon
from bridge.errors import ConfigError
from bridge.model import ServiceName
from bridge.state import folder as state
from bridge.state import segments
from tests.kit.builders import instance
from tests.kit.waiting import until

FILE = """
bridge:
  id: b1
  state: STATE
  access:
    - {who: ["user:7001"], services: ["pay-*"], may: [approve]}
    - {who: ["group:7002"], services: ["pay-*"], may: [freeze]}
    - {who: ["user:7003"], may: [freeze, read]}
    - {who: ["user:7004"], may: [admin]}
registries: {vms: {kind: memory}, mesh: {kind: memory}}
links:
  - {name: pay, from: vms, to: mesh, policy: sync, services: {include: ["pay-*"]}}
  - {name: rest, from: vms, to: mesh, policy: sync, services: {include: ["*"], exclude: ["pay-*"]}}
"""
APPROVES, FREEZES, FREEZES_ALL, ADMIN = Peer(7001, 1), Peer(7009, 1, frozenset({7002})), Peer(7003, 1), Peer(7004, 1)
STRANGER = Peer(7005, 1, claimed="root")


class Made:
    """A daemon whose engine runs, asked as its socket asks it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.table = daemon.permitted.table(daemon.commands.table())

    async def ask(self, peer: Peer, command: str, **arguments: Any) -> Any:
        return await self.table[command](arguments, peer)

    async def refused(self, peer: Peer, command: str, **arguments: Any) -> str:
        with pytest.raises(RefusedError) as caught:
            await self.ask(peer, command, **arguments)
        return str(caught.value)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    """Two instances of pay-api and of shop are copied; then all of them go, and the guard holds that, link by link."""
    file = tmp_path / "isthmus.yaml"
    document = Document("isthmus.yaml", FILE.replace("STATE", str(tmp_path / "state")))
    configuration = config.parse(file, document, {}, ephemeral=False)
    with state.opened(tmp_path / "state", "b1") as kept:
        daemon = Daemon(file, configuration, kept)
        async with daemon.engine as engine, daemon._running("journal", daemon.journal.writing.run()):
            vms, mesh = engine.registries["vms"], engine.reconcilers["mesh"].destination
            assert isinstance(vms, Memory)
            names = [ServiceName("pay-api"), ServiceName("shop")]
            for number, name in enumerate(names):
                for id in ("i1", "i2"):
                    vms.store.register(name, instance(id, f"192.0.2.{number}{id[1]}"))
            await until(lambda: sum(map(len, mesh.entries.values())) == 4)
            for name in names:
                for id in ("i1", "i2"):
                    vms.store.deregister(name, id)
            await until(lambda: mesh.holds.count() == 4)
            yield Made(daemon)


async def test_what_may_not_be_read_is_not_shown(made: Made) -> None:
    whole = await made.ask(ADMIN, "holds")
    assert {item[1] for row in whole for item in row["items"]} == {"pay-api", "shop"}
    part = await made.ask(APPROVES, "holds")
    assert {item[1] for row in part for item in row["items"]} == {"pay-api"}
    now = await made.ask(APPROVES, "status")
    assert [(row["link"], row["held"]) for row in now["links"]] == [("pay", 2)]
    held = [(row["subject"], row["count"]) for row in now["attention"] if row["code"] == "changes-held"]
    assert held == [("pay", 2)]
    assert [row["link"] for row in (await made.ask(FREEZES_ALL, "status"))["links"]] == ["pay", "rest"]
    await until(lambda: any(one.kind == "hold" for one in segments.read(made.daemon.state.folder / "journal")))  # type: ignore[operator]
    for peer, services in ((APPROVES, {"pay-api"}), (ADMIN, {"pay-api", "shop"})):
        lines = await made.ask(peer, "log")
        assert {one.service for one in lines if one.service} == services


async def test_a_set_is_approved_by_who_may_approve_every_service_of_it(made: Made) -> None:
    holds = {row["link"]: row["id"] for row in await made.ask(ADMIN, "holds")}
    said = await made.refused(APPROVES, "approve", id=holds["rest"], reason="r")
    assert "needs may: [approve]: every service of the set" in said and "shop" not in said
    await made.refused(FREEZES, "approve", id=holds["pay"], reason="r")
    with pytest.raises(LookupError, match="nothing is held under"):
        await made.ask(APPROVES, "approve", id="no-such-set", reason="r")
    assert len(await made.ask(APPROVES, "approve", id=holds["pay"], reason="r")) == 2
    await made.refused(APPROVES, "expect", subject="shop", lose=1, lasting=60.0, reason="r")
    await made.refused(APPROVES, "expect", subject="vms", lose=1, lasting=60.0, reason="r")
    assert await made.ask(APPROVES, "expect", subject="pay", lose=1, lasting=60.0, reason="r")
    await made.refused(APPROVES, "ack", code="changes-held", subject="rest", lasting=60.0, reason="r")


async def test_a_link_is_frozen_by_who_may_freeze_all_that_it_takes(made: Made) -> None:
    assert await made.ask(FREEZES, "freeze", link="pay", reason="r")
    await made.refused(FREEZES, "freeze", link="rest", reason="r")
    await made.refused(FREEZES_ALL, "freeze", link="*", reason="r")  # also by who may freeze each of them
    assert await made.ask(FREEZES_ALL, "freeze", link="rest", reason="r")
    assert await made.ask(ADMIN, "freeze", link="*", reason="r")
    answer = await made.ask(FREEZES, "unfreeze", link="pay")
    assert {row["service"] for row in answer["pending"]["changes"]} == {"pay-api"}
    await made.refused(FREEZES_ALL, "unfreeze", link="*")


async def test_what_is_of_everything_needs_an_administrator(made: Made) -> None:
    for command, arguments in (
        ("accept", {"subject": "vms", "reason": "r"}),
        ("reload", {}),
        ("permit", {"what": "purge"}),
        ("permit", {"what": "adopt"}),
    ):
        await made.refused(FREEZES_ALL, command, **arguments)
    assert await made.ask(ADMIN, "permit", what="purge")
    await made.refused(APPROVES, "configuration")
    assert await made.ask(FREEZES_ALL, "configuration")


async def test_a_refusal_is_journaled_once_however_often_it_is_asked(made: Made) -> None:
    for _ in range(50):
        await made.refused(STRANGER, "status")
    await made.refused(APPROVES, "reload")

    def lines() -> list[Any]:
        assert made.daemon.state.folder is not None
        return [one for one in segments.read(made.daemon.state.folder / "journal") if one.kind == "refused"]

    await until(lambda: len(lines()) == 2)
    assert "uid=7005" in lines()[0].by and lines()[0].by.endswith("claims='root'")
    assert (lines()[0].reason, lines()[1].reason) == ("status", "reload")


@pytest.mark.parametrize(
    ("access", "fault"),
    [
        ('[{who: ["pay"], may: [read]}]', "who"),
        ('[{who: ["user:a"], may: [write]}]', "may"),
        ('[{who: ["user:a"], may: []}]', "may"),
        ("[{who: [], may: [read]}]", "who"),
        ('[{who: ["user:a"], services: ["pay-*"], may: [admin]}]', "admin is of everything"),
        ('[{who: ["user:a"], services: [" "], may: [read]}]', "services"),
    ],
)
def test_a_rule_that_means_nothing_is_a_fault_of_the_file(access: str, fault: str) -> None:
    text = f"bridge: {{id: b1, access: {access}}}\nregistries: {{vms: {{kind: memory}}}}\n"
    with pytest.raises(ConfigError, match=fault):
        config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)
