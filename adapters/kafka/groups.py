"""What brokers say of a consumer group: its members, whether we may be one, and how long it waits for a silent one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.kafka.client import PATIENCE, Client
from bridge.errors import Denied, IsthmusError, Unavailable
from bridge.shards import Member

if TYPE_CHECKING:  # imported by a process alone that asks
    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

T = TypeVar("T")

SESSION = 45.0  # seconds: what brokers wait for a member of the newer protocol, where nobody told them otherwise
_SESSION = "consumer.session.timeout.ms"
DENIED = {"GROUP_AUTHORIZATION_FAILED", "TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED", "_AUTHENTICATION",
          "SASL_AUTHENTICATION_FAILED", "_SSL"}  # fmt: skip
NOT_YET = {"NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"}  # a broker that begins
AGAIN = 0.1  # seconds until it is asked again


def meant(error: KafkaError) -> IsthmusError:
    """What an error of that library is by our names."""
    return (Denied if error.name() in DENIED else Unavailable)(said(error))


def said(error: KafkaError) -> str:
    """Its words, and its name where they are none."""
    words = str(error.str() or "")
    return words if words and not words.endswith(": ") else f"{words}{error.name()}"


async def members(client: Client, group: str) -> list[Member]:
    """Who is in the group, and what each should have. Raises Unavailable or Denied."""
    found = await _asked(client, lambda admin: _described(admin, group))
    return [
        Member(one.client_id, tuple(sorted(part.partition for part in one.assignment.topic_partitions)))
        for one in found.members
    ]


async def may_join(client: Client, group: str) -> bool:
    """Whether this client may be a member: who may read a group may. Raises Unavailable or Denied."""
    found = await _asked(client, lambda admin: _described(admin, group, include_authorized_operations=True))
    return any(one.name == "READ" for one in found.authorized_operations or ())


async def session(client: Client, group: str) -> float:
    """Seconds that brokers wait for a silent member of the newer protocol. Raises Unavailable or Denied."""
    found = await _asked(client, lambda admin: _settings(admin, group))
    return int(found[_SESSION]) / 1000 if _SESSION in found else SESSION


async def _asked(client: Client, question: Callable[[AdminClient], T]) -> T:
    """The answer, from a thread of its own: making and ending such a client takes its time."""
    settings = client.librdkafka()

    def ask() -> T:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin, until = AdminClient(settings), time.monotonic() + PATIENCE
        while True:
            try:
                return question(admin)
            except KafkaException as error:
                if error.args[0].name() not in NOT_YET or time.monotonic() > until:
                    raise meant(error.args[0]) from error
                time.sleep(AGAIN)
            except TimeoutError:
                raise Unavailable("no answer in time") from None

    return await asyncio.to_thread(ask)


def _described(admin: AdminClient, group: str, **options: Any) -> Any:
    return _result(admin.describe_consumer_groups([group], request_timeout=PATIENCE, **options)[group])


def _settings(admin: AdminClient, group: str) -> Mapping[str, str]:
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

    (answer,) = admin.describe_configs([ConfigResource(ResourceType.GROUP, group)], request_timeout=PATIENCE).values()
    return {name: entry.value for name, entry in _result(answer).items()}


def _result(answer: Future[Any]) -> Any:
    return answer.result(2 * PATIENCE)
