"""ZooKeeper 3.6 and newer: the layouts of Curator, Spring Cloud and Dubbo, read and written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from adapters.zookeeper import identity, ledger, rights
from adapters.zookeeper.carried import CarriedSession
from adapters.zookeeper.client import Client
from adapters.zookeeper.config import Config
from adapters.zookeeper.sink import ZooKeeperSink
from adapters.zookeeper.source import ZooKeeperSource
from adapters.zookeeper.tree import Tree
from bridge.adapter import Reach, Source
from bridge.errors import ConfigError, Denied
from bridge.model import ServiceName

__all__ = ["Config", "ZooKeeper", "create"]

SRVR_TIME = 3.0  # seconds
_VERSION = re.compile(rb"Zookeeper version: ([\w.]+)")


class ZooKeeper:
    """One configured ensemble and layout; see `bridge.adapter.Registry`.

    Reading and writing have a session each: a long list delays no write, and only the writer's is carried over.
    """

    def __init__(self, name: str, config: Config, state: Path | None) -> None:
        self.name = name
        self._config = config
        self._client = Client(config)
        self._tree = Tree(self._client, config)
        self.traits = self._tree.mapping.TRAITS
        self.source = ZooKeeperSource(self._client, self._tree)
        self._carried = CarriedSession(state / f"{name}.session") if state is not None else None
        self._writing: list[Client] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(client.close() for client in (self._client, *self._writing)))
        if self._carried is not None:
            self._carried.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source, for an ensemble answers or fails as a whole."""
        yield self.source

    def sink(self, bridge: str) -> ZooKeeperSink:
        """The destination side for that bridge; raises ConfigError where the layout is only read."""
        if not self._tree.layout.writable:
            raise ConfigError(f"{self.name}: the layout {self._config.layout} is only read")
        client = Client(self._config, self._carried)
        self._writing.append(client)
        return ZooKeeperSink(client, Tree(client, self._config), bridge, lambda: datetime.now(UTC))

    async def reach(self) -> Reach:
        """See `Registry.reach`; the permissions are those of the root, or of what is there above it."""
        listing = await identity.listing(self._client, self._tree)
        notes = []
        asked, granted = self._config.session_timeout, self._client.granted
        if granted < asked:
            notes.append(f"sessions, and with them leased entries, end after {granted:g} s: {asked:g} s were asked for")
        try:
            path, acl = await rights.nearest(self._client, self._tree.root)
        except Denied:
            may_read = may_write = None
        else:
            may_read = rights.allowed(acl, self._client.credential, (rights.READ,))
            may_write = rights.allowed(acl, self._client.credential, (rights.CREATE, rights.DELETE))
            if path != self._tree.root:
                notes.append(f"{self._tree.root} does not exist yet")
        version = await self._version()
        return Reach(listing.identity, version, may_read, may_write, tuple(notes), await self._writers())

    async def _writers(self) -> frozenset[str] | None:
        found = set()
        try:
            for bridge in map(unquote, await self._client.children(ledger.LOCK)):
                lock = ledger.lock_of(bridge, self._tree.mapping.NAME, self._tree.root)
                if await self._client.children(lock):
                    found.add(bridge)
        except Denied:  # locks are no part of what a reader must see
            return None
        return frozenset(found)

    async def raw(self, name: ServiceName) -> dict[str, str]:
        """Paths and values of one service's nodes, its ledger's among them."""
        found: dict[str, str] = {}
        async with aclosing(self._tree.folders([self._tree.folder_of(name)])) as folders:
            async for folder in folders:
                for key, pair in folder.pairs.items():
                    for root, node in ((self._tree.root, pair.entry), (self._tree.ledger, pair.word)):
                        if node is not None:
                            found[f"{root}/{key}"] = node.value.decode(errors="replace")
        return found

    async def _version(self) -> str:
        """What the first server that answers `srvr` says; not over TLS, where that command is not understood."""
        if self._config.tls is not None:
            return ""
        for host in self._config.ensemble().hosts:
            address, _, port = host.rpartition(":")
            try:
                async with asyncio.timeout(SRVR_TIME):
                    reader, writer = await asyncio.open_connection(address.strip("[]"), int(port))
                    try:
                        writer.write(b"srvr")
                        found = _VERSION.search(await reader.read())
                    finally:
                        writer.close()
            except (OSError, TimeoutError):
                continue
            if found is not None:
                return f"ZooKeeper {found[1].decode()}"
        return ""


def create(name: str, config: Config, state: Path | None) -> ZooKeeper:
    """The registry of one block of the configuration; a writer's session is kept in `state`. Raises ConfigError."""
    if config.auth is not None:
        try:
            config.auth.credential()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: password_file: {error}") from None
    return ZooKeeper(name, config, state)
