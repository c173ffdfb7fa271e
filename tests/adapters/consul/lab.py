"""What the Consul tests do behind a bridge's back, and the registries that they look with."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapters.consul import Config, Consul, create
from bridge.model import ServiceName
from tests.servers import consul

PAY = ServiceName("pay")
WAIT = 2.0  # seconds that a poll is held, and for which a watch may be blind after a restore
ROOT = "11111111-1111-1111-1111-111111111111"
ACL = (
    'acl { enabled = true default_policy = "deny" tokens { '
    f'initial_management = "{ROOT}" agent = "{ROOT}" }} }}'
)  # fmt: skip


@asynccontextmanager
async def registry(server: consul.Consul, *datacenters: str, **options: Any) -> AsyncIterator[Consul]:
    """Asked through that agent, with an ordinary `wait` cut short."""
    config = Config(address=server.url, datacenters=[*(datacenters or ("dc1",))], **{"wait": WAIT, **options})
    async with create("core", config, None) as opened:
        yield opened


async def register(server: consul.Consul, id: str, service: str = "pay", **more: Any) -> None:
    """As a native does that has no agent: on a node of its own."""
    status = more.pop("status", "passing")
    node = more.pop("node", f"vm-{service}")
    record = {"ID": id, "Service": service, "Address": "192.0.2.1", "Port": 9000, **more}
    check = {"CheckID": f"service:{id}", "Name": "check", "Status": status, "ServiceID": id}
    body = {"Node": node, "Address": "192.0.2.250", "Service": record, "Check": check}
    await server.call("PUT", "/v1/catalog/register", body)


async def deregister(server: consul.Consul, id: str, service: str = "pay") -> None:
    await server.call("PUT", "/v1/catalog/deregister", {"Node": f"vm-{service}", "ServiceID": id})


async def token(server: consul.Consul, rules: str) -> str:
    """The secret of a new token with these rules."""
    name = f"p{abs(hash(rules)) % 10**8}"
    policy = await server.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
    made = await server.call("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})
    return str(made["SecretID"])


async def revoke(server: consul.Consul, secret: str) -> None:
    tokens = await server.call("GET", "/v1/acl/tokens")
    (accessor,) = [one["AccessorID"] for one in tokens if one["SecretID"] == secret]
    await server.call("DELETE", f"/v1/acl/token/{accessor}")


async def save(server: consul.Consul) -> bytes:
    """A snapshot of its whole state."""

    def take() -> bytes:
        with urllib.request.urlopen(f"{server.url}/v1/snapshot", timeout=30) as answer:
            taken: bytes = answer.read()
        return taken

    return await asyncio.to_thread(take)


async def restore(server: consul.Consul, snapshot: bytes) -> None:
    def put() -> None:
        request = urllib.request.Request(f"{server.url}/v1/snapshot", snapshot, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()

    await asyncio.to_thread(put)
