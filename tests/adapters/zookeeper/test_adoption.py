"""A native's node becomes ours in place, if it is lasting and still as it was."""

from __future__ import annotations

import pytest

from bridge.errors import Conflict, Rejected
from tests.adapters.zookeeper.conftest import Open
from tests.adapters.zookeeper.lab import curator
from tests.conformance.lab import BRIDGE, PAY, adopt, change, create, instance, owners, refusals, shown, write
from tests.kit.natives import Kazoo
from tests.kit.seated import Seated

NODE = "/services/pay/i1"


@pytest.mark.parametrize("left", [False, True], ids=["nothing beside it", "a ledger node left over"])
async def test_a_lasting_node_of_a_native_is_taken_over_in_place(
    native: Kazoo, open_registry: Open, left: bool
) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        if left:
            await write(sink, create(PAY, instance(1)))
            await native.delete(NODE)
        await native.register(NODE, curator(PAY, instance(1)), ephemeral=False)
        born = (await native.do(native.zk.get, NODE))[1].czxid
        entry = (await shown(sink, PAY))["i1"]
        (ours,) = await write(sink, adopt(PAY, entry, entry.instance))
        assert await shown(sink, PAY) == {"i1": ours}
        assert owners(await sink.held()) == {"i1": BRIDGE}
        assert (await native.do(native.zk.get, NODE))[1].czxid == born
        (ours,) = await write(sink, change(PAY, ours, instance(1, turn="2")))
        await write(sink, change(PAY, ours, None))
        assert await native.do(native.zk.exists, NODE) is None


async def test_a_node_that_changed_or_dies_with_its_native_is_not_taken_over(
    native: Kazoo, open_registry: Open
) -> None:
    sink = Seated(open_registry(), BRIDGE)
    async with sink.writer():
        await native.register(NODE, curator(PAY, instance(1)), ephemeral=False)
        entry = (await shown(sink, PAY))["i1"]
        await native.do(native.zk.set, NODE, curator(PAY, instance(1, turn="2")).encode())
        assert await refusals(sink, adopt(PAY, entry, entry.instance)) == [Conflict]
        await native.register(NODE, curator(PAY, instance(1)))
        entry = (await shown(sink, PAY))["i1"]
        assert await refusals(sink, adopt(PAY, entry, entry.instance)) == [Rejected]
        assert owners(await sink.held()) == {"i1": ""}
