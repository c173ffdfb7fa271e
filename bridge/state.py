"""The state folder: whose it is, last known good, the last accepted file, freezes and approvals."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bridge.disk import Fault, Table, replace, why
from bridge.errors import ConfigError
from bridge.known import Known

FORMAT = 1  # of the folder as a whole
EVERY_LINK = "*"
EVERY = 1.0  # seconds between looks at what commands changed
REMEMBERED = 100  # sets shown and approved

Item = tuple[str, str, str]  # link, service, entry id: as in `bridge.holds`


class Deed(msgspec.Struct, frozen=True):
    """Whose folder this is, and by which rules it is laid out."""

    format: int
    bridge: str


class Freeze(msgspec.Struct, frozen=True, kw_only=True):
    """Writes of a link, or of all (`*`), are stopped. Times in seconds since the epoch; until None: until unfrozen."""

    reason: str
    by: str
    since: float
    until: float | None = None


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A set of removals that an operator let go, named by its hash. `at` in seconds since the epoch."""

    items: tuple[Item, ...]
    reason: str
    by: str
    at: float


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A held set that an operator was shown, named by its hash. `at` in seconds since the epoch."""

    items: tuple[Item, ...]
    at: float


class Copied(msgspec.Struct, frozen=True):
    """A scope has been copied to a destination as a whole, so that what it wins from then on is growth."""

    destination: str
    source: str
    scope: str


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """An owner of what stands in a registry (its identity) that nobody has been seen to write for.

    `since`: the first of the looks that all found it so, in seconds since the epoch.
    """

    registry: str
    owner: str
    since: float


class Told(msgspec.Struct, frozen=True):
    """The freezes that all daemons of this bridge are known to know, by link; `turn` as in `bridge.succession`."""

    turn: int = 0
    freezes: dict[str, Freeze] = {}


class Accepted(NamedTuple):
    """The last configuration that was without faults: its text, and where it stood."""

    path: Path
    hash: str
    text: str


class State:
    """Everything that outlives the process. With folder None it is all in memory, and the interface is the same."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        """For reading beside a daemon, or without one; a daemon opens with `opened`."""
        self.folder = folder
        self.known = Known(folder / "known" if folder else None, clock)
        self.freezes = Table(folder / "freezes.json" if folder else None, Freeze, clock)
        self.approvals = Table(folder / "approvals.json" if folder else None, Approval, clock, REMEMBERED)
        self.shown = Table(folder / "shown.json" if folder else None, Shown, clock, REMEMBERED)
        self.copies = Table(folder / "copies.json" if folder else None, Copied, clock)
        self.silent = Table(folder / "silent.json" if folder else None, Silent, clock, REMEMBERED)
        self.told = Table(folder / "told.json" if folder else None, Told, clock)  # by destination
        self._accepted: Accepted | None = None
        self._accept_fault: Fault | None = None
        self._clock = clock

    @property
    def fault(self) -> Fault | None:
        """The oldest trouble with the disk, None where there is none."""
        tables = (self.freezes, self.approvals, self.shown, self.copies, self.silent, self.told)
        parts = (self._accept_fault, self.known.fault, *(table.fault for table in tables))
        return min((part for part in parts if part is not None), key=lambda part: part.since, default=None)

    # -- freezes

    def frozen(self, link: str) -> Freeze | None:
        """The freeze in force for a link. A list of freezes that was never readable freezes everything."""
        now = self._clock()
        for key in (link, EVERY_LINK):
            freeze = self.freezes.entries.get(key)
            if freeze is not None and (freeze.until is None or now < freeze.until):
                return freeze
        fault = self.freezes.fault
        if fault is not None and self.freezes.unread:
            return Freeze(reason=f"the freezes cannot be read ({fault.reason})", by="isthmus", since=fault.since)
        return None

    def freeze(self, link: str, reason: str, by: str, lasting: float | None = None) -> None:
        """Stops the writes of a link, or of all (`*`); for so many seconds where `lasting` is given."""
        now = self._clock()
        until = None if lasting is None else now + lasting
        if self.freezes.unread:  # what this file said, nobody knows: writing it anew must not thaw anything
            self.freezes.put(EVERY_LINK, Freeze(reason="the freezes could not be read", by="isthmus", since=now))
        self.freezes.put(link, Freeze(reason=reason, by=by, since=now, until=until))

    def unfreeze(self, link: str) -> Freeze | None:
        """Lets the writes of a link go on; returns the freeze that it ended. `*` does not end those of single links."""
        ended = self.freezes.entries.get(link)
        self.freezes.drop(link)
        return ended

    # -- approvals

    def show(self, digest: str, items: tuple[Item, ...]) -> None:
        """An operator is shown this set, and may approve it by its hash from now on, also after a restart."""
        if digest not in self.shown.entries:
            self.shown.put(digest, Shown(items=items, at=self._clock()))

    def approve(self, digest: str, items: tuple[Item, ...], reason: str, by: str) -> None:
        """An operator let exactly this set go."""
        self.approvals.put(digest, Approval(items=items, reason=reason, by=by, at=self._clock()))

    # -- first copies

    def settle(self, destination: str, source: str, scope: str) -> None:
        """The first copy of a scope to a destination is done; all three by identity, as in `bridge.desk`."""
        self.copies.put(f"{destination} {source} {scope}", Copied(destination, source, scope))

    def settled(self) -> set[tuple[str, str, str]]:
        """The first copies that are done."""
        return {(one.destination, one.source, one.scope) for one in self.copies.entries.values()}

    # -- owners that write no more

    def listen(self, registry: str, owners: Collection[str], writers: Collection[str]) -> None:
        """Notes which owners of what stands in a registry (its identity) are silent now, and forgets who is not."""
        silent = {owner: f"{registry} {owner}" for owner in owners if owner not in writers}
        for key, one in list(self.silent.entries.items()):
            if one.registry == registry and one.owner not in silent:
                self.silent.drop(key)
        for owner, key in sorted(silent.items()):
            if key not in self.silent.entries:
                self.silent.put(key, Silent(registry=registry, owner=owner, since=self._clock()))

    def silences(self) -> dict[tuple[str, str], float]:
        """By identity of a registry and owner, since when that owner has been found silent there."""
        return {(one.registry, one.owner): one.since for one in self.silent.entries.values()}

    # -- the last accepted file

    def accept(self, path: Path, digest: str, text: str) -> None:
        """Keeps the text of a file without faults; a disk that refuses is a fault of the folder, and no more."""
        self._accepted = Accepted(path, digest, text)
        if self.folder is None:
            return
        head = f"# accepted {digest} {path}\n"
        try:
            replace(self.folder / "accepted.yaml", (head + text).encode())
            self._accept_fault = None
        except OSError as error:
            self._accept_fault = Fault(self._accept_fault.since if self._accept_fault else self._clock(), why(error))

    def accepted(self) -> Accepted | None:
        """The last accepted file, None where there is none."""
        if self._accepted is None and self.folder is not None:
            with contextlib.suppress(OSError, ValueError):
                head, _, text = (self.folder / "accepted.yaml").read_text("utf-8").partition("\n")
                _, _, digest, path = head.split(" ", 3)
                self._accepted = Accepted(Path(path), digest, text)
        return self._accepted

    # -- beside the loop

    def in_force(self) -> frozenset[str]:
        """The links that are frozen by name, and `*` where all are."""
        return frozenset(key for key in (*self.freezes.entries, EVERY_LINK) if self.frozen(key))

    async def run(self, thawed: Callable[[frozenset[str]], None]) -> None:
        """Writes what is collected, and looks once a second what commands changed.

        `thawed` is called when other links are frozen than before, be it by a command or by the time, with those
        whose freeze has ended.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.known.run())
            before = self.in_force()
            while True:
                await asyncio.sleep(EVERY)
                for table in (self.freezes, self.approvals, self.shown, self.copies, self.silent, self.told):
                    table.refresh()
                if (now := self.in_force()) != before:
                    ended, before = before - now, now
                    thawed(ended)


@contextlib.contextmanager
def opened(folder: Path | None, bridge: str, clock: Callable[[], float] = time.time) -> Iterator[State]:
    """A daemon's state folder, made where there is none, and locked; raises ConfigError where it is not ours to use."""
    if folder is None:
        yield State(None, clock)
        return
    claim(folder, bridge)
    with _locked(folder):
        yield State(folder, clock)


def claim(folder: Path, bridge: str) -> None:
    """Makes the folder where there is none; raises ConfigError where it is not this bridge's to use."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
        if owner.st_uid != os.geteuid():
            raise ConfigError(f"{folder}: belongs to the user {owner.st_uid}; run as that user, or name another folder")
        if owner.st_mode & 0o077:
            folder.chmod(0o700)
        deed = _deed(folder)
        if deed is None:
            deed = Deed(FORMAT, bridge)
            replace(folder / "bridge.json", msgspec.json.encode(deed) + b"\n")
        for name in ("known", "journal"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used as state folder: {why(error)}") from None
    if deed.format > FORMAT:
        raise ConfigError(
            f"{folder}: has format {deed.format}, and this isthmus knows none above {FORMAT}; "
            "run the newer one, or name another folder in bridge.state"
        )
    if deed.bridge != bridge:
        raise ConfigError(
            f"{folder}: belongs to the bridge {deed.bridge!r}, and bridge.id says {bridge!r}. Every entry written so "
            f"far is owned by {deed.bridge!r}. Put the id back; or hand over: give {bridge!r} a folder of its own in "
            f"bridge.state, and once it has written its entries, remove the old ones with "
            f"`isthmus purge FILE REGISTRY --owner {deed.bridge}`"
        )


def _deed(folder: Path) -> Deed | None:
    try:
        return msgspec.json.decode((folder / "bridge.json").read_bytes(), type=Deed)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder}/bridge.json: is not ours: {error}; name another folder in bridge.state") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One daemon a folder. Where not even the lock's file can be made (a full disk), the daemon runs all the same."""
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a lock needs no room
        except OSError:
            yield
            return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"{folder}: another daemon uses this folder; stop it, or name another in bridge.state"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
