"""The membership of this process in a consumer group, which says who should write which shard; it fences nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from adapters.kafka import groups
from adapters.kafka.belief import JOINING, LEFT, Belief
from adapters.kafka.client import Client
from adapters.kafka.grouping import Ended, Grouping, News, Trouble
from bridge.errors import Denied, IsthmusError
from bridge.shards import Member

log = logging.getLogger("isthmus.kafka")

Protocol = Literal["classic", "consumer"]

TICK = 0.25  # seconds from one look at the clock to the next
AGAIN = 1.0  # seconds until who is no member any more joins again


class Times(NamedTuple):
    """In seconds. `session`: of silence after which the group goes on without a member, and after which it is away.

    `heartbeat`: between two signs of life. `poll`: for which a member may take no news before it is put out; it takes
    none once the event loop has stood still for `still`. `statistics`: between two looks at the connection. `leaving`:
    how long to wait for a farewell to arrive.
    """

    session: float = 6.0
    heartbeat: float = 2.0
    poll: float = 15.0
    still: float = 5.0
    statistics: float = 0.5
    leaving: float = 5.0


TIMES = Times()


class KafkaMembership:
    """See `bridge.shards.Membership`. In the newer protocol session and heartbeat are what the brokers say."""

    def __init__(
        self,
        client: Client,
        topic: str,
        shards: int,
        group: str,
        who: str,
        protocol: Protocol = "classic",
        times: Times = TIMES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._topic = topic
        self._group = group
        self._who = who
        self._protocol = protocol
        self._times = times
        self._clock = clock
        self._belief = Belief(shards, times.session)
        self._ticked = clock()
        self._seen: object = None
        self._fault = self.fault  # as it was logged last
        self._changed = asyncio.Event()

    @property
    def should(self) -> frozenset[int]:
        """See `Membership`."""
        return self._belief.should

    @property
    def away(self) -> bool:
        """See `Membership`."""
        return self._belief.away(self._clock())

    @property
    def fault(self) -> str:
        """See `Membership`."""
        return self._belief.fault(self._clock())

    def assignment(self, shard: int) -> int:
        """See `Membership`."""
        return self._belief.assignment(shard)

    async def changed(self) -> None:
        """See `Membership`."""
        await self._changed.wait()

    async def members(self) -> Sequence[Member]:
        """See `Membership`."""
        return await groups.members(self._client, self._group)

    async def notes(self) -> list[str]:
        """What an operator should know of the group. Raises Denied where we may be no member, or Unavailable."""
        try:
            may = await groups.may_join(self._client, self._group)
        except Denied:
            may = False
        if not may:
            raise Denied(f"group {self._group}: not authorised to read it, which a member must be")
        session = await self._session()
        if session <= self._times.session:
            return []
        return [
            f"warning: group {self._group}: its brokers wait {session:g} s for a member that is silent; lower "
            "group.consumer.min.session.timeout.ms, or say `group_protocol: classic`"
        ]

    async def run(self) -> None:
        """See `Membership`. Where its client is of no use any more it joins again."""
        while True:
            try:
                self._belief.session = await self._session()
                settings, secrets = self._settings(), self._client.secrets()
            except IsthmusError as error:
                self._take(Trouble(type(error).__name__, str(error)))
            else:
                await self._be_member(settings, secrets)
            await asyncio.sleep(AGAIN)

    async def _be_member(self, settings: dict[str, Any], secrets: object) -> None:
        """Until its client is of no use any more, or it is cancelled; it has left then."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def hear(news: News) -> None:
            if not ended.is_set():
                self._take(news)
            if isinstance(news, Ended):
                ended.set()

        def tell(news: News) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(hear, news)

        self._ticked = self._clock()
        grouping = Grouping(settings, self._topic, tell, self._listens)
        grouping.start()
        try:
            while not await _within(TICK, ended):
                self._ticked = self._clock()
                self._look()
                if self.away and self._replaced(secrets):
                    return  # it reads them only once
        finally:
            grouping.leave()
            if not await _within(self._times.leaving, ended):
                hear(Ended())

    def _listens(self) -> bool:
        """Asked by the thread: whether the event loop runs. A member whose loop does not is to be put out."""
        return self._clock() - self._ticked < self._times.still

    def _replaced(self, secrets: object) -> bool:
        with suppress(IsthmusError):
            return self._client.secrets() != secrets
        return False

    async def _session(self) -> float:
        if self._protocol == "classic":
            return self._times.session
        try:
            return await groups.session(self._client, self._group)
        except Denied:  # to describe the settings of a group is a right of its own
            return groups.SESSION

    def _settings(self) -> dict[str, Any]:
        times = self._times
        found = {
            **self._client.librdkafka(),
            "group.id": self._group,
            "client.id": self._who,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.metrics.push": False,  # what is sent and not named is a heartbeat
            "statistics.interval.ms": _ms(times.statistics),
            "max.poll.interval.ms": _ms(times.poll),
            "socket.timeout.ms": _ms(max(times.session, 2 * times.poll)),
            "reconnect.backoff.max.ms": 1000,
        }
        if self._protocol == "consumer":
            return {**found, "group.protocol": "consumer"}
        return {
            **found,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": _ms(times.session),
            "heartbeat.interval.ms": _ms(times.heartbeat),
        }

    def _take(self, news: News) -> None:
        self._belief.take(news, self._clock())
        self._look()

    def _look(self) -> None:
        """Tells whoever waits that something has changed, also where that is so by the time alone."""
        now = self._clock()
        seen = self._belief.seen(now)
        if seen == self._seen:
            return
        self._seen = seen
        fault = self._belief.fault(now)
        if fault != self._fault:
            self._fault = fault
            if not fault or fault == LEFT:
                log.info("%s group=%s", "left" if fault else "member", self._group)
            elif fault != JOINING:
                log.warning("no member group=%s reason=%r", self._group, fault)
        self._changed.set()
        self._changed = asyncio.Event()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it is set, after so many seconds at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
