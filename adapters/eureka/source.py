"""The source: all instances of a Eureka, watched by polling."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping

from adapters.common.together import together
from adapters.eureka.client import Client
from adapters.eureka.life import Lives
from adapters.eureka.watching import Watching
from adapters.eureka.working_copy import WorkingCopy, observe
from bridge.adapter import Behind, Listing, Observed, Returns, Synced
from bridge.model import ServiceName

ASKED_AT_ONCE = 16

# Restarts are normal: every client registers again with its next heartbeat.
RETURNS = Returns(share=0.9, after=300.0)


class EurekaSource:
    """One Eureka, all its peers together. `by`: which address of an instance is used, `ip` or `host`."""

    scope = ""

    def __init__(
        self,
        client: Client,
        identity: str,
        lives: Lives,
        by: str,
        poll: float,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._client = client
        self._identity = identity
        self._lives = lives
        self._by = by
        self._poll = poll
        self._rng = rng
        self._copy = WorkingCopy(by)

    @property
    def ignored(self) -> Mapping[str, str]:
        """The unreadable instances, by service, application and id."""
        return self._copy.ignored

    @property
    def behind(self) -> Behind | None:
        """Never known: a poll returns all changes, and servers do not say how old their answers are."""
        return None

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. The copy of earlier watches is reported again, as far as a peer confirms it."""
        copy = self._copy = self._copy.clone()
        watching = Watching(self._client, copy, self._lives, self._poll, self._rng, self._clock)
        try:
            await watching.begin()
            yield Listing(self._identity, self._lives.life, returns=RETURNS)
            for name in copy.services:
                yield copy.observed(name)
            yield Synced()
            while True:
                for name in await watching.step():
                    yield copy.observed(name)
        finally:
            await watching.end()
            await self._lives.close()

    async def read(self, name: ServiceName) -> Observed:
        """One service: each instance that it has or had, as far as known, is read by itself, past the caches."""
        listed = {one.key: one for one in await self._client.service(name)}
        keys = listed.keys() | self._copy.candidates(name)
        found = await together(keys, lambda key: self._client.instance(*key), ASKED_AT_ONCE)
        return observe(name, [one for one in found if one is not None and name in one.names], self._by)
