"""ZooKeeper's protocol, as little of it as a raw loop needs: one session over a bare socket, requests pipelined.

Source: zookeeper.jute of Apache ZooKeeper 3.9. It shares nothing with the bridge's own client, which it is to measure.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

CREATE, DELETE, EXISTS, GET_DATA, SET_DATA, GET_CHILDREN, MULTI = 1, 2, 3, 4, 5, 8, 14
CREATE_CONTAINER, MULTI_READ, ADD_WATCH = 19, 22, 106
PERSISTENT, EPHEMERAL, CONTAINER = 0, 1, 4
OK, ROLLED_BACK, NO_NODE, NODE_EXISTS = 0, -2, -101, -110

Request = tuple[int, bytes]  # type and body

_INT = struct.Struct("!i")
_ASKED = struct.Struct("!iii")  # length, xid, type
_ANSWER = struct.Struct("!iqi")  # xid, zxid, error
_ONE = struct.Struct("!iBi")  # of one operation among many: type, done, error
_CONNECT = struct.Struct("!iiqiqi16sB")  # length, protocol, zxid seen, timeout, session, password, read only
_END = _ONE.pack(-1, True, -1)
_ANYONE = _INT.pack(1) + _INT.pack(31) + b"\0\0\0\x05world\0\0\0\x06anyone"
_ANY_VERSION = _INT.pack(-1)
_STAT = 68  # bytes
_EVENT = -1  # xid


class Refused(Exception):
    """The server's error, by its number; of many operations the first one's that failed."""

    def __init__(self, code: int) -> None:
        super().__init__(f"ZooKeeper says {code}")
        self.code = code


class Answer(NamedTuple):
    """What follows the header of an answer, and the last transaction that the server had made."""

    body: memoryview
    zxid: int


def text(value: str | bytes) -> bytes:
    """A string or a buffer."""
    raw = value.encode() if isinstance(value, str) else value
    return _INT.pack(len(raw)) + raw


def create(path: str, value: bytes, flags: int) -> Request:
    """Anyone may do anything with the node."""
    kind = CREATE_CONTAINER if flags == CONTAINER else CREATE
    return kind, text(path) + text(value) + _ANYONE + _INT.pack(flags)


def set_data(path: str, value: bytes) -> Request:
    return SET_DATA, text(path) + text(value) + _ANY_VERSION


def delete(path: str) -> Request:
    return DELETE, text(path) + _ANY_VERSION


def watch(path: str) -> Request:
    """Persistent and recursive."""
    return ADD_WATCH, text(path) + _INT.pack(1)


def exists(path: str) -> Request:
    return EXISTS, text(path) + b"\0"


def multi(requests: Iterable[Request]) -> Request:
    """All of them or none."""
    return MULTI, b"".join(_ONE.pack(kind, False, -1) + body for kind, body in requests) + _END


def multi_read(kind: int, paths: Iterable[str]) -> Request:
    """Values or children of many nodes, read as one request."""
    head = _ONE.pack(kind, False, -1)
    return MULTI_READ, b"".join(head + text(path) + b"\0" for path in paths) + _END


def values(body: memoryview) -> list[bytes | None]:
    """Of a multi_read of GET_DATA; None: no such node."""
    found: list[bytes | None] = []
    offset = 0
    while True:
        kind, done, _ = _ONE.unpack_from(body, offset)
        offset += _ONE.size
        if done:
            return found
        if kind == GET_DATA:
            start = offset + 4
            end = start + max(0, _INT.unpack_from(body, offset)[0])
            found.append(bytes(body[start:end]))
            offset = end + _STAT
        else:
            found.append(None)
            offset += 4


def children(body: memoryview) -> list[list[str]]:
    """Of a multi_read of GET_CHILDREN; a node that is not there has none."""
    found: list[list[str]] = []
    offset = 0
    while True:
        kind, done, _ = _ONE.unpack_from(body, offset)
        offset += _ONE.size
        if done:
            return found
        names: list[str] = []
        if kind == GET_CHILDREN:
            (count,) = _INT.unpack_from(body, offset)
            offset += 4
            for _ in range(count):
                start = offset + 4
                offset = start + _INT.unpack_from(body, offset)[0]
                names.append(str(body[start:offset], "utf-8"))
        else:
            offset += 4
        found.append(names)


def _failed(body: memoryview) -> int:
    """Of a multi: the error of the first operation that failed; OK: it was made."""
    offset = 0
    while True:
        kind, done, _ = _ONE.unpack_from(body, offset)
        if done or kind != -1:
            return OK
        (code,) = _INT.unpack_from(body, offset + _ONE.size)
        if code not in (OK, ROLLED_BACK):
            return int(code)
        offset += _ONE.size + 4


class Session(asyncio.Protocol):
    """A session on one connection. `changed`: the paths that its watch has told and nobody has taken."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.notified = asyncio.Event()  # a path has changed, or the connection is lost
        self.lost = False
        self._waiting: deque[tuple[int, int, asyncio.Future[Answer]]] = deque()  # with xid and type
        self._in = bytearray()
        self._out: list[bytes] = []
        self._xid = 0

    @classmethod
    async def begun(cls, address: str, timeout: int) -> Session:
        """A new session that ends when nothing is heard of it for `timeout` seconds: nothing else ends it."""
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, session = await loop.create_connection(cls, host, int(port))
        answer = loop.create_future()
        session._waiting.append((0, 0, answer))
        session._transport.write(_CONNECT.pack(_CONNECT.size - 4, 0, 0, timeout * 1000, 0, 16, b"", False))
        (granted,) = _INT.unpack_from((await answer).body, 4)
        assert granted == timeout * 1000, granted
        return session

    def close(self) -> None:
        """Ends the connection; the session lives on."""
        self._transport.abort()

    def ask(self, request: Request) -> asyncio.Future[Answer]:
        """Sends a request with all others of this turn of the loop; the answer, or Refused."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        if self.lost:
            answer.set_exception(ConnectionResetError("the connection is lost"))
            return answer
        kind, body = request
        self._xid += 1
        self._waiting.append((self._xid, kind, answer))
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(_ASKED.pack(len(body) + 8, self._xid, kind) + body)
        return answer

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._loop = asyncio.get_running_loop()
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self.notified.set()
        for _, _, answer in self._waiting:
            if not answer.done():
                answer.set_exception(error or ConnectionResetError("the connection is lost"))

    def data_received(self, data: bytes) -> None:
        self._in += data
        start, end = 0, len(self._in)
        while end - start >= 4:
            size = _INT.unpack_from(self._in, start)[0]
            if end - start - 4 < size:
                break
            self._received(bytes(memoryview(self._in)[start + 4 : start + 4 + size]))
            start += 4 + size
        del self._in[:start]

    def _received(self, packet: bytes) -> None:
        if not self._xid and self._waiting:  # the answer to what begins a session has no header
            self._waiting.popleft()[2].set_result(Answer(memoryview(packet), 0))
            return
        xid, zxid, error = _ANSWER.unpack_from(packet)
        if xid == _EVENT:
            start = _ANSWER.size + 12  # behind the kind of the event, the state and the length
            self.changed.append(packet[start:].decode())
            self.notified.set()
            return
        asked, kind, answer = self._waiting.popleft()
        assert asked == xid, (asked, xid)
        body = memoryview(packet)[_ANSWER.size :]
        if error := error or (_failed(body) if kind == MULTI else OK):
            if not answer.done():
                answer.set_exception(Refused(error))
        elif not answer.done():
            answer.set_result(Answer(body, zxid))
