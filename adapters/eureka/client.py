"""Eureka's REST interface: one method for each request that Isthmus makes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, urlsplit

from adapters.common.credentials import Tls
from adapters.common.http import Http
from adapters.eureka import answers
from adapters.eureka.answers import Applications, Known, Page
from adapters.eureka.times import TIMES, Times
from bridge.adapter import Credential
from bridge.errors import IsthmusError, Unavailable
from bridge.model import ServiceName

IN_FLIGHT = 32  # requests in flight; with more a server is not faster
GONE, CLOSED = (404,), (403,)


class Client:
    """The peers of one Eureka. `urls` end with `/eureka`. Other requests go to the first that answers."""

    def __init__(
        self,
        urls: Sequence[str],
        tls: Tls | None,
        credentials: tuple[str, Callable[[], str]] | None = None,
        times: Times = TIMES,
    ) -> None:
        self._times = times
        secret = f"the password of {credentials[0]}" if credentials is not None else ""
        self._is_anonymous = credentials is None
        self._http = Http(urls, tls=tls, headers=_headers(credentials), in_flight=IN_FLIGHT, secret=secret)
        self.urls = self._http.urls

    @property
    def url(self) -> str:
        """The peer that answered last."""
        return self._http.url

    async def close(self) -> None:
        """Ends every connection."""
        await self._http.close()

    def credentials(self) -> list[Credential]:
        """See `Http.credentials`."""
        return self._http.credentials()

    async def full(self, url: str | None = None) -> Applications:
        """All instances. Servers answer from a cache, by default up to 30 s old.

        A server that has just started empty may refuse to answer (403) for some minutes.
        """
        accept = CLOSED if self._is_anonymous else ()
        answer = await self._http.call(
            "GET", "/apps", only=url, timeout=self._times.list, silence=self._times.silence, accept=accept
        )
        if answer.status in CLOSED:
            raise Unavailable(f"{answer.url} is closed (403): it has just started, or wants a user and a password")
        return answers.applications(answer.body)

    async def delta(self, url: str, *, compact: bool = False) -> Applications:
        """The changes of the last three minutes, from a cache. `compact`: from another cache, with less metadata."""
        answer = await self._http.call(
            "GET",
            "/apps/delta",
            only=url,
            timeout=self._times.list,
            silence=self._times.silence,
            headers=_COMPACT if compact else None,
        )
        return answers.applications(answer.body)

    async def service(self, name: ServiceName) -> list[Known]:
        """The instances of one service, by VIP address or application; from a cache."""
        vip = await self._http.call("GET", f"/vips/{_quoted(name.name)}", accept=GONE)
        app = await self._http.call("GET", f"/apps/{_quoted(name.name.upper())}", accept=GONE)
        found = answers.applications(vip.body).instances if vip.status == 200 else []
        found += answers.application(app.body) if app.status == 200 else []
        return list({one.key: one for one in found if name in one.names}.values())

    async def instance(self, app: str, id: str, url: str | None = None) -> Known | None:
        """One instance, past every cache; None: there is none, or its lease has expired."""
        if "/" in id or "\\" in id:  # Tomcat refuses such a path
            return next((one for one in (await self.full(url)).instances if one.key == (app, id)), None)
        body = await self.body(app, id, url)
        return answers.instance(body, app) if body is not None else None

    async def body(self, app: str, id: str, url: str | None = None) -> bytes | None:
        """The same as raw JSON."""
        answer = await self._http.call("GET", _path(app, id), accept=GONE, only=url, timeout=self._times.instance)
        return answer.body if answer.status == 200 else None

    async def register(self, app: str, body: bytes) -> None:
        """Registers an instance, or replaces it. A server ignores a record that is older than its own."""
        await self._http.call("POST", f"/apps/{_quoted(app)}", body=body, headers=_JSON, again=True)

    async def cancel(self, app: str, id: str) -> None:
        """Removes an instance, if it is there."""
        await self._http.call("DELETE", _path(app, id), accept=GONE, again=True)

    async def renew(self, app: str, id: str) -> bool:
        """Sends a heartbeat, which renews the lease alone. False: no such instance is registered."""
        return (await self._http.call("PUT", _path(app, id), accept=GONE, again=True)).status != 404

    async def override(self, app: str, id: str, status: str) -> None:
        """Says the status of an instance in its place, until that is taken back or the instance is cancelled."""
        await self._http.call("PUT", f"{_path(app, id)}/status", query={"value": status}, again=True)

    async def restore(self, app: str, id: str, status: str) -> None:
        """Takes an override away; `status`: what it has from then on, for without it the server would say UNKNOWN."""
        query = {"value": status}
        await self._http.call("DELETE", f"{_path(app, id)}/status", query=query, accept=GONE, again=True)

    async def page(self, url: str) -> Page:
        """The status page; empty where it is disabled or elsewhere."""
        parts = urlsplit(url)
        try:
            answer = await self._http.call("GET", "/lastn", only=f"{parts.scheme}://{parts.netloc}")
        except IsthmusError:
            return Page()
        return answers.page(answer.body.decode(errors="replace"))


_COMPACT = {"X-Eureka-Accept": "compact"}
_JSON = {"Content-Type": "application/json"}


def _headers(credentials: tuple[str, Callable[[], str]] | None) -> Mapping[str, str] | Callable[[], Mapping[str, str]]:
    """The headers. The password is read at each request, so that its file may change."""
    accept = {"Accept": "application/json"}
    if credentials is None:
        return accept
    user, password = credentials

    def headers() -> Mapping[str, str]:
        token = base64.b64encode(f"{user}:{password()}".encode()).decode()
        return {**accept, "Authorization": f"Basic {token}"}

    return headers


def _path(app: str, id: str) -> str:
    return f"/apps/{_quoted(app)}/{_quoted(id)}"


def _quoted(text: str) -> str:
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if text in (".", "..") else quoted
