"""A daemon that publishes a folder on Kafka: what a consumer finds in the state topic, and what outages leave of it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest_asyncio
from aiokafka.admin import NewTopic

from bridge.model import ServiceName
from bridge.state import segments
from mappings import kafka as mapping
from tests.kit.natives import Folder
from tests.kit.running import ROOT, Bridge
from tests.kit.stream import Stream
from tests.kit.waiting import until
from tests.servers.kafka import Kafka

PAY = ServiceName("pay", "inventory")
PARTITIONS = 4
QUICK = {"confirm_event": "1s", "confirm_absence": "1s"}


class Site(NamedTuple):
    """The folder `inventory` goes into the stream; its lock is the one that the folder lends."""

    inventory: Folder
    bridge: Bridge
    stream: Stream

    async def published(self, service: ServiceName = PAY) -> set[str]:
        """The addresses that a consumer finds."""
        return {one.address for one in (await self.stream.state()).get(service, {}).values()}

    def shows(self, *addresses: str) -> Any:
        """Waits until a consumer finds these."""

        async def check() -> bool:
            return await self.published() == set(addresses)

        return until(check)


@pytest_asyncio.fixture
async def made(kafka: Kafka, folder: Path) -> AsyncIterator[Site]:
    inventory = Folder(folder / "inventory")
    inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2", i3="192.0.2.3")
    registries = {
        "inventory": {"kind": "file", "path": str(inventory.path)},
        "stream": {"kind": "kafka", "bootstrap_servers": [kafka.address], "partitions": PARTITIONS},
    }
    link = {"from": "inventory", "to": "stream", "policy": "sync", "services": {"include": ["*"]}, "guard": QUICK}
    async with Stream.open(kafka, PARTITIONS) as stream:
        site = Site(inventory, Bridge(folder, registries, [link], seat="inventory"), stream)
        yield site
        await site.bridge.__aexit__(None)


async def whole(site: Site) -> bool:
    return len(await site.stream.completes()) >= PARTITIONS


async def test_the_state_topic_follows_and_says_when_it_is_whole(made: Site) -> None:
    async with made.bridge:
        await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")
        await until(lambda: whole(made))
        made.inventory.set("pay", i1="192.0.2.11", i2="192.0.2.2")
        await made.shows("192.0.2.11", "192.0.2.2")
    records = await made.stream.records()
    (removed,) = [one for one in records if one.value is None]
    said = dict(removed.headers)
    assert (removed.key, said["ce_type"], said["ce_cause"]) == (
        b"inventory//pay/i3",
        mapping.REMOVED.encode(),
        b"event",
    )
    assert len({one.partition for one in records if not mapping.place_of(one.key).complete}) == 1
    sequences = [int(dict(one.headers)["ce_sequence"]) for one in records]
    assert len(set(sequences)) == len(sequences)
    completes = await made.stream.completes()
    assert {one.generation for one in completes} == {1}
    assert sum(one.count for one in completes[:PARTITIONS]) == 3


async def test_a_restart_writes_nothing_that_is_there(made: Site) -> None:
    await made.bridge.start()
    await until(lambda: whole(made))
    await made.bridge.stop()
    before = await made.stream.ends()
    async with made.bridge as bridge:
        await until(bridge.rests)
    assert await made.stream.ends() == before


async def test_plan_and_check_look_and_create_no_topic(made: Site) -> None:
    made.bridge.registries["stream"]["changes_topic"] = LOG
    made.bridge.write()
    ran = await made.bridge.isthmus("plan", "-o", "json")
    assert ran.code in (0, 2, 3), ran.err
    assert "inventory:pay" in ran.out
    ran = await made.bridge.isthmus("check", "-o", "json")
    for topic in ("isthmus.state", LOG):
        assert f"topic {topic}: missing; the daemon that writes the stream creates it" in ran.out
    assert await made.stream.records() == []


async def test_a_link_moved_from_the_registry_to_its_picture_writes_nothing(made: Site, folder: Path) -> None:
    target = folder / "target"
    target.mkdir()
    bridge = made.bridge
    bridge.registries["target"] = {"kind": "file", "path": str(target)}
    link = {"name": "onward", "to": "target", "policy": "sync", "services": {"include": ["*"]}, "guard": QUICK}
    bridge.links.append({"from": "inventory", **link})
    bridge.write()

    def stands() -> dict[str, tuple[bytes, int]]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in target.glob("*.yaml")}

    async with bridge:
        await until(lambda: whole(made))
        await until(bridge.rests)
        before = stands()
        assert before
        bridge.links[1] = {"from": "stream/inventory", **link}
        await bridge.hup()
        await until(lambda: follows(bridge, 2))
        await until(bridge.rests)
        assert stands() == before
        made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
        await until(lambda: b"192.0.2.3" not in b"".join(content for content, _ in stands().values()))
        assert [*stands()] == [*before]
    ran = await bridge.isthmus("log", "-o", "json")
    written = [row for row in ran.json if row.get("destination") == "target"]
    assert [row["kind"] for row in written if row["kind"] in ("add", "update", "remove")] == ["add"] * 3 + ["remove"]


async def test_the_links_own_view_of_a_scope_decides_and_an_echo_writes_nothing(made: Site, folder: Path) -> None:
    target = folder / "target"
    target.mkdir()
    bridge = made.bridge
    bridge.registries["target"] = {"kind": "file", "path": str(target)}
    link = {"from": "stream/inventory", "policy": "sync", "services": {"include": ["*"]}, "guard": QUICK}
    bridge.links += [{"to": "target", **link}, {"to": "inventory", **link}]
    bridge.write()

    def has(*ids: str) -> bool:
        held = b"".join(path.read_bytes() for path in target.glob("*.yaml"))
        return all((f"192.0.2.{id}".encode() in held) == (id in ids) for id in "123")

    async def sees(registry: str, instances: int) -> bool:
        rows = (await bridge.ask("status"))["scopes"]
        return [row["instances"] for row in rows if row["registry"] == registry] == [instances]

    async with bridge:
        await until(lambda: has("1", "2", "3"))
        await until(bridge.rests)
        assert [path.name for path in made.inventory.path.glob("*.yaml")] == ["pay.yaml"]
        await bridge.isthmus("freeze", "inventory-to-stream", "--reason", "the two views are to differ")
        made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
        await until(lambda: sees("inventory", 2))
        made.inventory.set("web", w1="192.0.2.9")
        await until(lambda: sees("inventory", 3))
        assert await sees("stream", 3)
        ran = await bridge.isthmus("plan", "-o", "json")
        assert {row["to"] for row in ran.json["changes"]} == {"stream"}
        assert has("1", "2", "3")
        await bridge.isthmus("unfreeze", "inventory-to-stream")
        await until(lambda: has("1", "2"))
    assert {path.name for path in made.inventory.path.glob("*.yaml")} == {"pay.yaml", "web.yaml"}
    ran = await bridge.isthmus("log", "-o", "json")
    assert not [row for row in ran.json if row.get("destination") == "inventory" and row["kind"] in ("add", "update")]


async def follows(bridge: Bridge, scopes: int) -> bool:
    rows = (await bridge.ask("status"))["scopes"]
    return len([row for row in rows if row["state"] == "synced"]) == scopes


LOG = "isthmus.changes"


async def events(kafka: Kafka) -> list[dict[str, Any]]:
    """What the log has: the type, the data and the id of each event, in the order of its key."""
    async with Stream.open(kafka, PARTITIONS, LOG) as log:
        records = await log.records()
    found = []
    for record in records:
        said = {name: text.decode() for name, text in record.headers}
        found.append({"type": said["ce_type"].removeprefix("io.isthmus."), **said, **json.loads(record.value)})
    return found


def trace(row: dict[str, Any]) -> str:
    return str(row.get("ce_traceparent", "none-").split("-")[1])


async def state_traces(kafka: Kafka, word: bytes | None) -> set[str]:
    """The traces of the state topic's records with that word in them; None: of its tombstones."""
    async with Stream.open(kafka, PARTITIONS) as state:
        records = await state.records()
    found = [one for one in records if (one.value is None if word is None else word in (one.value or b""))]
    return {trace({name: text.decode() for name, text in one.headers}) for one in found}


def of(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["type"] == f"{kind}.v1"]


async def test_the_log_has_what_was_seen_and_what_was_done_about_it_once(kafka: Kafka, made: Site) -> None:
    bridge = made.bridge
    bridge.registries["stream"]["changes_topic"] = LOG
    bridge.bridge["tracing"] = {"otlp": "http://127.0.0.1:1", "sample": 1}  # nobody listens there
    bridge.write()
    await bridge.start()
    await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")
    made.inventory.set("pay", i1="192.0.2.11", i2="192.0.2.2")
    await made.shows("192.0.2.11", "192.0.2.2")

    async def told() -> bool:
        rows = await events(kafka)
        return bool(of(rows, "instance.deregistered") and of(rows, "entry.removed"))

    await until(told)
    await bridge.stop()
    rows = await events(kafka)
    (gone,) = of(rows, "instance.deregistered")
    assert (gone["ce_subject"], gone["registry"], gone["before"]["address"]) == (
        "pay/i3",
        "inventory",
        "192.0.2.3",
    )
    assert "after" not in gone
    (changed,) = of(rows, "instance.changed")
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", changed["ce_traceparent"])
    traced = [row["instance"] for row in of(rows, "entry.written") if trace(row) == trace(changed)]
    assert traced == [changed["instance"]]
    assert await state_traces(kafka, b"192.0.2.11") == {trace(changed)}
    assert await state_traces(kafka, None) == {trace(gone)}
    assert (changed["changed"], changed["after"]["address"]) == (["address"], "192.0.2.11")
    (removed,) = of(rows, "entry.removed")
    assert (removed["destination"], removed["cause"], removed["service"]) == ("stream", "event", "inventory:pay")
    assert len(of(rows, "scope.resynced")) == 1
    async with bridge:
        await until(bridge.rests)
        made.inventory.set("web", w1="192.0.2.9")

        async def web() -> bool:
            return bool([row for row in of(await events(kafka), "entry.written") if row["instance"] == "w1"])

        await until(web)
        bridge.links[0]["metadata"] = "drop"
        await bridge.hup()
        made.inventory.unset("web", "w1")

        async def vanished() -> bool:
            return bool(of(await events(kafka), "service.vanished"))

        await until(vanished)
    again = await events(kafka)
    (taken,) = of(again, "configuration.taken")
    assert len(taken["file"]) == 12
    # Whether the first listing is told of as well depends on what was first: it, or the writer's term.
    appeared = [row["service"] for row in of(again, "service.appeared")]
    assert appeared in (["web"], ["pay", "web"])
    assert {row["destination"] for row in of(again, "entry.written")} == {"stream"}
    (why,) = [row for row in of(again, "entry.removed") if row["instance"] == "i3"]
    assert (why["freed"], why["serving"]) == ("limits", [3, 2])
    assert why["rule"].startswith("within the limits; 2 of 3 of its service would serve")
    assert len(of(again, "scope.resynced")) == 2
    assert [row["ce_subject"] for row in of(again, "instance.deregistered")] == ["pay/i3", "web/w1"]
    ids = [row["ce_id"] for row in again]
    assert len(set(ids)) == len(ids)


async def test_a_log_that_takes_nothing_at_first_loses_nothing(kafka: Kafka, made: Site) -> None:
    bridge = made.bridge
    bridge.registries["stream"]["changes_topic"] = LOG
    bridge.write()
    async with kafka.admin() as admin:
        await admin.create_topics([NewTopic(LOG, PARTITIONS + 1, 1)])
        async with bridge:
            await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")

            async def refused() -> Any:
                return [row for row in (await bridge.ask("status"))["attention"] if row["code"] == "log-unshipped"]

            (row,) = await until(refused)
            assert (row["level"], row["subject"]) == ("act", "stream")
            assert f"it has {PARTITIONS + 1} partitions, and the file says {PARTITIONS}" in row["text"]
            made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
            await made.shows("192.0.2.1", "192.0.2.2")
            await admin.delete_topics([LOG])

            async def told() -> bool:
                return bool(of(await events(kafka), "entry.removed"))

            await until(told)
            await until(lambda: untroubled(bridge))
    rows = await events(kafka)
    assert len(of(rows, "entry.written")) == 3
    assert [row["ce_subject"] for row in of(rows, "instance.deregistered")] == ["pay/i3"]
    assert len(of(rows, "scope.resynced")) == 1


async def test_what_was_dropped_before_it_was_shipped_is_one_event(kafka: Kafka, made: Site) -> None:
    """A log takes nothing, and the journal has no room for all that waits: the oldest segment goes."""
    bridge = made.bridge
    bridge.registries["stream"]["changes_topic"] = LOG
    bridge.write()
    cursor = bridge.state / "shipped.stream.json"
    async with kafka.admin() as admin:
        await admin.create_topics([NewTopic(LOG, PARTITIONS + 1, 1)])
        await bridge.start()
        await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")
        await until(cursor.exists)
        await bridge.stop()
        await admin.delete_topics([LOG])
    first = int(cursor.read_text()) + 1
    (whole,) = segments.segments(bridge.state / "journal")
    lines = whole.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["seq"] > first + 1]
    assert 0 < len(kept) < len(lines)
    whole.with_stem(f"{first + 2:0{len(whole.stem)}d}").write_bytes(b"".join(kept))
    whole.unlink()

    async def told() -> list[dict[str, Any]]:
        return of(await events(kafka), "log.gap")

    async with bridge:
        (gap,) = await until(told)
        await until(lambda: untroubled(bridge))
    assert gap["reason"] == f"lines {first} to {first + 1} of the journal were dropped before they were shipped"
    rows = await events(kafka)
    assert len(of(rows, "log.gap")) == 1
    assert {first, first + 1}.isdisjoint(row["number"] for row in rows if row["type"] != "log.gap.v1")


async def untroubled(bridge: Bridge) -> bool:
    return not (await bridge.ask("status"))["attention"]


async def test_people_read_the_log_and_see_whether_the_state_is_right(made: Site, kafka: Kafka) -> None:
    bridge = made.bridge
    bridge.registries["stream"]["changes_topic"] = LOG
    bridge.write()
    async with bridge:
        await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")
        await until(bridge.rests)
        ran = await bridge.isthmus("events", "--rebuild")
        assert (ran.code, ran.out) == (0, "equal: stream holds what it should\n"), ran.err
        made.inventory.set("pay", i1="192.0.2.1", i2="192.0.2.2")
        made.inventory.set("web", w1="192.0.2.9")
        await made.shows("192.0.2.1", "192.0.2.2")

        async def told() -> bool:
            return len(of(await events(kafka), "entry.written")) == 4 and bool(of(await events(kafka), "entry.removed"))

        await until(told)
        ran = await bridge.isthmus("events", "-o", "json", "--service", "pay")
        assert ran.code == 0, ran.err
        assert {row["data"]["service"] for row in ran.json} == {"pay", "inventory:pay"}
        assert [row["at"] for row in ran.json] == sorted(row["at"] for row in ran.json)
        ran = await bridge.isthmus("events", "--service", "inventory:web", "--since", "1d")
        assert [line.split()[2:4] for line in ran.out.splitlines()[1:]] == [["entry.written.v1", "stream"]]
        here = await bridge.isthmus("log", "pay/i3", "--why", "-o", "json")
        there = await bridge.isthmus("log", "pay/i3", "--why", "--from", "stream", "-o", "json")
        assert here.code == there.code == 0, here.err + there.err
        assert [row["step"] for row in here.json] == ["file", "writer", "source", "remove"]
        assert [(row["step"], row["what"], row["why"]) for row in there.json] == [
            (row["step"], row["what"], row["why"]) for row in here.json if row["step"] != "file"
        ]
        assert here.json[2]["what"] == "inventory: pay/i3 gone"
        assert "event; it is within the limits; within the limits; 2 of 3" in here.json[3]["why"]
        await bridge.isthmus("freeze", "--all", "--reason", "a test")
        made.inventory.set("web", w1="192.0.2.9", w2="192.0.2.10")

        async def frozen() -> bool:
            ran = await bridge.isthmus("events", "--rebuild", "-o", "json")
            return ran.code == 0 and [(row["state"], row["instance"]) for row in ran.json] == [("frozen", "w2")]

        await until(frozen)
    await bridge.isthmus("unfreeze", "--all")
    await made.stream.put(PAY, "i1", None)
    ran = await bridge.isthmus("events", "--rebuild", "-o", "json")
    states = {row["instance"]: (row["state"], row["action"]) for row in ran.json}
    assert (ran.code, states) == (3, {"i1": ("different", "add"), "w2": ("different", "add")})


async def test_whoever_follows_sees_a_change_come_and_ends_it_with_ctrl_c(made: Site) -> None:
    bridge = made.bridge
    bridge.registries["stream"]["changes_topic"] = LOG
    bridge.write()
    async with bridge:
        await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")
        words = ("events", "-f", str(bridge.file), "--follow", "--service", "web")
        follower = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge.cli.main", *words), stdout=PIPE, stderr=PIPE, cwd=ROOT
        )
        assert follower.stdout is not None
        try:
            async with asyncio.timeout(200):
                made.inventory.set("web", w1="192.0.2.9")
                lines = [(await follower.stdout.readline()).decode().split() for _ in range(3)]
                follower.send_signal(signal.SIGINT)
                rest, said = await follower.communicate()
        finally:
            if follower.returncode is None:
                follower.kill()
        # The registry's service and the stream's are two keys, which may be in two partitions.
        assert {line[2] for line in lines} == {"service.appeared.v1", "instance.registered.v1", "entry.written.v1"}
        assert (follower.returncode, rest, said) == (0, b"", b"")


async def test_a_stream_without_a_log_says_which_key_is_missing(made: Site) -> None:
    ran = await made.bridge.isthmus("events")
    assert (ran.code, "registries.stream.changes_topic: missing" in ran.err) == (2, True)


async def test_what_a_bridge_leaves_in_a_stream_is_named_and_its_records_go(made: Site) -> None:
    async with made.bridge as bridge:
        await made.shows("192.0.2.1", "192.0.2.2", "192.0.2.3")

        async def stated() -> bool:
            return len(await made.stream.completes()) >= PARTITIONS

        await until(stated, "it says what is whole")
        assert await bridge.stop() == 0

        async def left() -> dict[str, dict[str, Any]]:
            rows = (await bridge.isthmus("footprint", "stream", "-o", "json")).json
            return {row["kind"]: row for row in rows}

        found = await left()
        assert {kind: row["count"] for kind, row in found.items()} == {"entry": 3, "statement": PARTITIONS, "topic": 1}
        assert (await bridge.isthmus("purge", "stream", "--including-last", "--yes")).code == 0
        assert not await made.published()
        ran = await bridge.isthmus("leave", "stream", "--yes")
        assert ran.code == 3 and "kafka-topics.sh" in ran.out
        assert (await left()).keys() == {"statement", "topic"}
        await made.stream.drop()
        ran = await bridge.isthmus("footprint", "stream", "-o", "json")
        assert (ran.code, ran.json) == (0, [])


async def test_an_event_that_is_too_large_goes_out_as_a_pointer(kafka: Kafka, made: Site) -> None:
    made.bridge.registries["stream"]["changes_topic"] = LOG
    made.bridge.write()
    large = {"address": "192.0.2.9", "metadata": {"blob": "x" * 700_000}}
    made.inventory.set("web", w1=large)
    async with made.bridge:
        await until(lambda: whole(made))
        made.inventory.set("web", w1={**large, "version": "2"}, w2="192.0.2.10")

        async def told() -> bool:
            return bool([row for row in of(await events(kafka), "instance.registered") if row["instance"] == "w2"])

        await until(told)
    (pointer,) = of(await events(kafka), "instance.changed")
    assert (pointer["ce_subject"], pointer["changed"]) == ("web/w1", ["version"])
    assert "message size too large" in pointer["reduced"]
    assert not {"before", "after"} & pointer.keys()
