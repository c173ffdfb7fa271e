"""`bridge.group`: what it asks of the links to a destination that several daemons share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.config import load as config
from bridge.config.schema import Configuration
from bridge.errors import ConfigError

ETCD = {"kind": "etcd", "endpoints": ["http://127.0.0.1:1"], "layout": "kratos"}
KAFKA = {"kind": "kafka", "bootstrap_servers": ["127.0.0.1:1"], "partitions": 4}
REGISTRIES: dict[str, Any] = {
    "stream": KAFKA,
    "another": {**KAFKA, "state_topic": "other"},
    "core": ETCD,
    "legacy": ETCD,
    "poor": {"kind": "memory", "seat": False},
    "mesh": {"kind": "prometheus", "listen": "127.0.0.1:1"},
    "folder": {"kind": "file", "path": "./inventory"},
    "catalog": {"kind": "consul", "address": "http://127.0.0.1:1", "datacenters": ["dc1"]},
    "keeper": {"kind": "zookeeper", "hosts": ["127.0.0.1:1"], "layout": "curator"},
}
LINK = {"from": "stream/a", "to": "core", "policy": "sync", "services": {"include": ["*"]}}


def loaded(folder: Path, *links: dict[str, Any], **bridge: Any) -> Configuration:
    (folder / "inventory").mkdir(exist_ok=True)
    path = folder / "isthmus.yaml"
    named = [{"name": f"l{number}", **LINK, **link} for number, link in enumerate(links)]
    block = {"id": "b", "state": "./state", "group": "crew", **bridge}
    path.write_text(yaml.safe_dump({"bridge": block, "registries": REGISTRIES, "links": named}))
    return config.load(path)


def faults(folder: Path, *links: dict[str, Any], **bridge: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(folder, *links, **bridge)
    return "\n".join(raised.value.faults)


@pytest.mark.parametrize(
    ("link", "key", "remedy"),
    [
        ({"from": ["stream/a", "legacy"]}, "links[0].from", "fill stream from legacy too, or remove bridge.group"),
        ({"from": ["stream/a", "another/b"]}, "links[0].from", "fill stream from another too"),
        ({"rename": "{namespace}-all"}, "links[0].rename", "needs {name}: core is shared by the group"),
        ({"to": "poor"}, "links[0].to", "name a registry in bridge.seat that can"),
        ({"to": "folder"}, "links[0].to", "the locks of folder are in folder, which keeps none by shard"),
        (
            {"to": "keeper", "lifetime": "leased", "ttl": "1h"},
            "links[0].lifetime",
            "a leased entry of keeper ends with the process that wrote it, and its shard goes from one to another; "
            "should be lasting, or remove bridge.group",
        ),
    ],
)
def test_what_a_group_cannot_share_is_named_with_the_remedy(
    tmp_path: Path, link: dict[str, Any], key: str, remedy: str
) -> None:
    said = faults(tmp_path, link)
    assert f"{key}: " in said and remedy in said


def test_leased_entries_are_shared_where_they_outlive_who_wrote_them(tmp_path: Path) -> None:
    leased = {"lifetime": "leased", "ttl": "1h"}
    assert loaded(tmp_path, leased).bridge.group == "crew"
    assert loaded(tmp_path, {"to": "keeper"}).bridge.group == "crew"
    with pytest.raises(ConfigError, match=r"isthmus.yaml:7: links\[0\]\.lifetime: "):
        loaded(tmp_path, {"to": "keeper", **leased})


def test_daemons_of_a_group_tell_each_other_in_one_store(tmp_path: Path) -> None:
    two: tuple[dict[str, Any], ...] = ({}, {"to": "legacy"})
    assert "bridge.seat: missing: the locks that the group shares are in core, legacy" in faults(tmp_path, *two)
    assert loaded(tmp_path, *two, seat="legacy").bridge.group == "crew"


def test_what_members_do_not_share_cannot_read_their_stream(tmp_path: Path) -> None:
    said = faults(tmp_path, {}, {"to": "mesh"})
    assert "links[1].from: each member of the group reads some shards of stream alone; feed mesh from" in said


def test_links_to_one_destination_read_one_stream(tmp_path: Path) -> None:
    said = faults(tmp_path, {"services": {"include": ["a"]}}, {"from": "legacy", "services": {"include": ["b"]}})
    assert "links[1].from: core is shared by the group" in said


def test_a_seat_that_is_lent_may_be_kept_by_shard(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"to": "poor"}, seat="core").bridge.group == "crew"


def test_a_seat_that_keeps_the_locks_of_the_dead_for_long_is_warned_of(tmp_path: Path) -> None:
    assert any("may go unwritten for 20 s" in one for one in loaded(tmp_path, {"to": "poor"}, seat="catalog").warnings)
    for to, seat in (("poor", "core"), ("catalog", "catalog")):
        assert not any("unwritten" in text for text in loaded(tmp_path, {"to": to}, seat=seat).warnings)


def test_what_is_written_from_elsewhere_has_one_writer_as_before(tmp_path: Path) -> None:
    found = loaded(
        tmp_path, {}, {"from": "core", "to": "poor"}, {"from": "core", "to": "stream", "as": "copy"}, seat="legacy"
    )
    assert not any("group" in text for text in found.warnings)


def test_a_group_that_shares_nothing_is_warned_of(tmp_path: Path) -> None:
    found = loaded(tmp_path, {"from": "core", "to": "legacy"})
    assert any("bridge.group: no destination is written from a stream" in text for text in found.warnings)
    assert any("bridge.group: no destination" in text for text in loaded(tmp_path, {"policy": "observe"}).warnings)
