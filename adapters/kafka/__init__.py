"""A stream of Apache Kafka: the state topic has the latest of every instance, for other tools to build on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec

from adapters.common.inbox import Inbox
from adapters.kafka import log_reading
from adapters.kafka.client import Client, Security
from adapters.kafka.membership import KafkaMembership
from adapters.kafka.reading import Reader
from adapters.kafka.searching import Search
from adapters.kafka.sink import KafkaSink, identity
from adapters.kafka.source import KafkaSource
from adapters.kafka.topics import STATE, Kept, log_notes_of, log_settings, notes_of
from adapters.kafka.working_copy import Stored
from bridge.adapter import Event, Raw, Reach, Seat, Source, Trace
from bridge.errors import ConfigError, Fault
from bridge.model import ServiceName
from bridge.shards import part_of
from mappings import kafka as mapping

Server = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:/\s\[\]]+):[0-9]{1,5}")
# In the schema of the file: a number of seconds, or a text as `400d`.
Retention = Annotated[float, msgspec.Meta(gt=0, extra={"unit": "s"})]

TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")

# The events of the state topic by type, with their data; None: a tombstone.
EVENTS = {mapping.INSTANCE: mapping.State, mapping.REMOVED: None, mapping.COMPLETE: mapping.Complete}

# What an operator should know of what is written there.
LIMITS = (
    "it has no lock of its own: bridge.seat names the registry that lends one, or only one daemon may run",
    "a writer that lost its lock while it slept may repeat an add or an update; the broker refuses its removals",
)


# Why something stays when a bridge leaves.
STATED = "it says what was whole, for readers, and goes with its topic"
TOPIC_STAYS = "others may read it: `kafka-topics.sh --delete --topic {}`, if nobody does"
LOG_STAYS = "it is history, which ends by its retention: `kafka-topics.sh --delete --topic {}`, if nobody reads it"


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One stream. `partitions`: so many its topics are created with, and must have. `changes_topic` None: no log.

    `bootstrap_servers`: HOST:PORT of some brokers; they name the others. `group_protocol`: see `Divided.membership`.
    """

    bootstrap_servers: Annotated[list[str], msgspec.Meta(min_length=1)]
    state_topic: str = "isthmus.state"
    changes_topic: str | None = None
    changes_retention: Retention = 400 * 86_400.0
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 12
    group_protocol: Literal["classic", "consumer"] = "classic"
    security: Security | None = None


class Kafka:
    """One configured stream; see `bridge.adapter.Registry`."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.traits = mapping.TRAITS
        self._client = Client(config.bootstrap_servers, config.security)
        self._config = config
        self._topic = Kept(self._client, config.state_topic, config.partitions, STATE)
        self._changes = (
            Kept(self._client, config.changes_topic, config.partitions, log_settings(config.changes_retention))
            if config.changes_topic is not None
            else None
        )
        self._reader = Reader(self._client, self._topic, lambda sequence: False)
        self._searches: set[asyncio.Task[None]] = set()
        self._sinks: dict[str, KafkaSink] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for search in self._searches:
            search.cancel()
        await asyncio.gather(*self._searches, return_exceptions=True)
        for sink in self._sinks.values():
            await sink.close()
        await self._reader.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source for each scope that is published, as soon as it is whole; by shards one a shard."""
        found: Inbox[KafkaSource] = Inbox()
        search = found.run(Search(self._reader, found.post).run)
        self._searches.add(search)
        try:
            while True:
                sources, failure = await found.take()
                for source in sources:
                    yield source
                if failure is not None:
                    raise failure
        finally:
            search.cancel()
            self._searches.discard(search)

    @property
    def shards(self) -> int:
        """See `Divided`: a shard is a partition."""
        return self._config.partitions

    def shard_of(self, service: ServiceName) -> int:
        """See `Divided`."""
        return mapping.shard_of(service, self._config.partitions)

    def read(self, shards: frozenset[int] | None) -> None:
        """See `Divided`."""
        self._reader.read(shards)

    def sink(self, bridge: str) -> KafkaSink:
        """The destination side for that bridge."""
        if bridge not in self._sinks:
            self._sinks[bridge] = KafkaSink(self.name, self._client, self._topic, self._changes, bridge)
        return self._sinks[bridge]

    def seat(self, bridge: str, destination: str) -> Seat | None:
        """None: it cannot lock, so it borrows the seat that `bridge.seat` names."""
        return None

    async def caught_up(self, shard: int) -> frozenset[str]:
        """See `Divided`."""
        copy = await (await self._reader.following(shard)).caught_up()
        return frozenset(part_of(scope, shard) for scope in copy.scopes)

    def membership(self, group: str, who: str) -> KafkaMembership:
        """See `Divided`."""
        config = self._config
        return KafkaMembership(self._client, config.state_topic, config.partitions, group, who, config.group_protocol)

    async def reach(self) -> Reach:
        """See `Registry.reach`. What we may write is seen by writing alone."""
        topic = await self._topic.look()
        notes = list(LIMITS)
        notes[:0] = notes_of(self._topic.name, topic)
        if self._changes is not None:
            changes = await self._changes.look()
            notes[:0] = log_notes_of(self._changes.name, changes, self._config.changes_retention)
        return Reach(identity(self._topic), "Apache Kafka", may_read=topic is not None or None, notes=tuple(notes))

    def events(self, since: float, *, follow: bool) -> AsyncIterator[list[Event]]:
        """See `Logged`."""
        if self._changes is None:
            raise ConfigError(f"registries.{self.name}.changes_topic: missing; the stream keeps no log without it")
        return log_reading.events(self._client, self._changes, since, follow=follow)

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`: topics, and what was stated of scopes; records of instances are entries."""
        found: list[Trace] = []
        if await self._topic.look() is not None:
            reader = Reader(self._client, self._topic, lambda sequence: False)  # the other one may read a part alone
            try:
                copy = await (await reader.following()).caught_up()
            finally:
                await reader.close()
            mine = [one for one in copy.statements if one.owner == bridge]
            found += [Trace("statement", f"{self._topic.name}/{one.scope}/{one.partition}", STATED) for one in mine]
            found.append(Trace("topic", self._topic.name, TOPIC_STAYS.format(self._topic.name)))
        if self._changes is not None and await self._changes.look() is not None:
            found.append(Trace("topic", self._changes.name, LOG_STAYS.format(self._changes.name)))
        return found

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: the value of each record of a service in the stream, e.g. `core:pay`."""
        part = None if None in self._reader.parts else mapping.partition_of(name, self._config.partitions)
        copy = await (await self._reader.following(part)).committed()
        return [
            Raw(key.decode(), value, id, stored.record.why)
            for id, stored in copy.services.get(name, {}).items()
            for key, value in [(mapping.key_of(name, id), _shown(name, stored))]
        ]


def _shown(name: ServiceName, stored: Stored) -> str:
    record = stored.record
    return mapping.encode(name, record.instance, record.mark).decode() if record.instance is not None else ""


def create(name: str, config: Config, state: Path | None) -> Kafka:
    """The stream of one block of the file; keeps nothing in `state`. Raises ConfigError."""
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*faults)
    return Kafka(name, config)


def _faults(config: Config) -> Iterator[Fault]:
    for index, server in enumerate(config.bootstrap_servers):
        if not Server.fullmatch(server):
            yield Fault(f"{server!r} is not HOST:PORT", ("bootstrap_servers", index))
    for key, topic in (("state_topic", config.state_topic), ("changes_topic", config.changes_topic)):
        if topic is not None and not TOPIC.fullmatch(topic):
            yield Fault(f"{topic!r} is no name of a topic", (key,))
    if config.changes_topic == config.state_topic:
        yield Fault("is the state topic, too; the log is a topic of its own", ("changes_topic",))
    if config.security is not None:
        yield from config.security.faults()
