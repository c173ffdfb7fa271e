"""Consul as a destination: natives hold a query on each node of the bridge, and on its locks.

A query tells the state at an index, not each event: what is overwritten at once may go unseen, and of what is gone only
is known between which two indices it went.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.kit.natives import Event, key, record
from tests.kit.waiting import until
from tests.servers.consul import Consul

NODES = [f"isthmus-b1-{number:02}" for number in range(4)]  # each has room for a hundred
WAIT = 2  # seconds that a query is held
LOCKS = "isthmus/lock/b1"


def block(server: Consul) -> dict[str, Any]:
    """Of the registry in a file."""
    return {"kind": "consul", "address": server.url, "datacenters": ["dc1"], "protocol": "grpc"}


class Row(NamedTuple):
    """What stands under a key, and the index at which it was written."""

    written: int
    value: str


def _entries(found: Any) -> dict[str, Row]:
    """Of one node."""
    rows = {}
    for one in (found or {}).get("Services") or []:
        id = one["Meta"]["isthmus-id"]
        text = record(one["Service"], id, one["Address"], one["Port"], n=one["Meta"]["n"])
        rows[key(one["Service"], id)] = Row(one["ModifyIndex"], text)
    return rows


def _locks(found: Any) -> dict[str, Row]:
    return {f"/{one['Key']}": Row(one["ModifyIndex"], base64.b64decode(one["Value"] or "").decode()) for one in found}


class Told(list[Event]):
    """Every event that was seen so far."""

    def __init__(self, server: Consul) -> None:
        super().__init__()
        self._server = server
        self._indices: dict[str, int] = {}

    async def caught_up(self) -> Told:
        asked = {path: (await asyncio.to_thread(self.ask, path, 0))[1] for path in self._indices}
        await until(
            lambda: all(self._indices[path] >= index for path, index in asked.items()),
            "the observer has seen everything",
        )
        return self

    def ask(self, path: str, index: int) -> tuple[Any, int]:
        """One query; what stands there, and at which index."""
        url = f"{self._server.url}{path}{'&' if '?' in path else '?'}index={index}&wait={WAIT}s"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.loads(answer.read()), int(answer.headers["X-Consul-Index"])
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return [], int(error.headers["X-Consul-Index"])

    async def follow(self, threads: ThreadPoolExecutor, path: str, rows: Callable[[Any], dict[str, Row]]) -> None:
        """Never returns."""
        self._indices[path] = 0
        known: dict[str, Row] = {}
        loop = asyncio.get_running_loop()
        while True:
            before = self._indices[path]
            answer, index = await loop.run_in_executor(threads, self.ask, path, before)
            now, found = time.monotonic(), rows(answer)
            for where in known.keys() | found.keys():
                row = found.get(where)
                if row is None:
                    self.append(Event(now, index, where, None, before))
                elif row != known.get(where):
                    self.append(Event(now, row.written, where, row.value))
            known, self._indices[path] = found, index


@asynccontextmanager
async def seen(server: Consul) -> AsyncIterator[tuple[Records, Told]]:
    """The target, and what is seen of it."""
    told = Told(server)
    with ThreadPoolExecutor(len(NODES) + 1) as threads:
        paths = {f"/v1/catalog/node-services/{node}": _entries for node in NODES}
        works = [
            told.follow(threads, path, rows) for path, rows in (paths | {f"/v1/kv/{LOCKS}?recurse": _locks}).items()
        ]
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield Records(server), told
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Records:
    """See `tests.group.targets.Target`."""

    def __init__(self, server: Consul) -> None:
        self._server = server

    async def records(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for node in NODES:
            rows = _entries(await self._server.call("GET", f"/v1/catalog/node-services/{node}"))
            found |= {where: row.value for where, row in rows.items()}
        return found

    async def halves(self) -> list[str]:
        return []  # an entry is one record, with its mark in it
