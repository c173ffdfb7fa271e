"""ZooKeeper as a destination: its transaction log has every write, and the session that made it."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from kazoo.exceptions import NoNodeError

from tests.kit.natives import LOCKS, PREFIX, Event, Kazoo, key, record
from tests.servers.zookeeper import ZooKeeper

ROOT = "/services/"
LEDGER = "/isthmus/ledger"
CREATES = {1, 15, 19}  # create, create2, createContainer: path, data, and more
DELETES = {2, 20}
SET_DATA, MULTI, CLOSE_SESSION = 5, 14, -11
FILE = 16  # bytes of a log's own header
HEADER = struct.Struct("!qiqqi")  # session, number of the request, zxid, milliseconds, type
_INT = struct.Struct("!i")


def block(server: ZooKeeper) -> dict[str, Any]:
    """Of the registry in a file."""
    return {"kind": "zookeeper", "hosts": [server.address], "layout": "curator", "payload": "map"}


@asynccontextmanager
async def seen(server: ZooKeeper) -> AsyncIterator[tuple[Records, Log]]:
    """The target, and its log."""
    async with Kazoo(server.address) as native:
        yield Records(native), Log(server.data / "version-2")


def said(path: str, value: bytes) -> tuple[str, str]:
    """An entry's key and its record, as kratos would have them."""
    service, _, id = path.removeprefix(ROOT).partition("/")
    found = json.loads(value)
    return key(service, id), record(service, id, found["address"], found["port"], n=found["payload"]["n"])


class Records:
    """See `tests.group.targets.Target`."""

    def __init__(self, native: Kazoo) -> None:
        self._native = native

    async def records(self) -> dict[str, str]:
        return dict(said(path, value) for path, value in (await self._tree(ROOT[:-1])).items() if value)

    async def halves(self) -> list[str]:
        entries, ledger = await self._places(ROOT[:-1]), await self._places(f"{LEDGER}{ROOT[:-1]}")
        return sorted(set(ledger) - {f"{LEDGER}{path}" for path in entries})

    async def _places(self, path: str) -> list[str]:
        return [each for each in await self._tree(path) if each.count("/") == path.count("/") + 2]

    async def _tree(self, path: str) -> dict[str, bytes]:
        return await self._native.do(self._below, path)

    def _below(self, path: str) -> dict[str, bytes]:
        """What stands there; of a node that goes meanwhile nothing."""
        found: dict[str, bytes] = {}
        zk = self._native.zk
        with suppress(NoNodeError):
            for name in zk.get_children(path):
                below = f"{path}/{name}"
                with suppress(NoNodeError):
                    found[below] = zk.get(below)[0]
                    found |= self._below(below)
        return found


class _Reader:
    """What follows in a record of the log."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def int(self) -> int:
        self.at += 4
        return int(_INT.unpack_from(self.data, self.at - 4)[0])

    def buffer(self) -> bytes:
        size = max(0, self.int())
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self) -> str:
        return self.buffer().decode()


Step = tuple[str, bytes | None]  # a path, and what it says from then on; None: it is gone


def _steps(kind: int, data: bytes) -> Iterator[Step]:
    """What a transaction did."""
    body = _Reader(data)
    if kind == MULTI:
        for _ in range(body.int()):
            yield from _steps(body.int(), body.buffer())
    elif kind in CREATES or kind == SET_DATA:
        yield body.text(), body.buffer()
    elif kind in DELETES:
        yield body.text(), None
    elif kind == CLOSE_SESSION:
        for _ in range(body.int()):
            yield body.text(), None


class Log(list[Event]):
    """Every event so far, by the log on disk; `read` has it read on. The lock of a shard is that of its first node."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._file: Path | None = None
        self._at = FILE
        self._queues: dict[str, dict[str, str]] = {}

    def __iter__(self) -> Iterator[Event]:
        self.read()
        return super().__iter__()

    async def caught_up(self) -> Log:
        self.read()  # what was answered is in the log
        return self

    def read(self) -> None:
        """Reads on to where the log ends now."""
        for file in sorted(self._folder.glob("log.*"), key=lambda path: int(path.suffix[1:], 16)):
            if self._file is not None and int(file.suffix[1:], 16) < int(self._file.suffix[1:], 16):
                continue
            if file != self._file:
                self._file, self._at = file, FILE
            with file.open("rb") as log:
                log.seek(self._at)
                while self._next(log):
                    pass

    def _next(self, log: Any) -> bool:
        _, size = head if len(head := log.read(12)) == 12 and (head := struct.unpack("!qi", head)) else (0, 0)
        data = log.read(size + 1) if size > 0 else b""
        if len(data) != size + 1 or data[-1:] != b"B":
            return False
        self._at = log.tell()
        _, _, zxid, wall, kind = HEADER.unpack_from(data)
        at = time.monotonic() - (time.time() - wall / 1000)
        for path, value in _steps(kind, data[HEADER.size : size]):
            self._take(at, zxid, path, value)
        return True

    def _take(self, at: float, zxid: int, path: str, value: bytes | None) -> None:
        if path.startswith(ROOT) and path.count("/") == 3 and value != b"":  # empty: the first half of a write
            where = said(path, value) if value is not None else (PREFIX + path.removeprefix(ROOT), None)
            self.append(Event(at, zxid, *where))
        elif path.startswith(LOCKS) and "/shards/" in path and "/writer-" in path:
            lock, _, name = path.rpartition("/")
            queue = self._queues.setdefault(lock, {})
            before = queue[min(queue)] if queue else None
            if value is None:
                queue.pop(name, None)
            else:
                queue[name] = value.decode()
            first = queue[min(queue)] if queue else None
            if first != before:
                self.append(Event(at, zxid, lock, first))
