"""What an adapter is: the protocols that every registry implements, and the values that pass through them."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from bridge.model import Instance, Mark, Service, ServiceName, Traits


class Listing(msgspec.Struct, frozen=True):
    """A watch begins to list everything: who answers, and which life of it.

    `identity` is the store's natural id (an etcd cluster id with the layout, a ZooKeeper chroot ...), the same
    for every bridge. `incarnation` and `revision` tell its lives apart: another incarnation, or a revision below one
    seen before, is a store that was restored, swapped or restarted empty, and is not believed (rule 3).
    """

    identity: str
    incarnation: str = ""
    revision: int = 0


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


class Source(Protocol):
    """One scope of a registry, read: the part that answers or fails as a whole."""

    scope: str

    @property
    def ignored(self) -> Mapping[str, str]:
        """Records that cannot be read now, each with the reason: bounded, and only to be shown."""
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
    """One entry at a destination. `mark` None: a native's. `version`: opaque, for compare-and-set in a Change."""

    instance: Instance
    mark: Mark | None = None
    version: Any = None


class Held(msgspec.Struct, frozen=True):
    """What a destination holds for the names asked: ours, other bridges' and natives', by service and entry id.

    A record that cannot be read stands there all the same: an Entry without a mark, its instance without an address.
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
    PURGE = "purge"  # the operator's command


class Change(msgspec.Struct, frozen=True):
    """One entry's before and after at a destination.

    after None: remove it. before None: create it, which must fail with Conflict where anything stands there.
    Both: replace it, which must fail with Conflict unless `before.version` still stands.
    adopt: `before` is another bridge's or a native's, and is replaced all the same; fails with Conflict unless it
    still stands as it was.
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
    """The time during which this process is the only writer of its bridge id at a destination."""

    async def ended(self) -> None:
        """Returns when the lock is lost, and is never late: writes fail with Superseded before or with it."""
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
        """What stands there, for some names or for all; raises Unavailable or Denied, never a partial answer."""
        ...

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Make the changes, adds before removals, one outcome for each in the same order.

        Each change is atomic with its ledger entry. Idempotent; never retries. Raises Superseded, and nothing else,
        for the batch as a whole.
        """
        ...

    def drift(self) -> AsyncIterator[frozenset[ServiceName]]:
        """Names to be read again: someone else changed what stands there. The empty set: read everything again.

        The first word is the empty set, as soon as it listens: what happened before then nobody told.
        """
        ...

    def writer(self) -> AbstractAsyncContextManager[Term]:
        """Waits for the lock of (bridge id, destination); inside, this process may write."""
        ...

    async def recall(self) -> Note | None:
        """The note of this bridge at this destination, None: there is none. Raises Unavailable or Denied."""
        ...

    async def note(self, content: bytes, before: Note | None, *, writer: bool) -> Note:
        """Puts a note of some KiB in the place of `before` (None: where there is none); as it stands then.

        Raises Conflict where another stands there. `writer`: only while this process is the writer, which is compared
        in the same transaction; raises Superseded where it is not. Raises Unavailable, Denied, Rejected (too long).
        """
        ...


class Reach(msgspec.Struct, frozen=True):
    """What `check` says of a registry: None is "unknown". `writers`: the bridges that hold their lock there now."""

    identity: str
    version: str
    may_read: bool | None = None
    may_write: bool | None = None
    notes: tuple[str, ...] = ()
    writers: frozenset[str] | None = None


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

    async def reach(self) -> Reach:
        """Asks the server who it is and what we may do there, without writing. Raises Unavailable or Denied."""
        ...

    async def raw(self, name: ServiceName) -> dict[str, str]:
        """The records of one service as they stand in the store, for `explain`: place (key, path, file) to text."""
        ...
