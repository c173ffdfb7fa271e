"""An HTTP server that answers data planes with one document each, and never with one that is not whole.

A data plane takes what a document lacks for gone, and keeps its last one at a status of 503: that is what it gets until
all that feeds the export is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
from aiohttp import web

from adapters.common.credentials import from_file
from adapters.common.disk import Question
from adapters.common.listen import Address, Listen, faults
from adapters.common.picture import Picture
from bridge.adapter import Client, Concern
from bridge.errors import Denied, Fault, Unavailable

CLIENTS = 100  # of which is known when they asked last
GRACE = 1.0  # seconds that an answer under way gets when the daemon stops
LOOK = 1.0  # seconds between two looks at whether the certificate was replaced

# What others send that is no HTTP is no fault of ours: this logger is attached to nothing.
NOBODY = logging.Logger("aiohttp", logging.CRITICAL + 1)

Answer = Callable[[Mapping[str, str]], bytes]  # the document, by what the query says


class Listening(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """What the blocks of such exports have in common: where they are asked, by whom, and what they show.

    `token_file`: whoever asks must show the token that stands in it; needed beyond loopback. `cert`, `key`: paths of
    PEM files, for https.
    """

    listen: Address
    token_file: str | None = None
    cert: str | None = None
    key: str | None = None

    def faults(self) -> Iterator[Fault]:
        """What is wrong with it."""
        yield from faults(self.listen, protected=self.token_file is not None, by="token_file")
        if (self.cert is None) != (self.key is None):
            yield Fault("goes together with key", ("cert",))


class Http:
    """Answers GET on some paths, each with a document in JSON."""

    def __init__(self, config: Listening, picture: Picture, answers: Mapping[str, Answer]) -> None:
        self._listen = Listen.parse(config.listen)
        self._picture = picture
        self._answers = answers
        path = config.token_file
        self._token = Question(from_file(path), path) if path is not None else None
        self._cert, self._key = config.cert, config.key
        self._clients: dict[str, Client] = {}

    @property
    def clients(self) -> Sequence[Client]:
        """Who asked of late, the newest last."""
        return tuple(self._clients.values())

    @property
    def notes(self) -> Sequence[str]:
        """Where it answers."""
        scheme = "http" if self._cert is None else "https"
        return [f"answers at {scheme}://{self._listen}{path}" for path in self._answers]

    @property
    def concerns(self) -> Sequence[Concern]:
        """See `Concerned`: nothing of its own."""
        return ()

    async def serve(self) -> None:
        """Never returns. Raises Unavailable where it cannot listen, Denied where its certificate cannot be used."""
        context = await self._context()
        runner = web.ServerRunner(
            web.Server(self._answer, logger=NOBODY, access_log=None), handle_signals=False, shutdown_timeout=GRACE
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._listen.host, self._listen.port, ssl_context=context).start()
            while True:
                await asyncio.sleep(LOOK)
                with contextlib.suppress(OSError):  # half replaced: what was shown is shown on
                    await asyncio.to_thread(self._load, context)
        except OSError as error:
            raise Unavailable(f"cannot listen on {self._listen}: {error.strerror or error}") from error
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        answer = self._answers.get(request.path)
        if answer is None:
            return web.Response(status=404, text=f"there is {', '.join(self._answers)}\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if (refusal := await self._refusal(request)) is not None:
            return refusal
        if not self._picture.complete:
            missing = ", ".join(sorted(self._picture.missing)) or "what feeds it"
            return web.Response(status=503, text=f"not known yet: {missing}\n")
        body = answer(request.query)
        self._note(request)
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    async def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        if self._token is None:
            return None
        try:
            token = await self._token.answer()
        except (Denied, Unavailable) as error:
            return web.Response(status=503, text=f"{error}\n")
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token.encode()):
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})

    def _note(self, request: web.BaseRequest) -> None:
        address = request.remote or ""
        name = f"{request.headers.get('User-Agent', '')[:100] or 'unnamed'}"
        known = self._clients.pop(f"{address} {name}", None)
        now = time.time()
        self._clients[f"{address} {name}"] = Client(
            name=name, address=address, since=known.since if known else now, seen=now, sent={"document": request.path}
        )
        while len(self._clients) > CLIENTS:
            del self._clients[next(iter(self._clients))]

    async def _context(self) -> ssl.SSLContext | None:
        context = None if self._cert is None else ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            await asyncio.to_thread(self._load, context)
        except OSError as error:  # ssl.SSLError is one
            raise Denied(f"{self._cert} and {self._key} cannot be used: {error}") from error
        return context

    def _load(self, context: ssl.SSLContext | None) -> None:
        """What connections that begin from now on are shown. Raises OSError, and the last pair is shown on."""
        if context is not None and self._cert is not None:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self._cert, self._key)  # is it a pair?
            context.load_cert_chain(self._cert, self._key)
