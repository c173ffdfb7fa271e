"""What every source has told us: one view a scope, versioned; the work per change is that of one service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bridge.adapter import Listing, Observed, Synced
from bridge.model import Instance, Service, ServiceName

EVERY_ID = "*"  # in Observed.unreadable: the whole service could not be read
EVENTS_KEPT = 100_000  # deletions remembered as events; older ones count as absences, which the guard doubts more
GONE_KEPT = 10_000  # services of which is known when they went; who is further behind looks at all that it holds


class Seen(NamedTuple):
    """When a change was heard (monotonic seconds), and the number by which log and journal follow it."""

    at: float
    change: int


class Recorder:
    """Where a view's changes are kept beyond this process (`bridge.state`); this one keeps nothing."""

    def changed(self, view: View, name: ServiceName, changed: dict[str, Instance], gone: list[str]) -> None:
        """Some instances of one service changed or are gone."""

    def described(self, view: View) -> None:
        """The view's identity, incarnation or revision is believed from now on."""


class View:
    """What one scope of one registry has told us: all its services, and how far that can be trusted.

    `synced`: it has listed everything in this process. `up`: its watch is running now; else `reason` says why not,
    and `lost` (monotonic seconds) since when. `doubt`: why this life of the store is not believed, "" if it is.
    """

    def __init__(self, store: Store, registry: str, scope: str) -> None:
        self.registry = registry
        self.scope = scope
        self.identity = ""
        self.incarnation = ""
        self.revision = 0
        self.services: dict[ServiceName, Service] = {}
        self.synced = False
        self.up = False
        self.reason = "not reached yet"
        self.lost = 0.0
        self.doubt = ""
        self.lists = 0
        self.unreadable: dict[ServiceName, frozenset[str]] = {}  # ids seen but undecodable: they are there
        self._left_out: dict[tuple[ServiceName, str], int] = {}
        self._store = store
        self._came = Listing("")  # as whom the store that answers now made itself known
        self._trusted = Listing("")  # as whom the store that is believed did
        self._is_back = False  # the believed one answers again, after another did
        self._listing: dict[ServiceName, Service] | None = None
        self._ended: dict[tuple[ServiceName, str], None] = {}
        self._newest: dict[ServiceName, int] = {}  # the revisions of what this watch told since its listing

    def __repr__(self) -> str:
        return f"{self.registry}/{self.scope}" if self.scope else self.registry

    @property
    def version(self) -> int:
        """The number of the newest change there is."""
        return self._store.version

    @property
    def listing(self) -> bool:
        """Whether a listing is under way."""
        return self._listing is not None

    def restore(self, identity: str, incarnation: str, revision: int, services: dict[ServiceName, Service]) -> None:
        """Takes last known good over from the disk: served at once, evidence of nothing (rule 2)."""
        self.identity, self.incarnation, self.revision = identity, incarnation, revision
        self._trusted = Listing(identity, incarnation)
        self.services = services
        for name in services:
            self._store.touch(self.registry, name)

    def begin(self, listing: Listing) -> None:
        """A watch begins: mark. Nothing disappears until `sync` (rule 1)."""
        self.lists += 1
        if self._trusted.identity:
            doubt = _new_life(self._trusted, self.revision, listing)
            # A store that went back may write itself forward again, so that doubt stays; the believed one may return.
            other = (listing.identity, listing.incarnation) != (self._came.identity, self._came.incarnation)
            self._is_back = not doubt and bool(self.doubt) and (other or self._is_back)
            self.doubt = doubt or self.doubt
        if not self.doubt:
            self._trusted = listing
            self.identity, self.incarnation = listing.identity, listing.incarnation
            self.revision = max(self.revision, listing.revision)
            self._store.recorder.described(self)
        elif self.identity != listing.identity:
            # What comes from another store must carry that store's name on its way (loops), believed or not.
            self.identity = listing.identity
        self._listing = {}
        self._newest.clear()
        self._came = listing

    def observe(self, observed: Observed) -> None:
        """All that the scope holds for one service now."""
        name = observed.service.name
        if self._listing is None and observed.revision:
            if observed.revision < self._newest.get(name, 0):
                return  # a watch that goes back in time (etcd #15271): what it tells is older than what is known
            self._newest[name] = observed.revision
        if observed.unreadable or name in self.unreadable:
            self._note_unreadable(name, observed.unreadable)
        if self._listing is None:
            self._replace(name, self._kept(observed), ended=True)
        else:
            fresh = self._kept(observed)
            self._listing[name] = fresh
            old = self.services.get(name)
            if old is not None and not old.instances.keys() <= fresh.instances.keys():
                marks = {**{i: m for i, m in old.marks.items() if i not in fresh.instances}, **fresh.marks}
                fresh = Service(name, {**old.instances, **fresh.instances}, marks)
            self._replace(name, fresh, ended=False)
        if not self.doubt and observed.revision > self.revision:
            self.revision = observed.revision

    def sync(self, synced: Synced) -> None:
        """Everything has been observed since `begin`: sweep what was not seen."""
        listing, self._listing = self._listing or {}, None
        for name in self.unreadable.keys() - listing.keys():
            self._note_unreadable(name, frozenset())
        for name in [name for name in self.services if name not in listing]:
            self._replace(name, Service(name), ended=False)
        for name, service in listing.items():
            self._replace(name, service, ended=False)
        if not self.doubt and synced.revision > self.revision:
            self.revision = synced.revision
        if self._is_back:
            self.doubt, self._is_back = "", False
            self._trusted = self._came
            self._store.syncs += 1
        if not (self.synced and self.up):
            self._store.syncs += 1
        self.synced = self.up = True
        self.reason = ""
        self._store.wake()

    def down(self, reason: str, now: float) -> None:
        """The watch broke: what was known stays."""
        if self.up or not self.lost:
            self.lost = now
        self._listing = None
        self.up = False
        self.reason = reason

    def unhear(self) -> None:
        """Another process may have written by a newer word: until the next listing, what is known may be old."""
        self.synced = False

    def believe(self) -> None:
        """The operator, or the return of all that was missing, has settled the doubt: this life counts from now on."""
        self.doubt = ""
        self._trusted = self._came
        self.identity, self.incarnation = self._came.identity, self._came.incarnation
        self.revision = self._came.revision
        self._store.recorder.described(self)

    @property
    def left_out(self) -> int:
        """How many metadata values are not taken over because their key is secret."""
        return sum(self._left_out.values())

    def heard(self, name: ServiceName, instance: str) -> bool:
        """Whether that instance was told of in this process, and can be read; else it is what was known once."""
        unreadable = self.unreadable.get(name, ())
        if instance in unreadable or EVERY_ID in unreadable:
            return False
        if self.synced:
            return True
        listed = self._listing.get(name) if self._listing is not None else None
        return listed is not None and instance in listed.instances

    def ended(self, name: ServiceName, instance: str) -> bool:
        """Whether that instance's removal was seen as an event in an unbroken watch."""
        return (name, instance) in self._ended

    def _note_unreadable(self, name: ServiceName, ids: frozenset[str]) -> None:
        if ids == self.unreadable.get(name, frozenset()):
            return
        if ids:
            self.unreadable[name] = ids
        else:
            del self.unreadable[name]
        self._store.touch(self.registry, name)

    def _kept(self, observed: Observed) -> Service:
        """The observed service, with what was known of its unreadable records: they are there, so they are not gone."""
        service = observed.service
        old = self.services.get(service.name)
        if not observed.unreadable or old is None:
            return service
        every = EVERY_ID in observed.unreadable
        back = {i for i in old.instances if (every or i in observed.unreadable) and i not in service.instances}
        if not back:
            return service
        marks = {**service.marks, **{i: m for i, m in old.marks.items() if i in back}}
        return Service(service.name, {**service.instances, **{i: old.instances[i] for i in back}}, marks)

    def _replace(self, name: ServiceName, fresh: Service, *, ended: bool) -> None:
        old = self.services.get(name)
        before = old.instances if old is not None else {}
        if fresh is old:
            return
        instances = fresh.instances
        changed: dict[str, Instance] = {}
        for key, instance in instances.items():
            was = before.get(key)
            if was is instance:
                continue
            clean = self._store.scrub(instance)
            if clean is not instance:
                self._left_out[name, key] = len(instance.metadata) - len(clean.metadata)
                instances = {**instances, key: clean}
            elif self._left_out:
                self._left_out.pop((name, key), None)
            if was != clean:
                changed[key] = clean
        remarked = old is not None and old.marks != fresh.marks
        if remarked and old is not None:
            for key in fresh.marks.keys() | old.marks.keys():
                if key in instances and fresh.marks.get(key) != old.marks.get(key):
                    changed[key] = instances[key]
        gone = [key for key in before if key not in instances] if len(before) + len(changed) > len(instances) else []
        if not (changed or gone or remarked):
            return
        if instances:
            self.services[name] = fresh if instances is fresh.instances else Service(name, instances, fresh.marks)
        else:
            self.services.pop(name, None)
        for key in changed:
            self._ended.pop((name, key), None)
        if self._left_out:
            for key in gone:
                self._left_out.pop((name, key), None)
        if ended:
            for key in gone:
                self._ended[name, key] = None
            while len(self._ended) > EVENTS_KEPT:
                del self._ended[next(iter(self._ended))]
        self._store.recorder.changed(self, name, changed, gone)
        self._store.touch(self.registry, name)


def _new_life(known: Listing, revision: int, listing: Listing) -> str:
    """Why the store that answers is not the one that was known at that revision, "" if it is (rule 3)."""
    if listing.identity != known.identity:
        return f"another store answers: {listing.identity}, known was {known.identity}"
    if listing.incarnation != known.incarnation:
        said, before = listing.incarnation or "unnamed", known.incarnation or "unnamed"
        return f"a new incarnation answers: {said}, known was {before}"
    if listing.revision < revision:
        return f"the revision went back from {revision} to {listing.revision}"
    return ""


class Store:
    """All views. A consumer remembers the version it handled, waits for a newer one, and asks what changed since.

    No queue stands between: slow consumers skip versions, and memory is bounded by the number of services.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        scrub: Callable[[Instance], Instance] = lambda instance: instance,
        recorder: Recorder | None = None,
    ) -> None:
        self.version = 0
        self.forgotten = 0  # up to that version, some services that are gone are told of no more
        self.syncs = 0  # times that a scope's word came to count: what waited for it may go on
        self.follows: frozenset[str] = frozenset()  # registries of which also what other synchronisers wrote is sent
        self.scrub = scrub
        self.recorder = recorder or Recorder()
        self._clock = clock
        self._views: dict[str, dict[str, View]] = {}
        self._touched: dict[tuple[str, ServiceName], Seen] = {}  # in order of version
        self._room = 2 * GONE_KEPT
        self._waiting: list[asyncio.Future[None]] = []

    def view(self, registry: str, scope: str) -> View:
        """The view of a scope, made on first use."""
        scopes = self._views.setdefault(registry, {})
        if scope not in scopes:
            scopes[scope] = View(self, registry, scope)
        return scopes[scope]

    def views(self, registry: str | None = None) -> Iterator[View]:
        """The views of one registry, or all."""
        for name, scopes in self._views.items():
            if registry is None or name == registry:
                yield from scopes.values()

    def forget(self, registry: str) -> None:
        """A registry left the configuration: its views go; entries elsewhere become orphans."""
        self._views.pop(registry, None)

    def touch(self, registry: str, name: ServiceName) -> None:
        """A service of that registry changed now."""
        self.version += 1
        key = (registry, name)
        self._touched.pop(key, None)
        self._touched[key] = Seen(self._clock(), self.version)
        if len(self._touched) > self._room:
            self._forget_gone()
        if self._waiting:
            self.wake()

    def since(self, version: int) -> list[tuple[str, ServiceName, Seen]]:
        """The services that changed after that version, oldest first, each with when it was seen.

        Whoever comes with a version below `forgotten` looks at all that it holds as well.
        """
        found = []
        for key in reversed(self._touched):
            seen = self._touched[key]
            if seen.change <= version:
                break
            found.append((*key, seen))
        found.reverse()
        return found

    def _forget_gone(self) -> None:
        """Forgets the services that are gone, but for the newest: names come and go for ever."""
        gone = [
            (registry, name)
            for registry, name in self._touched
            if not any(name in view.services for view in self.views(registry))
        ]
        for key in gone[:-GONE_KEPT]:
            self.forgotten = max(self.forgotten, self._touched.pop(key).change)
        self._room = 2 * (len(self._touched) + GONE_KEPT)

    def wake(self) -> None:
        """Wakes every consumer that waits."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def newer(self, version: int) -> None:
        """Returns when the version is above that one, or something else is to be looked at (`wake`)."""
        if self.version > version:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if future in self._waiting:
                self._waiting.remove(future)
