"""Last known good on disk: for each registry a log of what its scopes hold, written away from the event loop.

A file begins with a base (everything), and what changes is appended once a second; when more was appended than twice
the base, a new base takes the file's place. Its lines are in `bridge.state.known_lines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from msgspec.structs import replace

from bridge.model import Service, ServiceName
from bridge.sources.view import Recorder, View
from bridge.state.known_lines import FORMAT, About, KnownScope, Line, as_it_is, blocks, framed, read
from bridge.state.log_file import SMALL, LogFile
from bridge.state.writing import Writing

EVERY = 1.0  # seconds between two writes
RETRY = 10.0  # seconds between attempts on a disk that refuses
CONFIRM = 60.0  # seconds from one line that says that a scope is up and nothing changed to the next


class Scope:
    """One scope as it is to be written: what is believed of it, and the ids that changed since the last flush."""

    def __init__(
        self, services: dict[ServiceName, Service], former: dict[ServiceName, dict[str, str]], about: About
    ) -> None:
        self.services = services
        self.former = former
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
        self.about = replace(about, revision=view.revision, at=now)
        self.described = False
        return True

    @property
    def other(self) -> Callable[[ServiceName, str], str] | None:
        """Finds the store that told an instance, "" where that is the one that is believed; None: it told all."""
        believed, former = self.about.identity, self.former
        answers = self.view.identity if self.view is not None else believed

        def other(name: ServiceName, instance: str) -> str:
            identity = former[name].get(instance, answers) if name in former else answers
            return identity if identity != believed else ""

        return other if former or answers != believed else None

    def take(self) -> dict[ServiceName, set[str]]:
        """The ids that changed, which are then no longer to be written."""
        changed, self.changed = self.changed, {}
        return changed


class Known(Recorder):
    """Last known good of all registries, in one folder; None: kept nowhere.

    It listens to the store (`changed`, `described`) at the cost of noting an id; `writing` brings it to the disk. What
    the disk refuses is tried again from memory.
    """

    def __init__(self, folder: Path | None, clock: Callable[[], float] = time.time, small: int = SMALL) -> None:
        self.writing = Writing(lambda: folder is not None, self._write, clock, every=EVERY, retry=RETRY)
        self.damaged: list[str] = []  # what `load` had to leave out, a text for each file
        self._folder = folder
        self._clock = clock
        self._small = small
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
        part = view.part if view.part != view.scope else None
        scope.about = About(view.identity, view.incarnation, view.revision, self._clock(), part)
        scope.described = True

    def _of(self, view: View) -> Scope:
        scopes = self._scopes.setdefault(view.registry, {})
        scope = scopes.get(view.scope)
        if scope is None:
            scope = scopes[view.scope] = Scope(view.services, view.former, About("", "", 0, 0.0))
        scope.view = view
        scope.services, scope.former = view.services, view.former
        return scope

    def load(self, registries: Collection[str]) -> list[KnownScope]:
        """What these registries held, up to the first damage.

        Its dictionaries may be given to `View.restore`, which goes on to change it.
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
                self.writing.refused(error)
                continue
            scopes, good = read(registry, content)
            if good < len(content):
                self.damaged.append(f"{path.name}: {len(content) - good} of {len(content)} bytes are damaged")
            self._files[registry] = LogFile(path, good, self._small)
            for known in scopes.values():
                about = About(known.identity, known.incarnation, known.revision, known.at, known.part)
                self._scopes.setdefault(registry, {})[known.scope] = Scope(known.services, known.former, about)
            found += scopes.values()
        return found

    async def _write(self) -> None:
        if self._folder is None:
            return
        now = self._clock()
        for registry, scopes in list(self._scopes.items()):
            self.writing.turn()
            path = self._folder / f"{registry}.log"
            file = self._files.setdefault(registry, LogFile(path, 0, self._small))
            if file.wants_base:
                await file.rebase(_base(dict(scopes), now))
            else:
                await file.append(_increments(dict(scopes), now))


def _increments(scopes: dict[str, Scope], now: float) -> Iterator[bytes]:
    for key, scope in scopes.items():
        confirmed, changed = scope.confirm(now), scope.take()
        for block in blocks((name, list(ids)) for name, ids in changed.items()):
            yield framed(as_it_is(key, scope.services, block, scope.other))
        if confirmed:  # behind the changes: what is cut off does not count as reported
            yield framed(Line(scope=key, about=scope.about))


def _base(scopes: dict[str, Scope], now: float) -> Iterator[bytes]:
    yield framed(Line(format=FORMAT))
    for key, scope in scopes.items():
        scope.confirm(now)
        scope.take()  # from here on, what changes is appended to this base
        yield framed(Line(scope=key, about=scope.about))
        names = list(scope.services)
        every = ((name, list(scope.services[name].instances)) for name in names if name in scope.services)
        for block in blocks(every):
            yield framed(as_it_is(key, scope.services, block, scope.other))
