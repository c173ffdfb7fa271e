"""What other synchronisers wrote is not sent anywhere unless the file says so, and their marks never are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bridge.config import json_schema
from bridge.config.registries import FOREIGN
from bridge.model import Instance, Traits
from bridge.sources.scrub import Scrub, as_written, written_by
from tests.commands.conftest import Pair
from tests.kit.waiting import until

SCRUB = Scrub(("*token*",), FOREIGN)


@pytest.mark.parametrize(
    ("metadata", "tags", "kept", "kept_tags", "tool"),
    [
        ({"team": "pay"}, (), {"team": "pay"}, (), None),
        ({"team": "pay", "sourceClusterId": "x"}, (), {"team": "pay"}, (), "nacos-sync"),
        ({"external-k8s-ns": "x", "a-token": "x"}, ("k8s", "blue"), {}, ("blue",), "consul-k8s"),
        ({}, ("fsm.connector.service.cluster.id=x", "blue"), {}, ("blue",), "fsm"),
        ({"preserved.register.source": "SPRING_CLOUD"}, (), {}, (), None),
        ({"a-token": "x"}, ("k8s",), {}, ("k8s",), None),
    ],
)
def test_marks_are_taken_away_and_their_tool_is_remembered(
    metadata: dict[str, str], tags: Sequence[str], kept: dict[str, str], kept_tags: Sequence[str], tool: str | None
) -> None:
    clean = SCRUB(Instance("i1", "192.0.2.1", metadata=metadata, tags=tuple(tags)))
    assert (clean.metadata, clean.tags, written_by(clean)) == (kept, kept_tags, tool)
    assert SCRUB(clean) is clean
    assert as_written(clean, Traits(frozenset())).native == {}


def test_what_has_no_mark_stays_the_very_same() -> None:
    instance = Instance("i1", "192.0.2.1", metadata={"team": "pay"}, tags=("blue", "a=b"))
    assert SCRUB(instance) is instance
    assert as_written(instance, Traits(frozenset())) is instance


def synced(pair: Pair) -> None:
    """Of three instances one is nacos-sync's."""
    marked = {"address": "192.0.2.3", "metadata": {"sourceClusterId": "old", "team": "pay"}}
    pair.inventory.set("pay-api", i1="192.0.2.1", i2="192.0.2.2", i3=marked)


async def test_what_another_tool_wrote_is_left_where_it_is_and_shown(pair: Pair) -> None:
    synced(pair)
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    assert pair.copies()["pay-api"] == {"192.0.2.1", "192.0.2.2"}
    check = (await pair.bridge.isthmus("check", "-o", "json")).json
    assert {row["registry"]: row["foreign"] for row in check["registries"]} == {
        "inventory": {"nacos-sync": 1},
        "cluster": {},
    }
    explained = (await pair.bridge.isthmus("explain", "pay-api/i3", "-o", "json")).json
    assert "nacos-sync wrote it, and foreign_sync of inventory is ignore" in [row["why"] for row in explained]
    # It is still known for what it is when the source does not answer.
    pair.inventory.path.rename(pair.inventory.path.with_name("away"))
    async with pair.bridge as bridge:
        await until(bridge.writes, "it writes")
        assert (await bridge.link())["waiting"] == 0
        assert pair.copies()["pay-api"] == {"192.0.2.1", "192.0.2.2"}


async def test_a_registry_may_follow_and_the_marks_stay_behind(pair: Pair) -> None:
    synced(pair)
    pair.bridge.registries["inventory"]["foreign_sync"] = "follow"
    pair.bridge.write()
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    assert pair.copies()["pay-api"] == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
    (path,) = pair.cluster.path.glob("pay-api.*.isthmus.yaml")
    text = path.read_text()
    assert '"team"' in text
    assert "sourceClusterId" not in text
    assert "foreign" not in text
    assert (await pair.bridge.isthmus("plan")).code == 0
    check = (await pair.bridge.isthmus("check", "-o", "json")).json
    assert {row["registry"]: row["foreign"] for row in check["registries"]}["inventory"] == {"nacos-sync": 1}


async def test_what_a_tool_takes_over_leaves_when_its_source_says_so(pair: Pair) -> None:
    synced(pair)
    pair.bridge.registries["inventory"]["foreign_sync"] = "follow"
    pair.bridge.write()
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        pair.bridge.registries["inventory"]["foreign_sync"] = "ignore"
        await bridge.hup()
        (hold,) = await until(bridge.holds, "what the file takes away is held")
        assert hold["rule"].startswith("config:")
        marked = {"address": "192.0.2.2", "metadata": {"sourceClusterId": "old"}}
        pair.inventory.set("pay-api", i1="192.0.2.1", i2=marked, i3={"address": "192.0.2.3"})
        await until(lambda: pair.copies()["pay-api"] == {"192.0.2.1", "192.0.2.3"}, "i3 is a native again, i2 is not")


async def test_another_word_is_refused_where_it_stands(pair: Pair) -> None:
    pair.bridge.registries["inventory"]["foreign_sync"] = "copy"
    pair.bridge.write()
    ran = await pair.bridge.isthmus("check")
    assert ran.code == 2
    assert "registries.inventory.foreign_sync" in ran.err
    for registry in json_schema.schema()["properties"]["registries"]["additionalProperties"]["oneOf"]:
        assert registry["properties"]["foreign_sync"]["enum"] == ["follow", "ignore"]
