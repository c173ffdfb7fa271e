"""What machines ask over TCP: /healthz, /readyz and /metrics; and what another host asks that begins: /seed.

Beyond loopback the first two say no more than their status, and /metrics wants the token of `bridge.token_file`: names
of services and hosts are nobody's business. /seed wants it always.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from bridge.config.bridge_block import address, is_loopback
from bridge.daemon.descriptors import share_of_descriptors
from bridge.errors import ConfigError

log = logging.getLogger("isthmus.listen")

GRACE = 1.0  # seconds that an answer under way gets when the daemon stops
CONNECTIONS = 64  # open at once; one more closes the oldest, so that idle ones cannot keep a probe out
LIFE = 10.0  # seconds that one connection may take for its one request, the time for its headers included
BACKLOG = 16  # connections that asyncio accepts in one go, before any of them can be closed again
HEADERS = 8190  # bytes of one header line; aiohttp answers 400 beyond it

# aiohttp logs a traceback for each request that is no HTTP. What others send is no fault of ours, so this logger is
# attached to nothing; a fault of ours is logged by `_Server`.
NOBODY = logging.Logger("aiohttp", logging.CRITICAL + 1)

Report = Callable[[], tuple[bool, dict[str, Any]]]  # whether all is well, and what the body says
Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]


class _Server(web.Server):
    """Answers one request a connection. Bounds how many connections are open, and how long each is."""

    def __init__(self, answers: Mapping[str, Answer], most: int, life: float) -> None:
        super().__init__(self._answer, logger=NOBODY, access_log=None, max_line_size=HEADERS, max_field_size=HEADERS)
        self._answers = answers
        self._most = most
        self._life = life
        self._ends: dict[web.RequestHandler, tuple[asyncio.Transport, asyncio.TimerHandle]] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Closes the oldest connection where there are too many."""
        super().connection_made(handler, transport)
        if len(self._ends) >= self._most:
            oldest = next(iter(self._ends))
            self._ends.pop(oldest)[0].abort()
        self._ends[handler] = transport, asyncio.get_running_loop().call_later(self._life, transport.abort)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Forgets the connection."""
        if (ended := self._ends.pop(handler, None)) is not None:
            ended[1].cancel()
        super().connection_lost(handler, exc)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        answer = self._answers.get(request.path)
        if answer is None:
            response = web.Response(status=404)
        elif request.method not in ("GET", "HEAD"):
            response = web.Response(status=405, headers={"Allow": "GET, HEAD"})
        else:
            try:
                response = await answer(request)
            except Exception:
                log.exception("bug path=%r", request.path)
                response = web.Response(status=500)
        response.force_close()
        return response


class Web:
    """Serves while entered; `port` is then the one that it listens at. Raises ConfigError where it cannot."""

    def __init__(
        self,
        listen: str,
        alive: Report,
        ready: Report,
        metrics: Callable[[], bytes],
        token_file: Callable[[], str | None] = lambda: None,
        *,
        seed: Callable[[], Awaitable[bytes]] | None = None,
        life: float = LIFE,
    ) -> None:
        """`listen` and `token_file()` as in the configuration; all but `listen` are asked at each request."""
        self.port = 0
        self._life = life
        self._listen = listen
        self._token_file = token_file
        self._metrics = metrics
        self._bare = not is_loopback(address(listen)[0])
        self._answers: dict[str, Answer] = {
            "/healthz": partial(self._told, alive),
            "/readyz": partial(self._told, ready),
            "/metrics": self._measured,
        }
        if seed is not None:
            self._answers["/seed"] = partial(self._seeded, seed)

    async def __aenter__(self) -> Self:
        host, port = address(self._listen)
        server = _Server(self._answers, share_of_descriptors(CONNECTIONS), self._life)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=GRACE)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, backlog=BACKLOG).start()
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

    async def _told(self, report: Report, _: web.BaseRequest) -> web.Response:
        well, body = report()
        return web.Response(
            body=b"" if self._bare else msgspec.json.encode(body) + b"\n",
            status=200 if well else 503,
            content_type="text/plain" if self._bare else "application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def _measured(self, request: web.BaseRequest) -> web.Response:
        file, said = self._token_file(), request.headers.get("Authorization", "")
        if file is None and self._bare:
            return web.Response(status=403, text="bridge.token_file is not set\n")
        # In a thread, for its disk may hang; there are no more of them than connections.
        if file is not None and not await asyncio.to_thread(_is_known, Path(file), said):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _seeded(self, seed: Callable[[], Awaitable[bytes]], request: web.BaseRequest) -> web.Response:
        file, said = self._token_file(), request.headers.get("Authorization", "")
        if file is None:
            return web.Response(status=403, text="bridge.token_file is not set\n")
        if not await asyncio.to_thread(_is_known, Path(file), said):
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        return web.Response(body=await seed(), content_type="application/gzip", headers={"Cache-Control": "no-store"})


def _is_known(file: Path, said: str) -> bool:
    """Whether a header has the token that the file has now, so that it rotates without a restart."""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        log.error("bridge.token_file: %s cannot be read: %s", file, error)
        return False
    scheme, _, shown = said.partition(" ")
    return bool(token) and scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token.encode())
