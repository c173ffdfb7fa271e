"""What is seen of a move where the registry of the old side has copies of the new one, and both lead to one place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from adapters.memory.server import Store as Server
from bridge.engine import moves
from bridge.engine.engine import Engine
from bridge.migration.block import Migration, Part
from bridge.migration.intent import Intent, Placed, Record
from bridge.migration.phases import Phase, State
from bridge.migration.shares import Fit, Means, Side, attached, fit
from bridge.model import Health, ServiceName
from bridge.plan.doses import Doses, natives_of
from tests.bridge.core import Core
from tests.kit.builders import PAY, instance, link
from tests.kit.waiting import until

VMS, PODS = [f"v{number}" for number in range(1, 5)], [f"p{number}" for number in range(5, 9)]
BLOCK = Migration(name="pay", services=("*",), from_=("vms",), to=("pods",), at=("mesh", "vms"))
ATTACHING = Migration(name="pay", services=("*",), from_=("vms",), to=("pods",), at=("mesh",), attach_at=("pods",))
STATE = State(phase=Phase.SHIFT, step=1, share=50.0, stood=len(VMS))
CART = ServiceName("cart")  # which only the new side has


def intent() -> Intent:
    """Half of the traffic by counts at the old side's registry, and a fifth by weights at the other place."""
    ours = (1.0,) * len(PODS)
    places = {
        "vms": Placed(PAY, fit(0.5, Side(float(len(VMS)), ()), Side(0.0, ours), Means.COUNTS)),
        "mesh": Placed(PAY, fit(0.2, Side(0.0, ours), Side(0.0, ours), Means.BOTH)),
    }
    return Intent(migration="pay", service=PAY, state=STATE, places=places)


@asynccontextmanager
async def estate() -> AsyncIterator[tuple[Core, dict[str, Server]]]:
    """Everything is written."""
    servers = {name: Server(name) for name in ("vms", "pods", "mesh")}
    for name in VMS:
        servers["vms"].register(PAY, instance(name))
    for name in PODS:
        servers["pods"].register(PAY, instance(name))
        servers["pods"].register(CART, instance(name, port=9090))
    doses = Doses([BLOCK])
    doses.heard = lambda _: True
    move = intent()
    doses.follow(Record().with_moves({move.name: move}, {"pay": BLOCK}))
    links = [link("vms", "pods", name="back"), link("mesh", "vms", "pods", name="mesh")]
    async with Core(servers, links, ordering=doses).running() as core:
        await until(lambda: len(servers["vms"].instances(PAY)) == len(VMS) + len(PODS), "the copies stand")
        await core.idle()
        yield core, servers


async def test_copies_of_pods_beside_machines_are_nobody_to_go_back_to() -> None:
    async with estate() as (core, servers):
        engine = cast(Engine, core)
        assert [moves.serving(engine, BLOCK, PAY, part) for part in (Part.OLD, Part.NEW)] == [4, 4]
        assert moves.old_serves(engine, BLOCK, intent())
        for name in VMS:
            servers["vms"].deregister(PAY, name)
        await until(lambda: moves.serving(engine, BLOCK, PAY, Part.OLD) == 0, "the machines are gone")
        assert len(servers["vms"].instances(PAY)) == len(PODS)
        assert not moves.old_serves(engine, BLOCK, intent())


async def test_a_service_that_only_the_new_side_has_is_not_one_to_move() -> None:
    async with estate() as (core, servers):
        assert len(servers["vms"].instances(CART)) == len(PODS)
        assert moves.services(cast(Engine, core), BLOCK) == [PAY]


async def test_a_place_behind_both_sides_has_each_instance_once_and_its_share() -> None:
    async with estate() as (_, servers):
        there = servers["mesh"].instances(PAY)
        weights = {side: sum(one.weight for id, one in there.items() if id[0] == side) for side in "vp"}
        assert len(there) == len(VMS) + len(PODS)
        assert 0.19 < weights["p"] / (weights["p"] + weights["v"]) <= 0.2


async def test_a_machine_that_drains_is_no_one_to_go_back_to_and_may_have_calls() -> None:
    async with estate() as (core, servers):
        engine = cast(Engine, core)
        before = moves.addresses(engine, BLOCK, PAY, Part.OLD)
        for name, health in zip(VMS, (Health.DRAINING, Health.UNHEALTHY, Health.DEGRADED), strict=False):
            servers["vms"].register(PAY, instance(name, health=health))
        await until(lambda: moves.serving(engine, BLOCK, PAY, Part.OLD) == 2, "two serve")
        left = moves.addresses(engine, BLOCK, PAY, Part.OLD)
        assert before - left == {(one.address, port.number) for one in [instance("v2")] for port in one.ports}
        assert left < before


@asynccontextmanager
async def attaching(*stand: str) -> AsyncIterator[tuple[Core, Server, Doses]]:
    """The machines may stand beside the pods in the registry of these, and `stand` of them do; nothing has begun."""
    servers = {name: Server(name) for name in ("vms", "pods")}
    for name in stand:
        servers["vms"].register(PAY, instance(name))
    for name in PODS:
        servers["pods"].register(PAY, instance(name))
    doses = Doses()
    async with Core(servers, [link("pods", "vms", name="beside")], ordering=doses).running() as core:
        await core.idle()
        assert there(servers["pods"]) == {*PODS, *stand}
        doses.regard([ATTACHING])
        for name in VMS:
            servers["vms"].register(PAY, instance(name))
        await core.idle()
        yield core, servers["pods"], doses


def there(server: Server) -> set[str]:
    return {id for id, one in server.instances(PAY).items() if one.serving}


def step(core: Core, share: float | None) -> Fit:
    """Fitted to what stands there now."""
    entries = core.reconcilers["pods"].destination.entries.get(PAY, {})
    natives = natives_of(ATTACHING, "pods", entries, Part.NEW)
    part = None if share is None else share / 100
    return attached(part, Side(0.0, (1.0,) * len(VMS)), Side(float(natives), (), natives), len(entries) - natives)


def say(core: Core, doses: Doses, made: Fit) -> None:
    move = Intent(migration="pay", service=PAY, state=STATE, places={"pods": Placed(PAY, made)})
    doses.follow(Record().with_moves({move.name: move}, {"pay": ATTACHING}))
    core.reconcilers["pods"].poke()


async def test_machines_stand_beside_pods_once_a_step_says_so_and_leave_by_steps() -> None:
    async with attaching() as (core, pods, doses):
        assert there(pods) == {*PODS}
        say(core, doses, step(core, None))
        await core.idle()
        assert there(pods) == {*PODS}
        for share, count in ((0.0, 4), (50.0, 4), (75.0, 2), (100.0, 0)):
            say(core, doses, step(core, share))
            await until(lambda count=count: len(there(pods)) == len(PODS) + count, f"{share} %")
            await core.idle()


async def test_machines_that_stood_beside_pods_before_a_move_begins_stay() -> None:
    async with attaching("v1", "v2") as (core, pods, doses):
        assert there(pods) == {*PODS, "v1", "v2"}
        pods.deregister(PAY, PODS[0])  # something else happens there
        say(core, doses, step(core, None))
        await core.idle()
        assert there(pods) == {*PODS[1:], "v1", "v2"}


async def test_attached_machines_stay_while_the_pods_of_their_step_do_not_serve() -> None:
    async with attaching() as (core, pods, doses):
        say(core, doses, step(core, 50.0))
        await until(lambda: there(pods) == {*PODS, *VMS}, "all stand")
        await core.idle()
        made = step(core, 100.0)
        for name in PODS[1:]:
            pods.register(PAY, instance(name, health=Health.UNHEALTHY))
        entries = core.reconcilers["pods"].destination.entries
        await until(lambda: sum(one.instance.serving for one in entries[PAY].values()) == len(VMS) + 1, "one serves")
        say(core, doses, made)
        await core.idle()
        assert there(pods) == {*VMS, PODS[0]} and not core.reconcilers["pods"].has_written(PAY)
        for name in PODS:
            pods.register(PAY, instance(name))
        await until(lambda: there(pods) == {*PODS}, "the pods serve again, and the machines go")
