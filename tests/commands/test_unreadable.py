"""What cannot be read is a state that every command shows, with the record and the reason; it is no silence."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.conftest import Pair
from tests.commands.test_looking import etcd_block
from tests.kit.natives import Etcd as Natives
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers.etcd import Etcd

GOOD = "- {id: i1, address: 192.0.2.1}\n"
BAD = "- {id: i2, address: 192.0.2.999, metadata: {password: hush}}\n"


def _spoil(pair: Pair, *, whole: bool = False) -> Path:
    """pay-broken has one good and one bad record, or is a file that is none."""
    path = pair.inventory.path / "pay-broken.yaml"
    path.write_text("instances: [" if whole else f"instances:\n{GOOD}{BAD}")
    return path


async def test_explain_shows_an_unreadable_record_with_its_place_and_reason(pair: Pair) -> None:
    path = _spoil(pair)
    pair.bridge.write()
    for asked in ("pay-broken", "pay-broken/i2"):
        ran = await pair.bridge.isthmus("explain", asked, "-o", "json")
        assert ran.code == 3
        assert "not found" not in ran.err
        (row,) = [row for row in ran.json if row["what"] == "unreadable"]
        assert (row["step"], row["at"], row["instance"], row["place"]) == ("registry", "inventory", "i2", str(path))
        assert "'192.0.2.999' is neither an IP address nor a host name" in row["why"]
        assert "192.0.2.999" in row["raw"] and "hush" not in ran.out
    assert (await pair.bridge.isthmus("explain", "pay-broken/i1")).code == 0


async def test_a_service_of_which_nothing_can_be_read_is_found_all_the_same(pair: Pair) -> None:
    _spoil(pair, whole=True)
    pair.bridge.write()
    ran = await pair.bridge.isthmus("explain", "pay-broken", "-o", "json")
    assert ran.code == 3
    assert "not found" not in ran.err
    assert [(row["what"], row["raw"]) for row in ran.json if row["step"] == "registry"] == [
        ("unreadable", "instances: [")
    ]
    rows = {row["service"]: row for row in (await pair.bridge.isthmus("services", "-o", "json")).json}
    assert (rows["pay-broken"]["instances"], rows["pay-broken"]["unreadable"]) == (0, 1)
    assert rows["pay-api"]["unreadable"] == 0


async def test_check_plan_and_diff_name_what_cannot_be_read_and_exit_with_3(pair: Pair) -> None:
    pair.bridge.write()
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    for words in (("check",), ("plan",), ("diff", "--link", "inventory-to-cluster")):
        assert (await pair.bridge.isthmus(*words)).code == 0, words
    pair.inventory.set("pay-broken", i1="192.0.2.1")
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    _spoil(pair)
    for words in (("check",), ("plan",)):
        ran = await pair.bridge.isthmus(*words, "-o", "json")
        assert ran.code == 3, words
        (row,) = ran.json["unreadable"]
        assert (row["registry"], row["service"], row["instance"], row["kept"]) == (
            "inventory",
            "pay-broken",
            "i2",
            False,
        )
        assert "neither an IP address" in row["reason"]
        assert "'192.0.2.999' is neither an IP" in (await pair.bridge.isthmus(*words)).out
    for words in (("diff", "inventory", "cluster"), ("diff", "--link", "inventory-to-cluster")):
        ran = await pair.bridge.isthmus(*words, "-o", "json")
        assert ran.code == 3
        found = [row for row in ran.json if row["difference"].startswith("cannot be read in inventory: ")]
        assert [(row["service"], row["instance"]) for row in found] == [("pay-broken", "i2")]


async def test_status_and_the_log_tell_of_it_until_it_can_be_read(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        assert (await bridge.isthmus("status")).code == 0
        path = _spoil(pair)

        async def unreadable() -> int:
            return int((await bridge.scopes())["inventory"]["unreadable"])

        async def seen() -> bool:
            return await unreadable() == 1

        await until(seen, "the record is seen")
        ran = await bridge.isthmus("status", "-o", "json")
        assert ran.code == 3
        (found,) = [row for row in ran.json["attention"] if row["code"] == "records-unreadable"]
        assert (found["level"], found["subject"], found["count"]) == ("act", "inventory", 1)
        assert '"event": "unreadable", "registry": "inventory", "service": "pay-broken"' in bridge.log
        path.write_text(f"instances:\n{GOOD}")

        async def mended() -> bool:
            return await unreadable() == 0

        await until(mended, "it can be read again")
        assert (await bridge.isthmus("status")).code == 0


async def test_a_record_is_found_by_its_key_and_not_by_a_part_of_it(folder: Path, etcd: Etcd) -> None:
    bridge = Bridge(folder, {"a": etcd_block(etcd, "go-zero"), "b": {"kind": "memory"}}, [])
    bridge.write()
    async with Natives(etcd.address) as natives:
        await natives.put("u.rpc/11", "192.0.2.11:1")
        await natives.put("u.rpc/1", "192.0.2.1:11")
        await natives.put("u.rpc/2", "192.0.2.2:1")
        await natives.put("team/u.rpc/1", "192.0.2.3:1")
        rows = {row["instance"]: row for row in (await bridge.isthmus("explain", "u.rpc", "-o", "json")).json}
        nested = await bridge.isthmus("explain", "team/u.rpc/1", "-o", "json")
    await bridge.__aexit__(None)
    assert {id: row["raw"] for id, row in rows.items()} == {
        "1": "192.0.2.1:11",
        "2": "192.0.2.2:1",
        "11": "192.0.2.11:1",
    }
    assert {id: row["place"] for id, row in rows.items()} == {id: f"u.rpc/{id}" for id in rows}
    (row,) = nested.json
    assert (row["service"], row["instance"], row["raw"]) == ("team/u.rpc", "1", "192.0.2.3:1")


async def test_a_link_with_a_port_differs_from_its_target_in_nothing(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd, "kitex")
    pair.bridge.links[0] |= {"port": "9010", "services": {"include": ["pay-two"]}}
    two = {"address": "192.0.2.7", "ports": [{"number": 9000, "name": "http"}, {"number": 9010, "name": "admin"}]}
    pair.inventory.set("pay-two", i1=two)
    pair.bridge.write()
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    (link,) = (await pair.bridge.isthmus("check", "-o", "json")).json["links"]
    assert (link["instances"], link["refused"]) == (1, {})
    ran = await pair.bridge.isthmus("diff", "--link", "inventory-to-cluster")
    assert (ran.code, ran.out) == (0, "equal\n")
    async with Natives(etcd.address) as natives:
        key = "kitex/registry-etcd/pay-two/192.0.2.7:9010"
        record = {"network": "tcp", "address": "192.0.2.7:9010", "weight": 40, "tags": None}
        await natives.put(key, json.dumps(record))
    ran = await pair.bridge.isthmus("diff", "--link", "inventory-to-cluster", "-o", "json")
    assert ran.code == 3
    assert [(row["instance"], row["field"], row["left"], row["right"]) for row in ran.json] == [
        ("192.0.2.7:9010", "weight", 1.0, 4.0)
    ]


async def test_diff_asks_for_two_registries_or_for_a_link(pair: Pair) -> None:
    pair.bridge.write()
    for words in ((), ("inventory",), ("inventory", "cluster", "--link", "x"), ("--link", "nobody")):
        assert (await pair.bridge.isthmus("diff", *words)).code == 2


async def test_check_warns_of_addresses_that_no_other_host_can_dial(pair: Pair) -> None:
    pair.inventory.set("pay-local", i1="127.0.0.1", i2="192.0.2.1")
    pair.bridge.write()
    ran = await pair.bridge.isthmus("check", "-o", "json")
    assert ran.code == 0
    (row,) = [row for row in ran.json["registries"] if row["registry"] == "inventory"]
    assert row["unroutable"] == 1
    assert "warning: 1 address that no other host can dial, e.g. of pay-local/i1: 127.0.0.1 is the loopback" in str(row)
    pair.bridge.links[0]["addresses"] = "routable"
    pair.bridge.write()
    assert (await pair.bridge.isthmus("run", "--once")).code == 3
    ran = await pair.bridge.isthmus("explain", "pay-local/i1", "-o", "json")
    assert ["addresses: routable, and" in row["why"] for row in ran.json if row["what"] == "parked"] == [True]
