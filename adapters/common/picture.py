"""What an export holds and serves: in memory, and on disk, so that a restart serves at once what was served.

A removal is on disk before it is served, everything else within a second (docs/adr/0027-exports.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from adapters.common.changes import Outcomes, judge, turn
from adapters.common.touched import Touched
from bridge.adapter import Change, Entry, Outcome
from bridge.errors import Conflict, IsthmusError, Rejected, Unavailable
from bridge.model import Instance, Mark, ServiceName

log = logging.getLogger("isthmus.export")

FORMAT = 1
EVERY = 1.0  # seconds between two writes of what need not wait for the disk

Key = tuple[ServiceName, str]
Form = Callable[[ServiceName, Instance], Instance]

_TABLES = """
create table if not exists entries (service text, id text, record blob, primary key (service, id)) without rowid;
create table if not exists facts (name text primary key, value integer) without rowid;
"""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One row: an entry as it is served, and its mark."""

    instance: Instance
    mark: Mark | None


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(Record)


class Picture:
    """The entries of one export, by service and id. `path` None: kept nowhere.

    `complete`: at some time all that feeds it was known, so that what is missing here is not there; until then only
    what is `ready` is certain. `missing`: of which sources nothing is known. `fault`: why it cannot be kept on disk
    now, "" if it can.
    """

    def __init__(self, path: Path | None) -> None:
        self.services: dict[ServiceName, dict[str, Entry]] = {}
        self.complete = False
        self.missing: frozenset[str] = frozenset()  # of these sources nothing is known
        self._feeds: Callable[[ServiceName], bool] = lambda name: True  # whether any of them may feed a name
        self._waits = 0  # grows with each change of these two
        self.fault = ""
        self.own = ""  # the network of the export
        self.network_of: Callable[[Instance, Mark | None], str] = lambda instance, mark: ""
        self.placed = 0  # grows with each change of these two
        self._path = path
        self._is_loaded = path is None
        self._touched = Touched[ServiceName]()
        self._unsaved: dict[Key, Entry | None] = {}
        self._turn = asyncio.Lock()  # one thread at a time at the disk
        self._waiting: list[asyncio.Future[None]] = []

    async def load(self) -> None:
        """Reads what was served, once. A damaged file counts as none, is put aside, and said.

        Raises Unavailable where the file cannot be reached now.
        """
        async with self._turn:
            if self._is_loaded or self._path is None:
                return
            try:
                self.services, was_complete = await asyncio.to_thread(_read, self._path)
                self.complete = self.complete or was_complete
                self._waits += 1
            except (sqlite3.OperationalError, OSError) as error:
                raise Unavailable(f"{self._path} cannot be read: {error}") from error
            except (sqlite3.DatabaseError, msgspec.DecodeError, _Unknown) as error:
                log.error("what was served before is not known file=%s reason=%r", self._path, str(error))
                await asyncio.to_thread(_put_aside, self._path)
            self._is_loaded = True
            for name in self.services:
                self._touched.touch(name, self.services)

    async def apply(self, bridge: str, changes: Sequence[Change], form: Form) -> Sequence[Outcome]:
        """Makes the changes: adds at once, removals when they are on disk. One outcome for each, in the same order.

        `form`: what is served of an instance; raises Rejected.
        """
        outcomes = Outcomes(changes)
        removals: list[tuple[Change, Entry]] = []
        for change in sorted(changes, key=turn):
            try:
                judge(bridge, change)
                if change.after is not None:
                    form(change.service, change.after)
                stands = self._standing(change)
                if change.after is None and stands is not None and not change.forget:
                    removals.append((change, stands))
                else:
                    outcomes.put(Outcome(change, self._put(change, stands)))
            except IsthmusError as error:
                outcomes.fail(change, error)
        if removals:
            outcomes.put(*await self._remove(removals))
        return outcomes.in_order()

    def place(self, own: str, of: Callable[[Instance, Mark | None], str]) -> None:
        """In which network an entry's address is from now on."""
        self.own, self.network_of = own, of
        self.placed += 1
        self._wake()

    def wait(self, items: frozenset[str], feeds: Callable[[ServiceName], bool]) -> None:
        """Of these sources nothing is known; `feeds(name)`: whether any of them may have instances of that service.

        None: from now on, and after a restart, what is missing here is not there.
        """
        self.missing, self._feeds = items, feeds
        self.complete = self.complete or not items
        self._waits += 1
        self._wake()

    def ready(self, name: ServiceName) -> bool:
        """Whether what is here of a service is all that there is of it."""
        return self.complete or not self._feeds(name)

    @property
    def version(self) -> int:
        """Grows with each change of what is served."""
        return self._touched.version

    def since(self, version: int) -> list[ServiceName]:
        """The services that changed after that version; see `Touched.since`."""
        return self._touched.since(version)

    @property
    def standing(self) -> tuple[int, int, int]:
        """Changes with what is served, with what is certain of it, and with its networks."""
        return self.version, self._waits, self.placed

    async def newer(self, before: tuple[int, int, int]) -> None:
        """Returns when its `standing` is another one."""
        while self.standing == before:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    async def keep(self) -> None:
        """Never returns: writes what changed, once a second, and once more at its end. A disk that refuses is said."""
        kept = False
        try:
            while True:
                await asyncio.sleep(EVERY)
                if self._unsaved or kept != self.complete:
                    with contextlib.suppress(Unavailable):
                        await self._save(durable=False)
                        kept = self.complete
        finally:
            with contextlib.suppress(Unavailable):
                await self._save(durable=True)

    async def flush(self) -> None:
        """Writes what is not on disk yet. Raises Unavailable."""
        await self.load()
        await self._save(durable=False)

    def _standing(self, change: Change) -> Entry | None:
        """What the change is about; None: it creates. Raises Conflict, Rejected."""
        what = f"{change.service}/{change.id}"
        stands = self.services.get(change.service, {}).get(change.id)
        if change.ttl is not None:
            raise Rejected("what is served ends when it is removed: make the link lasting")
        if change.before is None:
            if stands is not None:
                raise Conflict(f"{what} is served already")
            return None
        if stands is None or stands.version != change.before.version:
            raise Conflict(f"{what} is not what it was")
        if change.forget and stands.mark is None:
            raise Conflict(f"{what} is nobody's already")
        return stands

    def _put(self, change: Change, stands: Entry | None) -> str:
        """Serves what is after the change; what is released is served on, without a mark."""
        if change.after is not None:
            instance, mark = change.after, change.mark
        else:
            assert stands is not None
            instance, mark = stands.instance, None
        version = digest(instance, mark)
        self._serve((change.service, change.id), Entry(instance, mark, version))
        return version

    async def _remove(self, removals: Iterable[tuple[Change, Entry]]) -> list[Outcome]:
        """On disk first: what is served no more must not come back with a restart."""
        removals = list(removals)
        for change, _ in removals:
            self._unsaved[change.service, change.id] = None
        try:
            await self._save(durable=True)
        except Unavailable as error:
            for change, stands in removals:
                self._unsaved[change.service, change.id] = stands
            return [Outcome(change, error=error) for change, _ in removals]
        outcomes = []
        for change, stands in removals:
            key = change.service, change.id
            now = self.services.get(change.service, {}).get(change.id)
            if now is stands:
                self._serve(key, None)
                del self._unsaved[key]  # it is on disk already
                outcomes.append(Outcome(change))
            else:
                self._unsaved[key] = now
                outcomes.append(Outcome(change, error=Conflict(f"{change.service}/{change.id} is not what it was")))
        return outcomes

    def _serve(self, key: Key, entry: Entry | None) -> None:
        name, id = key
        entries = dict(self.services.get(name, {}))  # a copy: whoever reads the old one sees it whole
        if entry is None:
            entries.pop(id, None)
        else:
            entries[id] = entry
        if entries:
            self.services[name] = entries
        else:
            self.services.pop(name, None)
        self._unsaved[key] = entry
        self._touched.touch(name, self.services)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _save(self, *, durable: bool) -> None:
        """Writes what is not on disk; raises Unavailable, and it is written with the next try."""
        if self._path is None:
            self._unsaved.clear()
            return
        async with self._turn:
            batch, self._unsaved = self._unsaved, {}
            try:
                await asyncio.to_thread(_write, self._path, batch, self.complete, durable)
            except (sqlite3.Error, OSError) as error:
                self._unsaved = batch | self._unsaved
                if not self.fault:
                    log.error("what is served cannot be kept file=%s: %s", self._path, error)
                self.fault = f"{self._path}: {error}"
                raise Unavailable(f"what is served cannot be kept on disk: {self.fault}") from error
            if self.fault:
                log.info("what is served is kept again file=%s", self._path)
            self.fault = ""


def digest(instance: Instance, mark: Mark | None) -> str:
    """24 hex digits over an entry: the same at every daemon that serves the same."""
    return hashlib.blake2b(_ENCODER.encode(Record(instance, mark)), digest_size=12).hexdigest()


class _Unknown(Exception):
    """The file is of a format that this version does not know."""


def _read(path: Path) -> tuple[dict[ServiceName, dict[str, Entry]], bool]:
    services: dict[ServiceName, dict[str, Entry]] = {}
    if not path.exists():
        return services, False
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        if not connection.execute("select count(*) from sqlite_master").fetchone()[0]:
            return services, False
        facts = dict(connection.execute("select name, value from facts"))
        if facts.get("format") != FORMAT:
            raise _Unknown(f"its format is {facts.get('format')}, and this version knows {FORMAT}")
        for service, id, record in connection.execute("select service, id, record from entries"):
            known = _DECODER.decode(record)
            entry = Entry(known.instance, known.mark, digest(known.instance, known.mark))
            services.setdefault(ServiceName.parse(service), {})[id] = entry
    return services, bool(facts["complete"])


def _write(path: Path, batch: Mapping[Key, Entry | None], complete: bool, durable: bool) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.executescript(_TABLES)
        connection.execute(f"pragma synchronous = {'full' if durable else 'normal'}")
        gone = [(str(name), id) for (name, id), entry in batch.items() if entry is None]
        rows = [
            (str(name), id, _ENCODER.encode(Record(entry.instance, entry.mark)))
            for (name, id), entry in batch.items()
            if entry is not None
        ]
        connection.execute("begin immediate")  # closing without a commit takes all of it back
        facts = [("format", FORMAT), ("complete", int(complete))]
        connection.executemany("insert or replace into facts values (?, ?)", facts)
        connection.executemany("delete from entries where service = ? and id = ?", gone)
        connection.executemany("insert or replace into entries values (?, ?, ?)", rows)
        connection.execute("commit")


def _put_aside(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.replace(path.with_name(f"damaged {path.name}"))
    for end in ("-wal", "-shm"):
        with contextlib.suppress(OSError):
            path.with_name(path.name + end).unlink()
