"""Last known good on disk: for each registry a log of what its scopes hold, written behind the loop's back.

A file is a sequence of lines, each a checksum and a JSON value. It begins with a base (everything, in blocks), and what
changes is appended once a second; when more was appended than twice the base, a new base takes the file's place.
A torn or damaged line ends the file: what stands before it counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from bridge.disk import Fault, private, sync_folder, whole, why
from bridge.model import Service, ServiceName
from bridge.store import Recorder, View

FORMAT = 1
EVERY = 1.0  # seconds between flushes
BLOCK = 500  # instances in a line at most: one to two ms to encode, which is as long as the loop may be held up
CHUNK = 1024 * 1024  # bytes handed to the thread at once
SMALL = 256 * 1024  # bytes: below this nothing is worth a new base
CONFIRM = 60.0  # seconds: so old may the word be that a scope is up and nothing changed
RETRY = 10.0  # seconds between attempts on a disk that refuses

Piece = tuple[ServiceName, list[str]]  # ids of one service


class KnownScope(msgspec.Struct):
    """What one scope held when it was last heard, at `at` (seconds since the epoch)."""

    registry: str
    scope: str
    identity: str = ""
    incarnation: str = ""
    revision: int = 0
    at: float = 0.0
    services: dict[ServiceName, Service] = {}


class About(msgspec.Struct, frozen=True, array_like=True):
    """Which store, which life of it, how far, and when it was heard."""

    identity: str
    incarnation: str
    revision: int
    at: float


class Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of a file: services with those instances that changed, and the ids that are gone.

    The first line of a file has its format and nothing else.
    """

    format: int = 0
    scope: str = ""
    about: About | None = None
    services: list[Service] = []
    gone: list[Piece] = []


ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder(Line)


def framed(line: Line) -> bytes:
    text = ENCODER.encode(line)
    return b"%08x %b\n" % (zlib.crc32(text), text)


def lines(content: bytes) -> Iterator[tuple[Line, int]]:
    """Every good line with the offset behind it, up to the first that is not."""
    start = 0
    view = memoryview(content)
    while (end := content.find(b"\n", start)) >= 0:
        text = view[start + 9 : end]
        if content[start : start + 9] != b"%08x " % zlib.crc32(text):
            return
        try:
            yield DECODER.decode(text), end + 1
        except msgspec.DecodeError:
            return
        start = end + 1


def read(registry: str, content: bytes) -> tuple[dict[str, KnownScope], int]:
    """The scopes in a file's content, and how much of it is good."""
    scopes: dict[str, KnownScope] = {}
    good = 0
    for line, end in lines(content):
        if good == 0 and line.format != FORMAT:
            break
        good = end
        if line.format:
            continue
        known = scopes.get(line.scope)
        if known is None:
            known = scopes[line.scope] = KnownScope(registry, line.scope, services={})
        if line.about is not None:
            about = line.about
            known.identity, known.incarnation = about.identity, about.incarnation
            known.revision, known.at = about.revision, about.at
        _merge(known.services, line)
    return scopes, good


def _merge(services: dict[ServiceName, Service], line: Line) -> None:
    for service in line.services:
        old = services.get(service.name)
        if old is None:
            services[service.name] = service
            continue
        for key, instance in service.instances.items():
            old.instances[key] = instance
            old.marks.pop(key, None)
        old.marks.update(service.marks)
    for name, ids in line.gone:
        if name not in services:
            continue
        for key in ids:
            services[name].instances.pop(key, None)
            services[name].marks.pop(key, None)
        if not services[name].instances:
            del services[name]


class Scope:
    """One scope as it is to be written: what is believed of it, and the ids that changed since the last flush."""

    def __init__(self, services: dict[ServiceName, Service], about: About) -> None:
        self.services = services
        self.about = about
        self.view: View | None = None
        self.changed: dict[ServiceName, set[str]] = {}
        self.described = False

    def confirm(self, now: float) -> bool:
        """Takes the newest revision and time over, where they are worth a line."""
        view, about = self.view, self.about
        if view is None or not (view.up or self.described):
            return False
        if not (self.described or self.changed or now - about.at >= CONFIRM):
            return False
        # A view in doubt takes no revision over, so this one is always that of the store that is believed.
        self.about = About(about.identity, about.incarnation, view.revision, now)
        self.described = False
        return True

    def take(self) -> dict[ServiceName, set[str]]:
        """The ids that changed, which are then no longer to be written."""
        changed, self.changed = self.changed, {}
        return changed


class Known(Recorder):
    """Last known good of all registries, in one folder; None: kept nowhere.

    It listens to the store (`changed`, `described`) at the cost of noting an id, and writes in `run`. A disk that
    refuses is tried again from memory, and `fault` says so meanwhile.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time) -> None:
        self.fault: Fault | None = None
        self.turned = time.monotonic()  # when it last wrote, or saw that there is nothing to write
        self.damaged: list[str] = []  # what `load` had to leave out, a text for each file
        self._folder = folder
        self._clock = clock
        self._tried = float("-inf")
        self._scopes: dict[str, dict[str, Scope]] = {}
        self._files: dict[str, LogFile] = {}

    def changed(self, view: View, name: ServiceName, changed: Collection[str], gone: Collection[str]) -> None:
        """These instances of a service changed or are gone; what they are is read from the view when it is written."""
        if self._folder is None:
            return
        ids = self._of(view).changed.setdefault(name, set())
        ids.update(changed)
        ids.update(gone)

    def described(self, view: View) -> None:
        """The view's identity, incarnation and revision are believed from now on."""
        if self._folder is None:
            return
        scope = self._of(view)
        scope.about = About(view.identity, view.incarnation, view.revision, self._clock())
        scope.described = True

    def _of(self, view: View) -> Scope:
        scopes = self._scopes.setdefault(view.registry, {})
        scope = scopes.get(view.scope)
        if scope is None:
            scope = scopes[view.scope] = Scope(view.services, About("", "", 0, 0.0))
        scope.view = view
        scope.services = view.services
        return scope

    def load(self, registries: Collection[str]) -> list[KnownScope]:
        """What these registries held, up to the first damage.

        Each dictionary of services may be given to `View.restore`, which goes on to change it.
        """
        found: list[KnownScope] = []
        if self._folder is None:
            return found
        for registry in registries:
            path = self._folder / f"{registry}.log"
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                self._refused(error)
                continue
            scopes, good = read(registry, content)
            if good < len(content):
                self.damaged.append(f"{path.name}: {len(content) - good} of {len(content)} bytes are damaged")
            self._files[registry] = LogFile(path, good)
            for known in scopes.values():
                about = About(known.identity, known.incarnation, known.revision, known.at)
                self._scopes.setdefault(registry, {})[known.scope] = Scope(known.services, about)
            found += scopes.values()
        return found

    async def run(self) -> None:
        """Writes once a second until cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(EVERY)
                await whole(self.flush())
        finally:
            await self.flush()

    async def flush(self) -> None:
        """Writes what changed; a disk that refuses is noted, and tried again later from memory."""
        self.turned = time.monotonic()
        if self._folder is None or (self.fault is not None and self._clock() - self._tried < RETRY):
            return
        self._tried = self._clock()
        try:
            for registry, scopes in list(self._scopes.items()):
                self.turned = time.monotonic()
                file = self._files.setdefault(registry, LogFile(self._folder / f"{registry}.log", 0))
                if file.wants_base:
                    await file.rebase(_base(dict(scopes), self._tried))
                else:
                    await file.append(_increments(dict(scopes), self._tried))
        except OSError as error:
            self._refused(error)
        else:
            self.fault = None

    def _refused(self, error: OSError) -> None:
        self.fault = Fault(self.fault.since if self.fault else self._clock(), why(error))


class LogFile:
    """One registry's file, with the size of its base and of all of it, in bytes."""

    def __init__(self, path: Path, good: int) -> None:
        self._path = path
        self._size = good  # what stands behind this is damaged, and cut by the next write
        self._base = good // 2  # where the base of an older process ended is not known
        self._sound = good > 0

    @property
    def wants_base(self) -> bool:
        """More was appended than twice the base, or what stands on the disk cannot be trusted."""
        return not self._sound or self._size > max(3 * self._base, SMALL)

    async def append(self, content: Iterator[bytes]) -> None:
        """Adds lines behind the last good one; raises OSError, after which a new base is due."""
        async for chunk in _chunks(content):
            self._sound = False
            await asyncio.to_thread(self._write, chunk)
            self._sound = True

    def _write(self, chunk: bytes) -> None:
        with open(os.open(self._path, os.O_WRONLY | os.O_CLOEXEC), "wb") as file:
            file.truncate(self._size)
            file.seek(self._size)
            file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(chunk)

    async def rebase(self, content: Iterator[bytes]) -> None:
        """Writes a new base beside the old file and puts it in its place; raises OSError, and the old one stays."""
        fresh = self._path.with_name(f".{self._path.name}.new")
        size = 0
        try:
            with await asyncio.to_thread(private, fresh) as file:
                async for chunk in _chunks(content):
                    await asyncio.to_thread(file.write, chunk)
                    size += len(chunk)
                await asyncio.to_thread(file.flush)
                await asyncio.to_thread(os.fsync, file.fileno())
            await asyncio.to_thread(fresh.replace, self._path)
        except OSError:
            self._sound = False
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        await asyncio.to_thread(sync_folder, self._path.parent)
        self._size = self._base = size
        self._sound = True


async def _chunks(lines: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The lines in chunks, made one at a time so that others get their turn on the loop between them."""
    parts: list[bytes] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= CHUNK:
            yield b"".join(parts)
            parts, size = [], 0
        await asyncio.sleep(0)
    if parts:
        yield b"".join(parts)


def _increments(scopes: dict[str, Scope], now: float) -> Iterator[bytes]:
    for key, scope in scopes.items():
        confirmed, changed = scope.confirm(now), scope.take()
        for block in _blocks((name, list(ids)) for name, ids in changed.items()):
            yield framed(_as_it_stands(key, scope.services, block))
        if confirmed:  # behind the changes: what is cut off does not count as heard
            yield framed(Line(scope=key, about=scope.about))


def _base(scopes: dict[str, Scope], now: float) -> Iterator[bytes]:
    yield framed(Line(format=FORMAT))
    for key, scope in scopes.items():
        scope.confirm(now)
        scope.take()  # from here on, what changes is appended to this base
        yield framed(Line(scope=key, about=scope.about))
        names = list(scope.services)
        every = ((name, list(scope.services[name].instances)) for name in names if name in scope.services)
        for block in _blocks(every):
            yield framed(_as_it_stands(key, scope.services, block))


def _blocks(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """The pieces in lots of at most BLOCK ids; a larger piece is cut."""
    block: list[Piece] = []
    size = 0
    for name, ids in pieces:
        for start in range(0, len(ids), BLOCK):
            part = ids[start : start + BLOCK]
            if size + len(part) > BLOCK:
                yield block
                block, size = [], 0
            block.append((name, part))
            size += len(part)
    if block:
        yield block


def _as_it_stands(scope: str, services: dict[ServiceName, Service], block: list[Piece]) -> Line:
    """These ids, each there or gone by now."""
    found: list[Service] = []
    gone: list[Piece] = []
    for name, ids in block:
        service = services.get(name, Service(name))
        instances = {key: service.instances[key] for key in ids if key in service.instances}
        marks = {key: service.marks[key] for key in instances if key in service.marks}
        if instances:
            found.append(Service(name, instances, marks))
        if len(instances) < len(ids):
            gone.append((name, [key for key in ids if key not in instances]))
    return Line(scope=scope, services=found, gone=gone)
