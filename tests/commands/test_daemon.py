"""The commands beside a running daemon: status, holds, approve, freeze, unfreeze, plan --running, and the reload."""

from __future__ import annotations

from typing import Any

from tests.commands.conftest import Pair
from tests.kit.waiting import steady, until

STATUS = {
    *("bridge", "version", "host", "pid", "started", "file", "configuration", "scopes", "links", "freezes"),
    *("attention", "acknowledged", "last_removals", "state_fault", "journal_dropped"),
}
SCOPE = {"registry", "scope", "state", "age", "identity", "incarnation", "revision", "services", "instances", "doubt"}
LINK = {"link", "from", "to", "policy", "role", "lag", "waiting", "held", "parked", "shadowed", "frozen", "reason"}
HOLD = {"id", "link", "scope", "cause", "rule", "services", "instances", "age", "due_in", "items"}


async def test_status_shows_one_screen_and_says_whether_to_look(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        ran = await bridge.isthmus("status", "-o", "json")
        assert ran.code == 0, ran.err
        assert ran.json.keys() >= STATUS
        assert all(row.keys() >= SCOPE for row in ran.json["scopes"])
        assert all(row.keys() >= LINK for row in ran.json["links"])
        table = await bridge.isthmus("status")
        assert table.code == 0 and "inventory-to-cluster" in table.out
        pair.inventory.path.rename(pair.inventory.path.with_name("away"))
        await until(lambda: _state(pair, "stale"), "the source is stale")
        ran = await bridge.isthmus("status")
        assert ran.code == 3
        assert "act: source-stale inventory" in ran.out


async def _state(pair: Pair, state: str) -> bool:
    return bool((await pair.bridge.scopes())["inventory"]["state"] == state)


async def test_status_holds_and_approve_fail_without_a_daemon(pair: Pair) -> None:
    for words in (("status",), ("holds",), ("approve", "abc", "--reason", "r")):
        ran = await pair.bridge.isthmus(*words)
        assert (ran.code, ran.out) == (1, "")
        assert "no daemon" in ran.err


async def test_what_is_held_is_shown_and_approved_as_exactly_that_set(pair: Pair) -> None:
    async with pair.bridge as bridge:
        bridge.links[0]["guard"] = {"confirm_event": "1h", "confirm_absence": "1h"}
        await bridge.hup()
        await until(pair.copied, "everything is copied")
        pair.inventory.unset("pay-db")
        await until(bridge.holds, "the guard holds it")
        ran = await bridge.isthmus("holds", "-o", "json")
        assert ran.code == 0
        (hold,) = ran.json
        assert hold.keys() >= HOLD
        assert (hold["cause"], hold["instances"]) == ("event", 2)
        assert f"isthmus approve {hold['id']} --reason R" in (await bridge.isthmus("holds")).out
        explained = (await bridge.isthmus("explain", "pay-db", "-o", "json")).json
        assert {row["hold"] for row in explained if row["what"] == "held" and "item" in row} == {hold["id"]}
        assert all(row["why"].startswith(hold["rule"]) for row in explained if "hold" in row)
        ran = await bridge.isthmus("approve", "0123456789ab", "--reason", "wrong")
        assert (ran.code, ran.out) == (1, "")
        assert pair.copies()["pay-db"]
        assert (await bridge.isthmus("approve", hold["id"])).code == 2  # no reason
        ran = await bridge.isthmus("approve", hold["id"], "--reason", "CHG-1")
        assert ran.code == 0
        await until(lambda: not pair.copies().get("pay-db"), "it goes")

        async def approvals() -> list[dict[str, Any]]:
            return [each for each in (await bridge.isthmus("log", "-o", "json")).json if each["kind"] == "approve"]

        (line,) = await until(approvals, "it is in the journal")
        assert "CHG-1" in line["reason"] and "uid=0" in line["by"] and "pid=" in line["by"]


async def test_a_set_that_has_grown_since_it_was_shown_is_refused(pair: Pair) -> None:
    async with pair.bridge as bridge:
        bridge.links[0]["guard"] = {"confirm_event": "1h", "service_share": 0.9, "hard_share": 1}
        await bridge.hup()
        await until(pair.copied, "everything is copied")
        pair.inventory.unset("pay-api", "i1")
        (hold,) = await until(bridge.holds, "the guard holds it")
        pair.inventory.unset("pay-api", "i2")
        await until(lambda: _held(pair, 2), "the set has grown")
        ran = await bridge.isthmus("approve", hold["id"], "--reason", "too late")
        assert ran.code == 1
        assert "grown" in ran.err
        assert len(pair.copies()["pay-api"]) == 3


async def _held(pair: Pair, count: int) -> bool:
    return bool(sum(hold["instances"] for hold in await pair.bridge.holds()) == count)


async def test_an_approval_is_used_once_also_over_a_restart(pair: Pair) -> None:
    async with pair.bridge as bridge:
        bridge.links[0]["guard"] = {"confirm_event": "1h", "confirm_absence": "1h"}
        await bridge.hup()
        await until(pair.copied, "everything is copied")
        pair.inventory.unset("pay-db")
        await until(bridge.holds, "the guard holds it")
        await bridge.approve()
        await until(lambda: not pair.copies().get("pay-db"), "it goes")
        pair.inventory.set("pay-db", d1="192.0.2.21", d2="192.0.2.22")
        await until(pair.copied, "it is back")
        await bridge.stop()
        pair.inventory.unset("pay-db")
        await bridge.start()
        await until(bridge.holds, "the old word does not let it go")
        assert pair.copies()["pay-db"]


async def test_a_freeze_stops_writes_over_reload_and_restart(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        ran = await bridge.isthmus("freeze", "inventory-to-cluster", "--reason", "maintenance", "-o", "json")
        assert ran.code == 0 and ran.json["frozen"] == "inventory-to-cluster"
        await until(lambda: _frozen(pair), "the daemon has seen it")
        assert "frozen inventory-to-cluster: maintenance (by " in (await bridge.isthmus("status")).out
        before = pair.copies()
        pair.inventory.set("pay-api", i1="192.0.2.1", i9="192.0.2.9")
        await bridge.hup()
        assert await _frozen(pair)
        await bridge.stop()
        await bridge.start()
        await until(bridge.writes, "it has the lock")
        assert await _frozen(pair)
        await steady(_copied(pair), 1.5)
        assert pair.copies() == before
        ran = await bridge.isthmus("status")
        assert ran.code == 3 and "maintenance" in ran.out
        ran = await bridge.isthmus("unfreeze", "inventory-to-cluster", "-o", "json")
        assert ran.code == 0
        pending = {(row["action"], row["instance"]) for row in ran.json["pending"]["changes"]}
        assert ("add", "i9") in pending and ("remove", "i2") in pending
        await until(lambda: "192.0.2.9" in pair.copies()["pay-api"], "the pending plan is carried out")
        kinds = [line["kind"] for line in (await bridge.isthmus("log", "-o", "json")).json]
        assert [kind for kind in kinds if "freeze" in kind or kind == "thaw"] == ["freeze", "unfreeze", "thaw"]


async def _frozen(pair: Pair) -> bool:
    return bool((await pair.bridge.link())["frozen"])


def _copied(pair: Pair):  # type: ignore[no-untyped-def]
    async def copies() -> dict[str, set[str]]:
        return pair.copies()

    return copies


async def test_a_freeze_needs_no_daemon_and_ends_by_itself_under_the_guard(pair: Pair) -> None:
    bridge = pair.bridge
    bridge.links[0]["guard"] = {"confirm_event": "1h", "confirm_absence": "1h"}
    bridge.write()
    assert (await bridge.isthmus("run", "--once")).code == 0
    assert (await bridge.isthmus("freeze", "--all", "--reason", "later", "--for", "20s")).code == 0
    pair.inventory.unset("pay-db")
    pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
    await bridge.start()
    await until(lambda: "192.0.2.4" in pair.copies()["pay-api"], "the freeze is over")
    await until(bridge.holds, "the removal is held by the guard")
    assert pair.copies()["pay-db"] == {"192.0.2.21", "192.0.2.22"}
    lines = (await bridge.isthmus("log", "-o", "json")).json
    (line,) = [each for each in lines if each["kind"] == "thaw"]
    assert "1 to add" in line["reason"] and "2 to remove" in line["reason"]
    added = [each for each in lines if each["kind"] == "add" and each["instance"] == "i4"]
    assert [each["seq"] > line["seq"] for each in added] == [True]  # nothing was written before the freeze was over


async def test_freeze_and_unfreeze_refuse_links_that_are_unknown_or_not_frozen(pair: Pair) -> None:
    refused = await pair.bridge.isthmus("unfreeze", "--all")
    assert (refused.code, refused.err) == (1, "--all is not frozen; nothing is\n")
    ran = await pair.bridge.isthmus("freeze", "nonsense", "--reason", "r")
    assert ran.code == 2
    assert "inventory-to-cluster" in ran.err


async def test_plan_running_shows_what_a_reload_would_change(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        ran = await bridge.isthmus("plan", "--running", "-o", "json")
        assert (ran.code, ran.json["file"], ran.json["changes"]) == (0, [], [])
        bridge.links[0]["services"] = {"include": ["pay-api", "shop"]}
        bridge.registries["inventory"]["rescan"] = 5
        bridge.write()
        ran = await bridge.isthmus("plan", "--running", "-o", "json")
        assert ran.code == 3
        assert [(row["what"], row["name"], row["change"], row["keys"]) for row in ran.json["file"]] == [
            ("link", "inventory-to-cluster", "changed", ["services"]),
            ("registry", "inventory", "changed", []),
        ]
        changes = {(row["action"], row["service"], row["cause"], bool(row["held"])) for row in ran.json["changes"]}
        assert changes == {("add", "shop", "", False), ("remove", "pay-db", "config", True)}
        assert "shop" not in pair.copies()


async def test_a_reload_leaves_alone_what_stays_and_holds_what_it_takes_away(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        bridge.links[0]["services"] = {"include": ["pay-api", "shop"]}
        await bridge.hup()
        await until(lambda: pair.copies().get("shop"), "what is new is copied")
        (hold,) = await until(bridge.holds, "what was taken away is held")
        assert (hold["cause"], hold["due_in"]) == ("config", None)
        assert pair.copies()["pay-db"]
        await bridge.approve()
        await until(lambda: not pair.copies().get("pay-db"), "approved, and gone")


async def test_a_bad_file_is_refused_at_a_reload_and_the_old_one_goes_on(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        bridge.write(bridge.file.read_text().replace("policy: sync", "policy: snyc"))
        await bridge.hup_as_it_is()
        assert "snyc" in bridge.log
        assert "refused" in bridge.log
        pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
        await until(lambda: "192.0.2.4" in pair.copies()["pay-api"], "it goes on")


async def test_a_broken_file_at_the_start_runs_the_last_accepted_one_loudly(pair: Pair) -> None:
    bridge = pair.bridge
    await bridge.start()
    await until(pair.copied, "everything is copied")
    await bridge.stop()
    bridge.write("bridge:\n  id: b1\n  state: bridge.state\nlinks: [\n")
    pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
    await bridge.start()
    await until(lambda: "192.0.2.4" in pair.copies()["pay-api"], "it runs")
    assert '"critical"' in bridge.log and "last accepted" in bridge.log


async def test_a_broken_file_at_the_first_start_is_exit_code_2(pair: Pair) -> None:
    pair.bridge.write("bridge: {id: b1\n")
    ran = await pair.bridge.isthmus("run")
    assert ran.code == 2
    assert "bridge.yaml" in ran.err


async def test_another_bridge_id_over_the_same_state_says_how_to_hand_over(pair: Pair) -> None:
    bridge = pair.bridge
    assert (await bridge.isthmus("run", "--once")).code == 0
    bridge.bridge["id"] = "b2"
    bridge.write()
    ran = await bridge.isthmus("run")
    assert ran.code == 2
    assert "'b1'" in ran.err and "purge" in ran.err and "--owner b1" in ran.err


async def test_a_trouble_has_code_and_commands_and_is_silent_once_it_is_known(pair: Pair) -> None:
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        (row,) = (await bridge.isthmus("members", "-o", "json")).json
        assert (row["to"], row["role"], row["here"]) == ("cluster", "writer", True)
        assert (await bridge.isthmus("freeze", "inventory-to-cluster", "--reason", "maintenance")).code == 0
        await until(lambda: _frozen(pair), "the daemon has seen it")
        ran = await bridge.isthmus("status")
        assert ran.code == 3
        assert "act: link-frozen inventory-to-cluster" in ran.out and "isthmus unfreeze inventory-to-cluster" in ran.out
        ran = await bridge.isthmus("ack", "link-frozen", "inventory-to-cluster", "--for", "1h", "--reason", "CHG-2")
        assert ran.code == 0, ran.err
        ran = await bridge.isthmus("status")
        assert ran.code == 0 and "known: link-frozen inventory-to-cluster: CHG-2" in ran.out
        assert all(len(line) <= 100 for line in ran.out.splitlines() if not line.startswith(("b1 ", "known", "frozen")))
        assert (await bridge.isthmus("ack", "link-frozn", "x", "--reason", "r")).code == 2
        assert (await bridge.isthmus("ack", "file-differs", "x", "--reason", "r")).code == 1


async def test_a_stopped_daemon_does_not_hang_its_status(pair: Pair) -> None:
    async with pair.bridge as bridge:
        bridge.freeze()
        ran = await bridge.isthmus("status")
        bridge.thaw()
        assert ran.code == 1 and "has not answered for 5 s; is it stopped?" in ran.err


async def test_a_link_that_observes_says_what_it_would_have_done(pair: Pair) -> None:
    pair.bridge.links[0]["policy"] = "observe"
    pair.bridge.write()
    async with pair.bridge as bridge:
        await until(lambda: _planned(pair), "all is planned")
        pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3", i4="192.0.2.4")
        await until(lambda: _would(pair, ("add", "i4")), "the add is told")
        pair.inventory.unset("pay-db")
        await until(lambda: _would(pair, ("remove", "d1"), ("remove", "d2")), "the removals are told")
        assert pair.copies() == {}
        assert all(not line["kind"].startswith("add") for line in (await bridge.isthmus("log", "-o", "json")).json)
        assert (await bridge.ask("status"))["last_removals"] == []
        ran = await bridge.isthmus("log", "--would", "--since", "7d", "--summary", "-o", "json")
        (day,) = ran.json["days"]
        assert (day["add"], day["remove"]) == (1, 2)
        assert (ran.json["guard"][0]["source_count"], ran.json["guard"][0]["last_instance"]) == (
            1,
            "pass",
        )  # the add counts against the removals
        assert (await bridge.isthmus("log", "--summary")).code == 2


async def _would(pair: Pair, *wanted: tuple[str, str]) -> bool:
    lines = (await pair.bridge.isthmus("log", "--would", "-o", "json")).json
    return set(wanted) <= {(line["kind"], line["instance"]) for line in lines}


async def _planned(pair: Pair) -> bool:
    return len((await pair.bridge.ask("plan"))["changes"]) == 5
