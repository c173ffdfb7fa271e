"""ZooKeeper 3.9 from its Maven packages, one node or an ensemble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from kazoo.client import KazooClient

from tests.servers import provide
from tests.servers.process import said
from tests.servers.server import Server, together

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
ADMIN = HERE / "admin" / "pom.xml"

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
    provide.tool("java", provide.JAVA_REMEDY)
    return provide.provided(f"zookeeper-3.9.4-{provide.digest(POM)}", lambda folder: provide.maven_jars(POM, folder))


def admin_library() -> Path:
    """The folder of the jars that its admin server needs besides, provided on first use; raises NotProvided."""
    return provide.provided(
        f"zookeeper-admin-{provide.digest(ADMIN)}", lambda folder: provide.maven_jars(ADMIN, folder)
    )


class ZooKeeper(Server):
    """One node. `settings` are further lines of zoo.cfg, `jvm` words for Java; `admin`: with its admin server."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "zookeeper",
        settings: Mapping[str, str] | None = None,
        jvm: tuple[str, ...] = (),
        admin: bool = False,
    ) -> None:
        super().__init__(name, folder, 4)
        self.settings = dict(settings or {})
        self.jvm = jvm
        self.number = 1  # of an ensemble: which of `peers` it is
        self.peers: Mapping[int, str] = {}  # of an ensemble: number to `host:quorum port:election port`
        self._config = folder / f"{name}.cfg"
        self._client, quorum, election, self._admin = self._ports
        self._has_admin = admin
        self.admin = f"http://127.0.0.1:{self._admin}"
        self.address = f"127.0.0.1:{self._client}"
        self.peer_address = f"127.0.0.1:{quorum}:{election}"

    async def start(self) -> None:
        """Starts it, or starts it again on the same data and ports; ready when it serves clients."""
        jars = await asyncio.to_thread(library)
        classes = f"{jars}/*"
        if self._has_admin:
            classes += f":{await asyncio.to_thread(admin_library)}/*"
        self._configure()
        main = "quorum.QuorumPeerMain" if self.peers else "ZooKeeperServerMain"
        words = ["java", *JVM, *self.jvm, f"-Dlogback.configurationFile={HERE / 'logback.xml'}", "-cp", classes]
        command = [*words, f"org.apache.zookeeper.server.{main}", str(self._config)]
        await self.process.start(command, self._ready)

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
        if self._has_admin:
            place |= {"admin.enableServer": "true", "admin.serverAddress": "127.0.0.1"}
            place |= {"admin.serverPort": str(self._admin)}
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
    async with together(nodes):
        yield nodes
