"""ZooKeeper in the layout of Curator: a recursive watch, and reads of many nodes at once, over a bare socket."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.bench import records
from tests.bench.records import Native
from tests.bench.sides import Record, jute
from tests.servers.zookeeper import ZooKeeper as Server

TIMEOUT = 3600  # seconds: no session of a native ends while something is measured
# What it has acknowledged is on the disk, and all fleets of a row fit into it. It compiles quickly, as in the tests:
# on few cores the thorough compiler would compete with what is measured for minutes.
JVM = ("-Xmx3g", "-Dzookeeper.forceSync=yes")
SETTINGS = {"maxSessionTimeout": str(TIMEOUT * 1000)}
VALUES, LISTS = 200, 100  # nodes in one packet
AHEAD = 16  # packets asked for before the first is used
LINK = {"port": "grpc"}  # a record of Curator's has one port
LOCK_TTL = 30.0  # seconds: the session timeout that is asked for where the file names none
NOTE = ""


class Curator(msgspec.Struct):
    """A record, decoded into types."""

    name: str
    id: str
    address: str
    port: int | None
    sslPort: int | None
    payload: dict[str, str] | None
    registrationTimeUTC: int
    serviceType: str
    uriSpec: msgspec.Raw


_CURATOR = msgspec.json.Decoder(Curator)


def server(folder: Path, name: str, arms: int = 1) -> Server:
    return Server(folder, name=name, settings=SETTINGS, jvm=JVM)


def open(address: str, prefix: str) -> ZooKeeper:
    return ZooKeeper(address, prefix)


def block(address: str, prefix: str) -> dict[str, Any]:
    place = {"layout": "curator", "payload": "map", "root": prefix.rstrip("/"), "protocol": "grpc"}
    return {"kind": "zookeeper", "hosts": [address], **place}


class ZooKeeper:
    """See `tests.bench.sides.Side`. Natives are ephemeral, and their session outlives the connection."""

    shape = Curator
    takes_bytes = True

    def __init__(self, address: str, prefix: str) -> None:
        self._address = address
        self._prefix = prefix
        self._root = prefix.rstrip("/")
        self._head = len(prefix)
        self._folders: set[str] = set()  # that were made here

    async def __aenter__(self) -> Self:
        self._session = await jute.Session.begun(self._address, TIMEOUT)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._session.close()

    def value(self, number: int, mark: int = 0) -> bytes:
        native = records.native(number, mark)
        return self.encode(native, 1_700_000_000_000 + number)

    def decode(self, path: str, value: bytes) -> Native:
        found = _CURATOR.decode(value)
        metadata = dict(found.payload or {})
        metadata.pop("@class", None)
        return Native(found.name, found.id, found.address, metadata.pop("version", ""), metadata)

    def encode(self, native: Native, registered: int = 1_700_000_000_000) -> bytes:
        record = {
            "name": native.service,
            "id": native.id,
            "address": native.host,
            "port": 9000,
            "sslPort": None,
            "payload": {"@class": "java.util.LinkedHashMap", "version": native.version, **native.metadata},
            "registrationTimeUTC": registered,
            "serviceType": "DYNAMIC",
            "uriSpec": None,
        }
        return msgspec.json.encode(record)

    async def register(self, lot: Sequence[Record]) -> None:
        await self._write(lot, jute.EPHEMERAL)

    async def deregister(self, paths: Sequence[str]) -> None:
        await self._asked([jute.delete(self._prefix + path) for path in paths])

    async def put(self, path: str, value: bytes) -> None:
        await self._write([(path, value)], jute.PERSISTENT)

    async def put_many(self, lot: Sequence[Record]) -> None:
        await self._create(lot, jute.PERSISTENT)

    async def _write(self, lot: Sequence[Record], flags: int) -> None:
        try:
            await self._asked([jute.set_data(self._prefix + path, value) for path, value in lot])
        except jute.Refused as error:
            if error.code != jute.NO_NODE:
                raise
            await self._create(lot, flags)

    async def _create(self, lot: Sequence[Record], flags: int) -> None:
        """The requests of a session are processed in their order: no folder needs to be waited for."""
        above = []
        if not self._folders:
            parts = self._root.split("/")
            paths = ["/".join(parts[:end]) for end in range(2, len(parts) + 1)]
            above = [self._session.ask(jute.create(path, b"", jute.PERSISTENT)) for path in paths]
        folders = dict.fromkeys(folder for path, _ in lot if (folder := path.partition("/")[0]) not in self._folders)
        self._folders.update(folders)
        made = self._asked(
            [
                *(jute.create(self._prefix + folder, b"", jute.CONTAINER) for folder in folders),
                *(jute.create(self._prefix + path, value, flags) for path, value in lot),
            ]
        )
        await asyncio.gather(*above, return_exceptions=True)  # what is above may be there already
        await made

    def _asked(self, requests: Sequence[jute.Request]) -> asyncio.Future[jute.Answer]:
        return self._session.ask(requests[0] if len(requests) == 1 else jute.multi(requests))

    async def read(self) -> AsyncIterator[Sequence[Record]]:
        (folders,) = jute.children((await self._session.ask(jute.multi_read(jute.GET_CHILDREN, [self._root]))).body)
        paths: list[str] = []
        async for some, answer in self._reading(jute.GET_CHILDREN, folders, LISTS):
            for folder, ids in zip(some, jute.children(answer.body), strict=True):
                paths += [f"{folder}/{id}" for id in ids]
        async for some, answer in self._reading(jute.GET_DATA, paths, VALUES):
            values = jute.values(answer.body)
            yield [(path, value) for path, value in zip(some, values, strict=True) if value is not None]

    async def follow(self) -> AsyncIterator[Sequence[tuple[str, bytes | None]]]:
        session = self._session
        await session.ask(jute.watch(self._root))
        yield []
        while True:
            await session.notified.wait()
            session.notified.clear()
            if session.lost:
                raise ConnectionResetError("the connection is lost: changes are missed")
            changed, session.changed = session.changed, []
            below = dict.fromkeys(path[self._head :] for path in changed)
            paths = [path for path in below if "/" in path]
            async for some, answer in self._reading(jute.GET_DATA, paths, VALUES):
                yield list(zip(some, jute.values(answer.body), strict=True))

    async def _reading(
        self, kind: int, paths: Iterable[str], size: int
    ) -> AsyncIterator[tuple[Sequence[str], jute.Answer]]:
        """Nodes below the root, many in a packet, and packets ahead."""
        asked: deque[tuple[Sequence[str], asyncio.Future[jute.Answer]]] = deque()
        for some in _packets(paths, size):
            request = jute.multi_read(kind, [self._prefix + path for path in some])
            asked.append((some, self._session.ask(request)))
            if len(asked) == AHEAD:
                first, answer = asked.popleft()
                yield first, await answer
        for first, answer in asked:
            yield first, await answer

    async def writes(self) -> int:
        return (await self._session.ask(jute.exists("/"))).zxid


def _packets(paths: Iterable[str], size: int) -> Iterator[tuple[str, ...]]:
    left = iter(paths)
    while packet := tuple(islice(left, size)):
        yield packet
