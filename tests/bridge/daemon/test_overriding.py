"""What operators say of instances in the place of their source: seen at the destination, held, ended, refused."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from adapters.memory import Memory
from adapters.memory.server import Store
from bridge.admin.protocol import Peer
from bridge.config import load as config
from bridge.config.document import Document
from bridge.daemon.audit import Acts
from bridge.daemon.overriding import MOST, Overriding
from bridge.engine.engine import Engine
from bridge.guard.limits import Limit
from bridge.model import Health, Instance, ServiceName
from bridge.report.explain import explain
from bridge.state.decisions import Kind
from bridge.state.folder import State
from bridge.state.journal import Journal
from tests.bridge.core import Record
from tests.kit.builders import PAY, instance
from tests.kit.waiting import until

FILE = """
bridge: {id: b1}
registries: {vms: {kind: memory}, pods: {kind: memory}, mesh: {kind: memory}, edge: {kind: memory}}
links:
  - {name: copies, from: [vms, pods], to: mesh, policy: sync, services: {include: ["*"]}}
  - {name: outer, from: vms, to: edge, policy: sync, services: {include: ["*"]}, unhealthy: withdraw}
"""
ME = Peer(0, 1)


class Bridge:
    """An engine, with what its operator says; three instances in `vms`, one in `pods`."""

    def __init__(self, engine: Engine, state: State, said: Overriding) -> None:
        self.engine, self.state, self.said = engine, state, said

    def store(self, name: str) -> Store:
        registry = self.engine.registries[name]
        assert isinstance(registry, Memory)
        return registry.store

    def at(self, name: str) -> dict[str, Instance]:
        return dict(self.store(name).instances(PAY))

    async def set(self, of: str, lasting: float | None = 60.0, **about: Any) -> Any:
        fields = {key: about.pop(key) for key in ("weight", "zone", "health", "metadata") if key in about}
        return await self._settled(
            self.said.set({"of": of, "says": fields, "reason": "CHG-1", "lasting": lasting} | about, ME)
        )

    async def drain(self, of: str, **about: Any) -> Any:
        return await self._settled(self.said.drain({"of": of, "reason": "CHG-2", "lasting": 60.0} | about, ME))

    async def unset(self, of: str, **about: Any) -> Any:
        return await self._settled(self.said.unset({"of": of} | about, ME))

    async def _settled(self, work: Any) -> Any:
        done = await work
        await self.idle()
        return done

    async def idle(self) -> None:
        await until(lambda: all(one.idle for one in self.engine.reconcilers.values()))


@contextlib.asynccontextmanager
async def bridged(most: int = MOST) -> AsyncIterator[Bridge]:
    configuration = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", FILE), {}, ephemeral=True)
    state = State(None)
    said = Overriding(state, Acts(Journal(None)), most=most)
    async with Engine(configuration, events=Record(), orderings=said.orderings) as engine:
        said.attach(engine)
        made = Bridge(engine, state, said)
        for number in range(3):
            made.store("vms").register(PAY, instance(f"i{number}", metadata={"env": "prod"}))
        made.store("pods").register(PAY, instance("p9"))
        await until(lambda: (len(made.at("mesh")), len(made.at("edge"))) == (4, 3))
        await made.idle()
        yield made


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with bridged() as made:
        yield made


async def test_what_is_said_of_a_service_is_written_and_unset_at_once(bridge: Bridge) -> None:
    done = await bridge.set("pay@vms", weight=0.25, zone="eu-1", metadata={"env": "canary"})
    assert done["matches"] == 3 and {row["what"] for row in done["effects"]} == {"written"}
    for place, others in (("mesh", {"p9"}), ("edge", set[str]())):
        for id, one in bridge.at(place).items():
            assert (one.weight, one.locality.zone) == ((1.0, "") if id in others else (0.25, "eu-1"))
    assert bridge.at("mesh")["i0"].metadata == {"env": "canary"}
    await bridge.unset("pay@vms")
    assert bridge.at("mesh")["i0"] == bridge.at("vms")["i0"]


async def test_the_source_is_never_written_and_a_change_there_is_carried_on(bridge: Bridge) -> None:
    await bridge.set("pay@vms/i0", weight=3.0)
    bridge.store("vms").register(PAY, instance("i0", version="v2", weight=7.0, metadata={"env": "prod"}))
    await until(lambda: bridge.at("mesh")["i0"].version == "v2")
    assert bridge.at("mesh")["i0"].weight == 3.0 and bridge.at("vms")["i0"].weight == 7.0


async def test_without_a_registry_it_is_of_each_that_has_the_service(bridge: Bridge) -> None:
    assert (await bridge.set("pay", weight=2.0))["matches"] == 4
    assert {one.weight for one in bridge.at("mesh").values()} == {2.0}


async def test_at_a_destination_it_counts_there_alone(bridge: Bridge) -> None:
    await bridge.set("pay@vms", weight=2.0, at="edge")
    assert {one.weight for one in bridge.at("edge").values()} == {2.0}
    assert {one.weight for one in bridge.at("mesh").values()} == {1.0}


async def test_the_narrower_of_two_counts_and_the_other_says_the_rest(bridge: Bridge) -> None:
    await bridge.set("pay", weight=2.0, zone="eu-1")
    await bridge.set("pay@vms/i1", weight=5.0)
    assert (bridge.at("mesh")["i1"].weight, bridge.at("mesh")["i1"].locality.zone) == (5.0, "eu-1")
    assert bridge.at("mesh")["i2"].weight == 2.0


async def test_what_is_said_again_adds_to_what_was_said_of_the_same(bridge: Bridge) -> None:
    await bridge.set("pay@vms", weight=2.0, metadata={"a": "1"})
    await bridge.set("pay@vms", zone="eu-2", metadata={"b": "2"})
    one = bridge.at("mesh")["i0"]
    assert (one.weight, one.locality.zone, one.metadata) == (2.0, "eu-2", {"env": "prod", "a": "1", "b": "2"})


async def test_a_drain_is_shown_where_it_can_be_and_withdrawn_elsewhere(bridge: Bridge) -> None:
    done = await bridge.drain("pay@vms/i0")
    assert {row["to"]: row["what"] for row in done["effects"]} == {"mesh": "written", "edge": "withdrawn"}
    assert bridge.at("mesh")["i0"].health is Health.DRAINING and bridge.at("edge").keys() == {"i1", "i2"}
    assert not any(one.destination.holds.count() for one in bridge.engine.reconcilers.values())
    assert [(row["kind"], row["pending"], row["held"]) for row in bridge.said.rows()] == [("drain", 0, 0)]
    await bridge.unset("pay@vms/i0")
    assert bridge.at("edge").keys() == {"i0", "i1", "i2"} and bridge.at("mesh")["i0"].serving


async def test_a_drain_is_stronger_than_what_is_set_and_leaves_the_rest_of_it(bridge: Bridge) -> None:
    await bridge.drain("pay@vms/i0")
    await bridge.set("pay@vms/i0", health="UNHEALTHY", weight=2.0)
    one = bridge.at("mesh")["i0"]
    assert (one.health, one.weight) == (Health.DRAINING, 2.0)


async def test_a_weight_of_zero_is_written_as_draining(bridge: Bridge) -> None:
    await bridge.set("pay@vms/i0", weight=0.0)
    assert (bridge.at("mesh")["i0"].health, bridge.at("mesh")["i0"].weight) == (Health.DRAINING, 1.0)


async def test_the_last_that_serves_is_refused_unless_it_is_said(bridge: Bridge) -> None:
    with pytest.raises(ValueError, match="nothing of pay at edge would serve: --including-last"):
        await bridge.drain("pay@vms")
    assert bridge.at("edge").keys() == {"i0", "i1", "i2"} and not bridge.said.rows()
    await bridge.drain("pay@vms", including_last=True)
    assert not bridge.at("edge") and [id for id, one in bridge.at("mesh").items() if one.serving] == ["p9"]


async def test_what_was_said_before_stays_in_force_when_more_is_refused(bridge: Bridge) -> None:
    await bridge.set("pay@vms", weight=2.0)
    with pytest.raises(ValueError, match="including-last"):
        await bridge.set("pay@vms", weight=0.0)
    assert {one.weight for one in bridge.at("edge").values()} == {2.0}


async def test_the_last_one_that_a_drain_meets_later_is_held(bridge: Bridge) -> None:
    await bridge.drain("pay@vms/i0")
    await bridge.drain("pay@vms/i1")
    bridge.store("vms").deregister(PAY, "i2")
    edge = bridge.engine.reconcilers["edge"].destination
    await until(lambda: "i2" in edge.holds.of(PAY))
    assert edge.holds.of(PAY)["i2"].verdict.limit is Limit.LAST_INSTANCE
    assert bridge.at("edge").keys() == {"i2"}


async def test_an_override_on_an_instance_ends_when_that_has_been_away(bridge: Bridge) -> None:
    await bridge.set("pay@vms/i0", weight=5.0)
    await bridge.set("pay@vms", zone="eu-1")
    bridge.store("vms").deregister(PAY, "i0")
    await until(lambda: "i0" not in bridge.at("mesh"))
    bridge.said.apply()
    assert [row["of"] for row in bridge.said.rows()] == ["pay@vms"]
    bridge.store("vms").register(PAY, instance("i0"))
    await until(lambda: "i0" in bridge.at("mesh"))
    assert (bridge.at("mesh")["i0"].weight, bridge.at("mesh")["i0"].locality.zone) == (1.0, "eu-1")


async def test_an_override_on_an_instance_outlives_a_source_out_of_reach(bridge: Bridge) -> None:
    await bridge.set("pay@vms/i0", weight=5.0)
    bridge.store("vms").fail_with(ConnectionError("down"))
    bridge.store("vms").cut()
    await until(lambda: not bridge.engine.store.view("vms", "").up)
    bridge.said.apply()
    assert [row["of"] for row in bridge.said.rows()] == ["pay@vms/i0"]


async def test_what_another_host_decided_counts_within_a_look(bridge: Bridge) -> None:
    await bridge.set("pay@vms", weight=2.0)
    (made,) = bridge.state.decisions.of(Kind.OVERRIDE).values()
    bridge.state.decisions.drop(made.name)
    bridge.said.apply()
    await bridge.idle()
    assert bridge.at("mesh")["i0"].weight == 1.0
    bridge.state.decisions.put(made)
    bridge.said.apply()
    await bridge.idle()
    assert bridge.at("mesh")["i0"].weight == 2.0


async def test_what_is_of_nothing_or_says_nothing_is_refused(bridge: Bridge) -> None:
    for of in ("unknown", "pay@edge", "pay@vms/i7", "pay@vms/"):
        with pytest.raises(LookupError, match="of no instance"):
            await bridge.set(of, weight=2.0)
    with pytest.raises(LookupError, match="no link leads to 'meh'; did you mean mesh"):
        await bridge.set("pay", weight=2.0, at="meh")
    with pytest.raises(ValueError, match="says nothing"):
        await bridge.set("pay")
    with pytest.raises(ValueError, match="secrets"):
        await bridge.set("pay", metadata={"api-token": "x"})
    with pytest.raises(LookupError, match="nothing is said of 'pay'"):
        await bridge.unset("pay")
    for fields in ({"weight": -1.0}, {"health": "HEALTHY"}, {"weight": "nan"}):
        with pytest.raises(ValueError, match=r"Expected|Invalid"):
            await bridge.set("pay", **fields)
    assert not bridge.said.rows()


async def test_what_would_not_fit_is_refused_when_it_is_asked_for() -> None:
    async with bridged(most=2) as bridge:
        await bridge.set("pay@vms/i0", weight=2.0)
        await bridge.set("pay@vms/i1", weight=2.0)
        with pytest.raises(ValueError, match="2 overrides by command"):
            await bridge.set("pay@vms/i2", weight=2.0)
        with pytest.raises(ValueError, match="bytes that hosts can share"):
            await bridge.set("pay@vms/i0", metadata={"k": "x" * 60_000})
        assert len(bridge.said.rows()) == 2 and "k" not in bridge.at("mesh")["i0"].metadata


async def test_explain_says_who_said_what_is_written(bridge: Bridge) -> None:
    await bridge.set("pay@vms/i0", weight=2.0)
    await bridge.drain("pay@vms/i1")
    rows = await explain(bridge.engine, ServiceName("pay"))
    said = {(row["at"], row["instance"], row["what"]): row["why"] for row in rows if row["step"] != "registry"}
    assert "override pay@vms/i0: CHG-1" in said["mesh", "i0", "in step"]
    assert "drain pay@vms/i1: CHG-2" in said["edge", "i1", "left out"]


async def test_what_lasts_for_ever_and_what_ends_soon_is_pointed_out(bridge: Bridge) -> None:
    await bridge.set("pay@vms/i0", weight=2.0, lasting=None)
    await bridge.set("pay@vms/i1", weight=2.0, lasting=86400.0)
    assert [(one.code, one.subject) for one in bridge.said.findings()] == [("override-lasting", "pay@vms/i0")]
    (made,) = (one for key, one in bridge.state.decisions.of(Kind.OVERRIDE).items() if key == "pay@vms/i1")
    assert made.until is not None
    bridge.state.decisions.put(replace(made, at=made.at - 86000.0, until=made.at + 1200.0))
    assert ("override-ends", "pay@vms/i1") in [(one.code, one.subject) for one in bridge.said.findings()]


class History:
    """A random history of sources and operators, drawn from a seed; what must hold is looked at after each step."""

    def __init__(self, bridge: Bridge, seed: int) -> None:
        self.bridge, self.rng, self.said = bridge, random.Random(seed), list[str]()

    async def step(self) -> None:
        draw = self.rng.choice(
            (self._set, self._set, self._drain, self._drain, self._unset, self._come, self._go, self._ail)
        )
        await draw()
        self.bridge.said.apply()
        await self.bridge.idle()
        for place in ("mesh", "edge"):
            serving = [id for id, one in self.bridge.at(place).items() if one.serving]
            assert serving, f"{place} is empty after {self.said}"

    def _of(self) -> str:
        return self.rng.choice(("pay", "pay@vms", "pay@pods/p9", *(f"pay@vms/i{number}" for number in range(3))))

    async def _set(self) -> None:
        fields = self.rng.choice(({"weight": 0.0}, {"weight": 2.5}, {"health": "UNHEALTHY"}, {"zone": "eu-1"}))
        await self._try("set", self._of(), **fields, at=self.rng.choice(("", "mesh", "edge")))

    async def _drain(self) -> None:
        await self._try("drain", self._of(), at=self.rng.choice(("", "", "edge")))

    async def _unset(self) -> None:
        await self._try("unset", self._of())

    async def _try(self, command: str, of: str, **about: Any) -> None:
        with contextlib.suppress(ValueError, LookupError):  # of nothing, or of the last that serves
            self.said.append(f"{command} {of} {about}")
            await getattr(self.bridge, command)(of, **about)

    async def _come(self) -> None:
        await self._source(Health.HEALTHY)

    async def _ail(self) -> None:
        await self._source(Health.UNHEALTHY)

    async def _source(self, health: Health) -> None:
        id = f"i{self.rng.randrange(3)}"
        self.said.append(f"{id} is {health}")
        self.bridge.store("vms").register(PAY, instance(id, health=health))

    async def _go(self) -> None:
        id = f"i{self.rng.randrange(3)}"
        self.said.append(f"{id} ends")
        if id in self.bridge.at("vms"):
            self.bridge.store("vms").deregister(PAY, id)

    async def end(self) -> None:
        """All is taken back, and all instances are there again."""
        for row in self.bridge.said.rows():
            await self._try("unset", row["of"])
        for number in range(3):
            self.bridge.store("vms").register(PAY, instance(f"i{number}"))
        sources = {**self.bridge.at("vms"), **self.bridge.at("pods")}
        await until(lambda: self.bridge.at("mesh") == sources)
        await until(lambda: self.bridge.at("edge") == self.bridge.at("vms"))


@pytest.mark.parametrize("seed", [1, 2, 3, *(pytest.param(one, marks=pytest.mark.soak) for one in range(4, 40))])
async def test_no_history_of_orders_empties_a_service_and_all_end_as_the_source(bridge: Bridge, seed: int) -> None:
    history = History(bridge, seed)
    for _ in range(60):
        await history.step()
    await history.end()
