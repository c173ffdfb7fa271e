"""Bare HTTP for the raw arms: one session, no retries, errors as they come."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

import aiohttp
import msgspec

AT_ONCE = 32  # requests of a lot under way at once


class Bare:
    """Requests to one base URL."""

    def __init__(self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext | bool = True) -> None:
        connector = aiohttp.TCPConnector(limit=0, ssl=tls)
        timeout = aiohttp.ClientTimeout(total=None)
        self.url = url
        self.session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)

    async def close(self) -> None:
        await self.session.close()

    async def call(
        self, method: str, path: str, body: Any = None, accept: Iterable[int] = (), **headers: str
    ) -> tuple[bytes, Mapping[str, str]]:
        """The answer's body and headers; raises ClientResponseError for a status that is neither good nor accepted.

        `body`: bytes as they are, anything else as JSON.
        """
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        said = {"Content-Type": "application/json", **headers} if data is not None else headers
        async with self.session.request(method, f"{self.url}{path}", data=data, headers=said) as answer:
            text = await answer.read()
            if answer.status >= 400 and answer.status not in accept:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
            return text, answer.headers


async def all_of(work: Iterable[Awaitable[object]]) -> None:
    """Some at once, until all are done."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(each: Awaitable[object]) -> None:
        async with slots:
            await each

    await asyncio.gather(*map(one, work))
