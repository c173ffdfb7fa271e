"""ZooKeeper 3.9 from its Maven packages, one node or an ensemble."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from kazoo.client import KazooClient

from tests.servers import ports, provide
from tests.servers.process import Process, said

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
JAVA_REMEDY = "install Java 11 or newer (Debian: openjdk-17-jre-headless)"
MAVEN_REMEDY = "install Maven (Debian: maven)"

SETTINGS = {
    "tickTime": "500",  # ms; with minSessionTimeout: sessions may be short, so that tests see them expire
    "minSessionTimeout": "1000",
    "initLimit": "20",  # ticks
    "syncLimit": "10",
    "maxClientCnxns": "0",
    "admin.enableServer": "false",
    "4lw.commands.whitelist": "*",
}
JVM = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no")


def library() -> Path:
    """The folder of ZooKeeper's jars, provided on first use; raises NotProvided."""
    provide.tool("java", JAVA_REMEDY)
    return provide.provided(f"zookeeper-3.9.4-{provide.digest(POM)}", _fetch)


def _fetch(folder: Path) -> None:
    maven = provide.tool("mvn", MAVEN_REMEDY)
    provide.run(maven, "-B", "-q", "-f", POM, "dependency:copy-dependencies", f"-DoutputDirectory={folder}")


class ZooKeeper:
    """One node: an async context manager that starts it and at last ends it; in between it may be damaged at will.

    It keeps its ports and its data over `stop`, `kill` and `start`. `settings` are further lines of zoo.cfg, `jvm`
    further words for Java.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "zookeeper",
        settings: Mapping[str, str] | None = None,
        jvm: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.data = folder / f"{name}.data"
        self.settings = dict(settings or {})
        self.jvm = jvm
        self.number = 1  # of an ensemble: which of `peers` it is
        self.peers: Mapping[int, str] = {}  # of an ensemble: number to `host:quorum port:election port`
        self.process = Process(name, folder)
        self._config = folder / f"{name}.cfg"
        self._ports = ports.reserve(3)
        self._client, quorum, election = self._ports
        self.address = f"127.0.0.1:{self._client}"
        self.peer_address = f"127.0.0.1:{quorum}:{election}"

    async def __aenter__(self) -> ZooKeeper:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()
        ports.release(self._ports)

    async def start(self) -> None:
        """Starts it, or starts it again on the same data and ports; ready when it serves clients."""
        jars = await asyncio.to_thread(library)
        self._configure()
        main = "quorum.QuorumPeerMain" if self.peers else "ZooKeeperServerMain"
        words = ["java", *JVM, *self.jvm, f"-Dlogback.configurationFile={HERE / 'logback.xml'}", "-cp", f"{jars}/*"]
        command = [*words, f"org.apache.zookeeper.server.{main}", str(self._config)]
        await self.process.start(command, self._ready)

    async def stop(self) -> None:
        """SIGTERM."""
        await self.process.stop()

    async def kill(self) -> None:
        """SIGKILL."""
        await self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nobody answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def forget(self) -> None:
        """Removes the data of a node that is down: the next start is that of a new, empty store."""
        assert not self.process.running
        shutil.rmtree(self.data)

    async def wipe(self) -> None:
        """Deletes every znode but ZooKeeper's own."""
        await asyncio.to_thread(self._wipe)

    def _wipe(self) -> None:
        client = KazooClient(self.address, timeout=10.0)
        client.start(timeout=20.0)
        try:
            for child in client.get_children("/"):
                if child != "zookeeper":
                    client.delete(f"/{child}", recursive=True)
        finally:
            client.stop()
            client.close()

    def _configure(self) -> None:
        place = {"dataDir": str(self.data), "clientPort": str(self._client), "clientPortAddress": "127.0.0.1"}
        members = {f"server.{number}": address for number, address in self.peers.items()}
        lines = (SETTINGS | place | members | self.settings).items()
        self.data.mkdir(exist_ok=True)
        (self.data / "myid").write_text(f"{self.number}\n")
        self._config.write_text("".join(f"{name}={value}\n" for name, value in lines))

    async def _ready(self) -> bool:
        return b"\nMode: " in await said(self._client, b"srvr")


@asynccontextmanager
async def ensemble(
    folder: Path, count: int = 3, *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[list[ZooKeeper]]:
    """An ensemble of `count` nodes, all serving; each can be damaged by itself."""
    await asyncio.to_thread(library)
    nodes = [ZooKeeper(folder, name=f"zookeeper{n}", settings=settings) for n in range(1, count + 1)]
    for number, node in enumerate(nodes, start=1):
        node.number = number
        node.peers = {n: each.peer_address for n, each in enumerate(nodes, start=1)}
    try:
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.start())
        yield nodes
    finally:
        for node in nodes:
            await node.__aexit__()
