"""Requests as an application counts them, for Prometheus to scrape: how many each side had, and how many failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.servers import ports

LABELS = ("service", "side", "code", "node")
REQUESTS = 'sum(increase(reqs_total{service="{{service}}",side="{{side}}"}[{{window}}]))'
BY_NODE = REQUESTS.replace("}[", ',node=~"{{instances}}"}[')
ERRORS = (
    'sum(rate(reqs_total{service="{{service}}",side="{{side}}",code="500"}[{{window}}]))'
    ' / sum(rate(reqs_total{service="{{service}}",side="{{side}}"}[{{window}}]))'
)


class Metered:
    """The counters of some services, at `address`. Each scrape adds `each` of them: a steady load, however long it is.

    A key is a service, a side and a code of the answers; and the instance, where they are counted apart.
    """

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.each: dict[tuple[str, ...], int] = {}
        self.scrapes = 0
        self._counts: Counter[tuple[str, ...]] = Counter()
        self.runner = web.ServerRunner(web.Server(self._answer, access_log=None))

    @property
    def scrape(self) -> dict[str, Any]:
        """The scrape_config that reads them."""
        return {"job_name": "metered", "static_configs": [{"targets": [self.address]}]}

    async def close(self) -> None:
        """Nobody can scrape them any more."""
        await self.runner.cleanup()

    async def _answer(self, _: web.BaseRequest) -> web.Response:
        """The text format."""
        self.scrapes += 1
        for key, more in self.each.items():
            self._counts[key] += more
        lines = [f"reqs_total{{{_labels(key)}}} {count}" for key, count in self._counts.items()]
        return web.Response(text="\n".join(["# TYPE reqs_total counter", *lines, ""]))


def _labels(key: tuple[str, ...]) -> str:
    return ",".join(f'{label}="{said}"' for label, said in zip(LABELS, key, strict=False))


@asynccontextmanager
async def metered() -> AsyncIterator[Metered]:
    """Counters that can be scraped while the block runs."""
    (port,) = ports.reserve(1)
    made = Metered(port)
    await made.runner.setup()
    try:
        await web.TCPSite(made.runner, "127.0.0.1", port).start()
        yield made
    finally:
        await made.close()
        ports.release([port])
