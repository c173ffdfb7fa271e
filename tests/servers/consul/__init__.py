"""Consul 1.20 built from its Go module: a server agent a datacenter, alone or joined over the WAN."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.servers import provide
from tests.servers.process import said
from tests.servers.server import Server, together

HERE = Path(__file__).parent


def binary() -> Path:
    """The Consul program, provided on first use; raises NotProvided."""
    return provide.provided(f"consul-1.20.6-{provide.digest(HERE / 'go.sum')}", _build) / "consul"


def _build(folder: Path) -> None:
    provide.go_build(HERE, {"consul": "github.com/hashicorp/consul"}, folder, "-ldflags=-s -w")


class Consul(Server):
    """One server agent, a datacenter of its own; or with `client_of` a client agent of that one, with no data.

    `settings` are further lines of HCL, such as
    `acl { enabled = true default_policy = "deny" tokens { initial_management = "..." } }`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        datacenter: str = "dc1",
        name: str = "",
        settings: Sequence[str] = (),
        token: str = "",
        servers: int = 1,
        client_of: Consul | None = None,
    ) -> None:
        super().__init__(name or f"consul-{datacenter}", folder, 4)
        self.datacenter = datacenter
        self.settings = settings
        self.token = token  # for the tests' own calls
        self.servers = servers
        self.client_of = client_of
        self.joins: list[Consul] = (
            [client_of] if client_of is not None else []
        )  # servers of the same datacenter that it looks for when it starts
        self._http, self._lan, self._wan, self._rpc = self._ports
        self.address = f"127.0.0.1:{self._http}"
        self.url = f"http://{self.address}"

    async def start(self) -> None:
        """Starts it, or starts it again on the same data and ports; ready when it leads and knows itself."""
        program = await asyncio.to_thread(binary)
        await self.process.start([str(program), *self._command()], self._ready)

    async def join(self, other: Consul) -> None:
        """Joins another datacenter over the WAN; returns when both route requests to each other."""
        await self.call("PUT", f"/v1/agent/join/127.0.0.1:{other._wan}?wan=1")
        for here, there in ((self, other), (other, self)):
            while await here.answers(f"/v1/catalog/nodes?dc={there.datacenter}") != 200:
                await asyncio.sleep(0.05)

    async def wipe(self) -> None:
        """Removes every service and check but the agent's own, every other node, and all keys."""
        own = self.name
        for node in await self.call("GET", "/v1/catalog/nodes"):
            if node["Node"] != own:
                await self.call("PUT", "/v1/catalog/deregister", {"Node": node["Node"]})
        for service in await self.call("GET", "/v1/agent/services"):
            await self.call("PUT", f"/v1/agent/service/deregister/{service}")
        found = await self.call("GET", f"/v1/catalog/node-services/{own}")
        for service in (found or {}).get("Services") or []:
            if service["ID"] != "consul":
                await self.call("PUT", "/v1/catalog/deregister", {"Node": own, "ServiceID": service["ID"]})
        await self.call("DELETE", "/v1/kv/?recurse=true")

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """One request of the HTTP API, with the answer's JSON; raises urllib.error.HTTPError."""
        return await asyncio.to_thread(self._call, method, path, body)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, method=method)
        if self.token:
            request.add_header("X-Consul-Token", self.token)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    async def answers(self, path: str) -> int:
        """The status of one GET, 0 where nobody answers."""
        words = (await self._said(path)).split(None, 2)
        return int(words[1]) if len(words) > 1 else 0

    async def _said(self, path: str) -> bytes:
        return await said(self._http, f"GET {path} HTTP/1.0\r\nX-Consul-Token: {self.token}\r\n\r\n".encode())

    def _command(self) -> list[str]:
        options = {
            **({"bootstrap-expect": str(self.servers)} if self.client_of is None else {}),
            "datacenter": self.datacenter,
            "node": self.name,
            "bind": "127.0.0.1",
            "client": "127.0.0.1",
            "data-dir": str(self.data),
            "http-port": str(self._http),
            "serf-lan-port": str(self._lan),
            "serf-wan-port": str(self._wan),
            "server-port": str(self._rpc),
            "grpc-port": "-1",
            "grpc-tls-port": "-1",
            "dns-port": "-1",
            "log-level": "warn",
        }
        # Raft's shortest times, and no look for newer versions outside this machine.
        hcl = ("performance { raft_multiplier = 1 } disable_update_check = true", *self.settings)
        words = [f"-{name}={value}" for name, value in options.items()]
        words += [f"-retry-join=127.0.0.1:{other._lan}" for other in self.joins]
        return [
            "agent",
            *(["-server"] if self.client_of is None else []),
            *words,
            *(word for line in hcl for word in ("-hcl", line)),
        ]

    async def _ready(self) -> bool:
        nodes = await said(
            self._http, f"GET /v1/catalog/nodes HTTP/1.0\r\nX-Consul-Token: {self.token}\r\n\r\n".encode()
        )
        return self.name.encode() in nodes


@asynccontextmanager
async def datacenters(folder: Path, *names: str, settings: Sequence[str] = ()) -> AsyncIterator[list[Consul]]:
    """Datacenters joined over the WAN, the first of them the one whose agent the others are asked through."""
    await asyncio.to_thread(binary)
    agents = [Consul(folder, datacenter=name, settings=settings) for name in names or ("dc1", "dc2")]
    async with together(agents):
        for other in agents[1:]:
            await agents[0].join(other)
        yield agents


@asynccontextmanager
async def servers(folder: Path, count: int = 2) -> AsyncIterator[list[Consul]]:
    """Servers of one datacenter: of two, none leads once one is gone."""
    await asyncio.to_thread(binary)
    agents = [Consul(folder, name=f"consul-{number}", servers=count) for number in range(count)]
    for agent in agents:
        agent.joins = [other for other in agents if other is not agent]
    async with together(agents):
        yield agents
