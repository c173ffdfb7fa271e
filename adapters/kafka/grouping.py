"""The thread of a membership: it alone touches the consumer, whose calls wait behind one another.

No data comes here: the partitions are paused as soon as they are given, and until that holds they are read from their
end on, for the client begins to fetch what it is given at once. No offset is ever asked for or committed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from adapters.kafka.groups import said

if TYPE_CHECKING:  # imported by a process alone that is in a group
    from confluent_kafka import Consumer, KafkaError, TopicPartition

POLL = 0.05  # seconds that a poll waits for news
REST = 0.001  # seconds between two polls
HELD = 0.05  # seconds between two looks whether it may poll again


class Given(NamedTuple):
    """These shards are this member's from now on, beside those that it has."""

    shards: frozenset[int]


class Taken(NamedTuple):
    """These are not any more. `lost`: others may have had them for a while."""

    shards: frozenset[int]
    lost: bool = False


class Heard(NamedTuple):
    """How the connection to the coordinator stands. `at`: when it last answered, by the monotonic clock; None: never.

    `beats`: heartbeats that were sent so far. `settled`: all requests have their answers.
    """

    at: float | None = None
    beats: int = 0
    settled: bool = False


class Trouble(NamedTuple):
    """What the client says is wrong. `kind`: the same for all that is alike."""

    kind: str
    why: str


class Ended(NamedTuple):
    """It is no member any more: it has left, or its client is of no use any more."""


News = Given | Taken | Heard | Trouble | Ended


class _Broker(msgspec.Struct):
    source: str
    state: str
    rxidle: int = -1  # microseconds, -1: nothing was received yet on this connection
    tx: int = 0
    req: dict[str, int] = {}
    waitresp_cnt: int = 0
    outbuf_cnt: int = 0


class _Statistics(msgspec.Struct):
    ts: int  # microseconds of the monotonic clock
    brokers: dict[str, _Broker] = {}


_STATISTICS = msgspec.json.Decoder(_Statistics)


def heard(statistics: str | bytes) -> Heard:
    """What the client's own statistics say of the coordinator, whose connection is the only one that is logical.

    They may be read late, and say when they were made. They name every kind of request but the heartbeats of the newer
    protocol: what is sent and not named is one.
    """
    found = _STATISTICS.decode(statistics)
    for broker in found.brokers.values():
        if broker.source == "logical" and broker.state == "UP" and broker.rxidle >= 0:
            others = sum(count for kind, count in broker.req.items() if kind != "Heartbeat")
            settled = not broker.waitresp_cnt and not broker.outbuf_cnt
            return Heard((found.ts - broker.rxidle) / 1_000_000, broker.tx - others, settled)
    return Heard()


class Grouping:
    """A member of one group. `tell`: news, in the thread; `may_poll`: whether whoever listens is alive."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        topic: str,
        tell: Callable[[News], None],
        may_poll: Callable[[], bool],
    ) -> None:
        self._settings = dict(settings)
        self._topic = topic
        self._tell = tell
        self._may_poll = may_poll
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="isthmus-group", daemon=True)

    def start(self) -> None:
        """Joins the group."""
        self._thread.start()

    def leave(self) -> None:
        """Leaves the group, soon."""
        self._leaving.set()

    def _run(self) -> None:
        from confluent_kafka import KafkaException

        try:
            self._be_member()
        except KafkaException as error:
            self._tell(Trouble(error.args[0].name(), said(error.args[0])))
        except Exception as bug:
            self._tell(Trouble("bug", repr(bug)))
            raise
        finally:
            self._tell(Ended())

    def _be_member(self) -> None:
        from confluent_kafka import Consumer

        consumer = Consumer({**self._settings, "error_cb": self._wrong, "stats_cb": self._heard})
        try:
            consumer.subscribe([self._topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._lost)
            while not self._leaving.is_set():
                if not self._may_poll():
                    time.sleep(HELD)
                    continue
                message = consumer.poll(POLL)
                if message is not None and (error := message.error()) is not None:
                    self._wrong(error)
                time.sleep(REST)
        finally:
            consumer.close()

    # -- what the client calls, from within its poll -----------------------------------------------------------------

    def _given(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        from confluent_kafka import OFFSET_END, TopicPartition

        parts = [TopicPartition(one.topic, one.partition, OFFSET_END) for one in partitions]
        consumer.incremental_assign(parts)
        if parts:
            consumer.pause(parts)
        self._tell(Given(_shards(partitions)))

    def _taken(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._tell(Taken(_shards(partitions)))
        consumer.incremental_unassign(partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._tell(Taken(_shards(partitions), lost=True))
        consumer.incremental_unassign(partitions)

    def _heard(self, statistics: str) -> None:
        self._tell(heard(statistics))

    def _wrong(self, error: KafkaError) -> None:
        if error.name() != "_ALL_BROKERS_DOWN":  # of each it says why
            self._tell(Trouble(error.name(), said(error)))
        if error.fatal():
            self._tell(Ended())
            self._leaving.set()


def _shards(partitions: list[TopicPartition]) -> frozenset[int]:
    return frozenset(one.partition for one in partitions)
