"""Consul: each datacenter a scope, read by polls; one of them written, on nodes of the bridge's own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from adapters.common import places
from adapters.common.credentials import Tls
from adapters.common.urls import is_url
from adapters.consul.budget import Budget
from adapters.consul.client import Client, instances_of
from adapters.consul.identity import identity
from adapters.consul.lock import Lock
from adapters.consul.nodes import Nodes
from adapters.consul.reach import reach
from adapters.consul.records import Reading, shelf
from adapters.consul.seat import ConsulNotes, ConsulSeat
from adapters.consul.sink import ConsulSink
from adapters.consul.source import ConsulSource
from adapters.consul.traces import traces
from bridge.adapter import Concern, Credential, Interest, Raw, Reach, Source, Trace
from bridge.errors import ConfigError, Fault
from bridge.model import ServiceName
from mappings import consul as mapping


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The datacenters that are asked through one agent, or several of one datacenter.

    `write_datacenter`: the first of `datacenters` unless given. `wait`: seconds that a poll is held.
    """

    address: str | list[str]
    datacenters: list[str]
    write_datacenter: str | None = None
    token: str | None = None
    token_file: str | None = None
    tls: Tls | None = None
    address_tag: str = ""
    protocol: str = ""
    max_polls: int = 100
    wait: float = 45.0


class Consul:
    """One configured Consul; see `bridge.adapter.Registry`."""

    def __init__(self, name: str, config: Config, client: Client) -> None:
        self.name = name
        self.traits = mapping.TRAITS
        self.config = config
        self.budget = Budget(config.max_polls)
        self._client = client
        self._reading = Reading(config.protocol, config.address_tag)
        self._dc = config.write_datacenter or config.datacenters[0]
        rng = random.Random()
        self.sources = {
            dc: ConsulSource(client, dc, self._reading, self.budget, config.wait, rng) for dc in config.datacenters
        }
        self._sinks: dict[str, ConsulSink] = {}
        self._own = places.Own("consul", self._dc)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source for each datacenter."""
        for source in self.sources.values():
            yield source

    def follow(self, asked: Callable[[str, ServiceName], Interest]) -> None:
        """See `bridge.adapter.Follower`."""
        for dc, source in self.sources.items():
            source.follow(lambda name, dc=dc: asked(dc, name))  # type: ignore[misc]

    def sink(self, bridge: str) -> ConsulSink:
        """The destination side for that bridge, in the datacenter that is written."""
        return self._sinks.setdefault(
            bridge, ConsulSink(self._client, self._dc, self._reading, bridge, self.config.wait)
        )

    def seat(self, bridge: str, destination: str) -> ConsulSeat:
        """The lock and the note below `isthmus/` in the key-value store of the datacenter that is written."""
        lent = "" if destination == self.name else destination
        places = (self._own.lock, self._own.note, self._own.shard_notes)
        lock, note, notes = (place(bridge, lent).removeprefix("/") for place in places)
        nodes = None if lent else Nodes(self._client, self._dc, bridge)
        return ConsulSeat(self._client, self._dc, Lock(self._client, self._dc, lock, _now), note, notes, nodes)

    def notes(self, bridge: str) -> ConsulNotes:
        """See `bridge.adapter.Keeper`."""
        return ConsulNotes(self._client, self._dc, self._own, bridge)

    def credentials(self) -> list[Credential]:
        """See `bridge.adapter.Credentialed`."""
        return self._client.credentials()

    def concerns(self) -> list[Concern]:
        """See `bridge.adapter.Concerned`."""
        return self.budget.concerns()

    async def reach(self) -> Reach:
        """See `Registry.reach`."""
        who = await identity(self._client, self._dc)
        return await reach(self._client, self.config, self._dc, who, self._own, self.budget)

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`."""
        return await traces(self._client, self._dc, self.config.datacenters, self._own, bridge)

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: what the health endpoint says of one service in each datacenter, one record each."""
        found: list[Raw] = []
        for dc in self.config.datacenters:
            said = shelf((await self._client.get(instances_of(name.name), dc)).body, self._reading)
            for id, one in [*said.entries.items(), *said.lost.items()]:
                found.append(Raw(f"{dc}/{one.place}", one.raw.decode(errors="replace"), id, one.record.why))
            found += (Raw(f"{dc}: {place}", "", "*", why) for place, why in said.nameless.items())
        return found


def _now() -> datetime:
    return datetime.now(UTC)


def create(name: str, config: Config, state: Path | None) -> Consul:
    """The registry of one block of the configuration; keeps nothing in `state`. Raises ConfigError."""
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*faults)
    client = Client(
        _addresses(config),
        tls=config.tls,
        token=config.token,
        token_file=config.token_file,
        polls=config.max_polls,
    )
    return Consul(name, config, client)


def _addresses(config: Config) -> list[str]:
    return [config.address] if isinstance(config.address, str) else config.address


def _faults(config: Config) -> Iterator[Fault]:
    addresses = _addresses(config)
    if not addresses:
        yield Fault("name at least one agent", ("address",))
    for url in addresses:
        if not is_url(url):
            yield Fault(f"{url!r} is not http://host:port or https://host:port", ("address",))
    if not config.datacenters:
        yield Fault("name at least one", ("datacenters",))
    for index, dc in enumerate(config.datacenters):
        if not dc or "/" in dc or dc in config.datacenters[:index]:
            yield Fault(f"{dc!r} is no name of a datacenter, or is there twice", ("datacenters", index))
    if config.token is not None and config.token_file is not None:
        yield Fault("goes without token_file", ("token",))
    if config.tls is not None:
        if not any(url.startswith("https:") for url in addresses):
            yield Fault("no address begins with https://", ("tls",))
        yield from config.tls.faults()
    if config.max_polls < 1:
        yield Fault("should be 1 or more", ("max_polls",))
    if not 1.0 <= config.wait <= 600.0:
        yield Fault("should be 1 to 600 seconds", ("wait",))
