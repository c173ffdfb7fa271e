"""All views, versioned: what changed since a version, and who waits for a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from bridge.model import Instance, ServiceName
from bridge.shards import WHOLE
from bridge.sources.claims import Claims
from bridge.sources.networks import Networks
from bridge.sources.steered import NOBODY, Steered
from bridge.sources.view import Observation, Recorder, View

GONE_KEPT = 10_000  # services of which is known when they went; who is further behind looks at all that it holds


class Seen(NamedTuple):
    """When a change was reported (monotonic seconds), and the number by which log and journal follow it.

    `revision`: the position of its store, 0 where it has none.
    """

    at: float
    change: int
    revision: int = 0


class Store:
    """All views. A consumer remembers the version it handled, waits for a newer one, and asks what changed since.

    There is no queue between: slow consumers skip versions, and memory is bounded by the number of services.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        scrub: Callable[[Instance], Instance] = lambda instance: instance,
        recorder: Recorder | None = None,
        gone_kept: int = GONE_KEPT,
    ) -> None:
        self.version = 0
        self.forgotten = 0  # up to that version, some services that are gone are no longer reported
        self.syncs = 0  # times that a scope came to count: what waited for it may go on
        self.lives = 0  # times that a scope came or went, or that another store may answer for it
        self.follows: frozenset[str] = frozenset()  # registries of which also what other synchronisers wrote is sent
        self.scrub = scrub
        self.steered = NOBODY
        self.recorder = recorder or Recorder()
        self.asked: dict[str, list[Callable[[Observation], None]]] = {}  # by registry: see `report`
        self.touched: Callable[[str, ServiceName, Seen], None] | None = None  # told of every change; see `touch`
        self.made = 0  # how often the views that there are changed
        self.shard_of: dict[str, Callable[[ServiceName], int]] = {}  # of registries whose shards are read apart
        self.claims = Claims(lambda view, name: self.touch(view.registry, name))
        self._clock = clock
        self._views: dict[str, dict[str, View]] = {}
        self._apart: dict[tuple[str, int], dict[str, View]] = {}  # those of one shard of a registry
        self._touched: dict[tuple[str, ServiceName], Seen] = {}  # in order of version
        self._gone_kept = gone_kept
        self._room = 2 * gone_kept
        self._waiting: list[asyncio.Future[None]] = []

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def view(self, registry: str, scope: str) -> View:
        """The view of a scope, made on first use."""
        scopes = self._views.setdefault(registry, {})
        if scope not in scopes:
            view = scopes[scope] = View(self, registry, scope)
            self.made += 1
            self.lives += 1
            if view.shard is not None:
                self._apart.setdefault((registry, view.shard), {})[scope] = view
        return scopes[scope]

    def known(self, registry: str, scope: str) -> View | None:
        """The view of a scope, None: there is none."""
        return self._views.get(registry, {}).get(scope)

    def views(self, registry: str | None = None) -> Iterator[View]:
        """The views of one registry, or all."""
        for name, scopes in self._views.items():
            if registry is None or name == registry:
                yield from scopes.values()

    def views_with(self, registry: str, service: ServiceName) -> Collection[View]:
        """The views of a registry that a service may be in."""
        of = self.shard_of.get(registry)
        found = self._views.get(registry, {}) if of is None else self._apart.get((registry, of(service)), {})
        return found.values()

    def report(self, registry: str, to: Callable[[Observation], None]) -> Callable[[], None]:
        """Has `to` called with each instance that changes in a registry, until the function is called that it returns.

        `to` must neither wait nor fail. What was restored from the disk was not said, and is not reported.
        """
        self.asked.setdefault(registry, []).append(to)

        def stop() -> None:
            self.asked[registry].remove(to)
            if not self.asked[registry]:
                del self.asked[registry]

        return stop

    def forget(self, registry: str) -> None:
        """A registry left the configuration: its views go; entries elsewhere become orphans."""
        for view in list(self.views(registry)):
            self.drop(view)

    def drop(self, view: View) -> None:
        """It is read no more: nothing is known of it from now on."""
        scopes = self._views.get(view.registry, {})
        if scopes.get(view.scope) is view:
            del scopes[view.scope]
            if view.shard is not None:
                del self._apart[view.registry, view.shard][view.scope]
            self.made += 1
            self.lives += 1
            view.disclaim()

    def shard(self, registry: str, service: ServiceName) -> int:
        """The shard of a service, `WHOLE` where the shards of that registry are not read apart."""
        of = self.shard_of.get(registry)
        return of(service) if of is not None else WHOLE

    def regard(self, networks: Networks) -> None:
        """The file says which network an address is in."""
        if networks != self.claims.networks:
            self.claims.start_over(networks)
            for view in self.views():
                view.claim()

    def scrub_again(self) -> None:
        """Another `scrub` applies: takes out of every view what counts as secret now."""
        for view in self.views():
            view.scrub_again()

    def steer(self, steered: Steered) -> None:
        """Other natives are out by migrations than before: every view has them as they are without that."""
        before, self.steered = self.steered, steered
        for view in self.views():
            names = {name for identity, name, _ in before.shows ^ steered.shows if identity == view.identity}
            if names:
                view.steered(names)

    def touch(self, registry: str, name: ServiceName, revision: int = 0) -> None:
        """A service of that registry changed now, at that position of its store."""
        self.version += 1
        key = (registry, name)
        self._touched.pop(key, None)
        seen = self._touched[key] = Seen(self._clock(), self.version, revision)
        if self.touched is not None:
            self.touched(registry, name, seen)
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
        for key in gone[: -self._gone_kept]:
            self.forgotten = max(self.forgotten, self._touched.pop(key).change)
        self._room = 2 * (len(self._touched) + self._gone_kept)

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
