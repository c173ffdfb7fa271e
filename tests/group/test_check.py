"""`check` says whether a daemon may be a member of its group, and what its brokers make of that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from mappings import kafka as mapping
from tests.kit.running import Bridge
from tests.kit.stream import Stream
from tests.servers.etcd import Etcd
from tests.servers.kafka import Kafka

SHARDS = 3


def empty(shard: int) -> bytes:
    """Nothing is registered, and that is all: `check` need not wait for it."""
    said = {"scope": "a", "picture": "a", "registry": "a", "part": "", "identity": "etcd:1/kratos", "incarnation": "1"}
    numbers = {"generation": 1, "partition": shard, "partitions": SHARDS, "count": 0, "sequence": 1}
    return mapping.encode_complete(
        msgspec.convert({**said, **numbers, "digest": "0" * 16, "owner": "feeder"}, mapping.Complete)
    )


def patient(server: Kafka, group: str) -> None:
    """The group waits longer than others for a member that is silent."""
    setting = ConfigEntry("consumer.session.timeout.ms", "45000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=[setting])
    admin = AdminClient({"bootstrap.servers": server.address})
    for answer in admin.incremental_alter_configs([resource]).values():
        answer.result(20)


async def test_check_says_whether_it_may_be_a_member_and_how_long_the_group_waits(
    etcd: Etcd, kafka: Kafka, tmp_path: Path
) -> None:
    async with Stream.open(kafka, SHARDS) as stream:
        await stream.create()
        for shard in range(SHARDS):
            await stream.raw(mapping.complete_key("a", shard), shard, empty(shard))
    registries = {
        "b": {"kind": "etcd", "layout": "kratos", "endpoints": [f"http://{etcd.address}"]},
        "stream": {
            "kind": "kafka",
            "bootstrap_servers": [kafka.address],
            "partitions": SHARDS,
            "group_protocol": "consumer",
        },
    }
    link = {"from": "stream/a", "to": "b", "policy": "sync", "services": {"include": ["*"]}}
    member = Bridge(tmp_path, registries, [link], name="one", group="crew")
    group = "isthmus.b1.crew.b"
    try:
        await asyncio.to_thread(patient, kafka, group)
        found = (await member.isthmus("check", "-o", "json")).json
    finally:
        member.close()
    (row,) = [one for one in found["registries"] if one["registry"] == "stream"]
    assert {"verb": f"be a member of {group}", "may": True} in row["rights"]
    assert any(f"group {group}: its brokers wait 45 s" in note for note in row["notes"])
