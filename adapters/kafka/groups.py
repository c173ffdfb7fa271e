"""What brokers say of a consumer group: its members, whether we may be one, and how long it waits for a silent one."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from adapters.kafka import describing
from adapters.kafka.client import PATIENCE, Client
from adapters.kafka.describing import AGAIN, NOT_YET
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


def meant(error: KafkaError) -> IsthmusError:
    """What an error of that library is by our names."""
    return (Denied if error.name() in DENIED else Unavailable)(said(error))


def said(error: KafkaError) -> str:
    """Its words, and its name where they are none."""
    return worded(error.name(), str(error.str() or ""))


def worded(name: str, words: str) -> str:
    """The words of an error, and its name where they are none."""
    return words if words and not words.endswith(": ") else f"{words}{name}"


async def members(client: Client, group: str) -> list[Member]:
    """Who is in the group, and what each should have. Raises Unavailable or Denied."""
    return [Member(who, shards) for who, shards in (await _described(client, group)).members]


async def may_join(client: Client, group: str) -> bool:
    """Whether this client may be a member: who may read a group may. Raises Unavailable or Denied."""
    return "READ" in (await _described(client, group, rights=True)).rights


async def session(client: Client, group: str) -> float:
    """Seconds that brokers wait for a silent member of the newer protocol. Raises Unavailable or Denied."""
    found = await _asked(client, lambda admin: _settings(admin, group))
    return int(found[_SESSION]) / 1000 if _SESSION in found else SESSION


async def _asked(client: Client, question: Callable[[AdminClient], T]) -> T:
    """The answer, from a thread of its own: making and ending such a client takes its time, for which nobody waits."""
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

    return await _apart(ask)


async def _apart(ask: Callable[[], T]) -> T:
    """What a thread answers that ends with the process: one of the loop's own would hold the process up."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(found: Callable[[], None]) -> None:
        if not answer.done():  # whoever asked waits still
            found()

    def run() -> None:
        try:
            found = partial(answer.set_result, ask())
        except Exception as error:
            found = partial(answer.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=run, name="isthmus-ask", daemon=True).start()
    return await answer


class _Described(msgspec.Struct, frozen=True):
    """The answer of `describing`."""

    members: tuple[tuple[str, tuple[int, ...]], ...] = ()
    rights: tuple[str, ...] = ()
    error: str = ""
    why: str = ""


async def _described(client: Client, group: str, *, rights: bool = False) -> _Described:
    """What the coordinator says, asked by a process of its own: see `describing`. Raises Unavailable or Denied."""
    asked = {"settings": client.librdkafka(), "group": group, "patience": PATIENCE, "rights": rights}
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    words = (sys.executable, "-I", describing.__file__)
    child = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=null)
    try:
        async with asyncio.timeout(3 * PATIENCE):
            answer, _ = await child.communicate(msgspec.json.encode(asked))
        found = msgspec.json.decode(answer, type=_Described)
    except TimeoutError:
        raise Unavailable("no answer in time") from None
    except msgspec.DecodeError:
        raise Unavailable("the client that asks for the group broke down") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if found.error:
        raise (Denied if found.error in DENIED else Unavailable)(worded(found.error, found.why))
    return found


def _settings(admin: AdminClient, group: str) -> Mapping[str, str]:
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

    (answer,) = admin.describe_configs([ConfigResource(ResourceType.GROUP, group)], request_timeout=PATIENCE).values()
    return {name: entry.value for name, entry in _result(answer).items()}


def _result(answer: Future[Any]) -> Any:
    return answer.result(2 * PATIENCE)
