"""What an adapter is: the protocols that every registry implements, and the values that pass through them."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, runtime_checkable

import msgspec

from bridge.model import Instance, Mark, Service, ServiceName, Traits


class Returns(msgspec.Struct, frozen=True):
    """When a new life of a store is believed without an operator: its clients register again by themselves (ADR 17).

    `share` of the instances that were known must be back, and `after` seconds have passed since it began.
    """

    share: float
    after: float


class Listing(msgspec.Struct, frozen=True):
    """A watch begins to list everything: who answers, and which life of it.

    `identity` is the store's natural id (an etcd cluster id with the layout, a ZooKeeper chroot ...), the same
    for every bridge. `incarnation` and `revision` tell its lives apart: another incarnation, or a revision below one
    seen before, is a store that was restored, swapped or restarted empty, and is not believed (safety rule 3).
    `returns`: when it is believed by itself; None: when nothing is missing, or an operator says so.
    `part`: as which scope of that store it is known elsewhere, where it is read by way of another; None: as its own.
    `partial`: there is more that we may not read. What was known and is not listed is then read once more, each by
    itself, before it counts as gone; `Source.read` says of a service that may lie there that it is unreadable (ADR 28).
    """

    identity: str
    incarnation: str = ""
    revision: int = 0
    returns: Returns | None = None
    part: str | None = None
    partial: bool = False


class Observed(msgspec.Struct, frozen=True):
    """All that one scope holds for one service now; no instances: the service is gone.

    `unreadable`: ids seen but undecodable, of which what was known stays.
    `revision`: the store's position after this, 0 where it has none.
    """

    service: Service
    unreadable: frozenset[str] = frozenset()
    revision: int = 0


class Synced(msgspec.Struct, frozen=True):
    """Every service there is has been observed since `Listing`; what follows are changes in an unbroken watch."""

    revision: int = 0


class Behind(msgspec.Struct, frozen=True):
    """How far a watch is behind its store.

    `seconds`: for how long the store has had a change that the watch has not told yet. `revisions`: how many positions
    of the store lie between; 0 where it has none.
    """

    seconds: float
    revisions: int = 0


class Source(Protocol):
    """One scope of a registry, read: the part that answers or fails as a whole."""

    scope: str

    @property
    def ignored(self) -> Mapping[str, str]:
        """Records that cannot be read now, each with the reason: bounded, and only to be shown."""
        ...

    @property
    def behind(self) -> Behind | None:
        """How far the watch that runs is behind its store, as far as is known; None: it is not. Only to be shown."""
        ...

    def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """Listing, then every service there is, then Synced, then changes for ever; misses nothing.

        A partial answer is an error, never an observation. Raises Unavailable, Expired or Denied, and never retries.
        What it keeps from one watch to the next it tells anew, after proof that the store is the same (ADR 8).
        """
        ...

    async def read(self, name: ServiceName) -> Observed:
        """One service, past every cache: the second opinion before a removal is believed."""
        ...


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry at a destination. `mark` None: a native's. `version`: opaque, for compare-and-set in a Change.

    The version is of this entry: it changes with the entry and its mark, and with nothing else. Where a store has one
    version for an object that many entries share (a slice, a file), that stays in the adapter.
    """

    instance: Instance
    mark: Mark | None = None
    version: Any = None


class Held(msgspec.Struct, frozen=True):
    """What a destination holds for the names asked: ours, other bridges' and natives', by service and entry id.

    A record that cannot be read is held all the same: an Entry without a mark, its instance without an address.
    `loose`: ids whose ledger entry is ours though its data is gone or was written over by a native; the Entry's
    version is the ledger's. They are to be forgotten (`Change.forget`).
    """

    identity: str
    services: dict[ServiceName, dict[str, Entry]]
    loose: dict[ServiceName, dict[str, Any]] = {}


class Cause(enum.StrEnum):
    """Why something is removed or made unable to serve."""

    EVENT = "event"  # deleted in an unbroken watch
    ABSENCE = "absence"  # missing from a new listing
    HEALTH = "health"  # may no longer receive traffic
    CONFIG = "config"  # the file changed
    SHADOWED = "shadowed"  # a native holds its address and port now
    REPLACED = "replaced"  # the same running copy is there under another id
    REUSED = "reused"  # what is known of it is old, and its address and port serve elsewhere now
    OPERATOR = "operator"  # an operator's override or drain says so
    SHARE = "share"  # a migration leaves it no share there
    PURGE = "purge"  # the operator's command


class Change(msgspec.Struct, frozen=True):
    """One entry's before and after at a destination.

    after None: remove it. before None: create it, which must fail with Conflict where there is anything.
    Both: replace it, which must fail with Conflict unless the entry still has `before.version`.
    adopt: `before` is another bridge's or a native's, and is replaced all the same; fails with Conflict unless it
    still stands as it was.
    trace: the traceparent (W3C) of what it is part of, "" without one; written where records have a place for it.
    forget: drop our ledger entry and leave the data. `before` is ours (release it), or without a mark and with the
    version of a ledger entry in `Held.loose`, whose data is not ours any more.
    `ttl`: seconds that the entry outlives its writer (leased), None: lasting.
    """

    service: ServiceName
    id: str
    before: Entry | None = None
    after: Instance | None = None
    mark: Mark | None = None
    cause: Cause | None = None
    ttl: int | None = None
    forget: bool = False
    adopt: bool = False
    trace: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What became of one change: the new version, or the error (Conflict, Rejected, Unavailable, Denied)."""

    change: Change
    version: Any = None
    error: Exception | None = None


class Note(msgspec.Struct, frozen=True):
    """What the daemons of one bridge leave for each other beside its lock. `version`: opaque, for compare-and-set."""

    content: bytes
    version: Any = None


class Term(Protocol):
    """The time during which this process is the only writer of its bridge id at a destination, or of one shard of it.

    `fence`: opaque; a sink in the same store compares it in each transaction.
    `until`: seconds on the running loop's clock, two thirds of the lock's time after it was last renewed. A sink that
    cannot compare the fence looks before each request, and raises Superseded from then on: the last third covers the
    request's way and clocks that differ. Infinite for a lock that only the end of its process frees.
    `taken_over`: another process held the lock when it was asked for, or got it in between (ADR 21).
    """

    @property
    def fence(self) -> Any: ...

    @property
    def until(self) -> float: ...

    @property
    def taken_over(self) -> bool: ...

    async def ended(self) -> None:
        """Returns when the lock is lost, and is never late: writes fail with Superseded before or with it."""
        ...


class Seat(Protocol):
    """The place of the one writer of a bridge at one destination: its lock, and the note that its daemons share."""

    def writer(self) -> AbstractAsyncContextManager[Term]:
        """Waits for the lock; inside, this process may write, with this term.

        Raises Unavailable where the destination is divided, and names the key that says so (`bridge.shards`).
        """
        ...

    async def recall(self) -> Note | None:
        """The note of this bridge for this destination, None: there is none. Raises Unavailable or Denied."""
        ...

    async def note(self, content: bytes, before: Note | None, *, term: Term | None) -> Note:
        """Puts a note of some KiB in the place of `before` (None: where there is none); returns it as it is then.

        Raises Conflict where another note is there. `term`: only while this is the writer's, which is compared in the
        same transaction; raises Superseded where it is over. Raises Unavailable, Denied, Rejected (too long).
        """
        ...

    async def leave(self, term: Term) -> None:
        """Removes the note, and what else this bridge keeps for this seat and for the entries that it had there.

        As the term ends the lock's own place goes, and what bridges share in that store where no other one is there.
        For a bridge that owns nothing there any more (`purge`, `leave`): afterwards `Tracer.traces` has nothing left
        but what says why it is needed. Nothing of another seat or bridge is touched. Raises Superseded where the term
        is over, Conflict where the note changes meanwhile, Unavailable, Denied.
        """
        ...


class Notes(Protocol):
    """Notes by key that the daemons of one bridge keep for each other in a store, written without any lock (ADR 29).

    A key is text of up to 100 characters, by convention a kind, a slash and what it is about: "export/mesh",
    "intent/pay". Whoever writes has read first, and on Conflict reads again and decides anew:

        while True:
            before = await notes.read(key)
            with suppress(Conflict):
                return await notes.write(key, changed(before), before)

    All methods raise Unavailable or Denied, and never answer with less than there is.
    """

    async def read(self, key: str) -> Note | None:
        """The note under that key as it is now, None: there is none."""
        ...

    async def below(self, start: str) -> Mapping[str, Note]:
        """Every note of this bridge whose key begins so, by key: "" for all."""
        ...

    async def write(self, key: str, content: bytes, before: Note | None) -> Note:
        """Puts a note of up to 128 KiB in the place of `before` (None: where there is none); returns it as it is then.

        Raises Conflict where another note is there, or none any more; Rejected (too long). An answer that was lost
        (Unavailable) leaves open whether it was written.
        """
        ...

    async def remove(self, key: str, before: Note) -> None:
        """Removes exactly that note. Raises Conflict where another one is there, or none any more."""
        ...


@runtime_checkable
class Waking(Protocol):
    """An optional side of notes, of a store that tells of changes: who waits for one need not ask all the time."""

    async def changed(self, key: str, since: Note | None) -> None:
        """Returns as soon as another note than `since` is under that key (None: any). Raises Unavailable, Expired or
        Denied: then it is not known."""
        ...


@runtime_checkable
class Keeper(Protocol):
    """An optional side of a registry that lends seats: it keeps notes by key as well."""

    def notes(self, bridge: str) -> Notes:
        """Those of the bridge with this id; of one bridge and key there is one note in the whole store."""
        ...


class Lever(msgspec.Struct, frozen=True):
    """What stands beside natives' records and takes some of them out of service, or could (ADR 39).

    `place`: where in the store, for its registry and for people. `content` None: nothing stands there. `version`:
    opaque, for compare-and-set; None where `content` is None.
    """

    place: str
    content: bytes | None
    version: Any = None


class Levers(Protocol):
    """Takes natives out of service by levers, and puts them back; their own records are never written (ADR 39).

    A native is told by a key: `key_of` says it, and it is the same when that native registers anew.
    """

    def key_of(self, instance: Instance) -> str:
        """The key of a native, from its instance as `Sink.held` has it."""
        ...

    async def places(self, name: ServiceName, natives: Sequence[Instance]) -> Mapping[str, str]:
        """The place of the lever of each of these natives of a service, by key; one that is gone has none.

        Several may share a lever. Only reads. Raises Rejected where one of them cannot be taken out, or not alone;
        Unavailable or Denied.
        """
        ...

    async def lever(self, place: str) -> Lever:
        """What stands there now, past every cache. Raises Unavailable or Denied."""
        ...

    def set_to(self, lever: Lever, name: ServiceName, out: Collection[str]) -> bytes | None:
        """What must stand there for exactly these natives, by key, to be out by this bridge; others' part is kept.

        The very content of the lever where that is so already. Pure. Raises Rejected where it cannot be said there.
        """
        ...

    async def put(self, before: Lever, content: bytes | None) -> Lever:
        """Puts that content in the place of what was read; None: removes it. Returns what stands there then.

        Raises Conflict where something else stands there by now, Unavailable, Denied or Rejected.
        """
        ...


@runtime_checkable
class Steerer(Protocol):
    """An optional side of a registry that has levers beside its natives' records."""

    def levers(self, bridge: str) -> Levers | None:
        """The levers, for the bridge with this id; None: what is kept in this way has none."""
        ...


class Sink(Protocol):
    """A place that we own entries in: read what is held, and change it."""

    traits: Traits

    def canonical(self, name: ServiceName, instance: Instance) -> Instance:
        """What `held` will show of this instance once it is written under that name; pure, and cheap.

        Returns the very same object where nothing is lost. Raises Rejected where it must not be written.
        """
        ...

    async def held(self, names: Collection[ServiceName] | None = None) -> Held:
        """What the registry holds, for some names or for all; raises Unavailable or Denied, never a partial answer."""
        ...

    async def apply(self, changes: Sequence[Change], term: Term | None) -> Sequence[Outcome]:
        """Make the changes, adds before removals, one outcome for each in the same order.

        `term`: of the destination's own seat where the registry has one, else of the one that it borrows; None where
        there is neither. Each change is atomic with its ledger entry. Idempotent; never retries. Raises Superseded,
        and nothing else, for the batch as a whole: where the term is over, and without one where there is a seat.
        """
        ...

    def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """Names to be read again: someone else changed what the registry holds. The empty set: read everything again.

        The first one is the empty set, as soon as it listens: what happened before then is not reported.
        """
        ...


class Interest(enum.IntEnum):
    """How much a service is asked for. FIRST: before others where not all can be watched as closely."""

    NONE = 0
    SOME = 1
    FIRST = 2


@runtime_checkable
class Follower(Protocol):
    """An optional side of a registry that watches each service on its own, and need not watch what no link reads."""

    def follow(self, asked: Callable[[str, ServiceName], Interest]) -> None:
        """From now on a service of a scope is watched only where `asked(scope, name)`; called before the first watch.

        Called again with each file: what is asked for anew is told, and what is asked for no more is not reported as
        gone, for nothing is known of it.
        """
        ...


class Whole(msgspec.Struct, frozen=True):
    """A scope that a destination holds whole: all that was seen of it is planned and applied.

    `generation`: how often it was listed in this process; what changed in an unbroken watch since then is applied, too.
    `picture`: of the link that reads it, where the destination keeps pictures apart (`Traits.pictures`), else "".
    """

    registry: str
    scope: str
    identity: str
    incarnation: str
    generation: int
    picture: str = ""


@runtime_checkable
class WholeSink(Protocol):
    """An optional side of a sink, for a destination that answers others by what it holds (an export, a stream)."""

    async def whole(self, scopes: frozenset[Whole], term: Term | None) -> None:
        """These scopes are held whole from now on, and no others. Called at once where one is lost.

        A scope is lost while its watch is down, while its incarnation is doubted, and when no link reads it any more.
        What the guard holds or parks is planned: it makes no scope less whole. Only the writer vouches for any: of
        another process there are none. `term`: as for `apply`. Raises Unavailable, Denied or Superseded.
        """
        ...


@runtime_checkable
class Answering(Protocol):
    """An optional side of a sink that answers data planes: of an export (ADR 27)."""

    def missing(self, items: frozenset[str], feeds: Callable[[ServiceName], bool]) -> None:
        """Of these sources nothing is known, neither from this process nor from before it; all else is applied.

        Called when that changes. While there are any, what is missing here may be missing from the picture alone, and
        data planes take what they are not told of for gone. `feeds(name)`: whether any of these sources may have
        instances under that name; pure. Of every other name all that there is is here (ADR 38).
        """
        ...


@runtime_checkable
class Placed(Protocol):
    """An optional side of a sink that tells whoever asks what is in its own network: of an export (ADR 36)."""

    def place(self, own: str, of: Callable[[Instance, Mark | None], str]) -> None:
        """`own`: the network of the export's block; `of`: the network of an entry's address. Both are pure.

        Called before anything is read there, and again where the file changes networks.
        """
        ...


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A data plane that an export answers, as `clients` shows it. `since`, `seen`: seconds since the epoch.

    `address`: where it asks from. `sent`: what it was sent last, by kind of resource, and `behind` for how many seconds
    it has not accepted that. `refused`: what it did not accept, by name, with its reason. `network`: whose addresses it
    is told, "" those of the export's block.
    """

    name: str
    address: str
    since: float
    seen: float
    sent: Mapping[str, str] = {}
    behind: float = 0.0
    refused: Mapping[str, str] = {}
    network: str = ""


@runtime_checkable
class Export(Protocol):
    """A registry that data planes ask, and that nobody else writes to (ADR 27).

    Every daemon of a bridge serves a picture of its own: no lock is needed, and none is borrowed. It has no source.
    """

    async def serve(self) -> None:
        """Never returns: answers data planes by what the sink holds. Raises Unavailable where it cannot listen."""
        ...

    def clients(self) -> Sequence[Client]:
        """Who is answered, the newest last."""
        ...

    async def flush(self) -> None:
        """Returns when what is served now is on the disk, or was refused by it."""
        ...


@runtime_checkable
class Bootstraps(Protocol):
    """An optional side of an export: its data planes are started with a file, which it can write."""

    def bootstrap(self, client: str, said: Mapping[str, str]) -> str:
        """The file for a kind of client. `said`: what only its host knows, by option; raises ConfigError.

        `server`: the address to ask where `listen` is none that others can dial; `node`: the client's name; `admin`,
        `variant`; `network`, `region`, `zone`: where the client is; `ca`, `cert`, `key`: paths at the client.
        """
        ...


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened, for a destination that keeps a log of it.

    `type`: its versioned name. `about`: the registry, destination or link. `subject`: the service or the instance.
    `service`: events of one service keep their order, None: it is about none. `seconds` since the epoch. `id`: the same
    for the same event, however often it is told. `data`: JSON. `trace`: a traceparent (W3C), "" without a trace.
    """

    type: str
    about: str
    subject: str
    service: ServiceName | None
    seconds: float
    id: str
    data: bytes
    trace: str = ""


@runtime_checkable
class EventLog(Protocol):
    """An optional side of a sink that keeps a log of what happened, beside what it holds."""

    @property
    def logs(self) -> bool:
        """Whether it is to keep one."""
        ...

    async def log(self, events: Sequence[Event], term: Term | None) -> None:
        """Appends these in their order, and returns when all are kept. Raises Unavailable, Denied or Superseded.

        What was handed over before and is told again may be there twice, with the same id. `term`: as for `apply`;
        once another process's term has begun nothing is appended, so that no event comes after those of its follower.
        """
        ...


@runtime_checkable
class Logged(Protocol):
    """An optional side of a registry that gives out again the log that its sink keeps (`EventLog`)."""

    def events(self, since: float, *, follow: bool) -> AsyncIterator[Sequence[Event]]:
        """The events from that time on (seconds since the epoch), each batch in the order that its writer gave it.

        The first batch is all there is now; `follow`: then what comes, for ever. An event may be told twice, with one
        id. Raises Unavailable, Denied or Expired, and ConfigError where the file names no log.
        """
        ...


class Renewal(msgspec.Struct, frozen=True):
    """How the renewing of a destination's entries goes.

    `entries` are renewed once in `every` seconds; `late`: seconds that this is behind; `ends`: seconds that the first
    of them would live without it, None: there are none.
    """

    entries: int
    every: float
    late: float
    ends: float | None


@runtime_checkable
class Renewer(Protocol):
    """An optional side of a sink whose entries end unless they are renewed, in a store that cannot lock (ADR 18).

    To renew takes nothing away, so it goes on where writing must end: under a freeze, and after the lock was lost.
    """

    def renew(self, *, ours: bool) -> None:
        """True: this process is the writer, and renews what its bridge has there from now on. False: another one is."""
        ...

    @property
    def renewal(self) -> Renewal | None:
        """How it goes; None: this process renews nothing."""
        ...


class Trace(msgspec.Struct, frozen=True):
    """Something that a bridge keeps in a store beside the records of its entries.

    `kind`: what it is in one or two words (ledger entry, lock, note, node ...). `place`: its key, path or name.
    `needed`: why it stays when this bridge leaves, and what ends that; "": it goes with `Seat.leave`.
    """

    kind: str
    place: str
    needed: str = ""


@runtime_checkable
class Tracer(Protocol):
    """An optional side of a registry in whose store a bridge keeps anything beside the records of its entries."""

    async def traces(self, bridge: str) -> Sequence[Trace]:
        """All of it that the bridge with this id has left in the whole store, whichever destination it is of.

        What bridges share (the store's identity, folders) is among it where no other bridge is there. Only reads.
        Raises Unavailable or Denied.
        """
        ...


class Right(msgspec.Struct, frozen=True):
    """One right of ours at a registry, named by its verb in the registry's own words; `may` None: nobody says."""

    verb: str
    may: bool | None


class Advice(msgspec.Struct, frozen=True):
    """What a plan does at its destination beside the entries that it changes. `warning`: somebody is to act first."""

    service: ServiceName
    text: str
    warning: bool = False


@runtime_checkable
class Adviser(Protocol):
    """An optional side of a sink that knows what shares a name with its entries, and what reacts to them (ADR 22)."""

    async def advise(self, changes: Mapping[ServiceName, Sequence[Change]]) -> Sequence[Advice]:
        """For `plan`: what these changes come to. Changes nothing. Raises Unavailable or Denied."""
        ...


class Credential(msgspec.Struct, frozen=True):
    """What is shown to a registry, and ends. `what`: its file, for people; times in seconds since the epoch."""

    what: str
    ends: float
    begins: float | None = None


class Concern(msgspec.Struct, frozen=True):
    """What an operator should know of a registry now. `code`: one of `bridge.report.attention`."""

    code: str
    text: str


@runtime_checkable
class Credentialed(Protocol):
    """An optional side of a registry that shows something that ends."""

    def credentials(self) -> Sequence[Credential]:
        """What was shown last and has a known end, but for what is asked for anew by then. From memory."""
        ...


@runtime_checkable
class Concerned(Protocol):
    """An optional side of a registry that has more to say of itself than how its watches do."""

    def concerns(self) -> Sequence[Concern]:
        """What is wrong now; none where all is well. From memory: it is asked once a second."""
        ...


class Reach(msgspec.Struct, frozen=True):
    """What `check` says of a registry: None is "unknown". `writers`: the bridges that hold their lock there now.

    `notes`: what is odd or missing. `rights`: what `may_read` and `may_write` are made of. `limits`: the registry's own
    bounds, and ours there. `unnamed`: scopes that it has and the file does not name, which are not read.
    """

    identity: str
    version: str
    may_read: bool | None = None
    may_write: bool | None = None
    notes: tuple[str, ...] = ()
    writers: frozenset[str] | None = None
    rights: tuple[Right, ...] = ()
    limits: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()


class Sample(msgspec.Struct, frozen=True):
    """What a query came to. `value` None: nothing that is one number, and `why` says what there is instead.

    `at`: of which time it is, in seconds since the epoch by the clock of who answered.
    """

    value: float | None
    at: float
    why: str = ""


class Meter(Protocol):
    """Something that answers queries about requests: what a migration's gates ask (ADR 30)."""

    async def ask(self, query: str, at: float | None = None) -> Sample:
        """The answer as of a time that an earlier one was of, None: as of now.

        A partial answer has no value. Raises Unavailable, Denied, or Rejected where it is no such query.
        """
        ...

    async def close(self) -> None:
        """Ends every connection."""
        ...


# Requests since some start, by who counted them for which purpose, address and port.
Counts = Mapping[tuple[str, str, int], float]


class Counter(Protocol):
    """Something between consumers and instances that counts the requests to each: a measured share (ADR 40)."""

    async def counts(self) -> Counts:
        """All of them; each grows, or begins anew. Raises Unavailable or Denied, and never answers with less."""
        ...

    async def close(self) -> None:
        """Ends every connection."""
        ...


class Certainty(enum.StrEnum):
    """How much is known of a reader. POSSIBLE: it is connected there, and what it reads is not told."""

    KNOWN = "known"
    POSSIBLE = "possible"
    UNKNOWN = "cannot be known"


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who reads a service, or may, or a kind of reader that nobody can see there.

    `who`: an address, an application, or that kind. `evidence`: what says so, and where; of one that cannot be known,
    why. `at`: when that was so, in seconds since the epoch. `command`: what a person runs to know more, "": nothing.
    """

    who: str
    certainty: Certainty
    evidence: str
    at: float
    command: str = ""


@runtime_checkable
class Readers(Protocol):
    """An optional side of a registry that knows something of who reads it (ADR 30)."""

    async def readers(self, name: ServiceName) -> Sequence[Reader]:
        """Whom it knows to read a service, and who may. No list that is short proves anything. Only reads.

        Raises Unavailable or Denied; what only one of its servers does not tell is a reader that cannot be known.
        """
        ...


@runtime_checkable
class Observer(Protocol):
    """An optional side of a registry that knows of which kinds some of its readers are (ADR 40)."""

    async def consumers(self, name: ServiceName) -> Collection[str]:
        """The kinds of clients that are known to read a service now, as keys of `bridge.consumers` ("dubbo-go").

        Asked often, so it costs next to nothing. Raises Unavailable or Denied.
        """
        ...


class Raw(msgspec.Struct, frozen=True):
    """One record as it is in the store, for `explain`.

    `place`: its key, path or file. `id`: the entry of the service that it is read as, "*" where any may be meant, ""
    where it is none (a ledger entry). `fault`: why it cannot be read, "" if it can.
    """

    place: str
    text: str
    id: str = ""
    fault: str = ""


class Registry(Protocol):
    """One configured registry. An async context manager: entering opens no connection that could fail."""

    name: str
    traits: Traits

    async def __aenter__(self) -> Registry: ...

    async def __aexit__(self, *exc: object) -> None: ...

    def scopes(self) -> AsyncIterator[Source]:
        """The sources there are; most registries have one for ever, a new one may appear at any time."""
        ...

    def sink(self, bridge: str) -> Sink:
        """The destination side, for the bridge with this id; raises ConfigError where it cannot be written."""
        ...

    def seat(self, bridge: str, destination: str) -> Seat | None:
        """The seat of this bridge for one destination; None where the store cannot lock.

        For the registry's own name it is the seat that belongs to `sink(bridge)`. For another it is lent: kept in this
        registry's store beside its own, and never the same lock. Of a bridge and a destination there is one seat.
        """
        ...

    async def reach(self) -> Reach:
        """Asks the server who it is and what we may do there, without writing. Raises Unavailable or Denied."""
        ...

    async def raw(self, name: ServiceName) -> Sequence[Raw]:
        """The records of one service as they are in the store, those that cannot be read and the ledger's among them.

        Raises Unavailable or Denied.
        """
        ...
