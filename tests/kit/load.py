"""Backends that say who they are, and a steady load through a data plane that counts what fails."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

Ask = Callable[[], Awaitable[str]]  # one request; what answered. Raises where none did

WORKERS = 4
PAUSE = 0.005  # seconds between two requests of one worker: the load is bounded


class Backends:
    """Servers of one service, each at an address of loopback of its own, at one port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.headers: dict[str, dict[str, str]] = {}  # that each sends besides, by address
        self._runners: dict[str, web.ServerRunner] = {}

    async def start(self, *addresses: str) -> None:
        """They answer with their address."""
        for address in addresses:

            async def answer(request: web.BaseRequest, address: str = address) -> web.Response:
                return web.Response(text=address, headers=self.headers.get(address))

            runner = web.ServerRunner(web.Server(answer, access_log=None))
            await runner.setup()
            await web.TCPSite(runner, address, self.port).start()
            self._runners[address] = runner

    async def stop(self, *addresses: str) -> None:
        """They answer no more."""
        for address in addresses or tuple(self._runners):
            runner = self._runners.pop(address)
            for site in tuple(runner.sites):
                await site.stop()
            for _ in range(5):  # turns of the loop, in which what was accepted last becomes a connection to be closed
                await asyncio.sleep(0)
            await runner.cleanup()


@asynccontextmanager
async def backends(port: int, *addresses: str) -> AsyncIterator[Backends]:
    """Some that answer while the block runs."""
    made = Backends(port)
    try:
        await made.start(*addresses)
        yield made
    finally:
        await made.stop()


class Load:
    """What became of the requests: how many each backend answered, and the failures by what was said."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many were answered."""
        return sum(self.answered.values())

    async def more(self, requests: int) -> Counter[str]:
        """Waits for so many more answers; who gave them."""
        before = Counter(self.answered)
        while (self.answered - before).total() < requests:
            await asyncio.sleep(0.01)
        return self.answered - before


@asynccontextmanager
async def load(ask: Ask, workers: int = WORKERS) -> AsyncIterator[Load]:
    """Asks while the block runs."""
    found = Load()

    async def work() -> None:
        while True:
            try:
                found.answered[await ask()] += 1
            except Exception as error:
                found.failed[f"{type(error).__name__}: {error}"] += 1
            await asyncio.sleep(PAUSE)

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def over_http(url: str, *, host: str | None = None, keep: bool = True) -> AsyncIterator[Ask]:
    """Requests to a URL, for a host; `keep` False: a connection for each."""
    connector = TCPConnector(force_close=not keep)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=10)) as session:
        headers = {"Host": host} if host is not None else {}

        async def ask() -> str:
            async with session.get(url, headers=headers) as answer:
                text = await answer.text()
                if answer.status != http.client.OK:
                    raise RuntimeError(f"{answer.status}: {text[:100]}")
                return text

        yield ask


async def answers(ask: Ask) -> str:
    """Who answers, "" where nobody does."""
    with contextlib.suppress(Exception):
        return await ask()
    return ""
