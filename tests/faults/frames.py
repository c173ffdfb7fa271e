"""A proxy that knows enough of HTTP/2 to lose one message on its way: a watch that lies (etcd #17529, #18089)."""

from __future__ import annotations

import asyncio
import contextlib

from tests.servers import ports

PREFACE = 24  # bytes with which a client begins (RFC 9113, 3.4)
HEAD = 9  # bytes before each frame: length (3), type, flags, stream (4)
DATA = 0


class FrameProxy:
    """Loses the next DATA frame from the server that holds `swallow`; etcd sends a small message in one frame."""

    def __init__(self, target: str) -> None:
        self.swallow = b""
        self.swallowed = 0
        self._ports = ports.reserve(1)
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"127.0.0.1:{self._ports[0]}"

    async def __aenter__(self) -> FrameProxy:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self._ports[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        ports.release(self._ports)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._port)
        try:
            up = asyncio.create_task(_pass_on(reader, back))
            down = asyncio.create_task(self._frames(there, writer))
            _, pending = await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
        finally:
            writer.close()
            back.close()

    async def _frames(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readexactly(HEAD)
                body = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == DATA and self.swallow and self.swallow in body:
                    self.swallow = b""
                    self.swallowed += 1
                    continue
                writer.write(head + body)
                await writer.drain()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
