"""The writer's lock: a Lease, taken and renewed by comparing its resourceVersion, with the bridge's note beside it.

Kubernetes cannot compare the Lease in the write of another object (its resourceVersion is no fence for a slice): the
sink looks at the term's deadline before each request, and writes as a field manager that has the term's epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from adapters.common.places import is_divided
from adapters.common.term import LeasedTerm
from adapters.kubernetes.client import Client, ListMeta, Resource
from adapters.kubernetes.watching import Changed, Everything, Follower
from bridge.errors import Conflict, Denied, IsthmusError, Unavailable
from mappings.common.slice_entry import BRIDGE, digest, dns_name

LEASES = Resource("apis/coordination.k8s.io/v1", "leases")
MERGE = "application/merge-patch+json"

LOCK_TTL = 10  # seconds: how long a standby waits for a writer that died
RENEWAL = 2.0  # seconds between renewals
PAUSE = 0.2  # seconds after a renewal that got no answer
PATIENCE = 3.0  # seconds for one answer, so that a request cannot outlast the last third of the lock's time
POLL = 0.5  # seconds between looks at a lock that another holds

KIND = "isthmus.io/lock"  # a label: `own` or `lent`, and likewise PART and MEMBER; NOTED: it has a note alone
PART = {"own": "shard", "lent": "lent-shard"}  # the KIND of the Lease of a shard, by that of the whole
MEMBER = {"own": "member", "lent": "lent-member"}  # that of a process that asks for shards
SEAT = "isthmus.io/seat"  # a label of all Leases of one divided seat: the whole's, the shards', and the members'
KEY = "isthmus.io/key"  # an annotation of a note that is of no destination
SHARDS = "isthmus.io/shards"  # an annotation of the Lease of the whole: into how many shards it is divided
NOTED = "note"  # the KIND of a Lease that has a note under a key
NOTE = "isthmus.io/note"  # an annotation: a number that each new note raises, and the note in base64


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """What all objects have, as far as the lock needs it."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    """Of a Lease."""

    holder_identity: str = ""
    lease_duration_seconds: int = LOCK_TTL
    lease_transitions: int = 0
    renew_time: datetime | None = None


class Lease(msgspec.Struct, frozen=True):
    """A Lease as the server has it."""

    metadata: Meta = Meta()
    spec: Spec = Spec()


class LeaseList(msgspec.Struct, frozen=True):
    """All of a namespace."""

    items: list[Lease] = []
    metadata: ListMeta = ListMeta()


class Fence(NamedTuple):
    """Who the one writer is: the Lease's name, its holder, and how often it changed hands, which is the epoch."""

    lease: str
    holder: str
    transitions: int


class LeaseTerm(LeasedTerm[Fence]):
    """The time during which the lock is ours; see `bridge.adapter.Term`. `is_last`: the Lease goes with its end."""

    def __init__(self, fence: Fence, since: float, *, taken_over: bool = False) -> None:
        super().__init__(fence, since, LOCK_TTL, taken_over=taken_over)
        self.is_last = False


class Leases:
    """The Leases of one namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.namespace = namespace
        self._client = client

    async def get(self, name: str) -> Lease | None:
        """One Lease; None: there is none."""
        return await self._client.get(LEASES.path(self.namespace, name), Lease)

    async def listed(self) -> list[Lease]:
        """Those that bridges hold or held."""
        answer = await self._client.call("GET", LEASES.path(self.namespace), query={"labelSelector": KIND})
        found: LeaseList = answer.json(LeaseList)
        return found.items

    async def of_seat(self, seat: str) -> Everything:
        """All Leases of one divided seat, as they are in the store."""
        answer = await self._client.call("GET", LEASES.path(self.namespace), query={"labelSelector": f"{SEAT}={seat}"})
        found: LeaseList = answer.json(LeaseList)
        return Everything("", [*found.items], found.metadata.resource_version)

    async def follow(self, seat: str, hand_over: Callable[[Everything | Changed], Awaitable[None]]) -> None:
        """All Leases of one divided seat, and each change of one; ends by Expired, Unavailable or Denied alone."""

        async def stands() -> None:
            """Whichever cluster answers, a lock is taken by what its store compares."""

        path, selector = LEASES.path(self.namespace), f"{SEAT}={seat}"
        await Follower(self._client, path, Lease, random.Random(), stands, selector).run(hand_over)

    async def create(
        self, name: str, kind: str, bridge: str, spec: Mapping[str, Any], seat: str = "", **annotations: str
    ) -> Lease:
        """Raises Conflict where it is there already."""
        labels = {KIND: kind} | ({SEAT: seat} if seat else {})
        meta = {"name": name, "labels": labels, "annotations": {BRIDGE: bridge} | annotations}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        return await self._sent("POST", LEASES.path(self.namespace), body, "application/json")

    async def patch(
        self,
        lease: Lease,
        spec: Mapping[str, Any] | None = None,
        annotations: Mapping[str, str | None] | None = None,
        seat: str = "",
    ) -> Lease:
        """Changes it, unless it is not what it was: then raises Conflict. An annotation that becomes None goes."""
        meta: dict[str, Any] = {"resourceVersion": lease.metadata.resource_version}
        if annotations:
            meta["annotations"] = annotations
        if seat:
            meta["labels"] = {SEAT: seat}
        body = {"metadata": meta} | ({"spec": spec} if spec else {})
        return await self._sent("PATCH", LEASES.path(self.namespace, lease.metadata.name), body, MERGE)

    async def delete(self, lease: Lease) -> None:
        """Raises Conflict where it is not what it was."""
        meta = lease.metadata
        body = msgspec.json.encode({"preconditions": {"uid": meta.uid, "resourceVersion": meta.resource_version}})
        path = LEASES.path(self.namespace, meta.name)
        await self._client.call("DELETE", path, body=body, accept=(404,), timeout=PATIENCE)

    async def may_delete(self, name: str) -> None:
        """Raises Denied, with the rule that is missing, where `delete` would. Changes nothing."""
        path = LEASES.path(self.namespace, name)
        await self._client.call("DELETE", path, query={"dryRun": "All"}, accept=(404,), timeout=PATIENCE)

    async def _sent(self, method: str, path: str, body: Mapping[str, Any], content: str) -> Lease:
        text = msgspec.json.encode(body)
        answer = await self._client.call(method, path, body=text, content=content, accept=(404,), timeout=PATIENCE)
        if answer.status == 404:
            if method == "POST":
                raise Unavailable(f"the namespace {self.namespace} of the lock is not there")
            raise Conflict(f"{path} is gone")
        found: Lease = answer.json(Lease)
        return found


class Lock(NamedTuple):
    """The lock of one bridge for one destination. `kind`: `own` or `lent`."""

    leases: Leases
    name: str
    kind: str
    bridge: str
    now: Callable[[], datetime]


def note_name(bridge: str, key: str) -> str:
    """Of the Lease that has the note of a bridge under a key."""
    return f"{lock_name(bridge)}.note-{digest(key, 8)}"


def lock_name(bridge: str, lent: str = "") -> str:
    """Of the Lease of a bridge: its id where that is a name for an object, else made of it with a hash."""
    slug = dns_name(bridge)
    own = f"isthmus-{slug if slug == bridge else f'{slug[:40]}-{digest(bridge, 4)}'}"
    return f"{own}.lent-{dns_name(lent)[:40]}-{digest(lent, 4)}" if lent else own


@contextlib.asynccontextmanager
async def locked(lock: Lock) -> AsyncIterator[LeaseTerm]:
    """Waits for the lock, and keeps it; given back at the end, so that a standby goes on."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        lease, since, taken_over = await _acquire(lock, holder)
    except BaseException:
        await _release(lock, holder)  # it may have been taken, and the answer lost
        raise
    term = LeaseTerm(Fence(lock.name, holder, lease.spec.lease_transitions), since, taken_over=taken_over)
    keeping = asyncio.create_task(kept(term, since, _renewal(lock, lease, holder)))
    try:
        yield term
    finally:
        term.lost.set()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await _release(lock, holder, term.is_last)


async def holds(leases: Leases, fence: Fence) -> bool:
    """Whether the lock is still that term's, asked of the server."""
    lease = await leases.get(fence.lease)
    return lease is not None and (lease.spec.holder_identity, lease.spec.lease_transitions) == fence[1:]


async def writers(leases: Leases, now: datetime) -> frozenset[str] | None:
    """The bridges that hold their lock, or that of a shard, as far as clocks agree; None: we may not ask."""
    try:
        found = await leases.listed()
    except Denied:
        return None
    fresh = [
        each
        for each in found
        if each.spec.holder_identity
        and each.spec.renew_time is not None
        and (now - each.spec.renew_time).total_seconds() < each.spec.lease_duration_seconds
    ]
    members = {each.metadata.name for each in fresh if each.metadata.labels[KIND] == MEMBER["own"]}
    parts = [each for each in found if each.metadata.labels[KIND] == PART["own"]]
    wholes = [each for each in fresh if each.metadata.labels[KIND] == "own"]
    writing = [*wholes, *(each for each in parts if each.spec.holder_identity in members)]
    return frozenset(each.metadata.annotations[BRIDGE] for each in writing)


async def _acquire(lock: Lock, holder: str) -> tuple[Lease, float, bool]:
    """The Lease once it is ours, when we asked for it, and whether another had it before: it takes a second look then.

    Raises Unavailable where the destination is divided into shards.
    """
    loop = asyncio.get_running_loop()
    seen, since, taken_over = "", 0.0, False
    while True:
        lease = await lock.leases.get(lock.name)
        asked = loop.time()
        if lease is not None and lease.metadata.resource_version != seen:
            seen, since = lease.metadata.resource_version, asked
        if lease is not None and SHARDS in lease.metadata.annotations:
            raise Unavailable(is_divided(f"Lease {lock.name}"))
        with contextlib.suppress(Conflict):
            if lease is None:
                spec = taken(holder, 1, lock.now())
                return await lock.leases.create(lock.name, lock.kind, lock.bridge, spec), asked, taken_over
            # By our own clock since it last changed: nobody's clock is compared with another's.
            if not lease.spec.holder_identity or asked - since >= lease.spec.lease_duration_seconds:
                spec = taken(holder, lease.spec.lease_transitions + 1, lock.now())
                return await lock.leases.patch(lease, spec), asked, taken_over
        taken_over = True
        await asyncio.sleep(POLL)


async def kept(term: LeasedTerm[Any], since: float, renew: Callable[[], Awaitable[bool]]) -> None:
    """Renews a Lease until it is lost, at the latest when another process may have it; the term is over then.

    `renew()` returns whether the Lease was renewed, and raises Conflict where it is no longer ours.
    """
    loop = asyncio.get_running_loop()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(since + LOCK_TTL) as limit:
                while True:
                    await asyncio.sleep(RENEWAL)
                    asked = loop.time()
                    try:
                        if await renew():
                            limit.reschedule(asked + LOCK_TTL)
                            term.renewed(asked)
                    except Conflict:
                        return
                    except IsthmusError:
                        await asyncio.sleep(PAUSE)  # tried again until it is too late
    finally:
        term.lose()


def _renewal(lock: Lock, lease: Lease, holder: str) -> Callable[[], Awaitable[bool]]:
    """How the Lease of a lock is renewed, for `kept`."""

    async def renew() -> bool:
        nonlocal lease
        try:
            lease = await lock.leases.patch(lease, {"renewTime": time_of(lock.now())})
        except Conflict:  # a note was written there, or the lock was taken
            found = await _look(lock)
            if found is not None and found.spec.holder_identity != holder:
                raise
            lease = found or lease
            return False
        return True

    return renew


async def _look(lock: Lock) -> Lease | None:
    """The Lease, an empty one where it was deleted, None where nobody answers."""
    try:
        return await lock.leases.get(lock.name) or Lease()
    except IsthmusError:
        return None


async def _release(lock: Lock, holder: str, is_last: bool = False) -> None:
    with contextlib.suppress(IsthmusError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            lease = await lock.leases.get(lock.name)
            if lease is not None and lease.spec.holder_identity == holder:
                await (lock.leases.delete(lease) if is_last else lock.leases.patch(lease, {"holderIdentity": ""}))


def taken(holder: str, transitions: int, now: datetime) -> dict[str, Any]:
    """The spec of a Lease that somebody takes."""
    return {
        "holderIdentity": holder,
        "leaseDurationSeconds": LOCK_TTL,
        "leaseTransitions": transitions,
        "acquireTime": time_of(now),
        "renewTime": time_of(now),
    }


def time_of(now: datetime) -> str:
    """A MicroTime, which needs its microseconds: the server refuses a text without them."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
