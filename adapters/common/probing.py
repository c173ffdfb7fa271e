"""One HTTP request to an instance, which says whether the process that answers is the service that is meant."""

from __future__ import annotations

import asyncio
from collections.abc import Container

import aiohttp

from bridge.errors import reason
from mappings.common import hostport


def session(at_once: int) -> aiohttp.ClientSession:
    """What `failure` asks through: a connection for each request, as a client that comes anew."""
    connector = aiohttp.TCPConnector(limit=at_once, force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def failure(
    through: aiohttp.ClientSession,
    url: str,
    timeout: float,
    *,
    header: str = "",
    name: str = "",
    good: Container[int] = range(200, 300),
) -> str:
    """Why it did not pass, "" if it did. `header` (where there is one) has to say `name`: who else answers there?"""
    try:
        async with (
            asyncio.timeout(timeout),
            through.get(url, allow_redirects=False, headers={"User-Agent": "isthmus"}) as answer,
        ):
            if answer.status not in good:
                return f"it answered {answer.status}"
            said = answer.headers.get(header) if header else name
            if said != name:
                return f"it says in {header} that it is {said!r}" if said is not None else f"it has no {header}"
            return ""
    except TimeoutError:
        return f"no answer in {timeout:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return reason(error)


def url(address: str, port: int, path: str, *, tls: bool = False) -> str:
    """Of an instance."""
    return f"{'https' if tls else 'http'}://{hostport.join(address, port)}{path}"
