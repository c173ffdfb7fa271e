"""The proxy does each damage as it says, and heals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.kit.proxy import Proxy
from tests.servers.etcd import Etcd

SILENCE = 0.1  # seconds without a byte that are taken for silence; a slow machine only makes it more silent
TIME = 20.0  # seconds that something may take which ought to happen


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that sends back what it gets, until its client closes."""
    async with asyncio.TaskGroup() as serving:

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while some := await reader.read(65536):
                    writer.write(some)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(lambda r, w: void(serving.create_task(answer(r, w))), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, Proxy(f"{host}:{port}") as proxy:
            yield proxy


def void(_: object) -> None:
    """The server's callback must give nothing back."""


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), TIME)

    async def silent(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.readexactly(1), SILENCE)
        except TimeoutError:
            return True
        return False

    def put(self, some: bytes) -> None:
        self.writer.write(some)


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    host, _, port = proxy.address.partition(":")
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), TIME)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


async def none_open(proxy: Proxy) -> bool:
    deadline = time.monotonic() + TIME
    while proxy.open and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return not proxy.open


async def test_a_healthy_proxy_carries_everything_and_counts_it(echo: Proxy) -> None:
    sent = bytes(range(256)) * 4096
    async with connected(echo) as client, connected(echo):
        client.put(sent)
        assert await client.get(len(sent)) == sent
        assert echo.open == 2
    assert await none_open(echo)
    assert echo.connections == 2
    assert (echo.pipes["up"].bytes, echo.pipes["down"].bytes) == (len(sent), len(sent))


async def test_a_black_hole_takes_connections_and_swallows_what_is_sent(echo: Proxy) -> None:
    async with connected(echo) as before:
        echo.drop()
        before.put(b"lost")
        async with connected(echo) as since:
            since.put(b"lost too")
            assert await since.silent()
        assert await before.silent()
        assert echo.pipes["up"].bytes == 0
        await echo.heal()
        before.put(b"through")
        assert await before.get(7) == b"through"


async def test_one_direction_may_be_black_alone(echo: Proxy) -> None:
    async with connected(echo) as client:
        echo.drop("down")
        client.put(b"asked")
        assert await client.silent()
        assert echo.pipes["up"].bytes == 5


async def test_a_black_hole_keeps_a_good_bye_to_itself(echo: Proxy) -> None:
    async with connected(echo) as client:
        client.put(b"x")
        assert await client.get(1) == b"x"
        echo.drop()
    await asyncio.sleep(0)
    assert echo.open == 1
    await echo.heal()
    assert await none_open(echo)


async def test_refused_connections_fail_at_once_and_open_ones_are_reset(echo: Proxy) -> None:
    async with connected(echo) as client:
        client.put(b"x")
        assert await client.get(1) == b"x"
        await echo.refuse()
        with pytest.raises(ConnectionResetError):
            await client.get(1)
    with pytest.raises(ConnectionRefusedError):
        async with connected(echo):
            pass
    await echo.heal()
    async with connected(echo) as client:
        client.put(b"y")
        assert await client.get(1) == b"y"


async def test_a_cut_resets_what_is_open_and_takes_new_connections(echo: Proxy) -> None:
    async with connected(echo) as first, connected(echo) as second:
        for client in (first, second):
            client.put(b"x")
            assert await client.get(1) == b"x"
        await echo.cut()
        for client in (first, second):
            with pytest.raises(ConnectionResetError):
                await client.get(1)
    async with connected(echo) as client:
        client.put(b"y")
        assert await client.get(1) == b"y"


async def test_a_frozen_proxy_loses_nothing(echo: Proxy) -> None:
    async with connected(echo) as client:
        echo.freeze()
        client.put(b"later")
        assert await client.silent()
        await echo.heal()
        assert await client.get(5) == b"later"


async def test_a_delay_applies_each_way(echo: Proxy) -> None:
    async with connected(echo) as client:
        echo.delay(0.1)
        begun = time.monotonic()
        client.put(b"x")
        await client.get(1)
        assert time.monotonic() - begun >= 0.2


async def test_a_thin_pipe_takes_its_time(echo: Proxy) -> None:
    async with connected(echo) as client:
        echo.limit(100_000, "down")
        begun = time.monotonic()
        client.put(bytes(30_000))
        await client.get(30_000)
        assert time.monotonic() - begun >= 0.25


async def test_a_target_that_is_down_looks_reset(echo: Proxy) -> None:
    async with Proxy("127.0.0.1:9") as proxy, connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.get(1)


async def test_a_real_etcd_behind_it_answers_and_falls_silent_and_answers_again(etcd: Etcd) -> None:
    async with Proxy(etcd.address) as proxy:

        async def version() -> bytes:
            async with connected(proxy) as client:
                client.put(b"GET /version HTTP/1.0\r\n\r\n")
                return await asyncio.wait_for(client.reader.read(), TIME)

        assert b"etcdserver" in await version()
        proxy.drop()
        async with connected(proxy) as client:
            client.put(b"GET /version HTTP/1.0\r\n\r\n")
            assert await client.silent()
            await proxy.cut()
        await proxy.heal()
        assert b"etcdserver" in await version()
