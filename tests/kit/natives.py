"""Clients of etcd, ZooKeeper and folders that know nothing of bridges, and the judges of what a target went through.

The truth is what every source write logged, with the time; the history is a native watch of the target. The judges
compare both (the promises I1, I2 and I4 of docs/safety.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc
import msgspec
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError

from adapters.etcd import etcd_pb2 as pb
from tests.kit.waiting import until

T = TypeVar("T")

PREFIX = "/microservices/"
LEDGER = "/isthmus/ledger/"
LOCKS = "/isthmus/lock/"

METHODS: dict[str, tuple[str, Any]] = {
    "range": ("KV/Range", pb.RangeResponse),
    "txn": ("KV/Txn", pb.TxnResponse),
    "put": ("KV/Put", pb.PutResponse),
    "delete": ("KV/DeleteRange", pb.DeleteRangeResponse),
    "grant": ("Lease/LeaseGrant", pb.LeaseGrantResponse),
    "revoke": ("Lease/LeaseRevoke", pb.LeaseRevokeResponse),
}


def key(service: str, id: str) -> str:
    """Where kratos puts an instance."""
    return f"{PREFIX}{service}/{id}"


def record(service: str, id: str, address: str, port: int = 9000, **metadata: str) -> str:
    """What go-kratos v2.9.2 writes: Go's encoding/json, keys of maps sorted."""
    said = {
        "id": id,
        "name": service,
        "version": "v1",
        "metadata": dict(sorted(metadata.items())) or None,
        "endpoints": [f"grpc://{address}:{port}"],
    }
    return json.dumps(said, separators=(",", ":"))


class Write(NamedTuple):
    """One write of a native: when it began and had been made (monotonic seconds), and what it left; None: nothing."""

    begun: float
    done: float
    value: str | None


class Truth:
    """Everything that natives did at a source, by the key that it has at the target."""

    def __init__(self) -> None:
        self.writes: dict[str, list[Write]] = {}

    @property
    def now(self) -> dict[str, str]:
        """What stands there."""
        last = {each: writes[-1].value for each, writes in self.writes.items()}
        return {each: value for each, value in last.items() if value is not None}

    def note(self, where: str, begun: float, value: str | None) -> None:
        """A write that has just been made."""
        self.writes.setdefault(where, []).append(Write(begun, time.monotonic(), value))

    def allows_removal(self, where: str, at: float, slack: float) -> bool:
        """Whether a removal seen at that time follows from one at the source that was not undone `slack` before."""
        allowed = False
        for write in self.writes.get(where, ()):
            if write.value is None and write.begun <= at:
                allowed = True
            elif write.value is not None and write.done < at - slack:
                allowed = False
        return allowed


class Event(NamedTuple):
    """One event at a target: when we heard it (monotonic seconds), and what it left under the key; None: nothing.

    `after`: it was made after that revision, and at `revision` at the latest; None: exactly then.
    """

    at: float
    revision: int
    key: str
    value: str | None
    after: int | None = None


class History(list[Event]):
    """Every event below a prefix, as a native hears them: on a loaded machine later than whoever asks the store.

    So whoever asserts what did or did not happen waits for `caught_up` first.
    """

    def __init__(self, native: Etcd, marker: str) -> None:
        super().__init__()
        self._native = native
        self._marker = marker  # no record of any layout
        self._made = 0
        self._heard = 0

    def note(self, event: Event) -> None:
        """The next one."""
        if event.key != self._marker:
            self.append(event)
        elif event.value is None:
            self._heard += 1

    async def caught_up(self) -> History:
        """Returns when everything is heard that had happened when this was called."""
        self._made += 1
        made = self._made
        where = self._marker.encode()
        await self._native.call("put", pb.PutRequest(key=where))
        await self._native.call("delete", pb.DeleteRangeRequest(key=where))
        await until(lambda: self._heard >= made, "the observer has heard everything")
        return self


class Etcd:
    """A native client of one etcd: short calls, over a connection of its own. `truth` notes what it registers."""

    def __init__(self, address: str, truth: Truth | None = None) -> None:
        self.address = address
        self.truth = truth or Truth()
        self._channel: Any = grpc.aio.insecure_channel(address)
        self._calls: dict[str, Any] = {}

    async def __aenter__(self) -> Etcd:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def call(self, method: str, request: Any) -> Any:
        """One request of `METHODS`."""
        if method not in self._calls:
            path, answer = METHODS[method]
            self._calls[method] = self._channel.unary_unary(
                f"/etcdserverpb.{path}", type(request).SerializeToString, answer.FromString
            )
        return await self._calls[method](request, timeout=10.0, wait_for_ready=True)

    # As go-kratos does: grant, put under the lease, keep alive; again over the old record where the lease was lost.

    async def lease(self, ttl: int = 600) -> int:
        """Grants a lease."""
        return int((await self.call("grant", pb.LeaseGrantRequest(ttl=ttl))).id)

    async def register(self, service: str, id: str, address: str, lease: int = 0, **more: Any) -> str:
        """Puts a record; returns its key. `more`: port, metadata."""
        where = key(service, id)
        await self.put(where, record(service, id, address, **more), lease or await self.lease())
        return where

    async def put(self, where: str, value: str, lease: int = 0) -> None:
        begun = time.monotonic()
        await self.call("put", pb.PutRequest(key=where.encode(), value=value.encode(), lease=lease))
        self.truth.note(where, begun, value)

    async def delete(self, *places: str) -> None:
        """One transaction."""
        begun = time.monotonic()
        gone = [pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=where.encode())) for where in places]
        await self.call("txn", pb.TxnRequest(success=gone))
        for where in places:
            self.truth.note(where, begun, None)

    async def revoke(self, lease: int, *places: str) -> None:
        """Ends a lease, and with it what stands at those places."""
        begun = time.monotonic()
        await self.call("revoke", pb.LeaseRevokeRequest(id=lease))
        for where in places:
            self.truth.note(where, begun, None)

    # Looking.

    async def below(self, prefix: str = PREFIX, at: int = 0) -> list[Any]:
        """Keys, values and revisions, in key order; `at` an earlier revision of the store."""
        request = pb.RangeRequest(key=prefix.encode(), range_end=_end(prefix), revision=at)
        return list((await self.call("range", request)).kvs)

    async def records(self, prefix: str = PREFIX) -> dict[str, str]:
        """Values by key."""
        return {kv.key.decode(): kv.value.decode() for kv in await self.below(prefix)}

    async def versions(self, prefix: str = PREFIX) -> dict[str, int]:
        """Revisions by key: equal as long as nobody writes there."""
        return {kv.key.decode(): kv.mod_revision for kv in await self.below(prefix)}

    async def revision(self) -> int:
        """The store's."""
        return int((await self.call("range", pb.RangeRequest(key=b"x"))).header.revision)

    async def lock(self, bridge: str = "b1") -> Any:
        """The lock of a bridge id as it stands, None where nobody has it."""
        return next(iter(await self.below(f"{LOCKS}{bridge}/")), None)

    async def expire_lock(self, bridge: str = "b1") -> None:
        """What etcd does by itself when a writer has been silent for ten seconds."""
        held = await self.lock(bridge)
        if held is not None:
            await self.call("revoke", pb.LeaseRevokeRequest(id=held.lease))

    async def halves(self) -> list[str]:
        """Ledger entries without the data that they speak of: what a torn write would leave."""
        at = await self.revision()  # of both: what is on its way comes between two reads
        entries = {kv.key.decode(): kv.mod_revision for kv in await self.below(at=at)}
        words = {kv.key.decode().removeprefix(LEDGER): kv.mod_revision for kv in await self.below(LEDGER, at)}
        return [where for where, revision in words.items() if entries.get(where) != revision]

    @asynccontextmanager
    async def history(self, prefix: str = PREFIX) -> AsyncIterator[History]:
        """Every event below a prefix from now on, gathered behind the test's back."""
        events = History(self, f"{prefix}~observer")
        call = self._channel.stream_stream(
            "/etcdserverpb.Watch/Watch", pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
        )()
        create = pb.WatchCreateRequest(
            key=prefix.encode(), range_end=_end(prefix), start_revision=await self.revision() + 1
        )
        await call.write(pb.WatchRequest(create_request=create))
        await call.read()

        async def gather() -> None:
            while isinstance(answer := await call.read(), pb.WatchResponse):
                now = time.monotonic()
                for event in answer.events:
                    kv = event.kv
                    value = None if event.type == pb.Event.DELETE else kv.value.decode()
                    events.note(Event(now, kv.mod_revision, kv.key.decode(), value))

        task = asyncio.create_task(gather())
        try:
            yield events
        finally:
            call.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _end(prefix: str) -> bytes:
    return (prefix[:-1] + chr(ord(prefix[-1]) + 1)).encode()


class Kazoo:
    """A stock client of one ZooKeeper, with a session of its own; calls run in threads, for kazoo's API blocks."""

    def __init__(self, hosts: str, **options: Any) -> None:
        self.zk = KazooClient(hosts, timeout=20.0, **options)

    async def __aenter__(self) -> Kazoo:
        await asyncio.to_thread(self.zk.start, 20)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.zk.stop)
        await asyncio.to_thread(self.zk.close)

    async def do(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """One of kazoo's calls."""
        return await asyncio.to_thread(function, *arguments, **options)

    async def register(self, path: str, value: str, *, ephemeral: bool = True) -> None:
        """As Curator does: its own record is written over, anything else is deleted and created anew, here at once."""
        await self.do(self._register, path, value.encode(), ephemeral)

    async def delete(self, path: str) -> None:
        with contextlib.suppress(NoNodeError):
            await self.do(self.zk.delete, path)

    def _register(self, path: str, value: bytes, ephemeral: bool) -> None:
        while True:
            try:
                self.zk.create(path, value, ephemeral=ephemeral, makepath=True)
                return
            except NodeExistsError:
                with contextlib.suppress(NoNodeError):
                    stat = self.zk.exists(path)
                    if ephemeral and stat is not None and stat.ephemeralOwner == self.zk.client_id[0]:
                        self.zk.set(path, value)
                        return
                    anew = self.zk.transaction()
                    anew.delete(path)
                    anew.create(path, value, ephemeral=ephemeral)
                    anew.commit()
                    return

    async def expire(self, session: int, password: bytes) -> None:
        """Ends someone else's session, as silence would."""
        async with Kazoo(",".join(f"{host}:{port}" for host, port in self.zk.hosts), client_id=(session, password)):
            pass


class Folder:
    """People who keep a folder of service files, written as their editors do: aside, then into place."""

    def __init__(self, path: Path, truth: Truth | None = None) -> None:
        self.path = path
        self.truth = truth or Truth()
        self.services: dict[str, dict[str, dict[str, Any]]] = {}
        path.mkdir(exist_ok=True)

    def set(self, service: str, **instances: str | Mapping[str, Any]) -> None:
        """A service's instances: by id an address, or a record of the file form."""
        fresh = {id: {"address": one} if isinstance(one, str) else dict(one) for id, one in instances.items()}
        self.services[service] = {
            id: {"id": id, "ports": [{"number": 9000, "protocol": "grpc"}], **one} for id, one in fresh.items()
        }
        self._write(service)

    def unset(self, service: str, *ids: str) -> None:
        """Some instances go; without ids the whole file."""
        for id in ids:
            del self.services[service][id]
        if not ids:
            del self.services[service]
        self._write(service)

    def _write(self, service: str) -> None:
        begun = time.monotonic()
        instances = self.services.get(service)
        if instances is None:
            (self.path / f"{service}.yaml").unlink()
        else:
            draft = self.path / f".{service}.draft"
            draft.write_bytes(msgspec.json.encode({"instances": list(instances.values())}))
            draft.rename(self.path / f"{service}.yaml")
        for id, one in (instances or {}).items():
            self.truth.note(key(service, id), begun, json.dumps(one))
        for where in self.truth.now:
            if where.startswith(key(service, "")) and where.rpartition("/")[2] not in (instances or {}):
                self.truth.note(where, begun, None)


# -- the judges


def wrongful(history: list[Event], truth: Truth, slack: float = 1.0) -> list[str]:
    """I1: each removal at the target has an earlier one at the source of that very instance, not undone before it."""
    return [
        f"{event.key} was removed at revision {event.revision}, though it lives"
        for event in history
        if event.value is None and not truth.allows_removal(event.key, event.at, slack)
    ]


def backward(history: list[Event]) -> list[str]:
    """I4: per key the target never returns to an older state of the source; records say their `n` in the metadata."""
    newest: dict[str, int] = {}
    found = []
    for event in history:
        if event.value is not None:
            number = int((json.loads(event.value)["metadata"] or {}).get("n", 0))
            if number < newest.get(event.key, 0):
                found.append(f"{event.key} went back from {newest[event.key]} to {number}")
            newest[event.key] = number
    return found
