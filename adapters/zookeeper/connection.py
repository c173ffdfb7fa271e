"""kazoo's connection, adapted: events are posted in the order of the wire, and the time of the last answer is known.

kazoo 2.11 keeps the session, reconnects and authenticates. Ours is what it lacks: dialling with a deadline and our
own TLS, a limit for answers, events of recursive watches, and the time at which the server was last known to know us.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import CLOSE_RESPONSE, PING_XID, WATCH_XID, ConnectionHandler
from kazoo.protocol.serialization import CloseInstance, ReplyHeader, Watch, int_struct
from kazoo.protocol.states import KazooState, KeeperState

from adapters.common.credentials import Contexts, Tls
from bridge.adapter import Credential
from bridge.errors import Denied

DIAL_TIME = 4.0  # seconds for TCP and TLS to one server; then the next one is tried
END_TIME = 1.0  # seconds that a server may take to close a session
ANSWER_LIMIT = 256 << 20  # bytes: stock clients stop at jute.maxbuffer, 1 MiB, where one node's children may be more
RETRY = {"max_tries": -1, "delay": 0.1, "backoff": 2, "max_delay": 1.0}  # of dialling all servers in turn
RECEIVE = 1 << 20  # bytes per recv(): after each call this thread waits for the GIL again
NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
LOST = {
    KeeperState.EXPIRED_SESSION: "the session has expired",
    KeeperState.AUTH_FAILED: "the server refuses our user",
}

# kazoo logs requests at DEBUG, passwords included.
_LOG = logging.getLogger("isthmus.zookeeper.kazoo")
_LOG.setLevel(logging.ERROR)

_FRAME = struct.Struct("!iii")  # length, xid, type
_EVENT = struct.Struct("!ii12xi4xi")  # length, xid, kind, length of the path

Post = Callable[..., None]


class Events(Protocol):
    """What a connection reports, on the event loop and in the order of the wire."""

    def failed(self) -> None:
        """An attempt to connect has failed."""

    def connected(self, session: int, granted: float) -> None:
        """The session is established; the server keeps it for `granted` seconds of silence."""

    def disconnected(self) -> None:
        """The connection is lost, the session perhaps not."""

    def lost(self, reason: str) -> None:
        """The session is gone: expired, or closed, or refused."""

    def told(self, events: Sequence[tuple[int, str]]) -> None:
        """Something happened to watched nodes: what (`wire.CREATED`, `DELETED`, `CHANGED`), and the path."""


class TooLarge(Exception):
    """An answer is larger than we take."""


class _Dialler(SequentialThreadingHandler):  # type: ignore[misc]
    def __init__(self, tls: Tls | None) -> None:
        super().__init__()
        self.contexts = Contexts(tls) if tls is not None else None
        self._server_name = tls.server_name if tls is not None else None

    def create_connection(self, address: tuple[str, int], timeout: float, hostname: str, **_: object) -> socket.socket:
        # kazoo's own trusts the system's authorities beside the configured one, and dials without a deadline.
        limit = min(timeout, DIAL_TIME)
        sock = socket.create_connection(address, limit)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.contexts is None:
                return sock
            return _context(self.contexts).wrap_socket(sock, server_hostname=self._server_name or hostname)
        except BaseException:
            sock.close()
            raise

    def select(
        self, reading: Sequence[Any], writing: Sequence[Any], _: object, timeout: float | None
    ) -> tuple[list[Any], list[Any], list[Any]]:
        # kazoo's own makes a selector for each call: half of the cost of a request.
        poll = select.poll()
        for sockets, event in ((reading, select.POLLIN), (writing, select.POLLOUT)):
            for each in sockets:
                poll.register(each, event)
        ready = {number for number, _ in poll.poll(None if timeout is None else math.ceil(timeout * 1000))}
        return (
            [each for each in reading if each.fileno() in ready],
            [each for each in writing if each.fileno() in ready],
            [],
        )


def _context(contexts: Contexts) -> ssl.SSLContext:
    try:
        return contexts.context()
    except Denied as error:
        raise OSError(str(error)) from None  # the error after which kazoo retries


class _Wire(ConnectionHandler):  # type: ignore[misc]
    """The thread that talks to the server."""

    client: Connection
    _xid: int

    def __init__(self, client: Connection, retry: Any, limit: int) -> None:
        super().__init__(client, retry, logger=_LOG)
        self.dropping = ""  # why the connection must be dropped
        self.answered_at = 0.0  # when the newest request was sent that the server has answered (monotonic)
        self._limit = limit
        self._sent: deque[float] = deque()
        self._pings: deque[float] = deque()
        self._room = memoryview(bytearray(RECEIVE))
        self._received = bytearray()  # received, and not read yet

    def _expand_client_hosts(self) -> list[tuple[str, str, int]]:
        found: list[tuple[str, str, int]] = super()._expand_client_hosts()
        if not found:
            self._failed("no such host", len(self.client.hosts))
        return found

    def _failed(self, trouble: str, count: int = 1) -> None:
        self.client.trouble = trouble
        self.client.failures += count
        self.client.post(self.client.events.failed)

    def _connect(self, host: str, hostip: str, port: int) -> tuple[float, float]:
        self.dropping = ""
        self._sent.clear()
        self._pings.clear()
        self._received.clear()
        began = time.monotonic()
        try:
            read_timeout, connect_timeout = super()._connect(host, hostip, port)
        except Exception as error:
            self._failed(f"{host}:{port}: {str(error) or 'broke the connection'}")
            raise
        self.answered_at = began
        self.client.failures = 0
        granted = read_timeout / 1000.0 * 1.5  # kazoo's read timeout is two thirds of what the server grants
        self.client.post(self.client.events.connected, self.client.session, granted)
        return read_timeout, connect_timeout

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        if xid == PING_XID:
            self._pings.append(time.monotonic())
        super()._submit(request, timeout, xid)

    def _send_request(self, read_timeout: float, connect_timeout: float) -> None:
        """Sends all waiting requests at once: kazoo's own sends one for each check for an answer."""
        if self.dropping:
            raise ConnectionDropped(self.dropping)
        self._read_sock.recv(4096)  # one wake-up was sent for each
        frames: list[bytes] = []
        queue = self.client._queue
        while queue:
            request, asked = queue.popleft()
            self._xid = self._xid % 0x7FFFFFFF + 1
            self.client._pending.append((request, asked, self._xid))
            self._sent.append(time.monotonic())
            body = request.serialize()
            frames += (_FRAME.pack(len(body) + 8, self._xid, request.type), body)
        self._write(b"".join(frames), connect_timeout)

    def _write(self, frame: bytes, timeout: float) -> None:
        left = memoryview(frame)
        with self._socket_error_handling():
            while left:
                try:
                    left = left[self._socket.send(left) :]
                except NOT_YET:
                    if not self.handler.select((), (self._socket,), (), timeout)[1]:
                        raise self.handler.timeout_exception("the server takes nothing") from None

    def _read_socket(self, read_timeout: float) -> Any:
        """Handles all that was received: select() does not report what is in our buffer."""
        while (response := super()._read_socket(read_timeout)) != CLOSE_RESPONSE:
            self._tell()
            if not self._is_more():
                break
        return response

    def _tell(self) -> None:
        """Posts the events before the next answer together: one of our transactions causes hundreds."""
        told: list[tuple[int, str]] = []
        received, end = self._received, 0
        while len(received) - end >= _EVENT.size:
            length, xid, kind, size = _EVENT.unpack_from(received, end)
            if xid != WATCH_XID or len(received) - end - 4 < length:
                break
            start = end + _EVENT.size
            end += 4 + length
            if size > 0:
                told.append((kind, self.client.unchroot(received[start : start + size].decode())))
        if end:
            del received[:end]
            self.client.post(self.client.events.told, told)

    def _is_more(self) -> bool:
        size = len(self._received)
        if size >= 4 and size - 4 >= int_struct.unpack_from(self._received)[0]:
            return True
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def _read(self, length: int, timeout: float) -> bytes:
        with self._socket_error_handling():
            while len(self._received) < length:
                try:
                    count = self._socket.recv_into(self._room)
                except NOT_YET:
                    if not self.handler.select((self._socket,), (), (), timeout)[0]:
                        raise self.handler.timeout_exception("the server says nothing") from None
                else:
                    if not count:
                        raise ConnectionDropped("the server has closed the connection")
                    self._received += self._room[:count]
        with memoryview(self._received) as received:
            read = bytes(received[:length])
        del self._received[:length]
        return read

    def _read_header(self, timeout: float) -> tuple[Any, bytes, int]:
        (length,) = int_struct.unpack(self._read(4, timeout))
        if length > self._limit:
            # The rest cannot be skipped: the request fails, and the connection is made anew.
            if self.client._pending:
                _, asked, _ = self.client._pending.popleft()
                asked.set_exception(TooLarge(f"an answer of {length:,} bytes, and {self._limit:,} are the limit"))
            raise ConnectionDropped("an answer beyond the limit")
        message = self._read(length, timeout)
        header, offset = ReplyHeader.deserialize(message, 0)
        # The time of the request, not of the answer, which may have been waiting while we were frozen.
        times = self._pings if header.xid == PING_XID else self._sent if header.xid > 0 else None
        if times:
            self.answered_at = times.popleft()
        return header, message, offset

    def _read_watch_event(self, buffer: bytes, offset: int) -> None:
        event, _ = Watch.deserialize(buffer, offset)
        if event.path:
            self.client.post(self.client.events.told, [(event.type, self.client.unchroot(event.path))])


class Connection(KazooClient):  # type: ignore[misc]
    """One session with an ensemble. Events are posted as `post(function, *arguments)` from kazoo's threads."""

    _connection: _Wire

    def __init__(
        self,
        hosts: str,
        *,
        events: Events,
        post: Post,
        tls: Tls | None,
        credential: str | None,
        session_timeout: float,
        resume: tuple[int, bytes] | None,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        super().__init__(
            hosts,
            timeout=session_timeout,
            client_id=resume,
            handler=_Dialler(tls),
            auth_data=[("digest", credential)] if credential else None,
            connection_retry=dict(RETRY),
            logger=_LOG,
        )
        self.events = events
        self.post = post
        self.trouble = ""  # the reason why there is no connection
        self.failures = 0  # attempts in a row
        self.refused = False
        self._connection = _Wire(self, self._conn_retry.copy(), answer_limit)
        self.add_listener(self._changed)

    @property
    def shown(self) -> Credential | None:
        """The certificate that was shown last."""
        contexts: Contexts | None = self.handler.contexts
        return contexts.shown if contexts is not None else None

    @property
    def session(self) -> int:
        """The session's id, 0 where there is none."""
        return int(self._session_id or 0)

    @property
    def password(self) -> bytes:
        """The password that proves that the session is ours."""
        return bytes(self._session_passwd)

    @property
    def answered_at(self) -> float:
        """When the newest request was sent that the server has answered (monotonic seconds)."""
        return self._connection.answered_at

    def begin(self) -> None:
        """Connects, and reconnects for ever."""
        self.start_async()

    def send(self, request: Any, asked: Any) -> None:
        """Queues a request; `asked.set(value)` or `asked.set_exception(error)` is called from another thread."""
        self._call(request, asked)

    def drop(self, reason: str) -> None:
        """Reconnects; the session stays."""
        self._connection.dropping = reason
        self._wake()

    def end(self, *, keep: bool) -> None:
        """Blocks until the threads have ended, a few seconds at most; `keep`: without closing the session."""
        self.remove_listener(self._changed)
        self._stopped.set()
        wire = self._connection
        if keep:
            wire.dropping = "left"
        else:
            self._queue.append((CloseInstance, None))
        self._wake()
        if not wire.connection_stopped.wait(END_TIME):
            with suppress(OSError, AttributeError):
                wire._socket.shutdown(socket.SHUT_RDWR)
        self.handler.stop()
        if wire.connection_stopped.wait(DIAL_TIME):
            wire.stop()
            self.close()

    def _wake(self) -> None:
        with suppress(OSError, AttributeError):
            self._connection._write_sock.send(b"\0")

    def _changed(self, state: str) -> None:
        if state == KazooState.SUSPENDED:
            self.post(self.events.disconnected)
        elif state == KazooState.LOST:
            self.refused = self._state == KeeperState.AUTH_FAILED
            self.post(self.events.lost, LOST.get(self._state, "the connection broke down"))
