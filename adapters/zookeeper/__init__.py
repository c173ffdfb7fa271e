"""ZooKeeper 3.6 and newer: the layouts of Curator, Spring Cloud and Dubbo, read and written."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from adapters.common import assembly, places
from adapters.common.shards import MovedDividedSeat
from adapters.zookeeper import acl, identity
from adapters.zookeeper import readers as reading
from adapters.zookeeper.client import Client
from adapters.zookeeper.config import Config
from adapters.zookeeper.lock import contenders
from adapters.zookeeper.readers import AdminServers
from adapters.zookeeper.seat import Places, ZooKeeperNotes, ZooKeeperSeat
from adapters.zookeeper.session_file import CarriedSession
from adapters.zookeeper.sink import ZooKeeperSink
from adapters.zookeeper.source import ZooKeeperSource
from adapters.zookeeper.steering import DubboRules
from adapters.zookeeper.times import TIMES, Times
from adapters.zookeeper.traces import traces
from adapters.zookeeper.tree import Tree, root_of
from adapters.zookeeper.txn import BYTES
from adapters.zookeeper.wire import Node
from bridge.adapter import Credential, Notes, Raw, Reach, Reader, Right, Seat, Source, Trace
from bridge.errors import ConfigError, Denied, Fault
from bridge.model import ServiceName

__all__ = ["Config", "ZooKeeper", "create"]

SRVR_TIME = 3.0  # seconds
VERBS = {"read": acl.READ, "create": acl.CREATE, "delete": acl.DELETE}
LIMITS = (f"a packet has at most {BYTES:,} bytes (jute.maxbuffer); a larger entry is parked",)
_VERSION = re.compile(rb"Zookeeper version: ([\w.]+)")


class ZooKeeper:
    """One configured ensemble and layout; see `bridge.adapter.Registry`.

    Reading and writing use separate sessions: a long list delays no write, and only the writer's outlives a restart.
    """

    def __init__(self, name: str, config: Config, state: Path | None, times: Times = TIMES) -> None:
        self.name = name
        self._config = config
        self._times = times
        self._client = Client(config, times=times)
        self._tree = Tree(self._client, config)
        self.traits = self._tree.mapping.TRAITS
        self.source = ZooKeeperSource(self._client, self._tree, times)
        self._carried = CarriedSession(state / f"{name}.session") if state is not None else None
        self._admin = AdminServers(config.admin, config.ensemble().chroot)
        self._writing: dict[str, Client] = {}  # by bridge
        self._sinks: dict[str, ZooKeeperSink] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.gather(*(client.close() for client in (self._client, *self._writing.values())))
        await self._admin.close()
        if self._carried is not None:
            await self._carried.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source: an ensemble answers or fails as a whole."""
        yield self.source

    def sink(self, bridge: str) -> ZooKeeperSink:
        """The destination side for that bridge; raises ConfigError where the layout is only read."""
        if not self._tree.layout.writable:
            raise ConfigError(Fault(f"{self._config.layout} is only read", ("layout",)))
        if bridge not in self._sinks:
            client = self._client_of(bridge)
            self._sinks[bridge] = ZooKeeperSink(client, Tree(client, self._config), bridge, self._config.payload)
        return self._sinks[bridge]

    def seat(self, bridge: str, destination: str) -> Seat:
        """Nodes below `/isthmus`, in the session that `sink` writes with."""
        client, own = self._client_of(bridge), self._tree.own
        if destination != self.name:
            return ZooKeeperSeat(client, Places.of(own, bridge, destination), _now)
        sink, nodes = self.sink(bridge), Places.of(own, bridge)
        seat = ZooKeeperSeat(client, nodes, _now, sink.prepare, sink.inherit)
        return MovedDividedSeat(seat, ZooKeeperSeat(client, nodes._replace(note=own.old_note(bridge)), _now))

    def notes(self, bridge: str) -> Notes:
        """See `bridge.adapter.Keeper`."""
        return ZooKeeperNotes(self._client_of(bridge), self._tree.own, bridge)

    def levers(self, bridge: str) -> DubboRules | None:
        """See `bridge.adapter.Steerer`: only Dubbo reads rules, which are of interfaces."""
        if self._config.layout != "dubbo2":
            return None
        return DubboRules(self._client_of(bridge), self._tree.root, bridge)

    def _client_of(self, bridge: str) -> Client:
        if bridge not in self._writing:
            self._writing[bridge] = Client(self._config, self._carried, times=self._times)
        return self._writing[bridge]

    def credentials(self) -> list[Credential]:
        """See `bridge.adapter.Credentialed`."""
        return self._client.credentials()

    async def reach(self) -> Reach:
        """See `Registry.reach`; the permissions are those of the root, or of the nearest node above it that exists."""
        listing = await identity.listing(self._client, self._tree)
        notes = []
        asked, granted = self._config.session_timeout, self._client.granted
        if granted < asked:
            notes.append(f"sessions, and with them leased entries, end after {granted:g} s: {asked:g} s were asked for")
        try:
            path, rights = await acl.nearest(self._client, self._tree.root)
        except Denied:
            path, rights = self._tree.root, None

        def may(*permissions: int) -> bool | None:
            return None if rights is None else acl.allowed(rights, self._client.credential, permissions)

        if path != self._tree.root:
            notes.append(f"{self._tree.root} does not exist yet")
        return Reach(
            listing.identity,
            await self._version(),
            may_read=may(acl.READ),
            may_write=may(acl.CREATE, acl.DELETE),
            notes=tuple(notes),
            writers=await self._writers(),
            rights=tuple(Right(f"{verb} at {path}", may(permission)) for verb, permission in VERBS.items()),
            limits=LIMITS,
        )

    async def _writers(self) -> frozenset[str] | None:
        found = set()
        try:
            for bridge in map(unquote, await self._client.children(places.LOCKS)):
                if await self._is_held(self._tree.own.lock(bridge)):
                    found.add(bridge)
        except Denied:  # a reader needs no permission for the locks
            return None
        return frozenset(found)

    async def _is_held(self, lock: str) -> bool:
        names = await self._client.children(lock)
        if places.SHARDS in names:
            shards = f"{lock}/{places.SHARDS}"
            for shard in await self._client.children(shards):
                names += await self._client.children(f"{shards}/{shard}")
        return bool(contenders(names))

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`; the folders of services belong to the layout, and are removed as those of natives are."""
        return await traces(self._client, self._tree, bridge)

    async def readers(self, name: ServiceName) -> list[Reader]:
        """See `Readers`: Dubbo's consumers register themselves; of other readers only data watches are visible."""
        now, tree = time.time(), self._tree
        places = [f"{tree.root}/{name.name}"]
        found: list[Reader] = []
        if self._config.layout == "dubbo2":
            folder = f"{tree.root}/{name.name}/consumers"
            found += reading.consumers(name, folder, await self._client.children(folder), now)
            places += [f"{tree.root}/{each}/{name.name}" for each in ("mapping", "config/dubbo")]
        ours = [client.session for client in (self._client, *self._writing.values())]
        return [*found, *await self._admin.readers(places, ours, now)]

    async def consumers(self, name: ServiceName) -> set[str]:
        """See `Observer`: of all that read ZooKeeper Dubbo's consumers alone write down what they are."""
        if self._config.layout != "dubbo2":
            return set()
        return reading.kinds(name, await self._client.children(f"{self._tree.root}/{name.name}/consumers"))

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: paths and values of one service's nodes, and of their ledger nodes."""
        found: list[Raw] = []
        tree = self._tree
        async with aclosing(tree.folders([tree.folder_of(name)])) as folders:
            async for folder in folders:
                if folder.denied:
                    found.append(Raw(f"{tree.root}/{folder.path}", "", assembly.EVERY, folder.denied))
                for key, pair in folder.pairs.items():
                    place = tree.mapping.locate(key)
                    if place is not None and place[0] != name:
                        continue  # services of several namespaces share a folder
                    if pair.denied:
                        found.append(Raw(f"{tree.root}/{key}", "", place[1] if place else "", pair.denied))
                    if pair.entry is not None:
                        record = tree.record(key, *place, pair) if place is not None else None
                        fault = record.why if record is not None else ""
                        found.append(Raw(f"{tree.root}/{key}", _text(pair.entry), place[1] if place else "", fault))
                    if pair.proof is not None:
                        found.append(Raw(f"{tree.ledger}/{key}", _text(pair.proof)))
        return found

    async def _version(self) -> str:
        """The version, by the first server that answers `srvr`; "" over TLS, where servers do not know that command."""
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


def _now() -> datetime:
    return datetime.now(UTC)


def _text(node: Node) -> str:
    return node.value.decode(errors="replace")


def place(config: Config) -> tuple[frozenset[str], str]:
    """Where a registry's entries are: its servers, and the path above all entries."""
    hosts, chroot = config.ensemble()
    return frozenset(hosts), f"{chroot}{root_of(config)}/"


def create(name: str, config: Config, state: Path | None, times: Times = TIMES) -> ZooKeeper:
    """The registry of one block of the configuration; a writer's session is kept in `state`. Raises ConfigError."""
    faults = list(config.tls.faults()) if config.tls is not None else []
    if config.auth is not None:
        try:
            config.auth.credential()
        except Denied as error:
            faults.append(Fault(str(error), ("auth", "password_file")))
    if faults:
        raise ConfigError(*faults)
    return ZooKeeper(name, config, state, times)
