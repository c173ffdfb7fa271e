"""A consumer of Isthmus' stream: the latest of every instance, kept in step; needs aiokafka alone.

    python consumer.py 127.0.0.1:9092 isthmus.state

It reads the state topic from the beginning, and then follows. A scope is known whole when every partition has a
`complete` record of one generation, and all that was there is read. Before that, what is missing is not gone.
"""

from __future__ import annotations

import asyncio
import json
import sys
from urllib.parse import unquote

from aiokafka import AIOKafkaConsumer, TopicPartition

COMPLETE = b".complete/"


class Picture:
    """What the records say so far. Give it what you kept from earlier, and it drops what has gone meanwhile."""

    def __init__(self, partitions: int, kept: dict[bytes, dict] | None = None) -> None:
        self.instances = dict(kept or {})  # the value of every record, by its key
        self.whole: set[str] = set()  # the scopes of which all is known
        self._partitions = partitions
        self._old = set(self.instances)  # kept from earlier, and not seen since
        self._completes: dict[str, dict[int, int]] = {}  # the generation by scope and partition
        self._seen: set[str] = set()  # the ids of events, of which one may come twice

    def take(self, key: bytes, value: bytes | None, event: str) -> None:
        """One record, in the order of its partition."""
        if event in self._seen:
            return
        self._seen.add(event)
        if key.startswith(COMPLETE):
            scope, partition = key.decode().split("/")[1:]
            if value is not None:
                self._completes.setdefault(unquote(scope), {})[int(partition)] = json.loads(value)["generation"]
            return
        self._old.discard(key)
        if value is None:
            self.instances.pop(key, None)
        else:
            self.instances[key] = json.loads(value)

    def caught_up(self) -> list[bytes]:
        """All that was there is read. What was kept from earlier and is not there any more has gone: tombstones live
        for some days, and whoever was away for longer has missed them."""
        self.whole = {
            scope
            for scope, generations in self._completes.items()
            if len(generations) == self._partitions and len(set(generations.values())) == 1
        }
        pictures = {scope.partition("/")[0] for scope in self.whole}
        gone = [key for key in self._old if unquote(key.decode().partition("/")[0]) in pictures]
        for key in gone:
            self._old.discard(key)
            del self.instances[key]
        return gone


async def follow(servers: str, topic: str, picture: Picture, partitions: int, *, for_ever: bool = True) -> None:
    """Reads everything there is, then (`for_ever`) what comes."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        isolation_level="read_committed",  # a writer that lost its place may have left what was never committed
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        parts = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        ends = await consumer.end_offsets(parts)  # once: positions are compared with it, for markers are no records
        reading = True
        while reading or for_ever:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    event = dict(record.headers).get("ce_id", b"").decode()
                    picture.take(record.key, record.value, event)
            if reading and all([await consumer.position(part) >= end for part, end in ends.items()]):
                reading = False
                gone = picture.caught_up()
                print(
                    f"{len(picture.instances)} instances, whole: {sorted(picture.whole)}, gone meanwhile: {len(gone)}"
                )
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1], sys.argv[2], Picture(12), 12))
