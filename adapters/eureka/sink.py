"""The sink: reads what a Eureka holds, and writes instances one by one, each after reading it again.

Eureka has no compare-and-set. So each change reads the instance past the caches, compares its mark and its
timestamp, and is made within the writer's term. The window between reading and writing is one request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from adapters.common import assembly
from adapters.common.changes import LOOK_AGAIN, Outcomes, compare, judge, turn
from adapters.common.seat import in_force
from adapters.common.together import together
from adapters.eureka.answers import Key, Known
from adapters.eureka.client import Client
from adapters.eureka.heartbeats import Heartbeats
from adapters.eureka.times import TIMES
from adapters.eureka.watching import Watching
from adapters.eureka.working_copy import WorkingCopy, record_of
from bridge.adapter import Change, Entry, Held, Outcome, Renewal, Term
from bridge.errors import Conflict, IsthmusError, Rejected, Superseded
from bridge.model import Instance, Mark, ServiceName
from mappings import eureka as mapping

AT_ONCE = 16
FEW = 30  # services that are read one by one
CACHED = 90.0  # seconds for which a list may lack a write: the cache of the server, and of a peer

# The server ignores a registration that changes one of these to the other, unless a third status comes between.
_STICKY = frozenset({"UP", "OUT_OF_SERVICE"})
_BETWEEN = "DOWN"


class Step(NamedTuple):
    """One write of ours. `dirty`: the timestamp of what it wrote, or of what it `removed`. `at` on the loop's clock."""

    dirty: int
    removed: bool
    at: float


class Write(NamedTuple):
    """Our writes of an instance, the last one last: a delta may show one after the next has been made."""

    name: ServiceName
    steps: tuple[Step, ...]

    @property
    def at(self) -> float:
        """When the last one was made."""
        return self.steps[-1].at

    def shows(self, one: Known | None) -> bool:
        """Whether the current state of an instance is that of the last write or of a later one."""
        last = self.steps[-1]
        if last.removed or one is None:
            return last.removed == (one is None)
        return one.record.lastDirtyTimestamp >= last.dirty

    def made(self, one: Known) -> bool:
        """Whether one of these caused a change of the delta."""
        change = one.record.lastDirtyTimestamp, one.record.actionType == "DELETED"
        return any((step.dirty, step.removed) == change for step in self.steps)


class EurekaSink:
    """One Eureka, written by the bridge with one id.

    `renewal`: seconds between two heartbeats of an entry. `wall` gives seconds since the epoch.
    """

    traits = mapping.TRAITS

    def __init__(
        self,
        client: Client,
        identity: str,
        bridge: str,
        drifting: Callable[[WorkingCopy], Watching],
        by: str,
        renewal: float = TIMES.renewal,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._identity = identity
        self._bridge = bridge
        self._drifting = drifting
        self._by = by
        self._wall = wall
        self._dirty = 0
        self._written: dict[Key, Write] = {}
        self._ours: dict[Key, ServiceName] = {}
        self._suspect: dict[Key, ServiceName] = {}  # missing by its heartbeat, though a list may have it
        self._missing = asyncio.Event()
        self._heartbeats = Heartbeats(renewal, lambda key: client.renew(*key), self._is_missing)

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """See `Sink.canonical`."""
        return mapping.canonical(name, instance)

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """A list. Instances that we wrote recently are read by themselves where the list differs."""
        wanted = None if names is None else frozenset(names)
        listed = await self._listed(wanted)
        for key, one in await self._doubtful(listed, wanted):
            if one is None:
                listed.pop(key, None)
            else:
                listed[key] = one
        services: dict[ServiceName, dict[str, Entry]] = {}
        for one in listed.values():
            for name in one.names:
                if wanted is None or name in wanted:
                    entry = self._entry(name, one)
                    services.setdefault(name, {})[entry.instance.id] = entry
        self._keep_alive(listed, wanted)
        return Held(self._identity, services)

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """See `Sink.apply`: several in flight, adds first."""
        outcomes = Outcomes(changes)

        async def make(change: Change) -> None:
            try:
                outcomes.put(Outcome(change, await self._make(change, term)))
            except Superseded:
                raise
            except IsthmusError as error:
                outcomes.fail(change, error)

        in_force(term)
        for kind in range(3):
            await together([each for each in changes if turn(each) == kind], make, AT_ONCE)
        return outcomes.in_order()

    async def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """See `Sink.drift`: from deltas of its own, and from failed heartbeats."""
        copy = WorkingCopy(self._by)
        watching = self._drifting(copy)
        await watching.begin()
        yield frozenset()
        stepping: asyncio.Task[set[ServiceName]] | None = None
        try:
            while True:
                stepping = stepping or asyncio.create_task(watching.step())
                missing = asyncio.create_task(self._missing.wait())
                await asyncio.wait((stepping, missing), return_when=asyncio.FIRST_COMPLETED)
                missing.cancel()
                self._missing.clear()
                names = set(self._suspect.values())
                if stepping.done():
                    stepping.result()
                    names |= self._foreign(copy)
                    stepping = None
                if names:
                    yield frozenset(names)
        finally:
            if stepping is not None:
                stepping.cancel()
                await asyncio.gather(stepping, return_exceptions=True)
            await watching.end()

    def renew(self, *, ours: bool) -> None:
        """See `Renewer`."""
        if ours:
            self._heartbeats.start()
        else:
            self._heartbeats.halt()

    @property
    def renewal(self) -> Renewal | None:
        """See `Renewer`."""
        return self._heartbeats.renewal

    async def close(self) -> None:
        """Stops the heartbeats, and removes nothing."""
        await self._heartbeats.stop()

    # -- what stands there -------------------------------------------------------------------------------------------

    async def _listed(self, wanted: frozenset[ServiceName] | None) -> dict[Key, Known]:
        if wanted is None or len(wanted) > FEW:
            found: Iterable[Known] = (await self._client.full()).instances
        else:
            found = [one for some in await together(wanted, self._client.service, AT_ONCE) for one in some]
        return {one.key: one for one in found}

    async def _doubtful(
        self, listed: dict[Key, Known], wanted: frozenset[ServiceName] | None
    ) -> list[tuple[Key, Known | None]]:
        """The instances for which a list may be out of date, each as it is now."""
        now = asyncio.get_running_loop().time()
        self._written = {key: write for key, write in self._written.items() if now - write.at < CACHED}
        asked = {key for key, write in self._written.items() if not write.shows(listed.get(key))} | self._suspect.keys()
        names = {**{key: write.name for key, write in self._written.items()}, **self._suspect}
        keys = [key for key in asked if wanted is None or names[key] in wanted]
        found = await together(keys, lambda key: self._client.instance(*key), AT_ONCE)
        for key in keys:
            self._suspect.pop(key, None)
        return list(zip(keys, found, strict=True))

    def _entry(self, name: ServiceName, one: Known) -> Entry:
        id = mapping.entry_id(name, one.record)
        record = record_of(name, one, self._by)
        return assembly.entry(id, record, one.record.lastDirtyTimestamp, ledgered=one.record.is_marked)

    def _keep_alive(self, listed: dict[Key, Known], wanted: frozenset[ServiceName] | None) -> None:
        """Our entries get heartbeats, and no others."""
        there = {}
        for key, one in listed.items():
            mark = one.record.mark
            if mark is not None and mark.owner == self._bridge:
                there[key] = one
                self._ours[key] = one.names[0]
                self._heartbeats.keep(key, one.record.leaseInfo.durationInSecs if one.record.leaseInfo else 90)
        for key, name in list(self._ours.items()):
            if key not in there and (wanted is None or name in wanted):
                self._not_ours(key)

    def _not_ours(self, key: Key) -> None:
        self._ours.pop(key, None)
        self._heartbeats.drop(key)

    def _is_missing(self, key: Key) -> None:
        if key in self._ours:
            self._suspect[key] = self._ours[key]
            self._missing.set()

    def _foreign(self, copy: WorkingCopy) -> set[ServiceName]:
        """The services that others changed, by the last changes of the copy."""
        found: set[ServiceName] = set()
        for key, one in copy.changes.items():
            write = self._written.get(key)
            if write is None or not write.made(one):
                found |= set(one.names)
        return found

    # -- one change --------------------------------------------------------------------------------------------------

    async def _make(self, change: Change, term: Term | None) -> int | None:
        judge(self._bridge, change)
        app = mapping.app(change.service)
        in_force(term)
        stands = await self._client.instance(app, change.id)
        _compare(change, stands)
        in_force(term)
        if change.forget:
            if stands is None:
                raise Conflict(f"{change.service}/{change.id}: nothing is there to release")
            return await self._release(change, app, stands)
        if change.after is None:
            self._note(change, app, stands.record.lastDirtyTimestamp if stands is not None else 0, removed=True)
            await self._client.cancel(app, change.id)
            self._not_ours((app, change.id))
            return None
        if mapping.written_id(change.service, change.after.id) != change.id:
            raise Rejected(f"{change.service}/{change.id}: an id that another service may have")
        ttl = mapping.LASTING if change.ttl is None else change.ttl
        return await self._register(change, app, change.after, change.mark, ttl, stands, term)

    async def _register(
        self,
        change: Change,
        app: str,
        after: Instance,
        mark: Mark | None,
        ttl: int,
        stands: Known | None,
        term: Term | None,
    ) -> int:
        wanted = mapping.status(after)
        stood = stands.record.status if stands is not None else wanted
        override = stands.record.overriddenStatus if stands is not None else "UNKNOWN"
        if override not in ("UNKNOWN", "") and wanted != stood:
            said = f"an operator of Eureka has overridden its status with {override}, which counts there"
            raise Rejected(said, LOOK_AGAIN)
        dirty = self._next_dirty(stands)
        if stood != wanted and {stood, wanted} == _STICKY:
            self._note(change, app, dirty)
            between = mapping.body(change.service, after, mark, dirty=dirty, ttl=ttl, status=_BETWEEN)
            await self._client.register(app, between)
            in_force(term)
            dirty = self._next_dirty(stands)
        self._note(change, app, dirty)
        await self._client.register(app, mapping.body(change.service, after, mark, dirty=dirty, ttl=ttl))
        if mark is not None:
            self._ours[app, change.id] = change.service
            self._heartbeats.keep((app, change.id), ttl)
        # An instance that was never renewed lives for half the time (Lease.renew adds the duration twice).
        await self._client.renew(app, change.id)
        return dirty

    async def _release(self, change: Change, app: str, stands: Known) -> int:
        """Writes the same record without our mark; it is no longer renewed."""
        instance = record_of(change.service, stands, "ip").instance
        if instance is None:
            raise Conflict(f"{change.service}/{change.id}: cannot be read")
        ttl = stands.record.leaseInfo.durationInSecs if stands.record.leaseInfo else mapping.LASTING
        dirty = self._next_dirty(stands)
        self._note(change, app, dirty)
        await self._client.register(app, mapping.body(change.service, instance, None, dirty=dirty, ttl=ttl))
        self._not_ours((app, change.id))
        return dirty

    def _note(self, change: Change, app: str, dirty: int, *, removed: bool = False) -> None:
        """Before it is written: a delta may show it before the answer is here."""
        key, now = (app, change.id), asyncio.get_running_loop().time()
        before = self._written[key].steps if key in self._written else ()
        recent = [step for step in before if now - step.at < CACHED]
        self._written[key] = Write(change.service, (*recent, Step(dirty, removed, now)))

    def _next_dirty(self, stands: Known | None) -> int:
        """A timestamp in milliseconds above all earlier ones: a server ignores a record with an older one."""
        before = stands.record.lastDirtyTimestamp if stands is not None else 0
        self._dirty = max(round(self._wall() * 1000), self._dirty + 1, before + 1)
        return self._dirty


def _compare(change: Change, stands: Known | None) -> None:
    """Raises Conflict unless the instance is the one that the change was planned for, Rejected where it must stay."""
    if stands is None:
        compare(change, None)
        return
    record, lease = stands.record, stands.record.leaseInfo
    mark = assembly.UNKNOWN if record.is_marked and record.mark is None else record.mark
    compare(change, (record.lastDirtyTimestamp, mark))
    if mark is None and not change.forget and (lease is None or lease.durationInSecs < mapping.LASTING):
        raise Rejected(
            f"{change.service}/{change.id}: the client that registered it keeps it alive, and would write over it"
        )
