"""Many stock clients of ZooKeeper for the price of a socket each: sessions that register one ephemeral node."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable

from kazoo.protocol.serialization import Connect, Create
from kazoo.security import OPEN_ACL_UNSAFE

_LENGTH, _HEADER, _REPLY = struct.Struct("!i"), struct.Struct("!ii"), struct.Struct("!iqi")
_EPHEMERAL, _CLOSE = 1, -11
AT_ONCE = 50  # that connect at the same time


class Session:
    """One client: connected by `join`, gone with all that it registered by `expire`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def register(self, path: str, value: bytes) -> None:
        """Creates an ephemeral node; its parent must be there."""
        request = Create(path, value, OPEN_ACL_UNSAFE, _EPHEMERAL)
        answer = await self._ask(_HEADER.pack(1, request.type) + request.serialize())
        assert _REPLY.unpack_from(answer)[2] == 0, f"{path}: error {_REPLY.unpack_from(answer)[2]}"

    async def expire(self) -> None:
        """Ends the session: for everybody else it is as if the client had been silent for too long."""
        await self._ask(_HEADER.pack(1, _CLOSE))
        self.leave()

    def leave(self) -> None:
        """Closes the socket; the session lives on for its time."""
        self._writer.close()

    async def _ask(self, request: bytes) -> bytes:
        self._writer.write(_LENGTH.pack(len(request)) + request)
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        return await self._reader.readexactly(length)


async def join(address: str, seconds: float) -> Session:
    """A new session with that timeout."""
    host, _, port = address.rpartition(":")
    session = Session(*await asyncio.open_connection(host, int(port)))
    answer = await session._ask(bytes(Connect(0, 0, int(seconds * 1000), 0, bytes(16), False).serialize()))
    granted = Connect.deserialize(answer, 0)[0].time_out
    assert granted == seconds * 1000, f"the server grants {granted} ms"
    return session


async def join_all(address: str, seconds: float, nodes: Iterable[tuple[str, bytes]]) -> list[Session]:
    """A session for each node."""
    doors = asyncio.Semaphore(AT_ONCE)

    async def one(path: str, value: bytes) -> Session:
        async with doors:
            session = await join(address, seconds)
            await session.register(path, value)
            return session

    return list(await asyncio.gather(*(one(*node) for node in nodes)))
