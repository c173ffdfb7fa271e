"""Apache Kafka 4.1 from its Maven packages: nodes that are broker and controller at once (KRaft), mostly one."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import uuid
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from tests.kit.proxy import Proxy
from tests.servers import provide
from tests.servers.server import Server

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
JVM = (
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "2000",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "num.network.threads": "2",
    "num.io.threads": "2",
}
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}
INTERNAL = "__"  # how topics begin that are Kafka's own


def library() -> Path:
    """The folder of Kafka's jars, provided on first use; raises NotProvided."""
    provide.tool("java", provide.JAVA_REMEDY)
    return provide.provided(f"kafka-4.1.1-{provide.digest(POM)}", lambda folder: provide.maven_jars(POM, folder))


class Kafka(Server):
    """One broker. `settings` are further lines of server.properties.

    `users` (password by name): a second listener, `sasl_address`,
    asks for SCRAM-SHA-512 or PLAIN, and they may do what ACLs allow; on the first one everybody may do everything.
    Further listeners, `behind` of them, tell clients to come by a proxy each (`behind_a_proxy`), since brokers name
    themselves to clients.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "kafka",
        settings: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        behind: int = 1,
    ) -> None:
        super().__init__(name, folder, 3 + 2 * behind)
        self.node = 1
        self.nodes = [self]  # of its cluster
        self.cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
        self.settings = dict(settings or {})
        self.users = dict(users or {})
        self._config = folder / f"{name}.properties"
        plain, self._controller, sasl, *proxied = self._ports
        self.address, self.sasl_address = (f"127.0.0.1:{port}" for port in (plain, sasl))
        self._behind = [*zip(proxied[::2], proxied[1::2], strict=True)]  # the port of each listener, and of its proxy

    async def start(self) -> None:
        """Starts it, or starts it again on the same data and ports; ready when it serves clients."""
        jars = await asyncio.to_thread(library)
        self._configure()
        words = ["java", *JVM, "-cp", f"{jars}/*"]
        if not self.data.exists():
            scram = [
                f"--add-scram=SCRAM-SHA-512=[name={user},password={password}]" for user, password in self.users.items()
            ]
            tool = [*words, "kafka.tools.StorageTool", "format", "-t", self.cluster, "-c", str(self._config), *scram]
            await asyncio.to_thread(provide.run, *tool)
        await self.process.start([*words, "kafka.Kafka", str(self._config)], self._ready)

    async def wipe(self) -> None:
        """Deletes every topic that is not Kafka's own."""
        async with self.admin() as admin:
            topics = [name for name in await admin.list_topics() if not name.startswith(INTERNAL)]
            if topics:
                await admin.delete_topics(topics)
            while set(topics) & set(await admin.list_topics()):
                await asyncio.sleep(0.01)

    async def allow(self, user: str, *words: str) -> None:
        """A right, in the words of Kafka's own tool: `--operation Read --topic NAME`."""
        jars = await asyncio.to_thread(library)
        tool = [
            "java",
            *JVM,
            "-cp",
            f"{jars}/*",
            "org.apache.kafka.tools.AclCommand",
            "--bootstrap-server",
            self.address,
        ]
        await asyncio.to_thread(provide.run, *tool, "--add", "--allow-principal", f"User:{user}", *words)

    def behind_a_proxy(self, number: int = 0) -> Proxy:
        """A proxy that all connections of those go through who begin at its address; one at a time for each number."""
        listener, port = self._behind[number]
        return Proxy(f"127.0.0.1:{listener}", port)

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """A client that may do everything."""
        servers = [one.address for one in self.nodes]
        admin = AIOKafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=10_000)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    def _configure(self) -> None:
        behind = {f"BEHIND{number}": ports for number, ports in enumerate(self._behind)}
        listeners = {"PLAINTEXT": self.address, "SASL": self.sasl_address}
        listeners |= {name: f"127.0.0.1:{port}" for name, (port, _) in behind.items()}
        controller = f"127.0.0.1:{self._controller}"
        told = {**listeners, **{name: f"127.0.0.1:{port}" for name, (_, port) in behind.items()}}
        unencrypted = ["PLAINTEXT", "CONTROLLER", *behind]
        jaas = "org.apache.kafka.common.security"
        plain = "".join(f' user_{user}="{password}"' for user, password in self.users.items())
        settings = {
            **SETTINGS,
            "log.dirs": str(self.data),
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(f"{one.node}@127.0.0.1:{one._controller}" for one in self.nodes),
            "listeners": ",".join(f"{name}://{at}" for name, at in {**listeners, "CONTROLLER": controller}.items()),
            "advertised.listeners": ",".join(f"{name}://{at}" for name, at in told.items()),
            "listener.security.protocol.map": ",".join(
                ("SASL:SASL_PLAINTEXT", *(f"{name}:PLAINTEXT" for name in unencrypted))
            ),
            "listener.name.sasl.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{jaas}.scram.ScramLoginModule required;",
            "listener.name.sasl.plain.sasl.jaas.config": f"{jaas}.plain.PlainLoginModule required{plain};",
            **(_AUTHORIZED if self.users else {}),
            **self.settings,
        }
        self._config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    async def _ready(self) -> bool:
        """Whether it answers ApiVersions."""
        host, _, port = self.address.rpartition(":")
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(1.0):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    writer.write(struct.pack(">ihhih", 10, 18, 0, 1, -1))
                    return bool(await reader.readexactly(4))
                finally:
                    writer.close()
        return False


def cluster(folder: Path) -> list[Kafka]:
    """Three brokers of one cluster, to be started together: topics have three replicas, two of which acknowledge."""
    brokers = [Kafka(folder, name=f"kafka-{number}", settings=REPLICATED) for number in (1, 2, 3)]
    for number, one in enumerate(brokers, 1):
        one.node, one.nodes, one.cluster = number, brokers, brokers[0].cluster
    return brokers


_AUTHORIZED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}
