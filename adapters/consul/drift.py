"""What others changed under names that the sink knows: the list of services wakes, a look at each name tells which."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping

from adapters.consul import records
from adapters.consul.client import Client
from adapters.consul.records import Shelf, Version
from adapters.consul.txn import Step
from bridge.model import ServiceName

SERVICES = "/v1/catalog/services"
EVERY = 1.0  # seconds from one look at all names to the next
SHARE = 0.05  # of the time, at most, that such looks take
AT_ONCE = 8


class Drift:
    """See the module."""

    def __init__(self, client: Client, dc: str, read: Callable[[ServiceName], Awaitable[Shelf]], wait: float) -> None:
        self._client = client
        self._dc = dc
        self._read = read
        self._wait = wait
        self._known: dict[ServiceName, dict[str, int]] = {}
        self._flying: Counter[ServiceName] = Counter()

    def knows(self, shelves: Mapping[ServiceName, Shelf]) -> None:
        """These were read just now."""
        for name, shelf in shelves.items():
            self._known[name] = dict(records.fingerprint(shelf))

    @contextlib.contextmanager
    def writing(self, names: Collection[ServiceName]) -> Iterator[None]:
        """Inside, these names change by our own doing, of which the versions are not known yet."""
        self._flying.update(names)
        try:
            yield
        finally:
            self._flying.subtract(names)
            self._flying = +self._flying

    def wrote(self, name: ServiceName, step: Step, version: Version | None) -> None:
        """This is our own doing."""
        known = self._known.setdefault(name, {})
        before = step.change.before
        if before is not None and isinstance(before.version, Version):
            known.pop(f"{before.version.node}/{before.version.service_id}", None)
        if version is not None:
            known[f"{version.node}/{version.service_id}"] = version.modified

    async def listen(self) -> AsyncIterator[frozenset[ServiceName]]:
        """The empty set, then the names under which something is that nobody here read or wrote."""
        clock = asyncio.get_running_loop().time
        reply = await self._client.get(SERVICES, self._dc)
        names = frozenset(reply.json(dict[str, list[str]]))
        yield frozenset()
        complete = True
        while True:
            if complete:
                after = await self._client.poll(SERVICES, self._dc, max(1, reply.index), self._wait)
                if after.index == reply.index:
                    continue
                reply = after
            began = clock()
            now = frozenset(reply.json(dict[str, list[str]]))
            found = {ServiceName(name) for name in names ^ now} - self._known.keys() - self._flying.keys()
            differing, complete = await self._differing()
            names = now
            if found | differing:
                yield frozenset(found | differing)
            await asyncio.sleep(max(EVERY, (clock() - began) / SHARE))

    async def _differing(self) -> tuple[set[ServiceName], bool]:
        """Names that are not as they were read or written; and whether all could be compared."""
        found: set[ServiceName] = set()
        names = list(self._known)
        complete = not self._flying
        for first in range(0, len(names), AT_ONCE):
            some = [name for name in names[first : first + AT_ONCE] if name not in self._flying]
            before = [dict(self._known[name]) for name in some]
            shelves = await asyncio.gather(*map(self._read, some))
            for name, was, shelf in zip(some, before, shelves, strict=True):
                now = dict(records.fingerprint(shelf))
                if name in self._flying or self._known[name] != was:
                    complete = False  # what we wrote while this was read may be in it, or not
                elif now != was:
                    self._known[name] = now
                    found.add(name)
        return found, complete
