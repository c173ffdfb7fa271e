"""Registries that have no places within them, as etcd has prefixes: each arm has a server of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from tests.servers.server import Server, together

ARMS = ("ours", "raw", "again")


class Farm:
    """Some servers, started and ended together. `address`: those of all, in the order of `ARMS`."""

    def __init__(self, servers: Sequence[Server], addresses: Sequence[str]) -> None:
        self._servers = servers
        self.address = ",".join(addresses)

    async def __aenter__(self) -> Self:
        self._running = together(self._servers)
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._running.__aexit__(None, None, None)

    async def stop(self) -> None:
        for server in self._servers:
            await server.stop()

    async def start(self) -> None:
        for server in self._servers:
            await server.start()


def of(address: str, prefix: str) -> str:
    """The server of the arm that a prefix names; of any other prefix the first one's."""
    addresses = address.split(",")
    place = next((at for at, arm in enumerate(ARMS) if f"/{arm}/" in prefix), 0)
    return addresses[place]
