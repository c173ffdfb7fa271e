"""Connections to a cluster: settings for aiokafka's clients, questions that are answered in time, errors by our names.

Clients of Kafka hide trouble: a read of a topic that is missing or forbidden waits for ever, an idempotent write never
fails, and a wrong password looks like a dead broker. So whatever matters is asked by a call that has a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import aiokafka.client
import msgspec
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest

from adapters.common.credentials import Contexts, Pems, Tls, secret
from bridge.errors import Conflict, Denied, Expired, Fault, IsthmusError, Rejected, Superseded, Unavailable, reason

T = TypeVar("T")

# It asks for metadata in a way that has brokers create a missing topic by their defaults: with one partition, and a
# cleanup.policy that drops what is alive. One that is deleted would be back before anybody sees that it is gone.
aiokafka.client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # ten lines a second while a broker is down: we say it once

PATIENCE = 5.0  # seconds that a broker has to answer
CLOSING = 1.0  # seconds that a client has to end in
TOPIC = 2  # a kind of resource (DescribeConfigs)

# What an error of aiokafka calls for; all others are an Unavailable.
_MEANINGS: tuple[tuple[tuple[type[BaseException], ...], type[IsthmusError]], ...] = (
    ((errors.ProducerFenced, errors.InvalidProducerEpoch, errors.TransactionCoordinatorFenced), Superseded),
    ((errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.RecordTooLargeError), Rejected),
    ((errors.OffsetOutOfRangeError,), Expired),
    ((errors.TopicAlreadyExistsError,), Conflict),
    (
        (
            errors.TopicAuthorizationFailedError,
            errors.ClusterAuthorizationFailedError,
            errors.TransactionalIdAuthorizationFailed,
            errors.GroupAuthorizationFailedError,
            errors.AuthenticationFailedError,
            errors.AuthenticationMethodNotSupported,
            errors.SaslAuthenticationFailed,
            errors.UnsupportedSaslMechanismError,
            errors.IllegalSaslStateError,
            errors.PolicyViolationError,
            errors.InvalidReplicationFactorError,
            errors.InvalidConfigurationError,
            errors.InvalidTopicError,
        ),
        Denied,
    ),
)


class Security(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """How brokers are spoken to. The password is `password`, or is read from `password_file` for each connection."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: str | None = None
    password_file: str | None = None
    tls: Tls | None = None

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the block."""
        sasl = self.protocol.startswith("SASL")
        passwords = [given for given in (self.password, self.password_file) if given is not None]
        if sasl != (self.mechanism is not None):
            yield Fault("goes together with a protocol SASL_...", ("security", "mechanism"))
        if sasl != (self.username is not None) or sasl != (len(passwords) == 1):
            text = "goes together with a protocol SASL_..., and with one of password and password_file"
            yield Fault(text, ("security", "username"))
        if self.tls is not None and not self.protocol.endswith("SSL"):
            yield Fault("goes together with a protocol SSL or SASL_SSL", ("security", "tls"))
        for fault in self.tls.faults() if self.tls is not None else ():
            yield Fault(fault.text, ("security", *fault.key))


class Topic(NamedTuple):
    """A topic as a broker describes it. `settings` None: we may not see them."""

    partitions: int
    settings: Mapping[str, str] | None


class Cluster(NamedTuple):
    """Who answers, and the topic that was asked for; None: there is no such topic."""

    id: str
    topic: Topic | None


class Client:
    """One cluster. Every method raises Unavailable or Denied, and what its errors mean beside them."""

    def __init__(self, servers: list[str], security: Security | None) -> None:
        self.servers = servers
        self._security = security or Security()
        self._password = secret(self._security.password, self._security.password_file)
        self._contexts = Contexts(self._security.tls)

    def settings(self) -> dict[str, Any]:
        """What every client of aiokafka is made with; credentials as they are now. Raises Denied."""
        security = self._security
        found: dict[str, Any] = {"bootstrap_servers": self.servers, "security_protocol": security.protocol}
        if security.protocol.endswith("SSL"):
            found["ssl_context"] = self._contexts.context()
        if security.mechanism is not None:
            found["sasl_mechanism"] = security.mechanism
            found["sasl_plain_username"] = security.username
            found["sasl_plain_password"] = self._password()
        return found

    def librdkafka(self) -> dict[str, Any]:
        """What every client of librdkafka is made with; it reads the files of certificates itself. Raises Denied."""
        security, tls = self._security, self._security.tls
        found: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.servers),
            "security.protocol": security.protocol,
            "log_level": 0,  # it would write to stderr
        }
        if security.mechanism is not None:
            found["sasl.mechanism"] = security.mechanism
            found["sasl.username"] = security.username
            found["sasl.password"] = self._password()
        files = {"ssl.ca": tls.ca, "ssl.certificate": tls.cert, "ssl.key": tls.key} if tls is not None else {}
        found |= {f"{name}.location": path for name, path in files.items() if path is not None}
        return found

    def secrets(self) -> object:
        """What `librdkafka` has of secrets and certificates: equal as long as nobody replaced one. Raises Denied."""
        tls = self._security.tls
        return self._password(), Pems().read(tls).stamps if tls is not None else ()

    async def describe(self, topic: str) -> Cluster:
        """The cluster and a topic, which is not created by being asked for."""
        async with self._open() as (client, node):
            said = (
                await asked(client.send(node, MetadataRequest([topic], allow_auto_topic_creation=False)))
            ).to_object()
            found = next(one for one in said["topics"] if one["topic"] == topic)
            error = errors.for_code(found["error_code"])
            if error is errors.UnknownTopicOrPartitionError:
                return Cluster(said["cluster_id"], None)
            if error is errors.TopicAuthorizationFailedError:
                raise Denied(f"topic {topic}: not authorised to describe it, or it is missing and may not be created")
            with translated(f"topic {topic}"):
                if error not in (errors.NoError, errors.LeaderNotAvailableError):
                    raise error
            settings = await asked(client.send(node, DescribeConfigsRequest([(TOPIC, topic, None)])))
            (resource,) = settings.to_object()["resources"]
            entries = {one["config_names"]: one["config_value"] for one in resource["config_entries"]}
            seen = entries if not resource["error_code"] else None
            return Cluster(said["cluster_id"], Topic(len(found["partitions"]), seen))

    async def create(self, topic: str, partitions: int, settings: Mapping[str, str]) -> None:
        """Creates a topic with the cluster's own number of replicas; nothing where somebody else just did."""
        async with self._open() as (client, node):
            wanted: tuple[Any, ...] = (topic, partitions, -1, [], list(settings.items()))
            said = await asked(client.send(node, CreateTopicsRequest([wanted], round(PATIENCE * 1000), False)))
            ((_, code, text),) = said.topic_errors
            error = errors.for_code(code)
            if error not in (errors.NoError, errors.TopicAlreadyExistsError):
                with translated(f"topic {topic} cannot be created"):
                    raise error(text)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[AIOKafkaClient, Any]]:
        client = AIOKafkaClient(**self.settings(), request_timeout_ms=round(PATIENCE * 1000))
        try:
            await self.reached(client.bootstrap)
            yield client, client.get_random_node()
        finally:
            await client.close()

    async def reached(self, start: Callable[[], Awaitable[None]]) -> None:
        """Starts one of aiokafka's clients; where no broker takes it, says why."""
        try:
            with translated("start"):
                async with asyncio.timeout(2 * PATIENCE):
                    await start()
        except Unavailable as error:
            raise await self._why() or error from None

    async def _why(self) -> IsthmusError | None:
        """What the first broker that can be dialled has against us: aiokafka says the same of all that goes wrong."""
        settings = self.settings()
        del settings["bootstrap_servers"]
        for server in self.servers:
            host, _, port = server.rpartition(":")
            try:
                with translated(server):
                    conn = await create_conn(
                        host.strip("[]"), int(port), request_timeout_ms=round(PATIENCE * 1000), **settings
                    )
                    conn.close()
            except Denied as error:
                return error
            except Unavailable:
                if settings["security_protocol"] == "PLAINTEXT" and await _takes(host, int(port)):
                    return Denied(f"{server} takes connections and answers none: does it want TLS or a password?")
        return None


async def _takes(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(host.strip("[]"), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def stopped(consumer: AIOKafkaConsumer) -> None:
    """Ends a consumer. Where its `stop` gives up half way, what it leaves open is closed one by one."""
    if not await ended(consumer.stop()):
        if consumer._fetcher is not None:
            await ended(consumer._fetcher.close())
        await ended(consumer._client.close())


async def ended(closing: Coroutine[Any, Any, None]) -> bool:
    """Ends one of aiokafka's clients, whatever its `stop` raises, its own cancellations too; False: it hangs."""
    task = asyncio.create_task(closing)
    await asyncio.wait((task,), timeout=CLOSING)
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=CLOSING)
        return False
    return task.cancelled() or task.exception() is None


async def asked(question: Awaitable[T]) -> T:
    """The answer to a question that a broker has `PATIENCE` for."""
    with translated("no answer"):
        async with asyncio.timeout(PATIENCE):
            return await question


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Inside, what aiokafka raises is raised as one of ours."""
    try:
        yield
    except (errors.KafkaError, OSError, TimeoutError) as error:
        meant = next((ours for theirs, ours in _MEANINGS if isinstance(error, theirs)), Unavailable)
        said = reason(error)
        raise meant(f"{what}: {said}") from error
