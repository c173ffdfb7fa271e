"""etcd: 3.6 built from its Go module, 3.4 as Debian ships it, one member or a cluster."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.servers import provide
from tests.servers.process import said
from tests.servers.server import Server, together

HERE = Path(__file__).parent


def binary(version: str = "3.6") -> Path:
    """The etcd program of one minor version, provided on first use; raises NotProvided."""
    if version == "3.6":
        return provide.provided(f"etcd-3.6.5-{provide.digest(HERE / 'go.sum')}", _build) / "etcd"
    unpack = partial(provide.debian, "etcd-server", "3.4.")
    return provide.provided("etcd-3.4.23", unpack) / "usr/bin/etcd"


def _build(folder: Path) -> None:
    provide.go_build(HERE, {"etcd": "go.etcd.io/etcd/server/v3"}, folder, "-ldflags=-s -w")


class Tls(NamedTuple):
    """A server's certificate and key; with `ca`, its clients must show a certificate which that authority signed."""

    cert: Path
    key: Path
    ca: Path | None = None


class Etcd(Server):
    """One member. `flags` are further words of its command line.

    Such as `--auto-compaction-retention=1` or `--quota-backend-bytes=16777216`.
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
        super().__init__(name, folder, 3)
        self.version = version
        self.flags = flags
        self.tls = tls
        self.peers: Mapping[str, str] | None = None  # of a cluster: member name to peer address
        client, peer, self._health = self._ports
        self.address = f"127.0.0.1:{client}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.peer_url = f"http://127.0.0.1:{peer}"

    async def start(self) -> None:
        """Starts it, or starts it again on the same data and ports; ready when it serves, a cluster: has a leader."""
        # The first start of a version builds it, which takes a while.
        program = await asyncio.to_thread(binary, self.version)
        await self.process.start([str(program), *self._command()], self._ready)

    async def wipe(self) -> None:
        """Deletes every key; revisions go on. Not for a member with TLS or with authentication."""
        everything = {"key": "AA==", "range_end": "AA=="}  # from the zero byte, without an end
        await asyncio.to_thread(self._post, "kv/deleterange", everything)

    async def compact(self, revision: int) -> None:
        """Drops the history before a revision."""
        await asyncio.to_thread(self._post, "kv/compaction", {"revision": revision, "physical": True})

    async def asked(self, method: str) -> int:
        """How many requests of one method, such as Range, it has taken since it started."""
        return await self._counted("started_total", method)

    async def sent(self, method: str) -> int:
        """How many messages of one method, such as Watch, it has sent since it started."""
        return await self._counted("msg_sent_total", method)

    async def _counted(self, what: str, method: str) -> int:
        metrics = await said(self._health, b"GET /metrics HTTP/1.0\r\n\r\n")
        pattern = rb'^grpc_server_%b{grpc_method="%b",.*} (.+)$' % (what.encode(), method.encode())
        found = re.findall(pattern, metrics, re.M)
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
    async with together(members):
        yield members
