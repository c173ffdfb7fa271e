"""`isthmus run --once`: until every link is in step, then stop, and say by the exit code how it went."""

from __future__ import annotations

from tests.commands.conftest import Pair
from tests.servers import ports


async def test_once_copies_everything_and_ends(pair: Pair) -> None:
    ran = await pair.bridge.isthmus("run", "--once")
    assert ran.code == 0, ran.err
    assert pair.copies() == {
        "pay-api": {"192.0.2.1", "192.0.2.2", "192.0.2.3"},
        "pay-db": {"192.0.2.21", "192.0.2.22"},
    }
    assert ran.out == ""


async def test_once_says_that_something_is_held(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    pair.inventory.unset("pay-db")
    ran = await pair.bridge.isthmus("run", "--once")
    assert ran.code == 3, ran.err
    assert pair.copies()["pay-db"] == {"192.0.2.21", "192.0.2.22"}


async def test_once_fails_where_a_registry_is_out_of_reach(pair: Pair) -> None:
    (free,) = ports.reserve(1)
    pair.bridge.registries["cluster"] = {"kind": "etcd", "endpoints": [f"http://127.0.0.1:{free}"], "layout": "kratos"}
    pair.bridge.write()
    ran = await pair.bridge.isthmus("run", "--once")
    assert ran.code == 1
    assert "cluster" in ran.err
    ports.release([free])


async def test_once_refuses_a_file_with_faults(pair: Pair) -> None:
    pair.bridge.links[0]["polcy"] = pair.bridge.links[0].pop("policy")
    pair.bridge.write()
    ran = await pair.bridge.isthmus("run", "--once")
    assert ran.code == 2
    assert "policy" in ran.err and "polcy" in ran.err
    assert pair.copies() == {}


async def test_once_refuses_leased_entries_which_would_die_with_it(pair: Pair) -> None:
    pair.bridge.registries["cluster"] = {"kind": "etcd", "endpoints": ["http://127.0.0.1:9"], "layout": "kratos"}
    pair.bridge.links[0] |= {"lifetime": "leased", "ttl": "2h"}
    pair.bridge.write()
    ran = await pair.bridge.isthmus("run", "--once")
    assert ran.code == 2
    assert "leased" in ran.err
