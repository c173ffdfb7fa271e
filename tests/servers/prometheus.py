"""Prometheus 2.42 as Debian ships it: the server, and promtool, which checks and tries alert rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.servers import provide
from tests.servers.process import said
from tests.servers.server import Server


def programs() -> Path:
    """The folder with `prometheus` and `promtool`, provided on first use; raises NotProvided."""
    return provide.provided("prometheus-2.42", partial(provide.debian, "prometheus", "2.42")) / "usr/bin"


class Prometheus(Server):
    """One Prometheus on loopback. `scrape`: its scrape_configs; `web`: of its web configuration file (TLS, passwords).

    With `web` nobody asks it whether it is ready, which may need what only the test has: it says so in its log.
    """

    def __init__(
        self,
        folder: Path,
        scrape: Sequence[Mapping[str, Any]] = (),
        *,
        name: str = "prometheus",
        every: str = "200ms",
        web: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, folder, 1)
        self.data.mkdir(parents=True, exist_ok=True)
        timing = {"scrape_interval": every, "scrape_timeout": every}
        self._file, self._web = folder / f"{name}.yml", folder / f"{name}-web.yml"
        self._file.write_text(json.dumps({"global": timing, "scrape_configs": list(scrape)}))  # YAML as well
        self._web.write_text(json.dumps(web or {}))
        self._secured = bool(web)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._ports[0]}"

    async def start(self) -> None:
        """Ready when it answers queries."""
        binary = await asyncio.to_thread(programs) / "prometheus"
        words = [
            f"--config.file={self._file}",
            f"--web.config.file={self._web}",
            f"--storage.tsdb.path={self.data}",
            f"--web.listen-address={self.address}",
        ]
        await self.process.start([str(binary), *words], self._says_so if self._secured else self._ready)

    async def _ready(self) -> bool:
        return b" 200 OK" in await said(self._ports[0], b"GET /-/ready HTTP/1.0\r\n\r\n")

    async def _says_so(self) -> bool:
        return "Server is ready to receive web requests" in self.process.tail()
