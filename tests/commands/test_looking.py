"""The commands that look: check, plan, diff, services, explain and log change nothing and say what there is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import cast

from tests.commands.conftest import Pair
from tests.kit.natives import Etcd as Natives
from tests.kit.running import Bridge
from tests.kit.waiting import until
from tests.servers import ports
from tests.servers.etcd import Etcd

# The shapes that runbooks rely on: keys are added, never taken away or renamed.
CHECK = {"registries", "links", "names"}
REGISTRY = {"registry", "kind", "reached", "version", "identity", "may_read", "may_write", "services", "ignored"}
PLAN = {"changes", "holds", "not_written", "unreached"}
CHANGE = {"action", "link", "to", "service", "instance", "cause", "held", "before", "after"}
INSTANCE = {"id", "address", "ports"}
DIFFERENCE = {"service", "instance", "field", "difference", "left", "right"}
SERVICE = {
    "registry",
    "scope",
    "service",
    "instances",
    "serving",
    "age",
    "natives",
    "owners",
    "silent",
    "silent_since",
    "origins",
}
STEP = {"step", "at", "service", "instance", "what", "why"}


def etcd_block(server: Etcd, layout: str = "kratos", **more: object) -> dict[str, object]:
    return {"kind": "etcd", "endpoints": [server.url], "layout": layout, **more}


async def test_check_reaches_everything_and_says_who_answers(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.write()
    ran = await pair.bridge.isthmus("check", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.err == ""  # no progress in a pipe
    assert ran.json.keys() >= CHECK
    rows = {row["registry"]: row for row in ran.json["registries"]}
    assert all(row.keys() >= REGISTRY for row in rows.values())
    assert rows["cluster"]["version"].startswith("etcd 3.6")
    assert (rows["cluster"]["may_read"], rows["cluster"]["may_write"]) == (True, True)
    assert rows["inventory"]["services"] == 3
    assert {(one["name"], one["settles"], one["keeps_last"]) for one in rows["cluster"]["consumers"]} == {
        ("kratos", 0.5, True)
    }
    assert all(right["may"] for right in rows["cluster"]["rights"])
    table = await pair.bridge.isthmus("check")
    assert table.code == 0
    assert "REGISTRY" in table.out and "etcd 3.6" in table.out
    said = " ".join(table.out.split())
    assert "may read /microservices/, read and write /microservices/ and /isthmus/" in said
    assert "kratos: follows within 0.5 s: a watch; the last instance is called on for ever" in said
    assert "a transaction has at most 60 changes" in said


async def test_check_writes_nothing(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.write()
    async with Natives(etcd.address) as natives:
        before = await natives.revision()
        assert (await pair.bridge.isthmus("check")).code == 0
        assert (await pair.bridge.isthmus("plan")).code == 3
        assert await natives.revision() == before


async def test_check_counts_the_endpoints_that_only_kratos_can_say(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["inventory"] = etcd_block(etcd)
    pair.bridge.write()
    urls = ["grpc://192.0.2.9:9000", "tcp://:47946"]
    record = json.dumps({"id": "i1", "name": "pay-api", "version": "", "metadata": None, "endpoints": urls})
    async with Natives(etcd.address) as natives:
        await natives.put("/microservices/pay-api/i1", record)
        (link,) = (await pair.bridge.isthmus("check", "-o", "json")).json["links"]
    assert link["lost"] == {"endpoints of other hosts, or without one": 1}


async def test_check_counts_what_is_lost_in_translation(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.write()
    record = {"address": "192.0.2.1", "tags": ["a"], "locality": {"zone": "z1"}, "metadata": {"db_password": "x"}}
    pair.inventory.set("pay-api", i1=record, i2={**record, "address": "192.0.2.2"})
    ran = await pair.bridge.isthmus("check", "-o", "json")
    (link,) = ran.json["links"]
    assert link["lost"]["tags"] == link["lost"]["locality"] == 2
    assert {row["registry"]: row["left_out"] for row in ran.json["registries"]}["inventory"] == 2
    assert '"x"' not in ran.out


async def test_check_says_which_names_meet_and_how(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.write()
    for service in ("pay-same", "pay-over", "pay-apart", "pay-http"):
        pair.inventory.set(service, i1="192.0.2.1", i2="192.0.2.2")
    async with Natives(etcd.address) as natives:
        await natives.register("pay-same", "n1", "192.0.2.1")
        await natives.register("pay-same", "n2", "192.0.2.2")
        await natives.register("pay-over", "n1", "192.0.2.1")
        await natives.register("pay-apart", "n1", "192.0.2.99")
        http = {"id": "n1", "name": "pay-http", "version": "", "metadata": None, "endpoints": ["http://192.0.2.1:9000"]}
        await natives.put("/microservices/pay-http/n1", json.dumps(http))
    ran = await pair.bridge.isthmus("check", "-o", "json")
    assert {row["service"]: row["relation"] for row in ran.json["names"]} == {
        "pay-same": "same addresses",
        "pay-over": "overlapping",
        "pay-apart": "disjoint",
        "pay-http": "other protocol",
    }


async def test_check_fails_where_a_registry_is_out_of_reach_and_shows_the_others(pair: Pair) -> None:
    (free,) = ports.reserve(1)
    pair.bridge.registries["cluster"] = {"kind": "etcd", "endpoints": [f"http://127.0.0.1:{free}"], "layout": "kratos"}
    pair.bridge.write()
    ran = await pair.bridge.isthmus("check", "-o", "json")
    ports.release([free])
    assert ran.code == 1
    rows = {row["registry"]: row for row in ran.json["registries"]}
    assert rows["inventory"]["reached"] is True
    assert rows["cluster"]["reached"] is False
    assert rows["cluster"]["notes"]


async def test_plan_shows_what_would_change_and_then_nothing(pair: Pair) -> None:
    ran = await pair.bridge.isthmus("plan", "-o", "json")
    assert ran.code == 3, ran.err
    assert ran.json.keys() >= PLAN
    assert {(row["action"], row["service"], row["instance"]) for row in ran.json["changes"]} == {
        ("add", service, id)
        for service, ids in {"pay-api": ("i1", "i2", "i3"), "pay-db": ("d1", "d2")}.items()
        for id in ids
    }
    assert all(row.keys() >= CHANGE and row["after"].keys() >= INSTANCE for row in ran.json["changes"])
    assert "pay-api" in (await pair.bridge.isthmus("plan")).out
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    ran = await pair.bridge.isthmus("plan", "-o", "json")
    assert (ran.code, ran.json["changes"]) == (0, [])


async def test_plan_says_what_would_be_held_and_why(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    pair.inventory.unset("pay-db")
    ran = await pair.bridge.isthmus("plan", "-o", "json")
    assert ran.code == 3
    assert {row["instance"]: row["action"] for row in ran.json["changes"]} == {"d1": "remove", "d2": "remove"}
    assert all(row["held"].startswith("last_instance") for row in ran.json["changes"])
    (hold,) = ran.json["holds"]
    assert hold["instances"] == 2
    assert hold["id"] in (await pair.bridge.isthmus("plan")).out


async def test_plan_prints_the_rest_where_one_registry_is_out_of_reach(pair: Pair) -> None:
    (free,) = ports.reserve(1)
    dead = {"kind": "etcd", "endpoints": [f"http://127.0.0.1:{free}"], "layout": "kratos"}
    pair.bridge.registries["dead"] = dead
    pair.bridge.links.append({"from": "inventory", "to": "dead", "policy": "sync", "services": {"include": ["pay-*"]}})
    pair.bridge.write()
    ran = await pair.bridge.isthmus("plan", "-o", "json")
    ports.release([free])
    assert ran.code == 1
    assert len(ran.json["changes"]) == 5
    assert [text.partition(":")[0] for text in ran.json["unreached"]] == ["dead"]
    assert "dead" in ran.err


async def test_what_is_out_of_reach_is_not_called_absent(pair: Pair) -> None:
    pair.inventory.path.rename(pair.inventory.path.with_name("away"))
    ran = await pair.bridge.isthmus("explain", "pay-api/i1")
    assert ran.code == 1
    assert f"out of reach: inventory: No such file or directory: {pair.inventory.path}\n" in ran.err
    ran = await pair.bridge.isthmus("plan")
    assert (ran.code, ran.out) == (1, "nothing to change, as far as can be seen\n")
    assert "no services that can be seen" in (await pair.bridge.isthmus("services")).out


async def test_diff_compares_each_field_but_those_that_the_second_cannot_hold(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.links[0]["services"] = {"include": ["*"]}
    pair.bridge.write()
    pair.inventory.set("pay-api", i1={"address": "192.0.2.1", "tags": ["lost"], "version": "v1"})
    pair.inventory.unset("pay-db")
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    ran = await pair.bridge.isthmus("diff", "inventory", "cluster", "-o", "json")
    assert (ran.code, ran.json) == (0, [])
    assert "equal" in (await pair.bridge.isthmus("diff", "inventory", "cluster")).out
    pair.inventory.set("pay-api", i1={"address": "192.0.2.1", "version": "v2"}, i2="192.0.2.2")
    ran = await pair.bridge.isthmus("diff", "inventory", "cluster", "-o", "json")
    assert ran.code == 3
    assert all(row.keys() >= DIFFERENCE for row in ran.json)
    assert [(row["instance"], row["difference"], row["field"]) for row in ran.json] == [
        ("i1", "differs", "version"),
        ("i2", "only in inventory", ""),
    ]
    table = (await pair.bridge.isthmus("diff", "inventory", "cluster")).out
    assert table.splitlines()[-1].split() == ["pay-api", "i2", "only", "in", "inventory", "192.0.2.2:9000", "-"]
    assert (await pair.bridge.isthmus("diff", "inventory", "nowhere")).code == 2


async def test_one_service_is_shown_side_by_side_whatever_its_name_there(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries |= {"cluster": etcd_block(etcd), "spare": etcd_block(etcd, prefix="/spare/")}
    pair.bridge.links[0] |= {"rename": "new-{name}"}
    pair.bridge.write()
    async with Natives(etcd.address) as natives:
        assert (await pair.bridge.isthmus("run", "--once")).code == 0
        await natives.register("new-pay-api", "native", "192.0.2.99")
        await natives.register("new-shop", "other", "192.0.2.98")
        for name in ("pay-api", "new-pay-api"):
            ran = await pair.bridge.isthmus("services", name, "-o", "json")
            assert ran.code == 0, ran.err
            places = {row["place"]: row for row in ran.json["places"]}
            assert places["inventory"]["services"] == ["pay-api"]
            assert places["cluster"]["services"] == ["new-pay-api"]
            assert (places["cluster"]["natives"], places["cluster"]["owners"]) == (1, {"b1": 3})
            assert places["spare"]["services"] == []
            rows = {row["instance"].partition(":")[0]: row["at"] for row in ran.json["instances"]}
            assert rows["192.0.2.1"]["inventory"][0]["owner"] is None
            assert rows["192.0.2.1"]["cluster"][0]["owner"] == "b1"
            assert rows["192.0.2.99"].keys() == {"cluster"}
        table = (await pair.bridge.isthmus("services", "pay-api")).out
        heads = [line.split() for line in table.splitlines() if line.startswith("INSTANCE")]
        assert heads == [["INSTANCE", "INVENTORY", "CLUSTER"]]
    ran = await pair.bridge.isthmus("services", "nobody")
    assert (ran.code, ran.out) == (3, "")


async def test_of_a_place_that_does_not_answer_nothing_is_called_absent(pair: Pair) -> None:
    (free,) = ports.reserve(1)
    pair.bridge.registries["cluster"] = {"kind": "etcd", "endpoints": [f"http://127.0.0.1:{free}"], "layout": "kratos"}
    pair.bridge.write()
    ran = await pair.bridge.isthmus("services", "pay-api")
    ports.release([free])
    assert ran.code == 0 and "out of reach: cluster" in ran.err
    assert [line.split()[-1] for line in ran.out.splitlines() if line.startswith("192.0.2.1:")] == ["?"]


async def test_services_name_owners_and_those_that_are_silent(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.write()
    async with Natives(etcd.address) as natives, pair.bridge as bridge:
        await natives.register("pay-api", "native", "192.0.2.99")
        await until(bridge.rests, "everything is copied")

        async def row() -> dict[str, object]:
            ran = await bridge.isthmus("services", "-o", "json")
            assert ran.code == 0
            assert all(one.keys() >= SERVICE for one in ran.json)
            found = [one for one in ran.json if (one["registry"], one["service"]) == ("cluster", "pay-api")]
            return dict(found[0])

        now = await row()
        assert (now["instances"], now["serving"], now["natives"]) == (4, 4, 1)
        assert (now["owners"], now["silent"]) == ({"b1": 3}, [])
        await bridge.stop()
        assert (await row())["silent"] == ["b1"]
        assert "pay-api" in (await bridge.isthmus("services")).out


async def test_since_when_an_owner_is_silent_is_what_a_daemon_has_seen(pair: Pair, etcd: Etcd, folder: Path) -> None:
    registries = {**pair.bridge.registries, "core": etcd_block(etcd)}
    into, onward = ({**pair.bridge.links[0], **ends} for ends in ({"to": "core"}, {"from": "core"}))
    old = Bridge(folder, registries, [into], name="old", id="old")
    looks = Bridge(folder, registries, [onward], name="looks", id="looks", resync="1s")

    async def since() -> float | None:
        ran = await looks.isthmus("services", "-o", "json")
        (row,) = [one for one in ran.json if (one["registry"], one["service"]) == ("core", "pay-db")]
        assert row["silent"] == ["old"], row
        return cast("float | None", row["silent_since"]["old"])

    before = time.time()
    assert (await old.isthmus("run", "--once")).code == 0
    assert await since() is None  # silent now, and nobody has looked before
    async with looks:
        seen = await until(since, "the daemon has found it silent")
        assert before < seen < time.time()
        assert await looks.stop() == 0
        await looks.start()
        assert await since() == seen  # the folder remembers it
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seen))
        assert f"old since {clock}" in (await looks.isthmus("services")).out
        async with old:
            await until(old.writes, "it writes again")
            await until(lambda: not (looks.state / "silent.json").read_text().count("old"), "the daemon has heard it")
            await old.stop()
        assert await until(since, "it is silent anew") > seen


async def test_explain_shows_the_way_of_one_instance(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    ran = await pair.bridge.isthmus("explain", "pay-api/i1", "-o", "json")
    assert ran.code == 0
    assert all(row.keys() >= STEP for row in ran.json)
    assert {(row["at"], row["what"]) for row in ran.json} >= {("inventory", "native"), ("cluster", "in step")}
    (native,) = [row for row in ran.json if row["at"] == "inventory"]
    assert "192.0.2.1" in native["raw"] and native["decoded"]["address"] == "192.0.2.1"
    ran = await pair.bridge.isthmus("explain", "shop")
    assert ran.code == 0
    assert "no pattern matches" in ran.out
    ran = await pair.bridge.isthmus("explain", "pay-api/none")
    assert (ran.code, ran.err) == (3, "not found: pay-api/none; `isthmus services` lists what there is\n")


async def test_what_the_target_refused_is_explained_by_what_the_daemon_heard(pair: Pair, etcd: Etcd) -> None:
    pair.bridge.registries["cluster"] = etcd_block(etcd)
    pair.bridge.write()
    large = {"address": "192.0.2.1", "metadata": {"text": "x" * 1_600_000}}
    pair.inventory.set("pay-api", i1=large, i2="192.0.2.2")

    async def explained() -> tuple[str, str]:
        """What is said of it at the target; nothing as long as that is read anew."""
        rows = (await bridge.isthmus("explain", "pay-api/i1", "-o", "json")).json
        said = [(row["what"], row["why"]) for row in rows if row["at"] == "cluster"]
        return said[0] if said else ("", "")

    async with pair.bridge as bridge:

        async def parked() -> bool:
            return bool((await bridge.link())["parked"] == 1)

        await until(parked, "etcd refuses what is longer than it takes")
        what, why = await explained()
        assert (what, "too large" in why) == ("parked", True)
        assert why.startswith("refused by cluster ") and " s ago: " in why
        plan = (await bridge.isthmus("plan", "-o", "json")).json
        (change,) = plan["changes"]
        assert (change["instance"], "too large" in change["held"]) == ("i1", True)
        (row,) = plan["not_written"]
        assert (row["state"], row["instance"], row["age"] >= 0) == ("parked", "i1", True)
        bridge.freeze()
        ran = await bridge.isthmus("explain", "pay-api/i1")
        assert ran.code == 0
        assert "what targets refused is not shown" in ran.err
        bridge.thaw()
        bridge.links[0]["policy"] = "observe"
        await bridge.hup()

        async def is_parked() -> bool:
            return (await explained())[0] == "parked"

        await until(is_parked, "the refusal outlives the reload")
        pair.inventory.set("pay-api", i1={**large, "version": "v2"}, i2="192.0.2.2")

        async def is_new() -> bool:
            return (await explained())[0] == "to be written"

        await until(is_new, "what was refused is another value")


async def test_secrets_are_neither_copied_nor_explained(pair: Pair) -> None:
    pair.inventory.set("pay-api", i1={"address": "192.0.2.1", "metadata": {"api_token": "hunter2", "team": "pay"}})
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    written = "".join(path.read_text() for path in pair.cluster.path.rglob("*.yaml"))
    assert "hunter2" not in written and "team" in written
    ran = await pair.bridge.isthmus("explain", "pay-api", "-o", "json")
    assert "hunter2" not in ran.out
    assert "hunter2" not in (await pair.bridge.isthmus("log", "-o", "json")).out


async def test_log_says_what_was_done_and_why(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.99")
    assert (await pair.bridge.isthmus("run", "--once")).code in (0, 3)
    ran = await pair.bridge.isthmus("log", "--service", "pay-api", "-o", "json")
    assert ran.code == 0
    lines = [(line["kind"], line["instance"], line.get("cause", "")) for line in ran.json]
    assert lines[:3] == [("add", "i1", ""), ("add", "i2", ""), ("add", "i3", "")]
    assert ("update", "i2", "") in lines
    (update,) = [line for line in ran.json if line["kind"] == "update"]
    assert (update["before"]["address"], update["after"]["address"]) == ("192.0.2.2", "192.0.2.99")
    assert (await pair.bridge.isthmus("log", "--since", "nonsense")).code == 2
    assert "192.0.2.99" in (await pair.bridge.isthmus("log", "--since", "2h")).out
