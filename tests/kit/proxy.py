"""A TCP proxy on loopback that does the damage which networks do: silence, refusal, resets, delay, thin pipes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Literal

from tests.servers import ports

Direction = Literal["up", "down"]  # up: from the client to the server
BOTH: tuple[Direction, Direction] = ("up", "down")

CHUNK = 64 * 1024  # bytes read at once; less where a bandwidth limits
RESET = struct.pack("ii", 1, 0)  # SO_LINGER without time: close sends RST


class Pipe:
    """One direction of all connections: what becomes of the bytes that go this way."""

    def __init__(self) -> None:
        self.bytes = 0  # that came through
        self.delay = 0.0  # seconds
        self.bandwidth = 0.0  # bytes/s of each connection, 0: as they come
        self.flowing = asyncio.Event()  # cleared: frozen
        self.passing = asyncio.Event()  # cleared: dropped
        self.heal()

    def heal(self) -> None:
        """Everything comes through, at once."""
        self.delay = self.bandwidth = 0.0
        self.flowing.set()
        self.passing.set()


class Proxy:
    """Listens on a port of its own and carries every connection to `target`; an async context manager.

    All damage applies at once, to open connections too, and `heal` ends it. Bytes that were dropped are lost for
    good: a stream that lost some is best `cut`. `port`: a reserved one that it listens on, where others name it.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        self.connections = 0  # accepted so far
        self.pipes: dict[Direction, Pipe] = {"up": Pipe(), "down": Pipe()}
        self._host, _, number = target.rpartition(":")
        self._port = int(number)
        self._own = [] if port else ports.reserve(1)
        self._ports = [port] if port else self._own
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def address(self) -> str:
        """Where clients connect to: `127.0.0.1:port`, the same for the proxy's whole life."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    async def __aenter__(self) -> Proxy:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        ports.release(self._own)

    async def accept(self) -> None:
        """Takes connections, again after `refuse`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", self._ports[0])

    async def refuse(self) -> None:
        """Closes the listener and resets every connection: the host is there, the service is not."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def cut(self) -> None:
        """Resets every connection; new ones are taken."""
        carrying = list(self._open)
        for task, writers in self._open.items():
            for writer in writers:
                _reset(writer)
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)

    async def lead(self, target: str) -> None:
        """Carries to another server from now on, as a name does that was given another address."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        await self.cut()

    def drop(self, *directions: Direction) -> None:
        """A black hole: connections stand and are taken, what is sent (either way, or one) never arrives."""
        for pipe in self._chosen(directions):
            pipe.passing.clear()

    def freeze(self, *directions: Direction) -> None:
        """Stops reading: nothing is lost, and the sender is held up once the buffers are full."""
        for pipe in self._chosen(directions):
            pipe.flowing.clear()

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Every byte arrives that much later; the round trip grows by twice as much."""
        for pipe in self._chosen(directions):
            pipe.delay = seconds

    def limit(self, bandwidth: float, *directions: Direction) -> None:
        """Each connection carries no more than so many bytes/s."""
        for pipe in self._chosen(directions):
            pipe.bandwidth = bandwidth

    async def heal(self) -> None:
        """Ends all damage."""
        for pipe in self.pipes.values():
            pipe.heal()
        await self.accept()

    def _chosen(self, directions: tuple[Direction, ...]) -> list[Pipe]:
        return [self.pipes[direction] for direction in directions or BOTH]

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writers = [writer]
        task = asyncio.create_task(self._carry(reader, writers))
        self._open[task] = writers
        task.add_done_callback(self._open.pop)

    async def _carry(self, reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter]) -> None:
        """One connection, from the client's connect until both sides have closed."""
        (writer,) = writers
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
            writers.append(back)
            async with asyncio.TaskGroup() as group:
                group.create_task(_flow(self.pipes["up"], reader, back))
                group.create_task(_flow(self.pipes["down"], there, writer))
        except* OSError:
            for each in writers:  # a reset on one side, or nobody there: the other side is told the same
                _reset(each)
        finally:
            for each in writers:
                each.close()


async def _flow(pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries one direction of one connection until its sender closes it."""
    loop = asyncio.get_running_loop()
    late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)  # what is under way, and when it arrives

    async def arrive() -> None:
        while True:
            due, some = await late.get()
            await asyncio.sleep(due - loop.time())
            await pipe.flowing.wait()
            if not some:
                await pipe.passing.wait()  # a black hole keeps the sender's good-bye to itself, too
                with contextlib.suppress(OSError):  # the receiver has closed already
                    writer.write_eof()
                return
            if pipe.passing.is_set():
                writer.write(some)
                pipe.bytes += len(some)
                await writer.drain()
            if pipe.bandwidth:
                await asyncio.sleep(len(some) / pipe.bandwidth)

    async def depart() -> None:
        while True:
            await pipe.flowing.wait()
            # A thin pipe takes little at a time, so that it is thin at once and evenly.
            some = await reader.read(max(1, int(pipe.bandwidth / 50)) if pipe.bandwidth else CHUNK)
            await late.put((loop.time() + pipe.delay, some))
            if not some:
                return

    async with asyncio.TaskGroup() as group:
        group.create_task(depart())
        group.create_task(arrive())


def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket | None = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
