"""Prometheus as one that is asked: instant queries over its HTTP API, also of what speaks it (Thanos, Mimir ...)."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import msgspec

from adapters.common import http
from adapters.common.credentials import Tls, from_file
from adapters.common.urls import is_url
from bridge.adapter import Sample
from bridge.errors import ConfigError, Fault, Unavailable

PATH = "/api/v1/query"
ANSWER_TIME = 5.0  # seconds: a query that takes longer is none for a gate
REST = 10.0  # seconds that one who gave no answer is not asked again: nobody waits once for every gate there is
ABOUT_THE_QUERY = "PromQL info:"  # some versions tell among the warnings what is no part that is missing

NO_SERIES = (
    "no series: nothing has these names and labels, or nothing was scraped in the window "
    "(a count of what may never have happened yet needs `or vector(0)`)"
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is asked, and as whom: HTTP basic, or a bearer token; both are read again when their file changes."""

    url: str
    username: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    tls: Tls | None = None

    def faults(self) -> Iterator[Fault]:
        """What is wrong with it."""
        if not is_url(self.url):
            yield Fault(f"{self.url!r} is no URL; write http://HOST:9090, with a path where there is one", ("url",))
        if self.tls is not None:
            yield from self.tls.faults()


class _Series(msgspec.Struct, frozen=True):
    """Of a vector; a native histogram has no `value`."""

    value: tuple[float, str] | None = None


class _Head(msgspec.Struct, frozen=True):
    result_type: str = msgspec.field(name="resultType")
    result: msgspec.Raw


class _Reply(msgspec.Struct, frozen=True):
    data: _Head
    warnings: Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)] = ()


class PrometheusMeter:
    """See `bridge.adapter.Meter`."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        headers, secret = _authorization(config)
        self._http = http.Http([config.url], tls=config.tls, headers=headers, secret=secret)
        self._clock = clock
        self._away: tuple[float, Unavailable] | None = None

    async def ask(self, query: str, at: float | None = None) -> Sample:
        """See `Meter.ask`."""
        asked = {"query": query} if at is None else {"query": query, "time": f"{at:.3f}"}
        if self._away is not None and self._clock() - self._away[0] < REST:
            raise Unavailable(str(self._away[1]))
        try:
            answer = await self._http.call("GET", PATH, query=asked, timeout=ANSWER_TIME)
        except Unavailable as error:
            self._away = self._clock(), error
            raise
        self._away = None
        return _sample(answer.json(_Reply), self._clock() if at is None else at)

    async def close(self) -> None:
        """Ends every connection."""
        await self._http.close()


def create(config: Config, clock: Callable[[], float]) -> PrometheusMeter:
    """The meter, which opens no connection yet. Raises ConfigError."""
    if found := list(config.faults()):
        raise ConfigError(*found)
    return PrometheusMeter(config, clock)


def _authorization(config: Config) -> tuple[Callable[[], Mapping[str, str]] | Mapping[str, str], str]:
    """The headers that say who we are, and what our secret is called where it is not taken."""
    if config.token_file is not None:
        token = from_file(config.token_file)
        return lambda: {"Authorization": f"Bearer {token()}"}, f"the token of {config.token_file}"
    if config.password_file is not None:
        user, password = config.username or "", from_file(config.password_file)
        return (
            lambda: {"Authorization": f"Basic {base64.b64encode(f'{user}:{password()}'.encode()).decode()}"},
            f"the password of {config.password_file}",
        )
    return {}, ""


def _sample(reply: _Reply, now: float) -> Sample:
    """The one number that an answer is; where it is none, why."""
    missing = [warning for warning in reply.warnings if not warning.startswith(ABOUT_THE_QUERY)]
    if missing:
        return Sample(None, now, f"only a part was answered: {'; '.join(missing[:3])}")
    kind = reply.data.result_type
    try:
        if kind == "scalar":
            return _number(*msgspec.json.decode(reply.data.result, type=tuple[float, str]))
        if kind != "vector":
            return Sample(None, now, f"the query gives a {kind}, and a gate needs one number")
        series = msgspec.json.decode(reply.data.result, type=list[_Series])
    except (msgspec.DecodeError, ValueError) as error:
        raise Unavailable(f"the answer of Prometheus makes no sense: {error}") from error
    if not series:
        return Sample(None, now, NO_SERIES)
    if len(series) > 1:
        return Sample(None, now, f"{len(series)} series, and a gate needs one: put sum(...) around it")
    if series[0].value is None:
        return Sample(None, now, "the series is a histogram, and a gate needs one number")
    return _number(*series[0].value)


def _number(at: float, text: str) -> Sample:
    value = float(text)
    if math.isnan(value):
        return Sample(None, at, "the value is NaN, as of nothing divided by nothing")
    return Sample(value, at)
