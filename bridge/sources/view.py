"""What one scope of one registry has told us: all its services, and how far that can be trusted."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from bridge.adapter import Cause, Listing, Observed, Synced
from bridge.model import Health, Instance, Mark, Service, ServiceName
from bridge.shards import shard_in, whole_of
from bridge.sources.dialing import unroutable

if TYPE_CHECKING:
    from bridge.sources.store import Store

EVERY_ID = "*"  # in Observed.unreadable: the whole service could not be read
EVENTS_KEPT = 100_000  # deletions remembered as events; older ones count as absences, which the guard doubts more


class Told(enum.StrEnum):
    """What an observation is of: an instance, a service, or the scope as a whole."""

    OBSERVED = "observed"  # an instance is there, differs, or is gone
    APPEARED = "appeared"  # the first instance of a service is told next
    VANISHED = "vanished"  # the last one was told before
    LOST = "lost"  # the watch broke: what was known stays
    SYNCED = "synced"  # everything is listed, after a loss or for the first time
    STALE = "stale"  # what is known may be old: it is listed anew before it counts
    DOUBTED = "doubted"  # another life of the store answers, and is not believed


class Observation(NamedTuple):
    """What a source said, without what is secret.

    Of an instance: `before` and `after`, None where it was not there, or is gone; `changed`: the fields that differ
    between the two, and `mark` where who wrote the entry does; `cause` as in `bridge.adapter.Cause`, where it takes a
    serving instance away. `revision`: the store's position, 0 where it has none. `reason`: of a scope, in words.
    """

    kind: Told
    registry: str
    scope: str
    identity: str
    service: ServiceName | None = None
    instance: str = ""
    before: Instance | None = None
    after: Instance | None = None
    changed: tuple[str, ...] = ()
    revision: int = 0
    cause: str = ""
    reason: str = ""


class Recorder:
    """Where a view's changes are kept beyond this process (`bridge.state`); this one keeps nothing."""

    def changed(self, view: View, name: ServiceName, changed: Collection[str], gone: Collection[str]) -> None:
        """Some instances of one service changed or are gone."""

    def described(self, view: View) -> None:
        """The view's identity, incarnation or revision is believed from now on."""


class View:
    """What one scope of one registry has told us: all its services, and how far that can be trusted.

    `synced`: it has listed everything in this process. `known`: so it has, or a process before it, whose word was kept,
    or an operator said that there is nothing more to come. `up`: its watch is running now; else `reason` says why not,
    and `lost` (monotonic seconds) since when. `doubt`: why this life of the store is not believed, "" if it is.
    `shard`: which shard of the scope it is, where shards are read apart; nothing of one is kept beyond this process.
    """

    def __init__(self, store: Store, registry: str, scope: str) -> None:
        self.registry = registry
        self.scope = scope
        self.shard = shard_in(scope)
        self.identity = ""
        self.incarnation = ""
        self.revision = 0
        self.services: dict[ServiceName, Service] = {}
        self.synced = False
        self.known = False
        self.up = False
        self.reason = "not reached yet"
        self.lost = 0.0
        self.doubt = ""
        self.lists = 0
        self.made = store.now()
        self.unreadable: dict[ServiceName, frozenset[str]] = {}  # ids seen but undecodable: they are there
        self.unroutable: dict[tuple[ServiceName, str], str] = {}  # addresses that no other host can dial, and why
        self.former: dict[ServiceName, dict[str, str]] = {}
        self._left_out: dict[tuple[ServiceName, str], int] = {}
        self._store = store
        self._recorder = store.recorder if self.shard is None else Recorder()
        self._read: dict[tuple[ServiceName, str], Instance] = {}  # natives that read as out because of us, as they read
        self._part: str | None = None
        self._came = Listing("")  # as whom the store that answers now made itself known
        self._trusted = Listing("")  # as whom the store that is believed did
        self._reached = 0  # the newest revision that the store that answers now told, believed or not
        self._is_back = False  # the believed one answers again, after another did
        self._listing: dict[ServiceName, Service] | None = None
        self._failed = False  # a watch has failed in this process, and none has listed everything since
        self._ended: dict[tuple[ServiceName, str], None] = {}
        self._known: dict[tuple[ServiceName, str], bool] = {}  # when the doubt began, and whether it was a copy
        self._doubted = 0.0  # since when this life is doubted
        self._told: set[ServiceName] = set()  # of which a listing of a part of the store said something
        self._begun = 0.0  # when the listing of the watch that runs began
        self._newest: dict[ServiceName, int] = {}  # the revisions of what this watch told since its listing

    def __repr__(self) -> str:
        return f"{self.registry}/{self.scope}" if self.scope else self.registry

    @property
    def whole(self) -> str:
        """How it is called where its shards are not told apart."""
        scope = whole_of(self.scope)
        return f"{self.registry}/{scope}" if scope else self.registry

    @property
    def part(self) -> str:
        """As which scope of its store it is known in marks: its own name, but where it is read by way of another."""
        return self.scope if self._part is None else self._part

    def is_of(self, mark: Mark) -> bool:
        """Whether what a mark says was read here: in that scope, and in that shard of it."""
        return (self.identity, self.part) == (mark.path[-1], mark.scope) and self.covers(mark.service)

    def covers(self, service: ServiceName) -> bool:
        """Whether a service of its scope would be here: one in another shard would not."""
        return self.shard is None or self._store.shard(self.registry, service) == self.shard

    @property
    def version(self) -> int:
        """The number of the newest change there is."""
        return self._store.version

    @property
    def identities(self) -> frozenset[str]:
        """Who answers, and who was believed before: what came from either came from this scope."""
        return frozenset(one for one in (self.identity, self._trusted.identity) if one)

    @property
    def listed(self) -> Mapping[ServiceName, Service]:
        """What the listing under way has told so far."""
        return self._listing or {}

    @property
    def listing(self) -> bool:
        """Whether a listing is under way."""
        return self._listing is not None

    @property
    def out_of_reach(self) -> bool:
        """Whether it was tried in this process and does not answer: what is known is what was known before."""
        return self._failed and not self.listing

    def restore(
        self,
        identity: str,
        incarnation: str,
        revision: int,
        services: dict[ServiceName, Service],
        part: str | None = None,
        former: dict[ServiceName, dict[str, str]] | None = None,
    ) -> None:
        """Takes last known good over from the disk: served at once, evidence of nothing (safety rule 2)."""
        self.identity, self.incarnation, self.revision, self._part = identity, incarnation, revision, part
        self._trusted = Listing(identity, incarnation)
        self._store.lives += 1
        self.services = services
        self.former = former if former is not None else {}
        self.claim()
        self.known = True
        for name in services:
            self._store.touch(self.registry, name)

    @property
    def believed(self) -> tuple[str, str]:
        """The identity and the incarnation of the life that is believed."""
        return self._trusted.identity, self._trusted.incarnation

    def recall(self, identity: str, incarnation: str, revision: int) -> bool:
        """What another process believed of it until now: any other life is doubted, once it is listed again.

        Returns whether it is to be listed again for that.
        """
        is_other = bool(self._came.identity) and bool(
            _new_life(Listing(identity, incarnation), revision, Listing(*self.believed, self._reached))
        )
        if is_other or not self._came.identity:
            self._trusted = Listing(identity, incarnation)
            self.revision = max(self.revision, revision)
        return is_other

    def claim(self) -> None:
        """Tells of every instance at which pairs it is; that is no news."""
        for name, service in self.services.items():
            self._store.claims.change(self, Service(name), service, service.instances, restored=True)

    def disclaim(self) -> None:
        """The opposite: nothing of this scope is known any more."""
        for name, service in self.services.items():
            self._store.claims.change(self, service, Service(name), service.instances)

    def scrub_again(self) -> None:
        """Takes out of what is known what counts as secret now."""
        for name, service in list(self.services.items()):
            told = {key: one for key, one in service.instances.items() if self._store.scrub(one) is not one}
            if told:  # copies, which are looked at as if the source had just told them
                copies = {key: msgspec.structs.replace(one) for key, one in told.items()}
                self._replace(name, Service(name, {**service.instances, **copies}, service.marks), ended=False)

    def steered(self, names: Collection[ServiceName]) -> None:
        """Natives of these services are out by a migration since now, or are not any more."""
        for name in names:
            service = self.services.get(name)
            if service is None:
                continue
            read = {key: self._read.get((name, key), one) for key, one in service.instances.items()}
            out = {key: one for key, one in read.items() if self._reads_as_out(name, key, one)}
            told = {key: msgspec.structs.replace(one) for key, one in out.items()}
            told |= {key: one for key, one in read.items() if one is not service.instances[key]}
            if told:  # looked at as if the source had just told them
                fresh = Service(name, {**service.instances, **told}, service.marks)
                self._replace(name, fresh, ended=False)

    def _reads_as_out(self, name: ServiceName, key: str, instance: Instance) -> bool:
        """Whether a native reads as out of service, and that is our own doing: it is carried as it was."""
        shows = self._store.steered.shows
        return instance.health is Health.DRAINING and (self.identity, name, key) in shows

    def _as_it_was(self, name: ServiceName, key: str, instance: Instance) -> Instance:
        if not self._reads_as_out(name, key, instance):
            self._read.pop((name, key), None)
            return instance
        self._read[name, key] = instance
        return msgspec.structs.replace(instance, health=Health.HEALTHY)

    def begin(self, listing: Listing) -> None:
        """A watch begins: mark. Nothing disappears until `sync` (safety rule 1)."""
        self.lists += 1
        self._store.lives += 1
        self._begun = self._store.now()
        self._part = listing.part
        if self._trusted.identity:
            doubt = _new_life(self._trusted, self.revision, listing)
            # A store that went back may write itself forward again, so that doubt stays; the believed one may return.
            other = (listing.identity, listing.incarnation) != (self._came.identity, self._came.incarnation)
            self._is_back = not doubt and bool(self.doubt) and (other or self._is_back)
            if doubt and (other or not self.doubt):
                self._begin_doubt()
                self._report(Told.DOUBTED, reason=doubt, revision=listing.revision)
            self.doubt = doubt or self.doubt
        # What comes from another store must carry that store's name on its way (loops), believed or not.
        self._is_answered_by(listing.identity)
        if not self.doubt:
            self._trusted = listing
            self.incarnation = listing.incarnation
            self.revision = max(self.revision, listing.revision)
            self._recorder.described(self)
        self._listing = {}
        self._newest.clear()
        self._told.clear()
        self._came, self._reached = listing, listing.revision

    def _is_answered_by(self, identity: str) -> None:
        """Another store may answer: until it tells an instance itself, that is the word of who told it before."""
        before, self.identity = self.identity, identity
        if before in ("", identity):
            return
        known = self.former.copy()
        self.former.clear()
        for name, service in self.services.items():
            told = known.get(name, {})
            found = {key: one for key in service.instances if (one := told.get(key, before)) != identity}
            if found:
                self.former[name] = found

    def told_by(self, name: ServiceName, instance: str) -> str:
        """The identity of the store that told an instance last."""
        told = self.former.get(name)
        return self.identity if told is None else told.get(instance, self.identity)

    def _is_told(self, name: ServiceName, ids: Iterable[str]) -> None:
        """The store that answers has told these itself, or they are gone."""
        if (told := self.former.get(name)) is not None:
            for key in ids:
                told.pop(key, None)
            if not told:
                del self.former[name]

    def observe(self, observed: Observed) -> None:
        """All that the scope holds for one service now."""
        name = observed.service.name
        if self._listing is None and observed.revision:
            if observed.revision < self._newest.get(name, 0):
                return  # a watch that goes back in time (etcd #15271): what it reports is older than what is known
            self._newest[name] = observed.revision
        if observed.unreadable or name in self.unreadable:
            self._note_unreadable(name, observed.unreadable)
        if self._came.partial:
            (self._told.add if observed.service.instances or self.listing else self._told.discard)(name)
        self._is_told(name, observed.service.instances)
        if self._listing is None:
            self._replace(name, self._kept(observed), ended=True, revision=observed.revision)
        else:
            fresh = self._kept(observed)
            self._listing[name] = fresh
            old = self.services.get(name)
            if old is not None and not old.instances.keys() <= fresh.instances.keys():
                marks = {**{i: m for i, m in old.marks.items() if i not in fresh.instances}, **fresh.marks}
                fresh = Service(name, {**old.instances, **fresh.instances}, marks)
            self._replace(name, fresh, ended=False, revision=observed.revision)
        self._reach(observed.revision)

    def hides(self, name: ServiceName) -> bool:
        """Whether a service may be there all the same: we may read a part of the store, and nothing was said of it."""
        return self._came.partial and name not in self._told

    def lacking(self) -> list[ServiceName]:
        """The services of which the listing under way lacks instances that were known: `sync` would take them away."""
        listing = self._listing or {}
        return [
            name
            for name, known in self.services.items()
            if name not in listing or not known.instances.keys() <= listing[name].instances.keys()
        ]

    def sync(self, synced: Synced) -> None:
        """Everything has been observed since `begin`: sweep what was not seen."""
        listing, self._listing = self._listing or {}, None
        for name in self.unreadable.keys() - listing.keys():
            self._note_unreadable(name, frozenset())
        for name in [name for name in self.services if name not in listing]:
            self._replace(name, Service(name), ended=False, revision=synced.revision)
        for name, service in listing.items():
            self._replace(name, service, ended=False, revision=synced.revision)
        if self._is_back:
            self.doubt, self._is_back = "", False
            self._trusted = self._came
            self._store.lives += 1
            self._store.syncs += 1
        self._reach(max(synced.revision, self._reached))
        if not (self.synced and self.up):
            self._store.syncs += 1
            self._report(Told.SYNCED, revision=self._reached)
        self.synced = self.known = self.up = True
        self._failed, self.reason = False, ""
        self._store.claims.heard(self)
        self._store.wake()

    def down(self, reason: str, now: float) -> None:
        """The watch broke: what was known stays."""
        if self.up or not self.lost:
            self.lost = now
        if self.up or not self._failed:
            self._report(Told.LOST, reason=reason)
        self._listing = None
        self.up = False
        self._failed, self.reason = True, reason
        self._store.claims.heard(self)
        self._store.wake()

    def mark_stale(self) -> None:
        """Another process may have written by newer reports: until the next listing, what is known may be old."""
        if self.synced:
            self._report(Told.STALE)
        self.synced = False

    def believe(self) -> None:
        """The operator, or the return of all that was missing, has settled the doubt: this life counts from now on."""
        self.doubt = ""
        self._trusted = self._came
        self.incarnation = self._came.incarnation
        self.revision = self._reached  # beyond its listing: a backup made since then is another life, too
        self._known = {}
        self._store.lives += 1
        self._recorder.described(self)
        for name, told in self.former.items():  # what is not said to be of another store counts as this one's now
            self._recorder.changed(self, name, told, ())
        self._store.syncs += 1  # what was held for the doubt is planned again
        self._store.wake()

    def _reach(self, revision: int) -> None:
        self._reached = max(self._reached, revision)
        if not self.doubt:
            self.revision = max(self.revision, revision)

    def _begin_doubt(self) -> None:
        if not self.doubt:
            self._known = {(name, id): id in one.marks for name, one in self.services.items() for id in one.instances}
        self._doubted = self._store.now()

    @property
    def has_returned(self) -> bool:
        """Whether the life that is doubted has said enough to be believed by itself; see `adapter.Returns`.

        Bridges write their copies again whatever became of the natives: these must be back without them, too.
        """
        returns = self._came.returns
        if returns is None or not (self.doubt and self.synced and self.up):
            return False
        if self._store.now() - self._doubted < returns.after:
            return False
        natives = [key for key, is_copy in self._known.items() if not is_copy]
        return all(
            sum(not self._is_gone(key) for key in keys) >= returns.share * len(keys) for keys in (self._known, natives)
        )

    def lacks(self, name: ServiceName, id: str) -> bool:
        """Whether an instance was known when the doubt began, and the life that is doubted does not have it."""
        return (name, id) in self._known and self._is_gone((name, id))

    def _is_gone(self, key: tuple[ServiceName, str]) -> bool:
        held = self.services.get(key[0])
        return held is None or key[1] not in held.instances

    @property
    def life(self) -> str:
        """Which life of which store answers now, believed or not: the same text on every host."""
        return _life(self._came)

    def is_accepted(self, life: str, at: float) -> bool:
        """Whether an operator who accepted that life at that time (monotonic seconds) meant what is doubted here.

        A store that only went back has one name for both of its lives: what was listed later may be yet another.
        """
        return bool(self.doubt) and life == self.life and (life != _life(self._trusted) or self._begun <= at)

    @property
    def unread(self) -> int:
        """How many records cannot be read now; a service of which nothing can be read counts as one."""
        return sum(map(len, self.unreadable.values()))

    @property
    def left_out(self) -> int:
        """How many metadata values are not taken over because their key is secret."""
        return sum(self._left_out.values())

    def heard(self, name: ServiceName, instance: str) -> bool:
        """Whether that instance was reported in this process, and can be read; else it is what was known once."""
        unreadable = self.unreadable.get(name, ())
        if instance in unreadable or EVERY_ID in unreadable:
            return False
        if self.synced:
            return True
        listed = self._listing.get(name) if self._listing is not None else None
        return listed is not None and instance in listed.instances

    def tells(self, name: ServiceName, instance: str) -> bool:
        """Whether that instance is there by what its scope says now: the watch runs, or the listing has told it."""
        if self.up or self._listing is None:
            return self.up and self.heard(name, instance)
        return name in self._listing and instance in self._listing[name].instances

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

    def _replace(self, name: ServiceName, fresh: Service, *, ended: bool, revision: int = 0) -> None:
        """Takes over what a service is now. `ended`: what it lacks was seen to go, in an unbroken watch."""
        old = self.services.get(name)
        if fresh is old:
            return
        before = old.instances if old is not None else {}
        instances, changed = self._scrubbed(name, fresh.instances, before)
        is_remarked = old is not None and old.marks != fresh.marks
        if old is not None and is_remarked:
            for key in fresh.marks.keys() | old.marks.keys():
                if key in instances and fresh.marks.get(key) != old.marks.get(key):
                    changed[key] = instances[key]
        gone = [key for key in before if key not in instances] if len(before) + len(changed) > len(instances) else []
        if not (changed or gone or is_remarked):
            return
        now = fresh if instances is fresh.instances else Service(name, instances, fresh.marks)
        if instances:
            self.services[name] = now
        else:
            self.services.pop(name, None)
        self._note_traits(name, changed, gone)
        self._note_ended(name, changed, gone if ended else ())
        self._store.claims.change(self, old or Service(name), now, (*changed, *gone))
        self._recorder.changed(self, name, changed, gone)
        if self._store.asked.get(self.registry):
            if not before:
                self._report(Told.APPEARED, service=name, revision=revision)
            absent = Cause.EVENT if ended else Cause.ABSENCE
            for key in (*changed, *gone):
                self._report_instance(name, key, before.get(key), changed.get(key), revision, absent)
            if not instances:
                self._report(Told.VANISHED, service=name, revision=revision)
        self._is_told(name, gone)
        self._store.touch(self.registry, name, revision)

    def _scrubbed(
        self, name: ServiceName, told: dict[str, Instance], before: Mapping[str, Instance]
    ) -> tuple[dict[str, Instance], dict[str, Instance]]:
        """The instances without what is secret (the very same mapping where nothing is), and those that changed."""
        instances = told
        changed: dict[str, Instance] = {}
        for key, instance in told.items():
            was = before.get(key)
            if was is instance:
                continue
            clean = self._store.scrub(instance)
            if clean is not instance:
                self._left_out[name, key] = len(instance.metadata) - len(clean.metadata)
                if instances is told:
                    instances = told.copy()
                instances[key] = clean
            elif self._left_out:
                self._left_out.pop((name, key), None)
            if self._store.steered.shows or self._read:
                native, clean = clean, self._as_it_was(name, key, clean)
                if clean is not native:
                    instances = told.copy() if instances is told else instances
                    instances[key] = clean
            if was != clean:
                changed[key] = clean
        return instances, changed

    def _note_traits(self, name: ServiceName, changed: Mapping[str, Instance], gone: Collection[str]) -> None:
        """Notes which addresses no other host can dial, and forgets what is said of instances that are gone."""
        for key, one in changed.items():
            if why := unroutable(one.address):
                self.unroutable[name, key] = why
            elif self.unroutable:
                self.unroutable.pop((name, key), None)
        for said in (self.unroutable, self._left_out, self._read):
            for key in gone if said else ():
                said.pop((name, key), None)

    def _note_ended(self, name: ServiceName, there: Collection[str], ended: Collection[str]) -> None:
        for key in there if self._ended else ():
            self._ended.pop((name, key), None)
        for key in ended:
            self._ended[name, key] = None
        while len(self._ended) > EVENTS_KEPT:
            del self._ended[next(iter(self._ended))]

    def _report_instance(
        self,
        name: ServiceName,
        key: str,
        before: Instance | None,
        after: Instance | None,
        revision: int,
        absent: Cause,
    ) -> None:
        """`absent`: the cause where it is gone."""
        differing: tuple[str, ...] = ()
        if before is not None and after is not None:
            fields = Instance.__struct_fields__
            differing = tuple(field for field in fields if getattr(before, field) != getattr(after, field)) or ("mark",)
        ends = before is not None and before.serving and (after is None or not after.serving)
        cause = absent if after is None else Cause.HEALTH if ends else ""
        self._report(
            Told.OBSERVED,
            identity=self.told_by(name, key),
            service=name,
            instance=key,
            before=before,
            after=after,
            changed=differing,
            revision=revision,
            cause=str(cause),
        )

    def _report(self, kind: Told, **about: Any) -> None:
        """Has whoever asks for it know (`Store.report`)."""
        asked = self._store.asked.get(self.registry)
        if asked:
            told = Observation(kind, self.registry, self.part, **{"identity": self.identity, **about})
            for report in asked:
                report(told)


def _life(listing: Listing) -> str:
    return f"{listing.identity} {listing.incarnation}".rstrip()


def _new_life(known: Listing, revision: int, listing: Listing) -> str:
    """Why the store that answers is not the one that was known at that revision, "" if it is (safety rule 3)."""
    if listing.identity != known.identity:
        return f"another store answers: it is {listing.identity}, and was {known.identity}"
    if listing.incarnation != known.incarnation:
        said, before = listing.incarnation or "unnamed", known.incarnation or "unnamed"
        return f"the store was restored, swapped or started anew: its life is {said}, and was {before}"
    if listing.revision < revision:
        return f"the store went back, as after a restore: it is at revision {listing.revision}, and was at {revision}"
    return ""
