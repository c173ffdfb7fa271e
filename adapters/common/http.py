"""One HTTP client for registries that speak JSON over HTTP: failover, rotating credentials, and errors by one table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import msgspec
from yarl import URL

from adapters.common.credentials import Contexts, Tls, named, refused
from adapters.common.disk import FRESH, Question
from bridge.adapter import Credential
from bridge.errors import Conflict, Denied, Expired, IsthmusError, Rejected, Unavailable

CONNECT_TIME = 5.0  # seconds until a connection must stand
ANSWER_TIME = 10.0  # seconds until an answer must be complete, where the request says nothing else
IN_FLIGHT = 64  # connections at once
KEPT_OPEN = 30.0  # seconds that an idle connection is kept; below what servers and proxies keep theirs
LARGEST = 256 << 20  # bytes of one answer, which is kept in memory as a whole
LONGEST = 32 << 20  # bytes of one line of a stream
NOTHING: Mapping[str, str] = {}
SAID = 300  # characters of an error's body in its reason

# What a status means unless the request accepts it as an answer. Others of 4xx: the request itself is refused.
ERRORS: dict[int, type[IsthmusError]] = {
    401: Denied,
    403: Denied,
    408: Unavailable,
    409: Conflict,
    410: Expired,
    412: Conflict,
    425: Unavailable,
    429: Unavailable,
}


class Answer(NamedTuple):
    """A complete answer. `headers` by lower-case name; `url`: the base URL that gave it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self, type: Any = Any) -> Any:
        """The body, decoded; raises Unavailable where it is no such JSON: a broken answer is no observation."""
        try:
            return msgspec.json.decode(self.body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self.url} answered what is not the JSON that was asked for: {error}") from error


class Stream(NamedTuple):
    """An answer whose body is still coming. `lines`: those that came together, at least one."""

    status: int
    headers: Mapping[str, str]
    url: str
    lines: AsyncIterator[list[bytes]]


class Http:
    """A client of one service behind one or several base URLs, tried in turn where one gives no answer.

    `headers` as a function is asked at each request, in a thread, so that a token from a file may rotate.
    `classify(status, body)` may name the error of a status where a server says more by its text than by the number;
    None: the table's. Never retries by itself but by asking the next URL, and that only where nothing was sent twice:
    `again` says that it may be. `secret`, `certificate`: what ours are called where they are not taken.
    `largest`: bytes of one answer; `longest`: of one line of a stream.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        tls: Tls | None = None,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] = NOTHING,
        classify: Callable[[int, str], type[IsthmusError] | None] = lambda status, body: None,
        in_flight: int = IN_FLIGHT,
        secret: str = "",
        certificate: str = "",
        largest: int = LARGEST,
        longest: int = LONGEST,
    ) -> None:
        self.secret = secret
        self._largest = largest
        self._longest = longest
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._first = 0
        self._contexts = Contexts(tls, certificate)
        self._context = Question(self._contexts.context, "the TLS files", fresh=FRESH)
        self._server_name = tls.server_name if tls else None
        self._headers = headers if isinstance(headers, Mapping) else Question(headers, "the file with the token")
        self._classify = classify
        self._in_flight = in_flight
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """The base URL that is asked first: the one that answered last."""
        return self.urls[self._first]

    def credentials(self) -> list[Credential]:
        """The certificate that was shown last."""
        return [self._contexts.shown] if self._contexts.shown is not None else []

    async def close(self) -> None:
        """Ends every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        timeout: float = ANSWER_TIME,
        silence: float | None = None,
        again: bool | None = None,
        only: str | None = None,
    ) -> Answer:
        """One request and its whole answer, within `timeout` seconds; `path` is percent-encoded by the caller.

        `silence`: seconds without a byte that end it earlier: a long answer may take its time, a frozen server not.
        `accept`: statuses besides 2xx that are answers. `again`: whether it may be sent to another URL where one gave
        no answer, by default that of GET. `only`: ask that base URL and no other.
        Raises Unavailable, Denied, Conflict, Expired or Rejected.
        """
        may_repeat = method == "GET" if again is None else again
        failure: Unavailable | Denied | None = None
        for url in (only,) if only is not None else self._in_turn():
            try:
                async with (
                    asyncio.timeout(timeout),
                    await self._request(method, url, path, query, body, headers, silence) as response,
                ):
                    answer = Answer(response.status, _lower(response), await self._whole(response, url), url)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                is_silent = isinstance(error, aiohttp.ServerTimeoutError)
                failure = self._broken(url, error, silence if silence is not None and is_silent else timeout)
                if not may_repeat and not isinstance(error, aiohttp.ClientConnectorError):
                    raise failure from error
                continue
            if answer.status in accept or 200 <= answer.status < 300:
                self._prefer(url)
                return answer
            refused = self._error(method, path, answer)
            if isinstance(refused, Unavailable) and may_repeat and answer.status != 429:
                failure = refused
                continue
            raise refused
        raise failure or Unavailable("no URL is configured")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence: float,
        begins: float = ANSWER_TIME,
        only: str | None = None,
    ) -> AsyncIterator[Stream]:
        """An answer that is read line by line for as long as it lasts; `silence`: seconds without a byte that end it.

        `begins`: seconds until it must have begun; a frozen server takes connections, and answers none.
        Raises Unavailable (also in mid-stream), Denied, Expired or Rejected.
        """
        failure: Unavailable | Denied | None = None
        for url in (only,) if only is not None else self._in_turn():
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(begins):
                        request = await self._request(method, url, path, query, None, headers, silence)
                        response = await stack.enter_async_context(request)
                        if not 200 <= response.status < 300:
                            answer = Answer(response.status, _lower(response), await self._whole(response, url), url)
                            raise self._error(method, path, answer)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    failure = self._broken(url, error, min(silence, begins))
                    continue
                self._prefer(url)
                broken = partial(self._broken, url, seconds=silence)
                yield Stream(response.status, _lower(response), url, _lines(response, url, broken, self._longest))
                return
        raise failure or Unavailable("no URL is configured")

    def _in_turn(self) -> list[str]:
        return [*self.urls[self._first :], *self.urls[: self._first]]

    def _prefer(self, url: str) -> None:
        if url in self.urls:
            self._first = self.urls.index(url)

    async def _request(
        self,
        method: str,
        url: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        silence: float | None = None,
    ) -> Any:
        """The request, to be entered. Raises Denied where a file cannot be used, Unavailable where its disk hangs."""
        shown = self._headers if isinstance(self._headers, Mapping) else await self._headers.answer()
        context = await self._context.answer() if url.startswith("https:") else True
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._in_flight, keepalive_timeout=KEPT_OPEN),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
            # aiohttp sends PUT and DELETE again over a new connection where one broke: what was done the first time
            # would then look like somebody else's write.
            self._session._retry_connection = False
        address = URL(f"{url}{path}", encoded=True)
        return self._session.request(
            method,
            address.update_query(query) if query else address,
            data=body,
            headers={**shown, **(headers or {})},
            ssl=context,
            server_hostname=self._server_name if url.startswith("https:") else None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIME, sock_read=silence),
            allow_redirects=False,
        )

    def _shown(self) -> str:
        """Who we said that we are, for the reason of a Denied."""
        shown = self._contexts.shown
        names = " and ".join(filter(None, (named(shown) if shown is not None else "", self.secret)))
        return f" (we showed {names})" if names else ""

    def _broken(self, url: str, error: Exception, seconds: float) -> Unavailable | Denied:
        """What a request without an answer means. Denied where the server does not take our certificate."""
        self._context.doubt()
        why = f"{url} {_why(error, seconds)}"
        reached = not isinstance(error, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientSSLError)
        mine = refused(error, self._contexts.shown) if reached and url.startswith("https:") else ""
        return Denied(f"{why}: {mine}") if mine else Unavailable(why)

    def _error(self, method: str, path: str, answer: Answer) -> IsthmusError:
        text = answer.body.decode(errors="replace").strip()
        kind = self._classify(answer.status, text) or ERRORS.get(answer.status)
        if kind is None:
            kind = Unavailable if answer.status >= 500 else Rejected
        if issubclass(kind, Denied):
            self._context.doubt()
        reason = f"{answer.url}: {method} {path.partition('?')[0]}: {answer.status} {text[:SAID]}".rstrip()
        if issubclass(kind, Denied) and (answer.status == 401 or "not found" in text):
            reason += self._shown()
        return Unavailable(reason, _retry_after(answer.headers)) if kind is Unavailable else kind(reason)

    async def _whole(self, response: aiohttp.ClientResponse, url: str) -> bytes:
        """The whole body; raises Unavailable where it is larger than that of any registry in good health."""
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._largest:
                raise Unavailable(f"{url} answered with more than {self._largest >> 20} MiB, and was cut off")
            chunks.append(chunk)
        return b"".join(chunks)


async def _lines(
    response: aiohttp.ClientResponse, url: str, broken: Callable[[Exception], IsthmusError], longest: int
) -> AsyncIterator[list[bytes]]:
    """Lines of up to `longest` bytes: aiohttp's reader refuses those beyond its buffer. Raises Unavailable, Denied."""
    rest: list[bytes] = []
    size = 0
    try:
        async for chunk in response.content.iter_any():
            first, *others = chunk.split(b"\n")
            rest.append(first)
            size += len(first)
            if others:
                *whole, last = b"".join(rest), *others
                yield whole
                rest, size = [last], len(last)
            if size > longest:
                raise Unavailable(f"{url} sent a line of more than {longest >> 20} MiB, and was cut off")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise broken(error) from error
    if any(rest):
        yield [b"".join(rest)]


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    text = headers.get("retry-after", "")
    if text.isdecimal():
        return float(text)
    try:
        at, now = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (at - now).total_seconds())
    except (TypeError, ValueError):
        return None


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"has a certificate that is not trusted: {error.certificate_error}"
    if isinstance(error, TimeoutError):
        return f"gave no answer within {seconds:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot be connected to: {error.os_error.strerror or error.os_error}"
    return f"broke the connection: {error}" if str(error) else "broke the connection"
