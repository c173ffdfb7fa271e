"""A poll becomes a watch: everything once, then the services that differ from one answer to the next."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec

from adapters.common.assembly import differ
from adapters.common.inbox import Latest
from bridge.adapter import Behind, Listing, Observed, Synced
from bridge.errors import Expired
from bridge.model import Service, ServiceName

JITTER = 0.1  # of the interval, so that bridges do not ask in step


class Answer(msgspec.Struct, frozen=True):
    """One poll: who answers, and all of its services, those without instances left out or not.

    A partial answer is none: `poll` raises instead.
    """

    listing: Listing
    services: Mapping[ServiceName, Observed]


class Polling:
    """Asks again and again, `interval` seconds from one answer to the next question (0 for a poll that waits itself).

    A consumer that is slow skips answers that were overtaken. Each poll sees absence, not deletions: what is gone and
    back between two answers is never seen.
    """

    def __init__(self, poll: Callable[[], Awaitable[Answer]], interval: float, rng: random.Random) -> None:
        self._poll = poll
        self._interval = interval
        self._rng = rng
        self._waiting_since: float | None = None  # when the oldest answer came that is not told yet

    @property
    def behind(self) -> Behind | None:
        """See `Source.behind`: for how long an answer has waited for its consumer."""
        since = self._waiting_since
        return Behind(asyncio.get_running_loop().time() - since) if since is not None else None

    async def watch(self) -> AsyncIterator[Listing | Observed | Synced]:
        """See `Source.watch`. Raises what `poll` raises, and Expired where another life of the store answers."""
        first = await self._poll()
        yield first.listing
        known = {name: each for name, each in first.services.items() if not _is_empty(each)}
        for each in list(known.values()):
            yield each
        yield Synced(first.listing.revision)
        latest: Latest[None, Answer] = Latest()
        asking = asyncio.create_task(self._ask(latest))
        try:
            listing = first.listing
            while True:
                answer = (await latest.take())[None]
                self._waiting_since = None
                listing = _same_life(listing, answer.listing)
                for each in _differences(known, answer):
                    yield each
        finally:
            self._waiting_since = None
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, latest: Latest[None, Answer]) -> None:
        try:
            while True:
                await asyncio.sleep(self._interval * (1 + JITTER * (2 * self._rng.random() - 1)))
                answer = await self._poll()
                if self._waiting_since is None:
                    self._waiting_since = asyncio.get_running_loop().time()
                latest.put(None, answer)
        except Exception as error:
            latest.fail(error)


def _same_life(before: Listing, now: Listing) -> Listing:
    """Raises Expired where another store answers, or an earlier state of this one: everything begins anew."""
    if (now.identity, now.incarnation) != (before.identity, before.incarnation):
        raise Expired(f"another store answers: {now.identity} {now.incarnation}".rstrip())
    if now.revision < before.revision:
        raise Expired(f"the store went back to {now.revision}, from {before.revision}")
    return now


def _differences(known: dict[ServiceName, Observed], answer: Answer) -> list[Observed]:
    """What to tell of an answer; `known` is brought up to date."""
    told: list[Observed] = []
    for name, now in answer.services.items():
        before = known.get(name, Observed(Service(name)))
        if differ(before, now):
            told.append(now)
        if _is_empty(now):
            known.pop(name, None)
        else:
            known[name] = now
    for name in known.keys() - answer.services.keys():
        del known[name]
        told.append(Observed(Service(name), revision=answer.listing.revision))
    return told


def _is_empty(observed: Observed) -> bool:
    return not observed.service.instances and not observed.unreadable
