"""The two topics: what they must be like, what is wrong with one, and who creates it; the judging is pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapters.kafka.client import Client, Topic
from bridge.errors import Denied, Unavailable

WEEK = 7 * 86_400 * 1000  # milliseconds that a tombstone lives: so long a reader may be away, and miss no removal
STATE = {
    "cleanup.policy": "compact",
    "delete.retention.ms": str(WEEK),
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": str(86_400_000),  # what is in the open segment is not compacted
}


class Kept:
    """One topic of a block of the file. `partitions`: so many it is created with, and must have.

    `settings`: what it is created with; its `cleanup.policy` it must have.
    """

    def __init__(self, client: Client, name: str, partitions: int, settings: Mapping[str, str]) -> None:
        self.name = name
        self.partitions = partitions
        self.cluster = ""
        self._client = client
        self._settings = settings

    async def look(self) -> Topic | None:
        """The topic as it is; None: there is none. Raises Denied with all that is wrong with it."""
        self.cluster, topic = await self._client.describe(self.name)
        if topic is not None and (faults := list(faults_of(self.name, topic, self.partitions, self._settings))):
            raise Denied("; ".join(faults))
        return topic

    async def found(self) -> Topic:
        """The topic; raises Unavailable where there is none."""
        topic = await self.look()
        if topic is None:
            raise Unavailable(f"topic {self.name}: {MISSING}")
        return topic

    async def ensure(self) -> None:
        """Creates it where it is missing. Raises Denied where we may not."""
        if await self.look() is None:
            await self._client.create(self.name, self.partitions, self._settings)
            while await self.look() is None:
                pass  # a broker may not know it yet


def faults_of(name: str, topic: Topic, partitions: int, wanted: Mapping[str, str]) -> Iterator[str]:
    """Why a topic cannot be the one that is wanted."""
    if topic.partitions != partitions:
        yield (
            f"topic {name}: it has {topic.partitions} partitions, and the file says {partitions}: "
            "records would be in two places; say `partitions: "
            f"{topic.partitions}`, or write to another topic"
        )
    needed = wanted["cleanup.policy"]
    policy = (topic.settings or {}).get("cleanup.policy", needed)
    if policy != needed:
        what = "alive" if needed == "compact" else "history"
        yield f"topic {name}: cleanup.policy is {policy}, which drops what is {what}; set it to {needed}"


def log_settings(retention: float) -> dict[str, str]:
    """How the log topic is created that keeps events for so many seconds."""
    return {"cleanup.policy": "delete", "retention.ms": str(round(retention * 1000)), "retention.bytes": "-1"}


MISSING = "missing; the daemon that writes the stream creates it"


def log_notes_of(name: str, topic: Topic | None, retention: float) -> Iterator[str]:
    """What an operator should know of a log topic that can be used, or is to be created."""
    if topic is None:
        yield f"topic {name}: {MISSING}"
        return
    kept = int((topic.settings or {}).get("retention.ms", -1))
    if 0 <= kept < retention * 1000:
        days = f"{kept / 86_400_000:g} d, and the file says {retention / 86_400:g} d"
        yield f"warning: topic {name}: events are kept {days}"


def notes_of(name: str, topic: Topic | None) -> Iterator[str]:
    """What an operator should know of a state topic that can be used, or is to be created."""
    if topic is None:
        yield f"topic {name}: {MISSING}"
        return
    if topic.settings is None:
        yield f"warning: topic {name}: its settings may not be seen (DescribeConfigs), so nobody checks cleanup.policy"
        return
    kept = int(topic.settings.get("delete.retention.ms", WEEK))
    if kept < WEEK:
        yield f"warning: topic {name}: tombstones live {kept / 3_600_000:g} h: who is away longer misses removals"
