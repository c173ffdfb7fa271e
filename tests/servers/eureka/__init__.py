"""Spring Cloud's Eureka server from its Maven packages: one node, or peers of each other."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.kit.waiting import until
from tests.servers import provide
from tests.servers.certificates import Certificates
from tests.servers.process import said
from tests.servers.server import Server, together

HERE = Path(__file__).parent
GUARDED = HERE / "guarded"
JVM = ("-Xmx160m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_ANEW = itertools.count()

# What a test would wait for: the answers' caches and the eviction of what is not renewed. Users have the defaults.
# An answer that was made while a change came in, or from a queue of changes that has since been emptied, is kept until
# the next change or until it expires: after three minutes by default.
SHORT = {
    "eureka.server.use-read-only-response-cache": "false",
    "eureka.server.response-cache-update-interval-ms": "1000",
    "eureka.server.response-cache-auto-expiration-in-seconds": "1",
    "eureka.server.eviction-interval-timer-in-ms": "2000",
}


class Guard(NamedTuple):
    """TLS with these certificates, a client's certificate that their authority signed, and the password of a file."""

    certificates: Certificates
    password: Path

    @property
    def settings(self) -> dict[str, str]:
        """What a server needs for that."""
        return {
            "servers.password-file": str(self.password),
            "server.ssl.enabled": "true",
            "server.ssl.certificate": str(self.certificates.server.cert),
            "server.ssl.certificate-private-key": str(self.certificates.server.key),
            "server.ssl.trust-certificate": str(self.certificates.ca),
            "server.ssl.client-auth": "need",
        }


def library(source: Path = HERE) -> Path:
    """The folder of the jars and of the compiled main class, provided on first use; raises NotProvided.

    `GUARDED` has Spring Security beside the others.
    """
    provide.tool("java", provide.JAVA_REMEDY)
    name = "eureka" if source == HERE else "eureka-guarded"
    return provide.provided(f"{name}-4.3.0-{provide.digest(source / 'pom.xml')}", partial(_build, source))


def _build(source: Path, folder: Path) -> None:
    provide.maven_jars(source / "pom.xml", folder / "lib")
    compiler = provide.tool("javac", provide.JAVA_REMEDY)
    provide.run(compiler, "-cp", f"{folder / 'lib'}/*", "-d", folder / "classes", source / "EurekaServer.java")


class Eureka(Server):
    """One server; what it knows is gone with its process.

    `settings` are Spring's properties, over `SHORT`; `defaults=True`: Spring's own, as users have them. `peers` are
    the `/eureka` addresses of the others that it replicates to; `host` is the address that it listens on. With a
    `guard` it is reached over TLS alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "eureka",
        host: str = "127.0.0.1",
        peers: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        defaults: bool = False,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(name, folder, 1)
        self.host = host
        self.peers = tuple(peers)
        self.guard = guard
        self.settings = {**({} if defaults else SHORT), **(guard.settings if guard else {}), **(settings or {})}
        self.address = f"{host}:{self._ports[0]}"
        self.url = f"{'https' if guard else 'http'}://{self.address}/eureka"

    async def start(self) -> None:
        """Starts it, empty, on the same port; ready when it answers."""
        place = await asyncio.to_thread(library, GUARDED if self.guard else HERE)
        words = ["java", *JVM, "-cp", f"{place / 'classes'}:{place / 'lib'}/*", "servers.EurekaServer"]
        await self.process.start([*words, *self._options()], self._ready)

    async def wipe(self) -> None:
        """Cancels every instance; done when what readers are told, from the cache, has none either."""

        async def is_empty() -> bool:
            found = await self.listed()
            for app, id in found:
                await self.cancel(app, id)
            told = (await self.call("GET", "/apps"))["applications"]["application"]
            return not found and not told

        await until(is_empty, "everything is cancelled, and readers are told so")

    async def listed(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All instances by application and id, as they are now.

        `/apps` is answered from a cache, which may keep an answer that was made while a change came in. It has one for
        each set of regions that was asked for, and regions that the server has no peers in make no difference else: a
        name that nobody asked for before is answered anew.
        """
        found = await self.call("GET", f"/apps?regions=anew{next(_ANEW)}")
        several = found["applications"]["application"]
        return {(app["name"], one.get("instanceId", "")): one for app in several for one in app["instance"]}

    async def cancel(self, app: str, id: str) -> None:
        """Cancels one instance, as a peer does: an id with a slash cannot be in a path."""
        one = {"appName": app, "id": id, "action": "Cancel"}
        await self.call("POST", "/peerreplication/batch/", {"replicationList": [one]})

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """One request below `/eureka`, with the answer's JSON, None where it is empty; raises HTTPError."""
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)
        request.add_header("Accept", "application/json")
        request.add_header("Content-Type", "application/json")
        context = None
        if self.guard is not None:
            made, password = self.guard.certificates, self.guard.password.read_text()
            context = ssl.create_default_context(cafile=made.ca)
            context.load_cert_chain(made.client.cert, made.client.key)
            request.add_header("Authorization", f"Basic {base64.b64encode(f'tests:{password}'.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            text = answer.read()
        return json.loads(text) if text.startswith(b"{") else None

    def _options(self) -> list[str]:
        options = {
            "server.address": self.host,
            "server.port": str(self._ports[0]),
            "eureka.client.register-with-eureka": "true" if self.peers else "false",
            "eureka.client.fetch-registry": "true" if self.peers else "false",
            "eureka.instance.hostname": self.host,
            "logging.level.root": "WARN",
            **({"eureka.client.service-url.defaultZone": ",".join(self.peers)} if self.peers else {}),
            **self.settings,
        }
        return [f"--{name}={value}" for name, value in options.items()]

    async def _ready(self) -> bool:
        if self.guard is not None:
            with contextlib.suppress(OSError):
                return await self.call("GET", "/apps") is not None
            return False
        return b" 200 " in (await said(self._ports[0], b"GET /eureka/apps HTTP/1.0\r\n\r\n", self.host))[:20]


@asynccontextmanager
async def pair(folder: Path, *, settings: Mapping[str, str] | None = None) -> AsyncIterator[list[Eureka]]:
    """Two peers that replicate to each other, on two addresses of this machine: Eureka tells peers apart by host."""
    await asyncio.to_thread(library)
    peers = [Eureka(folder, name=f"eureka{n}", host=f"127.0.0.{n}", settings=settings) for n in (1, 2)]
    for peer, other in zip(peers, reversed(peers), strict=True):
        peer.peers = (other.url,)
    async with together(peers):
        yield peers
