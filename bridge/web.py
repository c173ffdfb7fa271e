"""What machines ask over TCP: /healthz, /readyz and /metrics, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from bridge.config import address
from bridge.errors import ConfigError

GRACE = 1.0  # seconds that an answer under way gets when the daemon stops

Report = Callable[[], tuple[bool, dict[str, Any]]]  # whether all is well, and what the body says


class Web:
    """Serves while entered; `port` is then the one that it listens at. Raises ConfigError where it cannot."""

    def __init__(self, listen: str, alive: Report, ready: Report, metrics: Callable[[], bytes]) -> None:
        """`listen` as in the configuration; the others are asked at each request."""
        self.port = 0
        self._listen = listen
        self._runner = web.AppRunner(
            _application(alive, ready, metrics), access_log=None, handle_signals=False, shutdown_timeout=GRACE
        )

    async def __aenter__(self) -> Self:
        host, port = address(self._listen)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            said = (error.strerror or str(error)).lower()
            raise ConfigError(
                f"bridge.listen: {self._listen} cannot be used: {said}; free it, or choose another"
            ) from None
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()


def _application(alive: Report, ready: Report, metrics: Callable[[], bytes]) -> web.Application:
    def told(report: Report) -> Callable[[web.Request], Any]:
        async def answer(_: web.Request) -> web.Response:
            well, body = report()
            return web.Response(
                body=msgspec.json.encode(body) + b"\n",
                status=200 if well else 503,
                content_type="application/json",
                headers={"Cache-Control": "no-store"},
            )

        return answer

    async def scraped(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    application = web.Application(client_max_size=1024)
    application.router.add_get("/healthz", told(alive))
    application.router.add_get("/readyz", told(ready))
    application.router.add_get("/metrics", scraped)
    return application
