"""Dubbo's rules as a lever, in a real ZooKeeper: merged, compared by version, and taken back."""

from __future__ import annotations

import pytest

from adapters.zookeeper.steering import FOLDER, DubboRules
from bridge.adapter import Steerer
from bridge.errors import Conflict, Rejected
from bridge.model import Instance, Port, ServiceName
from mappings.dubbo_rule import out_by
from tests.adapters.zookeeper.conftest import Open
from tests.kit import stock
from tests.kit.natives import Kazoo

PAY = ServiceName("com.acme.Pay", "g1")
PLACE = f"{FOLDER}/com.acme.Pay:1.0.0:g1.configurators"
THEIRS = b"""# dubbo-admin
configVersion: v2.7
key: g1/com.acme.Pay:1.0.0
enabled: true
configs:
  - {side: provider, addresses: [0.0.0.0], parameters: {timeout: 1000}}
"""


def provider(number: int, version: str = "1.0.0") -> Instance:
    return Instance(f"n{number}", f"192.0.2.{number}", (Port(20880, "", "dubbo"),), version=version)


def levers_of(open_registry: Open, bridge: str = "b1", root: str = "/dubbo") -> DubboRules:
    registry = open_registry(layout="dubbo2", root=root)
    assert isinstance(registry, Steerer)
    levers = registry.levers(bridge)
    assert isinstance(levers, DubboRules)
    return levers


async def value(native: Kazoo, path: str = PLACE) -> bytes:
    found: bytes = (await native.do(native.zk.get, path))[0]
    return found


async def put(levers: DubboRules, *keys: str) -> None:
    before = await levers.lever(PLACE)
    await levers.put(before, levers.set_to(before, PAY, keys))


async def test_a_rule_that_nobody_had_is_made_and_goes_again(open_registry: Open, native: Kazoo) -> None:
    levers = levers_of(open_registry)
    found = await levers.places(PAY, [provider(1), provider(2), provider(3, "2.0")])
    assert found == {
        "192.0.2.1:20880": PLACE,
        "192.0.2.2:20880": PLACE,
        "192.0.2.3:20880": f"{FOLDER}/com.acme.Pay:2.0:g1.configurators",
    }
    await put(levers, "192.0.2.1:20880")
    await put(levers, "192.0.2.1:20880", "192.0.2.2:20880")
    assert out_by(await value(native), "b1") == ["192.0.2.1:20880", "192.0.2.2:20880"]
    await put(levers)
    assert (await levers.lever(PLACE)).content is None
    assert await value(native, FOLDER) == b""


async def test_what_others_wrote_between_is_kept(open_registry: Open, native: Kazoo) -> None:
    levers, other = levers_of(open_registry), levers_of(open_registry, "b2")
    await put(levers, "192.0.2.1:20880")
    await native.do(native.zk.set, PLACE, THEIRS)
    await put(levers, "192.0.2.1:20880")
    await put(other, "192.0.2.2:20880")
    stands = await value(native)
    assert b"timeout: 1000" in stands
    assert (out_by(stands, "b1"), out_by(stands, "b2")) == (["192.0.2.1:20880"], ["192.0.2.2:20880"])
    await put(levers)
    await put(other)
    left = await value(native)
    assert b"timeout: 1000" in left and b"isthmus" not in left


async def test_who_cannot_be_named_alone_is_left_to_its_machine(open_registry: Open, native: Kazoo) -> None:
    levers = levers_of(open_registry)
    for address in ("192.0.2.1", "92.0.2.1", "192.0.2.11"):
        key, value = stock.record("dubbo2", PAY.name, stock.Native(address, address, 20880))
        await native.register(f"/dubbo/{key}", value.decode())
    with pytest.raises(Rejected, match=r"192\.0\.2\.1:20880: a rule with it takes 92\.0\.2\.1:20880 out, too"):
        await levers.places(PAY, [provider(1)])
    assert (await levers.places(PAY, [provider(11)])).keys() == {"192.0.2.11:20880"}


@pytest.mark.parametrize("change", ["written", "made anew", "deleted"])
async def test_what_changes_meanwhile_is_not_written_over(open_registry: Open, native: Kazoo, change: str) -> None:
    levers = levers_of(open_registry)
    await put(levers, "192.0.2.1:20880")
    before = await levers.lever(PLACE)
    if change == "written":
        await native.do(native.zk.set, PLACE, THEIRS)
    else:
        await native.delete(PLACE)
    if change == "made anew":  # with version 0, as the one that was read
        await native.do(native.zk.create, PLACE, THEIRS)
    with pytest.raises(Conflict):
        await levers.put(before, None)
    with pytest.raises(Conflict):
        await levers.put(before, b"anything")


async def test_where_nobody_has_seen_rules_work_none_is_written(open_registry: Open) -> None:
    levers = levers_of(open_registry)
    six = Instance("n6", "2001:db8::1", (Port(20880, "", "dubbo"),))
    with pytest.raises(Rejected, match="stop it at its machine"):
        await levers.places(PAY, [six])
    with pytest.raises(Rejected, match="below /other"):
        await levers_of(open_registry, root="/other").places(PAY, [provider(1)])
    assert open_registry(layout="spring").levers("b1") is None
