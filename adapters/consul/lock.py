"""The writer's lock: a key that lives as long as a session, renewed while this process writes.

A session lives for up to twice its TTL after it was last renewed, so a lock alone keeps no paused process from writing
when it wakes up: every transaction of the sink compares the key's session (`check-session`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from adapters.common.places import SHARDS, is_divided
from adapters.common.term import SURE, LeasedTerm, holder
from adapters.consul.client import Client, Reply
from bridge.errors import Conflict, IsthmusError, Unavailable

TTL = 10  # seconds: the least that Consul takes; a standby waits for up to twice as long
LOCKS = "isthmus-locks"  # the node that sessions belong to: they end with their node, and that of an agent may leave
PAUSE = 0.2  # seconds between attempts to renew
WAIT = 20.0  # seconds that a look at the lock is held


class Divided(NamedTuple):
    """Of a shard: the index of its lock, which grows when that changes hands, the key `shards`, and its index."""

    held: int
    key: str
    said: int


class Fence(NamedTuple):
    """What a transaction compares to be that of the only writer."""

    key: str
    session: str
    dc: str
    divided: Divided | None = None


K = TypeVar("K", bound=LeasedTerm[Any])


class ConsulTerm(LeasedTerm[Fence]):
    """The time during which the lock is ours; it ends with its session, at the latest when that may have ended."""


class ConsulLife(LeasedTerm[str]):
    """The session that the locks and claims of this process are held by."""

    @property
    def id(self) -> str:
        """The session."""
        return self.fence


class Lock:
    """The key of one lock in the store of one datacenter."""

    def __init__(self, client: Client, dc: str, key: str, now: Callable[[], datetime]) -> None:
        self.key = key
        self.shards = f"{key}/{SHARDS}"
        self.now = now
        self._client = client
        self._dc = dc

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[ConsulTerm]:
        """Waits for the lock; given back at the end, so that a standby goes on."""
        term = await self._acquire()
        async with self._kept(term, term.fence.session, self._renew, self._look_after):
            yield term

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[ConsulLife]:
        """A session for locks of shards and claims, renewed inside."""
        since = asyncio.get_running_loop().time()
        life = ConsulLife(await self._session(self.shards), since, TTL)
        async with self._kept(life, life.id, self._renew):
            yield life

    @contextlib.asynccontextmanager
    async def _kept(
        self, term: K, session: str, *works: Callable[[K, str], Coroutine[Any, Any, None]]
    ) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work(term, session)) for work in works]
        try:
            yield
        finally:
            term.lose()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._destroy(session)

    async def _acquire(self) -> ConsulTerm:
        """Raises Unavailable where the destination is divided into shards."""
        taken_over = False
        while True:
            if (await self._look(self.shards)).status == 200:
                raise Unavailable(is_divided(self.shards))
            taken_over |= await self._gone()
            if term := await self._take():
                term.taken_over = taken_over
                return term
            taken_over = True

    async def _look(self, key: str) -> Reply:
        return await self._client.get(_kv(key), self._dc, accept=(404,), consistent="")

    async def _gone(self) -> bool:
        """Returns when nobody holds the lock: whether anybody did."""
        reply = await self._look(self.key)
        held = reply.status == 200
        while reply.status == 200:
            reply = await self._client.poll(_kv(self.key), self._dc, max(1, reply.index), WAIT, accept=(404,))
        return held

    async def _take(self) -> ConsulTerm | None:
        """The lock under a new session, unless there are shards; None: somebody else was faster."""
        since = asyncio.get_running_loop().time()
        session = await self._session(self.key)
        value = base64.b64encode(holder(self.now())).decode()
        ops = [
            {"KV": {"Verb": "check-not-exists", "Key": self.shards}},
            {"KV": {"Verb": "lock", "Key": self.key, "Value": value, "Session": session}},
        ]
        try:
            await self._client.put("/v1/txn", self._dc, ops)
        except Conflict:
            await self._destroy(session)
            return None
        except BaseException:
            await self._destroy(session)  # it may have been taken, and the answer lost
            raise
        return ConsulTerm(Fence(self.key, session, self._dc), since, TTL)

    async def _session(self, name: str) -> str:
        """A new session, on a node of its own that is made if there is none."""
        node = {"Node": LOCKS, "Address": "127.0.0.1", "ModifyIndex": 0}
        await self._client.put("/v1/txn", self._dc, [{"Node": {"Verb": "cas", "Node": node}}], accept=(409,))
        wanted = {"Node": LOCKS, "Name": name, "TTL": f"{TTL}s", "Behavior": "delete", "LockDelay": "0s"}
        answer = await self._client.put(
            "/v1/session/create", self._dc, {**wanted, "NodeChecks": [], "ServiceChecks": []}
        )
        return str(answer.json(dict[str, Any])["ID"])

    async def _renew(self, term: LeasedTerm[Any], session: str) -> None:
        """Renews the session every third of its time; the term ends when that fails for as long as it is sure."""
        loop = asyncio.get_running_loop()
        path = f"/v1/session/renew/{session}"
        try:
            async with asyncio.timeout_at(term.until + (1 - SURE) * TTL) as limit:
                while True:
                    await asyncio.sleep(TTL / 3)
                    asked = loop.time()
                    while not await self._renewed(path):
                        await asyncio.sleep(PAUSE)
                        asked = loop.time()
                    term.renewed(asked)
                    limit.reschedule(asked + TTL)
        except TimeoutError:
            pass
        finally:
            term.lost.set()

    async def _renewed(self, path: str) -> bool:
        try:
            answer = await self._client.put(path, self._dc, accept=(404,))
        except IsthmusError:
            return False  # tried again until it is too late
        if answer.status == 404:
            raise TimeoutError  # it has expired
        return True

    async def _look_after(self, term: ConsulTerm, session: str) -> None:
        """The term ends as soon as the key is not this session's any more: someone destroyed the session or the key."""
        path = _kv(term.fence.key)
        index = 1
        while True:
            try:
                reply = await self._client.poll(path, self._dc, index, WAIT, accept=(404,))
            except IsthmusError:
                index = 1
                await asyncio.sleep(PAUSE)
                continue
            if reply.status == 404 or _session(reply) != session:
                term.lost.set()
                return
            index = max(1, reply.index)

    async def _destroy(self, session: str) -> None:
        with contextlib.suppress(IsthmusError):  # where it fails, the session ends by itself
            await self._client.put(f"/v1/session/destroy/{session}", self._dc)


def _kv(key: str) -> str:
    return f"/v1/kv/{quote(key)}"


def _session(reply: Reply) -> str:
    (found,) = reply.json(list[dict[str, Any]])
    return str(found.get("Session", ""))
