"""The state folder: whose it is, and everything in it that outlives the process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bridge.errors import ConfigError, Unavailable
from bridge.sources.claims import Pair
from bridge.state import formats
from bridge.state.before import Before
from bridge.state.decisions import APPROVED, EVERY_LINK, Decision, Decisions, Item, Kind
from bridge.state.files import Fault, replace, whole, why
from bridge.state.formats import FORMAT, Told
from bridge.state.last_known import Known
from bridge.state.table import Table

__all__ = [
    "APPROVED",
    "EVERY_LINK",
    "FORMAT",
    "Decision",
    "Item",
    "Kind",
    "State",
    "Told",
    "claim",
    "for_command",
    "opened",
]

log = logging.getLogger("isthmus.state")

EVERY = 1.0  # seconds between looks at what commands changed
REMEMBERED = 100  # owners that are silent
FOLDERS = ("known", "journal")
ACCEPTED = "accepted.yaml"
LOCK = "lock"
MAY_STAND = frozenset({"lost+found", f".{formats.DEED}.new"})  # in a folder that counts as empty

Inode = tuple[int, int]  # device and number of a folder


class Copied(msgspec.Struct, frozen=True):
    """A scope has been copied to a destination as a whole, so that what it wins from then on is growth."""

    destination: str
    source: str
    scope: str


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """An owner of entries of a registry (its identity) that nobody has been seen to write for.

    `since`: the first of the looks that all found it so, in seconds since the epoch.
    """

    registry: str
    owner: str
    since: float


class Shared(msgspec.Struct, frozen=True):
    """Addresses and ports that were known under two services at once, each as "NETWORK ADDRESS PORT"."""

    pairs: tuple[str, ...]


class Accepted(NamedTuple):
    """The last configuration that was without faults: its text, and its place."""

    path: Path
    hash: str
    text: str


class State:
    """Everything that outlives the process. With folder None it is all in memory, and the interface is the same.

    What changes counts at once; `run` brings it to the disk, `flush` waits for that, and `save` does it here and now.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time, bridge: str = "") -> None:
        """For reading beside a daemon, or without one; a daemon opens with `opened`, which names the `bridge`."""
        self.folder = folder
        self.turned = time.monotonic()  # when `run` last came back from the disk
        self.before = Before(folder)
        self.known = Known(folder / "known" if folder else None, clock)
        self.decisions = Decisions(folder / "decisions.json" if folder else None, clock)
        self.copies = Table(folder / "copies.json" if folder else None, Copied, clock)
        self.silent = Table(folder / "silent.json" if folder else None, Silent, clock, REMEMBERED)
        self.told = Table(folder / "told.json" if folder else None, Told, clock)  # by destination
        self._shared = Table(folder / "shared.json" if folder else None, Shared, clock)
        self.lost: Fault | None = None  # the folder is gone, and cannot be made again
        self._bridge = bridge
        self._held = _inode(folder) if bridge and folder is not None else None
        self._locks = contextlib.ExitStack()
        self._accepted: Accepted | None = None
        self._accept_fault: Fault | None = None
        self._clock = clock
        self._running = False
        self._waits: set[str] = set()  # links of which somebody asked, since the last look, and which were frozen
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def _tables(self) -> tuple[Table[Any], ...]:
        return (self.decisions.table, self.decisions.over, self.copies, self.silent, self.told, self._shared)

    @property
    def fault(self) -> Fault | None:
        """The oldest trouble with the disk, None where there is none."""
        parts = (self._accept_fault, self.known.writing.fault, *(table.fault for table in self._tables))
        return min((part for part in parts if part is not None), key=lambda part: part.since, default=None)

    # -- what operators decide: see `bridge.state.decisions`

    def frozen(self, link: str) -> Decision | None:
        """The freeze in force for a link; whoever finds one waits for `thawed` of `run`."""
        found = self.decisions.frozen(link)
        if found is not None:
            self._waits.add(link)
        return found

    def in_force(self) -> frozenset[str]:
        """The links that are frozen by name, and `*` where all are."""
        names = (*self.decisions.of(Kind.FREEZE), EVERY_LINK)
        return frozenset(key for key in names if self.decisions.frozen(key))

    async def spend(self, items: Collection[Item]) -> bool:
        """No approval lets these go any longer; False where the disk refuses that, so that a restart would not know."""
        self.decisions.use_up(items)
        await self.flush()
        return self.decisions.fault is None

    # -- first copies

    def believe(self, registry: str, life: str, doubt: str) -> None:
        """A new life of a registry, or of a scope of it, counts: nothing waits for it any more where this host writes.

        Told to the hosts that stand by: they do not see that, and would go on doubting it.
        """
        self.decisions.decide(Kind.ACCEPTED, registry, by="isthmus", reason=f"nothing waits for it: {doubt}", life=life)

    def settle(self, destination: str, source: str, scope: str) -> None:
        """The first copy of a scope to a destination is done; all three by identity."""
        self.copies.put(f"{destination} {source} {scope}", Copied(destination, source, scope))

    def settled(self) -> set[tuple[str, str, str]]:
        """The first copies that are done."""
        return {(one.destination, one.source, one.scope) for one in self.copies.entries.values()}

    # -- owners that no longer write

    def listen(self, registry: str, owners: Collection[str], writers: Collection[str]) -> None:
        """Notes which owners of entries of a registry (its identity) are silent now, and forgets who is not."""
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

    # -- addresses and ports of several services

    def share(self, pairs: Collection[Pair]) -> None:
        """Keeps the pairs that were known under two services at once."""
        self._shared.put("", Shared(tuple(f"{network} {address} {port}" for network, address, port in pairs)))

    def shared(self) -> list[Pair]:
        """These pairs, as an earlier process knew them."""
        entry = self._shared.entries.get("")
        split = [text.split(" ") for text in entry.pairs] if entry is not None else []
        return [(parts[0], parts[1], int(parts[2])) for parts in split if len(parts) == 3 and parts[2].isdecimal()]

    # -- the last accepted file

    def accept(self, path: Path, digest: str, text: str) -> None:
        """Keeps the text of a file without faults; a disk that refuses is a fault of the folder, and stops nothing.

        Waits for the disk: not to be called on the loop.
        """
        self._accepted = Accepted(path, digest, text)
        if self.folder is None:
            return
        head = f"# accepted {digest} {path}\n"
        try:
            replace(self.folder / ACCEPTED, (head + text).encode())
            self._accept_fault = None
        except OSError as error:
            self._accept_fault = Fault(self._accept_fault.since if self._accept_fault else self._clock(), why(error))

    def accepted(self) -> Accepted | None:
        """The last accepted file, None where there is none."""
        if self._accepted is None and self.folder is not None:
            with contextlib.suppress(OSError, ValueError):
                head, _, text = (self.folder / ACCEPTED).read_text("utf-8").partition("\n")
                _, _, digest, path = head.split(" ", 3)
                self._accepted = Accepted(Path(path), digest, text)
        return self._accepted

    # -- the disk

    def save(self) -> bool:
        """Brings all that waits to the disk, and takes over what other processes wrote; False where it refuses.

        Waits for the disk: for a thread, or for a command.
        """
        if self._bridge and self.folder is not None and not self._is_there(self.folder):
            return False
        self.decisions.tidy()
        if self._accept_fault is not None and self._accepted is not None:
            self.accept(*self._accepted)
        saved = [table.save() for table in self._tables]
        return all(saved)

    def _is_there(self, folder: Path) -> bool:
        """Whether the folder is there; one that somebody took away, or a part of it, is made again as it was."""
        try:
            missing = [name for name in (formats.DEED, LOCK, *FOLDERS) if not (folder / name).exists()]
            if missing:
                claim(folder, self._bridge, held=self._held)
                self._held = _inode(folder)
            if formats.DEED in missing:
                log.critical("the state folder was taken away, and is made again path=%s", folder)
            if LOCK in missing:
                self._locks.close()
                self._locks.enter_context(_locked(folder))
            if self._accepted is not None and not (folder / ACCEPTED).exists():
                self.accept(*self._accepted)
        except (ConfigError, OSError) as error:
            self.lost = Fault(self.lost.since if self.lost else self._clock(), str(error))
            return False
        self.lost = None
        return True

    def close(self) -> None:
        """Writes what waits, and lets go of the locks that were taken meanwhile."""
        self.save()
        self._locks.close()

    async def flush(self) -> None:
        """Returns when everything that was decided before this call is on the disk, or was refused by it."""
        if not self._running:
            await asyncio.to_thread(self.save)
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._asked.set()
        await done

    async def run(self, thawed: Callable[[frozenset[str]], None]) -> None:
        """Writes what is collected, and looks once a second what commands changed.

        `thawed` is called when other links are frozen than before, be it by a command or by the time, with those
        whose freeze has ended; also for a freeze that came and went between two looks, if anybody saw it.
        """
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.known.writing.run())
                tasks.create_task(self._watch(thawed))
                await self._save_loop()
        finally:
            self._running = False
            _tell(self._waiting)
            await asyncio.to_thread(self.save)

    async def _save_loop(self) -> None:
        """One thread at a time: a disk that hangs holds up one, and not one for everybody who asks."""
        while True:
            self.turned = time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            self.turned = time.monotonic()
            try:
                await whole(asyncio.to_thread(self.save))
            finally:
                _tell(waiting)

    async def _watch(self, thawed: Callable[[frozenset[str]], None]) -> None:
        before = self.in_force()
        while True:
            await asyncio.sleep(EVERY)
            told, self._waits = self._waits, set()
            if (now := self.in_force()) != before or any(self.decisions.frozen(link) is None for link in told):
                ended, before = before - now, now
                thawed(ended)


def _tell(waiting: Iterable[asyncio.Future[None]]) -> None:
    for one in waiting:
        if not one.done():
            one.set_result(None)


@contextlib.contextmanager
def opened(folder: Path | None, bridge: str, clock: Callable[[], float] = time.time) -> Iterator[State]:
    """A daemon's state folder, made where there is none, locked, and of the newest format.

    Raises ConfigError where it is not ours to use.
    """
    if folder is None:
        yield State(None, clock)
        return
    deed = claim(folder, bridge)
    with _locked(folder):
        try:
            formats.convert(folder, deed)
        except OSError as error:
            raise ConfigError(
                f"{folder}: cannot be brought from format {deed.format} to {FORMAT}: {why(error)}; it is as it was"
            ) from None
        kept = State(folder, clock, bridge)
        try:
            yield kept
        finally:
            kept.close()


def for_command(folder: Path, bridge: str, clock: Callable[[], float] = time.time) -> State:
    """A command's state folder, in which it may decide something; a daemon may run beside it.

    Raises ConfigError where it is not ours to use, Unavailable while a daemon of an older version runs there.
    """
    deed = claim(folder, bridge, by_command=True)
    if deed.format < FORMAT:
        try:
            with _locked(folder):
                formats.convert(folder, deed)
        except ConfigError:
            raise Unavailable(
                "the daemon that runs here is of an older version, and reads none of this; restart it"
            ) from None
        except OSError as error:
            raise Unavailable(f"{folder}: cannot be brought to format {FORMAT}: {why(error)}") from None
    return State(folder, clock)


def claim(folder: Path, bridge: str, *, by_command: bool = False, held: Inode | None = None) -> formats.Deed:
    """Makes the folder where there is none; raises ConfigError where it is not this bridge's to use.

    Only an empty folder, or one of ours, is taken. `by_command`: root may act for the user whose folder it is. `held`:
    the folder that this process has, which is ours without its deed, too: who removes it while it is written to leaves
    parts of it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        deed = formats.read_deed(folder)
        is_strange = deed is None and _inode(folder) != held
        if is_strange and (others := sorted({path.name for path in folder.iterdir()} - MAY_STAND)):
            raise ConfigError(
                f"{folder}: is no state folder, and not empty: it has {', '.join(others[:3])}; "
                "name a folder of its own in bridge.state"
            )
        found = folder.stat()
        if found.st_uid != os.geteuid() and not (by_command and os.geteuid() == 0):
            raise ConfigError(f"{folder}: belongs to the user {found.st_uid}; run as that user, or name another folder")
        if found.st_mode & 0o066:  # others may pass it to the admin socket, where `bridge.access` lets them
            folder.chmod(0o700)
        if deed is None:
            deed = formats.write_deed(folder, bridge)
        for name in FOLDERS:
            if not (folder / name).is_dir():
                (folder / name).mkdir(mode=0o700)
                os.chown(folder / name, found.st_uid, found.st_gid)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be used as state folder: {why(error)}") from None
    if deed.bridge != bridge:
        raise ConfigError(
            f"{folder}: belongs to the bridge {deed.bridge!r}, and bridge.id says {bridge!r}. Every entry written so "
            f"far is owned by {deed.bridge!r}. Put the id back; or hand over: give {bridge!r} a folder of its own in "
            f"bridge.state, and once it has written its entries, remove the old ones with "
            f"`isthmus purge REGISTRY --owner {deed.bridge}`"
        )
    return deed


def _inode(folder: Path) -> Inode:
    """Which folder it is, whatever its name; raises OSError."""
    found = folder.stat()
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One daemon a folder. Where not even the lock's file can be made (a full disk), the daemon runs all the same."""
    path = folder / LOCK
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
